"""A worker's batches from a pack's shards, of which two are on its disk at the most."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from imagetag.dataset import Resize, load_pixels
from imagetag.errors import InputError, TransientError, one_line
from imagetag.imaging import BadImage, Size
from imagetag.inputs.batch_plan import NOISE
from imagetag.inputs.feed import Explaining, load_ahead
from imagetag.inputs.pack_index import Shard
from imagetag.inputs.tfrecord import next_record, read_example
from imagetag.log import get_logger
from imagetag.storage import ObjectNotFound, Storage

SHUFFLE_IMAGES = 4096

_SHUFFLE_BYTES = 256 << 20  # the most that encoded images that wait to be drawn may take
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Order:
    """How a worker's records become its batches in one epoch.

    `shards` are in the order in which they are read. `records[place]` is which record, counted
    over all of them, stands at a place of the epoch's batches; `last[record]` is the last place
    where a record stands. What comes from place `images` on only fills up.
    """

    shards: list[Shard]
    records: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]

    @property
    def images(self) -> int:
        return len(self.last)


Part = tuple[
    npt.NDArray[np.object_],
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
]
"""A replica's part of a batch: JPEGs, targets and weights `(each,)`, and noise `(each, NOISE)`."""


class PackedFeed(Explaining):
    """The batches of one worker, streamed from its shards; used as `Batches` is.

    What a batch is made of is a function of the shards, the seed, the epoch and the step, and of
    how many workers there are. A worker that has fewer images than another fills up with some of
    its own, of weight 0.

    Args:
        storage: has the shards.
        shards: of all workers; every `count`-th of those with images is this one's.
        size: (height, width) of the input in pixels, as the pack's.
        resize: how pictures are fitted into it, as the pack's.
        batch: images a step, over all workers.
        seed: of the orders and the noise.
        shuffle: whether epochs differ; without, all are the same and the noise is zero.
        worker: which, and how many there are.
        replicas: of this worker; each gets an equal part of the worker's part of a batch.
        folder: for the two shards that are on disk at a time; nothing of them stays there.
        shuffle_images: how many encoded images may wait to be drawn from; fewer if they are large.

    Attributes:
        each: images of a batch that a replica gets.
        steps: of an epoch, on all workers.

    Raises:
        InputError: if there are fewer shards with images than workers: other tags may have more.

    """

    def __init__(
        self,
        storage: Storage,
        shards: Sequence[Shard],
        size: Size,
        resize: Resize,
        *,
        batch: int,
        seed: int,
        shuffle: bool,
        worker: tuple[int, int] = (0, 1),
        replicas: int = 1,
        folder: Path,
        shuffle_images: int = SHUFFLE_IMAGES,
    ) -> None:
        self._storage, self._size, self._resize, self._folder = storage, size, resize, folder
        self._batch, self._seed, self._shuffle, self._worker = batch, seed, shuffle, worker
        index, count = worker
        filled = [shard for shard in shards if shard.images]
        if len(filled) < count:
            raise InputError(
                f"{count} workers cannot share {len(filled)} shards: pack again with a smaller "
                "--shard-bytes, or train with fewer workers"
            )
        self._shards = filled[index::count]
        self._mine, self.each = batch // count, batch // count // replicas
        shares = [sum(shard.images for shard in filled[other::count]) for other in range(count)]
        self.steps = math.ceil(max(shares) / self._mine)
        mean = sum(shard.bytes for shard in self._shards) / shares[index]
        self._window = max(1, min(shuffle_images, int(_SHUFFLE_BYTES // mean)))
        self._order = functools.lru_cache(2)(self._make_order)  # this epoch's and the next one's

    def from_step(self, epoch: int, step: int) -> tf.data.Dataset:
        """Return a generator of batches without end, from a step of an epoch on.

        Each element is a replica's part: with two replicas, a step takes two of them.
        """
        return self._dataset(epoch * self.steps + step, None)

    def one_pass(self) -> tf.data.Dataset:
        """Return a generator of the batches of the first epoch, and no more."""
        return self._dataset(0, self.steps)

    def _dataset(self, first: int, end: int | None) -> tf.data.Dataset:
        kinds = [(tf.string, ()), *[(tf.float32, shape) for shape in [(), (), (NOISE,)]]]
        signature = tuple(tf.TensorSpec((self.each, *shape), kind) for kind, shape in kinds)

        def load(jpegs: Any, *others: Any) -> tuple[Any, ...]:
            pixels = tf.numpy_function(self._decode, [jpegs], tf.uint8, stateful=False)
            return tf.ensure_shape(pixels, (self.each, *self._size, 3)), *others

        bytes_each = self.each * self._size[0] * self._size[1] * 3
        parts = tf.data.Dataset.from_generator(
            lambda: self._noting_failures(self._parts(first, end)), output_signature=signature
        )
        return load_ahead(parts, load, bytes_each)

    def _decode(self, jpegs: npt.NDArray[np.object_]) -> npt.NDArray[np.uint8]:
        inputs = np.empty((self.each, *self._size, 3), np.uint8)
        try:
            for place, jpeg in enumerate(jpegs):
                inputs[place] = load_pixels(jpeg, self._size, self._resize)
        except BadImage as error:
            self.failure = InputError(
                f"{self._storage.url}: a packed image cannot be decoded ({error}); delete "
                f"{self._shards[0].key.rpartition('/')[0]}/ and run imagetag pack again"
            )
            raise
        return inputs

    def _noting_failures(self, parts: Generator[Part]) -> Generator[Part]:
        with contextlib.closing(parts), self.noting():
            yield from parts

    def _parts(self, first: int, end: int | None) -> Generator[Part]:
        """Yield the replicas' parts of this worker's batches, by steps counted over all epochs."""
        steps = itertools.count(first) if end is None else range(first, end)
        records = self._records(first, end)
        held: dict[tuple[int, int], bytes] = {}
        with contextlib.closing(records):
            for number in steps:
                epoch, step = divmod(number, self.steps)
                order, noise = self._order(epoch), self._noise(epoch, step)
                for begin in range(0, self._mine, self.each):
                    places = range(step * self._mine + begin, step * self._mine + begin + self.each)
                    examples = []
                    for place in places:
                        at = epoch, int(order.records[place])
                        while at not in held:
                            found, record = next(records)
                            held[found] = record
                        last = order.last[at[1]] == place
                        examples.append(read_example(held.pop(at) if last else held[at]))
                    jpegs = np.empty(self.each, object)
                    jpegs[:] = [jpeg for jpeg, _ in examples]
                    targets = np.array([target for _, target in examples], np.float32)
                    weights = np.array([place < order.images for place in places], np.float32)
                    yield jpegs, targets, weights, noise[begin : begin + self.each]

    def _records(self, first: int, end: int | None) -> Generator[tuple[tuple[int, int], bytes]]:
        """Yield records that the steps from `first` on need, each with its epoch and number."""
        files = self._files(self._needed(first, end))
        with contextlib.closing(files):
            for epoch, begin, shard, file in files:
                last = self._order(epoch).last
                place = self._first_place(first, epoch)
                for number in range(begin, begin + shard.images):
                    needed = last[number] >= place
                    record = next_record(file, needed=bool(needed))
                    if record is None:
                        raise InputError(
                            f"{self._storage.url}/{shard.key} has other records than its index "
                            "says: delete it and run imagetag pack again"
                        )
                    if needed:
                        yield (epoch, number), record

    def _needed(self, first: int, end: int | None) -> Iterator[tuple[int, int, Shard]]:
        """Yield epochs, the numbers of a shard's first records, and the shards to read."""
        start = first // self.steps
        epochs = itertools.count(start) if end is None else range(start, -(-end // self.steps))
        for epoch in epochs:
            order, place, begin = self._order(epoch), self._first_place(first, epoch), 0
            for shard in order.shards:
                stop = begin + shard.images
                if (order.last[begin:stop] >= place).any():
                    yield epoch, begin, shard
                begin = stop

    def _first_place(self, first: int, epoch: int) -> int:
        return max(0, first - epoch * self.steps) * self._mine

    def _files(
        self, needed: Iterable[tuple[int, int, Shard]]
    ) -> Generator[tuple[int, int, Shard, BinaryIO]]:
        """Yield shards with their files; the next one comes while one is read."""
        self._folder.mkdir(parents=True, exist_ok=True)
        stop = threading.Event()
        pool = ThreadPoolExecutor(1, thread_name_prefix="shard")
        waiting = iter(needed)
        try:
            coming = next(waiting, None)
            future = coming and pool.submit(self._fetch, coming[2], stop)
            while coming is not None and future is not None:
                current, file = coming, future.result()
                with file:
                    coming = next(waiting, None)
                    future = coming and pool.submit(self._fetch, coming[2], stop)
                    yield *current, file
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, shard: Shard, stop: threading.Event) -> BinaryIO:
        """Return a shard as a file that has no name, and goes when it is closed."""
        try:
            return self._copied(shard, stop)
        except ObjectNotFound as error:
            raise InputError(
                f"{self._storage.url}/{shard.key} is missing: run imagetag pack again"
            ) from error
        except (_Damaged, TransientError) as error:
            get_logger().warning("fetching a shard again", detail=one_line(error))
        return self._copied(shard, stop)

    def _copied(self, shard: Shard, stop: threading.Event) -> BinaryIO:
        digest, size = hashlib.sha256(), 0
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
            with self._storage.open(shard.key) as source:
                # No more than is expected is taken, whatever there is.
                while size <= shard.bytes and (chunk := source.read(_CHUNK)):
                    if stop.is_set():
                        raise _Stopped
                    size += len(chunk)
                    digest.update(chunk)
                    target.write(chunk)
            if (size, digest.hexdigest()) != (shard.bytes, shard.sha256):
                raise _Damaged(
                    f"{self._storage.url}/{shard.key} is damaged: it is not what the index says; "
                    "delete it and run imagetag pack again"
                )
            target.seek(0)
            stack.pop_all()
            return target

    def _make_order(self, epoch: int) -> _Order:
        images = sum(shard.images for shard in self._shards)
        shards, order = self._shards, np.arange(images)
        if self._shuffle:
            random = np.random.default_rng([self._seed, 0, epoch, self._worker[0]])
            shards = [shards[i] for i in random.permutation(len(shards))]
            # Each moves back by less than the window, so no more than these ever wait.
            order = (order + self._window * random.random(images)).argsort(kind="stable")
        missing = np.arange(self.steps * self._mine - images)
        # The last ones again: they are there.
        records = np.concatenate([order, order[images - 1 - missing % min(self._mine, images)]])
        last = np.zeros(images, np.int64)
        np.maximum.at(last, records, np.arange(len(records)))
        return _Order(shards, records, last)

    def _noise(self, epoch: int, step: int) -> npt.NDArray[np.float32]:
        """Return the noise of this worker's part of a batch, `(images, NOISE)` in [0, 1)."""
        if not self._shuffle:
            return np.zeros((self._mine, NOISE), np.float32)
        random = np.random.default_rng([self._seed, 1, epoch, step])
        noise = random.random((self._batch, NOISE), dtype=np.float32)
        return noise[self._worker[0] * self._mine :][: self._mine]


class _Damaged(InputError):
    """A shard is not what it was when it was packed."""


class _Stopped(Exception):
    """Nobody waits for a shard any more."""
