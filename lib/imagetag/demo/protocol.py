"""What every protocol has: pictures at URL paths of its own, and answers to requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus

from imagetag.demo.pages import Answer, error_page, unreadable_page
from imagetag.demo.posts import Post, PostIndex, shrunk
from imagetag.imaging import BadImage


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    `path` begins with a slash and is unquoted; `root` is the board's URL as the client knows it.
    """

    path: str
    params: dict[str, str]
    root: str
    headers: Message


class Protocol(ABC):
    """An engine's answers over the posts of an index. Its paths are as those of requests."""

    def __init__(self, index: PostIndex) -> None:
        """Note where the pictures are."""
        self.index = index
        self._pictures: dict[str, tuple[Post, tuple[int, int] | None]] = {}
        for post in index.posts:
            self._pictures[self.thumb_path(post)] = (post, post.thumb_size)
            self._pictures[self.sample_path(post)] = (post, post.sample_size)
            self._pictures[self.image_path(post)] = (post, None)

    @abstractmethod
    def image_path(self, post: Post) -> str:
        """Return where the picture is."""

    @abstractmethod
    def thumb_path(self, post: Post) -> str:
        """Return where the thumbnail is."""

    @abstractmethod
    def small_path(self, post: Post) -> str:
        """Return where the smaller copy is, which only a large picture has."""

    def sample_path(self, post: Post) -> str:
        """Return where that is which the post's page shows: a smaller copy, or the picture."""
        return self.small_path(post) if post.has_sample else self.image_path(post)

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Return the kind of a request, for counting, and its answer; here that of a picture."""
        post, size = self._pictures.get(request.path, (None, None))
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
