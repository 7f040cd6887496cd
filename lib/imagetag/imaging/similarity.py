"""Near-duplicates: crops, rescales, recompressions and mirror images of one and the same picture.

The hash of a whole picture does not survive a crop, so pictures are laid over each other first:

1. `perceptual_hashes`, a picture's layout in 384 bytes, stands in the manifest. `alike` compares
   each with windows of every other, for crops of up to a fifth, and names the pairs that may be.
2. For those alone a `thumbnail` is made. `are_twins` finds where in the one the other lies, and
   compares what they share: place by place, and by its PDQ hash.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

# The pool below takes all processors; threads of BLAS in each of its own would only fight for
# them. This counts where NumPy is not loaded yet.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import pdqhash  # type: ignore[import-untyped]
from PIL import Image

from imagetag.imaging.images import load_rgb
from imagetag.imaging.layouts import CHROMA, LAYOUT_BYTES, LUMA, THRESHOLD

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_THUMB = 128  # pixels a side of a thumbnail
_ALIKE, _CLOSE = 0.85, 0.91  # least correlations of layouts: at first, then in finer windows
_FAINT = 2.0  # of 255; what varies less has no layout
_MOST = 24  # pairs of one picture that are looked at closer: the most alike
_BLOCK, _CLOSER, _TARGETS = 128, 32, 1024  # pictures compared at once: so that caches hold them
_COLOUR = 1.5  # what a step of chroma counts, against one of luma

Span = tuple[float, float]
Window = tuple[float, float, float, float]
_COARSE: list[Span] = [(0, 1), (0, 0.9), (0.1, 1), (0, 0.82), (0.09, 0.91), (0.18, 1)]
_WHOLE: list[Span] = [(0, 1)]
_FINE: list[Span] = [
    (low / 20, high / 20) for low in range(5) for high in range(16, 21) if high - low >= 16
]
_ALL: Window = (0, 0, 1, 1)
_LEAST = 0.5  # of a side; a smaller window is no crop that we look for
# Of thumbnails: the least correlation as a whole, and the most that one place of 8 x 8 may have
# of all the difference there can be. For pictures that are equal whatever PDQ says, for twins, and
# at first sight.
_EQUAL, _EQUAL_PLACE = 0.99, 0.0015
_AGREE, _AGREE_PLACE = 0.95, 0.006
_HOPELESS = 0.6
_MOVES = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 1, 0), (0, 1, 0, 1))
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


def alike(cells: bytes | bytearray, kinds: Sequence[int]) -> list[Pair]:
    """Return the pairs of pictures that are worth a closer look.

    Every picture is compared with every other, in blocks: time grows with the square of their
    number, memory with the number.

    Args:
        cells: what `layout_cells` returned for each, one after the other.
        kinds: a number for each picture; those of one kind are not compared.

    """
    if len(kinds) < 2:
        return []
    search = _Search(
        np.frombuffer(cells, np.uint8).reshape(-1, LAYOUT_BYTES), np.asarray(kinds, np.int64)
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

    def __init__(self, cells: npt.NDArray[np.uint8], kinds: npt.NDArray[np.int64]) -> None:
        self._cells, self._kinds = cells, kinds
        self._coarse, self.fine, whole, whole_fine = _windows()
        self._whole, self._whole_fine = whole.of_whole(cells), whole_fine.of_whole(cells)
        self.starts = range(0, len(cells), _BLOCK)

    def block(self, start: int) -> npt.NDArray[Any]:
        """Return the table of pairs whose `outer` is in the block that starts there."""
        stop = min(start + _BLOCK, len(self._cells))
        tables = []
        outers, inners = self._look(start, stop)
        edges = np.searchsorted(outers, np.arange(start, stop + 1))
        for first in range(start, stop, _CLOSER):
            last = min(first + _CLOSER, stop)
            if edges[first - start] == edges[last - start]:
                continue
            windows = self.fine.of(self._cells[first:last])
            for outer in range(first, last):
                inner = inners[edges[outer - start] : edges[outer - start + 1]]
                if len(inner):
                    tables.append(self._closer(outer, inner, windows[outer - first]))
        return np.concatenate(tables) if tables else np.empty(0, _TABLE)

    def _look(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Return (outer, inner) of what is alike at first sight, in the order of `outer`."""
        even = self._coarse.even
        windows = self._coarse.of(self._cells[start:stop]).swapaxes(0, 1)
        parts = [(window[:, :even].copy(), window[:, even:].copy()) for window in windows]
        kinds = self._kinds[start:stop, None]
        outers, inners = [], []
        for low in range(0, len(self._cells), _TARGETS):
            targets = self._whole[low : low + _TARGETS]
            evens, odds = targets[:, :even].T.copy(), targets[:, even:].T.copy()
            best = np.full((stop - start, len(targets)), -1, np.float32)
            score, odd = np.empty_like(best), np.empty_like(best)
            for same, turned in parts:
                np.matmul(same, evens, out=score)
                np.matmul(turned, odds, out=odd)
                score += np.abs(odd, out=odd)
                np.maximum(best, score, out=best)
            other = kinds != self._kinds[low : low + _TARGETS]
            outer, inner = np.nonzero((best > _ALIKE) & other)
            outers.append(outer + start)
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
        return table[np.argsort(-table["score"], kind="stable")[:_MOST]]


class _Windows:
    """Windows of a layout, each as the low frequencies of what it shows, of length 1.

    `spans` are the windows' extents on either axis. The first `even` numbers of a vector are of
    frequencies that are even from left to right.
    """

    def __init__(
        self, spans: Sequence[Span], *, luma: int, most: int, chroma: int, square: bool = False
    ) -> None:
        boxes = [(x[0], y[0], x[1], y[1]) for y in spans for x in spans]
        self.windows: list[Window] = [
            box for box in boxes if not square or math.isclose(box[2] - box[0], box[3] - box[1])
        ]
        lumas = [(v, u) for v in range(luma) for u in range(luma) if 0 < u + v <= most]
        chromas = [(v, u) for v in range(chroma) for u in range(chroma)]
        odd = np.array([u % 2 for _, u in lumas + chromas + chromas])
        self.even = int((odd == 0).sum())
        maps = np.zeros((len(self.windows), len(odd), LAYOUT_BYTES), np.float32)
        for (left, top, right, bottom), rows in zip(self.windows, maps, strict=True):
            y, x = _cosines(top, bottom, luma, LUMA), _cosines(left, right, luma, LUMA)
            for row, (v, u) in zip(rows, lumas, strict=False):
                row[: LUMA**2] = np.outer(y[v], x[u]).ravel()
            y, x = _cosines(top, bottom, chroma, CHROMA), _cosines(left, right, chroma, CHROMA)
            for number, (v, u) in enumerate(chromas):
                # A tinge says less than where the colours are.
                wave = np.outer(y[v], x[u]).ravel() * (_COLOUR if u or v else _COLOUR / 2)
                rows[len(lumas) + number, LUMA**2 : -(CHROMA**2)] = wave
                rows[len(lumas) + len(chromas) + number, -(CHROMA**2) :] = wave
        self._map = maps[:, np.argsort(odd, kind="stable")].reshape(-1, LAYOUT_BYTES).T.copy()

    def of(self, cells: npt.NDArray[np.uint8]) -> Floats:
        """Return `(layouts, windows, numbers)` float32 for `(layouts, 384)` uint8."""
        vectors = (cells.astype(np.float32) - 128) @ self._map
        vectors = vectors.reshape(len(cells), len(self.windows), -1)
        # What varies less than that has no layout, and is like nothing.
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _FAINT)
        return vectors

    def of_whole(self, cells: npt.NDArray[np.uint8]) -> Floats:
        """Return `(layouts, numbers)` float32 of the only window, for any number of layouts."""
        starts = range(0, len(cells), _TARGETS)
        return np.concatenate([self.of(cells[start : start + _TARGETS])[:, 0] for start in starts])


@functools.cache
def _windows() -> tuple[_Windows, _Windows, _Windows, _Windows]:
    """Return the windows of a first and of a closer look, and the whole as either sees it.

    They are the same for all pictures, of 28 MB, and take a quarter of a second to make.
    """
    return (
        _Windows(_COARSE, luma=5, most=5, chroma=3, square=True),
        _Windows(_FINE, luma=8, most=9, chroma=4),
        _Windows(_WHOLE, luma=5, most=5, chroma=3),
        _Windows(_WHOLE, luma=8, most=9, chroma=4),
    )


def _cosines(start: float, stop: float, frequencies: int, cells: int) -> Floats:
    """Return the cosine transform of a stretch of a row of cells: `(frequencies, cells)`."""
    places = (np.clip(np.arange(cells + 1) / cells, start, stop) - start) / (stop - start)
    waves = np.pi * np.arange(1, frequencies)[:, None]
    rest = np.diff(np.sin(waves * places)) / waves * np.sqrt(2)
    return np.concatenate([np.diff(places)[None], rest]).astype(np.float32)


# --- Thumbnails -------------------------------------------------------------------------------


def thumbnail(data: bytes) -> npt.NDArray[np.uint8]:
    """Return a picture squeezed into a square: `(3, 128, 128)` uint8, YCbCr.

    Raises:
        BadImage: if it cannot be decoded.

    """
    picture = load_rgb(data, at_least=(_THUMB, _THUMB))
    small = picture.resize((_THUMB, _THUMB), Image.Resampling.BOX).convert("YCbCr")
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def are_twins(
    outer: npt.NDArray[np.uint8],
    inner: npt.NDArray[np.uint8],
    pair: Pair,
    threshold: int = THRESHOLD,
) -> bool:
    """Tell whether two thumbnails show one picture, one of them perhaps only a part of it.

    The window is shifted until it fits best. Then what both show must agree as a whole, in every
    place (a smile where the other frowns is another picture), and in the PDQ hash. Flat pictures
    have no stable PDQ hash: they must agree the better.

    Args:
        outer: the one with more in it, as `thumbnail` returns it.
        inner: the other.
        pair: how they lie on each other, more or less.
        threshold: bits of 256 that the PDQ hashes may differ in.

    """
    frame, target = _coloured(outer), _coloured(inner)
    if pair.mirrored:
        target = target[:, :, ::-1]
    window = _fitted(_halved(frame), _halved(target), pair.window)
    if window is None:
        return False
    one, other = _standard(_cut(frame, window, 32)), _standard(_cut(target, _ALL, 32))
    correlation = float((one * other).sum())
    wrong = float(((one - other) ** 2).reshape(3, 8, 4, 8, 4).sum((0, 2, 4)).max())
    if correlation > _EQUAL and wrong < _EQUAL_PLACE:
        return True
    if correlation < _AGREE or wrong > _AGREE_PLACE:
        return False
    return _bits(_cut(frame[:1], window, 64)[0], _cut(target[:1], _ALL, 64)[0]) <= threshold


def _fitted(frame: Floats, target: Floats, window: Window) -> Window | None:
    """Return the window of the frame that is most like the target; None if none is at all."""
    goal = _standard(_cut(target, _ALL, 24))

    def likeness(candidate: Window) -> float:
        return float((_standard(_cut(frame, candidate, 24)) * goal).sum())

    best = likeness(window)
    if best < _HOPELESS:
        return None
    step = 0.04
    while step > 0.002:
        moved = False
        for move in _MOVES:
            for way in (-step, step):
                left, top, right, bottom = (
                    min(max(edge + way * part, 0.0), 1.0)
                    for edge, part in zip(window, move, strict=True)
                )
                if min(right - left, bottom - top) < _LEAST:
                    continue
                found = likeness((left, top, right, bottom))
                if found > best:
                    best, window, moved = found, (left, top, right, bottom), True
        if not moved:
            step /= 2
    return window


def _bits(one: Floats, other: Floats) -> int:
    """Return in how many bits the PDQ hashes of two `(64, 64)` pictures of luma differ."""
    hashes = []
    for luma in (one, other):
        grey = (luma + 0.5).clip(0, 255).astype(np.uint8)
        hashes.append(pdqhash.compute(np.repeat(grey[..., None], 3, axis=2))[0])
    return int((hashes[0] != hashes[1]).sum())


def _coloured(pixels: npt.NDArray[np.uint8]) -> Floats:
    planes = pixels.astype(np.float32)
    planes[1:] = (planes[1:] - 128) * _COLOUR
    return planes


def _halved(planes: Floats) -> Floats:
    half = _THUMB // 2
    halved: Floats = planes.reshape(3, half, 2, half, 2).mean((2, 4))
    return halved


def _cut(planes: Floats, window: Window, side: int) -> Floats:
    """Return the mean colours of a window's `side` x `side` cells: `(planes, side, side)`."""
    left, top, right, bottom = window
    pixels = planes.shape[1]
    rows: Floats = _shares(top, bottom, side, pixels) @ planes
    cells: Floats = rows @ _shares(left, right, side, pixels).T
    return cells


def _shares(start: float, stop: float, cells: int, pixels: int) -> Floats:
    """Return which share each pixel of a row has in each cell of a stretch of it."""
    edges = np.linspace(start, stop, cells + 1) * pixels
    covered = (edges[:, None] - np.arange(pixels)).clip(0, 1)
    shares = np.diff(covered, axis=0) * (cells / ((stop - start) * pixels))
    return shares.astype(np.float32)


def _standard(planes: Floats) -> Floats:
    """Return it without the mean of luma, with half a tinge, and of length 1."""
    means = planes.mean((1, 2), keepdims=True)
    means[1:] /= 2
    without: Floats = planes - means
    without /= max(float(np.linalg.norm(without)), _FAINT)
    return without
