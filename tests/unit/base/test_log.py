"""Log lines and progress: JSON for machines, sentences on a terminal."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import structlog

from imagetag import log
from tests.ended import log_lines
from tests.terminal import on_terminal, plain

LOG = "import sys\nfrom imagetag import log\n"


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    return lambda: log_lines(capfd.readouterr().err)


def test_a_line_is_json_where_there_is_no_terminal(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    log.configure()
    with structlog.contextvars.bound_contextvars(tag="初音ミク"):
        log.get_logger().warning("two\nlines", count=3, path=os.path)
    [line] = lines()
    assert line["event"] == "two\nlines"
    assert (line["level"], line["tag"], line["count"]) == ("warning", "初音ミク", 3)
    when = datetime.fromisoformat(line["timestamp"])
    assert when.utcoffset() is not None
    assert abs((datetime.now(when.tzinfo) - when).total_seconds()) < 60


def test_a_line_is_a_sentence_on_a_terminal() -> None:
    text = on_terminal(LOG + "log.configure()\nlog.get_logger().warning('stored', images=3)")
    assert plain(text) != text, "no colours"
    assert plain(text) == "warning: stored (images 3)\r\n"


def test_the_format_can_be_chosen(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("console")
    log.get_logger().warning("stored", images=3)
    assert capfd.readouterr().err == "warning: stored (images 3)\n"
    text = on_terminal(LOG + "log.configure('json')\nlog.get_logger().info('stored')")
    assert json.loads(text)["event"] == "stored"


def test_there_is_no_bar_among_lines_of_json() -> None:
    script = "log.configure('json')\nwith log.Progress('sync', every=0) as it: it.advance(2)"
    assert json.loads(on_terminal(LOG + script))["done"] == 2


def test_less_than_the_level_is_not_written(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log.configure("json", "warning")
    for level in ("debug", "info", "warning", "error"):
        getattr(log.get_logger(), level)(level)
    assert [line["event"] for line in lines()] == ["warning", "error"]


def test_what_libraries_log_and_warn_is_json_too(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    log.configure("json")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("pool of %d is full", 10)
    [line] = lines()
    assert (line["event"], line["level"]) == ("pool of 10 is full", "warning")
    assert line["logger"] == "some.library"

    script = "from imagetag import log; import warnings; log.configure(); warnings.warn('old ways')"
    warned = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert "old ways" in json.loads(warned.stderr)["event"]


def test_a_libraries_traceback_and_chatter_come_only_at_debug_level(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    library = logging.getLogger("some.library")
    for level in ("info", "debug", "info"):
        log.configure("json", level)
        library.info("chatter")
        try:
            raise ValueError("inside")
        except ValueError:
            library.exception("failed")
    found = lines()
    assert [line["event"] for line in found] == ["failed", "chatter", "failed", "failed"]
    assert ["exception" in line for line in found] == [False, False, True, False]


def test_threads_do_not_tear_each_others_lines(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("json")

    def work(number: int) -> None:
        for _ in range(200):
            log.get_logger().info("x" * 200, thread=number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = capfd.readouterr().err.splitlines()
    assert len(found) == 1600
    assert all(json.loads(line)["event"] == "x" * 200 for line in found)


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("imagetag.log.time.monotonic", lambda: clock[0])
    log.configure("json")
    with log.Progress("storing", total=60, every=5) as progress:
        for number in range(60):
            clock[0] += 0.5
            progress.advance(failed=number // 10)
    found = lines()
    assert [line["done"] for line in found] == [10, 20, 30, 40, 50, 60]
    assert [line["failed"] for line in found] == [0, 1, 2, 3, 4, 5]
    for line in found:
        assert (line["event"], line["total"], line["unit"]) == ("storing", 60, "images")
        assert line["per_second"] == 2.0


def test_progress_counts_from_many_threads(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log.configure("json")
    progress = log.Progress("storing", every=0)

    def work() -> None:
        for _ in range(50):
            progress.advance(2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["done"] for line in lines()] == list(range(2, 801, 2))
