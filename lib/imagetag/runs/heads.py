"""The head of a run that was trained on features: some kilobytes, stored as its `head.npz`."""

from __future__ import annotations

import io

import numpy as np

from imagetag.errors import InputError
from imagetag.features import ExtractorRecord, find_extractor
from imagetag.layout import Layout
from imagetag.runs.runs import Run
from imagetag.stats import LinearHead
from imagetag.storage import ObjectNotFound, Storage, read_arrays

_FILE = "head.npz"
_MAX_BYTES = 1 << 24  # of a head, which has four a channel


def store_head(storage: Storage, tag: str, run: str, head: LinearHead) -> None:
    """Store a run's head, in 32 bits."""
    file = io.BytesIO()
    np.savez(
        file,
        weights=head.weights.astype(np.float32),
        bias=np.float32(head.bias),
        strength=np.float64(head.strength),
    )
    storage.write(Layout(tag).run(run, _FILE), file.getvalue())


def load_head(storage: Storage, run: Run) -> tuple[LinearHead, ExtractorRecord]:
    """Return a run's head, and the record of the extractor on whose features it was trained.

    Raises:
        InputError: if it is missing or damaged, or of another extractor than there is.

    """
    key = Layout(run.tag).run(run.run, _FILE)
    advice = f"delete {storage.url}/{Layout(run.tag).run(run.run, 'metrics.json')} and train again"
    try:
        record = find_extractor(storage, run.extractor)
    except InputError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise
        raise InputError(
            f"{storage.url}/{key} is a head on features of {run.extractor!r}, and that extractor "
            "is not in storage: run imagetag embed with its network and settings again"
        ) from error
    try:
        with storage.open(key) as stream:
            data = stream.read(_MAX_BYTES)
        file = read_arrays(data, _MAX_BYTES)
        weights = np.asarray(file["weights"], np.float64)
        bias, strength = float(file["bias"]), float(file["strength"])
    except ObjectNotFound as error:
        raise InputError(f"{storage.url}/{key} is missing; {advice}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{storage.url}/{key} cannot be read; {advice}") from error
    if weights.shape != (record.channels,):
        raise InputError(
            f"{storage.url}/{key} is a head for features of the shape {weights.shape}, and those "
            f"of the extractor {record.name!r} have {record.channels:,} channels; {advice}"
        )
    return LinearHead(weights, bias, strength), record
