"""Train a classifier of one tag, from its dataset in storage to a model in storage."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import tempfile
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from imagetag.augment import RandomAffine
from imagetag.dataset import Sample, Size, batches, sync
from imagetag.errors import InputError, UsageError
from imagetag.exploration import load_exploration
from imagetag.export import is_exported, store_export
from imagetag.layout import LABELS, Label, Layout, checked_run
from imagetag.log import get_logger
from imagetag.manifest import Dataset, load_dataset, read_rows
from imagetag.models import build_model, can_be_pretrained
from imagetag.runs import Part, Run, load_model, load_run, versions
from imagetag.split import in_validation
from imagetag.storage import ObjectNotFound, Storage, open_storage

_LEAST_IMAGES = 8  # of each label, to train on; and a quarter of it to validate on


class Training(BaseModel):
    """How to train. What `auto` stands for is settled before the run and stored with it."""

    model_config = ConfigDict(frozen=True)

    model: str
    weights: str
    freeze_backbone: Literal["auto", "yes", "no"]
    image_size: str
    batch_size: int
    epochs: int
    patience: int
    learning_rate: float | None
    validation_fraction: float
    augment: bool
    seed: int


def train_tag(
    storage: Storage,
    tag: str,
    training: Training,
    strategy: tf.distribute.Strategy,
    *,
    run: str | None = None,
    cache_folder: Path,
    cache_bytes: int,
    concurrency: int = 16,
    export: bool = True,
) -> Run:
    """Train on a tag's train split and store the model; the test split is not touched.

    Args:
        storage: has the dataset, and gets the model.
        tag: what to recognise.
        training: how.
        strategy: on which devices; `batch_size` is that of each replica.
        run: the run's name; by default made from the settings and the data, so that the same
            training again finds itself done.
        cache_folder: local copies of images and weights.
        cache_bytes: decoded images are kept in memory up to this size, else on disk.
        concurrency: downloads under way at once.
        export: store a SavedModel with the run, also with one that was trained without.

    Raises:
        InputError: if there is no dataset, no recommended size, or too few images.
        UsageError: if the settings do not fit the model.
        TransientError: if storage or weights cannot be reached.

    """
    dataset = load_dataset(storage, tag)
    training = _settled(training)
    size = _image_size(storage, tag, training.image_size)
    name = checked_run(run) if run else _run_name(training, size, dataset)
    done = _completed(storage, tag, name, training, dataset, size)
    if done is not None:
        if export and not is_exported(storage, tag, name):
            with tempfile.TemporaryDirectory(prefix="imagetag-train-") as scratch:
                model = load_model(storage, done, Path(scratch))
                store_export(storage, tag, name, model, Path(scratch))
        get_logger().info("already trained", run=name)
        _repair_latest(storage, done)
        return done

    started = time.monotonic()
    keras.utils.clear_session()  # of the tag before
    keras.utils.disable_interactive_logging()  # it would print beside the log
    keras.utils.set_random_seed(training.seed)
    rows = [row for row in read_rows(storage, dataset) if row.split == "train"]
    samples = sync(storage, tag, rows, cache_folder / "images", concurrency)
    parts = _parts(samples, training.validation_fraction)
    counts = {part: _counts(members) for part, members in parts.items()}
    _check_counts(tag, counts)
    weights = _weights(training.weights, cache_folder / "weights")
    with strategy.scope():
        frozen = training.freeze_backbone == "yes"
        model = build_model(training.model, size, weights=weights, freeze=frozen)
        trainer = _trainer(model, size, training)
    get_logger().info(
        "training", run=name, model=training.model, size=f"{size[0]}x{size[1]}", images=counts
    )
    with tempfile.TemporaryDirectory(prefix="imagetag-train-") as scratch:
        in_memory = len(samples) * size[0] * size[1] * 3 <= cache_bytes
        batch_size = training.batch_size * strategy.num_replicas_in_sync
        generators = {
            part: batches(
                members,
                size,
                batch_size=batch_size,
                shuffle_seed=training.seed if part == "train" else None,
                cache="" if in_memory else f"{scratch}/decoded-{part}",
                replicas=strategy.num_replicas_in_sync,
            )
            for part, members in parts.items()
        }
        history = _fit(trainer, generators, training, _class_weights(counts["train"]), name)
        result = _result(name, training, dataset, size, counts, history, model, started)
        _store(storage, result, model, Path(scratch), export=export)
    return result


def _result(
    name: str,
    training: Training,
    dataset: Dataset,
    size: Size,
    counts: dict[Part, dict[Label, int]],
    history: list[dict[str, float]],
    model: keras.Model,
    started: float,
) -> Run:
    losses = [row[key] for row in history for key in ("loss", "val_loss")]
    if not losses or not all(map(math.isfinite, losses)):
        raise InputError(
            "the training diverged (the loss is not a number) at --learning-rate "
            f"{training.learning_rate}: try a tenth of it"
        )
    best = min(history, key=lambda row: row["val_loss"])
    validation = {key: value for key, value in best.items() if key.startswith("val_")}
    return Run(
        tag=dataset.tag,
        run=name,
        model=training.model,
        settings=training.model_dump(),
        image_size=size,
        images=counts,
        fingerprint=dataset.fingerprint,
        seed=training.seed,
        best_epoch=int(best["epoch"]),
        history=history,
        validation={key.removeprefix("val_"): value for key, value in validation.items()},
        parameters=model.count_params(),
        seconds=round(time.monotonic() - started, 1),
        devices=[device.name for device in tf.config.list_logical_devices()],
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _settled(training: Training) -> Training:
    """Return the settings with every `auto` replaced by what it stands for."""
    weights = training.weights
    if weights == "auto":
        weights = "imagenet" if can_be_pretrained(training.model) else "none"
    freeze = training.freeze_backbone
    if freeze == "auto":
        pretrained = weights != "none" and can_be_pretrained(training.model)
        freeze = "yes" if pretrained else "no"
    rate = training.learning_rate
    if rate is None:
        # A new head alone bears a high rate; a pretrained backbone is spoilt by one, and the
        # AlexNet of the paper, without batch normalization, diverges.
        fine = weights != "none" or training.model == "alexnet"
        rate = 1e-3 if freeze == "yes" or not fine else 1e-4
    return training.model_copy(
        update={"weights": weights, "freeze_backbone": freeze, "learning_rate": rate}
    )


def _image_size(storage: Storage, tag: str, text: str) -> Size:
    if text == "auto":
        size = load_exploration(storage, tag).input_size
        return size.height, size.width
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UsageError(f"--image-size {text!r}: write HEIGHTxWIDTH in pixels, such as 224x224")
    return int(match[1]), int(match[2])


def _run_name(training: Training, size: Size, dataset: Dataset) -> str:
    identity = [training.model_dump(exclude={"image_size"}), size, dataset.fingerprint]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{training.model}-{digest[:8]}"


def _completed(
    storage: Storage, tag: str, name: str, training: Training, dataset: Dataset, size: Size
) -> Run | None:
    try:
        run = load_run(storage, tag, name)
    except InputError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            get_logger().warning("training again", run=name, reason=str(error))
        return None
    # `image_size` may be `auto` in one and the same in pixels in the other.
    wanted = training.model_dump(exclude={"image_size"})
    known = {key: value for key, value in run.settings.items() if key != "image_size"}
    if (known, run.image_size, run.fingerprint) != (wanted, size, dataset.fingerprint):
        raise UsageError(
            f"--run {name!r} of {tag!r} is complete, with other settings or other images; choose "
            "another name"
        )
    return run


def _parts(samples: Sequence[Sample], validation_fraction: float) -> dict[Part, list[Sample]]:
    parts: dict[Part, list[Sample]] = {"train": [], "validation": []}
    for sample in samples:
        held_out = in_validation(sample.row.group, validation_fraction)
        parts["validation" if held_out else "train"].append(sample)
    return parts


def _counts(samples: Sequence[Sample]) -> dict[Label, int]:
    return {label: sum(sample.row.label == label for sample in samples) for label in LABELS}


def _check_counts(tag: str, counts: dict[Part, dict[Label, int]]) -> None:
    least_images: dict[Part, int] = {"train": _LEAST_IMAGES, "validation": _LEAST_IMAGES // 4}
    for part, least in least_images.items():
        for label, count in counts[part].items():
            if count < least:
                purpose = "train" if part == "train" else "validate"
                raise InputError(
                    f"the tag {tag!r} has {count} {label} images to {purpose} on and {least} are "
                    "needed: scrape more with a higher --limit"
                )


def _class_weights(counts: dict[Label, int]) -> dict[int, float]:
    """Return weights by target that make both labels count alike, 1 on average."""
    total = counts["positive"] + counts["negative"]
    return {1: total / (2 * counts["positive"]), 0: total / (2 * counts["negative"])}


def _weights(text: str, folder: Path) -> Literal["imagenet"] | Path | None:
    if text == "none":
        return None
    if text == "imagenet":
        return "imagenet"
    if "://" not in text:
        if not Path(text).is_file():
            raise UsageError(f"--weights {text!r}: no such file; or take imagenet or none")
        return Path(text)
    parent, _, name = text.rpartition("/")
    path = folder / hashlib.sha256(text.encode()).hexdigest()[:16] / name
    try:
        if not path.is_file():
            open_storage(parent).download(name, path)
    except (ObjectNotFound, UsageError) as error:
        raise UsageError(f"--weights {text!r}: {error}") from error
    return path


def _trainer(model: keras.Model, size: Size, training: Training) -> keras.Model:
    """Return the model with augmentation before it, ready to fit; the weights are shared."""
    inputs = keras.Input((*size, 3))
    images = RandomAffine(seed=training.seed)(inputs) if training.augment else inputs
    trainer = keras.Model(inputs, model(images))
    trainer.compile(
        optimizer=keras.optimizers.Adam(training.learning_rate),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[
            keras.metrics.BinaryAccuracy(name="accuracy"),
            keras.metrics.Precision(name="precision"),
            keras.metrics.Recall(name="recall"),
        ],
    )
    return trainer


def _fit(
    trainer: keras.Model,
    generators: dict[Part, tf.data.Dataset],
    training: Training,
    class_weights: dict[int, float],
    run: str,
) -> list[dict[str, float]]:
    """Train until the validation loss stops falling, and return a row of numbers an epoch.

    The model is left with the weights of its best epoch.
    """
    with warnings.catch_warnings():
        # How many images a generator has is known after its first pass, as it leaves out what
        # cannot be decoded; Keras remarks on that.
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        fitted = trainer.fit(
            generators["train"],
            validation_data=generators["validation"],
            epochs=training.epochs,
            shuffle=False,  # the generator has done it
            class_weight=class_weights,
            callbacks=[
                keras.callbacks.EarlyStopping(
                    monitor="val_loss", patience=training.patience, restore_best_weights=True
                ),
                keras.callbacks.ReduceLROnPlateau(
                    monitor="val_loss", patience=max(1, training.patience // 2), factor=0.5
                ),
                keras.callbacks.TerminateOnNaN(),
                _LogEpochs(run),
            ],
            verbose=0,
        )
    columns = {"epoch": [float(epoch + 1) for epoch in fitted.epoch], **fitted.history}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _store(storage: Storage, run: Run, model: keras.Model, scratch: Path, *, export: bool) -> None:
    """Upload the model first, its marker after it, the pointer to it last."""
    layout = Layout(run.tag)
    path = scratch / "model.keras"
    model.save(path)
    storage.upload(path, layout.run(run.run, "model.keras"))
    if export:
        store_export(storage, run.tag, run.run, model, scratch)
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(run.history[0]))
    writer.writeheader()
    writer.writerows(run.history)
    storage.write(layout.run(run.run, "history.csv"), table.getvalue().encode())
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
    )


def _repair_latest(storage: Storage, run: Run) -> None:
    """Let `LATEST` name a complete run if it names none or an older one: a kill came before."""
    try:
        if load_run(storage, run.tag, "latest").created >= run.created:
            return
    except InputError:
        pass
    storage.write(Layout(run.tag).latest, run.run.encode() + b"\n")


class _LogEpochs(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
    """A log line an epoch."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        get_logger().info(
            "epoch",
            run=self._run,
            epoch=epoch + 1,
            seconds=round(time.monotonic() - self._started, 1),
            **{key: round(float(value), 4) for key, value in (logs or {}).items()},
        )
