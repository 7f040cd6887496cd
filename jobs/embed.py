"""The embed job: features of each distinct picture of the tags, once, from a frozen network."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from imagetag import layout
from imagetag.checks import LEAST_SIDES, checked_size, checked_weights, is_alexnet, parse_size
from imagetag.errors import InputError, UsageError
from imagetag.job import (
    LEAST_MEASURED,
    BatchSettings,
    FilePlace,
    FolderPath,
    Heartbeats,
    TagsSettings,
    Takes,
    cache_folder_field,
    check_share,
    measured,
    option_name,
    pod_index_field,
    run_job,
    share_memory_among_threads,
)
from imagetag.log import get_logger, working
from imagetag.quiet import quiet_imports
from imagetag.storage import Storage, open_storage

if TYPE_CHECKING:
    from imagetag.embed import Pictures
    from imagetag.features import Asked, ExtractorRecord

# Options whose names, and values, are those of an extractor's record.
_RECORDED = ("resize", "padding", "views", "pixel_range", "channel_order", "signature")


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
    resize: Literal["letterbox", "crop", "stretch"] = Field(
        "letterbox",
        description="how images are fitted into it: with bars, cut on both sides, or without "
        "keeping their aspect",
    )
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

    @property
    def needs_imagenet(self) -> bool:
        """Whether it is a backbone by its name, with ImageNet's weights."""
        return self.extractor in LEAST_SIDES and self.weights in ("auto", "imagenet")


def work(settings: EmbedSettings) -> None:
    """Embed this pod's share of the pictures."""
    tags = settings.all_tags()
    index, count = settings.shard_index, settings.shard_count
    check_share(index, count)
    share_memory_among_threads()
    storage = open_storage(settings.storage, settings.concurrency, existing=True)
    known = stored_extractor(settings, storage)
    # All pods work for all tags; each tells of its share of them, so that each tag is told of once.
    mine = tags[index::count]
    failed: dict[str, InputError] = {}

    def note(tag: str, error: InputError) -> None:
        failed[tag] = error
        if len(tags) > 1:
            get_logger().error(str(error), tag=tag, exit_code=error.exit_code)

    with Heartbeats(storage, "embed", worker=index) as heartbeats:
        with heartbeats.of(*mine):
            from imagetag.embed import find_pictures

            pictures = find_pictures(
                storage,
                tags,
                index=index,
                count=count,
                threads=settings.concurrency,
                failed=note,
            )
            if len(failed) < len(tags):
                _embed(settings, storage, known, pictures, note)
        for tag in mine:
            if tag in failed:
                with contextlib.suppress(InputError), heartbeats.of(tag):
                    raise failed[tag]
    if failed and len(tags) == 1:
        raise failed[tags[0]]
    if len(tags) > 1 and count == 1:  # else no tag is done by this pod alone
        for number, tag in enumerate(tags, start=1):
            if tag not in failed:
                get_logger().info("tag done", tag=tag, number=number, of=len(tags))
    if failed:
        names = ", ".join(list(failed)[:10]) + (", ..." if len(failed) > 10 else "")
        raise InputError(f"{len(failed)} of {len(tags)} tags failed: {names}")


def stored_extractor(settings: EmbedSettings, storage: Storage) -> ExtractorRecord | None:
    """Return the record of an extractor that is in storage, None if there is none yet.

    No network is loaded, nor TensorFlow.

    Raises:
        UsageError: if what is asked for is no network, or one in storage has other settings.
        InputError: if it should be in storage, and is not, or cannot be read.

    """
    from imagetag.features import find_asked, find_extractor, kind_of

    what, weights = settings.extractor, settings.weights
    if what in LEAST_SIDES and weights == "none":
        raise UsageError(
            "--weights none: features of random weights tell nothing; take imagenet or a file"
        )
    size, least = parse_size(settings.image_size), LEAST_SIDES.get(what, 0)
    if size is not None and min(size) < least:
        raise UsageError(f"--image-size {settings.image_size}: {what} needs {least} pixels a side")
    if settings.needs_imagenet and is_alexnet(what):
        raise UsageError(f"--extractor {what}: there are no ImageNet weights of it; give --weights")
    if what in LEAST_SIDES or (what != "latest" and Path(what).exists()):
        if what not in LEAST_SIDES:
            kind_of(Path(what))
        elif "://" in weights:
            return None  # nothing tells what is there before it is fetched
        asked = _asked(settings, "imagenet" if settings.needs_imagenet else Path(weights))
        return find_asked(storage, asked.digest(what))
    if what != "latest" and ("/" in what or storage.stat(_marker(what)) is None):
        kind_of(Path(what))  # which tells what there can be
    record = find_extractor(storage, what, "--extractor")
    given = settings.model_dump(include=set(_RECORDED)) | {
        "image_size": parse_size(settings.image_size) or record.image_size,
        "output_name": settings.output_name,
    }
    stored = record.model_dump() | {"output_name": record.output}
    for name, value in given.items():
        if name in settings.model_fields_set and value != stored[name]:
            raise UsageError(
                f"{option_name(name)} {getattr(settings, name)}: the extractor {record.name!r} "
                f"has {stored[name]}; leave it out, or name the network itself"
            )
    return record


def _asked(settings: EmbedSettings, weights: Literal["imagenet"] | Path) -> Asked:
    from imagetag.features import Asked

    return Asked(
        image_size=parse_size(settings.image_size),
        weights=weights,
        output=settings.output_name,
        **settings.model_dump(include=set(_RECORDED)),
    )


def _marker(name: str) -> str:
    return layout.features(layout.checked_run(name, "--extractor"), "extractor.json")


def _embed(
    settings: EmbedSettings,
    storage: Storage,
    known: ExtractorRecord | None,
    pictures: Pictures,
    failed: Callable[[str, InputError], None],
) -> None:
    """Embed pictures, and store whose they were; a tag with a picture that is gone fails."""
    from imagetag.dataset import tell_share
    from imagetag.features import FeatureStore, mark_latest

    fingerprints = pictures.fingerprints
    if known is not None and not FeatureStore(storage, known).missing(pictures):
        record = known
        _tell(record, len(fingerprints), already=len(pictures))  # which takes no TensorFlow
    else:
        record, missing = _embed_by_network(settings, storage, known, pictures)
        if missing:
            from imagetag.embed import count_of_tags

            for tag, count in count_of_tags(storage, fingerprints, missing).items():
                text = (
                    f"{count} pictures are in the manifest of the tag {tag!r} and not in "
                    f"{storage.url}: scrape it again, then run imagetag embed again; features "
                    "that are stored are kept"
                )
                failed(tag, InputError(text))
                fingerprints = {name: fingerprints[name] for name in fingerprints if name != tag}
    if fingerprints:
        index, count = settings.shard_index, settings.shard_count
        tell_share(storage, record.name, index, count, fingerprints)
        mark_latest(storage, record)


def _embed_by_network(
    settings: EmbedSettings, storage: Storage, known: ExtractorRecord | None, pictures: Pictures
) -> tuple[ExtractorRecord, frozenset[str]]:
    """Embed pictures; return what did, and the md5 of those that are not in storage."""
    with quiet_imports():  # TensorFlow: not for --help
        from imagetag.embed import embed_pictures
        from imagetag.features import load_extractor, prepare_extractor, store_extractor
        from imagetag.models import choose_devices, device_names, find_weights

    strategy = choose_devices("auto", cpu_devices=settings.cpu_devices)
    with TemporaryDirectory(prefix="imagetag-embed-") as scratch, working("loading the network"):
        folder = Path(scratch)
        record = known
        if record is None:
            text = "imagenet" if settings.weights == "auto" else settings.weights
            weights = find_weights(text, settings.cache_folder / "weights") or "imagenet"
            asked = _asked(settings, weights)
            record, path = prepare_extractor(settings.extractor, asked, folder / "made")
            record = store_extractor(storage, record, path)
        extractor = load_extractor(
            storage, record, folder, batch_size=settings.batch_size, strategy=strategy
        )
    started = time.monotonic()
    found = embed_pictures(storage, extractor, pictures, concurrency=settings.concurrency)
    if found.done >= LEAST_MEASURED:  # else what was measured before tells more
        measured(
            extractor=record.name,
            images=found.done,
            pictures=len(pictures),
            places=pictures.places,
            devices=strategy.num_replicas_in_sync,
            gpus=sum("GPU" in device for device in device_names()),
            embedding_seconds=round(time.monotonic() - started, 3),
        )
    tags = len(pictures.fingerprints)
    _tell(record, tags, found.done, found.already, found.unreadable, len(found.missing))
    return record, found.missing


def _tell(
    record: ExtractorRecord,
    tags: int,
    done: int = 0,
    already: int = 0,
    unreadable: int = 0,
    missing: int = 0,
) -> None:
    get_logger().info(
        "embedded",
        extractor=record.name,
        images=done,
        already=already,
        unreadable=unreadable,
        missing=missing,
        tags=tags,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "features that are stored are kept; run it again to go on"
    return run_job("embed", str(__doc__), EmbedSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
