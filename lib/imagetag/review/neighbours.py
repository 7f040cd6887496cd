"""Pictures that are like one by what a frozen network says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagetag.errors import InputError
from imagetag.features import SharedFeatures, StoredFeatures, find_extractor
from imagetag.log import get_logger
from imagetag.storage import Storage

_AT_ONCE = 4096  # pictures of which features are in memory at once


class Neighbours:
    """Finds the pictures of a tag that are the most alike: of the highest cosine of features.

    Features are those of the picture and its mirror image, averaged, less the mean of all.

    Args:
        features: of the tag's pictures.

    """

    def __init__(self, features: StoredFeatures) -> None:
        self._rows = {md5: row for md5, row in features.rows.items() if row >= 0}
        self._md5s = dict(zip(self._rows.values(), self._rows, strict=True))
        values = features.values
        total = np.zeros(values.shape[2], np.float64)
        for start in range(0, len(values), _AT_ONCE):
            total += _averaged(values[start : start + _AT_ONCE]).sum(axis=0, dtype=np.float64)
        mean = (total / max(1, len(values))).astype(np.float32)
        self._directions = np.empty((len(values), values.shape[2]), np.float16)
        for start in range(0, len(values), _AT_ONCE):
            part = _averaged(values[start : start + _AT_ONCE]) - mean
            lengths = np.linalg.norm(part, axis=1, keepdims=True)
            self._directions[start : start + _AT_ONCE] = part / np.maximum(lengths, 1e-12)

    def of(self, md5: str, count: int) -> list[tuple[str, float]]:
        """Return the pictures that are the most alike, with their cosine, from the highest down."""
        own = self._rows.get(md5)
        if own is None:
            return []
        wanted = self._directions[own].astype(np.float32)
        cosines = np.concatenate(
            [
                self._directions[start : start + _AT_ONCE].astype(np.float32) @ wanted
                for start in range(0, len(self._directions), _AT_ONCE)
            ]
        )
        order = np.argsort(-cosines, kind="stable")[: count + 1].tolist()
        found = [(self._md5s[row], float(cosines[row])) for row in order if row in self._md5s]
        return [one for one in found if one[0] != md5][:count]


def open_neighbours(storage: Storage, tag: str, folder: Path) -> Neighbours | None:
    """Return what finds a tag's alike pictures by the features that embed stored last, if any.

    Args:
        storage: has them.
        tag: whose pictures.
        folder: on a disk with room for the features.

    """
    try:
        record = find_extractor(storage)
    except InputError:
        return None
    try:
        features = SharedFeatures(storage, [tag], folder).of(record)
    except InputError as error:  # the pictures can be judged without
        get_logger().warning("no neighbours", error=str(error))
        return None
    return Neighbours(features) if features.rows else None


def _averaged(values: NDArray[np.float16]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.asarray(values, np.float32).mean(axis=1)
    np.nan_to_num(found, copy=False)
    return found
