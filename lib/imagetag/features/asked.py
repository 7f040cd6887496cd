"""What an extractor is asked for by: a network and how it is to take pictures, before any loads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from imagetag.checks import LEAST_SIDES, shown_url
from imagetag.dataset import Resize
from imagetag.errors import UsageError
from imagetag.features.extractor import ChannelOrder, Kind, Padding, PixelRange
from imagetag.imaging import Size


@dataclass(frozen=True)
class Asked:
    """How an extractor is to take pictures; the names are those of `ExtractorRecord`.

    `image_size` is None for the file's own. `weights` are of a backbone that is asked for by name.
    """

    image_size: Size | None = None
    resize: Resize = "letterbox"
    padding: Padding = "grey"
    pixel_range: PixelRange = "byte"
    channel_order: ChannelOrder = "rgb"
    signature: str = ""
    output: str = ""
    views: int = 2
    weights: Literal["imagenet"] | Path = "imagenet"

    def digest(self, what: str) -> str:
        """Return a digest of all that is asked: what was asked so before is known by it.

        Args:
            what: the name of a backbone, or the path of a file or a folder, which is read.

        """
        asked = asdict(self) | {"weights": ""}
        if what in LEAST_SIDES:
            weights = self.weights
            asked |= {
                "model": what,
                "weights": weights if isinstance(weights, str) else files_digest(weights),
            }
        else:
            path = Path(what)
            asked |= {"model": path.stem, "kind": path.suffix, "content": files_digest(path)}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def files_digest(path: Path) -> str:
    """Return a digest of a file, or of a folder's files and their names in it."""
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {files_digest(file)}\n".encode())
    return digest.hexdigest()


def kind_of(path: Path) -> Kind:
    """Return of which kind a network is whose file or folder is asked for.

    Raises:
        UsageError: if it is of none.

    """
    if path.suffix == ".keras" and path.is_file():
        return "keras"
    if path.suffix == ".onnx" and path.is_file():
        return "onnx"
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    raise UsageError(
        f"--extractor {shown_url(str(path))!r}: there is no backbone of that name, no .keras "
        "file, no .onnx file and no folder of a SavedModel (with saved_model.pb in it)"
    )
