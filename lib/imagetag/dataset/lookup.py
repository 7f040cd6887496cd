"""What storage has of tags and runs, asked before anything slow, and told where it lacks one."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from itertools import islice

from imagetag.errors import InputError, UsageError
from imagetag.layout import Layout, RunKey, checked_run, decode, parse_run
from imagetag.storage import Storage
from imagetag.suggest import nearest_first

_MANY = 10_000  # more folders than these are not looked through
_MAX_NAME = 200  # bytes of a name


def tags_in(storage: Storage) -> Iterator[str]:
    """Yield the tags that have anything in storage, in the order of their folders."""
    for name in storage.folders():
        with contextlib.suppress(ValueError):  # ours that begins with a dot, or somebody else's
            yield decode(name)


def run_files(storage: Storage, tag: str) -> Iterator[tuple[RunKey, int]]:
    """Yield each file of a tag's runs, complete or not, with its size in bytes."""
    for info in storage.list(Layout(tag).models):
        with contextlib.suppress(ValueError):  # LATEST, or somebody else's
            yield parse_run(info.key), info.size


def check_dataset(storage: Storage, tag: str) -> None:
    """See to it that a tag has a complete dataset.

    Raises:
        InputError: if it has none; it names the tags that there are.

    """
    if storage.stat(Layout(tag).dataset) is None:
        raise _with_others(no_dataset(storage, tag), storage, tag)


def check_run(storage: Storage, tag: str, run: str) -> None:
    """See to it that a tag has a complete run of a name, or any for `latest`.

    Raises:
        InputError: if it has none; it names the runs that there are, or the tags.

    """
    layout, named = Layout(tag), run != "latest"
    marker = layout.run(checked_run(run), "metrics.json") if named else layout.latest
    if storage.stat(marker) is not None:
        return
    error = no_run(storage, tag, run)
    runs = [
        name
        for name in islice(storage.folders(layout.models), _MANY)
        if storage.stat(f"{layout.models}{name}/metrics.json") is not None
    ]
    if named and runs:
        raise _with(error, run, runs)
    raise _with_others(error, storage, tag)


def check_pack(storage: Storage, tag: str, name: str) -> None:
    """See to it that a tag has a complete pack of a name, or any for `latest`.

    Raises:
        InputError: if it has none; it names the packs that there are, or the tags.

    """
    layout, named = Layout(tag), name != "latest"
    marker = layout.packed(name, "index.json") if named else layout.latest_packed
    if storage.stat(marker) is not None:
        return
    error = no_pack(storage, tag, name)
    packs = list(islice(storage.folders(layout.root + "packed/"), _MANY))
    if named and packs:
        raise _with(error, name, packs)
    raise _with_others(error, storage, tag)


def latest_name(storage: Storage, key: str, what: str, advice: str) -> str:
    """Return what a `LATEST` names.

    Args:
        storage: has it.
        key: its key.
        what: it should name: a run or a pack.
        advice: what to do where it names none.

    Raises:
        ObjectNotFound: if it is not there.
        InputError: if it cannot be a name.

    """
    with storage.open(key) as stream:
        data = stream.read(_MAX_NAME)
    try:
        return checked_run(data.decode().strip())
    except (UnicodeDecodeError, UsageError) as error:
        raise InputError(
            f"{storage.url}/{key} names no {what}: it is {data[:100]!r}; {advice}"
        ) from error


def repair_latest(
    storage: Storage, key: str, name: str, created: str, newest: Callable[[], str]
) -> None:
    """Let a `LATEST` name what is complete if it names none or an older one: a kill came before.

    Args:
        storage: has it.
        key: its key.
        name: of what is complete, and
        created: when that was made.
        newest: returns when what it names was made, and raises InputError where that is nothing.

    """
    try:
        if newest() >= created:
            return
    except InputError:
        pass
    storage.write(key, name.encode() + b"\n")


def no_dataset(storage: Storage, tag: str) -> InputError:
    """Return the error of a tag without a complete dataset; it asks storage nothing."""
    return InputError(
        f"no complete dataset of the tag {tag!r} in {storage.url}: "
        f"run imagetag scrape --tags {shlex.quote(tag)} first"
    )


def no_run(storage: Storage, tag: str, run: str) -> InputError:
    """Return the error of a tag without a complete run of a name, or without any."""
    what = "trained model" if run == "latest" else f"complete run {run!r}"
    return InputError(
        f"no {what} of the tag {tag!r} in {storage.url}: "
        f"run imagetag train --tags {shlex.quote(tag)} first"
    )


def no_pack(storage: Storage, tag: str, name: str) -> InputError:
    """Return the error of a tag without a complete pack of a name, or without any."""
    what = "packed images" if name == "latest" else f"complete pack {name!r}"
    return InputError(
        f"no {what} of the tag {tag!r} in {storage.url}: "
        f"run imagetag pack --tags {shlex.quote(tag)} first"
    )


def _with_others(error: InputError, storage: Storage, tag: str) -> InputError:
    """Return the error with the tags that there are, where it is of none of them."""
    tags = list(islice(tags_in(storage), _MANY))
    return error if not tags or tag in tags else _with(error, tag, tags)


def _with(error: InputError, word: str, known: list[str]) -> InputError:
    """Return the error with what there is before what to do."""
    what, _, command = str(error).rpartition(": run ")
    return InputError(f"{what}: there are {nearest_first(word, known)}; or run {command}")
