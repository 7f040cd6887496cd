"""What an evaluation stores: a record and a decision that can be read back."""

from __future__ import annotations

from typing import Any

import pytest

from imagetag.errors import InputError
from imagetag.layout import Layout
from imagetag.runs.decision import Decision, load_decision
from imagetag.runs.evaluation import Evaluation, one_of_each_group
from imagetag.stats import promise_precision
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import make_dataset
from tests.builders.evaluations import (
    TRAINED,
    decide,
    evaluation_of,
    make_evaluation,
    make_scored,
    promise,
    scored,
)
from tests.builders.rows import make_row

# ---- the record


def test_an_evaluation_can_be_read_back() -> None:
    items = make_scored(40)
    found = evaluation_of(items, make_dataset([item.row for item in items]), promise=promise())
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert [len(found.galleries[name]) for name in ("false_positives", "hits")] == [0, 12]
    assert [item.prevalence for item in found.prevalences] == [0.1, 0.01, 0.001]


def test_a_sentence_says_what_a_head_of_few_pictures_is_worth() -> None:
    items = make_scored(6)
    labels = [item.positive for item in items]
    promise = promise_precision(
        labels, [item.logit for item in items], min_precision=0.95, confidence=0.95, share=0.5
    )
    dataset = make_dataset([item.row for item in items])
    found = evaluation_of(items, dataset, promise=promise, learned={"positive": 7, "negative": 8})
    start, middle, end = found.worth.partition(f"{sum(labels)} positive test pictures")
    assert (start, bool(middle)) == ("learned from 7 positives; on ", True)
    assert "the average precision is 1.00, and lies between 0." in end
    assert end.endswith(": too few to promise a precision of 0.95")
    untold = evaluation_of(items, dataset)  # no promise was asked for
    assert untold.worth.startswith("on ")
    assert "too few" not in untold.worth


def test_of_a_group_one_picture_counts_whatever_the_order() -> None:
    items = [
        scored(make_row(number, split="test", group=str(number // 3)), 0.5) for number in range(12)
    ]
    found = one_of_each_group(items)
    assert len(found) == 4
    assert one_of_each_group(items[::-1]) == found
    for item in found:
        twins = [other.row.md5 for other in items if other.row.group == item.row.group]
        assert item.row.md5 == min(twins)


# ---- the decision


def test_a_decision_is_of_one_model_and_one_run(tmp_path: Any) -> None:
    storage = LocalStorage(tmp_path)
    key = Layout("fox").run("first", "decision.json")
    assert load_decision(storage, "fox", "first", TRAINED) is None
    stored = decide("fox", promise=promise())
    storage.write(key, stored.model_dump_json().encode())
    assert load_decision(storage, "fox", "first", TRAINED) == stored
    assert load_decision(storage, "fox", "first", "2027-01-01T00:00:00+00:00") is None
    storage.write(key, decide("owl").model_dump_json().encode())
    with pytest.raises(InputError, match="is of the run 'first' of the tag 'owl'; delete"):
        load_decision(storage, "fox", "first", TRAINED)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:50],
        lambda text: text.replace('"threshold":0.5', '"threshold":1.5'),
        lambda text: text.replace('"logit_threshold":0.0', '"logit_threshold":NaN'),
        lambda text: "[]",
    ],
)
def test_a_damaged_decision_says_what_to_do(tmp_path: Any, change: Any) -> None:
    storage = LocalStorage(tmp_path)
    text = decide("fox").model_dump_json()
    assert change(text) != text
    storage.write(Layout("fox").run("first", "decision.json"), change(text).encode())
    with pytest.raises(InputError, match=r"cannot be read: .* run imagetag evaluate --tags fox"):
        load_decision(storage, "fox", "first", TRAINED)
    assert Decision.model_validate_json(text).threshold == 0.5


def test_it_fits_into_a_cell_of_a_notebook() -> None:
    found = make_evaluation()
    assert f"worth={found.worth!r}" in repr(found)
    assert len(repr(found)) < 400 < len(found.model_dump_json())
