"""A stop: no signal is missed, and nothing that went wrong on the way out is lost."""

from __future__ import annotations

import json
import os
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


SAVING = """
import os, sys, time
from imagetag.errors import Terminated
from imagetag.job.job import run_job
from imagetag.job.settings import JobSettings
from imagetag.log import get_logger

def work(_):
    try:
        get_logger().info("at work")
        time.sleep(1000)
    except (KeyboardInterrupt, Terminated):
        for _ in range(10):
            get_logger().info("saving")
            time.sleep(0.05)
        print("saved", flush=True)
        raise

sys.exit(run_job("train", "x", JobSettings, work, ["--log-format", "json"]))
"""


def test_a_job_whose_parent_is_killed_saves_its_work_though_nobody_reads_its_log() -> None:
    parent = (
        "import os, subprocess, sys, threading\n"
        f"environment = {{**os.environ, {PARENT!r}: str(os.getpid())}}\n"
        f"child = [sys.executable, '-c', {SAVING!r}]\n"
        "with subprocess.Popen(child, env=environment, stderr=subprocess.PIPE) as process:\n"
        "    process.stderr.readline()\n"
        "    print('at work', flush=True)\n"
        "    threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        process.kill()
        assert process.stdout.read() == b"saved\n"  # until the child has ended too


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
def test_a_ctrl_c_that_a_child_has_twice_is_one(numbers: tuple[int, int]) -> None:
    """From its terminal, and from the job that runs it."""
    start = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen(
        [sys.executable, "-c", start + SAVING],
        env={**os.environ, PARENT: str(os.getpid())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        for number, expected in zip(numbers, ("at work", "saving"), strict=True):
            assert json.loads(process.stderr.readline())["event"] == expected
            process.send_signal(number)
        told, _ = process.communicate(timeout=100)
    assert told == b"saved\n"
    assert process.returncode in (130, 143)


# Each waits for good, if its signal is missed; it has a thread that wakes nobody.
MISSES = {
    "another thread gets it": (
        "threading.Thread(target=threading.Event().wait, daemon=True).start();"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT]);"
        "os.kill(os.getpid(), NUMBER);"
        "threading.Event().wait()"
    ),
    "a finalizer drops it": (
        "dropping = type('Dropping', (), {'__del__': lambda _: os.kill(os.getpid(), NUMBER)})();"
        "del dropping;"
        "threading.Event().wait()"
    ),
    "a weak reference's callback drops it": (
        "alive = type('Alive', (), {})();"
        "seen = weakref.ref(alive, lambda _: os.kill(os.getpid(), NUMBER));"
        "del alive;"
        "threading.Event().wait()"
    ),
    "a finalizer drops it before a step": (
        "dropping = type('Dropping', (), {'__del__': lambda _: os.kill(os.getpid(), NUMBER)})();"
        "del dropping;"
        "step = stop.noted();"
        "step.__enter__();"
        "step.__exit__(None, None, None);"
        "threading.Event().wait()"
    ),
}


@pytest.mark.parametrize("work", MISSES.values(), ids=MISSES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_no_signal_is_missed(work: str, number: int, code: int) -> None:
    child = (
        "import os, signal, sys, threading, weakref\n"
        "from imagetag.job.job import run_job\n"
        "from imagetag.job.settings import JobSettings\n"
        "from imagetag.job.stopping import stop\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"NUMBER = {int(number)}\n"
        "def work(_):\n"
        f"    {work}\n"
        "sys.exit(run_job('train', 'x', JobSettings, work, ['--log-format', 'json']))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, timeout=100, check=False
    )
    [last] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (ended.returncode, last["exit_code"]) == (code, code)
