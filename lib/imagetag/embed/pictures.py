"""Which pictures there are of many tags, each once, and which of them are one pod's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from imagetag.dataset import load_dataset, read_rows
from imagetag.errors import InputError
from imagetag.layout import Layout
from imagetag.log import Progress
from imagetag.storage import Storage

_SHARING = 8  # digits of an md5 that say whose a picture is


class Pictures(dict[str, str]):
    """Keys of pictures by their md5; `places` counts each of them once for each tag that has it."""

    places = 0


def find_pictures(
    storage: Storage,
    tags: Iterable[str],
    *,
    index: int = 0,
    count: int = 1,
    failed: Callable[[str, InputError], None] | None = None,
) -> Pictures:
    """Return the key of each distinct picture of some tags by its md5, of a pod's share.

    A picture is of the same pod whatever tags there are, and one of several tags is there once.

    Args:
        storage: has the datasets.
        tags: whose.
        index: which share, from 0.
        count: how many there are.
        failed: gets each tag whose dataset is incomplete or cannot be read; without it that is
            raised.

    Raises:
        InputError: see `failed`.

    """
    found = Pictures()
    names = list(tags)
    with Progress("manifests", total=len(names), unit="tags") as progress:
        for tag in names:
            layout = Layout(tag)
            try:
                for row in read_rows(storage, load_dataset(storage, tag)):
                    if int(row.md5[:_SHARING], 16) % count != index:
                        continue
                    found.places += 1
                    if row.md5 not in found:
                        found[row.md5] = layout.image(row.split, row.label, row.md5, row.ext)
            except InputError as error:
                if failed is None:
                    raise
                failed(tag, error)
            progress.advance(images=len(found))
    return found
