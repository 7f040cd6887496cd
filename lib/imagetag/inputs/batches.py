"""The Keras generator: batches of a tag's pictures, for `model.fit` and for our own training.

In a notebook, with the same augmentation as `imagetag train`:

    batches = Batches("data", "fox", "train", size=(160, 160))
    model.fit(batches, validation_data=Batches("data", "fox", "validation", size=(160, 160)))
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from imagetag.arguments import (
    AnyWhole,
    Concurrency,
    Count,
    Share,
    check_number,
    check_numbers,
    checked_folder,
)
from imagetag.dataset import (
    CACHE_BYTES,
    CACHE_MEMORY,
    THRESHOLD_FRACTION,
    VALIDATION_FRACTION,
    Resize,
    Row,
    load_dataset,
    read_rows,
    sync,
)
from imagetag.errors import InputError
from imagetag.explore import input_size
from imagetag.imaging import Size
from imagetag.inputs.augment import RandomAffine
from imagetag.inputs.batch_plan import NOISE, Epoch, Plan
from imagetag.inputs.cleaning import Cleaning
from imagetag.inputs.feed import DecodedImages, Explaining, Source, compiled, load_ahead
from imagetag.inputs.partition import find_partition, rows_of_parts
from imagetag.layout import PartName
from imagetag.storage import CACHE_FOLDER, Place, Storage, opened

_MAX_SIDE = 99_999  # pixels, as `--image-size` has it

Fed = Literal[PartName, "test"]
"""A part of the train split, or the test split."""

Batch = tuple[Any, Any, Any, Any]
"""Inputs `(batch, ...)`, targets `(batch,)`, weights `(batch,)`, noise `(batch, NOISE)`, of which
all but uint8 inputs are float32. A weight is 1, or 0 if the image only fills up the batch."""


class Batches(Explaining, keras.utils.PyDataset):
    """Batches of the pictures of a tag's dataset, as `model.fit` and `evaluate` take them.

    An item is `(inputs, targets)`: float32 of `(images, height, width, 3)`, RGB, in 0..1; and
    float32 of `(images,)`, 1 where the picture has the tag by its dataset, whatever people have
    said of it since, else 0. The last batch of an epoch may be smaller, and so is one with a
    picture that cannot be read, which is told in the log.

    What is in a batch is a function of the pictures, the seed, the epoch and the index alone. In
    the part `train` each epoch has all pictures in another order, moved in another way; the other
    parts are the same each time. Each picture is decoded once, and kept.

    `fit` asks for the batches of an epoch in a random order of its own, unless `shuffle=False`.
    `imagetag train` does not go through `fit`: it takes `from_step`, where batches have the same
    pictures and the same noise, and moves them by the same function on the device.

    Args:
        storage: a folder or a URL with datasets, as `--storage` takes it.
        tag: whose dataset.
        part: `train`, `validation` or `threshold`, as `imagetag train` divides the train split; or
            `test`.
        size: (height, width) of the inputs in pixels; None for what explore recommended.
        batch_size: pictures a batch.
        seed: of which pictures meet in a batch, of the orders and of the moves.
        augment: turn, shift, shear, zoom and mirror at random: True for as `imagetag train` does,
            or a layer with other limits. By default in the part `train`, and nowhere else.
        rescale: what pixels are multiplied by; 1 for those models that take 0..255, such as ours.
        resize: how a picture is fitted into the size: `letterbox`, `crop` or `stretch`.
        epoch: the first, counted from 0: to go on where another `fit` stopped.
        validation_fraction: of the train split; 0 for none.
        threshold_fraction: of the train split; 0 for none.
        cache_folder: for copies of the pictures, which other runs share.
        cache_memory: bytes of decoded pictures that may be kept in memory.
        cache_bytes: bytes of decoded pictures that may be kept in all, on disk where need be.
        concurrency: downloads under way at once.
        **options: `workers`, threads that make batches, and `max_queue_size`, of PyDataset.

    Attributes:
        epoch: whose batches the items are. `on_epoch_end` goes on to the next one, if the epoch
            was begun: by `fit`, by iterating, or by `on_epoch_begin`.
        places: the columns of the plan that are this worker's.
        each: pictures of a batch that a replica gets.
        steps: of an epoch.

    Raises:
        ValueError: if an argument is none of its values.
        InputError: if there is no dataset, none of its pictures is in the part, or there is no
            size.
        UsageError: if the storage or the tag cannot be one.

    """

    @check_numbers
    def __init__(
        self,
        storage: Place,
        tag: str,
        part: Fed = "train",
        *,
        size: Size | None = None,
        batch_size: Count = 16,
        seed: AnyWhole = 1,
        augment: RandomAffine | bool | None = None,
        rescale: float = 1 / 255,
        resize: Resize = "letterbox",
        epoch: AnyWhole = 0,
        validation_fraction: Share = VALIDATION_FRACTION,
        threshold_fraction: Share = THRESHOLD_FRACTION,
        cache_folder: Path | str = CACHE_FOLDER,
        cache_memory: AnyWhole = CACHE_MEMORY,
        cache_bytes: AnyWhole = CACHE_BYTES,
        concurrency: Concurrency = 16,
        **options: Any,
    ) -> None:
        _check(part, size, augment, resize, options)
        check_number("workers", options.get("workers", 1), AnyWhole)
        check_number("max_queue_size", options.get("max_queue_size", 1), Count)
        storage, folder = opened(storage, concurrency), checked_folder("cache_folder", cache_folder)
        fractions = validation_fraction, threshold_fraction
        rows = _rows(storage, tag, part, *fractions)
        size = input_size(storage, tag, "auto") if size is None else (int(size[0]), int(size[1]))
        found = {
            sample.row.md5: sample
            for sample in sync(storage, tag, rows, folder / "images", concurrency)
        }
        samples = [found.get(row.md5) for row in rows]
        try:
            source = DecodedImages(
                samples, size, resize, memory=cache_memory, disk=cache_bytes, folder=folder
            )
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise InputError(
                f"{len(rows)} pictures of {size[0]}x{size[1]} pixels do not fit into {folder} "
                f"({error.strerror}): take a smaller size or cache_bytes, or another cache_folder"
            ) from error
        targets = np.array([row.target for row in rows])
        plan = Plan(targets, batch_size, seed, shuffle=part == "train")
        if augment is None:
            augment = part == "train"
        if augment is True:
            augment = RandomAffine(dtype="float32")  # whatever the global policy is
        self._begin(source, targets, plan, augment=augment or None, **options)
        self.epoch, self._rescale = epoch, rescale

    @classmethod
    def of(
        cls,
        source: Source,
        targets: npt.NDArray[np.int64],
        plan: Plan,
        *,
        worker: tuple[int, int] = (0, 1),
        replicas: int = 1,
    ) -> Self:
        """Return one worker's batches of any inputs, as they are: for a training of many workers.

        Args:
            source: of the inputs.
            targets: 0 or 1 of each image, `(images,)`.
            plan: of all workers.
            worker: which, and how many there are.
            replicas: of this worker; each gets an equal part of the worker's part of a batch.

        """
        made = cls.__new__(cls)
        made._begin(source, targets, plan, worker=worker, replicas=replicas)
        return made

    def _begin(
        self,
        source: Source,
        targets: npt.NDArray[np.int64],
        plan: Plan,
        *,
        worker: tuple[int, int] = (0, 1),
        replicas: int = 1,
        augment: RandomAffine | None = None,
        **options: Any,
    ) -> None:
        keras.utils.PyDataset.__init__(self, **options)
        self._source, self._targets, self._plan = source, targets.astype(np.float32), plan
        index, count = worker
        mine = plan.batch // count
        self.places = slice(index * mine, (index + 1) * mine)
        self._replicas, self.each = replicas, mine // replicas
        self._epochs: dict[int, Epoch] = {}
        self._lock = threading.Lock()
        self.steps = plan.steps
        self.epoch, self._is_begun = 0, False
        self._rescale = 1.0
        self._augment = None if augment is None else compiled(augment, jit=True)

    # ---- as Keras takes them

    def __len__(self) -> int:
        """Return how many batches an epoch has; of several replicas each has its own."""
        return self.steps * self._replicas

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return inputs and targets of the current epoch; safe to call from many threads.

        Raises:
            IndexError: if the epoch has no such batch.
            InputError: if no picture can be read.

        """
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index}: an epoch has {len(self)}, counted from 0")
        first = self.epoch * len(self)
        # Where none of its pictures can be read, another batch stands in: Keras takes no empty one.
        for number in (index, *range(len(self))):
            inputs, targets, weights, noise = self.batch(first + number)
            counted = weights > 0
            if counted.any():
                break
        else:
            raise InputError("none of the pictures can be read: see the log for why")
        if self._augment is not None:
            with tf.device("CPU:0"):  # where they are and where Keras wants them
                inputs = self._augment(inputs, noise).numpy()
        return inputs[counted] * np.float32(self._rescale), targets[counted]

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the current epoch; `on_epoch_end` then goes on to the next."""
        self.on_epoch_begin()
        yield from super().__iter__()

    def on_epoch_begin(self) -> None:
        """Note that the epoch has begun."""
        self._is_begun = True

    def on_epoch_end(self) -> None:
        """Go on to the next epoch, if this one was begun: Keras ends one before the first, too."""
        self.epoch += self._is_begun
        self._is_begun = False

    # ---- as our own loop takes them

    def from_step(self, epoch: int, step: int) -> tf.data.Dataset:
        """Return batches without end, from a step of an epoch on; not augmented.

        Each element is a `Batch`, a replica's part: with two replicas, a step takes two of them.
        """
        first = (epoch * self.steps + step) * self._replicas
        return self._dataset(tf.data.Dataset.range(first, np.iinfo(np.int64).max))

    def one_pass(self) -> tf.data.Dataset:
        """Return the batches of the first epoch, and no more."""
        return self._dataset(tf.data.Dataset.range(self.steps * self._replicas))

    def batch(self, number: int) -> Batch:
        """Return the `number`-th replica's part of a batch, counted over all epochs."""
        with self.noting():
            return self._batch(number)

    def _batch(self, number: int) -> Batch:
        step, replica = divmod(number, self._replicas)
        epoch, row = divmod(step, self.steps)
        plan = self._planned(epoch)
        first = self.places.start + replica * self.each
        places = slice(first, first + self.each)
        indices, weights = plan.images[row, places], plan.counted[row, places].astype(np.float32)
        inputs = np.zeros((self.each, *self._source.shape), self._source.dtype)
        for place, index in enumerate(indices):
            if not self._source.read(int(index), inputs[place]):
                weights[place] = 0
        return inputs, self._targets[indices], weights, plan.noise[row, places]

    def _planned(self, number: int) -> Epoch:
        with self._lock:
            if number not in self._epochs:
                # The next epoch's first batches are made while the last ones of this one are.
                self._epochs = {key: self._epochs[key] for key in self._epochs if key > number - 2}
                self._epochs[number] = self._plan.epoch(number)
            return self._epochs[number]

    def _dataset(self, numbers: tf.data.Dataset) -> tf.data.Dataset:
        kinds = [self._source.dtype, np.float32, np.float32, np.float32]
        shapes = [self._source.shape, (), (), (NOISE,)]

        def load(number: Any) -> tuple[Any, ...]:
            values = tf.numpy_function(self.batch, [number], kinds, stateful=False)
            return tuple(
                tf.ensure_shape(value, (self.each, *shape))
                for value, shape in zip(values, shapes, strict=True)
            )

        each = self.each * int(np.prod(self._source.shape)) * np.dtype(self._source.dtype).itemsize
        return load_ahead(numbers, load, each)


def _rows(
    storage: Storage, tag: str, part: Fed, validation_fraction: float, threshold_fraction: float
) -> list[Row]:
    """Return the rows of a part, in the order of their md5."""
    dataset = load_dataset(storage, tag)
    if part == "test":
        found = (row for row in read_rows(storage, dataset) if row.split == "test")
        rows = sorted(found, key=lambda row: row.md5)
    else:
        fractions = validation_fraction, threshold_fraction
        partition = find_partition(storage, dataset, *fractions, Cleaning())
        rows = rows_of_parts(storage, dataset, partition, (part,))[part]
    if not rows:
        raise InputError(
            f"the tag {tag!r} has no picture in the part {part!r}: scrape more, by a "
            "higher --limit or of a fuller folder, or take other fractions"
        )
    return rows


def _check(
    part: str,
    size: Size | None,
    augment: RandomAffine | bool | None,
    resize: str,
    options: dict[str, Any],
) -> None:
    for name, value, words in (
        ("part", part, (*get_args(PartName), "test")),
        ("resize", resize, get_args(Resize)),
    ):
        if value not in words:
            raise ValueError(f"{name}={value!r}: take {', '.join(words)}")
    if size is not None and not _is_size(size):
        raise ValueError(f"size={size!r}: take (height, width) in pixels, {_MAX_SIDE} at the most")
    if not (augment is None or isinstance(augment, bool | RandomAffine)):
        raise ValueError(f"augment={augment!r}: take True, False or imagetag.inputs.RandomAffine")
    if augment and part != "train":
        raise ValueError(f"augment={augment!r}: only the part train is augmented, not {part!r}")
    if augment is not False and part == "train" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()}, and the augmentation of batches on "
            "TensorFlow alone: take augment=False, and imagetag.inputs.RandomAffine as the first "
            "layer of the model"
        )
    if options.get("use_multiprocessing"):
        raise ValueError(
            "use_multiprocessing=True: decoded pictures are kept in this process, and TensorFlow "
            "does not live on in a forked one; take workers=4, which are threads"
        )


def _is_size(size: Any) -> bool:
    try:
        height, width = size
    except (TypeError, ValueError):
        return False
    return all(_is_whole(side) and 1 <= side <= _MAX_SIDE for side in (height, width))


def _is_whole(side: Any) -> bool:
    return isinstance(side, int | np.integer) and not isinstance(side, bool)
