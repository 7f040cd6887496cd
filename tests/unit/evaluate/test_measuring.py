"""An evaluation measures what was asked for; its table is sorted, and its command repeats."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path

import pytest

from imagetag.errors import InputError
from imagetag.evaluate.measuring import evaluated, predictions_table, train_command
from imagetag.job.command_line import parse_settings
from imagetag.runs.evaluation import Request, Since
from jobs.train import TrainSettings
from tests.builders.datasets import make_dataset
from tests.builders.evaluations import decide, evaluation_of, make_scored, scored
from tests.builders.rows import make_row

# ---- the measures


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


def test_a_test_split_of_one_label_is_an_input_error() -> None:
    items = [item for item in make_scored(10) if item.positive]
    with pytest.raises(InputError, match="only positive pictures"):
        evaluation_of(items, make_dataset([item.row for item in items]))


# ---- the table


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
