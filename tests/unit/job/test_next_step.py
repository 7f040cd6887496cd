"""The next job's command, as it can be copied from a terminal."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagetag.job.command_line import parse_settings
from imagetag.job.next_step import tell_next
from imagetag.job.settings import StorageSettings, TagSettings
from jobs import settings_of
from jobs.cli import JOBS
from tests.terminal import on_terminal, plain

ROOT = Path(__file__).parents[3]
SCRIPT = """
from imagetag import log
from imagetag.job.next_step import tell_next
from imagetag.job.settings import TagSettings
log.configure(LOG)
tell_next("explore", TagSettings(storage="my data/$HOME", tags="fate/stay_night,it's"))
"""


class Settings(TagSettings):
    run: str = "latest"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    found: list[list[str]] = []
    monkeypatch.setattr(
        "imagetag.job.next_step.tell_person",
        lambda _text, copied: found.append(shlex.split(copied)),
    )
    return found


def test_a_command_is_of_the_same_storage_and_tags(told: list[list[str]]) -> None:
    settings = Settings(storage="s3://b/p q", tags=("a", "b'c"), tags_file=Path("my tags"))
    tell_next("train", settings, "--packed", "latest", same=("run",))
    tell_next("train", settings.model_copy(update={"run": "r"}), same=("run",))
    start = ["--storage", "s3://b/p q", "--tags", "a,b'c", "--tags-file", "my tags"]
    assert [words[words.index("train") + 1 :] for words in told] == [
        [*start, "--packed", "latest"],
        [*start, "--run", "r"],
    ]


def test_it_is_told_on_a_terminal_in_one_line_for_the_shell() -> None:
    text = plain(on_terminal(SCRIPT.replace("LOG", ""), columns=39))
    assert text.endswith(
        """ explore --storage 'my data/$HOME' --tags 'fate/stay_night,it'"'"'s'\r\n"""
    )
    [command] = [line for line in text.splitlines() if "explore" in line]
    echoed = subprocess.run(
        ["sh", "-c", command[command.index("--storage") :].join(["printf '%s\\n' ", ""])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert echoed.stdout.splitlines() == [
        "--storage",
        "my data/$HOME",
        "--tags",
        "fate/stay_night,it's",
    ]


def test_it_is_no_line_of_a_log() -> None:
    assert on_terminal(SCRIPT.replace("LOG", "'json'")) == ""
    for form in ("'console'", "'json'", ""):
        script = SCRIPT.replace("LOG", form)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        assert (done.stdout, done.stderr) == (b"", b"")


def test_the_program_is_what_the_shell_finds(
    told: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = StorageSettings(storage="x")
    program = tmp_path / "bin" / "imagetag"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(program)])
    monkeypatch.setenv("PATH", os.defpath)
    tell_next("report", settings)
    monkeypatch.setenv("PATH", str(program.parent))
    tell_next("report", settings)
    monkeypatch.setattr("sys.argv", ["/somewhere/jobs/scrape.py"])
    tell_next("report", settings)
    monkeypatch.setenv("PATH", os.defpath)
    tell_next("report", settings)
    rest = ["report", "--storage", "x"]
    assert told == [
        ["bin/imagetag", *rest],
        ["imagetag", *rest],
        ["imagetag", *rest],
        ["python", "-m", "jobs.cli", *rest],
    ]


def calls() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what the jobs tell: the next job, its options, and names of settings it takes too."""
    for path in sorted((ROOT / "jobs").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "tell_next":
                job, _settings, *options = call.args
                names = [ast.unparse(word.value) for word in call.keywords if word.arg == "same"]
                yield (
                    ast.literal_eval(job),
                    [ast.literal_eval(option) for option in options],
                    [name for text in names for name in ast.literal_eval(text)],
                )


def test_the_next_job_understands_what_is_told() -> None:
    found = list(calls())
    assert {job for job, _, _ in found} == {"explore", "train", "evaluate", "predict"}
    for job, options, same in found:
        assert job in JOBS
        given = ["--storage", "x", "--tags", "a,b", *options]
        parsed = parse_settings(settings_of(job), given, command=job, summary="")
        assert {*same} <= {*type(parsed).model_fields}
