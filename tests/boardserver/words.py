"""The word languages of Danbooru, e621 and Moebooru."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from imagetag.demo.posts import Post, PostIndex
from imagetag.demo.search import Test, compared, family, in_order

_BETWEEN = re.compile(r"(-?[0-9]{1,18})?(\.{2,3})(-?[0-9]{1,18})?")
_LIST = re.compile(r"-?[0-9]{1,18}(,-?[0-9]{1,18})+")


def ranged(value: str) -> Callable[[int], bool] | None:
    """Return the test that a value such as `<5`, `1..5`, `..5`, `1...5` or `1,2` is, or None."""
    if between := _BETWEEN.fullmatch(value):
        low = int(between[1]) if between[1] else None
        high = int(between[3]) if between[3] else None
        if low is None and high is None:
            return None
        ends = operator.lt if between[2] == "..." else operator.le  # three dots leave the end out
        return lambda given: (low is None or given >= low) and (high is None or ends(given, high))
    if _LIST.fullmatch(value):
        members = {int(part) for part in value.split(",")}
        return members.__contains__
    return compared(value)


@dataclass(frozen=True)
class Word:
    """A word of a Danbooru query: `-rating:e` is ("-", "rating", "e"), `~fox` is ("~", "", "fox").

    A tag has no name.
    """

    sign: str
    name: str
    value: str


class TooManyWords(Exception):
    """A query has more tags than its asker may search for."""


@dataclass(frozen=True)
class DanbooruSearch:
    """The word language of Danbooru and its descendant e621.

    Attributes:
        letters: the letter of each rating.
        free: metatags that do not count against the limit.
        shows_deleted: whether deleted posts are found without being asked for.

    """

    index: PostIndex
    letters: dict[str, str]
    free: frozenset[str]
    shows_deleted: bool

    def find(self, query: str, limit: int) -> tuple[list[Post], dict[str, str]]:
        """Return the posts that match, in the order asked for, and the values of such metatags.

        These are `order:` and `limit:`, by name; the first is heeded, the second is not.

        Raises:
            TooManyWords: if more than `limit` words count.

        """
        words = [_word(text) for text in dict.fromkeys(query.lower().split())]
        if sum(word.name not in self.free for word in words) > limit:
            raise TooManyWords
        found = self.index.ids(lambda post: self.shows_deleted or post.status != "deleted")
        if any(word.name == "status" and word.value in _ANY_STATUS for word in words):
            found = set(self.index.by_id)
        either: set[int] | None = None
        options = {}
        for word in words:
            if word.name in ("order", "limit"):
                options[word.name] = word.value
            elif word.sign == "-":
                found -= self._matching(word)
            elif word.sign == "~":
                either = (either or set()) | self._matching(word)
            else:
                found &= self._matching(word)
        if either is not None:
            found &= either
        field, _, direction = options.get("order", "id_desc").partition("_")
        posts = [self.index.by_id[i] for i in found]
        # `order:id` counts upwards; every other order has its greatest first.
        descending = direction == "desc" or (direction == "" and field != "id")
        return in_order(posts, field, descending), options

    def _matching(self, word: Word) -> set[int]:
        if not word.name:
            like = "*" in word.value
            return self.index.tagged_like(word.value) if like else self.index.tagged(word.value)
        return self.index.ids(self._metatag(word.name, word.value))

    def _metatag(self, name: str, value: str) -> Test:
        if name in ("id", "score", "width", "height"):
            test = ranged(value)
            return lambda post: test is not None and test(getattr(post, name))
        if name == "rating":
            letters = {part[:1] for part in value.split(",")}
            return lambda post: self.letters[post.rating] in letters
        if name == "md5":
            return lambda post: post.md5 in value.split(",")
        if name == "status":
            return _STATUSES.get(value, _nothing)
        if value in ("none", "any"):
            return lambda post: (post.parent_id is None) == (value == "none")
        return family(int(value)) if re.fullmatch("[0-9]{1,15}", value) else _nothing


def _nothing(_: Post) -> bool:
    return False


_NAMES = r"id|score|width|height|rating|md5|status|parent|order|limit"
_METATAG = re.compile(rf"([-~]?)({_NAMES}):(.*)")
_ANY_STATUS = ("deleted", "active", "any", "all")
_STATUSES: dict[str, Test] = {
    "any": lambda _: True,
    "all": lambda _: True,
    "active": lambda post: post.status != "deleted",
    "deleted": lambda post: post.status == "deleted",
    "banned": lambda post: post.status == "banned",
}


def _word(text: str) -> Word:
    if metatag := _METATAG.fullmatch(text):
        return Word(metatag[1], metatag[2], metatag[3])
    if text[0] in "-~" and len(text) > 1:
        return Word(text[0], "", text[1:])
    return Word("", "", text)
