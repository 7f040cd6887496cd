"""What a job tells storage of its work, and that telling it does the work no harm."""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from structlog.testing import capture_logs

from imagetag.errors import InputError, Terminated, TransientError
from imagetag.job import heartbeat
from imagetag.job.heartbeat import Beat, Heartbeats, measured
from imagetag.job.job import for_each_tag
from imagetag.job.settings import TagSettings
from imagetag.log import Progress
from imagetag.storage.base import AccessDenied
from imagetag.storage.local import LocalStorage
from imagetag.storage.records import load_record
from tests.storages import Wrapped

NEVER = 3600.0


class Told(Wrapped):
    """Hands on each record as it is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(LocalStorage(path))
        self.beats: queue.Queue[Beat] = queue.Queue()

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        super().write(key, data)
        self.beats.put(load_record(self.inner, key, Beat))


class Refusing(Wrapped):
    """Takes nothing."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(LocalStorage(path))
        self._error = error

    def _change(self, *_: object) -> None:
        self.asked["change"] += 1
        raise self._error


def keys(storage: Wrapped) -> list[str]:
    return [entry.key.removeprefix(".status/") for entry in storage.inner.list()]


def do(storage: Wrapped, tag: str = "fox", **numbers: float | str) -> None:
    with Heartbeats(storage, "scrape", grace=NEVER) as heartbeats, heartbeats.of(tag):
        measured(**numbers)


def fail(storage: Wrapped, error: BaseException, tag: str = "fox") -> None:
    with pytest.raises(type(error)), Heartbeats(storage, "scrape", grace=NEVER) as heartbeats:
        with heartbeats.of(tag):
            raise error


@pytest.fixture(autouse=True)
def _a_slow_machine_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_LAST_SECONDS", 60.0)


@pytest.fixture
def storage(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_what_was_measured_is_kept_for_plans(storage: Told) -> None:
    do(storage, "re:zero", images=200, requests=230)
    assert keys(storage) == ["re%3Azero/scrape-0.done.json"]
    beat = storage.beats.get_nowait()
    assert (beat.tag, beat.stage, beat.state) == ("re:zero", "scrape", "done")
    assert beat.measured == {"images": 200, "requests": 230}
    assert beat.updated >= beat.started
    assert beat.seconds >= 0
    assert beat.host


def test_work_under_way_is_told_with_its_progress(storage: Told) -> None:
    with Heartbeats(storage, "train", grace=0, every=0) as heartbeats, heartbeats.of("fox"):
        with Progress("train", total=40, unit="images") as progress:
            progress.advance(16)
            while (beat := storage.beats.get(timeout=60)).done != 16:
                assert beat.state == "running"
        assert (beat.doing, beat.total, beat.unit) == ("train", 40, "images")
        assert keys(storage) == ["fox/train-0.running.json"]
    assert keys(storage) == []  # nothing was measured: its marker says all there is


def test_a_work_that_is_over_soon_is_not_told_to_be_under_way(storage: Told) -> None:
    do(storage, images=1)
    assert storage.beats.get_nowait().state == "done"
    assert storage.beats.empty()


def test_why_a_work_failed_is_told_until_one_succeeds(storage: Told) -> None:
    do(storage, images=5)
    fail(storage, InputError("the board has no posts\nof 'fox'"))
    assert keys(storage) == ["fox/scrape-0.done.json", "fox/scrape-0.failed.json"]
    beat = load_record(storage, ".status/fox/scrape-0.failed.json", Beat)
    assert (beat.exit_code, beat.reason) == (3, "the board has no posts of 'fox'")
    assert not beat.stopped
    do(storage)  # all was done already: what was measured then still holds
    assert keys(storage) == ["fox/scrape-0.done.json"]
    assert load_record(storage, ".status/fox/scrape-0.done.json", Beat).measured == {"images": 5}


def test_a_defect_is_told_as_one(storage: Told) -> None:
    fail(storage, ZeroDivisionError("division by zero"))
    beat = storage.beats.get_nowait()
    assert (beat.exit_code, beat.reason) == (1, "unexpected ZeroDivisionError: division by zero")


def test_a_work_that_was_stopped_says_what_is_kept(storage: Told) -> None:
    error = Terminated()
    error.add_note("the checkpoint of epoch 3 is kept")
    fail(storage, error)
    beat = storage.beats.get_nowait()
    assert (beat.exit_code, beat.stopped) == (143, True)
    assert beat.reason == "stopped by SIGTERM; the checkpoint of epoch 3 is kept"
    fail(storage, KeyboardInterrupt())
    assert storage.beats.get_nowait().exit_code == 130


def test_workers_that_share_a_tag_have_records_of_their_own(storage: Told) -> None:
    for worker in (0, 3):
        with Heartbeats(storage, "train", worker=worker) as heartbeats, heartbeats.of("fox"):
            measured(images=1)
    assert keys(storage) == ["fox/train-0.done.json", "fox/train-3.done.json"]


def test_work_on_several_tags_at_once_is_told_of_each(storage: Told) -> None:
    with Heartbeats(storage, "predict", worker=2, grace=0, every=0) as heartbeats:
        with heartbeats.of("fox", "owl"), Progress("predict") as progress:
            progress.advance(16)
            seen: set[str] = set()
            while seen != {"fox", "owl"}:
                beat = storage.beats.get(timeout=60)
                if beat.done == 16:
                    seen.add(beat.tag)
            assert keys(storage) == ["fox/predict-2.running.json", "owl/predict-2.running.json"]
    assert keys(storage) == []
    with pytest.raises(Terminated), Heartbeats(storage, "predict") as heartbeats:
        with heartbeats.of("fox", "owl"):
            raise Terminated
    assert keys(storage) == ["fox/predict-0.failed.json", "owl/predict-0.failed.json"]


def test_a_reader_that_has_seen_enough_is_no_failure(
    storage: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        fail(storage, BrokenPipeError())
        monkeypatch.undo()
    assert keys(storage) == []
    fail(storage, BrokenPipeError())  # of another pipe, or a socket
    assert keys(storage) == ["fox/scrape-0.failed.json"]


def test_a_worker_that_leaves_at_once_says_why_before(storage: Told) -> None:
    heartbeats = Heartbeats(storage, "train", worker=1)
    heartbeats.__enter__()
    with heartbeats.of("fox"):
        heartbeats.fail(TransientError("another worker is lost"))
        assert storage.beats.get_nowait().reason == "another worker is lost"


def test_what_is_measured_outside_of_any_work_is_nobodys() -> None:
    measured(images=5)


def test_each_tag_has_its_own_record_and_a_bad_one_stops_no_other(storage: Told) -> None:
    def work(tag: str) -> None:
        measured(letters=len(tag))
        if tag == "owl":
            raise InputError("no owls")

    settings = TagSettings(storage="unused", tags=("fox", "owl", "bear"))
    with pytest.raises(InputError, match="1 of 3 tags failed: owl"):
        for_each_tag(settings, work, Heartbeats(storage, "explore"))
    assert keys(storage) == [
        "bear/explore-0.done.json",
        "fox/explore-0.done.json",
        "owl/explore-0.failed.json",
    ]
    beat = load_record(storage, ".status/bear/explore-0.done.json", Beat)
    assert beat.measured == {"letters": 4}  # and nothing of the tag before


@pytest.mark.parametrize(
    ("error", "asked"), [(TransientError("down"), 9), (AccessDenied("not allowed"), 1)]
)
def test_a_storage_that_takes_no_record_fails_no_work_and_is_told_once(
    tmp_path: Path, error: Exception, asked: int
) -> None:
    storage = Refusing(tmp_path, error)
    done: list[str] = []
    settings = TagSettings(storage="unused", tags=("a", "b", "c"))

    def work(tag: str) -> None:
        done.append(tag)
        measured(images=1)

    with capture_logs() as lines:
        for_each_tag(settings, work, Heartbeats(storage, "scrape"))
    assert done == ["a", "b", "c"]
    assert [line["error"] for line in lines if line["log_level"] == "warning"] == [str(error)]
    assert storage.asked["change"] == asked  # who may not write is not told so again and again


def test_who_only_predicts_needs_to_read_and_is_not_warned(tmp_path: Path) -> None:
    storage = Refusing(tmp_path, AccessDenied("read-only"))
    with capture_logs() as lines, Heartbeats(storage, "predict") as heartbeats:
        with heartbeats.of("fox"):
            measured(images=1)
    assert storage.asked["change"] == 1
    assert [line["log_level"] for line in lines] == ["debug"]


def test_a_storage_that_hangs_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_LAST_SECONDS", 0.0)
    answer = threading.Event()

    class Hanging(Wrapped):
        def write(self, key: str, data: bytes | BinaryIO) -> None:
            answer.wait(60)
            super().write(key, data)

    storage = Hanging(LocalStorage(tmp_path))
    heartbeats = Heartbeats(storage, "scrape")
    with heartbeats, heartbeats.of("fox"):
        measured(images=1)
    assert keys(storage) == []
    answer.set()
    heartbeats._thread.join(60)
    assert keys(storage) == ["fox/scrape-0.done.json"]


def test_no_record_makes_a_storage_of_a_name_that_was_misspelt(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dta")
    with pytest.raises(InputError), Heartbeats(storage, "train") as heartbeats:
        with heartbeats.of("fox"):
            raise InputError("no complete dataset of the tag 'fox'")
    assert not (tmp_path / "dta").exists()
