"""The report job: a leaderboard of the evaluated runs of many tags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from imagetag.errors import UsageError
from imagetag.job import FolderPlace, TagSettings, record_in, run_job
from imagetag.layout import report
from imagetag.log import get_logger
from imagetag.storage import open_storage


class ReportSettings(TagSettings):
    """Options of `imagetag report`."""

    metric: Literal[
        "average-precision", "precision", "recall", "f1", "accuracy", "roc-auc", "brier"
    ] = Field("average-precision", description="what runs are ranked by")
    output: FolderPlace | None = Field(
        None,
        description="the folder for leaderboard.html and leaderboard.json, local or a storage "
        "URL; by default .reports in --storage",
    )


def work(settings: ReportSettings) -> None:
    """Make the leaderboard of the tags, or of all in storage if none is given."""
    if (settings.shard_index, settings.shard_count) != (0, 1):
        raise UsageError(
            "one pod makes the whole leaderboard: leave out --shard-index and --shard-count, which "
            f"are {settings.shard_index} and {settings.shard_count}"
        )
    given = bool(settings.tags) or settings.tags_file is not None
    tags = settings.all_tags() if given else None
    storage = open_storage(settings.storage, existing=True)
    record_in(storage)
    target, folder = storage, report("")
    if settings.output is not None:
        target, folder = open_storage(settings.output, option="--output"), ""

    from imagetag.report import make_leaderboard  # NumPy and SciPy: not for --help

    made = make_leaderboard(storage, target, folder, tags, settings.metric)
    if settings.output is not None:
        target.tidy()
    get_logger().info(
        "reported",
        tags=made.summary.tags,
        runs=made.summary.runs,
        evaluated=made.summary.evaluated,
        headline=made.headline,
        report=made.url,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("report", str(__doc__), ReportSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
