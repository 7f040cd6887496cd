"""The newest verdict of a picture stands, whoever gave it, and none is lost."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from imagetag.errors import InputError
from imagetag.layout import Layout
from imagetag.storage import LocalStorage
from imagetag.verdicts import Verdict, Verdicts, load_verdicts, store_verdicts
from tests.builders.verdicts import new_verdict

TAG = "fate/stay_night"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def md5(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def said(number: int, answer: Any, minute: int = 0, **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "md5": md5(number),
        "answer": answer,
        "queue": "random",
        "at": NOW + timedelta(minutes=minute),
        "id": md5(1000 * number + minute)[:16],
    }
    return Verdict(**values | changes)


def answers(verdicts: Verdicts) -> dict[str, str]:
    return {key: verdict.answer for key, verdict in verdicts.standing.items()}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_the_newest_stands_in_whatever_order_they_come() -> None:
    told = [said(1, "yes"), said(1, "no", 2), said(1, "unclear", 1), said(2, "no")]
    for order in permutations(told):
        assert answers(Verdicts.of(order)) == {md5(1): "no", md5(2): "no"}


def test_a_withdrawn_one_is_as_if_none_was_given() -> None:
    told = [said(1, "yes"), said(1, "withdrawn", 1), said(2, "withdrawn"), said(2, "yes", 1)]
    assert answers(Verdicts.of(told)) == {md5(2): "yes"}


def test_the_digest_is_of_what_stands() -> None:
    one = Verdicts.of([said(1, "yes"), said(2, "no")])
    assert one.digest
    again = Verdicts.of([said(2, "no", 7, by="anna", queue="suspects"), said(1, "yes", 9)])
    assert again.digest == one.digest
    for other in ([said(1, "yes")], [said(1, "no"), said(2, "no")], []):
        assert Verdicts.of(other).digest != one.digest
    assert not Verdicts.of([said(1, "yes"), said(1, "withdrawn", 1)]).digest


def test_what_is_stored_is_what_is_read(storage: LocalStorage) -> None:
    assert not load_verdicts(storage, TAG).standing
    store_verdicts(storage, TAG, [said(1, "yes", chance=0.25, by="анна"), said(2, "no")])
    store_verdicts(storage, TAG, [said(2, "unclear", 1)])
    found = load_verdicts(storage, TAG)
    assert found.standing[md5(1)] == said(1, "yes", chance=0.25, by="анна")
    assert answers(found) == {md5(1): "yes", md5(2): "unclear"}
    assert not load_verdicts(storage, "other").standing


def test_a_write_may_be_repeated(storage: LocalStorage) -> None:
    keys = {store_verdicts(storage, TAG, [said(1, "yes")]) for _ in range(3)}
    assert keys == {entry.key for entry in storage.list(Layout(TAG).verdicts)}


def test_many_at_once_lose_nothing(storage: LocalStorage) -> None:
    def judge(number: int) -> None:
        store_verdicts(storage, TAG, [new_verdict(md5(number), "yes", "random", by="a")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(judge, range(200)))
    assert len(load_verdicts(storage, TAG).standing) == 200


def test_a_line_that_is_none_is_told(storage: LocalStorage) -> None:
    key = store_verdicts(storage, TAG, [said(1, "yes")])
    storage.write(key, storage.read(key) + b'{"md5": "x"}\n')
    with pytest.raises(InputError, match=rf"{key} line 2: md5.*judge its pictures again"):
        load_verdicts(storage, TAG)


def test_what_others_put_there_is_passed_over(storage: LocalStorage) -> None:
    storage.write(Layout(TAG).verdicts + "notes.txt", b"mine")
    assert not load_verdicts(storage, TAG).standing


@pytest.mark.parametrize(
    "wrong",
    [
        {"answer": "maybe"},
        {"md5": "../x"},
        {"queue": "<script>"},
        {"chance": 0.0},
        {"chance": 1.5},
        {"by": "x" * 101},
        {"id": "1"},
        {"at": datetime(2026, 11, 1)},  # noqa: DTZ001
    ],
)
def test_what_cannot_be_a_verdict_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        said(1, **{"answer": "yes"} | wrong)
