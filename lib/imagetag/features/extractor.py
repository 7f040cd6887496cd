"""An extractor: a frozen network that turns a picture into features, and all that decides them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, StringConstraints, computed_field

from imagetag.dataset import GREY, Resize, load_pixels
from imagetag.record import Record

Kind = Literal["application", "keras", "saved_model", "onnx"]
Padding = Literal["grey", "white", "black"]
PixelRange = Literal["byte", "unit", "signed", "imagenet"]
ChannelOrder = Literal["rgb", "bgr"]

FILES: dict[Kind, str] = {
    "application": "model.keras",
    "keras": "model.keras",
    "saved_model": "saved_model",
    "onnx": "model.onnx",
}
"""What a network of each kind is stored as; a SavedModel is a folder."""

_PADDING: dict[Padding, int] = {"grey": GREY, "white": 255, "black": 0}
# From 0..255 to what a network wants: factors and offsets of red, green and blue.
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_SCALES: dict[PixelRange, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
    "byte": (np.ones(3), np.zeros(3)),
    "unit": (np.full(3, 1 / 255), np.zeros(3)),
    "signed": (np.full(3, 2 / 255), np.full(3, -1.0)),
    "imagenet": (1 / (255 * _DEVIATION), -_MEAN / _DEVIATION),
}

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_NOT_DECIDING = {"version", "asked", "created", "software"}
_MAX_TITLE = 60  # characters of a model's name in an extractor's


class Unusable(ValueError):
    """A network is none that features can be had of; the text says why, without its name."""


class ExtractorRecord(Record):
    """An extractor, stored as its `extractor.json`: the marker, written after its network.

    Attributes:
        kind: what runs it: a network of keras.applications by its name, a `.keras` file, a
            TensorFlow SavedModel, or an ONNX file.
        model: its name, or its file's.
        content: a digest of its weights, or of its files.
        image_size: (height, width) in pixels of its input.
        resize: how pictures are fitted into it.
        padding: the colour of the bars beside a picture of another aspect.
        pixel_range: how it wants pixels: 0..255, 0..1, -1..1, or as ImageNet's mean and standard
            deviation have it.
        channel_order: red first, or blue.
        signature: which of a SavedModel's, empty for others.
        output: which output has the features, empty where there is one.
        views: 1, or 2 with the mirror image.
        channels: numbers that each view has.
        asked: a digest of what it was asked for by (`Asked.digest`): so it is found again before
            any network is loaded.
        created: when it was first stored.
        software: the version that stored it.

    """

    version: Literal[1] = 1
    kind: Kind
    model: str
    content: Sha256
    image_size: tuple[PositiveInt, PositiveInt]
    resize: Resize = "letterbox"
    padding: Padding = "grey"
    pixel_range: PixelRange = "byte"
    channel_order: ChannelOrder = "rgb"
    signature: str = ""
    output: str = ""
    views: Literal[1, 2] = 2
    channels: PositiveInt
    asked: str = ""
    created: str = ""
    software: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def digest(self) -> str:
        """A digest of all that decides what features a picture has."""
        deciding = self.model_dump(mode="json", exclude={*_NOT_DECIDING, "digest"})
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """What it is called in storage, such as `mobilenet-160x160-0a1b2c3d`."""
        title = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model)[:_MAX_TITLE].strip("._-") or "model"
        return "{}-{}x{}-{}".format(title, *self.image_size, self.digest[:8])

    @property
    def file(self) -> str:
        """What its network is stored as, in its folder."""
        return FILES[self.kind]

    def pixels_of(self, source: bytes | Path) -> NDArray[np.uint8]:
        """Return a picture as `Extractor.features` takes it, `(height, width, 3)` uint8, RGB.

        Args:
            source: the file's bytes, or its path.

        Raises:
            BadImage: if it cannot be decoded.

        """
        return load_pixels(source, self.image_size, self.resize, self.fill)

    @property
    def fill(self) -> int:
        """The colour of the bars, in each channel, 0..255."""
        return _PADDING[self.padding]

    def check_input(self, dtype: str) -> None:
        """See to it that pixels of this range can be given to a network.

        Args:
            dtype: of its input.

        Raises:
            Unusable: if it takes whole numbers, and these are none.

        """
        if dtype == "uint8" and self.pixel_range != "byte":
            raise Unusable(
                f"it takes pixels as bytes, and --pixel-range {self.pixel_range} has other "
                "numbers: leave that out"
            )

    def scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what red, green and blue, in 0..255, are multiplied by, and what is added."""
        factors, offsets = _SCALES[self.pixel_range]
        return factors.astype(np.float32), offsets.astype(np.float32)


class Extractor(Protocol):
    """A frozen network, ready to run.

    Attributes:
        record: what it is.
        batch_size: pictures that it takes at once, on all devices together.

    """

    record: ExtractorRecord
    batch_size: int

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of some pictures.

        Args:
            pixels: `(n, height, width, 3)` uint8, RGB, of any n.

        Returns:
            `(n, views, channels)` float32; the second view is the mirror image.

        """
        ...
