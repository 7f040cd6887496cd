"""Who may import whom: the scrape side stays small, and nothing depends on what comes after it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from imagetag.layout import Layout
from imagetag.runs import Run
from imagetag.storage import LocalStorage
from tests.refusing import SLOW, refusing

ROOT = Path(__file__).parents[2]

# Every module of the library has a side; one of a package is on its package's side.
SIDES = {
    "shared": (
        "ahead cells checks child completion console copies errors heartbeat images job layout log "
        "manifest nextstep outputs overview overview_table parts pictures pipeline pipeline_file "
        "pipeline_view pipes proof settings sidecars similar sources split stopping storage stored "
        "suggest whole"
    ),
    "scrape": (
        "asking boards browser collect demo estimate estimate_table fetched hosts http known named "
        "negatives pace placeholder rates robots scrape selection sharing transport"
    ),
    "data": (
        "augment breakdown calibration cautions companions compare contract curate dataset "
        "decision evaluation exploration explore families intervals metrics plan results "
        "shortcuts sizes standings suspect_list survey"
    ),
    "drawing": (
        "evaluation_page explore_page index_page leaderboard plots report tag_page templating"
    ),
    "model": (
        "batches card checkpoint cluster distribute evaluate evaluating exclusion export feed fit "
        "gradcam losses models pack packed packed_feed partition precision predict quiet "
        "rendezvous runs schedule scoring step suspects tensorboard tracking train training weights"
    ),
}
MAY_IMPORT = {
    "shared": {"shared"},
    "scrape": {"shared", "scrape"},
    "data": {"shared", "data", "drawing"},
    "drawing": {"shared", "data", "drawing"},
    "model": {"shared", "data", "drawing", "model"},
}
# These run where only requirements/scrape.txt is installed.
SMALL_JOBS = {
    "jobs",
    "jobs.board",
    "jobs.cli",
    "jobs.curate",
    "jobs.plan",
    "jobs.scrape",
    "jobs.status",
}
HEAVY = SLOW | {"jinja2"}

# These run on any backend of Keras.
ANY_BACKEND = ("augment", "losses", "models", "plan", "schedule")

# Needed for one option alone, each an extra of its own; whoever asks for it is told if it lacks.
EXTRAS = {"mlflow", "pyarrow", "selenium"}
# Slow to import: not before they are used.
NOT_FOR_HELP = HEAVY | {"numpy", "pdqhash", "pyarrow", "selenium"}


@dataclass
class Module:
    """A module's imports, by full name: those of import time, and those inside functions."""

    name: str
    early: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        return self.early | self.late


def read_modules() -> dict[str, Module]:
    modules = {}
    for source in (ROOT / "lib", ROOT):
        for path in sorted(
            source.glob("imagetag/**/*.py" if source.name == "lib" else "jobs/*.py")
        ):
            parts = path.relative_to(source).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            module = modules[name] = Module(name)
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            _collect(ast.parse(path.read_text()), package, module, late=False)
    for module in modules.values():
        module.early = {_known(name, modules) for name in module.early} - {module.name}
        module.late = {_known(name, modules) for name in module.late} - {module.name}
    return modules


def _collect(node: ast.AST, package: str, module: Module, *, late: bool) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        names = module.late if late else module.early
        if isinstance(child, ast.Import):
            names.update(alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                anchor = package.split(".")[: len(package.split(".")) - child.level + 1]
                base = ".".join([*anchor, *filter(None, [child.module])])
            # `from a import b`: b may be a module of its own.
            names.update(f"{base}.{alias.name}" for alias in child.names)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        _collect(child, package, module, late=late or inside)


def _known(name: str, modules: dict[str, Module]) -> str:
    if name.split(".")[0] not in ("imagetag", "jobs"):
        return name.split(".")[0]
    while name not in modules:
        assert "." in name, f"an import of {name}, which is not there"
        name = name.rpartition(".")[0]
    return name


MODULES = read_modules()


def side_of(name: str) -> str:
    part = name.split(".")[1]
    [side] = [side for side, parts in SIDES.items() if part in parts.split()]
    return side


def ours(names: set[str]) -> set[str]:
    return names & MODULES.keys()


def reach(name: str, *, late: bool) -> dict[str, list[str]]:
    """Return all that is imported by importing a module, each with a way by which it is reached.

    With `late`, also what its functions import, and the functions of what it imports.
    """
    found: dict[str, list[str]] = {name: [name]}
    waiting = [name]
    while waiting:
        module = MODULES.get(waiting.pop())
        if module is None:
            continue
        # Importing a module imports its packages.
        parents = {module.name.rpartition(".")[0]} & MODULES.keys()
        for target in sorted((module.all if late else module.early) | parents):
            if target not in found:
                found[target] = [*found[module.name], target]
                waiting.append(target)
    return found


def library() -> Iterator[str]:
    return (name for name in MODULES if name.startswith("imagetag."))


def test_every_module_has_a_side() -> None:
    listed = [part for parts in SIDES.values() for part in parts.split()]
    assert len(listed) == len(set(listed))
    unlisted = {name.split(".")[1] for name in library()} - set(listed)
    assert not unlisted, f"say in SIDES of {Path(__file__).name} on which side {unlisted} stand"


def test_the_rules_see_the_imports() -> None:
    # So that an empty graph does not pass for a clean one.
    assert "imagetag.storage.base" in MODULES["imagetag.storage"].early
    assert "imagetag.storage.s3" in MODULES["imagetag.storage"].late
    assert "PIL" in MODULES["imagetag.images"].early
    assert "boto3" in reach("imagetag.manifest", late=True)


@pytest.mark.parametrize("name", list(library()))
def test_a_module_imports_only_sides_that_it_may(name: str) -> None:
    allowed = MAY_IMPORT[side_of(name)]
    for target in ours(MODULES[name].all) - {"imagetag"}:
        assert not target.startswith("jobs"), f"{name} imports {target}: the library knows no jobs"
        assert side_of(target) in allowed, (
            f"{name} is on the {side_of(name)} side and imports {target} of the {side_of(target)}"
        )


def small() -> list[str]:
    names = [name for name in library() if side_of(name) in ("shared", "scrape")]
    return ["imagetag", *names, *sorted(SMALL_JOBS)]


@pytest.mark.parametrize("name", small())
def test_what_runs_with_scraping_reaches_nothing_heavy(name: str) -> None:
    ways = reach(name, late=True)
    heavy = [" -> ".join(ways[package]) for package in ways.keys() & HEAVY]
    assert not heavy


@pytest.mark.parametrize("name", ANY_BACKEND)
def test_what_runs_on_any_backend_reaches_none_of_them(name: str) -> None:
    ways = reach(f"imagetag.{name}", late=True)
    assert not [
        " -> ".join(ways[backend]) for backend in ways.keys() & {"jax", "tensorflow", "torch"}
    ]
    assert "tensorflow" in reach("imagetag.feed", late=False)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("jobs")))
def test_the_help_of_any_job_waits_for_nothing_heavy(name: str) -> None:
    ways = reach(name, late=False)
    heavy = [" -> ".join(ways[package]) for package in ways.keys() & NOT_FOR_HELP]
    assert not heavy


def test_what_runs_with_scraping_needs_only_what_its_image_installs() -> None:
    lock = (ROOT / "requirements" / "scrape.txt").read_text()
    installed = {name.lower().replace("_", "-") for name in re.findall(r"(?m)^([\w.-]+)==", lock)}
    known = packages_distributions()
    for name in small():
        for package in MODULES[name].all - MODULES.keys() - sys.stdlib_module_names - EXTRAS:
            distributions = {found.lower().replace("_", "-") for found in known.get(package, [])}
            assert distributions & installed, f"{name} needs {package}, not in scrape.txt"


def test_no_module_waits_for_itself() -> None:
    graph = {name: ours(module.early) for name, module in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " -> ".join(error.args[1]))


@pytest.mark.parametrize("job", ["scrape", "board"])
def test_a_small_job_starts_without_anything_heavy(job: str, tmp_path: Path) -> None:
    done = without(HEAVY, tmp_path, "cli", job, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: imagetag {job}" in done.stdout


def test_that_there_is_no_image_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    run = Run(
        tag="fox",
        run="some",
        model="vgg19",
        settings={},
        image_size=(64, 64),
        images={},
        fingerprint="f" * 64,
        seed=1,
        best_epoch=1,
        history=[],
        validation={},
        parameters=1,
        seconds=1.0,
        devices=["CPU:0"],
        versions={},
        created="2026-01-01T00:00:00+00:00",
    )
    storage = LocalStorage(tmp_path / "data")
    storage.write(Layout(run.tag).run(run.run, "metrics.json"), run.model_dump_json().encode())
    storage.write(Layout(run.tag).latest, run.run.encode())
    (tmp_path / "empty").mkdir()
    options = ["--storage", storage.url, "--tag", run.tag, "--input", str(tmp_path / "empty")]
    done = without(SLOW, tmp_path, "predict", *options)
    assert "no image there, by name or by content" in done.stderr
    assert done.returncode == 3


def test_what_is_refused_is_not_to_be_had(tmp_path: Path) -> None:
    # So that a process that could import it after all does not pass for one that needs it not.
    script = "import sys; __import__(sys.argv[1])"
    for name in ("tensorflow", "scipy.special"):
        command = [sys.executable, "-c", script, name]
        environment = refusing(SLOW, tmp_path)
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert b"is not to be imported here" in done.stderr


def without(
    names: Iterable[str], folder: Path, job: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run a job where some packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *options],
        env=refusing(names, folder),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
