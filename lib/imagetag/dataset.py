"""From a dataset in storage to batches: a local copy, then the Keras generators.

There is one way from a file to pixels, `load_pixels`; training, evaluation and prediction all use
it, so that a model sees in production what it saw in training.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from imagetag import images
from imagetag.layout import Layout
from imagetag.log import Progress, get_logger
from imagetag.manifest import Row
from imagetag.storage import ObjectNotFound, Storage

Size = tuple[int, int]  # (height, width) in pixels

GREY = 128  # of the bars beside a picture of another aspect: near the mean of all
_SHUFFLE_IMAGES, _SHUFFLE_BYTES = 1024, 256 << 20  # the most that wait to be drawn from


@dataclass(frozen=True)
class Sample:
    """An image of a dataset that is on the local disk."""

    row: Row
    path: Path

    @property
    def target(self) -> int:
        """1 if the picture has the tag, else 0."""
        return int(self.row.label == "positive")


def sync(
    storage: Storage, tag: str, rows: Iterable[Row], folder: Path, concurrency: int = 16
) -> list[Sample]:
    """Copy images to the local disk in parallel, and return them in the order of their md5.

    Files are named by content and shared by all tags: what is there already is not fetched again.
    An image that is in the manifest but not in storage is left out with a warning.
    """
    layout = Layout(tag)

    def fetch(row: Row) -> Sample | None:
        path = folder / row.md5[:2] / f"{row.md5}.{row.ext}"
        if not path.is_file() or path.stat().st_size != row.bytes:
            try:
                storage.download(layout.image(row.split, row.label, row.md5, row.ext), path)
            except ObjectNotFound as error:
                get_logger().warning("left out", reason="missing", detail=str(error))
                return None
        return Sample(row, path)

    samples = []
    with ThreadPoolExecutor(concurrency) as pool, Progress("sync") as progress:
        for sample in pool.map(fetch, rows):
            progress.advance()
            if sample is not None:
                samples.append(sample)
    return sorted(samples, key=lambda sample: sample.row.md5)


def load_pixels(source: bytes | Path, size: Size) -> npt.NDArray[np.uint8]:
    """Return a picture at the input size, with its aspect kept and grey bars beside it.

    Returns:
        `(height, width, 3)` uint8, RGB.

    Raises:
        BadImage: if it cannot be decoded.

    """
    picture = images.load_rgb(source, at_least=size)
    scale = min(size[0] / picture.height, size[1] / picture.width)
    height, width = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    canvas = Image.new("RGB", (size[1], size[0]), (GREY, GREY, GREY))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    canvas.paste(resized, ((size[1] - width) // 2, (size[0] - height) // 2))
    return np.asarray(canvas)


def batches(
    samples: Sequence[Sample],
    size: Size,
    *,
    batch_size: int,
    shuffle_seed: int | None,
    cache: str,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Return the Keras generator of some samples: one pass is one epoch.

    Every image is decoded and resized once, in parallel; later epochs read the cache.

    Args:
        samples: the images.
        size: (height, width) to resize to.
        batch_size: images a batch, over all replicas.
        shuffle_seed: None keeps the order; else each epoch has another one, fixed by the seed.
        cache: a file to cache in, or `""` for memory.
        replicas: every batch is a multiple of them. A smaller last one is filled up with images
            of its own, as a replica that gets none of it fails.

    Returns:
        Batches of (images `(batch, height, width, 3)` uint8, targets `(batch, 1)` float32).

    """
    order = list(samples)
    if shuffle_seed is not None:
        # Beforehand too, as the buffer below may be smaller than the set.
        random.Random(shuffle_seed).shuffle(order)  # noqa: S311 - repeatable, not secret
    paths = [str(sample.path) for sample in order]
    targets = np.array([[sample.target] for sample in order], dtype="float32").reshape(-1, 1)

    def decode(path: bytes) -> tuple[npt.NDArray[np.uint8], np.bool_]:
        try:
            return load_pixels(Path(path.decode()), size), np.True_
        except (images.BadImage, FileNotFoundError) as error:
            get_logger().warning("left out", file=path.decode(), detail=str(error))
            return np.zeros((*size, 3), np.uint8), np.False_

    def load(path: Any, target: Any) -> tuple[Any, Any, Any]:
        pixels, readable = tf.numpy_function(decode, [path], [tf.uint8, tf.bool], stateful=False)
        return tf.ensure_shape(pixels, (*size, 3)), target, tf.ensure_shape(readable, ())

    dataset = (
        tf.data.Dataset.from_tensor_slices((paths, targets))
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .filter(lambda _pixels, _target, readable: readable)
        .map(lambda pixels, target, _readable: (pixels, target))
        .cache(cache)
    )
    if shuffle_seed is not None:
        buffer = min(len(order), _SHUFFLE_IMAGES, _SHUFFLE_BYTES // (size[0] * size[1] * 3))
        dataset = dataset.shuffle(max(buffer, 1), seed=shuffle_seed)
    dataset = dataset.batch(batch_size)
    if replicas > 1:

        def fill(pixels: Any, target: Any) -> tuple[Any, Any]:
            count = tf.shape(target)[0]
            chosen = tf.range(-(-count // replicas) * replicas) % count
            return tf.gather(pixels, chosen), tf.gather(target, chosen)

        dataset = dataset.map(fill)
    return dataset.prefetch(tf.data.AUTOTUNE)
