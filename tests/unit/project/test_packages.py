"""What `lint-imports` cannot see: front doors that open, jobs that start small, and their image."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[3]
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
[SMALL] = [rule for rule in RULES if rule["name"].startswith("Where jobs scrape,")]
HEAVY = {name for name in SMALL["forbidden_modules"] if not name.startswith("imagetag.")}
# Slow to import: not before they are used.
SLOW = {"numpy", "pyarrow", "selenium"}
# Needed for one option alone, each an extra of its own; whoever asks for it is told if it lacks.
EXTRAS = {"pyarrow", "selenium"}
PACKAGES = sorted(path.parent.name for path in ROOT.glob("lib/imagetag/*/__init__.py"))


@pytest.fixture(scope="module")
def graph() -> Any:
    return grimp.build_graph("imagetag", "jobs", include_external_packages=True, cache_dir=None)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_that_a_package_offers_is_there(package: str) -> None:
    module = importlib.import_module(f"imagetag.{package}")
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_no_package_is_forgotten_by_the_rules() -> None:
    protected = {name for rule in RULES for name in rule.get("protected_modules", ())}
    assert protected >= {f"imagetag.{package}.*" for package in PACKAGES}
    jobs = {path.stem for path in (ROOT / "jobs").glob("[!_]*.py")}
    assert protected >= {f"imagetag.{package}" for package in jobs.intersection(PACKAGES)}


def test_the_picture_of_the_layers_is_that_of_the_rules() -> None:
    rooms = (ROOT / "docs" / "architecture.md").read_text().split("\n## ")[1]
    # A row begins with its packages; what they are for stands to their right.
    rows = [line.split() for line in re.findall(r"(?m)^ {4}(\w.*)$", rooms)]
    drawn = [set(itertools.takewhile(PACKAGES.__contains__, row)) for row in rows]
    [rule] = [rule for rule in RULES if rule["type"] == "layers"]
    layers = [set(re.findall(r"\w+", layer)) & set(PACKAGES) for layer in rule["layers"]]
    assert [row for row in drawn if row] == [layer for layer in layers if layer]
    assert set().union(*layers) == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_says_that_it_imports_is_so(package: str, graph: Any) -> None:
    said = " ".join((importlib.import_module(f"imagetag.{package}").__doc__ or "").split())
    sentence = re.search(r"may import ([^.]*)\.", said)
    assert sentence, said
    named = set(re.findall(r"`(\w+)`", sentence[1])) - {"imagetag"}
    below: set[str] = set()
    if "what is below" in sentence[1]:
        new = named
        while new := {each for name in new for each in imported_by(name, graph)} - below:
            below |= new
    assert imported_by(package, graph) <= named | below
    assert named <= imported_by(package, graph)


def imported_by(package: str, graph: Any) -> set[str]:
    """Return the other packages that one imports itself."""
    name = f"imagetag.{package}"
    found = {
        module.split(".")[1]
        for each in (name, *graph.find_descendants(name))
        for module in graph.find_modules_directly_imported_by(each)
        if module.startswith("imagetag.")
    }
    return (found & set(PACKAGES)) - {package}


@pytest.mark.parametrize(
    ("module", "line", "rule"),
    [
        ("lib/imagetag/train/fit.py", "import imagetag.scrape", "scrape: whom it serves"),
        ("lib/imagetag/review/session.py", "import imagetag.train", "train: whom it serves"),
        ("lib/imagetag/added.py", "import imagetag.audit", "Imports go down"),
        ("lib/imagetag/errors.py", "import jobs.train", "The library knows no job, and no test"),
        ("lib/imagetag/errors.py", "import tests.docs", "The library knows no job, and no test"),
        ("lib/imagetag/scrape/scrape.py", "import torch", "Where jobs scrape,"),
        ("jobs/demo.py", "import tensorflow", "No job imports anything heavy itself"),
        ("lib/imagetag/runs/heads.py", "import imagetag.runs.loading", "No package imports in a"),
        ("jobs/train.py", "from imagetag.train import fit", "train: no one reaches past it"),
    ],
)
def test_the_rules_break(module: str, line: str, rule: str, tmp_path: Path) -> None:
    for folder in ("lib", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    command = Path(sys.executable).with_name("lint-imports")
    paths = os.pathsep.join([str(tmp_path / "lib"), str(tmp_path)])
    ended = subprocess.run(
        [command, "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = [text for text in ended.stdout.splitlines() if "BROKEN" in text]
    assert ended.returncode == 1, ended.stdout
    assert any(text.startswith(rule) for text in broken), ended.stdout


def test_what_runs_with_scraping_needs_only_what_its_image_installs(graph: Any) -> None:
    lock = (ROOT / "requirements" / "scrape.txt").read_text()
    installed = {name.lower().replace("_", "-") for name in re.findall(r"(?m)^([\w.-]+)==", lock)}
    known = packages_distributions()
    sources = [
        module
        for name in SMALL["source_modules"]
        for module in {name, *graph.find_descendants(name)}
    ]
    needed = {
        package.split(".")[0]
        for module in sources
        for package in graph.find_modules_directly_imported_by(module)
    }
    assert "boto3" in needed
    for package in needed - {"imagetag", "jobs"} - sys.stdlib_module_names - EXTRAS:
        distributions = {found.lower().replace("_", "-") for found in known.get(package, [])}
        assert distributions & installed, f"{package} is needed, and not in scrape.txt"


def test_the_help_of_any_job_waits_for_nothing_heavy() -> None:
    script = f"""
import contextlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(HEAVY | SLOW)!r}:
            raise ImportError(f"{{name}} is slow to import")
sys.meta_path.insert(0, Refuse())
from jobs.cli import JOBS, main
for job in JOBS:
    sys.argv = ["imagetag", job, "--help"]
    with contextlib.suppress(SystemExit):
        main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    jobs = {path.stem for path in (ROOT / "jobs").glob("[!_]*.py")} - {"cli"}
    assert set(re.findall(r"usage: imagetag (\w+)", done.stdout)) >= jobs
