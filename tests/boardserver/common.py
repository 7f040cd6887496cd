"""What several engines have in common: how they read numbers, and write times and paths."""

from __future__ import annotations

import re

from imagetag.demo.posts import Category, Post


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


def tags_of(post: Post, category: Category) -> list[str]:
    """Return a post's tags of one category."""
    return [tag for tag in post.tags if post.categories.get(tag, "general") == category]
