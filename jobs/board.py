"""The board job: a local imageboard, of drawn pictures or of a folder's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field

from imagetag.demo import BoardServer, draw_posts
from imagetag.job import FolderPath, JobSettings, run_job, tell_command
from imagetag.log import get_logger


class BoardSettings(JobSettings):
    """Options of `imagetag board`."""

    folder: FolderPath | None = Field(
        None, description="serve this folder's pictures, which posts.jsonl tells of; else draw some"
    )
    posts: int = Field(600, ge=1, le=100_000, description="how many pictures to draw")
    seed: int = Field(0, description="what is drawn; the same seed draws the same")
    port: int = Field(8480, ge=0, le=65535, description="the port to listen on; 0 takes a free one")
    host: str = Field("127.0.0.1", description="the address to listen on; 0.0.0.0 is all")


def work(settings: BoardSettings) -> None:
    """Serve until a signal says to stop."""
    with (
        _pictures(settings) as folder,
        BoardServer(folder, settings.port, settings.host) as board,
    ):
        get_logger().info("serving", url=board.url, posts=len(board.posts))
        print(board.url, flush=True)  # noqa: T201
        if sys.stdout.isatty():  # started by a person, and by no program that reads the URL
            drawn = settings.folder is None
            tell_command(
                "in another terminal:",
                "scrape",
                *("--board", f"gelbooru02+{board.url}", "--allow-private-hosts"),
                *("--max-rate", "500", "--storage", "data"),
                *("--tags", "robot,fox" if drawn else "TAG"),
            )
        threading.Event().wait()


@contextmanager
def _pictures(settings: BoardSettings) -> Iterator[Path]:
    """Give the folder to serve; one that was drawn is gone afterwards."""
    if settings.folder is not None:
        yield settings.folder
        return
    with TemporaryDirectory(prefix="imagetag-board-") as folder:
        draw_posts(Path(folder), settings.posts, settings.seed)
        yield Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job(
        "board", str(__doc__), BoardSettings, work, argv, kept="the board serves no longer"
    )


if __name__ == "__main__":
    sys.exit(main())
