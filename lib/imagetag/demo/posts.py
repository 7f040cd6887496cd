"""The posts of a local board: what `posts.jsonl` tells of them, and an index of their tags."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from imagetag.dataset import Md5, Rating
from imagetag.errors import InputError
from imagetag.imaging import load_rgb
from imagetag.log import get_logger

_THUMB_SIDE = 150  # pixels
_SAMPLE_WIDTH = 850  # pixels; a wider picture's page shows a smaller copy

Status = Literal["active", "deleted", "banned"]
Category = Literal["general", "artist", "copyright", "character", "species", "meta", "lore"]


def _checked_tag(tag: str) -> str:
    if not tag or " " in tag or not tag.isprintable():
        raise ValueError("not a tag")
    return tag


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


class Post(BaseModel):
    """A line of `posts.jsonl`. Sizes are in pixels; `path` is the picture's file.

    A deleted post is shown, hidden or stripped, as its engine does. A banned one is kept from the
    public: its picture's address is not told; engines that know no such thing treat it as deleted.
    `categories` has the tags that are not general. `size` is in bytes, and that of the file.
    """

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
    status: Status = "active"
    categories: dict[str, Category] = {}
    size: int = Field(0, ge=0)
    created_at: AwareDatetime = datetime(2024, 1, 1, tzinfo=UTC)
    author: Annotated[str, AfterValidator(_printable)] = "board"
    source: Annotated[str, AfterValidator(_printable)] = ""

    @property
    def thumb_size(self) -> tuple[int, int]:
        """The thumbnail's (width, height)."""
        return self._fitting(_THUMB_SIDE / max(self.width, self.height))

    @property
    def has_sample(self) -> bool:
        """Whether there is a smaller copy for the post's page."""
        return self.width > _SAMPLE_WIDTH

    @property
    def sample_size(self) -> tuple[int, int]:
        """The (width, height) of what the post's page shows."""
        return self._fitting(_SAMPLE_WIDTH / self.width)

    @property
    def media_type(self) -> str:
        """What the picture's Content-Type says."""
        return "image/jpeg" if self.ext in ("jpg", "jpeg") else f"image/{self.ext}"

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
        posts[post.id] = post.model_copy(update={"path": path, "size": path.stat().st_size})
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


class PostIndex:
    """The posts, found by id and by tag.

    Attributes:
        posts: all of them, newest first.
        by_id: the same, by id.
        children: the ids of a post's children, oldest first, by the id of the post.
        tag_counts: how many posts have each tag.

    """

    def __init__(self, posts: Iterable[Post]) -> None:
        self.posts = sorted(posts, key=lambda post: -post.id)
        self.by_id = {post.id: post for post in self.posts}
        self.children: dict[int, list[int]] = {}
        for post in reversed(self.posts):
            if post.parent_id is not None:
                self.children.setdefault(post.parent_id, []).append(post.id)
        self.tag_counts = Counter(tag for post in self.posts for tag in set(post.tags))
        self._by_tag: dict[str, set[int]] = {}
        for post in self.posts:
            for tag in post.tags:
                self._by_tag.setdefault(tag.lower(), set()).add(post.id)

    def ids(self, matches: Callable[[Post], bool]) -> set[int]:
        """Return the ids of the posts that match."""
        return {post.id for post in self.posts if matches(post)}

    def has_tag(self, tag: str) -> bool:
        """Return whether any post has a tag, which is in lower case."""
        return tag in self._by_tag

    def beginning(self, letters: str) -> list[tuple[str, int]]:
        """Return tags that begin so in any case, and their counts, the most frequent first."""
        found = [
            (tag, count)
            for tag, count in self.tag_counts.most_common()
            if tag.lower().startswith(letters.lower())
        ]
        return found[:10]

    def tagged(self, tag: str) -> set[int]:
        """Return the ids of the posts with a tag, which is in lower case."""
        return self._by_tag.get(tag, set())

    def tagged_like(self, pattern: str) -> set[int]:
        """Return the ids of the posts with a tag like `foo*`."""
        parts = pattern.split("*")
        return set().union(*(ids for tag, ids in self._by_tag.items() if _fits(tag, parts)))


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
