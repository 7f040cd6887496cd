"""Train a model in phases until its validation loss stops falling, and go on where it stopped.

A head that was fitted to features is the best there is until validation says otherwise: what is
trained after it is kept only if it is better there by more than chance has it.

A phase lets some of the model train: the head, then the top blocks of its backbone, or all at
once. What an epoch saw and decided is in a `State`; with the numbers of the variables it is a
checkpoint, and from one any machine goes on as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from imagetag.errors import InputError, UsageError
from imagetag.inputs import RandomAffine
from imagetag.job import stop
from imagetag.log import Progress, get_logger
from imagetag.models import backbone_of, logits_of, set_head, set_trainable
from imagetag.stats import calibrated_gain
from imagetag.train.checkpoint import Arrays, Checkpoint, Checkpoints, Place, State
from imagetag.train.cluster import Cluster
from imagetag.train.data import Images, Part
from imagetag.train.head import Features, Featurizer, fitted, metrics_by_logits
from imagetag.train.losses import STATS, metrics_of
from imagetag.train.schedule import OptimizerName, Schedule, ScheduleName
from imagetag.train.step import Objective, Stepper, Sums

_RECENT = 3  # epochs, by which the time that is left is told


@dataclass(frozen=True)
class Phase:
    """What trains, and for how long.

    `blocks` of the backbone train beside the head. With `fitted` nothing is trained in steps: the
    head is fitted to the backbone's features.
    """

    name: str
    blocks: int | Literal["all"]
    epochs: int
    rate: float
    fitted: bool = False


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
        mirror: the model's features are to be averaged over each picture and its mirror image.

    """

    model: keras.Model
    phases: list[Phase]
    recipe: Recipe
    train: Part
    validation: Part
    cluster: Cluster
    checkpoints: Checkpoints
    identity: str
    mirror: bool = False
    state: State = field(init=False)
    _first: Arrays = field(init=False, default_factory=list)
    _head: Arrays = field(init=False, default_factory=list)
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
        if self.phases[0].fitted:
            self._first = _values(self._variables)
        checkpoint = self._restored() if resume else None
        if checkpoint is None:
            self.state = State(identity=self.identity)
        with stop.noted(), self._explained():
            while self.state.phase < len(self.phases):
                self._run_phase(checkpoint)
                self._begin_phase(self.state.phase + 1)
                checkpoint = None
            self._leave_if_asked()
            if self._head:
                self._choose()
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
        if phase.fitted:
            self._fit_head()
            return
        with strategy.scope():
            model = logits_of(self.model)
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
            augment=self.recipe.augment,
            micro_batch=self.recipe.micro_batch,
            jit=self.recipe.jit,
        )
        train, validation = (part.feed(self.cluster) for part in (self.train, self.validation))
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
            progress.skip(state.step * images)
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
        rate = schedule.at(state.epoch * steps + steps - 1, state.halvings)
        self._note_epoch(phase, trained, unseen, rate, seconds)

    def _note_epoch(
        self,
        phase: Phase,
        trained: dict[str, float],
        unseen: dict[str, float],
        rate: float,
        seconds: float,
    ) -> None:
        state = self.state
        self._check_finite(trained["loss"], unseen["loss"])
        row = {
            "epoch": float(len(state.history) + 1),
            **trained,
            **{f"val_{name}": value for name, value in unseen.items()},
            "learning_rate": rate,
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

    def _fit_head(self) -> None:
        """Fit the head to the features of train, for what is trained next; and to all there are.

        The latter is what is kept if nothing better comes: validation is then not needed any more.
        """
        begun, phase = time.monotonic(), self.phases[self.state.phase]
        objective = self.recipe.objective
        balanced = objective.class_weights != (1.0, 1.0)
        get_logger().info("phase", phase=phase.name, epoch=1, step=0)
        train, validation = self._features(self.train), self._features(self.validation)
        kernel, bias, strength = fitted(train, self.cluster, balanced=balanced)
        last_kernel, last_bias, _ = fitted(train + validation, self.cluster, balanced=balanced)
        unseen = validation.logits(kernel, bias)
        set_head(self.model, kernel, float(bias[0]))
        self._head = [last_kernel, last_bias, unseen]
        get_logger().info("fitted", strength=float(f"{strength:.3g}"), images=len(train.labels))
        trained, known = (
            metrics_by_logits(part.labels, logits, objective.class_weights)
            for part, logits in ((train, train.logits(kernel, bias)), (validation, unseen))
        )
        self._note_epoch(phase, trained, known, 0.0, time.monotonic() - begun)
        # The losses of the next phase are those of the pictures without their mirror images.
        self.state.best_loss = None

    def _choose(self) -> None:
        """Keep what was trained after the head if validation says that it is better, or the head.

        It has to be better by more than one standard error, both at their best temperature.
        """
        state, (kernel, bias, unseen) = self.state, self._head
        if len(state.history) > 1:
            validation = self._features(self.validation)
            weights = self.model.get_layer("logit").get_weights()
            gain, error = calibrated_gain(
                validation.labels,
                unseen,
                validation.logits(*weights),
                validation.groups.tolist(),
                self.recipe.objective.class_weights,
            )
            better = self.cluster.gather([int(gain > error)])[0][0] > 0  # as the chief sees it
            get_logger().info(
                "fine-tuning is kept" if better else "fine-tuning is no better: the head is kept",
                gain=round(gain, 4),
                standard_error=round(error, 4),
            )
            if better:
                return
        _assign(self._variables, self._first)
        set_head(self.model, kernel, float(bias[0]))
        state.best_epoch = 1

    def _features(self, part: Part) -> Features:
        assert isinstance(part, Images)  # noqa: S101 - of streamed images no head is fitted
        return self._featurizer.features(part, self._leave_if_asked)

    @functools.cached_property
    def _featurizer(self) -> Featurizer:
        """What computes features; compiled once."""
        return Featurizer(self.model, self.cluster, mirror=self.mirror)

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
                [] if self._optimizer is None else _values(self._optimizer.variables),
                self._best,
                self._head,
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
        self.state, self._best, self._head = checkpoint.state, checkpoint.best, checkpoint.head
        _assign(self._variables, checkpoint.variables)
        get_logger().info(
            "resumed",
            phase=self.phases[min(self.state.phase, len(self.phases) - 1)].name,
            epoch=len(self.state.history) + 1,
            step=self.state.step,
            digest=digest[:12],
        )
        return checkpoint

    def _check_finite(self, *values: float) -> None:
        if not np.isfinite(values).all():
            rate = self.phases[min(self.state.phase, len(self.phases) - 1)].rate
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
