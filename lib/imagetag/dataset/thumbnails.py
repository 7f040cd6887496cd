"""Some pictures of a dataset to look at: which, and their thumbnails."""

from __future__ import annotations

import heapq
import html
import io
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import unquote, urlsplit

from PIL import Image

from imagetag.dataset.manifest import Rating, Row
from imagetag.imaging import BadImage, load_rgb
from imagetag.layout import Label, Layout, Split
from imagetag.log import get_logger
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage

GREATEST = 2**53  # of the numbers that are taken from a manifest; up to here a float is exact

_LONGEST_URL = 500  # characters, as HTML; a longer one is not linked
_LONGEST_NAME = 60  # characters of a board's name
_LONGEST_CAPTION = 100  # characters
_MAX_FILE = 100 << 20  # bytes; larger ones are not looked at
_AT_ONCE = 8  # files in memory
# Pixels of the longer side and JPEG quality, the best first: the first that is small enough is it.
_SIZES = ((256, 78), (192, 72), (144, 66), (112, 58), (80, 50))

Item = TypeVar("Item")


def caption(row: Row) -> str:
    """Return what a page calls a picture: its file's name, its URL, or its post.

    A picture of a folder is called by its path in it, one of a list by its URL: their ids are
    known to nobody. It is one line of printable text, 100 characters at the most.
    """
    text = f"post {bounded(row.post_id)}"
    if row.board.startswith("folder:"):
        path = unquote(urlsplit(row.page_url).path)
        root = f"{row.root.rstrip('/')}/"
        if path.startswith(root):
            text = path[len(root) :]
        else:  # the folder was given by a relative path, or by a link
            *_, text = path.partition(f"/{row.board.partition(':')[2]}/")
            text = text or path.rpartition("/")[2]
    elif row.board.startswith("links:"):
        text = row.page_url
    visible = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(visible) <= _LONGEST_CAPTION:
        return visible
    return "\N{HORIZONTAL ELLIPSIS}" + visible[1 - _LONGEST_CAPTION :]  # the end tells them apart


def bounded(number: int) -> int:
    """Return a number of a manifest, which is from outside, no greater than can be worked with."""
    return max(-GREATEST, min(number, GREATEST))


class Captioned:
    """What a page calls a picture, of which `name` may be empty, and where it is from."""

    if TYPE_CHECKING:  # fields of the models that have it, in an order of their own
        name: str
        post_id: int
        board: str
        page_url: str

    @property
    def caption(self) -> str:
        """What the page calls it."""
        return self.name or f"post {self.post_id}"

    @property
    def short(self) -> str:
        """The end of it: of a path, the file's name."""
        return self.caption.rstrip("/").rpartition("/")[2]


class Picture(Captioned, Record):
    """A picture that a page shows; `width` and `height` are in pixels, as the file has them.

    `name` is what the page calls it, empty where an older version stored none.
    """

    md5: str
    ext: str
    board: str
    post_id: int
    page_url: str
    split: Split
    label: Label
    rating: Rating
    width: int
    height: int
    name: str = ""

    @classmethod
    def of(cls, row: Row) -> Picture:
        """Return the picture of a row, without what is too long to be shown."""
        return cls(
            md5=row.md5,
            ext=row.ext,
            board=row.board[:_LONGEST_NAME],
            post_id=bounded(row.post_id),
            page_url=row.page_url if len(html.escape(row.page_url)) <= _LONGEST_URL else "",
            split=row.split,
            label=row.label,
            rating=row.rating,
            width=bounded(row.width),
            height=bounded(row.height),
            name=caption(row),
        )


class Lowest(Generic[Item]):
    """Keeps what stands for the lowest md5s: an even sample, and the same in any order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, Item]] = []

    def add(self, md5: str, make: Callable[[], Item]) -> None:
        """Make an item and keep it, if its md5 is among the lowest so far.

        Each has another md5. What is kept is made here, so that no whole row of a manifest stays.
        """
        key = -int(md5, 16)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, (key, make()))
        elif self._heap and key > self._heap[0][0]:
            heapq.heapreplace(self._heap, (key, make()))

    def items(self) -> tuple[Item, ...]:
        """Return what is kept, by its md5."""
        return tuple(item for _, item in sorted(self._heap, key=lambda entry: -entry[0]))


def read_thumbnails(
    storage: Storage, tag: str, pictures: Collection[Picture], budget: int
) -> tuple[dict[str, bytes], dict[str, int]]:
    """Read pictures and make small JPEGs of them.

    Args:
        storage: has the images.
        tag: whose they are.
        pictures: which; one that is shown twice is given twice, and read once.
        budget: bytes of all that are shown.

    Returns:
        The JPEGs by md5, and how many pictures could not be had, by reason.

    """
    layout = Layout(tag)
    wanted = {picture.md5: picture for picture in pictures}
    each = budget // max(1, len(pictures))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="thumbnail") as pool:
        made = pool.map(lambda picture: _thumbnail(storage, layout, picture, each), wanted.values())
        found = dict(zip(wanted, made, strict=True))
    reasons = Counter(result for result in found.values() if isinstance(result, str))
    if reasons:
        get_logger().warning("pictures left out of the page", **dict(sorted(reasons.items())))
    return (
        {md5: result for md5, result in found.items() if isinstance(result, bytes)},
        dict(sorted(reasons.items())),
    )


def _thumbnail(storage: Storage, layout: Layout, picture: Picture, most: int) -> bytes | str:
    """Return a JPEG of at most `most` bytes, or in a word why there is none."""
    key = layout.image(picture.split, picture.label, picture.md5, picture.ext)
    try:
        with storage.open(key) as stream:
            data = stream.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            return "too_large"
        whole = load_rgb(data, at_least=(_SIZES[0][0], _SIZES[0][0]))
    except ObjectNotFound:
        return "missing"
    except BadImage as error:
        return error.reason
    for side, quality in _SIZES:
        small = _encoded(whole, side, quality)
        if len(small) <= most:
            return small
    return "too_large"


def _encoded(picture: Image.Image, side: int, quality: int) -> bytes:
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
