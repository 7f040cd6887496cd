"""A parsed page, and names that a page must not take for markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest

from tests.builders.pictures import plain

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
VOID = {"meta", "link", "img", "source", "input", "br"}
NO_TEXT = ("style", "title", "script", "option")


@contextmanager
def undrawn() -> Iterator[None]:
    """Let pages be made without drawing: a plot is one pixel."""
    from imagetag.evaluate import page as of_evaluate  # Matplotlib and more, for those who use it
    from imagetag.explore import page as of_explore
    from imagetag.pages.drawing import Chart

    chart = Chart(*[plain(1, 1)] * 4)
    with pytest.MonkeyPatch.context() as patch:
        for page in (of_explore, of_evaluate):  # each has its own name for it
            patch.setattr(page, "for_all_screens", lambda draw: chart)
        yield


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
