"""CI skips nothing and hides nothing, and what it says does not depend on how busy it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[3]


def run_pytest(folder: Path, *contents: str, no_skips: str) -> subprocess.CompletedProcess[str]:
    for number, content in enumerate(contents):
        (folder / f"test_{number}.py").write_text("import pytest\n" + content)
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder)]
    return subprocess.run(
        [*command, "-p", "tests.conftest", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "IMAGETAG_NO_SKIPS": no_skips},
    )


SKIPS = [
    "@pytest.mark.skip\ndef test_it(): pass",
    "def test_it(): pytest.skip('not here')",
    "@pytest.fixture\ndef server(): pytest.skip('none')\ndef test_it(server): pass",
    "pytest.importorskip('no_such_module')\ndef test_it(): pass",
]


def test_skipped_tests_fail_the_run_in_ci_and_are_named(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, *SKIPS, "def test_it(): pass", no_skips="1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    for name in ("0.py::test_it", "1.py::test_it", "2.py::test_it", "3.py"):
        assert f"FAILED test_{name}: CI skips nothing" in done.stdout


def test_nothing_but_skips_fails_the_run_in_ci(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SKIPS[3], no_skips="1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


def test_skipped_tests_pass_elsewhere(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, *SKIPS, no_skips="")
    assert done.returncode == 0
    assert "4 skipped" in done.stdout


def test_without_a_skip_the_run_passes_in_ci(tmp_path: Path) -> None:
    content = "def test_it(): pass\n@pytest.mark.xfail\ndef test_known(): raise ValueError"
    done = run_pytest(tmp_path, content, no_skips="1")
    assert done.returncode == 0, done.stdout
    assert "CI skips nothing" not in done.stdout


def test_ci_runs_so() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "export IMAGETAG_NO_SKIPS=1\nmake test" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def make(
    folder: Path, fails: str, target: str = "test", cwd: Path = ROOT
) -> tuple[int, list[str], str]:
    """Run a target of make with programs that only note how they were called, and fail where the
    call fits a pattern; returns its exit code, the calls in order, and what it said.
    """
    for name in ("ruff", "lint-imports", "mypy", "pytest"):
        script = f'echo "{name} $*" >> {folder}/calls\ncase "{name} $*" in {fails}) exit 1;; esac'
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "ready").touch()
    done = subprocess.run(
        ["make", target, f"BIN={folder}", f"READY={folder}/ready"],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    noted = (folder / "calls").read_text().splitlines()
    calls = [line.partition(" --")[0].partition(" lib")[0].strip() for line in noted]
    return done.returncode, calls, done.stdout


TESTS = "pytest tests/e2e tests/integration tests/unit"
CALLS = ["ruff check", "ruff format", "lint-imports", "mypy", TESTS]


@pytest.mark.parametrize(
    ("fails", "failed"),
    [
        ("nothing", set()),
        ("ruff?check*", {"lint"}),
        ("ruff?format*|pytest*", {"lint", "tests"}),
        ("*tests/integration*", {"tests"}),
        ("*", {"lint", "types", "tests"}),
    ],
)
def test_one_part_that_fails_does_not_hide_the_others(
    tmp_path: Path, fails: str, failed: set[str]
) -> None:
    code, calls, said = make(tmp_path, fails)
    assert sorted(calls) == sorted(CALLS)  # types are checked beside the tests
    assert (code != 0) == bool(failed), said
    told = [line.split(": ") for line in said.splitlines()[-3:]]
    assert [part for part, _ in told] == ["lint", "types", "tests"]
    assert {part for part, result in told if result == "FAILED"} == failed


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("docs/README.md", ""),
        ("lib/imagetag/dataset/split.py", " tests/unit/dataset"),
        ("lib/imagetag/pages/templates/page.html", " tests/unit/pages"),
        ("lib/imagetag/layout.py", " tests/unit/base"),
        ("jobs/train.py", " tests/unit/jobs"),
        ("k8s/base/job.yaml", " tests/unit/k8s"),
        ("tests/conftest.py", " tests/unit"),
        ("tests/builders/rows.py", " tests/unit"),
        ("tests/integration/test_s3.py", " tests/integration/test_s3.py"),
        ("tests/integration/ceph.py", ""),
    ],
)
def test_make_check_runs_the_tests_of_what_changed(
    tmp_path: Path, changed: str, tests: str
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@board.example"]
    subprocess.run([*git, "init", "-qb", "main"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "Empty"], check=True)
    (tmp_path / changed).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / changed).write_text("changed")
    for path in ("pyproject.toml", "requirements/dev.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "bin").mkdir()
    code, calls, said = make(tmp_path / "bin", "nothing", "check", tmp_path)
    assert code == 0, said
    assert sorted(calls) == sorted([*CALLS[:-1], f"pytest tests/unit/project{tests}"])


def test_nothing_hypothesis_runs_is_judged_by_the_clock() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


@pytest.mark.parametrize(
    "wrong",
    [
        r"^@settings\([^@)]*deadline=(?!None)",
        r"assert [^\n]*(monotonic|perf_counter|time\.time)\(\) - \w+ <",
    ],
)
def test_no_test_has_a_deadline_of_its_own(wrong: str) -> None:
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    assert not [name for name, text in tests.items() if re.search(wrong, text, re.MULTILINE)]
