"""What an exported file tells of itself, as JSON in it: its tags, thresholds, promises and input.

Where it is depends on the format: `imagetag.json` in the archive that a `.keras` file is, and in
the one at the end of a `.tflite` file; the property `imagetag` of an ONNX model; the file
`assets.extra/imagetag.json` of a SavedModel.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from imagetag.dataset import GREY, Resize
from imagetag.imaging import Size
from imagetag.record import Record
from imagetag.runs import Decision, Run
from imagetag.stats import Calibration, Promise

Format = Literal["keras", "saved_model", "onnx", "litert"]

NAME = "imagetag"
FILE = f"{NAME}.json"
FOLDER_FILE = f"assets.extra/{FILE}"  # the folder that TF Serving leaves to others
_MAX_BYTES = 256 << 20


class ExportedTag(Record):
    """A tag and what `imagetag evaluate` has decided for its run.

    A picture is called the tag if its logit is `logit_threshold` or more, which is the calibrated
    probability `threshold`. Without an evaluation these are 0 and 0.5, and there is no promise.
    `trained` is when.
    """

    tag: str
    run: str
    model: str
    trained: str
    evaluated: bool
    calibration: Calibration = Calibration()
    logit_threshold: float = 0.0
    threshold: float = 0.5
    promise: Promise | None = None


class Input(Record):
    """What the pixels are that a model takes, `(batch, height, width, channels)`.

    `bars` is the colour beside a picture of another aspect, where `resize` puts it into the input
    with bars: each of its channels.
    """

    image_size: Size
    resize: Resize
    channels: Literal["RGB"] = "RGB"
    range: tuple[float, float] = (0.0, 255.0)
    bars: int = GREY


class Contents(Record):
    """What is in an exported file; `tags` are in the order of its outputs' columns."""

    version: Literal[1] = 1
    format: Format
    tags: tuple[ExportedTag, ...] = Field(min_length=1)
    input: Input
    versions: dict[str, str]
    created: str


def exported_tag(run: Run, decision: Decision | None) -> ExportedTag:
    """Return what is told of a tag."""
    told = ExportedTag(
        tag=run.tag,
        run=run.run,
        model=run.model,
        trained=run.created,
        evaluated=decision is not None,
    )
    if decision is None:
        return told
    return told.model_copy(
        update={
            name: getattr(decision, name)
            for name in ("calibration", "logit_threshold", "threshold", "promise")
        }
    )


def append_contents(path: Path, contents: Contents) -> None:
    """Put them into a `.keras` file, or behind a `.tflite` file.

    The latter is how metadata of TensorFlow Lite comes with files: whoever reads the model does
    not look behind it.
    """
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(FILE, contents.model_dump_json(indent=2))


def read_contents(path: Path, kind: Format) -> Contents | None:
    """Return what an exported file, or folder, tells; None if `imagetag export` has not made it."""
    try:
        text = _text(path, kind)
        found = None if text is None else Contents.model_validate_json(text)
    except ValidationError:
        return None
    return found if found is not None and found.format == kind else None


def _text(path: Path, kind: Format) -> bytes | str | None:
    if kind == "saved_model":
        try:
            with (path / FOLDER_FILE).open("rb") as stream:
                return stream.read(_MAX_BYTES)
        except FileNotFoundError:
            return None
    if kind == "onnx":
        import onnx  # an extra
        from google.protobuf.message import DecodeError

        try:
            model = onnx.load(path, load_external_data=False)
        except DecodeError:
            return None
        return next((item.value for item in model.metadata_props if item.key == NAME), None)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive, archive.open(FILE) as stream:
                return stream.read(_MAX_BYTES)
        except Exception:  # of what is no such archive zipfile raises almost anything
            return None
