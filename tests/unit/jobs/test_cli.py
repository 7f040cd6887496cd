"""`imagetag` itself: what it lists, and that its names are the jobs that there are."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imagetag import __version__
from imagetag.job.command_line import parse_settings
from imagetag.job.options import option_name
from imagetag.job.variables import env_name
from imagetag.run.child import command
from jobs import settings_of
from jobs.cli import JOBS

FOLDER = Path(__file__).parents[3] / "jobs"
IMAGETAG = str(Path(sys.executable).with_name("imagetag"))


def imagetag(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([IMAGETAG, *argv], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_job_and_says_what_to_do_first(argv: list[str]) -> None:
    done = imagetag(*argv)
    assert done.returncode == 0
    commands = re.findall(r"(?m)^  imagetag (\w+)", done.stdout)
    assert commands[0] == "demo"
    assert set(commands) <= set(JOBS)
    for job, text in JOBS.items():
        assert re.search(rf"(?m)^  {job} +{re.escape(text)}$", done.stdout)


def test_version() -> None:
    done = imagetag("--version")
    assert (done.returncode, done.stdout) == (0, f"imagetag {__version__}\n")


def test_the_commands_to_begin_with_are_ones_that_the_jobs_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = re.findall(r"(?m)^  imagetag (\w+) +(--.*)", imagetag().stdout)
    assert lines
    for job, options in lines:
        parse_settings(settings_of(job), options.split(), command=job, summary="")


def test_help_of_a_job_by_name() -> None:
    assert imagetag("help", "curate").stdout == imagetag("curate", "--help").stdout != ""


@pytest.mark.parametrize("name", ["--verbose", "", "os.path"])
def test_an_unknown_job_ends_with_2_and_names_those_there_are(name: str) -> None:
    done = imagetag(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert repr(name) in done.stderr
    assert done.stderr.count("\n") == 1
    assert all(job in done.stderr for job in JOBS)


@pytest.mark.parametrize(("name", "meant"), [("trian", "train"), ("scarpe", "scrape")])
def test_a_misspelt_job_ends_with_2_and_a_suggestion(name: str, meant: str) -> None:
    done = imagetag(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"imagetag: there is no job {name!r}; did you mean {meant}?\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [[], ["init", "--help"], ["status", "--storage", "."]])
def test_a_reader_that_leaves_at_once_is_no_error(
    argv: list[str], unbuffered: str, tmp_path: Path
) -> None:
    (tmp_path / "fox" / "train").mkdir(parents=True)
    (tmp_path / "fox" / "train" / "note.txt").touch()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [IMAGETAG, *argv],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_jobs_listed_are_those_there_are() -> None:
    assert set(JOBS) == {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "cli"}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_listed_as_its_module_describes_itself(job: str) -> None:
    document = ast.get_docstring(ast.parse((FOLDER / f"{job}.py").read_text()))
    assert document is not None
    first = document.splitlines()[0]
    assert re.fullmatch(rf"The {job}(?: job)?: (.*)\.", first), first
    assert first.endswith(f": {JOBS[job]}.")


@pytest.mark.parametrize("job", JOBS)
def test_every_option_of_a_job_is_in_its_help_with_its_variable(job: str) -> None:
    done = imagetag(job, "--help")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    options = set(re.findall(r"(?m)^  --([a-z0-9-]+)(?![a-z0-9.-])", done.stdout))
    assert {"log-format", "log-level"} <= options
    for option in options:
        field = option.replace("-", "_")
        assert option_name(field) == f"--{option}"
        assert f"[{env_name(field)}; " in text


def test_python_m_is_the_same_command() -> None:
    script = [sys.executable, "-m", "jobs.scrape", "--log-level", "loud"]
    one = subprocess.run(script, capture_output=True, text=True, check=False, cwd=FOLDER.parent)
    other = imagetag("scrape", "--log-level", "loud")
    assert one.returncode == other.returncode == 2
    assert "--log-level (IMAGETAG_LOG_LEVEL)" in one.stderr
    assert "--log-level (IMAGETAG_LOG_LEVEL)" in other.stderr


def test_a_job_of_a_pipeline_is_ours_whatever_the_folder_has(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run(
        [*command("init"), "a.toml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.toml").is_file()
