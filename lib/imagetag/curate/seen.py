"""What pictures have shown, by their content: tags share many, and each is looked at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cachetools import LRUCache

from imagetag.imaging import Pair, Thumbnails, are_twins

_VERDICTS = 50_000  # of some 300 bytes; the last


class Seen:
    """Thumbnails and verdicts of the tags of one process.

    Args:
        thumbnails: those that there are already, of a scrape.

    """

    def __init__(self, thumbnails: Thumbnails | None = None) -> None:
        self.thumbnails = thumbnails or Thumbnails()
        self._verdicts: LRUCache[tuple[str, str, int], bool] = LRUCache(_VERDICTS)

    def twins(
        self,
        thumbnails: Mapping[int, bytes],
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
        told = {key: self._verdicts[key] for key in keys if key in self._verdicts}
        wanted = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in told}
        verdicts = are_twins(thumbnails, list(wanted.values()), threshold)
        told |= dict(zip(wanted, verdicts, strict=True))
        self._verdicts.update(told)
        return [told[key] for key in keys]
