"""Features in storage: added in parts, found by the pictures' md5, read into one array on disk.

A part is written as an array first and as a list of its pictures next, which is its marker. Names
are digests, so that a write can be repeated, and that two pods have the same picture does no harm.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagetag import layout
from imagetag.errors import InputError
from imagetag.features.extractor import ExtractorRecord
from imagetag.log import get_logger
from imagetag.parallel import map_ahead
from imagetag.storage import ObjectNotFound, Storage, read_arrays

PART = 4096
"""The most pictures of a part."""

_AT_ONCE = 8  # lists that are read
_ID = 16  # bytes of an md5
_HEADER = 1 << 16  # bytes of an array's header, at the most
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class StoredFeatures:
    """The features of many pictures, on this machine's disk.

    Attributes:
        extractor: the name of what made them.
        values: `(rows, views, channels)` float16, mapped into memory.
        rows: by a picture's md5 its row; -1 where it has none, as it cannot be decoded, say.

    """

    extractor: str
    values: NDArray[np.float16]
    rows: dict[str, int]

    def find(self, md5s: Sequence[str], tag: str) -> NDArray[np.intp]:
        """Return the row of each picture, `(n,)`; -1 of those that cannot be decoded.

        Args:
            md5s: of the pictures.
            tag: which has them, for the text of an error.

        Raises:
            InputError: if there are no features of some.

        """
        absent = sum(md5 not in self.rows for md5 in md5s)
        if absent:
            raise InputError(
                f"{absent:,} of {len(md5s):,} pictures of the tag {tag!r} have no features of the "
                f"extractor {self.extractor!r}: run imagetag embed --extractor {self.extractor} "
                f"--tags {shlex.quote(tag)}"
            )
        return np.array([self.rows[md5] for md5 in md5s], np.intp)

    def readable(
        self, md5s: Sequence[str], tag: str
    ) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
        """Return which pictures could be decoded, `(n,)`, and the features of those.

        How many could not is told in the log.

        Args:
            md5s: of the pictures.
            tag: which has them, for the text of an error.

        Raises:
            InputError: if there are no features of some.

        """
        places = self.find(md5s, tag)
        there = places >= 0
        if not there.all():
            get_logger().warning(
                "left out", images=int((~there).sum()), detail="embed has no features of them"
            )
        return there, self.values[places[there]]


class FeatureStore:
    """What one extractor says of pictures, in storage.

    Args:
        storage: has it.
        record: of the extractor.

    """

    def __init__(self, storage: Storage, record: ExtractorRecord) -> None:
        self._storage, self.record = storage, record

    def ids(self) -> set[str]:
        """Return the md5 of every picture that has been gone through.

        Raises:
            InputError: if a part cannot be read.

        """
        return {md5 for _, md5s in self._parts() for md5 in md5s}

    def missing(self, md5s: Iterable[str]) -> list[str]:
        """Return the pictures that have not been gone through, in order and once each.

        Raises:
            InputError: if a part cannot be read.

        """
        left = set(md5s)
        for _, there in self._parts():
            left.difference_update(there)
        return sorted(left)

    def add(self, md5s: Sequence[str], features: NDArray[np.float16]) -> str:
        """Store the features of some pictures as one part, and return its digest.

        Args:
            md5s: of up to `PART` pictures.
            features: `(n, views, channels)` float16, in the same order; NaN of a picture that
                cannot be decoded, so that none tries again.

        """
        expected = len(md5s), self.record.views, self.record.channels
        if features.shape != expected or features.dtype != np.float16:
            raise ValueError(f"features of {features.shape} {features.dtype}, not of {expected}")
        ids = bytes.fromhex("".join(md5s))
        digest = hashlib.sha256(ids + np.ascontiguousarray(features).tobytes()).hexdigest()[:24]
        file = io.BytesIO()
        np.savez_compressed(file, features=features)
        name = self.record.name
        self._storage.write(layout.feature_part(name, digest, "npz"), file.getvalue())
        self._storage.write(layout.feature_part(name, digest, "ids"), ids)
        return digest

    def read(self, md5s: Iterable[str], folder: Path) -> StoredFeatures:
        """Return the features of those of some pictures that have any.

        One part at a time is in memory. The array is a file without a name in the folder: it is
        gone when nobody has it any more.

        Args:
            md5s: of the pictures.
            folder: on a disk with room for the array.

        Raises:
            InputError: if a part cannot be read.

        """
        wanted = set(md5s)
        chosen: list[tuple[str, dict[str, int]]] = []  # by a part's digest what is taken from it
        for digest, ids in self._parts():
            taken = {md5: place for place, md5 in enumerate(ids) if md5 in wanted}
            wanted.difference_update(taken)
            if taken:
                chosen.append((digest, taken))
        shape = sum(len(taken) for _, taken in chosen), self.record.views, self.record.channels
        values = _array_on_disk(folder, shape)
        rows: dict[str, int] = {}
        end = 0
        for digest, taken in chosen:
            part = self._read_part(digest)
            places = np.fromiter(taken.values(), np.intp)
            if places.max() >= len(part):
                raise self._damaged(digest, "it has fewer pictures than its list")
            part = part[places]
            values[end : end + len(part)] = part
            found = np.where(np.isnan(part).any(axis=(1, 2)), -1, end + np.arange(len(part)))
            rows |= zip(taken, found.tolist(), strict=True)
            end += len(part)
        return StoredFeatures(self.record.name, values, rows)

    def _parts(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each part's digest and its pictures' md5s."""
        listed = self._storage.list(layout.feature_parts(self.record.name))
        parts = (layout.parse_feature_part(entry.key) for entry in listed)
        digests = (part[0] for part in parts if part and part[1] == "ids")

        def read(digest: str) -> bytes:
            return self._storage.read(layout.feature_part(self.record.name, digest, "ids"))

        for digest, ids in map_ahead(read, digests, threads=_AT_ONCE, ahead=2 * _AT_ONCE):
            if not ids or len(ids) % _ID:
                raise self._damaged(digest, "its list of pictures is cut off")
            text = ids.hex()
            yield digest, [text[i : i + 2 * _ID] for i in range(0, len(text), 2 * _ID)]

    @property
    def _most_bytes(self) -> int:
        """The bytes of the largest part, unpacked."""
        return _HEADER + PART * self.record.views * self.record.channels * 2

    def _read_part(self, digest: str) -> NDArray[np.float16]:
        key = layout.feature_part(self.record.name, digest, "npz")
        try:
            values = read_arrays(self._storage.read(key), self._most_bytes)["features"]
        except ObjectNotFound as error:
            raise self._damaged(digest, "it is missing") from error
        except (ValueError, KeyError) as error:
            raise self._damaged(digest, "it is no such archive") from error
        if values.shape[1:] != (self.record.views, self.record.channels):
            raise self._damaged(digest, f"it has features of the shape {values.shape[1:]}")
        if values.dtype != np.float16:
            raise self._damaged(digest, f"it has features of {values.dtype}")
        return values.astype(np.float16, copy=False)

    def _damaged(self, digest: str, why: str) -> InputError:
        ids = layout.feature_part(self.record.name, digest, "ids")
        return InputError(
            f"{self._storage.url}/{ids.removesuffix('ids')}npz: these features cannot be read, "
            f"as {why}: delete {ids} and run imagetag embed again"
        )


def rounded(features: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return features as they are stored: what is computed anew must be rounded by this too.

    What is too large for 16 bits becomes the largest that is not.
    """
    return np.clip(features, -_LARGEST, _LARGEST).astype(np.float16)


def _array_on_disk(folder: Path, shape: tuple[int, int, int]) -> NDArray[np.float16]:
    """Return an array in a file that has no name any more."""
    if not shape[0]:
        return np.empty(shape, np.float16)  # nothing can be mapped
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float16, "w+", shape=shape)
