"""About how many more verdicts a promise takes, beside what the promise then is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from imagetag.review.outlook import Outlook
from imagetag.runs import StoredScore
from imagetag.stats import Promise, promise_precision
from imagetag.verdicts import Answer


def scores_of(labels: Sequence[int], groups: Sequence[str] | None = None) -> list[StoredScore]:
    return [
        StoredScore(
            md5=hashlib.md5(str(number).encode()).hexdigest(),
            part="threshold",
            label="positive" if label else "negative",
            group=groups[number] if groups else str(number),
            logit=5 - number / 100,
            probability=0.5,
            called=True,
        )
        for number, label in enumerate(labels)
    ]


def promised(labels: Sequence[int]) -> Promise:
    values = [-float(number) for number in range(len(labels))]
    share = sum(labels) / len(labels)
    return promise_precision(labels, values, min_precision=0.9, confidence=0.95, share=share)


def test_it_counts_what_is_left_of_the_highest_ranks() -> None:
    labels = [1] * 100 + [0] * 100
    outlook = Outlook(scores_of(labels), promised(labels))
    told = outlook.sentence({})
    assert told.startswith("about ")
    number = int(told.split()[1])
    # With that many judged and right, the bound is reached; with one fewer it is not.
    answers: dict[str, Answer] = {one.md5: "yes" for one in scores_of(labels)[:number]}
    assert outlook.sentence(answers).startswith("by what is judged 0.9 can be promised")
    answers.popitem()
    assert outlook.sentence(answers).startswith("about 1 more verdict, ")


def test_wrong_ones_among_the_judged_make_it_longer() -> None:
    labels = [1] * 150 + [0] * 100
    outlook = Outlook(scores_of(labels), promised(labels))
    first = int(outlook.sentence({}).split()[1])
    answers: dict[str, Answer] = {one.md5: "yes" for one in scores_of(labels)[:20]}
    answers[scores_of(labels)[3].md5] = "no"
    assert int(outlook.sentence(answers).split()[1]) > first - 20


def test_where_labels_are_as_bad_as_that_it_says_what_would_have_to_be() -> None:
    labels = [1, 0] * 100
    outlook = Outlook(scores_of(labels), promised(labels))
    assert "can be promised, at best: if each is a yes" in outlook.sentence({})


def test_too_few_positives_prove_nothing_however_many_others_there_are() -> None:
    labels = [1] * 20 + [0] * 200  # 28 of 28 would prove 0.9, but there are no 28 that can be right
    outlook = Outlook(scores_of(labels), promised(labels))
    assert outlook.sentence({}).startswith("no verdicts on these pictures can promise 0.9")


def test_too_few_pictures_prove_nothing() -> None:
    labels = [1] * 10 + [0] * 10
    outlook = Outlook(scores_of(labels), promised(labels))
    assert outlook.sentence({}).startswith("no verdicts on these pictures can promise 0.9")


def test_one_picture_of_a_group_counts_and_is_to_be_judged() -> None:
    labels = [1] * 200
    alone = Outlook(scores_of(labels), promised(labels))
    pairs = Outlook(scores_of(labels, [str(n // 2) for n in range(200)]), promised(labels))
    assert alone.sentence({}) == pairs.sentence({})


def test_what_none_can_tell_counts_as_without_the_tag() -> None:
    labels = [1] * 200
    scores, outlook = scores_of(labels), Outlook(scores_of(labels), promised(labels))
    sure: dict[str, Answer] = {one.md5: "yes" for one in scores[:50]}
    doubtful: dict[str, Answer] = sure | {scores[0].md5: "unclear"}
    assert outlook.sentence(doubtful) == outlook.sentence(sure | {scores[0].md5: "no"})
    assert outlook.sentence(doubtful) != outlook.sentence(sure)


def test_its_estimate_is_what_evaluate_then_promises() -> None:
    """Where labels turn out as they are, the promise holds with that many, and not with fewer."""
    labels = [1] * 60 + [0, 1] * 40
    outlook = Outlook(scores_of(labels), promised(labels))
    number = int(outlook.sentence({}).split()[1])
    share = sum(labels) / len(labels)
    values = [-float(place) for place in range(len(labels))]
    found = {
        judged: promise_precision(
            labels, values, min_precision=0.9, confidence=0.95, share=share, judged=judged
        ).met
        for judged in (number - 1, number)
    }
    assert found == {number - 1: False, number: True}
