"""What the README and docs/ name can be given and found: commands, options, variables, files."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from imagetag.job.command_line import parse_settings
from imagetag.job.options import add_options
from imagetag.job.shell_completion import SHELLS
from imagetag.job.variables import env_name
from jobs import settings_of, variables
from jobs.cli import JOBS
from tests import benchmarks
from tests.docs import ROOT, code, commands, pages

PAGES = pages()
BLOCKS = {path: code(text)[0] for path, text in PAGES.items()}
PIECES = {path: code(text)[1] for path, text in PAGES.items()}
CALLS = {path: [words for block in BLOCKS[path] for words in commands(block)] for path in PAGES}
# Options and variables of kubectl, curl, Keras, MLflow and TF Serving, and a picture's name.
OF_OTHERS = {"--server-side", "--parallel", "KERAS_HOME", "MODEL_NAME", "IMG_1", "NO_COLOR"}
OF_OTHERS |= {"MLFLOW_EXPERIMENT_NAME", "MODEL_NAME"}
# Commands whose options are none of a settings model.
WITHOUT_SETTINGS: set[str] = set()

MAKEFILE = (ROOT / "Makefile").read_text()
SCRIPTS = (
    *("Makefile", "Dockerfile.scrape", "Dockerfile.train"),
    *("k8s/deploy.sh", "k8s/undeploy.sh", "k8s/base/chain.sh"),
)
FOLDERS = ("docs", "jobs", "k8s", "lib", "requirements", "tests", ".ci/")


def shown(program: str) -> list[tuple[str, list[str]]]:
    """Return the arguments of each call of a program that a block of code shows, by page."""
    return [(path, words[1:]) for path in PAGES for words in CALLS[path] if words[:1] == [program]]


def told(program: str) -> list[tuple[str, list[str]]]:
    """Return the arguments of each call of a program that a sentence names, by page."""
    return [
        (path, shlex.split(piece)[1:])
        for path in PAGES
        for piece in PIECES[path]
        if piece.startswith(f"{program} ")
    ]


@pytest.mark.parametrize(("path", "arguments"), shown("imagetag"))
def test_a_command_in_a_block_can_be_given(
    path: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGETAG_STORAGE", "s3://bucket")
    job, *options = arguments
    assert job in JOBS
    if job not in WITHOUT_SETTINGS:
        parse_settings(settings_of(job), options, command=job, summary="")


@cache
def options_of(job: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, settings_of(job))
    return parser


def has(job: str, option: str) -> bool:
    return (
        option == "--help" or option not in options_of(job).parse_known_args([option, "value"])[1]
    )


@pytest.mark.parametrize(("path", "arguments"), told("imagetag"))
def test_a_command_in_a_sentence_has_its_options(path: str, arguments: list[str]) -> None:
    job, *rest = arguments
    if job == "completion":  # no job
        assert set(rest[:1]) <= set(SHELLS)
        return
    if job.startswith("-") or job.isupper():  # `imagetag JOB`
        return
    assert job in JOBS
    for option in (word for word in rest if word.startswith("--")):
        assert has(job, option), option


@pytest.mark.parametrize("path", PAGES)
def test_an_option_in_a_sentence_is_one_of_a_job(path: str) -> None:
    jobs = JOBS.keys() - WITHOUT_SETTINGS
    for piece in PIECES[path]:
        option = re.match(r"--[a-z][\w.-]*", piece)
        if option and option[0] not in OF_OTHERS:
            assert any(has(job, option[0]) for job in jobs), piece


@pytest.mark.parametrize(("path", "arguments"), shown("make") + told("make"))
def test_make_has_the_targets_and_variables(path: str, arguments: list[str]) -> None:
    known = "".join((ROOT / name).read_text() for name in SCRIPTS)
    for word in arguments:
        name, given, value = word.partition("=")
        if not given:
            assert re.search(rf"^{re.escape(word)}:.*##", MAKEFILE, re.MULTILINE), word
            continue
        assert re.search(rf"\b{re.escape(name)}\b", known), word
        if name == "OVERLAY":
            assert (ROOT / "k8s" / "overlays" / value).is_dir()


@pytest.mark.parametrize(("path", "arguments"), told("python -m tests.benchmarks"))
def test_a_benchmark_exists(path: str, arguments: list[str]) -> None:
    name = arguments[2]
    assert (Path(benchmarks.__path__[0]) / f"{name}.py").exists(), name


def test_variables_that_are_named_exist() -> None:
    files = [*map(ROOT.joinpath, SCRIPTS), *(ROOT / "tests" / "e2e").rglob("*.py")]
    known = set(re.findall(r"\w+", "".join(path.read_text() for path in files)))
    known |= variables() | OF_OTHERS | {"JOB_COMPLETION_INDEX", "POD_NAMESPACE"}
    for path, text in PAGES.items():
        named = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", text))
        named = {name for name in named if not name.startswith("AWS_")}
        # What stands for any option of a job that a command takes.
        named -= {env_name(f"{job}.option") for job in JOBS}
        assert named <= known, path


@pytest.mark.parametrize("path", PAGES)
def test_files_of_this_project_that_are_named_exist(path: str) -> None:
    words = [word for words in CALLS[path] for word in words]
    for name in words + PIECES[path]:
        if name.startswith(FOLDERS) and re.fullmatch(r"[\w.-]+/[\w./-]*", name):
            assert (ROOT / name).exists(), name


def test_the_architecture_names_modules_that_exist() -> None:
    paths = [*(ROOT / "lib" / "imagetag").rglob("*")]
    modules = {name for path in paths for name in (path.stem, f"{path.parent.name}.{path.stem}")}
    named = [piece.removeprefix("imagetag.") for piece in PIECES["docs/architecture.md"]]
    named = [name for name in named if re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", name)]
    named = [name for name in named if not name.endswith((".json", ".py", ".pyi", ".toml"))]
    assert len(named) > 30
    assert set(named) <= modules
