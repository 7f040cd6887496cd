"""CI skips nothing: where `.ci/run` runs them, a skipped test is a failed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
