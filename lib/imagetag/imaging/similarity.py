"""Near-duplicates: crops, rescales, recompressions and mirror images of one and the same picture.

The hash of a whole picture does not survive a crop, so pictures are laid over each other first:

1. `perceptual_hashes`, a picture's layout in 384 bytes, stands in the manifest. `alike` compares
   each with windows of others, for crops of up to a fifth, and names the pairs that may be.
2. For those alone thumbnails are made, and `twins` compares them.

Up to a few thousand pictures each is compared with all others: then that is as fast as anything. Of
more, windows are looked up in a graph of what is near to what (HNSW: Malkov and Yashunin, 2016, by
voyager, which is 0.8 MB; faiss-cpu is 66 MB and usearch 58, and pynndescent wants SciPy). Each
gives the few nearest, however many are alike, so that time grows little faster than the number of
pictures, and not with its square. What is flat is in no graph, and pictures of the very same layout
are one place in it. One thread makes it, in order and from one seed: so it is the same each time,
as the pairs are. Which of all pairs it finds, and how fast, `python -m
tests.benchmarks.near_duplicates` tells.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

# The pool below takes all processors; threads of BLAS in each of its own would only fight for
# them. This counts where NumPy is not loaded yet.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from imagetag.imaging.layouts import CHROMA, LAYOUT_BYTES, LUMA

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Cells = npt.NDArray[np.uint8]

COLOUR = 1.5  # what a step of chroma counts, against one of luma
FAINT = 2.0  # of 255; what varies less has no layout

_ALIKE, _CLOSE = 0.85, 0.91  # least correlations of layouts: at first, then in finer windows
_MOST = 24  # pairs of one picture that are looked at closer: the most alike
_BLOCK, _CLOSER, _TARGETS = 128, 32, 1024  # pictures compared at once: so that caches hold them
_ALL_PAIRS = 4096  # pictures that are compared with all others
# Of the graph: links of a place, places looked at to make them, and how many of the nearest a
# window gives, and has looked at.
_LINKS, _MADE_BY, _NEAREST = 12, 100, 48

Span = tuple[float, float]
Window = tuple[float, float, float, float]
_COARSE: list[Span] = [(0, 1), (0, 0.9), (0.1, 1), (0, 0.82), (0.09, 0.91), (0.18, 1)]
_WHOLE: list[Span] = [(0, 1)]
_FINE: list[Span] = [
    (low / 20, high / 20) for low in range(5) for high in range(16, 21) if high - low >= 16
]
_TABLE = [
    *(("outer", "i4"), ("inner", "i4"), ("window", "u1"), ("mirrored", "?"), ("score", "f4")),
]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures whose layouts are alike: `inner` looks like a window of `outer`.

    `window` is (left, top, right, bottom) in shares of `outer`; `score` is a correlation.
    """

    outer: int
    inner: int
    window: Window
    mirrored: bool
    score: float


def alike(
    cells: bytes | bytearray, kinds: Sequence[int], all_pairs: int = _ALL_PAIRS
) -> list[Pair]:
    """Return the pairs of pictures that are worth a closer look.

    Args:
        cells: what `layout_cells` returned for each, one after the other.
        kinds: a number for each picture; those of one kind are not compared.
        all_pairs: up to how many pictures each is compared with all others.

    """
    if len(kinds) < 2:
        return []
    search = _Search(
        np.frombuffer(cells, np.uint8).reshape(-1, LAYOUT_BYTES),
        np.asarray(kinds, np.int64),
        all_pairs,
    )
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        found = [block for block in pool.map(search.block, search.starts) if len(block)]
    if not found:
        return []
    table = np.concatenate(found)
    low, high = np.sort([table["outer"], table["inner"]], axis=0)
    table = table[np.lexsort((table["inner"], -table["score"], high, low))]
    pairs: dict[tuple[int, int], Pair] = {}
    for outer, inner, window, mirrored, score in table.tolist():
        name = (min(outer, inner), max(outer, inner))
        if name not in pairs:  # found from both sides: the better one comes first
            pairs[name] = Pair(outer, inner, search.fine.windows[window], mirrored, score)
    return list(pairs.values())


class _Search:
    """Finds, for a block of pictures, those that look like a window of one of them."""

    def __init__(self, cells: Cells, kinds: Ints, all_pairs: int) -> None:
        self._cells, self._kinds = cells, kinds
        self._coarse, self.fine, whole, whole_fine = _windows()
        self._whole, self._whole_fine = whole.of_whole(cells), whole_fine.of_whole(cells)
        self._graph = None
        if len(cells) > all_pairs:
            self._graph = _Graph(cells, self._whole, self._coarse.even)
        self.starts = range(0, len(cells), _BLOCK)

    def block(self, start: int) -> npt.NDArray[Any]:
        """Return the table of pairs whose `outer` is in the block that starts there."""
        stop = min(start + _BLOCK, len(self._cells))
        windows = self._coarse.of(self._cells[start:stop])
        if self._graph is None:
            outers, inners = self._look(windows)
        else:
            outers, inners = self._graph.look_up(windows)
        outers += start
        other = self._kinds[outers] != self._kinds[inners]
        outers, inners = outers[other], inners[other]
        tables = []
        edges = np.searchsorted(outers, np.arange(start, stop + 1))
        found = np.flatnonzero(np.diff(edges))
        for first in range(0, len(found), _CLOSER):
            places = found[first : first + _CLOSER]
            windows = self.fine.of(self._cells[start + places])
            for place, fine in zip(places.tolist(), windows, strict=True):
                inner = inners[edges[place] : edges[place + 1]]
                tables.append(self._closer(start + place, inner, fine))
        return np.concatenate(tables) if tables else np.empty(0, _TABLE)

    def _look(self, windows: Floats) -> tuple[Ints, Ints]:
        """Return what is alike at first sight of all pictures.

        Args:
            windows: of a block's pictures, `(pictures, windows, numbers)`.

        Returns:
            Places in the block, in order, and the pictures that one there is like.

        """
        even = self._coarse.even
        parts = [
            (window[:, :even].copy(), window[:, even:].copy()) for window in windows.swapaxes(0, 1)
        ]
        outers, inners = [], []
        for low in range(0, len(self._cells), _TARGETS):
            targets = self._whole[low : low + _TARGETS]
            evens, odds = targets[:, :even].T.copy(), targets[:, even:].T.copy()
            best = np.full((len(windows), len(targets)), -1, np.float32)
            score, odd = np.empty_like(best), np.empty_like(best)
            for same, turned in parts:
                np.matmul(same, evens, out=score)
                np.matmul(turned, odds, out=odd)
                score += np.abs(odd, out=odd)
                np.maximum(best, score, out=best)
            outer, inner = np.nonzero(best > _ALIKE)
            outers.append(outer)
            inners.append(inner + low)
        outer, inner = np.concatenate(outers), np.concatenate(inners)
        order = np.argsort(outer, kind="stable")
        return outer[order], inner[order]

    def _closer(self, outer: int, inner: Ints, windows: Floats) -> npt.NDArray[Any]:
        """Return the table of what is still alike in finer windows of `outer`, the best first."""
        even, targets = self.fine.even, self._whole_fine[inner]
        odd = windows[:, even:] @ targets[:, even:].T
        scores = windows[:, :even] @ targets[:, :even].T + np.abs(odd)
        window = scores.argmax(axis=0)
        column = np.arange(len(inner))
        table = np.empty(len(inner), _TABLE)
        table["outer"], table["inner"], table["window"] = outer, inner, window
        table["score"] = scores[window, column]
        table["mirrored"] = odd[window, column] < 0
        table = table[table["score"] > _CLOSE]
        return table[np.lexsort((table["inner"], -table["score"]))[:_MOST]]


class _Graph:
    """Looks up which layouts, or their mirror images, are near to a window.

    Args:
        cells: `(pictures, 384)`.
        whole: of each picture what is to be near to a window, `(pictures, numbers)`.
        even: how many of the numbers are even.

    """

    def __init__(self, cells: Cells, whole: Floats, even: int) -> None:
        _, firsts, layouts = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        # What is flat is like nothing, and of equal layouts a graph loses some.
        places = np.sort(firsts[np.linalg.norm(whole[firsts], axis=1) > _ALIKE])
        self._places = len(places)
        self._pictures = np.argsort(layouts, kind="stable")  # those of a layout together
        self._starts = np.searchsorted(layouts[self._pictures], layouts[places])
        self._counts = np.minimum(np.bincount(layouts)[layouts[places]], _MOST)
        self._nearest = min(_NEAREST, 2 * self._places)
        import voyager  # for very many pictures alone

        self._index = voyager.Index(
            voyager.Space.Euclidean,
            whole.shape[1],
            M=_LINKS,
            ef_construction=_MADE_BY,
            random_seed=1,
            max_elements=max(1, 2 * self._places),
        )
        if self._places:
            vectors = np.tile(whole[places], (2, 1))
            vectors[self._places :, even:] *= -1
            self._index.add_items(vectors, num_threads=1)

    def look_up(self, windows: Floats) -> tuple[Ints, Ints]:
        """Return what is alike at first sight among the nearest; see `_Search._look`."""
        if not self._places:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        found, distances = self._index.query(
            windows.reshape(-1, windows.shape[-1]),
            k=self._nearest,
            num_threads=1,
            query_ef=_NEAREST,
        )
        # Of vectors of length 1, the square of a distance is 2 - 2 x the correlation.
        near = distances.reshape(len(windows), -1) < 2 - 2 * _ALIKE
        places = found.reshape(len(windows), -1)[near].astype(np.int64) % self._places
        pairs = np.unique(np.nonzero(near)[0] * self._places + places)
        outers, places = np.divmod(pairs, self._places)
        counts = self._counts[places]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        inners = self._pictures[np.repeat(self._starts[places], counts) + within]
        return np.repeat(outers, counts), inners


class _Windows:
    """Windows of a layout, each as the low frequencies of what it shows, of length 1.

    `spans` are the windows' extents on either axis. The first `even` numbers of a vector are of
    frequencies that are even from left to right.
    """

    def __init__(
        self, spans: Sequence[Span], *, luma: int, most: int, chroma: int, square: bool = False
    ) -> None:
        chosen = [
            (y, x)
            for y in range(len(spans))
            for x in range(len(spans))
            if not square or math.isclose(_length(spans[x]), _length(spans[y]))
        ]
        self.windows: list[Window] = [
            (spans[x][0], spans[y][0], spans[x][1], spans[y][1]) for y, x in chosen
        ]
        self._waves = [
            np.concatenate([_cosines(*span, frequencies, cells) for span in spans])
            for frequencies, cells in ((luma, LUMA), (chroma, CHROMA))
        ]
        waves = [(0, v, u) for v in range(luma) for u in range(luma) if 0 < u + v <= most]
        for plane in (1, 2):
            waves += [(plane, v, u) for v in range(chroma) for u in range(chroma)]
        waves.sort(key=lambda wave: wave[2] % 2)
        self.even = sum(u % 2 == 0 for _, _, u in waves)
        # A tinge says less than where the colours are.
        self._weights = np.array(
            [1 if not plane else COLOUR if u or v else COLOUR / 2 for plane, v, u in waves],
            np.float32,
        )
        # Where a window's waves are among those of all spans down with all across.
        plane, v, u = np.array(waves).T
        frequencies = np.array([luma, chroma, chroma])[plane]
        strides = frequencies * len(spans)
        starts = np.cumsum([0, (luma * len(spans)) ** 2, (chroma * len(spans)) ** 2])[plane]
        y, x = np.array(chosen).T[:, :, None]
        self._places = starts + (y * frequencies + v) * strides + x * frequencies + u

    def of(self, cells: Cells) -> Floats:
        """Return `(layouts, windows, numbers)` float32 for `(layouts, 384)` uint8."""
        levels = cells.astype(np.float32) - 128
        split = np.split(levels, [LUMA**2, LUMA**2 + CHROMA**2], axis=1)
        found = []
        for plane, side, number in zip(split, (LUMA, CHROMA, CHROMA), (0, 1, 1), strict=True):
            waves = self._waves[number]
            seen = waves @ plane.reshape(-1, side, side) @ waves.T
            found.append(seen.reshape(len(cells), -1))
        vectors: Floats = np.concatenate(found, axis=1)[:, self._places]
        vectors *= self._weights
        # What varies less than that has no layout, and is like nothing.
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), FAINT)
        return vectors

    def of_whole(self, cells: Cells) -> Floats:
        """Return `(layouts, numbers)` float32 of the only window, for any number of layouts."""
        starts = range(0, len(cells), _TARGETS)
        return np.concatenate([self.of(cells[start : start + _TARGETS])[:, 0] for start in starts])


@cache
def _windows() -> tuple[_Windows, _Windows, _Windows, _Windows]:
    """Return the windows of a first and of a closer look, and the whole as either sees it."""
    return (
        _Windows(_COARSE, luma=5, most=5, chroma=3, square=True),
        _Windows(_FINE, luma=8, most=9, chroma=4),
        _Windows(_WHOLE, luma=5, most=5, chroma=3),
        _Windows(_WHOLE, luma=8, most=9, chroma=4),
    )


def _length(span: Span) -> float:
    return span[1] - span[0]


def _cosines(start: float, stop: float, frequencies: int, cells: int) -> Floats:
    """Return the cosine transform of a stretch of a row of cells: `(frequencies, cells)`."""
    places = (np.clip(np.arange(cells + 1) / cells, start, stop) - start) / (stop - start)
    waves = np.pi * np.arange(1, frequencies)[:, None]
    rest = np.diff(np.sin(waves * places)) / waves * np.sqrt(2)
    return np.concatenate([np.diff(places)[None], rest]).astype(np.float32)
