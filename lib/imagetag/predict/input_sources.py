"""What the texts that a user gives as inputs mean: pictures, folders, storages, lists, URLs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from imagetag.boards import kind_of as list_kind
from imagetag.errors import UsageError
from imagetag.predict.named_pictures import WEB, Named, grouped, spooled
from imagetag.predict.remote import ListedUrls
from imagetag.predict.sources import Several, Source, StoredPictures, named_like_a_picture
from imagetag.storage import open_storage
from imagetag.web import Client


def open_inputs(
    inputs: Sequence[str],
    client: Client | None,
    scratch: Path,
    *,
    keep: Path | None = None,
    concurrency: int = 16,
) -> Source:
    """Return the pictures of some inputs, in their order.

    Args:
        inputs: paths, URLs, lists of URLs, or `-` for names on standard input.
        client: to fetch with; None where nothing of them `may_be_fetched`.
        scratch: gets the names that standard input has.
        keep: gets files that are fetched, where they are needed once more.
        concurrency: files of storage that are read at once.

    Raises:
        UsageError, InputError: if one is not there, or cannot be read.

    """
    sources: list[tuple[str, Source]] = []
    for is_one, names in grouped([(text, _is_one(text)) for text in inputs]):
        text = names[0]
        if is_one:
            sources.append(("", Named(names, client, keep)))
        elif text == "-":
            listed = spooled(sys.stdin.buffer, scratch / "names")
            sources.append(("", Named(listed, client, keep)))
        elif client and _is_list(text):
            sources.append(("", ListedUrls(text, client, keep)))
        else:
            storage = open_storage(text, concurrency, existing=True, option="--input")
            sources.append((text.rstrip("/") + "/", StoredPictures(storage)))
    return sources[0][1] if len(sources) == 1 else Several(sources)


def may_be_fetched(text: str) -> bool:
    """Tell whether pictures of an input may be on others' servers."""
    return text == "-" or is_fetched(text)


def is_fetched(text: str) -> bool:
    """Tell whether an input is a URL of a server, or a list of them."""
    return text.lower().startswith(WEB) or _is_list(text)


def _is_list(text: str) -> bool:
    if list_kind(text) is None or text.lower().startswith(WEB):
        return False
    return not os.path.isdir(text)  # noqa: PTH112 - of a name too long it says no


def _is_one(text: str) -> bool:
    """Tell whether an input names one picture.

    Raises:
        UsageError: if it should be one by its name, and is not there.

    """
    if text == "-" or _is_list(text):
        return False
    if "://" in text:
        is_web = text.lower().startswith(WEB)
        return is_web or (text.startswith("s3://") and named_like_a_picture(text))
    exists = os.path.exists(text)  # noqa: PTH110 - of a name too long it says no
    if not exists and named_like_a_picture(text):
        raise UsageError(f"--input {text}: there is no such file")
    return exists and not os.path.isdir(text)  # noqa: PTH112
