"""Which pictures files of `predict` call the tag, and which run says so."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from imagetag.csv_cells import unquoted
from imagetag.errors import InputError, UsageError, one_line
from imagetag.predict import About, load_about, row_kind
from imagetag.storage import ObjectNotFound, open_storage

_MAX_LINE = 1 << 20  # bytes
_MAX_NAME = 5000  # characters of a file's name or URL
_SHOWN = 10  # names in an error


Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Called:
    """A picture that is called the tag: its name in the rows, and its page's address, if any."""

    file: str
    page_url: str = ""


@dataclass(frozen=True)
class Predictions:
    """The pictures that a run calls a tag, each once.

    Attributes:
        places: the files that say so.
        called: the pictures, in the order of the files.
        run: the run's name, and
        trained: when it was made; both empty where no file says.
        base: the folder or URL that the names are below; empty where they are paths or URLs.

    """

    places: tuple[str, ...]
    called: tuple[Called, ...]
    run: str = ""
    trained: str = ""
    base: str = ""


def read_predictions(places: Sequence[str], tag: str) -> Predictions:
    """Return which pictures some files call a tag, such as those of all shards.

    Args:
        places: of files of `predict`, paths or storage URLs.
        tag: whose decisions are looked at.

    Raises:
        UsageError: if one is not there, or none of a kind that is read.
        InputError: if it cannot be read or has no decision on the tag, none is called it, or the
            files are not of one run and input.

    """
    found: dict[str, Called] = {}
    runs, bases = set(), set()
    for place in places:
        kind = row_kind(place, option="--predictions")
        with _local(place) as (path, about):
            for called in _called(place, kind, path, tag):
                found.setdefault(called.file, called)
        runs.add(_run_of(about, tag))
        bases.add(_base_of(about))
    if len(runs) > 1 or len(bases) > 1:
        what = "runs" if len(runs) > 1 else "inputs"
        raise InputError(
            f"--predictions {','.join(places)[:300]}: they are of different {what}, and one "
            "precision is proven of one: audit them one by one"
        )
    if not found:
        raise InputError(
            f"--predictions {','.join(places)[:300]}: no picture is called {tag!r} there, so there "
            "is no precision to prove"
        )
    [(run, trained)], [base] = runs, bases
    return Predictions(tuple(places), tuple(found.values()), run, trained, base)


@contextmanager
def _local(place: str) -> Iterator[tuple[Path, About | None]]:
    """Give a file as one that is here, and what tells of it, if anything does."""
    folder, _, name = place.rpartition("/")
    above = "/" if place.startswith("/") else "."
    storage = open_storage(folder or above, existing=True, option="--predictions")
    with TemporaryDirectory(prefix="imagetag-audit-") as scratch:
        path = Path(scratch) / "predictions"
        try:
            storage.download(name, path)
        except ObjectNotFound as error:
            raise UsageError(
                f"--predictions {place}: there is no such file; name one that imagetag predict "
                "--output has written"
            ) from error
        yield path, load_about(storage, name)


def _called(place: str, kind: str, path: Path, tag: str) -> Iterator[Called]:
    readers = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
    tags: set[str] = set()
    number, known = 0, False
    try:
        for number, row in enumerate(readers[kind](path), 1):  # noqa: B007 - it is told below
            if "tag" in row:
                tags.add(str(row["tag"])[:200])
                if row["tag"] != tag:
                    continue
                decision = row["decision"]
            else:
                tags.update(name.partition(":")[2] for name in row if name.startswith("decision:"))
                if f"decision:{tag}" not in row:
                    break
                decision = row[f"decision:{tag}"]
            known = True
            if str(decision).lower() != "true":
                continue
            file, page = row["file"], row.get("page_url") or ""
            if not isinstance(file, str) or not _is_name(file):
                raise ValueError(f"{str(file)[:100]!r} names no picture")
            yield Called(file, page if isinstance(page, str) else "")
    except InputError:
        raise
    except (ValueError, LookupError, RecursionError, csv.Error, OSError) as error:
        what = f"no column {error}" if isinstance(error, KeyError) else one_line(error, 200)
        raise InputError(
            f"--predictions {place}: row {number} cannot be read ({what}); it must be as imagetag "
            "predict has written it"
        ) from error
    if not known:
        others = ", ".join(sorted(tags)[:_SHOWN]) or "none"
        raise InputError(
            f"--predictions {place}: it has no decision on the tag {tag!r}; it has those of "
            f"{others}: say --tag"
        )


def _is_name(text: str) -> bool:
    """Tell whether a text can name a picture: JSON may hold what no UTF-8 and no path can."""
    writable = "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)
    return writable and 0 < len(text) <= _MAX_NAME


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, strict=True)
        header = [unquoted(name) for name in next(lines, [])]
        for line in lines:
            yield dict(zip(header, map(unquoted, line), strict=True))


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        while line := stream.readline(_MAX_LINE):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("it is no object")
            yield row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(10_000, use_threads=False):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


def _run_of(about: About | None, tag: str) -> tuple[str, str]:
    """Return the run that gave a tag's decisions, and when it was made."""
    for model in [] if about is None else about.request.get("models", []):
        if isinstance(model, list) and len(model) >= 3 and model[0] == tag:
            return str(model[1]), str(model[2])
    return "", ""


def _base_of(about: About | None) -> str:
    """Return the folder that was predicted; of several inputs names are paths by themselves."""
    given = {} if about is None else about.request.get("input", {})
    return str(given.get("files", "")) if isinstance(given, dict) else ""
