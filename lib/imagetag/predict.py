"""Score pictures in bulk with a trained model: one row a picture, in the order of the input."""

from __future__ import annotations

import csv
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, TextIO, TypeVar

import keras
import numpy as np
import numpy.typing as npt

from imagetag.dataset import Resize, Size, load_pixels
from imagetag.errors import InputError
from imagetag.images import EXTENSIONS, BadImage
from imagetag.log import Progress, get_logger
from imagetag.storage import ObjectInfo, ObjectNotFound, Storage

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_BYTES = 200_000_000  # of a file: more is no picture, and would fill the memory


@dataclass(frozen=True)
class Prediction:
    """What the model says of a file: a probability and a decision, or an error."""

    file: str
    probability: float | None
    decision: bool | None
    error: str | None


def predict_images(
    model: keras.Model,
    source: Storage,
    *,
    size: Size,
    resize: Resize,
    threshold: float,
    batch_size: int,
) -> Iterator[Prediction]:
    """Yield a prediction for each image file of a folder or prefix, in the order of their keys.

    A file that cannot be read is a prediction with its error. Files that do not end like an image
    are passed over and counted in the log.

    Args:
        model: takes `(batch, height, width, 3)` in 0..255 and returns `(batch, 1)`.
        source: has the files.
        size: (height, width) in pixels of the model's input.
        resize: how pictures are fitted into it.
        threshold: a picture of at least this probability is called positive.
        batch_size: pictures at once.

    Raises:
        InputError: if there is no image at all.

    """
    others = 0

    def image_files() -> Iterator[ObjectInfo]:
        nonlocal others
        for entry in source.list():
            if PurePosixPath(entry.key).suffix.lower().removeprefix(".") in EXTENSIONS:
                yield entry
            else:
                others += 1

    def read(entry: ObjectInfo) -> bytes:
        if entry.size > _MAX_BYTES:
            raise BadImage("too_large", f"{entry.size} bytes")
        try:
            return source.read(entry.key)
        except ObjectNotFound as error:
            raise BadImage("missing", "gone since it was listed") from error

    found = 0
    scored = score(model, image_files(), read, size=size, resize=resize, batch_size=batch_size)
    with Progress("predict") as progress:
        for entry, probability in scored:
            found += 1
            progress.advance()
            if isinstance(probability, BadImage):
                error = f"{probability.reason}: {probability}"
                yield Prediction(entry.key, None, None, error)
            else:
                yield Prediction(entry.key, probability, probability >= threshold, None)
    if others:
        get_logger().info("files that are no images were passed over", files=others)
    if not found:
        endings = ", ".join(sorted(EXTENSIONS))
        raise InputError(f"--input {source.url}: no image there (a file that ends in {endings})")


def score(
    model: keras.Model,
    items: Iterable[Item],
    read: Callable[[Item], bytes | Path],
    *,
    size: Size,
    resize: Resize,
    batch_size: int,
) -> Iterator[tuple[Item, float | BadImage]]:
    """Yield each item with the model's probability, or with why its picture cannot be decoded.

    Pictures are read and decoded in parallel, a few batches ahead of the model. Every batch has
    the same shape, so that the model is compiled once.

    Args:
        model: takes `(batch, height, width, 3)` in 0..255 and returns `(batch, 1)`.
        items: in any number; they are consumed as they are needed.
        read: returns an item's file, as bytes or as a path; may raise BadImage.
        size: (height, width) in pixels of the model's input.
        resize: how pictures are fitted into it.
        batch_size: pictures at once.

    """

    def decode(item: Item) -> npt.NDArray[np.uint8] | BadImage:
        try:
            return load_pixels(read(item), size, resize)
        except BadImage as error:
            return error

    batch = np.zeros((batch_size, *size, 3), np.uint8)
    threads = min(32, 4 + (os.cpu_count() or 1))
    with ThreadPoolExecutor(threads) as pool:
        decoded = _map_ahead(pool, decode, items, ahead=threads + 2 * batch_size)
        while chunk := list(islice(decoded, batch_size)):
            for i, (_, pixels) in enumerate(chunk):
                batch[i] = 0 if isinstance(pixels, BadImage) else pixels
            probabilities = np.asarray(model.predict_on_batch(batch)).reshape(-1)
            for (item, pixels), probability in zip(chunk, probabilities, strict=False):
                yield item, pixels if isinstance(pixels, BadImage) else float(probability)


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Yield items with their results in order, with at most `ahead` of them under way."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


class Writer(Protocol):
    """Writes predictions, a row each."""

    def write(self, prediction: Prediction) -> None:
        """Write one row."""


class _CsvWriter:
    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream)
        self._writer.writerow(["file", "probability", "decision", "error"])

    def write(self, prediction: Prediction) -> None:
        row = _fields(prediction)
        decision = row["decision"]
        row["decision"] = decision if decision is None else str(decision).lower()
        self._writer.writerow(row.values())


class _JsonLinesWriter:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, prediction: Prediction) -> None:
        self._stream.write(json.dumps(_fields(prediction), ensure_ascii=False) + "\n")


def open_writer(stream: TextIO, kind: Literal["csv", "jsonl"]) -> Writer:
    """Return a writer of CSV with a header, or of JSON Lines."""
    return _CsvWriter(stream) if kind == "csv" else _JsonLinesWriter(stream)


def _fields(prediction: Prediction) -> dict[str, Any]:
    # A file's name may hold bytes that are no text: they are shown as replaced.
    name = os.fsencode(prediction.file).decode(errors="replace")
    probability = prediction.probability
    return {
        "file": name,
        "probability": None if probability is None else round(probability, 6),
        "decision": prediction.decision,
        "error": prediction.error,
    }
