"""The search language of Gelbooru boards."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

from imagetag.demo.posts import Post, PostIndex

Test = Callable[[Post], bool]


def gelbooru_search(index: PostIndex, query: str) -> list[Post]:
    """Return the posts that match every word of a query as Gelbooru boards read it, newest first.

    A word is a tag, `foo*`, `id:1`, `id:<1` (`>`, `<=`, `>=`; also `score`, `width`, `height`),
    `rating:safe`, `parent:1`, `md5:...`, one of these with `-` before it, `all`, or an order:
    `sort:score`, `sort:id:asc`. Case does not matter. What is no such word matches nothing.
    Deleted posts are never found.
    """
    found = index.ids(lambda post: post.status == "active")
    field, direction = "id", "desc"
    for word in query.lower().split():
        if word.startswith("sort:"):
            _, field, direction = f"{word}:desc".split(":")[:3]
        elif word.startswith("-"):
            found -= _gelbooru_word(index, word[1:])
        elif word != "all":
            found &= _gelbooru_word(index, word)
    return in_order([index.by_id[i] for i in found], field, direction != "asc")


def _gelbooru_word(index: PostIndex, word: str) -> set[int]:
    if index.has_tag(word):
        return index.tagged(word)
    if (matches := _gelbooru_metatag(word)) is not None:
        return index.ids(matches)
    return index.tagged_like(word) if "*" in word else set()


_RATINGS = {"safe": "general"} | {
    rating: rating for rating in ("general", "sensitive", "questionable", "explicit")
}


def _gelbooru_metatag(word: str) -> Test | None:
    """Return what a word such as `id:<5` asks of a post, None if it is only a tag."""
    name, _, value = word.partition(":")
    if name in ("id", "score", "width", "height") and (test := compared(value)) is not None:
        return lambda post: test(getattr(post, name))
    if name == "parent" and re.fullmatch("[0-9]{1,15}", value):
        return family(int(value))
    if name == "rating" and value in _RATINGS:
        return lambda post: post.rating == _RATINGS[value]
    if name == "md5":
        return lambda post: post.md5 == value
    return None


_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_COMPARED = re.compile(r"(<=|>=|<|>|)(-?[0-9]{1,18})")


def compared(value: str) -> Callable[[int], bool] | None:
    """Return the test that a value such as `<5` is, None if it is none."""
    if number := _COMPARED.fullmatch(value):
        compare, bound = _COMPARISONS[number[1]], int(number[2])
        return lambda given: compare(given, bound)
    return None


def in_order(posts: Sequence[Post], field: str, descending: bool) -> list[Post]:
    """Return posts by score or by id; of equal scores, by id."""
    key = operator.attrgetter("score", "id") if field == "score" else operator.attrgetter("id")
    return sorted(posts, key=key, reverse=descending)


def family(parent: int) -> Test:
    """Return what `parent:1` asks of a post: the parent belongs to its children."""
    return lambda post: parent in (post.parent_id, post.id)
