"""Train a tag's head on features that are in storage: no picture is read, and a CPU is enough."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from imagetag.dataset import Row
from imagetag.errors import InputError
from imagetag.explore import HeldOut, read_cautions
from imagetag.features import SharedFeatures
from imagetag.inputs import OutOfFold, Partition, rows_of_parts, store_partition
from imagetag.job import measured
from imagetag.layout import LABELS, Label, Layout, PartName
from imagetag.log import get_logger
from imagetag.runs import Run, model_card, store_head, versions
from imagetag.sentences import counted
from imagetag.stats import LinearHead, fit_head
from imagetag.train.settings import deciding
from imagetag.train.target import Target

_FITTED: tuple[PartName, ...] = ("train", "validation")
_LEAST_GROUPS = 2  # of each label: with one, no strength can be tried on another


def make_head(target: Target, shared: SharedFeatures) -> Run:
    """Fit a head to the features of a tag's train split, and store it as a run.

    Nothing is held back for validation: how strongly the head is regularized is decided by
    cross-validation over groups. What is kept for the threshold is as in any other training; or
    nothing is, and it will be chosen on the scores of the cross-validation, which are stored.

    Raises:
        InputError: if there are too few pictures, or some have no features.

    """
    began = time.monotonic()
    partition = target.partition()
    rows, values = _fitted(target, partition, shared)
    targets = np.array([row.target for row in rows])
    groups = [row.group for row in rows]
    _check_groups(target.dataset.tag, rows)
    balanced = target.training.class_weights == "balanced"
    out_of_fold = target.training.threshold_from == "out-of-fold"
    head = fit_head(values, targets, groups, balanced=balanced, as_in_folds=out_of_fold)
    if out_of_fold:
        folds, logits = head.folds.tolist(), head.out_of_fold.astype(np.float32)
        scores = map(OutOfFold, folds, logits)
        partition = partition.with_out_of_fold(
            dict(zip((row.md5 for row in rows), scores, strict=True))
        )
    run = _run(target, partition, head, targets, time.monotonic() - began)
    return _store(target, partition, head, run)


def _fitted(
    target: Target, partition: Partition, shared: SharedFeatures
) -> tuple[list[Row], NDArray[np.float16]]:
    """Return what the head is fitted to: rows, and their features, (rows, views, channels)."""
    assert target.extractor is not None  # noqa: S101 - it decides that a head is made
    tag = target.dataset.tag
    parts = rows_of_parts(target.storage, target.dataset, partition, _FITTED)
    rows = [row for part in _FITTED for row in parts[part]]
    stored = shared.of(target.extractor)
    readable, values = stored.readable([row.md5 for row in rows], tag)
    return [row for row, kept in zip(rows, readable, strict=True) if kept], values


def _check_groups(tag: str, rows: list[Row]) -> None:
    for label in LABELS:
        count = len({row.group for row in rows if row.label == label})
        if count < _LEAST_GROUPS:
            raise InputError(
                f"the tag {tag!r} has {label} images of {counted(count, 'group')} to train on, and "
                f"{_LEAST_GROUPS} are needed: scrape more, by a higher --limit or of a fuller "
                "folder"
            )


def _run(
    target: Target,
    partition: Partition,
    head: LinearHead,
    targets: NDArray[np.int64],
    seconds: float,
) -> Run:
    training, extractor = target.training, target.extractor
    assert extractor is not None  # noqa: S101 - it decides that a head is made
    learned = {label: int((targets == (label == "positive")).sum()) for label in LABELS}
    out_of_fold = training.threshold_from == "out-of-fold"
    counts: dict[PartName, dict[Label, int]] = {
        "train": learned,
        "threshold": learned if out_of_fold else dict(partition.images["threshold"]),
    }
    return Run(
        tag=target.dataset.tag,
        run=target.run,
        model=training.model,
        extractor=extractor.name,
        settings={**deciding(training), "strength": head.strength},
        image_size=target.size,
        images=counts,
        fingerprint=target.dataset.fingerprint,
        seed=training.seed,
        best_epoch=0,
        history=[],
        validation=_metrics(targets, head.out_of_fold),
        parameters=extractor.channels + 1,
        seconds=round(seconds, 1),
        devices=["CPU"],
        versions=versions("scipy", "sklearn"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _metrics(targets: NDArray[np.int64], logits: NDArray[np.float64]) -> dict[str, float]:
    """Return loss, accuracy, precision and recall of pictures that the head had not seen."""
    positive, called = targets == 1, logits > 0
    right = int((positive & called).sum())
    return {
        "loss": float(np.logaddexp(0, np.where(positive, -logits, logits)).mean()),
        "accuracy": float((positive == called).mean()),
        "precision": right / max(int(called.sum()), 1),
        "recall": right / max(int(positive.sum()), 1),
    }


def _store(target: Target, partition: Partition, head: LinearHead, run: Run) -> Run:
    """Store the head first, its marker after it, the pointer to it last."""
    storage, layout = target.storage, Layout(run.tag)
    digest = store_partition(storage, run.tag, run.run, partition)
    run = run.model_copy(update={"parts": digest, "turned": partition.turned})
    store_head(storage, run.tag, run.run, head)
    cautions = read_cautions(storage, target.dataset, HeldOut.by(run))
    card = model_card(run, target.dataset, cautions)
    storage.write(layout.run(run.run, "README.md"), card.encode())
    marker = run.model_dump_json(indent=2).encode() + b"\n"
    storage.write(layout.run(run.run, "metrics.json"), marker)
    storage.write(layout.latest, run.run.encode() + b"\n")
    measured(
        model=run.model,
        extractor=run.extractor,
        images=len(head.out_of_fold),
        training_seconds=run.seconds,
    )
    get_logger().info(
        "trained",
        run=run.run,
        images=run.images["train"],
        strength=head.strength,
        seconds=run.seconds,
        **{f"validation_{key}": round(value, 4) for key, value in run.validation.items()},
        storage=f"{storage.url}/{layout.run(run.run, '')}",
    )
    return run
