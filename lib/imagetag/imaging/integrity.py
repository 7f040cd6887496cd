"""Whether a JPEG or a PNG is whole, told from its structure: no pixel is decoded.

Both checks say yes only where a full decode would, too. Where they are in doubt they say so, and
a decode decides.
"""

from __future__ import annotations

import operator
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import accumulate

# A file of more parts than these is made to keep a parser busy.
_MOST_PARTS = 100_000  # chunks of a PNG, segments before the pixels of a JPEG
_MOST_SCANS = 500  # of a JPEG; encoders make a dozen, and each is a pass over all pixels
_MOST_JUNK = 1 << 16  # bytes between the segments of a JPEG

_PIECE = 1 << 16  # bytes inflated at once, and
_BLOCK = 1 << 18  # what is taken of the outcome


class Damaged(ValueError):
    """The file is damaged, whatever a lenient decoder says."""


def check_bounds(data: bytes) -> None:
    """Refuse a JPEG or PNG that is slow to read for its sheer number of parts.

    Raises:
        Damaged: if it is one.

    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg_bounds(data)
    elif data.startswith(_PNG_MAGIC):
        for number, _ in enumerate(_chunks(data)):
            if number >= _MOST_PARTS:
                raise Damaged(f"more than {_MOST_PARTS} chunks")


# --- JPEG -------------------------------------------------------------------------------------

# A marker that ends what comes before it: no stuffed FF, no fill byte, no restart.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOF, _DHT, _EOI, _SOS, _DQT, _DRI, _APP2 = {0xC0, 0xC1, 0xC2}, 0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xE2
_PROGRESSIVE = 0xC2
_SKIPPED = {*range(0xE0, 0xF0), 0xFE}
_BARE = {0xD8, _EOI, 0xC8, *range(0xF0, 0xFE)}  # what Pillow takes for markers without a length


def _check_jpeg_bounds(data: bytes) -> None:
    at, junk = 2, 0
    for _ in range(_MOST_PARTS):
        found = _MARKER.search(data, at)
        junk += (found.start() if found else len(data)) - at
        if junk > _MOST_JUNK:
            raise Damaged(f"more than {_MOST_JUNK} bytes between its segments")
        if found is None or data[found.end() - 1] == _SOS:
            return
        at = found.end()
        if data[at - 1] not in _BARE:
            at += max(int.from_bytes(data[at : at + 2], "big"), 2)
    raise Damaged(f"more than {_MOST_PARTS} segments")


def check_scans(data: bytes) -> None:
    """Refuse a JPEG that takes minutes to decode for its sheer number of scans.

    Raises:
        Damaged: if it is one.

    """
    if data.count(b"\xff\xda") > _MOST_SCANS:
        raise Damaged(f"more than {_MOST_SCANS} scans")


def jpeg(data: bytes) -> bool:
    """Tell whether a JPEG's segments are sound, and its scans complete up to the end marker.

    What is between the markers of a scan is not looked at: of damage there Pillow's decoder makes
    nothing either.

    Args:
        data: the file, whose header Pillow has read.

    Returns:
        False if only a decode can tell.

    """
    image = _Jpeg()
    at, scans, in_scan = 2, 0, False
    for _ in range(_MOST_PARTS):
        found = _MARKER.search(data, at)
        if found is None or (not in_scan and data[at : found.start()].strip(b"\xff")):
            return False
        code = data[found.end() - 1]
        if code == _EOI:
            return scans <= _MOST_SCANS and image.is_complete()
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        segment = data[found.end() + 2 : at]
        if at > len(data) or at < found.end() + 2 or not image.takes(code, segment):
            return False
        in_scan = code == _SOS
        scans += in_scan
    return False


class _Jpeg:
    """What the segments of a JPEG have defined so far."""

    def __init__(self) -> None:
        self._progressive = False
        self._components: dict[int, tuple[int, int]] = {}  # identity: blocks, quantizer
        self._quantizers: set[int] = set()
        self._tables: set[int] = set()  # Huffman tables; those for AC have 0x10 added
        self._shown: set[int] = set()  # the components that a scan has begun with

    def is_complete(self) -> bool:
        return bool(self._components) and self._shown == set(self._components)

    def takes(self, code: int, segment: bytes) -> bool:
        """Tell whether a segment is one that every decoder takes."""
        if code in _SOF:
            return self._frame(code, segment)
        if code == _DHT:
            return self._huffman(segment)
        if code == _DQT:
            return self._quantization(segment)
        if code == _SOS:
            return self._scan(segment)
        if code == _DRI:
            return len(segment) == 2
        # A list of further pictures is Pillow's to judge.
        return code in _SKIPPED and not (code == _APP2 and segment.startswith(b"MPF\0"))

    def _frame(self, code: int, segment: bytes) -> bool:
        if self._components or len(segment) < 6 or len(segment) != 6 + 3 * segment[5]:
            return False
        identities, samplings, quantizers = segment[6::3], segment[7::3], segment[8::3]
        across, down = [s >> 4 for s in samplings], [s & 15 for s in samplings]
        for steps in (across, down):  # decoders enlarge by whole numbers only
            if not steps or any(not 1 <= s <= 4 or max(steps) % s for s in steps):
                return False
        blocks = map(operator.mul, across, down)
        self._components = dict(zip(identities, zip(blocks, quantizers, strict=True), strict=True))
        self._progressive = code == _PROGRESSIVE
        return len(self._components) == segment[5] and segment[0] == 8 and any(segment[1:3])

    def _quantization(self, segment: bytes) -> bool:
        at = 0
        while at < len(segment):
            wide, number = divmod(segment[at], 16)
            at += 1 + 64 * (1 + wide)
            if wide > 1 or number > 3 or at > len(segment):
                return False
            self._quantizers.add(number)
        return True

    def _huffman(self, segment: bytes) -> bool:
        at = 0
        while at < len(segment):
            kind, counts = segment[at], segment[at + 1 : at + 17]
            symbols = segment[at + 17 : at + 17 + sum(counts)]
            at += 17 + sum(counts)
            if at > len(segment) or kind & 0xEC or len(symbols) > 256:
                return False
            free = 1
            for count in counts:
                free = 2 * free - count
                if free < 0:
                    return False  # more codes than there are of that length
            if kind < 0x10 and symbols and max(symbols) > 15:
                return False
            self._tables.add(kind)
        return True

    def _scan(self, segment: bytes) -> bool:
        count = segment[0] if segment else 0
        if not 1 <= count <= 4 or len(segment) != 4 + 2 * count:
            return False
        identities, tables = segment[1:-3:2], segment[2:-3:2]
        if len(set(identities)) != count or not self._components.keys() >= set(identities):
            return False
        blocks, quantizers = zip(*(self._components[i] for i in identities), strict=True)
        if (count > 1 and sum(blocks) > 10) or not self._quantizers >= set(quantizers):
            return False
        first, last, high, low = segment[-3], segment[-2], *divmod(segment[-1], 16)
        again = not self._shown.isdisjoint(identities)
        needed: set[int] = set()
        if first == 0 and high == 0:
            needed |= {table >> 4 for table in tables}
            self._shown.update(identities)
        if last > 0:
            needed |= {0x10 + (table & 15) for table in tables}
        if not self._tables >= needed:
            return False
        if not self._progressive:
            return (first, last, high, low) == (0, 63, 0, 0) and not again
        banded = last == 0 if first == 0 else (first <= last <= 63 and count == 1)
        refined = high == 0 or low == high - 1
        return banded and refined and low <= 13 and self._shown >= set(identities)


# --- PNG --------------------------------------------------------------------------------------

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by type of colour
# Behind the pixels Pillow reads these without any doubt.
_HARMLESS = {b"tEXt", b"tIME", b"eXIf"}
_FILTERS = bytes(range(5))
# Of an interlaced picture's passes: the first column and row, and the steps to the next.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)


def png(data: bytes) -> bool:
    """Tell whether a PNG's chunks and their checksums are sound, and its pixels are all there.

    Args:
        data: the file, whose chunks before the pixels Pillow has read.

    Returns:
        False if only a decode can tell.

    Raises:
        Damaged: if a checksum of pixels is wrong, or they end early. Pillow does not look at
            these; other decoders, TensorFlow's among them, do.

    """
    chunks = list(_chunks(data))
    names = [name for name, _, _ in chunks]
    if names[:1] != [b"IHDR"] or b"IDAT" not in names or b"acTL" in names:
        return False
    passes = _passes(data[chunks[0][1] : chunks[0][2]])
    begin = names.index(b"IDAT")
    end = begin + names.count(b"IDAT")
    pixels, behind = chunks[begin:end], names[end:]
    if (
        not passes
        or any(name != b"IDAT" for name, _, _ in pixels)
        or behind[-1:] != [b"IEND"]
        or not _HARMLESS.issuperset(behind[:-1])
        or data[chunks[-1][2] : chunks[-1][2] + 4] != b"\xaeB`\x82"
        or (data[25] == 3 and b"PLTE" not in names[:begin])
    ):
        return False
    view = memoryview(data)
    for _, start, stop in pixels:
        if zlib.crc32(view[start - 4 : stop]) != int.from_bytes(view[stop : stop + 4], "big"):
            raise Damaged("a checksum of the PNG file's pixels is wrong")
    pieces = (
        view[at : min(at + _PIECE, stop)]
        for _, start, stop in pixels
        for at in range(start, stop, _PIECE)
    )
    return _fill(pieces, passes)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's name, and where what it holds begins and ends, up to IEND."""
    at = len(_PNG_MAGIC)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start, at = at + 8, at + 12 + length
        if at > len(data):
            return
        yield name, start, start + length
        if name == b"IEND":
            return


def _passes(header: bytes) -> list[tuple[int, int]]:
    """Return (bytes of a row, rows) of each pass over the pixels; none if the header is odd."""
    if len(header) != 13:
        return []
    width, height, depth, colour, packing, filters, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16) or packing or filters:
        return []
    if interlaced > 1:
        return []
    passes = []
    for left, top, across, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            passes.append((1 + (columns * depth * _CHANNELS[colour] + 7) // 8, rows))
    return passes


def _fill(pieces: Iterator[memoryview], passes: list[tuple[int, int]]) -> bool:
    """Tell whether what is packed fills all rows, and each begins with the number of a filter."""
    ends = list(accumulate(stride * rows for stride, rows in passes))
    inflater = zlib.decompressobj()
    done = 0
    try:
        for piece in pieces:
            packed: memoryview | bytes = piece
            block = b""
            while packed or len(block) == _BLOCK:
                block = inflater.decompress(packed, _BLOCK)
                for (stride, rows), end in zip(passes, ends, strict=True):
                    begin = end - stride * rows
                    first = begin - done if begin > done else (begin - done) % stride
                    if done < end and block[first : end - done : stride].strip(_FILTERS):
                        return False
                done += len(block)
                packed = inflater.unconsumed_tail
                if done > ends[-1] or inflater.eof:
                    break
            if done > ends[-1] or inflater.eof:
                break
    except zlib.error:
        return False
    if inflater.eof and done < ends[-1]:
        raise Damaged(f"the PNG file's pixels end after {done} of {ends[-1]} bytes")
    return inflater.eof and done == ends[-1]
