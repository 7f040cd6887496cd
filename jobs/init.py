"""The init job: a commented file of settings for imagetag run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from imagetag.errors import UsageError
from imagetag.job import SHORT_OF, FilePath, JobSettings, run_job
from imagetag.log import get_logger
from imagetag.run import template
from jobs.run import RunSettings


class InitSettings(JobSettings):
    """Options of `imagetag init`."""

    file: FilePath = Field(
        Path("pipeline.toml"),
        description="the file to write; one that is there is left as it is",
        json_schema_extra={"positional": True},
    )


def work(settings: InitSettings) -> None:
    """Write the file."""
    path = settings.file
    text = template(RunSettings, {"tags": ["fox"], "board": "safebooru"})
    try:
        with path.open("x", encoding="utf-8") as stream:
            try:
                stream.write(text)
                stream.flush()
            except OSError as error:
                path.unlink()  # what is half a file would not be written again
                error.filename = str(path)
                raise
    except FileExistsError as error:
        raise UsageError(f"{path} is there already: name another, or remove it first") from error
    except OSError as error:
        if error.errno in SHORT_OF:
            raise
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    get_logger().info(
        f"{path} is written: put your tags and your board into it, then imagetag run "
        f"{shlex.quote(str(path))}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("init", str(__doc__), InitSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
