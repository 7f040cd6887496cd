"""What all tests stand on: a clean environment, and in CI no skips."""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import structlog
from botocore.loaders import JSONFileLoader
from hypothesis import HealthCheck, settings

from tests.pages import undrawn

pytest.register_assert_rewrite("tests.storage_contract")

# A busy machine is no defect: nothing that hypothesis runs is judged by the clock.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Each of hundreds of sessions would read anew what botocore knows of S3: a third of a second.
_read_of_botocore = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
JSONFileLoader.load_file = lambda _, path: _read_of_botocore(path)


def _opened(fd: Any) -> None:
    """See that it is an open file, and no more: nothing here has to outlive a power cut."""
    os.fstat(fd)


# In this process, which would wait for a disk some 50,000 times.
os.fsync = _opened

_NO_SKIPS = os.environ.get("IMAGETAG_NO_SKIPS") == "1"
_skipped: list[str] = []


def pytest_configure() -> None:
    # Nobody's settings or credentials may decide a test, or be used by one.
    for name in list(os.environ):
        if name.startswith(("IMAGETAG_", "AWS_")) or name == "JOB_COMPLETION_INDEX":
            del os.environ[name]
    # As jobs have it; importing JAX, as Keras does where it can, would set it lower.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull


# Files that take minutes. They begin first: no worker shall be left with one at the end.
_LONG = ("test_demo", "test_workers", "test_containers", "test_resuming", "test_training")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG)

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # TensorFlow and thousands of tests stay: no garbage is looked for among them, now or later.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


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
def _logging_as_at_first() -> Iterator[None]:
    """A job that ran in this process, in a fixture of many tests too, leaves no way of logging."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _same_environment_after() -> Iterator[None]:
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def quick_plots() -> Iterator[None]:
    """Pages without drawing."""
    with undrawn():
        yield


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """An S3 server in this process; gives its URL. It takes any credentials."""
    from moto.server import ThreadedMotoServer  # half a second, for those who use it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_settings(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 use that server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
