"""What every protocol has: pictures at URL paths of its own, and answers to requests."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from http import HTTPStatus

from imagetag.demo.pages import Answer, error_page, unreadable_page
from imagetag.demo.posts import Post, PostIndex, shrunk
from imagetag.imaging import BadImage


class Protocol(ABC):
    """An engine's answers over the posts of an index.

    Root arguments are the board's URL as the client knows it. Paths begin with a slash and are
    unquoted.
    """

    def __init__(self, index: PostIndex) -> None:
        """Note where the pictures are."""
        self.index = index
        self._pictures: dict[str, tuple[Post, tuple[int, int] | None]] = {}
        for post in index.posts:
            self._pictures[self.thumb_path(post)] = (post, post.thumb_size)
            self._pictures[self.sample_path(post)] = (post, post.sample_size)
            for path in self.image_paths(post):
                self._pictures[path] = (post, None)

    @abstractmethod
    def image_path(self, post: Post) -> str:
        """Return where the picture is."""

    @abstractmethod
    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""

    @abstractmethod
    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is, which only a large picture has."""

    def image_paths(self, post: Post) -> list[str]:
        """Return all the paths the picture is found at."""
        return [self.image_path(post)]

    def sample_path(self, post: Post) -> str:
        """Return where that is which the post's page shows: a smaller copy, or the picture."""
        return self.small_path(post) if post.has_sample else self.image_path(post)

    def refusal(self, user_agent: str) -> Answer | None:
        """Return what a client of such a name is told instead of an answer, if it is refused."""
        del user_agent
        return None

    def answer(self, path: str, params: Mapping[str, str], root: str) -> tuple[str, Answer]:
        """Return the kind of a request, for counting, and its answer; here that of a picture."""
        del params, root
        post, size = self._pictures.get(path, (None, None))
        if post is None:
            return "other", error_page(HTTPStatus.NOT_FOUND, "There is no such page")
        try:
            if size is None:
                data = post.path.read_bytes()
                return "image", Answer(HTTPStatus.OK, post.media_type, data)
            data = shrunk(post.path, size)
        except (OSError, BadImage) as error:
            return "image" if size is None else "preview", unreadable_page(post, error)
        return "preview", Answer(HTTPStatus.OK, "image/jpeg", data)

    def is_picture(self, path: str) -> bool:
        """Return whether there is a picture at a path."""
        return path in self._pictures


def number(text: str | None, default: int) -> int:
    """Return the number a parameter is, or the default."""
    return int(text) if text and re.fullmatch("[0-9]{1,15}", text) else default


def leading_number(text: str | None) -> int:
    """Return the number that a text begins with, as Ruby's `to_i` does: 0 where there is none."""
    match = re.match(r"\s*([+-]?[0-9]{1,18})", text or "")
    return int(match[1]) if match else 0


def by_md5(post: Post) -> str:
    """Return a picture's part of a path that several engines have: `ab/cd/abcd....jpg`."""
    return f"{post.md5[:2]}/{post.md5[2:4]}/{post.md5}.{post.ext}"


def iso_time(post: Post) -> str:
    """Return when a post was made, as Rails writes it in JSON."""
    return post.created_at.isoformat(timespec="milliseconds")
