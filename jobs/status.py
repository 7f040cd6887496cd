"""The status job: every tag in storage: what is complete, under way, failed and why."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence

from pydantic import Field

from imagetag.job import StorageSettings, TagsSettings, run_job
from imagetag.status import Overview
from imagetag.storage import open_storage

_THREADS = 32

# Of pydantic's own `json`, which is deprecated and which no settings use.
warnings.filterwarnings("ignore", 'Field name "json" in "StatusSettings"', UserWarning)


class StatusSettings(TagsSettings, StorageSettings):
    """Options of `imagetag status`."""

    watch: bool = Field(False, description="look again and again, until Ctrl-C")
    every: float = Field(10.0, ge=1, le=86_400, description="seconds between two looks of --watch")
    json: bool = Field(  # type: ignore[assignment] # pydantic's own method of that name is gone
        False, description="print JSON, one document a look, with all that is known"
    )


def work(settings: StatusSettings) -> None:
    """Tell where the tags stand, or all in storage if none is given."""
    given = bool(settings.tags) or settings.tags_file is not None
    tags = settings.all_tags() if given else None
    storage = open_storage(settings.storage, _THREADS, existing=True)

    from imagetag.status import show  # rich: not for --help

    overview = Overview(storage, tags, _THREADS)
    while True:
        found = overview.read()
        jobs, left = overview.jobs() if settings.json else ((), 0)
        show(
            found,
            storage.url,
            as_json=settings.json,
            again=settings.watch,
            jobs=jobs,
            jobs_left_out=left,
        )
        if not settings.watch:
            return
        time.sleep(settings.every)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "nothing was changed by looking"
    return run_job("status", str(__doc__), StatusSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
