"""What near-duplicates are found by: a picture's layout in 384 bytes, its perceptual hash.

It is made of the thumbnail: so both come of one decode, which is nearly all that they cost.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence

from PIL import Image

from imagetag.imaging.images import load_rgb

METHOD = 4  # another number wherever another hash is made, or other twins are found
THRESHOLD = 31  # bits of 256 that the PDQ hashes of twins may differ in: what PDQ's authors advise

THUMB = 128  # pixels a side of a thumbnail
_DECODED = 96  # pixels a side that are enough for one: a JPEG is decoded at 1/8 the more often
LUMA, CHROMA = 16, 8  # cells a side of a layout
LAYOUT_BYTES = LUMA**2 + 2 * CHROMA**2
BLANK = bytes([128]) * LAYOUT_BYTES  # a layout that is like no other
_LAYOUT = "layout:"


def perceptual_hashes(data: bytes) -> tuple[str, ...]:
    """Return what near-duplicates are found by, to be kept in the manifest.

    Raises:
        BadImage: if the file's bytes cannot be decoded.

    """
    return hashes_of(thumbnail(data))


def thumbnail(data: bytes) -> bytes:
    """Return a picture squeezed into a square: planes of Y, Cb and Cr, each 128 x 128 bytes.

    Raises:
        BadImage: if it cannot be decoded.

    """
    picture = load_rgb(data, at_least=(_DECODED, _DECODED))
    # A box that enlarges only repeats pixels, and what they show is then off by up to half of one.
    grows = min(picture.size) < THUMB
    by = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    small = picture.resize((THUMB, THUMB), by).convert("YCbCr")
    return b"".join(plane.tobytes() for plane in small.split())


def hashes_of(thumbnail: bytes) -> tuple[str, ...]:
    """Return the perceptual hashes of a picture by its thumbnail.

    For now that is one text, the layout: 16 x 16 cells of luma and 8 x 8 of each chroma.
    """
    cells = b""
    for number, side in enumerate((LUMA, CHROMA, CHROMA)):
        pixels = thumbnail[number * THUMB**2 : (number + 1) * THUMB**2]
        plane = Image.frombytes("L", (THUMB, THUMB), pixels)
        cells += plane.resize((side, side), Image.Resampling.BOX).tobytes()
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
