"""Train a classifier of one tag, from its dataset in storage to a model in storage."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from imagetag.augment import RandomAffine
from imagetag.card import model_card
from imagetag.cautions import HeldOut, read_cautions
from imagetag.checkpoint import Checkpoints, State
from imagetag.checks import LEAST_SIDES, weights_problem
from imagetag.dataset import Resize, Sample, Size, sync
from imagetag.distribute import Cluster, device_names, precision
from imagetag.errors import InputError, TransientError, UsageError
from imagetag.exclusion import Exclusion, find_exclusion
from imagetag.exploration import input_size
from imagetag.export import is_exported, store_export
from imagetag.feed import CACHE_BYTES, CACHE_MEMORY, DecodedImages
from imagetag.fit import Feed, Fitting, Images, OptimizerName, Part, Phase, Recipe, digest_of
from imagetag.heartbeat import measured
from imagetag.layout import LABELS, Label, Layout, PartName, checked_run
from imagetag.log import get_logger, working
from imagetag.manifest import Dataset, Row, load_dataset
from imagetag.models import build_model, can_be_pretrained, with_resizing
from imagetag.packed import Packed, PackedFeed, load_packed
from imagetag.partition import (
    Partition,
    Use,
    find_partition,
    load_partition,
    rows_of_parts,
    store_partition,
)
from imagetag.plan import Plan
from imagetag.runs import Run, load_model, load_run, versions
from imagetag.schedule import ScheduleName
from imagetag.split import THRESHOLD_FRACTION, VALIDATION_FRACTION
from imagetag.step import Objective
from imagetag.storage import CACHE_FOLDER, ObjectNotFound, Place, Storage, open_storage, opened
from imagetag.tensorboard import write_events

_LEAST_IMAGES = 8  # of each label, to train on; and a quarter of it to validate on
_FED: tuple[PartName, ...] = ("train", "validation")  # the parts that a training reads


class Training(BaseModel):
    """What decides the result. What `auto` stands for is settled before the run and stored with it.

    The options of `imagetag train` of the same names say what each is.
    """

    model_config = ConfigDict(frozen=True)

    model: str = "vgg19"
    weights: str = "auto"
    freeze_backbone: Literal["auto", "yes", "no"] = "auto"
    fine_tune_blocks: int = 1
    fine_tune_epochs: int = 20
    fine_tune_rate: float | None = None
    image_size: str = "auto"
    resize: Resize = "letterbox"
    packed: str = "no"
    exclude_suspects: str = "no"
    batch_size: int = 16
    epochs: int = 50
    patience: int = 5
    optimizer: OptimizerName = "adam"
    learning_rate: float | None = None
    schedule: ScheduleName = "plateau"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    class_weights: Literal["balanced", "none"] = "balanced"
    dropout: float | None = None
    augment: bool = True
    shear: float = 5.73
    validation_fraction: float = VALIDATION_FRACTION
    threshold_fraction: float = THRESHOLD_FRACTION
    mixed_precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    seed: int = 1


@dataclass(frozen=True)
class Means:
    """What a training is done with. It decides how long it takes, not what comes out.

    Args:
        cache_folder: local copies of images, weights and checkpoints.
        cache_memory: bytes of decoded images that may be kept in memory.
        cache_bytes: bytes of decoded images that may be kept in all, on disk where need be.
        concurrency: downloads under way at once.
        micro_batch: images a replica takes at once, None for its whole batch.
        jit: compile the model with XLA.
        checkpoint_seconds: between two checkpoints, at least.
        resume: go on from a checkpoint if there is one.
        export: store a SavedModel with the run, also with one that was trained without.

    """

    cache_folder: Path = CACHE_FOLDER
    cache_memory: int = CACHE_MEMORY
    cache_bytes: int = CACHE_BYTES
    concurrency: int = 16
    micro_batch: int | None = None
    jit: bool = False
    checkpoint_seconds: float = 300.0
    resume: bool = True
    export: bool = True


def train_tag(
    storage: Place,
    tag: str,
    training: Training | None = None,
    cluster: Cluster | None = None,
    means: Means | None = None,
    *,
    run: str | None = None,
) -> Run:
    """Train on a tag's train split and store the model; the test split is not touched.

    Args:
        storage: has the dataset, and gets the model; open, or a folder or URL.
        tag: what to recognise.
        training: how.
        cluster: on which devices, as `choose_devices` returns them; None for what TensorFlow's
            strategy in scope has. `batch_size` is that of each replica.
        means: with what.
        run: the run's name; by default made from the settings and the data, so that the same
            training again finds itself done.

    Raises:
        InputError: if there is no dataset, no recommended size, or too few images.
        UsageError: if the settings do not fit the model, or a checkpoint.
        TransientError: if storage or weights cannot be reached, or another worker is lost.

    """
    means = means or Means()
    storage = opened(storage, means.concurrency)
    cluster = cluster or Cluster(tf.distribute.get_strategy())
    target = _agreed_target(storage, tag, training or Training(), cluster, run)
    done = target.completed()
    if len({row[0] for row in cluster.gather([int(done is not None)])}) > 1:
        raise TransientError("the workers do not agree whether the run is complete: start again")
    if done is not None:
        if cluster.is_chief:
            _complete(target, done, means)
        where = f"{storage.url}/{Layout(tag).run(target.run, '')}"
        get_logger().info("already trained", run=target.run, storage=where)
        return done
    made = _Making(storage, target, cluster, means).make()
    cluster.gather([1])  # the others wait until the chief has stored it
    return made


def is_trained(storage: Storage, tag: str, training: Training, run: str | None) -> bool:
    """Tell whether a tag's run is complete.

    Raises:
        UsageError: if a setting is wrong, or it is of other settings or images.

    """
    try:
        return find_target(storage, tag, training, run).completed() is not None
    except InputError:  # told when it is the tag's turn
        return False


def _agreed_target(
    storage: Storage, tag: str, training: Training, cluster: Cluster, run: str | None
) -> Target:
    """Settle what is to be trained, or why it cannot be, as all other workers do.

    One of another mind would wait for a step that others do not take, or they for its.

    Raises:
        InputError, UsageError: as `find_target`, on all workers alike.
        TransientError: if they differ.

    """
    found: Target | InputError
    try:
        found = find_target(storage, tag, training, run)
        digest = found.digest
    except InputError as error:
        found = error
        # Each may have another name for the same storage.
        digest = _digest([tag, str(error).replace(storage.url, "")])
    cluster.agree(f"a training of {tag!r}, or a reason against it,", digest)
    if isinstance(found, InputError):
        raise found
    return found


@dataclass(frozen=True)
class Target:
    """A run that is to be made: its name, settled settings, size in pixels, and data.

    `excluded` are the pictures that it is not trained on.
    """

    storage: Storage
    run: str
    training: Training
    size: Size
    dataset: Dataset
    excluded: Exclusion = field(default_factory=Exclusion)

    @property
    def digest(self) -> str:
        """A digest that stands for the run, its settings and its data."""
        identity = [_deciding(self.training), self.size, self.dataset.fingerprint]
        return _digest([self.dataset.tag, self.run, *identity])

    def partition(self) -> Partition:
        """Divide the train split, as the dataset and the settings say.

        Raises:
            InputError: if the manifest cannot be read.

        """
        training = self.training
        fractions = training.validation_fraction, training.threshold_fraction
        return find_partition(self.storage, self.dataset, *fractions, self.excluded)

    def completed(self) -> Run | None:
        """Return the run if it is complete already.

        Raises:
            UsageError: if it is, of other settings or images.

        """
        tag = self.dataset.tag
        try:
            run = load_run(self.storage, tag, self.run)
        except InputError as error:
            if not isinstance(error.__cause__, ObjectNotFound):
                get_logger().warning("training again", run=self.run, reason=str(error))
            return None
        theirs = (_deciding(run.settings), run.image_size, run.fingerprint)
        if theirs != (_deciding(self.training), self.size, self.dataset.fingerprint):
            raise UsageError(
                f"--run {self.run!r} of {tag!r} is complete, with other settings or other images; "
                "choose another name"
            )
        return run


def find_target(storage: Storage, tag: str, training: Training, run: str | None) -> Target:
    """Settle what is to be trained, from what is in storage.

    Raises:
        InputError: if there is no dataset, no recommended size, or no list of suspects.
        UsageError: if a setting is wrong.

    """
    dataset = load_dataset(storage, tag)
    excluded = find_exclusion(storage, tag, training.exclude_suspects)
    training = _settled(training).model_copy(update={"exclude_suspects": excluded.name})
    if training.packed == "no":
        size = input_size(storage, tag, training.image_size, LEAST_SIDES[training.model])
    else:
        packed = load_packed(storage, tag, training.packed)
        training = training.model_copy(update={"packed": packed.name})
        auto = training.image_size == "auto"
        size = packed.image_size if auto else input_size(storage, tag, training.image_size)
        packed.check_fits(
            dataset,
            size,
            training.resize,
            training.validation_fraction,
            training.threshold_fraction,
            excluded.name,
        )
    name = checked_run(run) if run else _run_name(training, size, dataset)
    return Target(storage, name, training, size, dataset, excluded)


@dataclass
class _Making:
    storage: Storage
    target: Target
    cluster: Cluster
    means: Means

    def make(self) -> Run:
        target, training, means = self.target, self.target.training, self.means
        keras.utils.clear_session()  # of the tag before
        keras.utils.set_random_seed(training.seed)
        partition = target.partition()
        _check_counts(target.dataset.tag, partition.images)
        _tell_small(target.run, partition.images)
        weights = _weights(training.weights, means.cache_folder / "weights")
        batch = self._global_batch()
        with (
            working("building the model"),
            self.cluster.strategy.scope(),
            precision(training.mixed_precision),
        ):
            model = build_model(
                training.model,
                target.size,
                weights=weights,
                dropout=training.dropout,
                synchronized=self.cluster.strategy.num_replicas_in_sync > 1,
            )
        phases = _phases(training)
        means.cache_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="imagetag-train-") as scratch:
            inputs = self._fetched if training.packed == "no" else self._packed
            parts, counts = inputs(batch, partition)
            get_logger().info(
                "training",
                run=target.run,
                model=training.model,
                size=f"{target.size[0]}x{target.size[1]}",
                images=counts,
                batch=batch,
                precision=training.mixed_precision,
            )
            checkpoints = self._checkpoints()
            fitting = Fitting(
                model,
                phases,
                self._recipe(counts["train"]),
                parts["train"],
                parts["validation"],
                self.cluster,
                checkpoints,
                _digest([*self._identity(batch), digest_of(model) if weights else ""]),
            )
            if not means.resume and self.cluster.is_chief:
                checkpoints.clear()
            try:
                state = fitting.fit(resume=means.resume)
            finally:
                checkpoints.close()
            self.cluster.agree("weights", digest_of(model))
            result = self._result(state, counts, model, batch)
            if self.cluster.is_chief:
                saved = build_model(training.model, target.size, weights=None)
                saved.set_weights([keras.ops.convert_to_numpy(w) for w in model.weights])
                digest = store_partition(self.storage, target.dataset.tag, target.run, partition)
                result = result.model_copy(update={"parts": digest})
                with working("storing the model" + " and its SavedModel" * means.export):
                    self._store(result, saved, state.durations, Path(scratch))
                _measure(result)
                checkpoints.clear()
        return result

    def _global_batch(self) -> int:
        micro, each = self.means.micro_batch, self.target.training.batch_size
        if micro is not None and each % micro:
            raise UsageError(f"--micro-batch {micro} must divide --batch-size {each}")
        return each * int(self.cluster.strategy.num_replicas_in_sync)

    def _packed(
        self, batch: int, partition: Partition
    ) -> tuple[dict[PartName, Part], dict[PartName, dict[Label, int]]]:
        """Let this worker's shards be streamed, and count what is in all of them."""
        target = self.target
        tag, training = target.dataset.tag, target.training
        packed = load_packed(self.storage, tag, training.packed)
        counts = {part: packed.images(part) for part in _FED}
        _check_counts(tag, counts)
        counts["threshold"] = dict(partition.images["threshold"])
        folder = self.means.cache_folder
        parts: dict[PartName, Part] = {
            part: _Streamed(self.storage, packed, part, batch, training.seed, folder)
            for part in _FED
        }
        return parts, counts

    def _fetched(
        self, batch: int, partition: Partition
    ) -> tuple[dict[PartName, Part], dict[PartName, dict[Label, int]]]:
        """Fetch this worker's share of the images, and count all that are there."""
        target, means = self.target, self.means
        rows = rows_of_parts(self.storage, target.dataset, partition, _FED)
        each = batch // self.cluster.workers
        places = slice(self.cluster.worker * each, (self.cluster.worker + 1) * each)
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
            for sample in sync(self.storage, tag, wanted, folder, means.concurrency)
        }

        def held(part: PartName) -> dict[Label, int]:
            own = (rows[part][index] for index in plans[part].images_at(places, counted=True))
            return _counts([row for row in own if row.md5 in samples])

        there = [count for part in plans for count in held(part).values()]
        sums = iter(np.sum(self.cluster.gather(there), axis=0).tolist())
        counts = {part: {label: next(sums) for label in LABELS} for part in plans}
        _check_counts(tag, counts)
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
            parts[part] = Images(source, targets[part], plan)
        return parts, counts

    def _checkpoints(self) -> Checkpoints:
        tag, run = self.target.dataset.tag, self.target.run
        folder = (
            self.means.cache_folder / "checkpoints" / _digest([self.storage.url, tag, run])[:16]
        )
        shared = self.cluster.workers > 1
        return Checkpoints(self.storage, tag, run, folder, shared=shared)

    def _recipe(self, counts: dict[Label, int]) -> Recipe:
        training, means = self.target.training, self.means
        balanced = training.class_weights == "balanced"
        return Recipe(
            Objective(
                class_weights=_class_weights(counts) if balanced else (1.0, 1.0),
                label_smoothing=training.label_smoothing,
                clip_norm=training.clip_norm,
            ),
            optimizer=training.optimizer,
            weight_decay=training.weight_decay,
            schedule=training.schedule,
            warmup=training.warmup_epochs,
            patience=training.patience,
            augment=RandomAffine(shear=training.shear) if training.augment else None,
            micro_batch=means.micro_batch,
            jit=means.jit,
            scale_loss=training.mixed_precision == "mixed_float16",
            checkpoint_seconds=means.checkpoint_seconds,
        )

    def _identity(self, batch: int) -> list[object]:
        """Return what a checkpoint must have in common with a training that goes on from it."""
        target = self.target
        settings = _deciding(target.training)
        # Streamed batches depend on how many workers share the shards.
        workers = 0 if target.training.packed == "no" else self.cluster.workers
        return [settings, target.size, target.dataset.fingerprint, batch, workers]

    def _result(
        self,
        state: State,
        counts: dict[PartName, dict[Label, int]],
        model: keras.Model,
        batch: int,
    ) -> Run:
        target = self.target
        best = state.history[state.best_epoch - 1]
        return Run(
            tag=target.dataset.tag,
            run=target.run,
            model=target.training.model,
            settings=target.training.model_dump(),
            image_size=target.size,
            images=counts,
            fingerprint=target.dataset.fingerprint,
            seed=target.training.seed,
            best_epoch=state.best_epoch,
            history=state.history,
            validation={
                key.removeprefix("val_"): value
                for key, value in best.items()
                if key.startswith("val_")
            },
            parameters=model.count_params(),
            seconds=round(state.seconds, 1),
            devices=device_names(),
            workers=self.cluster.workers,
            replicas=int(self.cluster.strategy.num_replicas_in_sync),
            global_batch=batch,
            versions=versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _store(
        self, run: Run, model: keras.Model, durations: Sequence[float], scratch: Path
    ) -> None:
        """Upload the model first, its marker after it, the pointer to it last."""
        storage, layout = self.storage, Layout(run.tag)
        path = scratch / "model.keras"
        with_resizing(model, run.image_size, run.resize).save(path)
        storage.upload(path, layout.run(run.run, "model.keras"))
        if self.means.export:
            _export(storage, run, model, scratch)
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(run.history[0]))
        writer.writeheader()
        writer.writerows(run.history)
        storage.write(layout.run(run.run, "history.csv"), table.getvalue().encode())
        began = datetime.fromisoformat(run.created).timestamp() - run.seconds
        timed = [
            {**row, "seconds": duration}
            for row, duration in zip(run.history, durations, strict=True)
        ]
        for file in write_events(timed, scratch / "tensorboard", began):
            name = file.relative_to(scratch).as_posix()
            storage.upload(file, layout.run(run.run, name))
        card = model_card(
            run,
            self.target.dataset,
            read_cautions(storage, self.target.dataset, HeldOut.by(run)),
        )
        storage.write(layout.run(run.run, "README.md"), card.encode())
        marker = run.model_dump_json(indent=2).encode() + b"\n"
        storage.write(layout.run(run.run, "metrics.json"), marker)
        storage.write(layout.latest, run.run.encode() + b"\n")
        get_logger().info(
            "trained",
            run=run.run,
            epochs=len(run.history),
            best_epoch=run.best_epoch,
            seconds=run.seconds,
            **{f"validation_{key}": round(value, 4) for key, value in run.validation.items()},
            storage=f"{storage.url}/{layout.run(run.run, '')}",
        )


@dataclass(frozen=True)
class _Streamed:
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


def _complete(target: Target, run: Run, means: Means) -> None:
    """Add to a complete run what it was made without, what a kill came before, or what was lost."""
    storage = target.storage
    if run.parts:
        try:
            load_partition(storage, run)
        except InputError as error:
            get_logger().warning("made anew", reason=str(error))
            store_partition(storage, run.tag, run.run, target.partition())
    if means.export and not is_exported(storage, run.tag, run.run):
        with tempfile.TemporaryDirectory(prefix="imagetag-train-") as scratch:
            model = load_model(storage, run, Path(scratch))
            _export(storage, run, model, Path(scratch))
    _repair_latest(storage, run)


def _export(storage: Storage, run: Run, model: keras.Model, scratch: Path) -> None:
    store_export(storage, run.tag, run.run, model, scratch, size=run.image_size, resize=run.resize)


def _phases(training: Training) -> list[Phase]:
    """Return what trains when: all at once, or the head and then the backbone's top blocks."""
    rate = training.learning_rate or 0.0
    if training.freeze_backbone == "no":
        return [Phase("all", "all", training.epochs, rate)]
    still = not training.augment and training.packed == "no"
    phases = [Phase("head", 0, training.epochs, rate, on_features=still)]
    if training.fine_tune_blocks:
        phases.append(
            Phase(
                "fine-tune",
                training.fine_tune_blocks,
                training.fine_tune_epochs,
                training.fine_tune_rate or rate * 0.03,
            )
        )
    return phases


def _settled(training: Training) -> Training:
    """Return the settings with every `auto` replaced by what it stands for."""
    weights, pretrained = training.weights, can_be_pretrained(training.model)
    if weights == "auto":
        weights = "imagenet" if pretrained else "none"
    freeze = training.freeze_backbone
    if freeze == "auto":
        freeze = "yes" if pretrained and weights != "none" else "no"
    if freeze == "yes" and not pretrained:
        raise UsageError(f"--freeze-backbone yes: {training.model} has no backbone to freeze")
    rate = training.learning_rate
    if rate is None:
        # A new head alone bears a high rate; a pretrained backbone is spoilt by one, and the
        # AlexNet of the paper, without batch normalization, diverges.
        fine = weights != "none" or training.model == "alexnet"
        rate = 1e-3 if freeze == "yes" or not fine else 1e-4
    return training.model_copy(
        update={"weights": weights, "freeze_backbone": freeze, "learning_rate": rate}
    )


def _deciding(training: Training | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which two trainings are told apart.

    `image_size` may be `auto` in one and the same in pixels in the other. Runs from before suspects
    could be excluded do not say that they were not.
    """
    found = training.model_dump() if isinstance(training, Training) else dict(training)
    found.pop("image_size", None)
    if found.get("exclude_suspects") == "no":
        del found["exclude_suspects"]
    return found


def _measure(run: Run) -> None:
    """Note how fast a training was, in the pictures of its epochs, validation's among them."""
    images = sum(count for part in _FED for count in run.images[part].values())
    measured(
        model=run.model,
        pixels=run.image_size[0] * run.image_size[1],
        images=images,
        epochs=len(run.history),
        training_seconds=run.seconds,
        devices=run.replicas,
        gpus=sum("GPU" in device.upper() for device in run.devices),
    )


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()


def _run_name(training: Training, size: Size, dataset: Dataset) -> str:
    identity = [_deciding(training), size, dataset.fingerprint]
    return f"{training.model}-{_digest(identity)[:8]}"


def _counts(rows: Sequence[Row]) -> dict[Label, int]:
    return {label: sum(row.label == label for row in rows) for label in LABELS}


def _check_counts(tag: str, counts: Mapping[Any, Mapping[Label, int]]) -> None:
    least_images: dict[PartName, int] = {"train": _LEAST_IMAGES, "validation": _LEAST_IMAGES // 4}
    for part, least in least_images.items():
        for label, count in counts[part].items():
            if count < least:
                purpose = "train" if part == "train" else "validate"
                raise InputError(
                    f"the tag {tag!r} has {count} {label} images to {purpose} on and {least} are "
                    "needed: scrape more with a higher --limit"
                )


def _tell_small(run: str, counts: Mapping[Use, Mapping[Label, int]]) -> None:
    """Warn of parts that are too small for what they are there for."""
    held_out = HeldOut(counts["validation"], counts["threshold"], run)
    for few, part, option in (
        (held_out.few_to_validate, held_out.validation, "--validation-fraction"),
        (held_out.few_to_promise, held_out.threshold, "--threshold-fraction"),
    ):
        if few:
            get_logger().warning(
                f"{few}; scrape more with a higher --limit, or raise {option}",
                **{str(label): count for label, count in part.items()},
            )


def _class_weights(counts: dict[Label, int]) -> tuple[float, float]:
    """Return weights of (negatives, positives) that make both count alike, 1 on average."""
    total = counts["positive"] + counts["negative"]
    return total / (2 * counts["negative"]), total / (2 * counts["positive"])


def _weights(text: str, folder: Path) -> Literal["imagenet"] | Path | None:
    if text == "none":
        return None
    if text == "imagenet":
        return "imagenet"
    if "://" not in text:
        return Path(text)  # which was looked at before
    return _stored_weights(text, folder)


@functools.cache
def _stored_weights(url: str, folder: Path) -> Path:
    """Fetch weights from storage: once a process, as nothing tells whether an old copy is right."""
    parent, _, name = url.rpartition("/")
    path = folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    try:
        open_storage(parent).download(name, path)
    except (ObjectNotFound, UsageError) as error:
        raise UsageError(f"--weights {url!r}: {error}") from error
    if problem := weights_problem(path):
        raise UsageError(f"--weights {url!r} {problem}")
    return path


def _repair_latest(storage: Storage, run: Run) -> None:
    """Let `LATEST` name a complete run if it names none or an older one: a kill came before."""
    try:
        if load_run(storage, run.tag, "latest").created >= run.created:
            return
    except InputError:
        pass
    storage.write(Layout(run.tag).latest, run.run.encode() + b"\n")
