"""A parsed page, and names that a page must not take for markup."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser

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
