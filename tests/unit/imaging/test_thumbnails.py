"""Thumbnails in memory: the last used are kept, and no more than so many."""

from __future__ import annotations

import pytest

from imagetag.imaging import Thumbnails, thumbnails


def test_what_was_not_used_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_MOST", 3)
    kept = Thumbnails()
    for name in "abc":
        kept.keep(name, name.encode())
    assert kept.get("a") == b"a"
    kept.keep("d", b"d")
    assert [kept.get(name) for name in "abcd"] == [b"a", None, b"c", b"d"]
