"""Images that another tag of the same storage already has: copied there, not downloaded again.

Beside each image that is stored goes a note, named by what a listing tells of the post, so that
any pod and any later run finds it with one small read. A note is a hint: the image that it names
may be gone.
"""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagetag import layout
from imagetag.boards import Post
from imagetag.dataset import Lead, Md5
from imagetag.storage import ObjectNotFound, Storage


class SharedImage(BaseModel):
    """An image in storage: its key, and what its rows say of its file. Sizes are in pixels."""

    model_config = ConfigDict(frozen=True)

    key: str
    md5: Md5
    ext: str
    bytes: int = Field(ge=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    phashes: tuple[str, ...] = ()
    lead: Lead | None = None


def find(storage: Storage, post: Post) -> SharedImage | None:
    """Return the image of a post, if some tag has stored it."""
    try:
        image = SharedImage.model_validate_json(storage.read(_note(post)))
        layout.parse_image(image.key)
    except (ObjectNotFound, ValidationError, ValueError):
        return None
    return image if post.md5 in (None, image.md5) else None


def offer(storage: Storage, post: Post, image: SharedImage) -> None:
    """Let other tags find the image of a post."""
    storage.write_hint(_note(post), image.model_dump_json().encode())


def _note(post: Post) -> str:
    # What a listing tells before anything is fetched; of two boards with one picture, one fetches.
    # Two folders or lists of one name have the same ids for other pictures, but not their URLs.
    name = post.md5 or f"{post.board}:{post.id}:{post.page_url}"
    return layout.shared(hashlib.sha256(name.encode()).hexdigest()[:32])
