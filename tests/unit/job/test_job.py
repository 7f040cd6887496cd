"""What a job promises to who runs it: exit codes, last words, and one bad tag among good."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagetag.errors import ImagetagError, InputError, TransientError, UsageError
from imagetag.job.job import for_each_tag, run_job, share_memory_among_threads
from imagetag.job.settings import JobSettings, TagSettings
from imagetag.log import get_logger
from tests.ended import log_lines

Outcome = tuple[int, list[dict[str, Any]]]


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run a job in this process; gives its exit code and its log lines."""

    def leave(code: int) -> None:
        raise AssertionError(f"it would have left the process with {code}")

    monkeypatch.setattr(os, "_exit", leave)

    def run(work: Callable[[Any], None], *argv: str, settings: Any = JobSettings) -> Outcome:
        code = run_job("try", "A job to try.", settings, work, argv)
        return code, log_lines(capfd.readouterr().err)

    return run


def raising(error: BaseException) -> Callable[[Any], None]:
    def work(_settings: Any) -> None:
        raise error

    return work


def test_work_that_is_done_is_0_and_silent(run: Callable[..., Outcome]) -> None:
    assert run(lambda _settings: None) == (0, [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("the bucket 'x' is wrong"), 2),
        (InputError("the tag 'x' has no posts"), 3),
        (TransientError("the board is down"), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (OSError(errno.EMFILE, "Too many open files"), 75),
        (OSError(errno.EIO, "Input/output error"), 1),
        (ZeroDivisionError("division by zero"), 1),
        (ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow"), 2),
        (ModuleNotFoundError("No module named 'imagetag.x'", name="imagetag.x"), 1),
        (BrokenPipeError(errno.EPIPE, "a server closed its connection"), 1),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(
    run: Callable[..., Outcome], error: Exception, code: int
) -> None:
    found, lines = run(raising(error))
    assert found == code
    assert len(lines) == 1
    assert lines[0]["exit_code"] == code
    assert lines[0]["level"] == "error"
    assert (error.args[-1] in lines[0]["event"]) or "is not installed here" in lines[0]["event"]
    assert "exception" not in lines[0]


@pytest.mark.parametrize("error", [InputError("no posts"), ZeroDivisionError("division by zero")])
def test_a_traceback_comes_only_at_debug_level(
    run: Callable[..., Outcome], error: Exception
) -> None:
    _, [line] = run(raising(error), "--log-level", "debug")
    assert "Traceback (most recent call last)" in line["exception"]


def test_an_error_of_many_lines_is_told_in_one_on_a_console(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for error in (InputError("one\n  two"), ValueError("one\n  two")):
        run_job("try", "A job.", JobSettings, raising(error), ["--log-format", "console"])
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "one two" in lines[0]


def test_wrong_settings_are_2_and_one_line(run: Callable[..., Outcome]) -> None:
    code, [line] = run(lambda _settings: None, "--log-level", "loud")
    assert code == 2
    assert "--log-level (IMAGETAG_LOG_LEVEL)" in line["event"]
    assert "'loud'" in line["event"]


@pytest.mark.parametrize("wrong", [["--storge=x"], ["--log-level=loud"], ["--log-level"]])
@pytest.mark.parametrize(
    ("variable", "argv", "is_json"),
    [
        ("console", [], False),
        ("", ["--log-format", "console"], False),
        ("json", ["--log-format=console"], False),
        ("console", ["--log-format=json"], True),
        ("consol", [], True),
        ("", ["--log-format=auto"], True),
    ],
)
def test_what_is_wrong_with_settings_is_told_in_the_format_that_they_ask_for(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    argv: list[str],
    is_json: bool,
    wrong: list[str],
) -> None:
    monkeypatch.setenv("IMAGETAG_LOG_FORMAT", variable)
    argv = [*argv, *wrong]
    assert run_job("try", "A job.", JobSettings, lambda _settings: None, argv) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("{" if is_json else "error: ")
    assert "--log-level" in line or "--storge" in line


def test_help_is_0(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run_job("try", "A job.", JobSettings, lambda _settings: None, ["--help"])
    assert left.value.code == 0
    assert "usage: imagetag try" in capfd.readouterr().out


def test_an_unknown_option_is_2_and_one_line(run: Callable[..., Outcome]) -> None:
    code, [line] = run(lambda _settings: None, "--log-levle", "debug")
    assert (code, line["event"]) == (2, "there is no --log-levle; did you mean --log-level?")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_of_signals_are_put_back(
    number: signal.Signals, run: Callable[..., Outcome]
) -> None:
    before = signal.signal(number, ignoring := lambda *_: None)
    try:
        run(raising(InputError("no posts")))
        assert signal.getsignal(number) is ignoring
    finally:
        signal.signal(number, before)


# Many tags.


def run_tags(
    run: Callable[..., Outcome], failing: Mapping[str, Exception], *argv: str
) -> tuple[int, list[dict[str, Any]], list[str]]:
    done = []

    def work(tag: str) -> None:
        get_logger().info("working")
        if tag in failing:
            raise failing[tag]
        done.append(tag)

    code, lines = run(
        lambda settings: for_each_tag(settings, work),
        *("--storage", "unused", "--tags", "a,b,c,d", *argv),
        settings=TagSettings,
    )
    return code, lines, done


def test_one_bad_tag_does_not_stop_the_others(run: Callable[..., Outcome]) -> None:
    code, lines, done = run_tags(run, {"b": InputError("the tag 'b' has no posts")})
    assert code == 3
    assert done == ["a", "c", "d"]
    [own] = [line for line in lines if line["event"] == "the tag 'b' has no posts"]
    assert (own["tag"], own["exit_code"]) == ("b", 3)
    assert lines[-1]["event"] == "1 of 4 tags failed: b"
    assert "tag" not in lines[-1]


def test_a_passing_failure_outweighs_a_lasting_one(run: Callable[..., Outcome]) -> None:
    failing = {"a": InputError("no posts"), "b": TransientError("down"), "c": InputError("none")}
    code, lines, done = run_tags(run, failing)
    assert (code, done) == (75, ["d"])
    assert lines[-1]["event"] == "3 of 4 tags failed: a, b, c"


def test_wrong_usage_stops_at_once(run: Callable[..., Outcome]) -> None:
    code, lines, done = run_tags(run, {"b": UsageError("no such bucket")})
    assert (code, done) == (2, ["a"])
    assert lines[-1]["event"] == "no such bucket"


def test_a_defect_is_a_defect_whatever_the_tag(run: Callable[..., Outcome]) -> None:
    code, lines, done = run_tags(run, {"b": KeyError("x")})
    assert (code, done) == (1, ["a"])
    assert "KeyError" in lines[-1]["event"]


def test_a_single_tags_error_is_told_once_in_its_own_words(run: Callable[..., Outcome]) -> None:
    code, lines, _ = run_tags(run, {"b": InputError("no posts")}, "--tags=b")
    assert code == 3
    assert [line["event"] for line in lines] == ["working", "no posts"]


def test_every_line_of_a_tags_work_names_the_tag(run: Callable[..., Outcome]) -> None:
    _, lines, _ = run_tags(run, {})
    assert [line["tag"] for line in lines if line["event"] == "working"] == ["a", "b", "c", "d"]


def test_more_shards_than_tags_is_no_error(run: Callable[..., Outcome]) -> None:
    code, lines, done = run_tags(run, {}, "--shard-index=6", "--shard-count=7")
    assert (code, done) == (0, [])
    assert lines[0]["shard"] == 6


@pytest.mark.parametrize("kind", [InputError, TransientError])
def test_a_hundred_failed_tags_make_no_endless_line(
    run: Callable[..., Outcome], kind: type[ImagetagError]
) -> None:
    tags = [f"tag_{number}" for number in range(100)]
    failing = {tag: kind("no") for tag in tags}
    code, lines, _ = run_tags(run, failing, "--tags", ",".join(tags))
    assert code == kind.exit_code
    assert lines[-1]["event"].startswith("100 of 100 tags failed: tag_0, ")
    assert len(lines[-1]["event"]) < 300


# Whole processes.


def start(work: str, **options: Any) -> subprocess.Popen[str]:
    script = [
        "import signal, sys, threading, time",
        # What a shell starts in the background inherits that it is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "from imagetag.job.job import run_job",
        "from imagetag.job.settings import JobSettings",
        "def work(settings):",
        textwrap.indent(textwrap.dedent(work), "    "),
        "sys.exit(run_job('try', 'A job.', JobSettings, work, []))",
    ]
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


STUCK = """\
threading.Thread(target=time.sleep, args=(1000,)).start()
try:
    print("started", flush=True)
    time.sleep(1000)
finally:
    print("state saved", file=sys.stderr)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_ends_though_a_thread_is_stuck(
    number: signal.Signals, code: int
) -> None:
    process = start(STUCK)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == code
    saved, last = err.splitlines()
    assert saved == "state saved"
    assert json.loads(last)["exit_code"] == code
    assert json.loads(last)["event"].endswith(
        "; what was under way begins anew when it is run again"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_last_line_says_what_was_saved_on_the_way_out(
    number: signal.Signals, code: int
) -> None:
    process = start(
        """\
        try:
            print("started", flush=True)
            time.sleep(60)
        except BaseException as error:
            error.add_note("12 rows are kept")
            raise
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == code
    assert json.loads(err)["event"].endswith("; 12 rows are kept")


# Saves for a minute once it is told to stop.
SLOW_TO_SAVE = """\
try:
    print("started", flush=True)
    time.sleep(60)
finally:
    print("saving", flush=True)
    time.sleep(60)
"""
# In the midst of a call that Python's own handlers wait for, as for a step of TensorFlow.
IN_A_STEP = """\
import hashlib
from imagetag.job.stopping import stop
with stop.noted():
    print("started", flush=True)
    print("saving", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("work", [SLOW_TO_SAVE, IN_A_STEP])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_waits_for_nothing(work: str, first: signal.Signals) -> None:
    process = start(work)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(first)
    assert process.stdout.readline() == "saving\n"
    while process.poll() is None:  # two that are sent at once may arrive as one
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, err = process.communicate()
    assert process.returncode == 130
    last = json.loads(err)
    assert last["exit_code"] == 130
    assert last["event"].startswith("interrupted again: left without saving what was under way; ")


def test_what_is_being_saved_is_not_disturbed_by_another_sigterm() -> None:
    process = start(
        """\
        try:
            print("started", flush=True)
            time.sleep(60)
        finally:
            print("saving", flush=True)
            sys.stdin.readline()
            print("saved", flush=True)
        """,
        stdin=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(3):
        process.terminate()
    assert process.stdout.readline() == "saving\n"
    process.terminate()
    out, _ = process.communicate("go on\n", timeout=200)
    assert out == "saved\n"
    assert process.returncode == 143


def test_what_is_noted_is_raised_at_the_end_of_it() -> None:
    process = start(
        """\
        from imagetag.job.stopping import stop
        with stop.noted():
            print("started", flush=True)
            while stop.asked is None:
                time.sleep(0.01)
            print("a step more", flush=True)
            raise ValueError("which matters no more")
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=200)
    assert (out, process.returncode) == ("a step more\n", 130)


def test_ctrl_c_stays_ignored_where_a_shell_has_said_so() -> None:
    script = """\
import os, signal
from imagetag.job.job import run_job
from imagetag.job.settings import JobSettings
signal.signal(signal.SIGINT, signal.SIG_IGN)
run_job('try', 'A job.', JobSettings, lambda _: os.kill(os.getpid(), signal.SIGINT), [])
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_process_that_ends_does_not_look_for_garbage_in_all_that_was_imported() -> None:
    script = """\
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > len(gc.get_objects())))
from imagetag.job.job import run_job
from imagetag.job.settings import JobSettings
run_job('try', 'A job.', JobSettings, lambda _: None, [])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"True\n"


def test_sigterm_is_not_eaten_by_code_that_catches_every_exception() -> None:
    process = start(
        """\
        while True:
            try:
                print("started", flush=True)
                time.sleep(1000)
            except Exception:
                pass
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=200)
    assert process.returncode == 143


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(unbuffered: str) -> None:
    process = start(
        "for number in range(100_000):\n    print(number)\n",
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.wait(timeout=200) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_log_whose_reader_is_gone_does_not_count_as_done() -> None:
    process = start(
        """\
        from imagetag.log import get_logger
        sys.stdin.readline()
        print("gone", flush=True)
        for number in range(100_000):
            get_logger().info("working")
        """,
        stdin=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.close()
    out, _ = process.communicate("go\n", timeout=200)
    assert out == "gone\n"
    assert process.returncode != 0


def test_threads_share_memory_where_the_c_library_is_glibc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int]] = []
    glibc = SimpleNamespace(mallopt=lambda what, value: calls.append((what, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: glibc)
    share_memory_among_threads()
    assert calls == [(-8, 2)]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    share_memory_among_threads()  # another C library


# Does not end when it is told to, as in the midst of a step.
STUBBORN = """\
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print(json.dumps({"event": "saving"}), flush=True))
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(json.dumps({"event": "started", "process": os.getpid()}), flush=True)
while True:
    time.sleep(60)
"""


def test_a_second_ctrl_c_ends_a_job_that_is_a_child_too() -> None:
    process = start(
        f"""\
        from imagetag.run import child
        child.command = lambda job: [sys.executable, "-c", {STUBBORN!r}]
        child.Child("train", [], sys.stdout).run(lambda event: None)
        """
    )
    assert process.stdout is not None
    number = json.loads(process.stdout.readline())["process"]
    process.send_signal(signal.SIGINT)
    assert json.loads(process.stdout.readline())["event"] == "saving"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130
    assert json.loads(err)["event"].startswith("interrupted again: left without saving")
    for _ in range(100):  # until it is reaped
        if not is_alive(number):
            return
        time.sleep(0.1)
    raise AssertionError(f"{number} is left")


def is_alive(number: int) -> bool:
    """Tell whether a process runs, as one that nobody has reaped does not."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
