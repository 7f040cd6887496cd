"""The review job: a page on this machine, to say of a tag's pictures whether they have it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from imagetag.checks import checked_run_name
from imagetag.errors import UsageError
from imagetag.job import (
    FolderPath,
    StorageSettings,
    TagsSettings,
    by_field,
    cache_folder_field,
    check_page,
    port_field,
    run_job,
    tell_command,
)
from imagetag.log import get_logger
from imagetag.storage import open_storage

_THREADS = 16


class ReviewSettings(TagsSettings, StorageSettings):
    """Options of `imagetag review`."""

    headings: ClassVar = {"The page": ("port", "cache_folder")}

    queue: Literal["suspects", "mistakes", "uncertain", "promise", "test", "random"] = Field(
        "suspects",
        description="which pictures: suspects are labels that are probably wrong; mistakes are "
        "test pictures on which model and label disagree; uncertain are near the threshold; "
        "promise are those that the threshold is chosen on, the most probable first; test is all "
        "of the test split; random are drawn from all",
    )
    run: Annotated[str, AfterValidator(checked_run_name)] = Field(
        "latest", description="whose model says what is asked: a run's name, or latest"
    )
    by: str = by_field()
    limit: int = Field(10_000, ge=1, le=100_000, description="the most pictures of the queue")
    seed: int = Field(0, description="of the queue random: the same seed draws the same")
    port: int = port_field("queue")
    cache_folder: FolderPath = cache_folder_field()


def work(settings: ReviewSettings) -> None:
    """Serve the page until a signal says to stop."""
    check_page()
    tags = settings.all_tags()
    if len(tags) != 1:
        raise UsageError(f"a page asks about one tag, and --tags are {len(tags)}: give one of them")
    storage = open_storage(settings.storage, _THREADS, existing=True)

    from imagetag.review import ReviewServer, open_tag_session  # NumPy: not for --help

    session = open_tag_session(
        storage,
        tags[0],
        settings.queue,
        run=settings.run,
        limit=settings.limit,
        seed=settings.seed,
        by=settings.by,
        cache_folder=settings.cache_folder,
    )
    before = session.progress()
    with ReviewServer(session, settings.port) as server:
        get_logger().info(
            "reviewing", queue=settings.queue, pictures=before.total, judged=before.done
        )
        print(server.url, flush=True)  # noqa: T201
        try:
            threading.Event().wait()
        finally:
            if session.changes(0)[0]:
                tell_command(
                    "to train on what was judged:",
                    "train",
                    *("--storage", settings.storage, "--tags", tags[0]),
                )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "all that the page showed as saved is stored"
    return run_job("review", str(__doc__), ReviewSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
