"""What an evaluation stores: tables, a record that can be read back, a command that repeats."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import Any

import pytest

from imagetag.errors import InputError
from imagetag.job.command_line import parse_settings
from imagetag.layout import Layout
from imagetag.runs.decision import Decision, load_decision
from imagetag.runs.evaluation import (
    Evaluation,
    Request,
    Scored,
    Since,
    evaluated,
    one_of_each_group,
    predictions_table,
    train_command,
)
from imagetag.stats import promise_precision
from imagetag.storage.local import LocalStorage
from jobs.train import TrainSettings
from tests.builders.datasets import make_dataset
from tests.builders.evaluations import TRAINED, decide, evaluation_of, promise, scored
from tests.builders.rows import make_row


def make_scored(count: int) -> list[Scored]:
    return [
        scored(
            make_row(number, split="test"),
            0.9 - number / 1000 if number % 2 else 0.1 + number / 1000,
        )
        for number in range(count)
    ]


# ---- the record


def test_an_evaluation_can_be_read_back() -> None:
    items = make_scored(40)
    found = evaluation_of(items, make_dataset([item.row for item in items]), promise=promise())
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert [len(found.galleries[name]) for name in ("false_positives", "hits")] == [0, 12]
    assert [item.prevalence for item in found.prevalences] == [0.1, 0.01, 0.001]


def test_a_prevalence_that_is_asked_for_is_among_them() -> None:
    items = make_scored(20)
    found = evaluated(
        tag="robot",
        run="first",
        request=Request(prevalence=0.03),
        settings={},
        command="",
        dataset=make_dataset([item.row for item in items]),
        decision=decide("robot"),
        chosen_on=items,
        since=Since(),
        test=items,
        suspects=None,
    )
    assert [item.prevalence for item in found.prevalences] == [0.1, 0.03, 0.01, 0.001]
    assert found.suspects is None


def test_five_test_pictures_are_an_evaluation_with_wide_intervals() -> None:
    items = make_scored(5)
    found = evaluation_of(items, make_dataset([item.row for item in items]))
    precision = found.metrics.chosen.precision
    assert (precision.value, precision.high) == (1, 1)
    assert precision.low is not None
    assert precision.low < 0.2


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


def test_a_test_split_of_one_label_is_an_input_error() -> None:
    items = [item for item in make_scored(10) if item.positive]
    with pytest.raises(InputError, match="only positive pictures"):
        evaluation_of(items, make_dataset([item.row for item in items]))


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


def test_the_table_has_the_most_probable_first() -> None:
    items = [*make_scored(6), scored(make_row(99, split="test", page_url='https://x/a,b"c'), 0.5)]
    table = list(csv.DictReader(io.StringIO(predictions_table(items).decode())))
    logits = [float(row["logit"]) for row in table]
    assert logits == sorted(logits, reverse=True)
    by_md5 = {row["md5"]: row for row in table}
    for item in items:
        row = by_md5[item.row.md5]
        assert (row["label"], row["group"]) == (item.row.label, item.row.group)
        assert row["page_url"] == item.row.page_url
        assert (row["decision"] == "true") == item.called
        assert float(row["probability"]) == pytest.approx(item.probability, abs=1e-6)


def test_a_text_of_the_table_is_no_formula_and_a_logit_below_zero_stays_a_number() -> None:
    row = make_row(1, split="test", page_url="=1+1", group="-2:3")
    (line,) = csv.DictReader(io.StringIO(predictions_table([scored(row, 0.1)]).decode()))
    assert (line["page_url"], line["group"]) == ("'=1+1", "'-2:3")
    assert line["logit"].startswith("-2.19")


# ---- the command


def settings_of(command: str) -> TrainSettings:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["imagetag", "train"]
    return parse_settings(
        TrainSettings, [*words[2:], "--storage", "data"], command="train", summary=""
    )


def test_the_command_repeats_the_training(tmp_path: Path) -> None:
    weights = tmp_path / "a folder" / "it's.h5"
    weights.parent.mkdir()
    weights.write_bytes(b"\x89HDF\r\n\x1a\n".ljust(100, b"\0"))
    settings = {
        "model": "mobilenet",
        "weights": str(weights),
        "freeze_backbone": "yes",
        "fine_tune_rate": 3e-05,
        "learning_rate": 0.001,
        "augment": False,
        "dropout": None,
        "image_size": "auto",
        "mixed_precision": "mixed_bfloat16",
        "seed": 7,
    }
    found = settings_of(train_command("fate/stay_night; rm -rf", settings, (224, 192)))
    assert found.tags == ("fate/stay_night; rm -rf",)
    assert found.image_size == "224x192"
    assert found.mixed_precision == "yes"
    for name in ("model", "weights", "freeze_backbone", "fine_tune_rate", "augment", "seed"):
        assert getattr(found, name) == settings[name]
    assert "--dropout" not in train_command("fox", settings, (224, 192))


def test_the_command_of_a_head_repeats_it() -> None:
    settings = {"features": "mobilenet-160x160-0a1b2c3d", "resize": "letterbox", "seed": 3}
    found = settings_of(train_command("fox", {**settings, "strength": 0.3}, (160, 160)))
    assert {name: getattr(found, name) for name in settings} == settings


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
