"""The Dockerfiles keep the rules that building them once does not show."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from imagetag import __version__
from tests.forked import run_forked

ROOT = Path(__file__).parents[3]
DOCKERFILES = ("Dockerfile.scrape", "Dockerfile.train")
WRITTEN = {  # what decides where programs write; under the one folder that can be written
    "Dockerfile.scrape": {"HOME", "TMPDIR"},
    "Dockerfile.train": {
        *("CUDA_CACHE_PATH", "HOME", "IMAGETAG_CACHE_FOLDER", "KERAS_HOME", "MPLCONFIGDIR"),
        "TMPDIR",
    },
}

both = pytest.mark.parametrize("name", DOCKERFILES)


class Step(NamedTuple):
    instruction: str
    text: str


def steps(name: str) -> list[Step]:
    """The instructions of a Dockerfile, each on one line."""
    lines = (ROOT / name).read_text().splitlines()
    joined = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    found = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [Step(instruction, " ".join(text.split())) for instruction, text in found]


def last_stage(name: str) -> list[Step]:
    found = steps(name)
    start = max(i for i, step in enumerate(found) if step.instruction == "FROM")
    return found[start:]


def env(name: str) -> dict[str, str]:
    text = next(step.text for step in last_stage(name) if step.instruction == "ENV")
    return dict(pair.split("=", 1) for pair in text.split())


def locked(name: str) -> dict[str, set[str]]:
    """Package to its versions (one for each Python) in a lock file."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE
    ):
        found.setdefault(package, set()).add(version)
    return found


@both
def test_hadolint_has_nothing_to_say(name: str) -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not program:
        pytest.skip("SKIPPED: the Dockerfiles are not linted, as hadolint is not installed")
    done = subprocess.run([program, ROOT / name], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@both
def test_the_base_image_is_an_argument_with_a_full_version(name: str) -> None:
    found = steps(name)
    images = {step.text.split()[0] for step in found if step.instruction == "FROM"} - {"packages"}
    assert images == {"${BASE_IMAGE}"}
    (default,) = (step.text for step in found if step.text.startswith("BASE_IMAGE="))
    assert re.search(r":\d+\.\d+\.\d+-slim-bookworm$", default)


@both
def test_no_package_index_is_named(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()
    arguments = {step.text for step in steps(name) if step.instruction == "ARG"}
    assert {'PIP_INDEX_URL=""', 'PIP_EXTRA_INDEX_URL=""', 'CERTIFICATES=""'} <= arguments


@both
def test_packages_are_wheels_with_hashes(name: str) -> None:
    (install,) = re.findall(
        r"bin/pip (?:--python \S+ )?install .*?(?= &&)",
        "\n".join(step.text for step in steps(name)),
    )
    assert {"--require-hashes", "--no-deps", "--no-cache-dir"} <= set(install.split())
    assert "--only-binary :all:" in install
    assert "--no-binary" not in install


@both
def test_the_last_stage_installs_nothing_of_pip_s(name: str) -> None:
    assert not [step for step in last_stage(name) if "pip" in step.text or "gcc" in step.text]


@both
def test_it_runs_as_a_number_and_python_gets_the_signals(name: str) -> None:
    last = {step.instruction: step.text for step in last_stage(name)}
    assert last["USER"] == "10001:10001"
    assert last["ENTRYPOINT"] == '["imagetag"]'
    assert last["CMD"] == '["--help"]'
    assert "STOPSIGNAL" not in last
    script = next(step.text for step in steps(name) if "> /opt/venv/bin/imagetag" in step.text)
    assert "'#!/opt/venv/bin/python' 'import sys' 'from jobs.cli import main'" in script


@both
def test_all_that_is_written_is_in_one_folder(name: str) -> None:
    found = env(name)
    inside = {key for key, value in found.items() if value.split("/")[:2] == ["", "scratch"]}
    assert inside == WRITTEN[name]
    assert {step.text for step in last_stage(name) if step.instruction == "WORKDIR"} == {"/scratch"}
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"


@both
def test_a_change_of_the_code_leaves_all_before_it_as_it_is(name: str) -> None:
    code = "--from=code /opt/imagetag /opt/imagetag"
    last = last_stage(name)
    position = [step.text for step in last].index(code)
    assert {step.instruction for step in last[position + 1 :]} == {"ARG", "LABEL"}
    found = steps(name)
    froms = [i for i, step in enumerate(found) if step.instruction == "FROM"]
    packages = found[froms[0] : froms[1]]
    assert packages[0].text.endswith(" AS packages")
    copied = [step.text.split()[:-1] for step in packages if step.instruction == "COPY"]
    assert all(source.startswith("requirements/") for sources in copied for source in sources)
    arguments = [step.text.split("=")[0] for step in last if step.instruction == "ARG"]
    assert arguments[-2:] == ["VERSION", "REVISION"]
    assert not {"VERSION", "REVISION"} & set(arguments[:-2])


@both
def test_labels_say_what_it_is(name: str) -> None:
    last = {step.instruction: step.text for step in last_stage(name)}
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', last["LABEL"]))
    assert labels["title"] == name.replace("Dockerfile.", "imagetag-")
    assert labels["licenses"] == "MIT"
    assert labels["version"] == "${VERSION}"
    assert labels["revision"] == "${REVISION}"
    assert Step("ARG", f"VERSION={__version__}") in last_stage(name)


def test_all_that_is_copied_and_little_else_is_sent_to_the_builder() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source.split("/")[0]
        for name in DOCKERFILES
        for step in steps(name)
        if step.instruction == "COPY" and not step.text.startswith("--from")
        for source in step.text.split()[:-1]
    }
    assert copied == sent


def test_the_scrape_image_has_no_tensorflow() -> None:
    for name in ("scrape.txt", "scrape-browser.txt"):
        assert not {"tensorflow", "keras", "scipy", "pandas", "matplotlib"} & locked(name).keys()


def test_locks_agree() -> None:
    locks = {
        name: locked(name)
        for name in ("scrape.txt", "scrape-browser.txt", "train-cpu.txt", "train.txt")
    }
    development = locked("dev.txt")
    for lock in locks.values():
        for package, versions in lock.items():
            assert versions == development.get(package, versions)
    extra = locks["train.txt"].keys() - locks["train-cpu.txt"].keys()
    assert extra
    assert all(package.startswith("nvidia-") for package in extra)
    assert locks["train-cpu.txt"].keys() < locks["train.txt"].keys()
    assert {"tensorflow", "pyarrow"} <= locks["train-cpu.txt"].keys()
    assert locks["scrape.txt"].keys() < locks["train.txt"].keys()
    assert locks["scrape.txt"].keys() < locks["scrape-browser.txt"].keys()
    assert "selenium" in locks["scrape-browser.txt"]


def make(folder: Path, *arguments: str, programs: dict[str, str]) -> tuple[int, str]:
    """Run make where some programs are scripts; returns its exit code and what it said."""
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": f"{folder}:{os.environ['PATH']}", "PIP_INDEX_URL": "file:///index"},
    )
    return done.returncode, done.stdout + done.stderr


def test_make_images_passes_on_what_it_was_given(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = ["images", "DEVICE=cpu", "BROWSER=1", "WEIGHTS=", "ENGINE=engine", "REGISTRY=r/x"]
    script = f'echo "$@ index=$PIP_INDEX_URL browser=$BROWSER layers=$BUILDAH_LAYERS" >> {log}'
    code, said = make(tmp_path, *arguments, programs={"engine": script})
    assert code == 0, said
    scrape, train = log.read_text().splitlines()
    assert (
        f"-t r/x/imagetag-scrape:{__version__} . index=file:///index browser=1 layers=true"
        in scrape
    )
    assert "--build-arg PIP_INDEX_URL --build-arg BROWSER -f Dockerfile.scrape" in scrape
    assert "--build-arg WEIGHTS --build-arg DEVICE=cpu -f Dockerfile.train" in train
    assert f"-t r/x/imagetag-train:{__version__}-cpu ." in train
    assert "CERTIFICATES" not in scrape + train


def test_make_load_gives_both_images_to_the_cluster(tmp_path: Path) -> None:
    log = tmp_path / "log"
    programs = {
        "engine": f'echo "$@" >> {log}; touch "$3"',
        "kubectl": "echo kind-mine",
        "kind": f'test -f "$3" && echo "$1 $2 $4 $5" >> {log}',
    }
    code, said = make(tmp_path, "load", "ENGINE=engine", "DEVICE=cpu", programs=programs)
    assert code == 0, said
    saved, loaded, saved_too, loaded_too = log.read_text().splitlines()
    assert loaded == loaded_too == "load image-archive --name mine"
    assert saved.endswith(f"localhost/imagetag-scrape:{__version__}")
    assert saved_too.endswith(f"localhost/imagetag-train:{__version__}-cpu")


def test_make_load_says_where_it_cannot_before_it_writes_an_archive(tmp_path: Path) -> None:
    programs = {"engine": f"touch {tmp_path}/written", "kubectl": "echo eks"}
    code, said = make(tmp_path, "load", "ENGINE=engine", programs=programs)
    assert code == 2
    assert "the context eks is neither kind's nor minikube's" in said
    assert not (tmp_path / "written").exists()


NO_DAEMON = 'test "$1" != info'


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [
        ({"docker": "true", "podman": "true"}, "docker build"),
        ({"docker": NO_DAEMON, "podman": "true"}, "podman build"),
        ({"docker": NO_DAEMON, "podman": NO_DAEMON, "buildah": "true"}, "buildah build"),
        (dict.fromkeys(("docker", "podman", "buildah"), NO_DAEMON), "`info` of none of them works"),
    ],
)
def test_make_takes_an_engine_that_works(
    programs: dict[str, str], chosen: str, tmp_path: Path
) -> None:
    _, said = make(tmp_path, "--dry-run", "images", programs=programs)
    assert chosen in said


def test_an_engine_that_is_given_is_taken(tmp_path: Path) -> None:
    _, said = make(tmp_path, "--dry-run", "images", "ENGINE=docker", programs={"docker": NO_DAEMON})
    assert "docker build" in said


@both
def test_what_is_copied_exists(name: str) -> None:
    copied = [step.text.split()[:-1] for step in steps(name) if step.instruction == "COPY"]
    sources = [each for words in copied if not words[0].startswith("--") for each in words]
    assert all(any(ROOT.glob(source)) for source in sources)


def test_what_fetches_weights_has_all_that_it_imports(tmp_path: Path) -> None:
    found = steps("Dockerfile.train")
    start = next(i for i, step in enumerate(found) if step.text.endswith(" AS weights"))
    for step in itertools.takewhile(lambda step: step.instruction != "FROM", found[start + 1 :]):
        if step.instruction == "COPY":
            *sources, target = step.text.split()
            into = tmp_path / target.removeprefix("/build/")
            for path in (path for source in sources for path in ROOT.glob(source)):
                if path.is_dir():
                    shutil.copytree(path, into)
                else:
                    into.mkdir(exist_ok=True)
                    shutil.copy(path, into)
    script = (
        "import runpy, sys\n"
        "there = [path for path in sys.path if path not in sys.argv[4:]]\n"
        "sys.path[:] = [sys.argv[3], *there]\n"
        "sys.argv[1:] = ['', '--into', sys.argv[2]]\n"
        "runpy.run_module('imagetag.models.weights', run_name='__main__')\n"
    )
    into = tmp_path / "weights"
    run_forked(script, ["", str(into), str(tmp_path), str(ROOT), str(ROOT / "lib")])
    assert into.is_dir()
