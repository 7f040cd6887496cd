"""Train a model in phases until its validation loss stops falling, and go on where it stopped.

A phase lets some of the model train: the head, then the top blocks of its backbone, or all at
once. What an epoch saw and decided is in a `State`; with the numbers of the variables it is a
checkpoint, and from one any machine goes on as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from imagetag.errors import InputError, UsageError
from imagetag.inputs import Arrays as Inputs
from imagetag.inputs import Batches, Plan, RandomAffine
from imagetag.job import stop
from imagetag.log import Progress, get_logger
from imagetag.models import backbone_of, features_of, head_of, logits_of, set_trainable
from imagetag.train.checkpoint import Arrays, Checkpoint, Checkpoints, Place, State
from imagetag.train.cluster import Cluster
from imagetag.train.data import Images, Part
from imagetag.train.losses import STATS, metrics_of
from imagetag.train.schedule import OptimizerName, Schedule, ScheduleName
from imagetag.train.step import Objective, Stepper, Sums

_RECENT = 3  # epochs, by which the time that is left is told


@dataclass(frozen=True)
class Phase:
    """What trains, and for how long.

    `blocks` of the backbone train beside the head. With `on_features` the backbone does not move,
    nor do the images: its features are computed once.
    """

    name: str
    blocks: int | Literal["all"]
    epochs: int
    rate: float
    on_features: bool = False


@dataclass(frozen=True)
class Recipe:
    """How all phases are trained.

    Early stopping has `patience` epochs; after half as many the plateau schedule halves the rate.
    `warmup` is in epochs. `checkpoint_seconds` lie between two checkpoints at least.
    """

    objective: Objective
    optimizer: OptimizerName = "adam"
    weight_decay: float = 0.0
    schedule: ScheduleName = "plateau"
    warmup: float = 0.0
    patience: int = 5
    augment: RandomAffine | None = None
    micro_batch: int | None = None
    jit: bool = False
    scale_loss: bool = False
    checkpoint_seconds: float = 300.0


@dataclass
class Fitting:
    """A training under way. `fit` does it; the model is left with the weights of its best epoch.

    Args:
        model: made in the scope of the cluster's strategy.
        phases: one after the other; each begins with the best weights so far.
        recipe: how.
        train: what is trained on.
        validation: what decides when to stop.
        cluster: on which devices.
        checkpoints: where it stands is kept there.
        identity: of all settings and data that a checkpoint must have in common.

    """

    model: keras.Model
    phases: list[Phase]
    recipe: Recipe
    train: Part
    validation: Part
    cluster: Cluster
    checkpoints: Checkpoints
    identity: str
    state: State = field(init=False)
    _best: Arrays = field(init=False, default_factory=list)
    _optimizer: keras.optimizers.Optimizer = field(init=False, default=None)
    _sums: Sums = field(init=False, default_factory=Sums)
    _rate: float | None = field(init=False, default=None)
    _variables: list[Any] = field(init=False, default_factory=list)
    _saved: float = field(init=False, default=0.0)
    _begun: float = field(init=False, default=0.0)

    def fit(self, *, resume: bool) -> State:
        """Train, from the newest checkpoint if there is one and `resume` says so.

        Raises:
            InputError: if the loss is not a number any more.
            UsageError: if the checkpoint is of other settings or images, or memory is too small.
            TransientError: if another worker is lost.
            Terminated, KeyboardInterrupt: if a signal asks for it, with a checkpoint stored.

        """
        self._begun = self._saved = time.monotonic()
        self._variables = _that_may_change(self.model, self.phases)
        checkpoint = self._restored() if resume else None
        if checkpoint is None:
            self.state = State(identity=self.identity)
        with stop.noted(), self._explained():
            while self.state.phase < len(self.phases):
                self._run_phase(checkpoint)
                self._begin_phase(self.state.phase + 1)
                checkpoint = None
            self._leave_if_asked()
        self.state.seconds += time.monotonic() - self._begun
        return self.state

    def _begin_phase(self, phase: int) -> None:
        """Take the best weights so far; the epochs, and early stopping, count anew."""
        state = self.state
        state.phase, state.epoch, state.step, state.waited = phase, 0, 0, 0
        state.since_halving = state.halvings = 0
        _assign(self._variables, self._best)

    def _run_phase(self, checkpoint: Checkpoint | None) -> None:
        phase, state, strategy = self.phases[self.state.phase], self.state, self.cluster.strategy
        set_trainable(self.model, phase.blocks)
        with strategy.scope():
            model = head_of(self.model) if phase.on_features else logits_of(self.model)
            self._optimizer = _optimizer(self.recipe, phase.rate)
            self._optimizer.build(model.trainable_variables)
        self._rate = None
        if checkpoint is not None:
            _assign(self._optimizer.variables, checkpoint.optimizer)
        stepper = Stepper(
            model,
            self._optimizer,
            strategy,
            self.recipe.objective,
            augment=None if phase.on_features else self.recipe.augment,
            micro_batch=self.recipe.micro_batch,
            jit=self.recipe.jit,
        )
        train, validation = (
            self._on_features(part) if phase.on_features else part.feed(self.cluster)
            for part in (self.train, self.validation)
        )
        schedule = Schedule(
            self.recipe.schedule,
            phase.rate,
            round(self.recipe.warmup * train.steps),
            phase.epochs * train.steps,
        )
        get_logger().info(
            "phase",
            phase=phase.name,
            trainable=sum(int(np.prod(v.shape)) for v in model.trainable_variables),
            steps=train.steps,
            epoch=len(state.history) + 1,
            step=state.step,
        )
        batches = iter(self._distributed(lambda: train.from_step(len(state.history), state.step)))
        unseen = self._distributed(validation.one_pass)
        self._sums = Sums(state.stats)
        with train.explained(), validation.explained():
            self._run_epochs(stepper, batches, unseen, schedule, train.steps)

    def _run_epochs(
        self,
        stepper: Stepper,
        batches: Iterator[Any],
        unseen: Any,
        schedule: Schedule,
        steps: int,
    ) -> None:
        phase, state = self.phases[self.state.phase], self.state
        while state.epoch < phase.epochs and state.waited < self.recipe.patience:
            started = time.monotonic()
            self._run_epoch(stepper, batches, schedule, steps)
            sums = Sums()
            for batch in unseen:
                sums.add(stepper.test(batch))
                self._leave_if_asked()
            self._end_epoch(phase, schedule, sums, steps, time.monotonic() - started)

    def _run_epoch(
        self, stepper: Stepper, batches: Iterator[Any], schedule: Schedule, steps: int
    ) -> None:
        state = self.state
        images = self.train.batch
        # The last step's batch may be filled up.
        total = min(self.train.count, steps * images)
        number = len(state.history) + 1
        last = self._last_epoch(self.phases[state.phase], done=state.epoch)
        with Progress("train", total=total, epoch=number, epochs=last) as progress:
            progress.advance(state.step * images)
            while state.step < steps:
                rate = schedule.at(state.epoch * steps + state.step, state.halvings)
                self._set_rate(rate)
                self._sums.add(stepper.train(next(batches)))
                state.step += 1
                progress.advance(min(images, total - (state.step - 1) * images))
                if self.cluster.is_chief and not stop.asked and self._is_time():
                    self._save()
                self._leave_if_asked()

    def _end_epoch(
        self, phase: Phase, schedule: Schedule, sums: Sums, steps: int, seconds: float
    ) -> None:
        state = self.state
        trained = metrics_of(dict(zip(STATS, self._sums.values(), strict=True)))
        unseen = metrics_of(dict(zip(STATS, sums.values(), strict=True)))
        self._check_finite(trained["loss"], unseen["loss"])
        row = {
            "epoch": float(len(state.history) + 1),
            **trained,
            **{f"val_{name}": value for name, value in unseen.items()},
            "learning_rate": schedule.at(state.epoch * steps + steps - 1, state.halvings),
        }
        state.history.append(row)
        state.durations.append(round(seconds, 3))
        state.epoch, state.step, self._sums = state.epoch + 1, 0, Sums()
        state.stats = self._sums.values()
        if state.best_loss is None or unseen["loss"] < state.best_loss:
            state.best_loss, state.best_epoch = unseen["loss"], len(state.history)
            state.waited = state.since_halving = 0
            self._best = _values(self._variables)
        else:
            state.waited += 1
            state.since_halving += 1
            if state.since_halving >= max(1, self.recipe.patience // 2):
                state.halvings, state.since_halving = state.halvings + 1, 0
        get_logger().info(
            "epoch",
            phase=phase.name,
            seconds=round(seconds, 1),
            **{name: round(value, 6) for name, value in row.items()} | {"epoch": int(row["epoch"])},
            epochs=self._last_epoch(phase, done=state.epoch),
            best_epoch=state.best_epoch,
            best_val_loss=round(state.best_loss, 6),
            seconds_left=self._seconds_left(phase),
        )

    def _last_epoch(self, phase: Phase, *, done: int) -> int:
        """Return the last epoch that the phase can have, of which some are done."""
        return len(self.state.history) - done + phase.epochs

    def _seconds_left(self, phase: Phase) -> float:
        """Return how long the phase can last at the most, by its last epochs."""
        state = self.state
        if state.waited >= self.recipe.patience:
            return 0.0
        recent = state.durations[-min(state.epoch, _RECENT) :]
        return round((phase.epochs - state.epoch) * sum(recent) / len(recent), 1)

    def _set_rate(self, rate: float) -> None:
        if rate != self._rate:
            # Beneath a loss scale there is another optimizer.
            getattr(self._optimizer, "inner_optimizer", self._optimizer).learning_rate = rate
            self._rate = rate

    def _on_features(self, part: Part) -> Batches:
        """Return batches of the features of this worker's images, from the frozen backbone."""
        assert isinstance(part, Images)  # noqa: S101 - a phase on streamed images is not on features
        model, strategy = features_of(self.model), self.cluster.strategy
        # The same images at the same places as in training, once each.
        plan = Plan(part.targets, part.plan.batch, part.plan.seed, shuffle=False)
        feed = Images(part.source, part.targets, plan).feed(self.cluster)
        epoch = plan.epoch(0)
        images, counted = (
            array[:, feed.places].reshape(-1, feed.each) for array in (epoch.images, epoch.counted)
        )
        values = np.zeros((len(part.targets), model.output.shape[-1]), np.float32)
        readable = np.zeros(len(part.targets), np.bool_)

        def compute(inputs: Any, weights: Any) -> tuple[Any, Any]:
            return model(inputs, training=False), weights

        run = tf.function(
            lambda batch: strategy.run(compute, (batch[0], batch[2])), autograph=False
        )
        number = 0
        with feed.explained(), Progress("features", total=int(counted.sum())) as progress:
            for batch in self._distributed(feed.one_pass):
                for features, weights in zip(
                    *map(strategy.experimental_local_results, run(batch)), strict=True
                ):
                    values[images[number]] = features.numpy()
                    # An image that fills up a batch has no weight there, but it has one elsewhere,
                    # in the same batch maybe.
                    np.logical_or.at(readable, images[number], weights.numpy() > 0)
                    progress.advance(int(counted[number].sum()))
                    number += 1
        return part.feed(self.cluster, Inputs(values, readable))

    def _distributed(self, make: Any) -> Any:
        return self.cluster.strategy.distribute_datasets_from_function(lambda _context: make())

    def _is_time(self) -> bool:
        """Tell whether a checkpoint is due; where storage is slow, they are fewer."""
        passed = time.monotonic() - self._saved
        return passed > self.recipe.checkpoint_seconds and not self.checkpoints.busy

    def _leave_if_asked(self) -> None:
        """Store a checkpoint and leave, if a signal has come.

        After a step the variables are the same on all workers: each can do so alone.
        """
        if stop.asked is None:
            return
        get_logger().info("stopping: a checkpoint is stored first; Ctrl-C again leaves without it")
        self._save()
        where = self.checkpoints.settle()
        leaving = stop.asked()
        leaving.add_note(self._kept(where))
        raise leaving

    def _kept(self, where: Place | None) -> str:
        state = self.state
        if where is None:
            return (
                "no checkpoint could be stored; run it again to go on from the one before, if "
                "there is one"
            )
        place = {"storage": "stored", "disk": "on this machine alone, as storage failed"}[where]
        return (
            f"a checkpoint is {place} (epoch {len(state.history) + 1}, step {state.step}); run it "
            "again to go on from there"
        )

    def _save(self) -> None:
        state = self.state
        state.stats = self._sums.values()
        self._check_finite(*state.stats)
        seconds = state.seconds + time.monotonic() - self._begun
        self.checkpoints.save(
            Checkpoint(
                state.model_copy(deep=True, update={"seconds": seconds}),
                _values(self._variables),
                _values(self._optimizer.variables),
                self._best,
            )
        )
        self._saved = time.monotonic()

    def _restored(self) -> Checkpoint | None:
        """Load the newest checkpoint, the same on all workers."""
        checkpoint = self.checkpoints.newest()
        digest = "0" * 64 if checkpoint is None else checkpoint.digest()
        self.cluster.agree("a checkpoint", digest)
        if checkpoint is None:
            return None
        if checkpoint.state.identity != self.identity:
            raise UsageError(
                "the run's checkpoint is of other settings, images, weights or another global "
                "batch (replicas x --batch-size): train as it was begun, choose another --run, or "
                "begin anew with --resume never"
            )
        self.state, self._best = checkpoint.state, checkpoint.best
        _assign(self._variables, checkpoint.variables)
        get_logger().info(
            "resumed",
            phase=self.phases[self.state.phase].name,
            epoch=len(self.state.history) + 1,
            step=self.state.step,
            digest=digest[:12],
        )
        return checkpoint

    def _check_finite(self, *values: float) -> None:
        if not np.isfinite(values).all():
            rate = self.phases[self.state.phase].rate
            raise InputError(
                "the training diverged (the loss is not a number) at --learning-rate "
                f"{rate}: try a tenth of it"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with self.cluster.lost_workers():
                yield
        except tf.errors.ResourceExhaustedError as error:
            raise UsageError(
                "the device's memory is too small for this: set --micro-batch to a half or quarter "
                "of --batch-size, or take a smaller --image-size"
            ) from error


def _that_may_change(model: keras.Model, phases: Sequence[Phase]) -> list[Any]:
    """Return the variables that a phase may change: all but those of a frozen backbone."""
    backbone = backbone_of(model)
    if backbone is None or any(phase.blocks == "all" for phase in phases):
        return list(model.variables)
    frozen = {id(variable) for variable in backbone.weights}
    for phase in phases:
        set_trainable(model, phase.blocks)
        frozen -= {id(variable) for variable in model.trainable_variables}
    return [variable for variable in model.variables if id(variable) not in frozen]


def digest_of(model: keras.Model) -> str:
    """Return a hash of a model's weights."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).data)
    return digest.hexdigest()


def _values(variables: Iterable[Any]) -> Arrays:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: Iterable[Any], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _optimizer(recipe: Recipe, rate: float) -> keras.optimizers.Optimizer:
    if recipe.optimizer == "sgd":
        made = keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay or None
        )
    elif recipe.optimizer == "adamw":
        made = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
    else:
        made = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
    return keras.optimizers.LossScaleOptimizer(made) if recipe.scale_loss else made
