"""What is told of a stop: nothing that went wrong on the way out is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from imagetag.errors import Terminated
from imagetag.job.stopping import PARENT, stop


@pytest.fixture(autouse=True)
def _no_other_stop() -> Iterator[None]:
    stop.begin()
    yield
    stop.begin()


def asked(number: int, error: BaseException) -> None:
    """Get a signal in the middle of a step, which then fails."""
    with stop.noted():
        stop.ask(number, None)
        raise error


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_another_error_after_a_signal_is_told(number: int, raised: type[BaseException]) -> None:
    with capture_logs() as logs, pytest.raises(raised):
        asked(number, OSError("the disk\nis full"))
    [line] = logs
    assert (line["log_level"], line["error"]) == ("warning", "the disk is full")


def test_the_stop_itself_is_no_other_error() -> None:
    with capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        asked(signal.SIGINT, KeyboardInterrupt())
    assert logs == []


def test_without_a_signal_an_error_is_what_it_is() -> None:
    with capture_logs() as logs, pytest.raises(OSError, match="full"), stop.noted():
        raise OSError("full")
    assert logs == []


def test_a_job_whose_parent_is_killed_is_stopped() -> None:
    child = (
        "import sys, threading; from imagetag.job.job import run_job;"
        "from imagetag.log import get_logger; from imagetag.job.settings import JobSettings;"
        "work = lambda _: (get_logger().info('at work'), threading.Event().wait());"
        "sys.exit(run_job('train', 'x', JobSettings, work, ['--log-format', 'json']))"
    )
    parent = (
        "import os, subprocess, sys, threading;"
        f"environment = {{**os.environ, {PARENT!r}: str(os.getpid())}};"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], env=environment).wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        assert first["event"] == "at work"
        process.kill()
        [last] = [json.loads(line) for line in process.stderr]  # until the child has ended too
    assert (last["event"].partition(";")[0], last["exit_code"]) == ("stopped by SIGTERM", 143)
