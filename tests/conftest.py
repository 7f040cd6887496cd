"""What all tests stand on: a clean environment, and in CI no skips."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.storage_contract")

_NO_SKIPS = os.environ.get("IMAGETAG_NO_SKIPS") == "1"
_skipped: list[str] = []


def pytest_configure() -> None:
    # Nobody's settings or credentials may decide a test, or be used by one.
    for name in list(os.environ):
        if name.startswith(("IMAGETAG_", "AWS_")) or name == "JOB_COMPLETION_INDEX":
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _NO_SKIPS and _skipped and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _NO_SKIPS:
        for nodeid in _skipped:
            terminalreporter.write_line(f"FAILED {nodeid}: CI skips nothing", red=True, bold=True)


@pytest.fixture(autouse=True)
def _same_environment_after() -> Iterator[None]:
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)
