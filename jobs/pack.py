"""The pack job: each tag's train split as shards of resized images, to stream in training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from imagetag.checks import VERDICTS, checked_size, checked_verdicts
from imagetag.dataset import check_dataset, check_run
from imagetag.job import (
    Heartbeats,
    TagSettings,
    Takes,
    for_each_tag,
    image_size_field,
    judge_tags,
    resize_field,
    run_job,
    share_memory_among_threads,
    tell_next,
    threshold_fraction_field,
    validation_fraction_field,
)
from imagetag.storage import open_storage


class PackSettings(TagSettings):
    """Options of `imagetag pack`."""

    headings: ClassVar = {
        "Splits and order": ("validation_fraction", "threshold_fraction", "seed"),
    }

    image_size: Annotated[str, AfterValidator(checked_size)] = image_size_field()
    resize: Literal["letterbox", "crop", "stretch"] = resize_field("grey bars")
    validation_fraction: float = validation_fraction_field()
    threshold_fraction: float = threshold_fraction_field()
    jpeg_quality: int = Field(95, ge=1, le=100, description="of the packed images")
    shard_bytes: int = Field(
        64 << 20,
        ge=1024,
        description="about how large a shard is; each worker of a training needs one at least",
    )
    exclude_suspects: str = Field(
        "no",
        description="leave out negatives that look like the tag, as imagetag train does of the "
        "same option: latest, or a run's name",
    )
    verdicts: Annotated[str, AfterValidator(checked_verdicts), Takes(words=VERDICTS)] = Field(
        "use",
        description="what people said of images: use it, as imagetag train does of the same "
        "option, or ignore it",
    )
    seed: int = Field(1, ge=0, lt=2**31, description="of the order of the images")
    concurrency: int = Field(16, ge=1, le=256, description="images read and resized at once")


def work(settings: PackSettings) -> None:
    """Pack each tag of this shard."""
    share_memory_among_threads()
    storage = open_storage(settings.storage, settings.concurrency, existing=True)

    def check(tag: str) -> None:
        check_dataset(storage, tag)
        if settings.exclude_suspects not in ("no", "latest"):
            check_run(storage, tag, settings.exclude_suspects.partition("@")[0])

    failures = judge_tags(settings, check)
    # NumPy: not for --help. TensorFlow comes with the first shard that is missing.
    from imagetag.inputs import Packing, pack_tag

    packing = Packing(**settings.model_dump(include=set(Packing.model_fields)))
    for_each_tag(
        settings,
        lambda tag: pack_tag(storage, tag, packing, concurrency=settings.concurrency),
        Heartbeats(storage, "pack"),
        failures,
    )
    tell_next(
        "train",
        settings,
        "--packed",
        "latest",
        same=(
            "resize",
            "validation_fraction",
            "threshold_fraction",
            "exclude_suspects",
            "verdicts",
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "shards that are stored are kept; run it again to go on"
    return run_job("pack", str(__doc__), PackSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
