from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from imagetag.errors import TransientError
from imagetag.review import About, Facts, Given, Session
from imagetag.verdicts import Answer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Kept(Session):
    """A session that keeps its answers in a list, and can be told to fail."""

    def __init__(self, items: Sequence[str] = ("a", "b"), **changes: Any) -> None:
        super().__init__(About(key="k", tag="robot", title="t"), items, **changes)
        self.stored: list[Given] = []
        self.failing = False
        self.tidied = threading.Event()

    def facts(self, item: str) -> Facts:
        return Facts(caption=item)

    def picture(self, item: str, side: int) -> bytes:
        return b""

    def _tidy(self) -> None:
        self.tidied.set()

    def _store(self, given: Sequence[Given]) -> None:
        if self.failing:
            raise TransientError("storage does not answer")
        self.stored += given


def given(name: str, item: str, answer: Answer, seconds: float = 0) -> Given:
    digest = hashlib.md5(name.encode()).hexdigest()[:16]
    return Given(id=digest, item=item, answer=answer, at=NOW + timedelta(seconds=seconds))


def test_an_answer_told_twice_is_one() -> None:
    session = Kept()
    session.take([given("1", "a", "yes")])
    session.take([given("1", "a", "yes"), given("2", "b", "no")])
    assert [one.item for one in session.stored] == ["a", "b"]
    assert session.answers == {"a": "yes", "b": "no"}
    assert session.progress().done == session.progress().total == 2


def test_the_newer_of_two_answers_counts_whichever_comes_first() -> None:
    session = Kept()
    session.take([given("1", "a", "no", seconds=5)])
    session.take([given("2", "a", "yes")])  # from another window, which was offline
    assert session.answers == {"a": "no"}
    assert len(session.stored) == 2


def test_what_is_withdrawn_stands_no_longer_also_of_an_earlier_session() -> None:
    session = Kept(told={"a": given("8", "a", "yes"), "c": given("9", "c", "no")})
    assert session.answers == {"a": "yes"}
    session.take([given("1", "a", "withdrawn", seconds=1)])
    assert session.answers == {}
    assert session.progress().done == 0


def test_what_waited_since_before_an_earlier_session_does_not_stand_over_its_answer() -> None:
    session = Kept(told={"a": given("8", "a", "no", seconds=5)})
    session.take([given("1", "a", "yes")])
    assert session.answers == {"a": "no"}, "as whoever reads what is stored says"


def test_an_answer_after_a_clock_was_set_back_stands_and_keeps_its_place() -> None:
    session = Kept(told={"a": given("8", "a", "no", seconds=3600)})
    both = [given("1", "a", "yes"), given("2", "a", "unclear", seconds=1), given("3", "b", "no")]
    session.take(both, now=NOW + timedelta(seconds=2))
    assert session.answers == {"a": "unclear", "b": "no"}
    session.take([given("4", "a", "withdrawn", seconds=3)], now=NOW + timedelta(seconds=3))
    assert session.answers == {"b": "no"}
    times = [one.at for one in session.stored if one.item == "a"]
    assert NOW + timedelta(seconds=3600) < times[0] < times[1] < times[2]
    assert session.stored[2].at == NOW, "nothing of the future stands there"


def test_what_could_not_be_stored_is_not_taken_and_can_be_sent_again() -> None:
    session = Kept()
    session.failing = True
    with pytest.raises(TransientError):
        session.take([given("1", "a", "yes")])
    assert session.answers == {}
    session.failing = False
    session.take([given("1", "a", "yes")])
    assert session.answers == {"a": "yes"}


def test_a_strange_picture_spoils_a_batch_before_anything_is_stored() -> None:
    session = Kept()
    with pytest.raises(KeyError):
        session.take([given("1", "a", "yes"), given("2", "z", "yes")])
    assert session.stored == []


def test_what_is_stored_is_tidied_in_a_long_session_too() -> None:
    session = Kept()
    for number in range(255):
        session.take([given(str(number), "a", "yes", number)])
    assert not session.tidied.is_set()
    session.take([given("255", "b", "no")])
    assert session.tidied.wait(60)
