"""Evaluations of made-up predictions, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import logit

from imagetag.dataset.manifest import Dataset, Row
from imagetag.evaluate.galleries import Scored
from imagetag.evaluate.measuring import evaluated
from imagetag.runs.decision import Decision
from imagetag.runs.evaluation import Evaluation, Request, Shown, Since
from imagetag.stats.calibration import Calibration
from imagetag.stats.contract import Promise, promise_precision
from tests.builders.datasets import make_dataset
from tests.builders.rows import make_row

TRAINED = "2026-01-01T12:00:00+00:00"


def scored(row: Row, probability: float, threshold: float = 0.5) -> Scored:
    """Return a picture with an uncalibrated probability."""
    return Scored(row, float(logit(probability)), probability, probability >= threshold)


def make_scored(count: int) -> list[Scored]:
    """Return pictures of the test split, all decided rightly."""
    return [
        scored(
            make_row(number, split="test"),
            0.9 - number / 1000 if number % 2 else 0.1 + number / 1000,
        )
        for number in range(count)
    ]


def promise(right: int = 200, wrong: int = 0, min_precision: float = 0.95) -> Promise:
    """Return what is promised after so many right and wrong ones were called."""
    labels = [1] * right + [0] * (wrong + right)
    scores = [1.0] * (right + wrong) + [-1.0] * right
    return promise_precision(labels, scores, min_precision=min_precision, confidence=0.95)


def decide(
    tag: str, run: str = "first", threshold: float = 0.5, promise: Promise | None = None
) -> Decision:
    """Return the decision at a threshold, without calibration."""
    return Decision(
        tag=tag,
        run=run,
        trained=TRAINED,
        fingerprint="0" * 64,
        calibration=Calibration(),
        promise=promise,
        logit_threshold=float(logit(threshold)),
        threshold=threshold,
        created="2026-01-02T00:00:00+00:00",
    )


def make_evaluation(**changes: Any) -> Evaluation:
    """Return that of 160 test pictures, half with the tag: one of each half is called wrong."""
    rows = [make_row(number, split="test") for number in range(1, 161)]
    wrong = {rows[0].md5, rows[1].md5}
    found = [
        scored(row, 0.9 if (row.label == "positive") != (row.md5 in wrong) else 0.1) for row in rows
    ]
    return evaluation_of(found, make_dataset(rows), **changes)


def evaluation_of(
    predictions: Sequence[Scored],
    dataset: Dataset,
    *,
    tag: str = "robot",
    run: str = "first",
    threshold: float = 0.5,
    promise: Promise | None = None,
    settings: Mapping[str, Any] | None = None,
    suspects: Sequence[Shown] | None = (),
    **changes: Any,
) -> Evaluation:
    """Return the evaluation of some predictions."""
    evaluation = evaluated(
        tag=tag,
        run=run,
        request=Request(),
        settings=settings or {"model": "alexnet", "seed": 0},
        command=f"imagetag train --tags {tag}",
        dataset=dataset,
        decision=decide(tag, run, threshold, promise),
        chosen_on=predictions,
        since=Since(),
        test=predictions,
        suspects=suspects,
        **changes,
    )
    return evaluation.model_copy(
        update={"created": "2026-01-02T00:00:00+00:00", "software": "imagetag test"}
    )
