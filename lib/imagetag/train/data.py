"""What a worker trains and validates on: images that are fetched, or shards that are streamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from imagetag.dataset import Row, Sample, sync
from imagetag.errors import InputError
from imagetag.inputs import (
    Batches,
    DecodedImages,
    Packed,
    PackedFeed,
    Partition,
    Plan,
    Source,
    load_packed,
    rows_of_parts,
)
from imagetag.layout import LABELS, Label, PartName
from imagetag.storage import Storage
from imagetag.train.cluster import Cluster
from imagetag.train.settings import Means
from imagetag.train.target import Target

FED: tuple[PartName, ...] = ("train", "validation")  # the parts that a training reads
_LEAST_IMAGES = 8  # of each label, to train on; and a quarter of it to validate on

Counts = dict[PartName, dict[Label, int]]


class Feed(Protocol):
    """A worker's generator of batches: `batches.Batches`, or `shard_feed.PackedFeed`."""

    steps: int

    def from_step(self, epoch: int, step: int) -> tf.data.Dataset:
        """Return batches without end, from a step of an epoch on."""

    def one_pass(self) -> tf.data.Dataset:
        """Return the batches of one epoch."""

    def explained(self) -> AbstractContextManager[None]:
        """Raise what went wrong in a generator, in place of what TensorFlow makes of it."""


class Part(Protocol):
    """What is trained or validated on; `batch` images a step, over all workers."""

    @property
    def batch(self) -> int:
        """Images a step, over all workers."""

    @property
    def count(self) -> int:
        """Images in all."""

    def feed(self, cluster: Cluster) -> Feed:
        """Return this worker's batches."""


@dataclass(frozen=True)
class Images:
    """A part of which any input can be had by its index; `groups` are what belongs together."""

    source: Source
    targets: npt.NDArray[np.int64]
    groups: Sequence[str]
    plan: Plan

    @property
    def batch(self) -> int:
        """Images a step, over all workers."""
        return self.plan.batch

    @property
    def count(self) -> int:
        """Images in all."""
        return len(self.targets)

    def feed(self, cluster: Cluster) -> Batches:
        """Return this worker's batches."""
        return Batches.of(
            self.source,
            self.targets,
            self.plan,
            worker=(cluster.worker, cluster.workers),
            replicas=cluster.replicas,
        )


@dataclass(frozen=True)
class Streamed:
    """A part of a pack, of which each worker streams its shards."""

    storage: Storage
    packed: Packed
    part: PartName
    batch: int
    seed: int
    folder: Path

    @property
    def count(self) -> int:
        """Images in all."""
        return sum(self.packed.images(self.part).values())

    def feed(self, cluster: Cluster) -> Feed:
        """Return this worker's batches."""
        return PackedFeed(
            self.storage,
            self.packed.parts[self.part],
            self.packed.image_size,
            self.packed.resize,
            batch=self.batch,
            seed=self.seed,
            shuffle=self.part == "train",
            worker=(cluster.worker, cluster.workers),
            replicas=cluster.replicas,
            folder=self.folder,
        )


def streamed_parts(
    target: Target, means: Means, batch: int, partition: Partition
) -> tuple[dict[PartName, Part], Counts]:
    """Let this worker's shards be streamed, and count what is in all of them."""
    tag, training = target.dataset.tag, target.training
    packed = load_packed(target.storage, tag, training.packed)
    counts = {part: packed.images(part) for part in FED}
    check_counts(tag, counts)
    counts["threshold"] = dict(partition.images["threshold"])
    folder = means.cache_folder
    parts: dict[PartName, Part] = {
        part: Streamed(target.storage, packed, part, batch, training.seed, folder) for part in FED
    }
    return parts, counts


def fetched_parts(
    target: Target, cluster: Cluster, means: Means, batch: int, partition: Partition
) -> tuple[dict[PartName, Part], Counts]:
    """Fetch this worker's share of the images, and count all that are there."""
    rows = rows_of_parts(target.storage, target.dataset, partition, FED)
    each = batch // cluster.workers
    places = slice(cluster.worker * each, (cluster.worker + 1) * each)
    targets = {part: np.array([row.target for row in rows[part]]) for part in rows}
    plans = {
        part: Plan(targets[part], batch, target.training.seed, shuffle=part == "train")
        for part in rows
    }
    mine = {part: plan.images_at(places) for part, plan in plans.items()}
    wanted = [rows[part][index] for part in rows for index in mine[part]]
    tag, folder = target.dataset.tag, means.cache_folder / "images"
    samples = {
        sample.row.md5: sample
        for sample in sync(target.storage, tag, wanted, folder, means.concurrency)
    }

    def held(part: PartName) -> dict[Label, int]:
        own = (rows[part][index] for index in plans[part].images_at(places, counted=True))
        return _counts([row for row in own if row.md5 in samples])

    there = [count for part in plans for count in held(part).values()]
    sums = iter(np.sum(cluster.gather(there), axis=0).tolist())
    counts = {part: {label: next(sums) for label in LABELS} for part in plans}
    check_counts(tag, counts)
    counts["threshold"] = dict(partition.images["threshold"])
    found: dict[PartName, Sequence[Sample | None]] = {
        part: [samples.get(row.md5) for row in rows[part]] for part in rows
    }
    # Both parts share the cache, each by its number of images.
    total = sum(map(len, mine.values()))
    parts: dict[PartName, Part] = {}
    for part, plan in plans.items():
        share = len(mine[part]) / total
        source = DecodedImages(
            found[part],
            target.size,
            target.training.resize,
            memory=int(means.cache_memory * share),
            disk=int(means.cache_bytes * share),
            folder=means.cache_folder,
        )
        groups = [row.group for row in rows[part]]
        parts[part] = Images(source, targets[part], groups, plan)
    return parts, counts


def check_counts(tag: str, counts: Mapping[Any, Mapping[Label, int]]) -> None:
    """Make sure that there are images enough.

    Args:
        tag: of which they are.
        counts: how many, by part and label.

    Raises:
        InputError: if a label has too few to train on, or to validate on.

    """
    least_images: dict[PartName, int] = {"train": _LEAST_IMAGES, "validation": _LEAST_IMAGES // 4}
    for part, least in least_images.items():
        for label, count in counts[part].items():
            if count < least:
                purpose = "train" if part == "train" else "validate"
                raise InputError(
                    f"the tag {tag!r} has {count} {label} images to {purpose} on and {least} are "
                    "needed: scrape more, by a higher --limit or of a fuller folder"
                )


def _counts(rows: Sequence[Row]) -> dict[Label, int]:
    return {label: sum(row.label == label for row in rows) for label in LABELS}
