"""What `lint-imports` cannot see: front doors that open, jobs that start small, and their image."""

from __future__ import annotations

import importlib
import re
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
    fences = {name for rule in RULES for name in rule.get("protected_modules", ())}
    folders = {path.parent.name for path in ROOT.glob("lib/imagetag/*/__init__.py")}
    assert fences == {f"imagetag.{folder}.*" for folder in folders}
    layers = " ".join(next(rule["layers"] for rule in RULES if rule["type"] == "layers"))
    modules = {path.stem for path in ROOT.glob("lib/imagetag/[!_]*.py")}
    assert set(re.findall(r"imagetag\.(\w+)", layers)) == folders | modules


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
