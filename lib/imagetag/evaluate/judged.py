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
from imagetag.evaluate.galleries import Scored
from imagetag.inputs import LEARNED, Used
from imagetag.layout import Label
from imagetag.models import Score
from imagetag.runs import Judged, Request, Turned, one_of_each_group
from imagetag.stats import least_called
from imagetag.verdicts import LABELS_BY, Answer, Verdict

Pictures = Sequence[tuple[Row, Score]]
Standing = Mapping[str, Verdict]


def learned_labels(pictures: Pictures, standing: Standing) -> list[tuple[Row, Score]]:
    """Return pictures that were learned from, by verdicts; those of which none can tell are out."""
    known = [item for item in pictures if _answer(item[0], standing) != "unclear"]
    return [(_judged_row(row, standing), score) for row, score in known]


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


def judged_test(
    pictures: Pictures, standing: Standing, called: Callable[[float], bool]
) -> tuple[list[tuple[Row, Score]], Judged]:
    """Return the pictures of the test split, by verdicts if all are judged, and what came of it.

    A picture of which none can tell is one that is decided wrongly, whichever way: no figure at the
    threshold gains by doubt, neither precision nor recall.

    Args:
        pictures: with what the model says of them.
        standing: what people say of them.
        called: tells whether a logit is called the tag.

    """
    judged = sum(row.md5 in standing for row, _ in pictures)
    counted = judged if judged == len(pictures) else 0

    def doubted(score: Score) -> Label:
        return "negative" if called(score.logit) else "positive"

    found, turned, unclear = _labelled(pictures, standing, lambda _: counted > 0, doubted)
    return found, Judged(
        pictures=len(pictures),
        judged=judged,
        counted=counted,
        needed=len(pictures),
        left=len(pictures) - judged,
        turned=turned,
        unclear=unclear,
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
    # What none can tell is not called the tag rightly: a promise must not gain by doubt.
    found, turned, unclear = _labelled(
        pictures, standing, lambda row: row.md5 in chosen, lambda _: "negative"
    )
    return found, Judged(
        pictures=len(ranked),
        judged=judged,
        counted=counted,
        needed=least,
        left=sum(item.row.md5 not in standing for item in ranked[:least]),
        turned=turned,
        unclear=unclear,
    )


def _labelled(
    pictures: Pictures,
    standing: Standing,
    counts: Callable[[Row], bool],
    doubted: Callable[[Score], Label],
) -> tuple[list[tuple[Row, Score]], Turned, int]:
    """Return pictures with the labels by verdicts of those whose verdict counts.

    Beside them, how many have another label by them, and of how many none can tell.

    Args:
        pictures: with what the model says of them.
        standing: what people say of them.
        counts: tells whose verdict counts.
        doubted: returns the label of what none can tell.

    """
    found: list[tuple[Row, Score]] = []
    changed: dict[Label, int] = {"positive": 0, "negative": 0}
    unclear = 0
    for row, score in pictures:
        if not counts(row):
            found.append((row, score))
        elif _answer(row, standing) == "unclear":
            unclear += 1
            found.append((row.labelled(doubted(score)), score))
        else:
            judged = _judged_row(row, standing)
            changed[judged.label] += judged.label != row.label
            found.append((judged, score))
    turned = Turned(to_positive=changed["positive"], to_negative=changed["negative"])
    return found, turned, unclear


def _judged_row(row: Row, standing: Standing) -> Row:
    """Return a picture with the label by its verdict, if it has one that gives any."""
    answer = _answer(row, standing)
    label = None if answer is None else LABELS_BY.get(answer)
    return row if label is None else row.labelled(label)


def _answer(row: Row, standing: Standing) -> Answer | None:
    verdict = standing.get(row.md5)
    return None if verdict is None else verdict.answer
