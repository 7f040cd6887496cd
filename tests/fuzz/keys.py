"""Tags and keys of storage: what is a key stays in its folder, and says what it was made of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from imagetag.checks import Wrong, checked_weights, parse_size
from imagetag.errors import UsageError
from imagetag.layout import (
    Layout,
    StatusKey,
    decode,
    encode,
    parse_feature_part,
    parse_image,
    parse_run,
    parse_status,
    status,
)
from imagetag.storage import is_key
from tests.fuzz.target import Target


def _tag(data: bytes) -> None:
    tag = data.decode(errors="surrogateescape")
    component = encode(tag)
    assert decode(component) == tag
    layout = Layout(tag)
    for key in (
        layout.dataset,
        layout.image("train", "positive", "0" * 32, "png"),
        layout.image("test", "negative", "0" * 32, "png"),
        layout.run("first", "metrics.json"),
        status(StatusKey(tag, "scrape", 0, "done")),
    ):
        _stays_inside(key)


def _key(data: bytes) -> None:
    """A key as a listing may have it, made by whomever."""
    key = data.decode(errors="surrogateescape")
    found = []
    for parse in (parse_image, parse_run, parse_status):
        with contextlib.suppress(ValueError):
            found.append(parse(key))
    for one in found:
        assert encode(one.tag)
        assert encode(one.tag) in key
    assert len(found) <= 1
    parse_feature_part(key)
    layout = Layout("robot")
    layout.part_kind(key)
    for asked in (layout.is_verdict_part, layout.is_audit):
        asked(key)
    if is_key(key):
        _stays_inside(key)
    decode(key)


def _stays_inside(key: str) -> None:
    assert is_key(key)
    path = os.path.normpath(Path("/storage") / key)
    assert path.startswith("/storage/")
    assert path == f"/storage/{key}"


def _value(data: bytes) -> None:
    """What an option says: a size, a file."""
    text = data.decode(errors="surrogateescape")
    with contextlib.suppress(Wrong):
        parse_size(text)
    checked_weights(text)


def _keys() -> Iterable[bytes]:
    yield b"robot"


TARGETS = (
    Target("tag", _tag, (UsageError,), lambda: [b"fate/stay_night", b"..", b"re:zero"]),
    Target("key", _key, (ValueError,), _keys),
    Target("option", _value, (Wrong,), lambda: [b"imagenet", b"none"]),
)
