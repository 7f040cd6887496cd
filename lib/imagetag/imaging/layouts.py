"""The layout of a picture in 384 bytes, by which near-duplicates are found: its perceptual hash."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence

from PIL import Image

from imagetag.imaging.images import load_rgb

METHOD = 3  # another number wherever another hash is made, or other twins are found
THRESHOLD = 31  # bits of 256 that the PDQ hashes of twins may differ in: what PDQ's authors advise

LUMA, CHROMA = 16, 8  # cells a side of a layout
LAYOUT_BYTES = LUMA**2 + 2 * CHROMA**2
BLANK = bytes([128]) * LAYOUT_BYTES  # a layout that is like no other
_LAYOUT = "layout:"


def perceptual_hashes(data: bytes) -> tuple[str, ...]:
    """Return what near-duplicates are found by, to be kept in the manifest.

    For now that is one text, the layout: 16 x 16 cells of luma and 8 x 8 of each chroma.

    Raises:
        BadImage: if the file's bytes cannot be decoded.

    """
    picture = load_rgb(data, at_least=(4 * LUMA, 4 * LUMA))
    small = picture.resize((LUMA, LUMA), Image.Resampling.BOX).convert("YCbCr")
    luma, *chroma = small.split()
    halves = [plane.resize((CHROMA, CHROMA), Image.Resampling.BOX) for plane in chroma]
    cells = b"".join(plane.tobytes() for plane in (luma, *halves))
    return (_LAYOUT + base64.b64encode(cells).decode(),)


def layout_cells(hashes: Sequence[str]) -> bytes | None:
    """Return the 384 bytes of the layout among a picture's hashes, None if there is no good one."""
    for text in hashes:
        if text.startswith(_LAYOUT) and text.isascii():
            with contextlib.suppress(ValueError):
                cells = base64.b64decode(text.removeprefix(_LAYOUT), validate=True)
                if len(cells) == LAYOUT_BYTES:
                    return cells
    return None
