"""How fast batches come, beside ImageDataGenerator, and beside bare JPEG decoding, the limit.

The pictures are JPEGs of 1000 x 1500 pixels of noise over gradients, 300 kB each; the target is
300 x 200 and a batch is 16, as in the project that this one grew from.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from imagetag.dataset.local_copy import Sample
from imagetag.dataset.manifest import Row
from imagetag.inputs.augment import RandomAffine
from imagetag.inputs.batch_plan import NOISE, Plan
from imagetag.inputs.batches import Batches
from imagetag.inputs.feed import DecodedImages, compiled
from tests.benchmarks.ratios import Goal, Ratio, compared, with_unit

_IMAGES, _SIZE, _BATCH, _RUNS, _LATER = 192, (300, 200), 16, 5, 20


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


def _bare(samples: list[Sample], ratio: int) -> Iterable[Any]:
    """Decode and no more, in parallel; with a ratio, at a part of the size."""
    paths = tf.data.Dataset.from_tensor_slices([str(sample.path) for sample in samples])

    def decode(path: Any) -> Any:
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3, ratio=ratio)

    yield from paths.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(16)


def _ours(batches: Iterator[Any], steps: int, augment: Callable[..., Any]) -> Iterable[Any]:
    for inputs, _targets, _weights, noise in itertools.islice(batches, steps):
        yield augment(inputs, noise)


def _images_a_second(epoch: Iterable[Any]) -> float:
    started = time.perf_counter()
    for batch in epoch:
        np.asarray(batch[0] if isinstance(batch, tuple) else batch)
    return _IMAGES / (time.perf_counter() - started)


def _measure(folder: Path, samples: list[Sample]) -> tuple[float, float, float, float, float]:
    """Return images a second: theirs; decoded at full size, at a quarter; ours at first, later."""
    augment = compiled(RandomAffine(shear=0.1), jit=True)
    # Compiled outside the measurement.
    augment(np.zeros((_BATCH, *_SIZE, 3), "uint8"), np.zeros((_BATCH, NOISE), "float32"))
    targets = np.array([sample.target for sample in samples])
    room = _IMAGES * _SIZE[0] * _SIZE[1] * 3
    source = DecodedImages(samples, _SIZE, "stretch", memory=room, disk=room, folder=folder)
    feed = Batches.of(source, targets, Plan(targets, _BATCH, seed=1))
    with contextlib.redirect_stdout(sys.stderr):  # it tells what it found
        theirs = _images_a_second(_image_data_generator(folder))
    full, quarter = (_images_a_second(_bare(samples, ratio)) for ratio in (1, 4))
    batches = iter(feed.from_step(0, 0))
    first = _images_a_second(_ours(batches, feed.steps, augment))
    # Over many epochs, as what was made ahead while the first one ended comes for nothing.
    later = _LATER * _images_a_second(_ours(batches, _LATER * feed.steps, augment))
    return theirs, full, quarter, first, later


def rows() -> Iterator[Ratio]:
    """Yield both epochs beside theirs, and the first beside bare decoding."""
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        folder = Path(scratch)
        samples = _draw(folder)
        runs = [_measure(folder, samples) for _ in range(_RUNS)]
    theirs, full, quarter, first, later = zip(*runs, strict=True)
    first_epoch, tell = "augmented batches, the first epoch", with_unit("images/s")
    generator = "ImageDataGenerator"
    yield compared(first_epoch, first, theirs, tell, by=generator, goal=Goal(3))
    yield compared(first_epoch, first, full, tell, by="decoding alone", goal=Goal(0.7))
    yield compared(first_epoch, first, quarter, tell, by="decoding alone, at a quarter")
    later_epochs = "augmented batches, later epochs: what is kept is augmented"
    yield compared(later_epochs, later, theirs, tell, by=generator, goal=Goal(10))
