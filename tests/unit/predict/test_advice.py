"""Advice on tags from what was predicted, with stored tables that are there, damaged and gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagetag.layout import Layout
from imagetag.predict import advice as advice_module
from imagetag.predict.advice import Advisor
from imagetag.predict.writers import Answers
from imagetag.runs import Decision
from imagetag.sentences import sentence
from imagetag.stats import Calibration, Promise
from imagetag.storage import LocalStorage
from tests.builders.results import make_logits, make_pictures, table_of
from tests.builders.runs import make_run

SKILL = 5.0
PROMISE = Promise(
    min_precision=0.95,
    confidence=0.95,
    level=0.99,
    threshold=0.0,
    met=True,
    bound=0.96,
    called=200,
    right=199,
    positives=200,
    negatives=200,
)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


def store(storage: LocalStorage, tag: str, promise: Promise | None = PROMISE) -> None:
    """Store what evaluate does of a run that calls the tag from the logit 0 on."""
    layout = Layout(tag)
    for number, part in enumerate(("threshold", "test")):
        pictures = make_pictures(200, 200, first=1000 * number)
        logits = make_logits(pictures, SKILL, seed=number, shared=number)
        key = layout.run("first", f"{part}_predictions.csv")
        storage.write(key, table_of(pictures, logits))
    decision = Decision(
        tag=tag,
        run="first",
        trained=make_run().created,
        fingerprint="f",
        calibration=Calibration(),
        promise=promise,
        logit_threshold=0.0,
        threshold=0.5,
        created="2026-01-02T00:00:00+00:00",
    )
    storage.write(layout.run("first", "decision.json"), decision.model_dump_json().encode())


def answers(count: int, share: float, tags: int = 1) -> Iterator[Answers]:
    """Yield what is told of new pictures, of all tags alike; every eleventh cannot be read."""
    pictures = make_pictures(round(share * count), count - round(share * count), first=9000)
    chances = 1 / (1 + np.exp(-make_logits(pictures, SKILL, seed=7, shared=7)))
    for number, chance in enumerate(np.random.default_rng(0).permutation(chances).round(6)):
        if number % 11 == 0:
            yield Answers("bad.png", "", "cannot be decoded: no picture")
        yield Answers("a.png", "", None, [float(chance)] * tags, [bool(chance >= 0.5)] * tags)


def advised(
    storage: LocalStorage, told: Iterator[Answers], *tags: str, threshold: float | None = None
) -> dict[str, dict[str, Any]]:
    advisor = Advisor(storage, [make_run(tag=tag) for tag in tags], threshold)
    seen = list(advisor.watch(told))
    assert len(seen) > 50
    return advisor.advice()


def test_advice_is_told_of_each_tag(storage: LocalStorage) -> None:
    store(storage, "rei")
    store(storage, "asuka", promise=None)
    found = advised(storage, answers(1000, 0.5, 2), "rei", "asuka")
    rei, asuka = found["rei"], found["asuka"]
    assert (rei["images"], rei["advice"], rei["wanted"]) == (1000, "keep", 0.95)
    assert rei["share"]["low"] < 0.5 < rei["share"]["high"]
    assert (asuka["advice"], asuka["wanted"]) == (None, None)
    text = sentence({"event": "estimated", **rei})
    assert "of these 1,000 images have the tag" in text
    assert text.endswith("keep the threshold; this is estimated, not promised")


def test_where_the_tag_is_rare_the_threshold_is_not_kept(storage: LocalStorage) -> None:
    store(storage, "rei")
    found = advised(storage, answers(2000, 0.03), "rei")["rei"]
    assert found["advice"] in ("tighten", "distrust")
    assert found["precision"]["value"] < 0.95
    text = sentence({"event": "estimated", **found})
    assert "0.95 was wanted" in text
    # A threshold that is given is the one that is judged.
    strict = advised(storage, answers(2000, 0.03), "rei", threshold=0.9)["rei"]
    assert strict["precision"]["value"] > found["precision"]["value"]


def test_of_few_pictures_or_without_a_decision_nothing_is_told(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    store(storage, "rei")
    assert advised(storage, answers(99, 0.5), "rei") == {}
    assert advised(storage, answers(200, 0.5), "never") == {}
    assert "no advice" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", [None, b"md5,label\nx,y\n", b"\xff\xfe"])
def test_without_its_tables_a_tag_has_no_advice_and_others_have(
    damage: bytes | None, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, "rei")
    store(storage, "asuka")
    key = Layout("rei").run("first", "test_predictions.csv")
    storage.delete(key) if damage is None else storage.write(key, damage)
    told: list[dict[str, Any]] = []

    class Log:
        def warning(self, event: str, **fields: Any) -> None:
            told.append({"event": event, **fields})

    monkeypatch.setattr(advice_module, "get_logger", Log)
    assert list(advised(storage, answers(300, 0.5, 2), "rei", "asuka")) == ["asuka"]
    [line] = told
    assert (line["event"], line["tag"]) == ("no advice on what these images have", "rei")
    assert key in line["reason"]


def test_of_many_pictures_a_sample_is_kept(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice_module, "_MOST_PICTURES", 400)
    store(storage, "rei")
    found = advised(storage, answers(5000, 0.3), "rei")["rei"]
    assert found["images"] == 5000
    assert found["share"]["low"] < 0.3 < found["share"]["high"]


def test_a_picture_without_a_number_tells_nothing(storage: LocalStorage) -> None:
    store(storage, "rei")
    told = [Answers("a.png", "", None, [None], [None])] * 60
    assert advised(storage, iter([*told, *answers(200, 0.5)]), "rei")["rei"]["images"] == 200
    assert advised(storage, iter([*told, *answers(70, 0.5)]), "rei") == {}
