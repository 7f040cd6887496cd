"""The posts of a local board, and the search language of Gelbooru Beta 0.2 over them."""

from __future__ import annotations

import io
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, get_args

from PIL import Image
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from imagetag.errors import InputError
from imagetag.images import load_rgb
from imagetag.log import get_logger
from imagetag.manifest import Md5, Rating

_THUMB_SIDE = 150  # pixels
_SAMPLE_WIDTH = 850  # pixels; a wider picture's page shows a smaller copy


def _checked_tag(tag: str) -> str:
    if not tag or " " in tag or not tag.isprintable():
        raise ValueError("not a tag")
    return tag


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


class Post(BaseModel):
    """A line of `posts.jsonl`. Sizes are in pixels; `path` is the picture's file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int = Field(ge=1, le=10**12)
    path: Path = Field(alias="file")
    tags: tuple[Annotated[str, AfterValidator(_checked_tag)], ...]
    rating: Rating
    width: int = Field(ge=1, le=10**6)
    height: int = Field(ge=1, le=10**6)
    md5: Md5
    ext: Literal["jpg", "jpeg", "png", "webp", "gif", "bmp"]
    parent_id: int | None = Field(None, ge=1, le=10**12)
    score: int = Field(0, ge=-(10**6), le=10**6)
    created_at: AwareDatetime = datetime(2024, 1, 1, tzinfo=UTC)
    author: Annotated[str, AfterValidator(_printable)] = "board"
    source: Annotated[str, AfterValidator(_printable)] = ""

    @property
    def directory(self) -> int:
        """The number of the folder in the picture's URL."""
        return 1 + self.id // 1000

    @property
    def image_path(self) -> str:
        """The URL path of the picture as it is."""
        return f"/images/{self.directory}/{self.md5}.{self.ext}"

    @property
    def thumb_path(self) -> str:
        """The URL path of the thumbnail."""
        return f"/thumbnails/{self.directory}/thumbnail_{self.md5}.jpg"

    @property
    def thumb_size(self) -> tuple[int, int]:
        """The thumbnail's (width, height)."""
        return self._fitting(_THUMB_SIDE / max(self.width, self.height))

    @property
    def has_sample(self) -> bool:
        """Whether there is a smaller copy for the post's page."""
        return self.width > _SAMPLE_WIDTH

    @property
    def sample_path(self) -> str:
        """The URL path of what the post's page shows: a smaller copy, or the picture as it is."""
        if not self.has_sample:
            return self.image_path
        return f"/samples/{self.directory}/sample_{self.md5}.jpg"

    @property
    def sample_size(self) -> tuple[int, int]:
        """The (width, height) of what `sample_path` gives."""
        return self._fitting(_SAMPLE_WIDTH / self.width)

    def _fitting(self, scale: float) -> tuple[int, int]:
        if scale >= 1:
            return self.width, self.height
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))


def read_posts(folder: Path) -> list[Post]:
    """Return the posts of a folder's `posts.jsonl`; lines that are no good are counted and logged.

    A line is no good if it is no post, its id was there before, or its `file` is missing or outside
    the folder.

    Raises:
        InputError: if there is no `posts.jsonl`.

    """
    try:
        lines = (folder / "posts.jsonl").read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"{folder} is no folder of posts: posts.jsonl cannot be read ({error.strerror})"
        ) from error
    root = folder.resolve()
    posts: dict[int, Post] = {}
    refused = 0
    for line in lines:
        try:
            post = Post.model_validate_json(line)
            path = (root / post.path).resolve()
        except (ValidationError, ValueError, OSError):
            refused += bool(line.strip())
            continue
        if post.id in posts or not path.is_relative_to(root) or not path.is_file():
            refused += 1
            continue
        posts[post.id] = post.model_copy(update={"path": path})
    if refused:
        get_logger().warning("posts left out", folder=str(folder), refused=refused)
    return list(posts.values())


@lru_cache(maxsize=512)
def shrunk(path: Path, size: tuple[int, int]) -> bytes:
    """Return a picture as a JPEG of this width and height in pixels."""
    picture = load_rgb(path, at_least=(size[1], size[0]))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_COMPARED = re.compile(r"(<=|>=|<|>|)(-?[0-9]{1,15})")


class PostIndex:
    """The posts, found by tag, by id and by the URL paths of their pictures.

    Attributes:
        posts: all of them, newest first.
        parents: the ids that are the parent of a post.
        by_image, by_preview: posts by URL path, previews with their (width, height) in pixels.
        tag_counts: how many posts have each tag.

    """

    def __init__(self, posts: Iterable[Post]) -> None:
        self.posts = sorted(posts, key=lambda post: -post.id)
        self.parents = {post.parent_id for post in self.posts}
        self.by_image = {post.image_path: post for post in self.posts}
        self.by_preview = {post.thumb_path: (post, post.thumb_size) for post in self.posts}
        for post in self.posts:
            if post.has_sample:
                self.by_preview[post.sample_path] = (post, post.sample_size)
        self.tag_counts = Counter(tag for post in self.posts for tag in set(post.tags))
        self._by_id = {post.id: post for post in self.posts}
        self._by_tag: dict[str, set[int]] = {}
        for post in self.posts:
            for tag in post.tags:
                self._by_tag.setdefault(tag.lower(), set()).add(post.id)

    def search(self, query: str) -> list[Post]:
        """Return the posts that match every word of a query, newest first.

        A word is a tag, `foo*`, `id:1`, `id:<1` (`>`, `<=`, `>=`; also `score`, `width`, `height`),
        `rating:safe`, `parent:1`, `md5:...`, one of these with `-` before it, `all`, or an order:
        `sort:score`, `sort:id:asc`. Case does not matter. What is no such word matches nothing.
        """
        found = set(self._by_id)
        field, direction = "id", "desc"
        for word in query.lower().split():
            if word.startswith("sort:"):
                _, field, direction = f"{word}:desc".split(":")[:3]
            elif word.startswith("-"):
                found -= self._matching(word[1:])
            elif word != "all":
                found &= self._matching(word)
        posts = [self._by_id[post_id] for post_id in found]
        key = operator.attrgetter("score", "id") if field == "score" else operator.attrgetter("id")
        return sorted(posts, key=key, reverse=direction != "asc")

    def _matching(self, word: str) -> set[int]:
        if word in self._by_tag:
            return self._by_tag[word]
        if (matches := _metatag(word)) is not None:
            return {post.id for post in self.posts if matches(post)}
        if "*" in word:
            parts = word.split("*")
            fitting = (ids for tag, ids in self._by_tag.items() if _fits(tag, parts))
            return set().union(*fitting)
        return set()


def _metatag(word: str) -> Callable[[Post], bool] | None:
    """Return what a word such as `id:<5` asks of a post, None if it is only a tag."""
    name, _, value = word.partition(":")
    number = _COMPARED.fullmatch(value)
    if number and name in ("id", "score", "width", "height"):
        compare, bound = _COMPARISONS[number[1]], int(number[2])
        return lambda post: compare(getattr(post, name), bound)
    if number and name == "parent":  # the family: the parent is in it
        parent = int(number[2])
        return lambda post: parent in (post.parent_id, post.id)
    if name == "rating" and value in ("safe", *get_args(Rating)):
        rating = "general" if value == "safe" else value
        return lambda post: post.rating == rating
    if name == "md5":
        return lambda post: post.md5 == value
    return None


def _fits(tag: str, parts: Sequence[str]) -> bool:
    """Return whether a tag has these parts in order, the first and the last at its ends."""
    first, *middle, last = parts
    if not tag.startswith(first) or not tag.endswith(last):
        return False
    at = len(first)
    for part in middle:
        at = tag.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return at <= len(tag) - len(last)
