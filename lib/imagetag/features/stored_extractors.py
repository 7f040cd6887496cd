"""Extractors in storage: each network once, under a name that stands for all that decides it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from imagetag import __version__, layout
from imagetag.dataset import latest_name
from imagetag.errors import InputError, UsageError
from imagetag.features.extractor import ExtractorRecord
from imagetag.storage import ObjectNotFound, Storage, load_record
from imagetag.suggest import nearest_first

_MARKER = "extractor.json"
_MANY = 10_000  # more extractors than these are not looked through


def find_extractor(
    storage: Storage, name: str = "latest", option: str = "--features"
) -> ExtractorRecord:
    """Return the record of an extractor by its name, or of the one that embed used last.

    Raises:
        InputError: if there is none, or it cannot be read; it names those that there are.

    """
    try:
        if name == "latest":
            advice = f"run imagetag embed again, or name an extractor with {option}"
            found = latest_name(storage, layout.LATEST_FEATURES, "extractor", advice)
        else:
            found = layout.checked_run(name, option=option)
        key = layout.features(found, _MARKER)
        record = load_record(storage, key, ExtractorRecord, "run imagetag embed again")
    except ObjectNotFound as error:
        raise _no_extractor(storage, name, option) from error
    if record.name != found:
        raise InputError(
            f"{storage.url}/{key} is of the extractor {record.name!r}: it changed under its name; "
            "run imagetag embed with that one, and name it"
        )
    return record


def find_asked(storage: Storage, asked: str) -> ExtractorRecord | None:
    """Return the record of an extractor by what it was asked for by, None if there is none."""
    for name in islice(storage.folders(layout.FEATURES), _MANY):
        try:
            record = find_extractor(storage, name)
        except (InputError, UsageError):  # which is told when it is asked for by its name
            continue
        if record.asked == asked:
            return record
    return None


def store_extractor(storage: Storage, record: ExtractorRecord, path: Path) -> ExtractorRecord:
    """Store an extractor unless it is there already, and return its record as it is stored.

    Args:
        storage: gets it.
        record: of it.
        path: its network, a file or a folder.

    Raises:
        InputError: if another extractor has its name there.

    """
    try:
        return find_extractor(storage, record.name)
    except InputError as error:
        if error.__cause__ is None:  # it is neither missing nor unreadable
            raise
    root = layout.features(record.name, record.file)
    for file in _files(path):
        # Of a single file nothing is left below its own path.
        below = file.relative_to(path).as_posix()
        storage.upload(file, root if below == "." else f"{root}/{below}")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    record = record.model_copy(update={"created": created, "software": __version__})
    data = record.model_dump_json(indent=2).encode() + b"\n"
    storage.write(layout.features(record.name, _MARKER), data)
    return record


def mark_latest(storage: Storage, record: ExtractorRecord) -> None:
    """Let an extractor be the one that `latest` means."""
    storage.write(layout.LATEST_FEATURES, record.name.encode() + b"\n")


def fetch_network(storage: Storage, record: ExtractorRecord, folder: Path) -> Path:
    """Fetch an extractor's network into a folder, and return its path: of a file or a folder.

    What is there already is not fetched again.

    Whether it is what the record says is for whoever loads it.

    Raises:
        InputError: if it is missing.

    """
    root = layout.features(record.name)
    file = root + record.file
    # A file is asked for by its name: a listing may not have yet what a killed run has just stored.
    found = [file] if storage.stat(file) else [entry.key for entry in storage.list(f"{file}/")]
    if not found:
        raise InputError(
            f"{storage.url}/{root}{record.file} is missing: delete {root}{_MARKER} and run "
            "imagetag embed again; features that are stored are kept"
        )
    for key in found:
        path = folder / key.removeprefix(root)
        if not path.exists():
            storage.download(key, path)
    return folder / record.file


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _no_extractor(storage: Storage, name: str, option: str) -> InputError:
    there = [
        found
        for found in islice(storage.folders(layout.FEATURES), _MANY)
        if storage.stat(layout.features(found, _MARKER)) is not None
    ]
    what = "features" if name == "latest" else f"features of the extractor {name!r}"
    told = f": {option} can be {nearest_first(name, there)}; or" if there else ":"
    embeds = option == "--extractor"
    advice = f"name a network with {option}" if embeds else "run imagetag embed first"
    return InputError(f"no {what} in {storage.url}{told} {advice}")
