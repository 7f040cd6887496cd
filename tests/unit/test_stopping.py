"""What is told of a stop: nothing that went wrong on the way out is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from imagetag.errors import Terminated
from imagetag.stopping import stop


@pytest.fixture(autouse=True)
def _no_other_stop() -> Iterator[None]:
    stop.begin()
    yield
    stop.begin()


def asked(number: int, error: BaseException) -> None:
    """Get a signal in the middle of a step, which then fails."""
    with stop.noted():
        stop.ask(number, None)
        raise error


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_another_error_after_a_signal_is_told(number: int, raised: type[BaseException]) -> None:
    with capture_logs() as logs, pytest.raises(raised):
        asked(number, OSError("the disk\nis full"))
    [line] = logs
    assert (line["log_level"], line["error"]) == ("warning", "the disk is full")


def test_the_stop_itself_is_no_other_error() -> None:
    with capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        asked(signal.SIGINT, KeyboardInterrupt())
    assert logs == []


def test_without_a_signal_an_error_is_what_it_is() -> None:
    with capture_logs() as logs, pytest.raises(OSError, match="full"), stop.noted():
        raise OSError("full")
    assert logs == []
