"""The predict job: score new images in bulk with a tag's trained classifier."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

from pydantic import Field

from imagetag.errors import UsageError
from imagetag.job import run_job
from imagetag.log import get_logger
from imagetag.quiet import quiet_imports
from imagetag.settings import StorageSettings, checked_tag
from imagetag.storage import Storage, open_storage


class PredictSettings(StorageSettings):
    """Options of `imagetag predict`."""

    tag: str = Field(description="whose classifier")
    run: str = Field("latest", description="which run's model: its name, or latest")
    input: str = Field(description="the images: a folder, or a storage URL; subfolders too")
    output: str = Field(
        "-", description="FILE.csv or FILE.jsonl, local or a storage URL; - is CSV to the terminal"
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="from which probability on the decision is true"
    )
    batch_size: int = Field(32, ge=1, description="images the model takes at once")


def work(settings: PredictSettings) -> None:
    """Score every image of the input."""
    tag = checked_tag(settings.tag)
    kind = output_kind(settings.output)
    storage = open_storage(settings.storage)
    source = _opened("--input", settings.input)

    with quiet_imports():  # TensorFlow: not for --help
        from imagetag.predict import open_writer, predict_images
        from imagetag.runs import load_model, load_run

    run = load_run(storage, tag, settings.run)
    resize = run.resize  # which may be none that this version knows
    with tempfile.TemporaryDirectory(prefix="imagetag-predict-") as scratch:
        model = load_model(storage, run, Path(scratch))
    images = positives = errors = 0
    with _output(settings.output) as stream:
        writer = open_writer(stream, kind)
        predictions = predict_images(
            model,
            source,
            size=run.image_size,
            resize=resize,
            threshold=settings.threshold,
            batch_size=settings.batch_size,
        )
        for prediction in predictions:
            writer.write(prediction)
            images += 1
            positives += bool(prediction.decision)
            errors += prediction.error is not None
    get_logger().info(
        "predicted",
        tag=tag,
        run=run.run,
        images=images,
        positives=positives,
        errors=errors,
        output=settings.output,
    )


def output_kind(output: str) -> Literal["csv", "jsonl"]:
    """Return the format that an output's name asks for.

    Raises:
        UsageError: if it is none.

    """
    if output == "-" or output.lower().endswith(".csv"):
        return "csv"
    if output.lower().endswith(".jsonl"):
        return "jsonl"
    raise UsageError(f"--output {output!r}: the name must end in .csv or .jsonl")


@contextlib.contextmanager
def _output(output: str) -> Iterator[TextIO]:
    """Open the output; a file appears under its name only when it is whole."""
    if output == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    parent, _, name = output.rpartition("/")
    target = _opened("--output", parent or ("/" if output.startswith("/") else "."))
    with tempfile.TemporaryDirectory(prefix="imagetag-predict-") as scratch:
        path = Path(scratch) / "predictions"
        with path.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        target.upload(path, name)


def _opened(option: str, url: str) -> Storage:
    try:
        return open_storage(url)
    except UsageError as error:  # it takes what it is given for --storage
        raise UsageError(str(error).replace("--storage", option, 1)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("predict", str(__doc__), PredictSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
