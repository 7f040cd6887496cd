"""Gelbooru Beta 0.2.5, the engine of gelbooru.com: its API, which wants an account's key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from imagetag.boards.base import Query
from imagetag.boards.dapi import DapiBoard, posts_in
from imagetag.boards.fields import Page, document, load_xml_posts, named
from imagetag.boards.words import words_of
from imagetag.dataset import Rating


class Gelbooru(DapiBoard):
    """A board of the engine Gelbooru Beta 0.2.5."""

    engine = "Gelbooru 0.2.5"
    most = 100
    ratings: ClassVar[Mapping[str, Rating]] = {
        "general": "general",
        "safe": "general",  # as it was called before 2022
        "sensitive": "sensitive",
        "questionable": "questionable",
        "explicit": "explicit",
    }
    left_out = ("general", "sensitive", "questionable", "explicit")

    def _list(self, query: Query, below: int | None, limit: int) -> Page:
        params = self._api(self._terms(query, below), limit) | {"json": "1"}
        return self._read(self._found(self._ask("/index.php", params)))

    def _beginning(self, letters: str) -> list[str]:
        params = {"page": "autocomplete2", "term": letters, "type": "tag_query", "limit": "10"}
        return named(self._json(self._ask("/index.php", params)), "value")

    def _found(self, content: bytes) -> Any:
        content = document(content)
        if not content:
            return []
        if not content.startswith(b"<"):
            return posts_in(self._json(content))
        try:  # what it answers where it does not know `json=1`
            found = load_xml_posts(content)
        except ValueError as error:
            raise self._complaint(words_of(content) or str(error)) from None
        if verdict := self._verdict("" if found else words_of(content)):
            raise verdict
        return found
