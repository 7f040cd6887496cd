"""Train a tag's classifier, where that is not done: only then is TensorFlow loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from imagetag.checks import LEAST_SIDES, is_alexnet
from imagetag.dataset import (
    CACHE_BYTES,
    CACHE_MEMORY,
    THRESHOLD_FRACTION,
    VALIDATION_FRACTION,
    Dataset,
    Resize,
    load_dataset,
)
from imagetag.errors import InputError, TransientError, UsageError
from imagetag.explore import input_size
from imagetag.imaging import Size
from imagetag.inputs import (
    Exclusion,
    Partition,
    find_exclusion,
    find_partition,
    load_packed,
    load_partition,
    store_partition,
)
from imagetag.layout import Layout, checked_run
from imagetag.log import get_logger
from imagetag.quiet import quiet_imports
from imagetag.runs import Run, is_exported, load_run
from imagetag.storage import CACHE_FOLDER, ObjectNotFound, Place, Storage, opened
from imagetag.train.cluster import Cluster
from imagetag.train.precision import Precision
from imagetag.train.schedule import OptimizerName, ScheduleName

if TYPE_CHECKING:
    import tensorflow as tf


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
    mixed_precision: Precision = "float32"
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
        cluster: on which devices; None for what TensorFlow's strategy in scope has. `batch_size`
            is that of each replica.
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
    cluster = cluster or Cluster(_in_scope)
    target = _agreed_target(storage, tag, training or Training(), cluster, run)
    done = target.completed()
    if len({row[0] for row in cluster.gather([int(done is not None)])}) > 1:
        raise TransientError("the workers do not agree whether the run is complete: start again")
    if done is not None:
        if cluster.is_chief:
            _complete(target, done, cluster, means)
        where = f"{storage.url}/{Layout(tag).run(target.run, '')}"
        get_logger().info("already trained", run=target.run, storage=where)
        return done
    with quiet_imports():
        from imagetag.train.training_run import make_run

    made = make_run(target, cluster, means)
    cluster.gather([1])  # the others wait until the chief has stored it
    return made


def _in_scope() -> tf.distribute.Strategy:
    import tensorflow as tf

    return tf.distribute.get_strategy()


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
        digest = digest_of_values([tag, str(error).replace(storage.url, "")])
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
        identity = [deciding(self.training), self.size, self.dataset.fingerprint]
        return digest_of_values([self.dataset.tag, self.run, *identity])

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
        theirs = (deciding(run.settings), run.image_size, run.fingerprint)
        if theirs != (deciding(self.training), self.size, self.dataset.fingerprint):
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


def _complete(target: Target, run: Run, cluster: Cluster, means: Means) -> None:
    """Add to a complete run what it was made without, what a kill came before, or what was lost."""
    storage = target.storage
    if run.parts:
        try:
            load_partition(storage, run)
        except InputError as error:
            get_logger().warning("made anew", reason=str(error))
            store_partition(storage, run.tag, run.run, target.partition())
    if means.export and not is_exported(storage, run.tag, run.run):
        with quiet_imports():
            from imagetag.train.training_run import export_run

        cluster.connect()  # the next tag may need it, and TensorFlow can do it no more then
        export_run(storage, run)
    _repair_latest(storage, run)


def _settled(training: Training) -> Training:
    """Return the settings with every `auto` replaced by what it stands for."""
    weights, pretrained = training.weights, not is_alexnet(training.model)
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


def deciding(training: Training | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which two trainings are told apart.

    `image_size` may be `auto` in one and the same in pixels in the other. Runs from before suspects
    could be excluded do not say that they were not.
    """
    found = training.model_dump() if isinstance(training, Training) else dict(training)
    found.pop("image_size", None)
    if found.get("exclude_suspects") == "no":
        del found["exclude_suspects"]
    return found


def digest_of_values(values: object) -> str:
    """Return a digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()


def _run_name(training: Training, size: Size, dataset: Dataset) -> str:
    identity = [deciding(training), size, dataset.fingerprint]
    return f"{training.model}-{digest_of_values(identity)[:8]}"


def _repair_latest(storage: Storage, run: Run) -> None:
    """Let `LATEST` name a complete run if it names none or an older one: a kill came before."""
    try:
        if load_run(storage, run.tag, "latest").created >= run.created:
            return
    except InputError:
        pass
    storage.write(Layout(run.tag).latest, run.run.encode() + b"\n")
