"""The explore job: what is in a dataset, what may mislead a model, and the size to train at."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import Field

from imagetag.dataset import check_dataset
from imagetag.job import Heartbeats, TagSettings, for_each_tag, judge_tags, run_job, tell_next
from imagetag.storage import open_storage


class ExploreSettings(TagSettings):
    """Options of `imagetag explore`."""

    max_pixels: int = Field(
        65536, ge=1024, description="the most pixels of input (width x height) to recommend"
    )
    percentile: float = Field(
        50, gt=0, lt=100, description="which percentile of widths and heights the input follows"
    )
    samples: int = Field(
        24, ge=0, le=60, description="pictures of each label in each split to show on the page"
    )


def work(settings: ExploreSettings) -> None:
    """Explore each tag of this shard."""
    storage = open_storage(settings.storage, existing=True)
    failures = judge_tags(settings, lambda tag: check_dataset(storage, tag))

    from imagetag.explore import explore_tag  # NumPy: not for --help

    for_each_tag(
        settings,
        lambda tag: explore_tag(
            storage,
            tag,
            max_pixels=settings.max_pixels,
            percentile=settings.percentile,
            samples=settings.samples,
        ),
        Heartbeats(storage, "explore"),
        failures,
    )
    tell_next("train", settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("explore", str(__doc__), ExploreSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
