"""What an extractor says of pictures, into storage: each once, whoever is killed in the midst."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagetag.features import PART, Extractor, ExtractorRecord, FeatureStore, extract
from imagetag.imaging import BadImage
from imagetag.log import Progress, get_logger
from imagetag.storage import ObjectNotFound, Storage

_PART_BYTES = 64 << 20  # of features that wait in memory
_MISSING = "missing"


@dataclass(frozen=True)
class Embedded:
    """What came of pictures.

    Attributes:
        done: got features now.
        already: had some before.
        unreadable: cannot be decoded, or the network makes no numbers of them: that is stored, and
            none tries again.
        missing: the md5 of those that are in a manifest and not in storage: nothing is stored of
            them.

    """

    done: int
    already: int
    unreadable: int
    missing: frozenset[str]


def embed_pictures(
    storage: Storage, extractor: Extractor, pictures: Mapping[str, str], *, concurrency: int = 16
) -> Embedded:
    """Store the features of those pictures that have none of this extractor.

    They are stored in parts in the order of md5: what is killed has lost a part at the most, and
    what is stopped nothing.

    Args:
        storage: has the pictures, and gets the features.
        extractor: makes them.
        pictures: their keys by their md5.
        concurrency: pictures that are fetched and decoded at once.

    Raises:
        InputError: if features that are stored cannot be read.

    """
    store = FeatureStore(storage, extractor.record)
    wanted = store.missing(pictures)
    unreadable = 0
    missing: set[str] = set()

    def read(md5: str) -> bytes:
        try:
            return storage.read(pictures[md5])
        except ObjectNotFound as error:
            raise BadImage(_MISSING, str(error)) from error

    found = extract(extractor, wanted, read, threads=concurrency)
    with (
        contextlib.closing(found),
        Progress("embed", total=len(wanted)) as progress,
        _Parts(store, extractor.batch_size) as parts,
    ):
        for md5, features in found:
            if not isinstance(features, BadImage) and np.isnan(features).any():
                # As what cannot be decoded is stored, none may take it for that in silence.
                features = BadImage("features", "the network makes no numbers of it")
            if isinstance(features, BadImage):
                get_logger().warning(
                    "left out", md5=md5, reason=features.reason, detail=str(features)
                )
                if features.reason == _MISSING:
                    missing.add(md5)
                else:
                    unreadable += 1
                    parts.add(md5, _nothing(extractor.record))
            else:
                parts.add(md5, features)
            progress.advance()
    done = len(wanted) - unreadable - len(missing)
    return Embedded(done, len(pictures) - len(wanted), unreadable, frozenset(missing))


class _Parts:
    """Stores features in parts, while the next are made.

    Used as a context: leaving it stores what is left, also where something went wrong.
    """

    def __init__(self, store: FeatureStore, batch_size: int) -> None:
        record = store.record
        most = min(PART, max(1, _PART_BYTES // (2 * record.views * record.channels)))
        # Whole batches, so that what goes on after a kill makes the batches that it would have.
        self._most = max(1, most // batch_size) * batch_size if most > batch_size else most
        self._store = store
        self._md5s: list[str] = []
        self._features: list[NDArray[np.float16]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._under_way: Future[str] | None = None

    def __enter__(self) -> _Parts:
        return self

    def add(self, md5: str, features: NDArray[np.float16]) -> None:
        self._md5s.append(md5)
        self._features.append(features)
        if len(self._md5s) == self._most:
            self._store_part()

    def _store_part(self) -> None:
        md5s, features = self._md5s, np.stack(self._features)
        self._md5s, self._features = [], []
        self._wait()
        self._under_way = self._pool.submit(self._store.add, md5s, features)

    def _wait(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __exit__(self, *_: object) -> None:
        try:
            if self._md5s:
                self._store_part()
            self._wait()
        finally:
            self._pool.shutdown(wait=False)


def _nothing(record: ExtractorRecord) -> NDArray[np.float16]:
    return np.full((record.views, record.channels), np.nan, np.float16)
