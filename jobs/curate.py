"""The curate job: near-duplicates out of each tag's dataset, or into one group."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import Field

from imagetag.dataset import check_dataset
from imagetag.imaging import THRESHOLD
from imagetag.job import (
    Heartbeats,
    TagSettings,
    for_each_tag,
    judge_tags,
    run_job,
    share_memory_among_threads,
    tell_next,
)
from imagetag.storage import open_storage


class CurateSettings(TagSettings):
    """Options of `imagetag curate`."""

    hash_threshold: int = Field(
        THRESHOLD,
        ge=0,
        le=100,
        description="in how many of 256 bits the PDQ hashes of near-duplicates may differ",
    )
    concurrency: int = Field(16, ge=1, le=256, description="images read at once")


def work(settings: CurateSettings) -> None:
    """Curate the dataset of each tag of this shard."""
    share_memory_among_threads()
    from imagetag.curate import Seen, curate_tag  # NumPy: not for --help

    seen = Seen()
    storage = open_storage(settings.storage, settings.concurrency, existing=True)
    failures = judge_tags(settings, lambda tag: check_dataset(storage, tag))
    for_each_tag(
        settings,
        lambda tag: curate_tag(
            storage,
            tag,
            threshold=settings.hash_threshold,
            concurrency=settings.concurrency,
            seen=seen,
        ),
        Heartbeats(storage, "curate"),
        failures,
    )
    tell_next("explore", settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("curate", str(__doc__), CurateSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
