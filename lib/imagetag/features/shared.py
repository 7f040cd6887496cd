"""The features of the pictures of many tags, read from storage once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imagetag.dataset import load_dataset, read_rows
from imagetag.errors import InputError
from imagetag.features.extractor import ExtractorRecord
from imagetag.features.feature_store import FeatureStore, StoredFeatures
from imagetag.log import working
from imagetag.storage import Storage

_AT_ONCE = 8  # manifests that are read


class SharedFeatures:
    """The features of the pictures of some tags, from each extractor that is asked for.

    Args:
        storage: has them, and the tags' datasets.
        tags: whose pictures.
        folder: on a disk with room for the features: 2 bytes a channel and view of each picture.

    """

    def __init__(self, storage: Storage, tags: Sequence[str], folder: Path) -> None:
        self._storage, self._tags, self._folder = storage, tags, folder
        self._md5s: set[str] | None = None
        self._found: dict[str, StoredFeatures] = {}

    def of(self, record: ExtractorRecord) -> StoredFeatures:
        """Return the features that an extractor has of the tags' pictures.

        Raises:
            InputError: if they cannot be read.

        """
        if record.name not in self._found:
            with working("reading features"):
                if self._md5s is None:
                    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="manifest") as pool:
                        self._md5s = set().union(*pool.map(self._pictures, self._tags))
                store = FeatureStore(self._storage, record)
                self._found[record.name] = store.read(self._md5s, self._folder)
        return self._found[record.name]

    def _pictures(self, tag: str) -> Iterable[str]:
        try:
            dataset = load_dataset(self._storage, tag)
            return {row.md5 for row in read_rows(self._storage, dataset)}
        except InputError:
            return ()  # told when it is the tag's turn
