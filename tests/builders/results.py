"""Results of runs as report reads them, of made-up logits and with rough intervals."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagetag.layout import Layout
from imagetag.storage.base import Storage
from tests.builders.runs import make_run

TRAINED = "2026-03-01T12:00:00+00:00"


@dataclass(frozen=True)
class Pictures:
    """Test pictures: whether each has the tag, its md5, and its group."""

    labels: NDArray[np.bool_]
    md5s: Sequence[str]
    groups: Sequence[str]


def make_pictures(positives: int, negatives: int, *, first: int = 0, family: int = 1) -> Pictures:
    """Return pictures, positives first; `family` of them in a row are of one group."""
    count = positives + negatives
    numbers = range(first, first + count)
    return Pictures(
        np.arange(count) < positives,
        [hashlib.md5(str(number).encode()).hexdigest() for number in numbers],
        [f"post-{number // family}" for number in numbers],
    )


def make_logits(
    pictures: Pictures, skill: float, *, seed: int, shared: int = 0, noise: float = 0.5
) -> NDArray[np.float64]:
    """Return logits of a run: the better the greater `skill`, and noise of its own (`seed`).

    What is hard in a picture is so for all runs with the same `shared`.
    """
    count = pictures.labels.size
    hard = np.random.default_rng(shared).normal(0, 1, count)
    own = np.random.default_rng([seed, 1]).normal(0, noise, count)
    return np.where(pictures.labels, skill, -skill) / 2 + hard + own


def write_run(
    storage: Storage,
    tag: str,
    run: str,
    pictures: Pictures,
    logits: NDArray[np.float64],
    *,
    model: str = "vgg19",
    evaluated: bool = True,
    training: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    table: bytes | None = None,
) -> None:
    """Store a run; `training`, `evaluation` and `table` change what its files say."""
    layout = Layout(tag)
    marker = make_run(
        tag=tag,
        run=run,
        model=model,
        settings={"model": model},
        image_size=(192, 256),
        parameters=20_024_384 if model == "vgg19" else 58_286_465,
        seconds=754.2,
        created=TRAINED,
    ).model_dump(mode="json")
    _write_json(storage, layout.run(run, "metrics.json"), marker | (training or {}))
    if not evaluated:
        return
    made = table_of(pictures, logits) if table is None else table
    storage.write(layout.run(run, "test_predictions.csv"), made)
    storage.write(layout.run(run, "report.html"), b"<!doctype html><title>report</title>")
    found = rough_evaluation(tag, run, pictures, logits)
    _write_json(storage, layout.run(run, "evaluation.json"), found | (evaluation or {}))


def table_of(pictures: Pictures, logits: NDArray[np.float64]) -> bytes:
    """Return `test_predictions.csv`; a picture is called the tag from the logit 0 on."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["md5", "page_url", "label", "group", "logit", "probability", "decision"])
    rows = zip(pictures.md5s, pictures.labels, pictures.groups, logits.tolist(), strict=True)
    for md5, positive, group, logit in rows:
        writer.writerow(
            [
                md5,
                f"https://board.example/post?md5={md5}&s=view",
                "positive" if positive else "negative",
                group,
                f"{logit:.6f}",
                f"{1 / (1 + np.exp(-logit)):.6f}",
                str(logit >= 0).lower(),
            ]
        )
    return text.getvalue().encode()


def rough_evaluation(
    tag: str, run: str, pictures: Pictures, logits: NDArray[np.float64]
) -> dict[str, Any]:
    """Return `evaluation.json`, with rough intervals."""
    labels, called = pictures.labels, logits >= 0
    tp, fp = int(np.sum(called & labels)), int(np.sum(called & ~labels))
    fn, tn = int(np.sum(~called & labels)), int(np.sum(~called & ~labels))
    order = np.argsort(-logits, kind="stable")
    right = np.cumsum(labels[order])
    ranks = np.arange(1, labels.size + 1)
    average = float(np.sum((right / ranks)[labels[order]]) / labels.sum())
    area = float(np.mean(logits[labels][:, np.newaxis] > logits[~labels]))
    brier = float(np.mean((1 / (1 + np.exp(-logits)) - labels) ** 2))
    at_threshold = {
        "threshold": 0.5,
        "confusion": {"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        "precision": _estimate(tp / (tp + fp) if tp + fp else None, tp + fp),
        "recall": _estimate(tp / (tp + fn), tp + fn),
        "specificity": _estimate(tn / (tn + fp), tn + fp),
        "accuracy": _estimate((tp + tn) / labels.size, labels.size),
        "f1": _estimate(2 * tp / (2 * tp + fp + fn), tp + fn),
    }
    return {
        "version": 3,
        "tag": tag,
        "run": run,
        "dataset": {"tag": tag, "fingerprint": "ab" * 32},
        "decision": {
            "trained": TRAINED,
            "threshold": 0.5,
            "promise": {"min_precision": 0.95, "confidence": 0.95, "met": True, "bound": 0.953},
        },
        "metrics": {
            "positives": tp + fn,
            "negatives": fp + tn,
            "chosen": at_threshold,
            "half": at_threshold,
            "average_precision": _estimate(average, tp + fn),
            "roc_auc": _estimate(area, tp + fn),
            "brier": _estimate(brier, labels.size),
        },
        "created": "2026-03-01T13:00:00+00:00",
        "software": "imagetag 0.1.0",
    }


def _estimate(value: float | None, trials: int) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    width = 1.96 * np.sqrt(max(value * (1 - value), 1 / trials) / trials)
    return {
        "value": value,
        "low": max(0.0, float(value - width)),
        "high": min(1.0, float(value + width)),
    }


def _write_json(storage: Storage, key: str, value: dict[str, Any]) -> None:
    storage.write(key, json.dumps(value).encode())
