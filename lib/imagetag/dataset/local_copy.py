"""From a dataset in storage to pixels: a local copy, and the way from a file to the input.

There is one way from a file to pixels, `load_pixels`; training, evaluation and prediction all use
it, so that a model sees in production what it saw in training.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from imagetag.dataset.manifest import Row
from imagetag.imaging import Frame, Size, load_resized
from imagetag.layout import Layout
from imagetag.log import Progress, get_logger
from imagetag.storage import ObjectNotFound, Storage

Resize = Literal["letterbox", "crop", "stretch"]  # how a picture is fitted into the input

_md5 = functools.partial(hashlib.md5, usedforsecurity=False)

CACHE_MEMORY = 2 << 30  # bytes of decoded images that may be kept in memory,
CACHE_BYTES = 32 << 30  # and in all
GREY = 128  # of the bars beside a picture of another aspect: near the mean of all


@dataclass(frozen=True)
class Sample:
    """An image of a dataset that is on the local disk."""

    row: Row
    path: Path

    @property
    def target(self) -> int:
        """1 if the picture has the tag, else 0."""
        return self.row.target


def sync(
    storage: Storage, tag: str, rows: Sequence[Row], folder: Path, concurrency: int = 16
) -> list[Sample]:
    """Copy images to the local disk in parallel, and return them in the order of their md5.

    Files are named by content and shared by all tags: what is there already, and is what its name
    says, is not fetched again.
    An image that is in the manifest but not in storage is left out with a warning.
    """
    layout = Layout(tag)

    def fetch(row: Row) -> Sample | None:
        path = folder / row.md5[:2] / f"{row.md5}.{row.ext}"
        if not _is_there(path, row):
            try:
                storage.download(layout.image(row.split, row.folder_label, row.md5, row.ext), path)
            except ObjectNotFound as error:
                get_logger().warning("left out", reason="missing", detail=str(error))
                return None
        return Sample(row, path)

    samples = []
    with ThreadPoolExecutor(concurrency) as pool, Progress("sync", total=len(rows)) as progress:
        for sample in pool.map(fetch, rows):
            progress.advance()
            if sample is not None:
                samples.append(sample)
    return sorted(samples, key=lambda sample: sample.row.md5)


def _is_there(path: Path, row: Row) -> bool:
    """Tell whether a file has a row's content: others may write to the folder, or a disk decay."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != row.bytes:
                return False
            return hashlib.file_digest(file, _md5).hexdigest() == row.md5
    except OSError:
        return False


def load_pixels(
    source: bytes | Path, size: Size, resize: Resize = "letterbox", padding: int = GREY
) -> npt.NDArray[np.uint8]:
    """Return a picture at the input size, antialiased.

    Args:
        source: the file's bytes, or its path.
        size: (height, width) of the input in pixels.
        resize: `letterbox` shows all of the picture, with its aspect kept and bars beside it;
            `crop` fills the input, with the aspect kept, and what sticks out is cut evenly on
            both sides; `stretch` shows all and fills all, and the aspect is not kept.
        padding: of the bars, in 0..255 as red, green and blue.

    Returns:
        `(height, width, 3)` uint8, RGB.

    Raises:
        BadImage: if it cannot be decoded.

    """
    picture = load_resized(source, lambda shape: frame_of(shape, size, resize))
    canvas = Image.new("RGB", (size[1], size[0]), (padding, padding, padding))
    canvas.paste(picture, ((size[1] - picture.width) // 2, (size[0] - picture.height) // 2))
    return np.asarray(canvas)


def frame_of(shape: Size, size: Size, resize: Resize) -> Frame:
    """Say what to show of a picture of a (height, width), and how large."""
    (height, width), (rows, columns) = shape, size
    if resize == "letterbox":
        inner = min(rows, columns * height / width), min(columns, rows * width / height)
        return Frame((max(1, round(inner[0])), max(1, round(inner[1]))))
    if resize == "crop":
        tall, wide = columns * height, rows * width  # how they compare is how the aspects do
        return Frame(size, (min(1.0, wide / tall), min(1.0, tall / wide)))
    return Frame(size)
