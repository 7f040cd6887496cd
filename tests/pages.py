"""A parsed page, and names that a page must not take for markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}{% raw %}",
    "</title></style><svg/onload=alert(1)>",
    "&lt;b&gt;",
    "x" * 200,
    "惣流・アスカ・ラングレー",
    "$\\frac{a}{b}$",
]
LARGEST_MEAN = 80_000  # bytes: plots of an exploration are smaller, all eight together
VOID = {"meta", "link", "img", "source", "input", "br"}
NO_TEXT = ("style", "title", "script", "option")


@contextmanager
def undrawn() -> Iterator[None]:
    """Let pages be made without drawing by matplotlib: a plot is nothing."""
    from imagetag.explore import page  # matplotlib and more, for those who use it
    from imagetag.pages.drawing import Plot

    empty = Plot(*[b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'] * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "for_all_screens", lambda draw: empty)
        yield


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, #rrggbb, from 1 to 21, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        channels = [value / 255 for value in bytes.fromhex(color[1:])]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


class Page(HTMLParser):
    """A parsed page: its elements, its text, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in NO_TEXT:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def links(self) -> list[dict[str, str]]:
        """The links out of the page, less that to the page of the tag."""
        found = (link for link in self.all("a") if link.get("rel") != "up")
        return [link for link in found if not link["href"].startswith("#")]

    @property
    def up(self) -> list[str]:
        return [link["href"] for link in self.all("a") if link.get("rel") == "up"]
