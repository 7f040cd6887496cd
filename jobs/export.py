"""The export job: the classifiers of one or many tags as one file, for other programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from imagetag.checks import checked_run_name
from imagetag.job import BatchSettings, FilePlace, TagsSettings, record_in, run_job
from imagetag.storage import open_storage


class ExportSettings(TagsSettings, BatchSettings):
    """Options of `imagetag export`."""

    output: FilePlace = Field(
        description="FILE.keras, FILE.onnx, FILE.tflite, or a folder for a SavedModel; local or a "
        "storage URL"
    )
    format: Literal["auto", "keras", "saved_model", "onnx", "litert"] = Field(
        "auto",
        description="auto is what the output's name says; onnx needs "
        "image-tag-classification[onnx]",
    )
    run: Annotated[str, AfterValidator(checked_run_name)] = Field(
        "latest", description="which run's model of each tag: its name, or latest"
    )
    skip_missing: bool = Field(
        False, description="leave out tags that have no such run, instead of stopping"
    )


def work(settings: ExportSettings) -> None:
    """Export the tags' models."""
    tags = settings.all_tags()
    storage = open_storage(settings.storage, existing=True)
    record_in(storage)
    # NumPy: not for --help. TensorFlow comes where there is something to write.
    from imagetag.export import export_tags

    export_tags(
        storage,
        tags,
        settings.output,
        settings.run,
        kind=None if settings.format == "auto" else settings.format,
        skip_missing=settings.skip_missing,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("export", str(__doc__), ExportSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
