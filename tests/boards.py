"""What tests of boards share: hostile values, and what holds of every post that comes of them."""

from __future__ import annotations

import re
from datetime import UTC, timedelta
from urllib.parse import urlsplit

from hypothesis import strategies as st

from imagetag.boards.base import Post
from imagetag.dataset.manifest import Row

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    """A real answer of which a few stretches are cut, doubled or overwritten."""
    data = text.encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 200)))
        data = (
            data[:start] + draw(st.binary(max_size=8) | st.just(data[start:end] * 2)) + data[end:]
        )
    return data


def check(post: Post) -> None:
    """A post's fields are sound: a manifest can hold them, and they are what they are to be."""
    row = Row(
        **{name: getattr(post, name) for name in ("board", "page_url", "tags", "group")},
        post_id=post.id,
        md5=post.md5 or "0" * 32,
        rating=post.rating or "general",
        width=post.width or 1,
        height=post.height or 1,
        ext="png",
        bytes=1,
        split="train",
        label="positive",
    )
    assert Row.model_validate_json(row.model_dump_json()) == row
    assert 0 < post.id < 10**15
    assert post.md5 is None or re.fullmatch("[0-9a-f]{32}", post.md5)
    assert all(tag and not re.search(r"\s", tag) for tag in post.tags)
    assert len(set(post.tags)) == len(post.tags)
    if post.file_url:
        parts = urlsplit(post.file_url)
        assert parts.scheme in ("http", "https")
        assert parts.hostname
        post.file_url.encode()
    for size in (post.width, post.height, post.parent_id):
        assert size is None or (type(size) is int and size > 0)
    assert post.score is None or type(post.score) is int
    if post.created_at is not None:
        assert post.created_at.tzinfo is UTC
        assert post.created_at.utcoffset() == timedelta(0)
