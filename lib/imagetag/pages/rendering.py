"""The pages people read: one HTML file each, with its pictures in it and no request to anywhere."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from jinja2 import Environment
from PIL import Image

from imagetag.dataset import Captioned
from imagetag.pages.templating import page_environment, way
from imagetag.stats import Interval

MAX_PAGE_BYTES = 5_000_000

_THUMBNAIL_SIDE = 256  # pixels
_THUMBNAIL_QUALITY = 78


Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Figure(Generic[Drawn]):
    """What is drawn, its heading, what it shows in words for who cannot see it, and a caption."""

    title: str
    alt: str
    caption: str
    drawn: Drawn


def shrunk(picture: Image.Image) -> Image.Image:
    """Return a picture at 256 pixels a side at most, with its aspect kept."""
    small = picture.copy()
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return small


def jpeg(picture: Image.Image) -> bytes:
    """Return a small picture of mode RGB as the JPEG that pages show."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Script:
    """A page's only script, and the hash by which the page's policy allows it and no other."""

    text: str
    digest: str


def script(name: str) -> Script:
    """Return a script of the templates by its file's name."""
    text = (resources.files("imagetag.pages") / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Script(text, f"sha256-{digest}")


def web_link(url: str) -> str | None:
    """Return a URL that may be made a link: manifests are from outside, and so may be scripts."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def picture_link(page: str, picture: Captioned, stored: str | None) -> str | None:
    """Return where a picture's link leads: to its post, or of a folder to the stored picture.

    Args:
        page: the key of the page with the link.
        picture: which.
        stored: the picture's key, None if it is not known.

    """
    if picture.board.startswith("folder:") and stored is not None:
        return way(page, stored)  # it has no page in the web, and its file may be elsewhere
    return web_link(picture.page_url)


@cache
def environment() -> Environment:
    """Return what renders the templates, with the filters they use."""
    return page_environment(
        number=_number,
        percent=_percent,
        interval=_interval,
        bounds=_bounds,
        size=_bytes,
        shown=_shown,
        capitalized=lambda text: text[:1].upper() + text[1:],
        when=_when,
        svg=lambda data: data_uri(data, "image/svg+xml"),
    )


def data_uri(data: bytes, media_type: str) -> str:
    """Return bytes as a URL that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value % 1 == 0 else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "\N{EN DASH}" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "nothing was called positive"
    low, high = (100 * share for share in interval)
    return f"95\N{NO-BREAK SPACE}% confidence: {low:.1f} to {high:.1f}\N{NO-BREAK SPACE}%"


def _bounds(interval: Interval | None) -> str:
    if interval is None:
        return "\N{EN DASH}"
    low, high = (100 * share for share in interval)
    return f"{low:.1f} to {high:.1f}\N{NO-BREAK SPACE}%"


def _bytes(value: float) -> str:
    """Return bytes as people read them, by powers of 1,000."""
    power = min(4, int(math.log10(value) // 3)) if value >= 1 else 0
    number = f"{value / 1000**power:.{1 if power else 0}f}"
    return f"{number}\N{NO-BREAK SPACE}{('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _when(moment: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return moment


def _shown(value: Any) -> str:
    """Return a setting's value as people write it."""
    if value is None or value in ("", [], (), {}):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
