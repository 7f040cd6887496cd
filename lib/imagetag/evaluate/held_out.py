"""What an evaluation goes by, beside the pictures: what the run kept out, and people's verdicts."""

from __future__ import annotations

from imagetag.explore import HeldOut
from imagetag.runs import Request, Run
from imagetag.storage import Storage
from imagetag.verdicts import Verdicts, load_verdicts


def standing_verdicts(storage: Storage, tag: str, request: Request) -> Verdicts:
    """Return what people say of a tag's pictures, if that is to be used.

    Raises:
        InputError: if it cannot be read.

    """
    return load_verdicts(storage, tag) if request.verdicts == "use" else Verdicts({})


def held_out(run: Run, request: Request) -> HeldOut | None:
    """Return what a run has kept for validation, and for the promise that is asked for."""
    found = HeldOut.by(run)
    if found is None:
        return None
    promise = request.min_precision if request.threshold is None else None
    return found.for_promise(promise, request.confidence)
