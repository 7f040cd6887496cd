"""What generators of batches are made of: inputs by index, and the way ahead of the model.

A `Source` gives an image's input and whether it could be read. Each image is decoded and resized
once.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from imagetag.dataset import Resize, Sample, load_pixels
from imagetag.errors import ImagetagError
from imagetag.imaging import BadImage, Size
from imagetag.inputs.augment import RandomAffine
from imagetag.log import get_logger

_AHEAD_BYTES = 256 << 20  # of batches that wait for the model, and of those in the making


class Source(Protocol):
    """Gives the model's inputs by index; safe to ask from many threads."""

    shape: tuple[int, ...]
    dtype: type[np.uint8] | type[np.float32]

    def read(self, index: int, into: npt.NDArray[Any]) -> bool:
        """Write an input of `shape`, and tell whether there is one."""


class DecodedImages:
    """The pixels of a worker's images at the input size, kept once they are decoded.

    They are kept in memory, or on disk if they would take too much of it; what is beyond the disk's
    share too is decoded anew each time. An image that cannot be decoded is logged, once.

    Args:
        samples: by index in the plan; None where the image is missing, or another worker's.
        size: (height, width) in pixels.
        resize: how an image is fitted into it.
        memory: bytes that may be kept in memory.
        disk: bytes that may be kept in all, where memory is too small.
        folder: for what is kept on disk; nothing of it stays there.

    """

    dtype: type[np.uint8] | type[np.float32] = np.uint8

    def __init__(
        self,
        samples: Sequence[Sample | None],
        size: Size,
        resize: Resize,
        *,
        memory: int,
        disk: int,
        folder: Path,
    ) -> None:
        self.shape: tuple[int, ...] = (*size, 3)
        self._samples, self._size, self._resize = samples, size, resize
        mine = [index for index, sample in enumerate(samples) if sample is not None]
        each = size[0] * size[1] * 3
        kept = len(mine)
        shape = (kept, *self.shape)
        self._pixels: npt.NDArray[np.uint8]
        if kept * each <= min(memory, disk) or not mine:
            self._pixels = np.zeros(shape, np.uint8)  # takes no memory before it is filled
        else:
            kept = min(kept, disk // each)
            shape = (max(kept, 1), *self.shape)
            with tempfile.NamedTemporaryFile(dir=folder, prefix="decoded-") as file:
                # Where the disk is too small, this says so; a page that is missing later kills.
                os.posix_fallocate(file.fileno(), 0, math.prod(shape))
                # It has no name any more, and goes with this process however that ends.
                self._pixels = np.memmap(file, np.uint8, "w+", shape=shape)
            if kept < len(mine):
                get_logger().warning(
                    "images beyond --cache-bytes are decoded anew each epoch; raise it, or use "
                    "imagetag pack",
                    kept=kept,
                    images=len(mine),
                )
        self._places = dict(zip(mine[:kept], range(kept), strict=True))
        self._readable: dict[int, bool] = {}
        self._locks = [threading.Lock() for _ in range(1024)]

    def read(self, index: int, into: npt.NDArray[Any]) -> bool:
        """Write an image's pixels, `(height, width, 3)` uint8, and tell whether it has some."""
        place = self._places.get(index)
        with self._locks[index % len(self._locks)]:  # two batches may want it at once
            readable = self._readable.get(index)
            if readable and place is not None:
                into[...] = self._pixels[place]
            elif readable is not False:
                readable = self._readable[index] = self._decode(index, into)
                if readable and place is not None:
                    self._pixels[place] = into
            return readable

    def _decode(self, index: int, into: npt.NDArray[Any]) -> bool:
        sample = self._samples[index]
        if sample is None:
            return False
        try:
            into[...] = load_pixels(sample.path, self._size, self._resize)
        except (BadImage, FileNotFoundError) as error:
            get_logger().warning("left out", file=str(sample.path), detail=str(error))
            return False
        return True


class Explaining:
    """Keeps what goes wrong in a generator: TensorFlow makes an unreadable text of it.

    Attributes:
        failure: what stopped the generator, None if nothing has.

    """

    failure: Exception | None = None

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is raised inside."""
        try:
            yield
        except Exception as error:
            self.failure = error
            raise

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what was noted, in place of what TensorFlow makes of it."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.failure is None:
                raise
            if isinstance(self.failure, ImagetagError):
                self.failure.alone = True
            raise self.failure from error


def load_ahead(dataset: tf.data.Dataset, load: Callable[..., Any], batch_bytes: int) -> Any:
    """Return a dataset of what `load` makes of each element, made in parallel and in order.

    As many are made ahead as fit into a bound, of `batch_bytes` each. What comes out is one
    worker's already: TensorFlow must not share it among workers once more.
    """
    ahead = int(min(max(_AHEAD_BYTES // max(batch_bytes, 1), 2), 16))
    threads = len(os.sched_getaffinity(0)) + 1  # Python itself takes a part of one
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return (
        dataset.map(load, num_parallel_calls=min(ahead, threads), deterministic=True)
        .prefetch(ahead)
        .with_options(options)
    )


def compiled(augment: RandomAffine, *, jit: bool) -> Callable[[Any, Any], Any]:
    """Return the augmentation of a batch: of inputs and noise, as a function of TensorFlow's.

    Args:
        augment: the layer that moves the inputs.
        jit: compile it with XLA, which is what makes it fast on a CPU.

    """
    made: Callable[[Any, Any], Any] = tf.function(
        lambda images, noise: augment(images, noise=noise, training=True),
        jit_compile=jit or None,
        autograph=False,
    )
    return made
