"""`imagetag audit` from the command line: what it refuses, how it ends, and what status tells."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagetag.audit import open_audit
from imagetag.errors import EXIT_INPUT, EXIT_INTERRUPTED, EXIT_USAGE
from imagetag.layout import Layout
from imagetag.review import Given
from imagetag.status import Overview
from imagetag.storage import LocalStorage
from imagetag.verdicts import load_audits
from jobs.audit import main
from tests.builders.audits import predicted
from tests.builders.runs import make_run, store_run

TAG = "robot"


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    """Return a command on 100 pictures that are called robots, by a run in storage."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{number:03}.png" for number in range(100)]
    for name in names:
        (folder / name).write_bytes(b"x")
    output = predicted(tmp_path / "robots.csv", dict.fromkeys(names, True), base=folder)
    storage = LocalStorage(tmp_path / "data")
    store_run(storage, make_run(tag=TAG, run="first"))
    storage.write(Layout(TAG).latest, b"first\n")
    return ["--storage", storage.url, "--tag", TAG, "--predictions", str(output)]


def judge(argv: list[str], count: int, answer: Any = "yes") -> None:
    """Judge the first pictures of the draw, as the page's user does while the job is served."""
    session = open_audit(LocalStorage(Path(argv[1])), TAG, [argv[5]])
    start = datetime(2025, 12, 1, tzinfo=UTC)
    session.take(
        Given(id=f"{place:016x}", item=item, answer=answer, at=start + timedelta(seconds=place))
        for place, item in enumerate(session.items[:count])
    )


@pytest.fixture
def until(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Return what lets Ctrl-C come when something was done while the page was served."""

    def set_up(what: Callable[[], None]) -> None:
        class Served:
            def wait(self) -> None:
                what()
                raise KeyboardInterrupt

        monkeypatch.setattr("jobs.audit.threading", SimpleNamespace(Event=Served))

    return set_up


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a job that is interrupted return, in place of leaving the process."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("imagetag.job.job.leave", leave)


def test_what_is_proven_when_it_is_interrupted_is_done(
    argv: list[str],
    until: Callable[[Callable[[], None]], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    until(lambda: judge(argv, 45))
    assert main(argv) == 0
    printed, told = capfd.readouterr()
    assert printed.startswith("http://127.0.0.1:")
    assert "0.95 proven on your pictures, 2025-12-01, 45 judged" in told
    [tag] = Overview(LocalStorage(Path(argv[1]))).read()
    assert (tag.stages["audit"].state, tag.stages["audit"].result) == (
        "complete",
        "0.95 proven, 45 judged",
    )
    assert main(argv) == 0
    assert "already audited" in capfd.readouterr().err


def test_what_is_not_decided_is_interrupted_and_goes_on(
    argv: list[str],
    until: Callable[[Callable[[], None]], None],
    left: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    until(lambda: judge(argv, 30))
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == EXIT_INTERRUPTED
    assert "run it again to go on" in capfd.readouterr().err
    [stored] = load_audits(LocalStorage(Path(argv[1])), TAG)
    assert (stored.judged, stored.outcome) == (30, "open")
    [tag] = Overview(LocalStorage(Path(argv[1]))).read()
    assert (tag.stages["audit"].state, tag.stages["audit"].result) == (
        "stopped",
        "0.95 open, 30 judged",
    )
    until(lambda: judge(argv, 45))
    assert main([*argv, "--target", "0.9"]) == 0, "more than 0.9 is proven by as many"
    assert '"0.91 proven on your pictures, 2025-12-01, 30 judged"' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--predictions", "none.csv"], EXIT_USAGE, "there is no such file"),
        (["--tag", "fox"], EXIT_INPUT, "it has no decision on the tag 'fox'; it has those of"),
        (["--run", "a/b"], EXIT_USAGE, "--run 'a/b'"),
        (["--target", "1.5"], EXIT_USAGE, "--target"),
        (["--input", "elsewhere"], EXIT_INPUT, "are not there: say with --input"),
    ],
)
def test_what_cannot_be_is_one_line(
    argv: list[str], words: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, *words]) == code
    assert message in capfd.readouterr().err


def test_no_predictions_are_told(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv[:4]) == EXIT_USAGE
    assert "--predictions FILE is needed" in capfd.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(argv) == EXIT_USAGE
    assert "image-tag-classification[review]" in capfd.readouterr().err
