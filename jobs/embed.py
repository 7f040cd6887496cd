"""The embed job: features of each distinct picture of the tags, once, from a frozen network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from imagetag.checks import LEAST_SIDES, checked_size, checked_weights
from imagetag.job import (
    BatchSettings,
    FilePlace,
    FolderPath,
    TagsSettings,
    Takes,
    cache_folder_field,
    check_share,
    pod_index_field,
    resize_field,
    run_job,
    share_memory_among_threads,
)
from imagetag.storage import open_storage


class EmbedSettings(TagsSettings, BatchSettings):
    """Options of `imagetag embed`."""

    headings: ClassVar = {
        "Images": ("resize", "padding", "views"),
        "Networks of others": ("pixel_range", "channel_order", "signature", "output_name"),
        "Devices": ("batch_size", "cpu_devices"),
        "Caches and downloads": ("cache_folder", "concurrency"),
        "Share of the images": ("shard_index", "shard_count"),
    }

    extractor: Annotated[FilePlace, Takes(words=("latest", *LEAST_SIDES))] = Field(
        "vgg19",
        description="the network: a backbone of keras.applications by its name; a .keras file, "
        "such as a run's; the folder of a TensorFlow SavedModel; an ONNX file, which needs "
        "image-tag-classification[onnx]; or one that is in storage, by its name or latest",
    )
    weights: Annotated[FilePlace, AfterValidator(checked_weights)] = Field(
        "imagenet", description="of a backbone by its name: imagenet, a file or a storage URL"
    )
    image_size: Annotated[str, AfterValidator(checked_size)] = Field(
        "auto",
        description="input size, HEIGHTxWIDTH in pixels; auto is the file's own, and 224x224 of a "
        "backbone by its name",
    )
    resize: Literal["letterbox", "crop", "stretch"] = resize_field("bars")
    padding: Literal["grey", "white", "black"] = Field(
        "grey", description="the colour of those bars"
    )
    views: int = Field(
        2, ge=1, le=2, description="features of the image alone, or of its mirror image too"
    )
    pixel_range: Literal["byte", "unit", "signed", "imagenet"] = Field(
        "byte",
        description="which pixels a file's network takes: byte is 0 to 255, unit 0 to 1, signed -1 "
        "to 1, imagenet 0 to 1 less ImageNet's mean, by its standard deviation",
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        "rgb", description="whether red or blue is first in them"
    )
    signature: str = Field("", description="which of a SavedModel's; by default its usual one")
    output_name: str = Field(
        "",
        description="which output has the features, where there are several; of a .keras file a "
        "layer, by default its layer features or its output",
    )
    batch_size: int = Field(32, ge=1, description="images at once on each device (each GPU)")
    cpu_devices: int = Field(
        1, ge=1, le=64, description="logical CPU devices where there is no GPU"
    )
    cache_folder: FolderPath = cache_folder_field()
    concurrency: int = Field(
        16, ge=1, le=256, description="images that are fetched and decoded at once"
    )
    shard_index: int = pod_index_field("which share of the images is this pod's")
    shard_count: int = Field(1, ge=1, description="how many pods share the images")


def work(settings: EmbedSettings) -> None:
    """Embed this pod's share of the pictures."""
    tags = settings.all_tags()
    index, count = settings.shard_index, settings.shard_count
    check_share(index, count)
    share_memory_among_threads()
    storage = open_storage(settings.storage, settings.concurrency, existing=True)
    # NumPy: not for --help. TensorFlow comes with the first picture that needs it.
    from imagetag.embed import Means, embed_tags, network_of

    means = Means(**settings.model_dump(include=set(Means.__dataclass_fields__)))
    embed_tags(storage, tags, network_of(settings), means, index=index, count=count)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "features that are stored are kept; run it again to go on"
    return run_job("embed", str(__doc__), EmbedSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
