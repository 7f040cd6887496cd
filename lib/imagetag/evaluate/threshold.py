"""Which pictures are called the tag: calibration and threshold, chosen on those not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from imagetag.dataset import Dataset, Row
from imagetag.errors import InputError
from imagetag.evaluate.galleries import Scored
from imagetag.log import get_logger
from imagetag.models import Score
from imagetag.runs import (
    Decision,
    Request,
    Run,
    between_logits,
    logit_of,
    one_of_each_group,
)
from imagetag.stats import Promise, calibrate, promise_precision


def decide(
    run: Run,
    dataset: Dataset,
    request: Request,
    kept: Sequence[tuple[Row, Score]],
    share: float,
    judged: int | None = None,
) -> Decision:
    """Choose calibration and threshold on pictures that what scored them has not seen.

    Args:
        run: whose model.
        dataset: the tag's, as it is now.
        request: what is wanted.
        kept: the pictures, with what is said of them: by the model, or out of fold.
        share: of positives to expect among them, of one picture a group.
        judged: of one picture a group, how many of the highest scores have a person's label, below
            which no threshold may be; None where all labels are the dataset's.

    Raises:
        InputError: if a score is no number, or all pictures are of one label.

    """
    items = [Scored(row, score.logit, 0.0, False) for row, score in kept]
    _check_finite(run, items)
    groups = [item.row.group for item in items]
    labels, logits = [item.positive for item in items], [item.logit for item in items]
    for label, found in (("positive", any(labels)), ("negative", not all(labels))):
        if not found:
            raise InputError(
                f"of the tag {run.tag!r} no {label} image to choose the threshold on can be read: "
                "scrape more, by a higher --limit or of a fuller folder"
            )
    calibration = calibrate(labels, logits, groups, method=request.calibration)
    promise = None
    if request.threshold is not None:
        cut = logit_of(calibration, request.threshold)
    else:
        single = one_of_each_group(items)
        promise = promise_precision(
            [item.positive for item in single],
            [item.logit for item in single],
            min_precision=request.min_precision,
            confidence=request.confidence,
            share=share,
            judged=judged,
        )
        cut = promise.threshold
        _tell(promise)
    return Decision(
        tag=run.tag,
        run=run.run,
        trained=run.created,
        fingerprint=dataset.fingerprint,
        calibration=calibration,
        promise=promise,
        logit_threshold=between_logits(cut),
        threshold=request.threshold or float(calibration.probabilities(cut)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def share_of_positives(rows: Sequence[Row]) -> float:
    """Return it, of one picture a group, as the promise is tried: families may be of one label."""
    single = one_of_each_group([Scored(row, 0.0, 0.0, False) for row in rows])
    return float(np.mean([item.positive for item in single])) if single else 1.0


def _tell(promise: Promise) -> None:
    """Say in the log what can be promised, and what it would take."""
    fields = {
        "min_precision": promise.min_precision,
        "confidence": promise.confidence,
        "bound": round(promise.bound, 4),
        "called": promise.called,
        "right": promise.right,
        "positives": promise.positives,
    }
    if promise.met:
        get_logger().info("precision promised", **fields)
    else:
        get_logger().warning("precision cannot be promised", **fields, advice=promise.advice)


def _check_finite(run: Run, items: Sequence[Scored]) -> None:
    broken = sum(not math.isfinite(item.logit) for item in items)
    if broken:
        raise InputError(
            f"the run {run.run!r} of {run.tag!r} gives no number for {broken} of {len(items)} "
            "pictures: its training diverged; train again with a lower learning rate"
        )
