"""Whether the weights can be had that all tags are trained from: told before the first stage."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import requests

from imagetag.checks import may_have_imagenet, no_imagenet
from imagetag.errors import TransientError
from imagetag.layout import Layout
from imagetag.storage import Storage

_SERVER = "https://storage.googleapis.com"  # where Keras fetches them from
_SECONDS = 3.0


def check_imagenet(model: str, storage: Storage, tags: Iterable[str]) -> None:
    """Check that ImageNet weights of a backbone can be had, if any of the tags is to be trained.

    Nothing is said where that is not sure, such as of a server that is slow to answer.

    Raises:
        TransientError: if they are not on this machine, and their server cannot be reached.

    """
    if not all(storage.stat(Layout(tag).latest) for tag in tags):
        check_reachable(model)


def check_reachable(model: str) -> None:
    """Check that ImageNet weights of a backbone are on this machine, or can be fetched.

    Raises:
        TransientError: as `check_imagenet`.

    """
    if may_have_imagenet(model):
        return
    if reason := _unreachable():
        raise TransientError(no_imagenet(model, reason))


def _unreachable() -> str:
    """Return why the server of the weights cannot be reached, empty if it can, or may be."""
    found: list[str] = []

    def ask() -> None:
        try:
            requests.head(_SERVER, timeout=_SECONDS)
        except requests.Timeout:
            pass
        except requests.RequestException:
            found.append(f"{_SERVER} cannot be reached")

    # To look a name up takes what time it takes.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return found[0] if found else ""
