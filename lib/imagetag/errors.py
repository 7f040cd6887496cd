"""What can go wrong, by what the caller should do about it.

Every error a person can meet is one of these. Its text is one line: what was wrong, with which
value, and what to do. Its exit code is what the Kubernetes manifests decide on.
"""

from __future__ import annotations

from pydantic import ValidationError

EXIT_DONE = 0
EXIT_DEFECT = 1
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_TRANSIENT = 75
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class ImagetagError(Exception):
    """Base of the errors that are reported as one line.

    Attributes:
        alone: this worker of several met it, and the others may not have.

    """

    exit_code = EXIT_USAGE
    alone = False


class UsageError(ImagetagError):
    """The command or its settings are wrong; trying again cannot help."""

    exit_code = EXIT_USAGE


class InputError(ImagetagError):
    """The input cannot satisfy this (no such tag, too few images, no such model)."""

    exit_code = EXIT_INPUT


class TransientError(ImagetagError):
    """Something outside is out of order for now; the same call may work later."""

    exit_code = EXIT_TRANSIENT


class Terminated(BaseException):
    """SIGTERM arrived: save what there is and leave. Not an Exception, so that nothing eats it."""

    exit_code = EXIT_TERMINATED


def one_line(error: BaseException | str, limit: int | None = 300) -> str:
    """Return an error's text on one line of `limit` characters; its class where it has no text."""
    text = " ".join(str(error).split())[:limit]
    return text or ("" if isinstance(error, str) else type(error).__name__)


def complaint(error: ValueError) -> str:
    """Return what a file that is no such record has wrong first, on one line."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the JSON"
    return one_line(f"{where[:100]}: {first['msg']}")
