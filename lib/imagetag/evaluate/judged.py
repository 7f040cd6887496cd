"""Where people's verdicts are the labels of what figures are of: never where they chose what.

Whoever judges what the model doubts, and corrects it there alone, makes it look better than it is.
So verdicts on pictures of the test split count when all of it is judged. On those kept for the
threshold they count from the highest score down to the first that is not judged, one picture of
each group, and no lower threshold is promised then. That may be stopped anywhere, also because of
what was seen: the search for the threshold allows for every number of called pictures at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from imagetag.dataset import Row
from imagetag.inputs import LEARNED, Used
from imagetag.layout import Label
from imagetag.models import Score
from imagetag.runs import Judged, Request, Scored, Turned, one_of_each_group
from imagetag.stats import least_called
from imagetag.verdicts import LABELS_BY, Answer, Verdict

Pictures = Sequence[tuple[Row, Score]]
Standing = Mapping[str, Verdict]


def learned_labels(pictures: Pictures, standing: Standing) -> list[tuple[Row, Score]]:
    """Return pictures that were learned from, by verdicts; those of which none can tell are out."""
    known = [item for item in pictures if _answer(item[0], standing) != "unclear"]
    return _labelled(known, standing, lambda row: row.md5 in standing)[0]


def is_unlearned(used: Used | None, row: Row, standing: Standing) -> bool:
    """Tell whether people say other of a picture than what a run has learned from it.

    That may be another label, or that none can tell; or it was left out, and somebody can.
    """
    verdict = standing.get(row.md5)
    if used is None or verdict is None:
        return False
    label = LABELS_BY.get(verdict.answer)
    if used.use == "excluded":
        return label is not None
    return used.use in LEARNED and used.label != label


def judged_test(pictures: Pictures, standing: Standing) -> tuple[list[tuple[Row, Score]], Judged]:
    """Return the pictures of the test split, by verdicts if all are judged, and what came of it."""
    judged = sum(row.md5 in standing for row, _ in pictures)
    counted = judged if judged == len(pictures) else 0
    found, turned = _labelled(pictures, standing, lambda _: counted > 0)
    return found, Judged(
        pictures=len(pictures),
        judged=judged,
        counted=counted,
        needed=len(pictures),
        left=len(pictures) - judged,
        turned=turned,
    )


def judged_threshold(
    pictures: Pictures, standing: Standing, request: Request, share: float
) -> tuple[list[tuple[Row, Score]], Judged]:
    """Return the pictures kept for the threshold, with verdicts where they count, and how many do.

    Args:
        pictures: with what the model says of them.
        standing: what people say of them.
        request: what is to be promised.
        share: of positives to expect.

    """
    judged = sum(row.md5 in standing for row, _ in pictures)
    items = [Scored(row, score.logit, 0.0, False) for row, score in pictures]
    ranked = sorted(one_of_each_group(items), key=lambda item: -item.logit)
    if not judged:
        return list(pictures), Judged(pictures=len(ranked))
    prefix = 0
    while prefix < len(ranked) and ranked[prefix].row.md5 in standing:
        prefix += 1
    # Which of several with the same score come first, no threshold can tell.
    while 0 < prefix < len(ranked) and ranked[prefix].logit == ranked[prefix - 1].logit:
        prefix -= 1
    needed = least_called(
        len(ranked),
        min_precision=request.min_precision,
        confidence=request.confidence,
        share=share,
    )
    least = len(ranked) if needed is None else needed
    counted = prefix if prefix >= least else 0
    chosen = {item.row.md5 for item in ranked[:counted]}
    found, turned = _labelled(pictures, standing, lambda row: row.md5 in chosen)
    return found, Judged(
        pictures=len(ranked),
        judged=judged,
        counted=counted,
        needed=least,
        left=sum(item.row.md5 not in standing for item in ranked[:least]),
        turned=turned,
    )


def _labelled(
    pictures: Pictures, standing: Standing, counts: Callable[[Row], bool]
) -> tuple[list[tuple[Row, Score]], Turned]:
    """Return pictures with the labels by verdicts of those whose verdict counts.

    What none can tell is not called the tag rightly: a promise must not gain by doubt.
    """
    found: list[tuple[Row, Score]] = []
    changed: dict[Label, int] = {"positive": 0, "negative": 0}
    for row, score in pictures:
        answer = _answer(row, standing) if counts(row) else None
        label = row.label if answer is None else LABELS_BY.get(answer, "negative")
        changed[label] += label != row.label
        found.append((row.labelled(label), score))
    return found, Turned(to_positive=changed["positive"], to_negative=changed["negative"])


def _answer(row: Row, standing: Standing) -> Answer | None:
    verdict = standing.get(row.md5)
    return None if verdict is None else verdict.answer
