"""Whether two pictures that may be twins are: thumbnails laid over each other, and compared.

Where the one lies in the other is found by Lucas and Kanade's method, inverse compositional (Baker
and Matthews, 2004) and for a correlation (Evangelidis and Psarakis, 2008): how the inner picture
changes as its edges move is known once, and each step costs one look at the outer one. Many pairs
go through it together, and none depends on the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

# Threads of BLAS would only fight with those that decode, and work on pieces as small as these is
# no faster by them. This counts where NumPy is not loaded yet.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from imagetag.imaging.layouts import THRESHOLD, THUMB
from imagetag.imaging.similarity import COLOUR, FAINT, Pair

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Cells a side, steps, and the least correlation to go on with: how the window is found, at first
# by what is blurred, where the way to it is not so narrow.
_LEVELS = ((12, 5, 0.6), (24, 6, 0.85), (32, 2, 0.9))
_FINE = 32  # cells a side to compare
# What PDQ takes of a picture: the lowest frequencies, but for the mean, of so many cells a side.
_HASHED, _FREQUENCIES = 64, 16
_PLACES = 8  # a side, each of which must agree
_BATCH = 64  # pairs that are looked at together: 25 MB
_LONGEST = 0.08  # of a side: the most that an edge moves in a step
_LEAST = 0.5  # of a side; a smaller window is no crop that we look for
# Of thumbnails: the least correlation as a whole, and the most that one place may have of all the
# difference there can be. For pictures that are equal whatever PDQ says, and for twins.
_EQUAL, _EQUAL_PLACE = 0.99, 0.0015
_AGREE, _AGREE_PLACE = 0.95, 0.006
_DIM = 0.6  # a correlation; what is alike less tells no more of where to go


def are_twins(
    thumbnails: Mapping[int, bytes], pairs: Sequence[Pair], threshold: int = THRESHOLD
) -> list[bool]:
    """Tell of pairs whether they show one picture, one of them perhaps only a part of it.

    The window is moved until it fits best. Then what both show must agree as a whole, in every
    place (a smile where the other frowns is another picture), and in the PDQ hash. Flat pictures
    have no stable PDQ hash: they must agree the better.

    Args:
        thumbnails: as `thumbnail` returns them, by the numbers that the pairs have.
        pairs: how they lie on each other, more or less.
        threshold: bits of 256 that the PDQ hashes may differ in.

    """
    told: list[bool] = []
    for start in range(0, len(pairs), _BATCH):
        told += _judged(thumbnails, pairs[start : start + _BATCH], threshold)
    return told


def _judged(thumbnails: Mapping[int, bytes], pairs: Sequence[Pair], threshold: int) -> list[bool]:
    frames = np.stack([_pixels(thumbnails[pair.outer]) for pair in pairs])
    targets = np.stack(
        [_pixels(thumbnails[pair.inner])[..., :: -1 if pair.mirrored else 1] for pair in pairs]
    )
    windows = np.array([pair.window for pair in pairs], np.float32)
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (len(pairs), 1))
    likely = np.arange(len(pairs))
    halves, goals = _halved(frames), _halved(targets)
    for cells, steps, least in _LEVELS:
        goal = _standard(_cut(goals, whole[likely], cells))
        windows, fit = _fitted(halves, goal, windows, steps)
        good = fit > least
        likely, windows, halves, goals = likely[good], windows[good], halves[good], goals[good]
    whole = whole[likely]
    framed, wanted = _coloured(frames[likely]), _coloured(targets[likely])
    ones = _standard(_cut(framed, windows, _FINE))
    others = _standard(_cut(wanted, whole, _FINE))
    correlations = _dot(ones, others)
    side = _FINE // _PLACES
    places = (ones - others).reshape(len(ones), 3, _PLACES, side, _PLACES, side) ** 2
    wrong = places.sum((1, 3, 5)).max((1, 2), initial=0)
    twins = np.zeros(len(pairs), bool)
    twins[likely] = (correlations > _EQUAL) & (wrong < _EQUAL_PLACE)
    hashed = (correlations >= _AGREE) & (wrong <= _AGREE_PLACE) & ~twins[likely]
    one = pdq(_cut(framed[hashed, :1], windows[hashed], _HASHED)[:, 0])
    other = pdq(_cut(wanted[hashed, :1], whole[hashed], _HASHED)[:, 0])
    twins[likely[hashed]] = (one != other).sum(1) <= threshold
    found: list[bool] = twins.tolist()
    return found


def _fitted(frames: Floats, goals: Floats, windows: Floats, steps: int) -> tuple[Floats, Floats]:
    """Return the windows of frames that are most like the goals, and how much: a correlation.

    Args:
        frames: `(pairs, 3, pixels, pixels)`.
        goals: `(pairs, 3 x cells x cells)`, as `_standard` returns them.
        windows: `(pairs, 4)`, to begin with.
        steps: how often they are moved.

    """
    cells = math.isqrt(goals.shape[1] // 3)
    moves = _moves(goals, cells)
    best, fit = windows, np.full(len(windows), -1, np.float32)
    for _ in range(steps):
        seen = _standard(_cut(frames, windows, cells))
        likeness = _dot(seen, goals)
        better = likeness > fit
        best, fit = np.where(better[:, None], windows, best), np.maximum(likeness, fit)
        move = (moves @ seen[:, :, None])[:, :, 0] / np.maximum(likeness, _DIM)[:, None]
        sides = np.tile(windows[:, 2:] - windows[:, :2], 2)
        moved = (windows - move.clip(-_LONGEST, _LONGEST) * sides).clip(0, 1)
        whole = ((moved[:, 2:] - moved[:, :2]) >= _LEAST).all(1, keepdims=True)
        windows = np.where(whole, moved, best)
    return best, fit


def _moves(goals: Floats, cells: int) -> Floats:
    """Return what makes, of what a window shows, how far its four edges are off.

    It is the least-squares solution, damped where a picture changes too little to tell.

    Args:
        goals: `(pairs, 3 x cells x cells)`, as `_standard` returns them.
        cells: a side.

    Returns:
        `(pairs, 4, numbers)`: by it a look gives left, top, right and bottom in shares of sides.

    """
    planes = goals.reshape(-1, 3, cells, cells)
    down, across = (slope * cells for slope in np.gradient(planes, axis=(2, 3)))
    x = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    y = x[:, None]
    slopes = np.stack([across * (1 - x), down * (1 - y), across * x, down * y], axis=1)
    slopes = _centred(slopes).reshape(len(goals), 4, goals.shape[1])
    slopes -= (slopes @ goals[:, :, None]) * goals[:, None]  # all is brought to length 1
    squares = slopes @ slopes.swapaxes(1, 2)
    damping = 1e-3 * np.trace(squares, axis1=1, axis2=2) + 1e-6
    squares += damping[:, None, None] * np.eye(4, dtype=np.float32)
    solved: Floats = np.linalg.solve(squares, slopes)
    return solved


def pdq(luma: Floats) -> npt.NDArray[np.bool_]:
    """Return the PDQ hashes of pictures that have the size which PDQ makes of others.

    "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm" (Facebook, 2019):
    which coefficients of the discrete cosine transform are above their (lower) median.

    Args:
        luma: `(pictures, 64, 64)`, 0 to 255.

    Returns:
        `(pictures, 256)`.

    """
    waves = np.arange(1, _FREQUENCIES + 1)[:, None] * (2 * np.arange(_HASHED) + 1)
    basis = np.cos(np.pi / (2 * _HASHED) * waves).astype(np.float32)
    grey = np.rint(luma).clip(0, 255).astype(np.float32)
    found = (basis @ grey @ basis.T).reshape(len(luma), _FREQUENCIES**2)
    middle = found.shape[1] // 2 - 1
    bits: npt.NDArray[np.bool_] = found > np.partition(found, middle, axis=1)[:, [middle]]
    return bits


def _pixels(thumbnail: bytes) -> Pixels:
    return np.frombuffer(thumbnail, np.uint8).reshape(3, THUMB, THUMB)


def _coloured(pixels: Pixels) -> Floats:
    planes = pixels.astype(np.float32)
    planes[:, 1:] -= 128
    planes[:, 1:] *= COLOUR
    return planes


def _halved(pixels: Pixels) -> Floats:
    """Return thumbnails at half the size, coloured: `(pictures, 3, 64, 64)`."""
    rows = pixels[:, :, ::2].astype(np.uint16) + pixels[:, :, 1::2]
    halved: Floats = (rows[..., ::2] + rows[..., 1::2]).astype(np.float32)
    halved /= 4
    halved[:, 1:] -= 128
    halved[:, 1:] *= COLOUR
    return halved


def _cut(planes: Floats, windows: Floats, side: int) -> Floats:
    """Return the mean colours of each window's cells: `(pictures, planes, side, side)`.

    Args:
        planes: `(pictures, planes, pixels, pixels)`.
        windows: `(pictures, 4)`.
        side: cells of a window, across and down.

    """
    pixels = planes.shape[-1]
    down = _shares(windows[:, 1], windows[:, 3], side, pixels)
    across = _shares(windows[:, 0], windows[:, 2], side, pixels)
    rows: Floats = down[:, None] @ planes
    cells: Floats = rows @ across[:, None].swapaxes(2, 3)
    return cells


def _shares(starts: Floats, stops: Floats, cells: int, pixels: int) -> Floats:
    """Return which share each pixel of a row has in each cell of a stretch of it.

    Returns:
        `(stretches, cells, pixels)` float32.

    """
    lengths = (stops - starts)[:, None]
    edges = (starts[:, None] + lengths * np.linspace(0, 1, cells + 1, dtype=np.float32)) * pixels
    covered = (edges[:, :, None] - np.arange(pixels, dtype=np.float32)).clip(0, 1)
    shares: Floats = np.diff(covered, axis=1)
    shares *= (cells / (lengths * pixels))[:, :, None]
    return shares


def _standard(planes: Floats) -> Floats:
    """Return pictures without the mean of luma, with half a tinge, each as a row of length 1."""
    rows = _centred(planes).reshape(len(planes), math.prod(planes.shape[1:]))
    rows /= np.maximum(np.sqrt(_dot(rows, rows)), FAINT)[:, None]
    return rows


def _centred(planes: Floats) -> Floats:
    means = planes.mean((-2, -1), keepdims=True)
    means[..., 1:, :, :] /= 2
    without: Floats = planes - means
    return without


def _dot(ones: Floats, others: Floats) -> Floats:
    products: Floats = np.einsum("ij,ij->i", ones, others)
    return products
