"""Labels that are probably wrong: boards forget tags, and a forgotten tag makes a negative.

What a picture shows is judged by others: a logistic regression on the features of a run's model
never sees the label it judges, nor those of its group. Confident learning (the cleanlab library)
then says which labels are not plausible.

Source: C. G. Northcutt, L. Jiang and I. L. Chuang, Confident learning: estimating uncertainty in
dataset labels, Journal of Artificial Intelligence Research 70 (2021).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from imagetag.dataset import Row, summarize
from imagetag.layout import LABELS, Label
from imagetag.log import get_logger
from imagetag.runs import Part, Suspect, Suspects
from imagetag.stats import fit_head

_PARTS: tuple[Part, ...] = get_args(Part)

LEAST_AUC = 0.8
"""Where features tell the labels apart worse than this, they judge none.

On clean labels of overlapping Gaussians a fifth of the negatives was suspected at an area of 0.7,
a tenth at 0.85, and a fiftieth at 0.97.
"""
_OUTLIER = 10.0  # standard deviations: what lies beyond is moved there
_MAX_URL, _MAX_BOARD = 1000, 100  # characters

_Array = NDArray[np.float32]
_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Example:
    """A picture with what a run's model makes of it.

    Args:
        row: of the manifest.
        features: what the model's head builds on, `(channels,)`.
        logit: of the tag, as the model itself says.
        part: which the run has put it into.

    """

    row: Row
    features: NDArray[np.float32]
    logit: float
    part: Part


def find_suspects(
    examples: Sequence[Example], *, seed: int, judged: Container[str] = ()
) -> Suspects:
    """Find labels that are probably wrong.

    Pictures of train and validation are judged by one another, in folds that no group straddles;
    the others by a head that is fitted on all of those. No label of the test split has a say in
    what is found elsewhere, nor has one that the threshold is chosen on, as what is found may be
    left out of the next training. Nothing depends on the order of examples.

    Args:
        examples: all pictures that could be read. A model that was trained from scratch, or whose
            backbone was, has seen the labels of the training part: fewer are found there.
        seed: of the folds.
        judged: pictures that a person has judged, by md5: none of these is suspect any more.

    """
    ordered = sorted(examples, key=lambda example: example.row.md5)
    usable = [example for example in ordered if np.isfinite(example.features).all()]
    known = [example for example in usable if example.part in ("train", "validation")]
    held = [example for example in usable if example.part in ("threshold", "test")]
    # One thread: the same numbers on any machine, and no threads that wait for busy processors.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # they would be no lines of the log
        judgement = _judge(known, held, seed)
    found: list[Suspect] = []
    for part, probabilities in ((known, judgement.known), (held, judgement.held)):
        found += (item for item in _suspected(part, probabilities) if item.md5 not in judged)
    suspects = Suspects(
        method=judgement.method,
        seed=seed,
        looked_at={part: _counts(ordered, part) for part in _PARTS},
        unjudged=len(ordered) - judgement.judged,
        auc=judgement.auc,
        reason=judgement.reason,
        fingerprint=summarize(example.row for example in ordered)[2],
        found=tuple(_ranked(found)),
    )
    if judgement.reason:
        get_logger().warning("no label is judged", reason=judgement.reason)
    else:
        get_logger().info(
            "labels judged",
            images=judgement.judged,
            **{f"suspect_{label}s": len(suspects.of_label(label)) for label in LABELS},
        )
    return suspects


@dataclass(frozen=True)
class _Judgement:
    """Probabilities of the tag, `(images,)`, NaN where nothing can be said; and how it went."""

    known: _Floats
    held: _Floats
    method: str = "none"
    auc: float | None = None
    reason: str | None = None

    @property
    def judged(self) -> int:
        return int(np.isfinite(self.known).sum() + np.isfinite(self.held).sum())


def _judge(known: Sequence[Example], held: Sequence[Example], seed: int) -> _Judgement:
    nothing = _Judgement(np.full(len(known), np.nan), np.full(len(held), np.nan))
    targets = _targets(known)
    groups = np.array([example.row.group for example in known], object)
    least = min(len(set(groups[targets == value])) for value in (0, 1))
    if least < 2:
        return _with_reason(nothing, f"one of the labels has {least} groups, and 2 are needed")
    inputs, others = _inputs(known, held)
    head = fit_head(inputs[:, np.newaxis], targets, list(groups), balanced=False, seed=seed)
    probabilities = special.expit(head.out_of_fold)
    auc = float(roc_auc_score(targets, probabilities))
    method = (
        f"cleanlab {_cleanlab_version()}, confident learning; logistic regression on features, "
        f"{head.folds.max() + 1} folds by group"
    )
    if auc < LEAST_AUC:
        reason = (
            f"the features tell the labels apart with an area under the ROC curve of {auc:.3f}, "
            f"and {LEAST_AUC} is the least that can judge any"
        )
        return _Judgement(nothing.known, nothing.held, method, auc, reason)
    if len(held):
        nothing.held[:] = special.expit(head.logits(others[:, np.newaxis]))
    return _Judgement(probabilities, nothing.held, method, auc)


def _with_reason(judgement: _Judgement, reason: str) -> _Judgement:
    return _Judgement(judgement.known, judgement.held, reason=reason)


def _targets(examples: Sequence[Example]) -> _Ints:
    return np.array([example.row.label == "positive" for example in examples], np.int64)


def _inputs(known: Sequence[Example], held: Sequence[Example]) -> tuple[_Array, _Array]:
    """Return features of mean 0 and unit variance over the known pictures, `(images, channels)`."""
    count = len(known)
    total = sum(example.features.astype(np.float64) for example in known)
    mean: _Floats = np.asarray(total) / count
    squares = sum((example.features - mean) ** 2 for example in known)
    scale: _Floats = np.sqrt(np.asarray(squares) / count)
    scale[scale == 0] = 1.0

    def scaled(examples: Sequence[Example]) -> _Array:
        inputs = np.empty((len(examples), mean.size), np.float32)
        for place, example in enumerate(examples):
            inputs[place] = np.clip((example.features - mean) / scale, -_OUTLIER, _OUTLIER)
        return inputs

    return scaled(known), scaled(held)


def _suspected(examples: Sequence[Example], probabilities: _Floats) -> list[Suspect]:
    """Return the suspects among some pictures, as yet of rank 1."""
    judged = np.flatnonzero(np.isfinite(probabilities))
    targets = _targets(examples)[judged]
    found = judged[_implausible(targets, probabilities[judged])]
    return [_suspect(examples[place], float(probabilities[place])) for place in found]


def _implausible(targets: _Ints, probabilities: _Floats) -> _Bools:
    """Tell which labels confident learning takes for wrong, `(images,)`."""
    if len(set(targets.tolist())) < 2:
        return np.zeros(len(targets), np.bool_)
    from cleanlab.filter import find_label_issues  # takes a while

    both = np.stack([1 - probabilities, probabilities], axis=1)
    # Where labels overlap, its other filters suspect more that are right. One process: it would
    # fork this one, and TensorFlow does not bear that.
    found: _Bools = find_label_issues(targets, both, filter_by="confident_learning", n_jobs=1)
    return found


def _cleanlab_version() -> str:
    from cleanlab.version import __version__

    return str(__version__)


def _suspect(example: Example, probability: float) -> Suspect:
    row = example.row
    said = float(special.expit(example.logit))
    return Suspect(
        md5=row.md5,
        part=example.part,
        label=row.label,
        post_id=row.post_id,
        board=row.board[:_MAX_BOARD],
        page_url=row.page_url if len(row.page_url) <= _MAX_URL else "",
        probability=round(probability, 6),
        said=round(said, 6) if math.isfinite(said) else None,
        rank=1,
    )


def _ranked(suspects: Sequence[Suspect]) -> Iterator[Suspect]:
    """Yield negatives and then positives, those first whose label is the least probable."""
    for label, sign in (("negative", -1), ("positive", 1)):
        mine = [suspect for suspect in suspects if suspect.label == label]
        mine.sort(key=lambda suspect: (sign * suspect.probability, suspect.md5))
        for rank, suspect in enumerate(mine, 1):
            yield suspect.model_copy(update={"rank": rank})


def _counts(examples: Sequence[Example], part: Part) -> dict[Label, int]:
    labels = [example.row.label for example in examples if example.part == part]
    return {label: labels.count(label) for label in LABELS}
