"""How fast batches come, beside what Keras's ImageDataGenerator does with the same.

The pictures are JPEGs of 1000 x 1500 pixels of noise over gradients, 300 kB each; the target is
300 x 200 and a batch is 16, as in the project that this one grew from.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from imagetag.augment import RandomAffine
from imagetag.dataset import Sample, batches
from imagetag.manifest import Row

_IMAGES, _SIZE, _BATCH = 192, (300, 200), 16


def _draw(folder: Path) -> list[Sample]:
    random = np.random.default_rng(0)
    samples = []
    for number in range(_IMAGES):
        coarse = random.integers(0, 256, (60, 40, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((1000, 1500))).astype("int16")
        pixels += random.integers(-12, 13, pixels.shape, dtype="int16")
        label = "tag" if number % 2 else "not_tag"
        path = folder / label / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(path, quality=80)
        samples.append(Sample(_row(path, number), path))
    return samples


def _row(path: Path, number: int) -> Row:
    data = path.read_bytes()
    return Row(
        post_id=number + 1,
        board="benchmark",
        page_url="",
        md5=hashlib.md5(data).hexdigest(),
        ext="jpg",
        bytes=len(data),
        width=1000,
        height=1500,
        tags=("tag",),
        rating="general",
        split="train",
        label="positive" if number % 2 else "negative",
        group=str(number),
    )


def _image_data_generator(folder: Path) -> Iterable[Any]:
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=20,
        width_shift_range=0.1,
        height_shift_range=0.1,
        shear_range=0.1,
        zoom_range=0.1,
        horizontal_flip=True,
        fill_mode="nearest",
        rescale=1 / 255,
    )
    flow = generator.flow_from_directory(
        folder, target_size=_SIZE, batch_size=_BATCH, class_mode="binary"
    )
    return (flow[i] for i in range(len(flow)))


def _ours(dataset: tf.data.Dataset, augment: Callable[[Any], Any]) -> Iterable[Any]:
    return (augment(images) for images, _ in dataset)


def _images_a_second(epoch: Iterable[Any]) -> float:
    started = time.perf_counter()
    for batch in epoch:
        np.asarray(batch[0] if isinstance(batch, tuple) else batch)
    return _IMAGES / (time.perf_counter() - started)


def main() -> None:
    """Print a line a contender, and the ratios."""
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        samples = _draw(folder)
        layer = RandomAffine(seed=1)
        augment = tf.function(lambda images: layer(images, training=True), reduce_retracing=True)
        dataset = batches(samples, _SIZE, batch_size=_BATCH, shuffle_seed=1, cache="")
        augment(np.zeros((_BATCH, *_SIZE, 3), "uint8"))  # compiled outside the measurement
        theirs = _images_a_second(_image_data_generator(folder))
        first = _images_a_second(_ours(dataset, augment))
        cached = _images_a_second(_ours(dataset, augment))
    for name, rate in {
        "ImageDataGenerator.flow_from_directory": theirs,
        "batches + RandomAffine, first epoch": first,
        "batches + RandomAffine, later epochs": cached,
    }.items():
        print(f"{name:40} {rate:7.1f} images/s {rate / theirs:5.1f} x")


if __name__ == "__main__":
    main()
