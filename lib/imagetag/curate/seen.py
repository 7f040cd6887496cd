"""What pictures have shown, by their content: tags share many, and each is looked at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from imagetag.imaging import Pair, are_twins

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
Key = TypeVar("Key")
Value = TypeVar("Value")

_THUMBNAILS = 1000  # of 48 kB
_VERDICTS = 50_000  # of some 300 bytes


class Seen:
    """Thumbnails and verdicts of the tags of one process, the last used of each. For one thread."""

    def __init__(self) -> None:
        self._thumbnails: OrderedDict[str, Pixels] = OrderedDict()
        self._verdicts: OrderedDict[tuple[str, str, int], bool] = OrderedDict()

    def thumbnail(self, md5: str) -> Pixels | None:
        """Return the thumbnail of a picture, if it is kept."""
        return _used(self._thumbnails, md5)

    def keep(self, md5: str, thumbnail: Pixels) -> None:
        """Keep the thumbnail of a picture, in place of the one that was not used for longest."""
        _put(self._thumbnails, md5, thumbnail, _THUMBNAILS)

    def twins(
        self,
        thumbnails: Mapping[int, Pixels],
        names: Mapping[int, str],
        pairs: Sequence[Pair],
        threshold: int,
    ) -> list[bool]:
        """Tell of pairs whether they are twins, as `are_twins` does.

        Args:
            thumbnails: by the numbers that the pairs have.
            names: the md5 of each picture, by the same.
            pairs: of them.
            threshold: bits of 256 that the PDQ hashes may differ in.

        """
        keys = [(names[pair.outer], names[pair.inner], threshold) for pair in pairs]
        told = {key: _used(self._verdicts, key) for key in keys}
        wanted = [pair for pair, key in zip(pairs, keys, strict=True) if told[key] is None]
        missing = [key for key in keys if told[key] is None]
        for key, verdict in zip(missing, are_twins(thumbnails, wanted, threshold), strict=True):
            told[key] = verdict
            _put(self._verdicts, key, verdict, _VERDICTS)
        return [bool(told[key]) for key in keys]


def _used(kept: OrderedDict[Key, Value], key: Key) -> Value | None:
    if key in kept:
        kept.move_to_end(key)
    return kept.get(key)


def _put(kept: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
