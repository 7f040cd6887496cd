"""Train a classifier of one tag, from its dataset in storage to a model in storage."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import keras

from imagetag.explore import HeldOut, read_cautions
from imagetag.export import store_export
from imagetag.inputs import (
    RandomAffine,
    Use,
    store_partition,
)
from imagetag.job import measured
from imagetag.layout import Label, Layout, PartName
from imagetag.log import get_logger, working
from imagetag.models import build_model, device_names, find_weights, with_resizing
from imagetag.runs import Run, load_model, model_card, versions
from imagetag.storage import Storage
from imagetag.train.checkpoint import Checkpoints, State, checkpoints_below
from imagetag.train.cluster import Cluster
from imagetag.train.data import FED, check_counts, fetched_parts, streamed_parts
from imagetag.train.fit import Fitting, Phase, Recipe, digest_of
from imagetag.train.precision import precision
from imagetag.train.seeds import seeded
from imagetag.train.settings import Means, Training, deciding
from imagetag.train.step import Objective
from imagetag.train.target import Target, digest_of_values
from imagetag.train.tensorboard import write_events


def make_run(target: Target, cluster: Cluster, means: Means) -> Run:
    """Train on a tag's train split and store the model; the test split is not touched.

    Raises:
        InputError: if there are too few images.
        UsageError: if the settings do not fit the model, or a checkpoint.
        TransientError: if storage or weights cannot be reached, or another worker is lost.

    """
    return _Making(target, cluster, means).make()


def export_run(storage: Storage, run: Run) -> None:
    """Store the SavedModel of a complete run that has none.

    Raises:
        InputError: if its model is missing or damaged.

    """
    with tempfile.TemporaryDirectory(prefix="imagetag-train-") as scratch:
        model = load_model(storage, run, Path(scratch))
        _export(storage, run, model, Path(scratch))


@dataclass
class _Making:
    target: Target
    cluster: Cluster
    means: Means

    def make(self) -> Run:
        target, training, means = self.target, self.target.training, self.means
        self.cluster.connect()
        keras.utils.clear_session()  # of the tag before
        partition = target.partition()
        check_counts(target.dataset.tag, partition.images)
        _tell_small(target.run, partition.images)
        weights = find_weights(training.weights, means.cache_folder / "weights")
        batch = self._global_batch()
        with (
            working("building the model"),
            self.cluster.strategy.scope(),
            precision(training.mixed_precision),
            seeded(training.seed),
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
            if training.packed == "no":
                parts, counts = fetched_parts(target, self.cluster, means, batch, partition)
            else:
                parts, counts = streamed_parts(target, means, batch, partition)
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
                digest_of_values([*self._identity(batch), digest_of(model) if weights else ""]),
                mirror=training.mirror == "yes",
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
                saved = build_model(
                    training.model, target.size, weights=None, mirror=training.mirror == "yes"
                )
                saved.set_weights([keras.ops.convert_to_numpy(w) for w in model.weights])
                digest = store_partition(
                    self.target.storage, target.dataset.tag, target.run, partition
                )
                result = result.model_copy(update={"parts": digest, "turned": partition.turned})
                with working("storing the model" + " and its SavedModel" * means.export):
                    self._store(result, saved, state.durations, Path(scratch))
                _measure(result)
                checkpoints.clear()
        return result

    def _global_batch(self) -> int:
        each = self.target.training.batch_size
        return each * int(self.cluster.strategy.num_replicas_in_sync)

    def _checkpoints(self) -> Checkpoints:
        target, shared = self.target, self.cluster.workers > 1
        cache = self.means.cache_folder
        return checkpoints_below(
            cache, target.storage, target.dataset.tag, target.run, shared=shared
        )

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
        settings = deciding(target.training)
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
            versions=versions("tensorflow", "keras"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _store(
        self, run: Run, model: keras.Model, durations: Sequence[float], scratch: Path
    ) -> None:
        """Upload the model first, its marker after it, the pointer to it last."""
        storage, layout = self.target.storage, Layout(run.tag)
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


def _export(storage: Storage, run: Run, model: keras.Model, scratch: Path) -> None:
    store_export(storage, run.tag, run.run, model, scratch, size=run.image_size, resize=run.resize)


def _phases(training: Training) -> list[Phase]:
    """Return what trains when: all at once, or the head and then the backbone's top blocks."""
    rate = training.learning_rate or 0.0
    if training.freeze_backbone == "no":
        return [Phase("all", "all", training.epochs, rate)]
    phases = [Phase("head", 0, training.epochs, rate, fitted=training.head == "fitted")]
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


def _measure(run: Run) -> None:
    """Note how fast a training was, in the pictures of its epochs, validation's among them."""
    images = sum(count for part in FED for count in run.images[part].values())
    measured(
        model=run.model,
        pixels=run.image_size[0] * run.image_size[1],
        images=images,
        epochs=len(run.history),
        training_seconds=run.seconds,
        devices=run.replicas,
        gpus=sum("GPU" in device.upper() for device in run.devices),
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
                f"{few}; scrape more, by a higher --limit or of a fuller folder, or raise {option}",
                **{str(label): count for label, count in part.items()},
            )


def _class_weights(counts: dict[Label, int]) -> tuple[float, float]:
    """Return weights of (negatives, positives) that make both count alike, 1 on average."""
    total = counts["positive"] + counts["negative"]
    return total / (2 * counts["negative"]), total / (2 * counts["positive"])
