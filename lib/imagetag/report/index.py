"""The index page: all tags of a storage at a glance, with the way to each of their pages."""

from __future__ import annotations

import csv
import heapq
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imagetag import __version__
from imagetag.csv_cells import unquoted
from imagetag.dataset import Dataset, latest_name, load_dataset
from imagetag.errors import InputError, UsageError
from imagetag.explore import read_cautions
from imagetag.imaging import BadImage, load_rgb
from imagetag.layout import INDEX, Layout, report
from imagetag.pages import data_uri, environment, jpeg, shrunk, store_tag_pages
from imagetag.report.results import Evaluation, Training, load_result
from imagetag.sentences import sentence
from imagetag.storage import LocalStorage, ObjectNotFound, Storage

_SHOWN = 6  # pictures of a tag's predictions
_THUMBNAIL_BYTES = 2_000_000  # of all thumbnails of the page


@dataclass(frozen=True)
class Scored:
    """A picture that was predicted; `image` is a thumbnail as a URL that holds it, or empty."""

    file: str
    probability: float
    positive: bool
    image: str = ""


@dataclass(frozen=True)
class Predictions:
    """What was predicted with a tag's classifier: where the rows are, and what they say.

    `best` are the pictures of the greatest probabilities; `advice` is what they were estimated to
    tell, in a sentence, empty where nothing is.
    """

    path: Path
    rows: int
    positives: int
    errors: int
    best: tuple[Scored, ...]
    advice: str = ""


@dataclass(frozen=True)
class TagEntry:
    """What there is of a tag. `note` says why there is no evaluation."""

    tag: str
    dataset: Dataset | None = None
    explored: bool = False
    training: Training | None = None
    evaluation: Evaluation | None = None
    note: str = ""
    cautions: Sequence[str] = ()
    predictions: Predictions | None = None
    failed: str = ""

    @property
    def images(self) -> int | None:
        """How many images its dataset has."""
        return self.dataset.total if self.dataset else None

    @property
    def promise(self) -> str:
        """What precision is promised, in short; empty where nothing is evaluated."""
        if self.evaluation is None:
            return ""
        promise = self.evaluation.decision.promise
        if promise is None:
            return "threshold given"
        return f"{promise.min_precision:g} " + ("promised" if promise.met else "not promised")

    @property
    def promised(self) -> bool:
        """Whether a precision is promised."""
        promise = self.evaluation and self.evaluation.decision.promise
        return bool(promise and promise.met)

    def page(self, name: str = "report.html") -> str:
        """Return the key of a file of its newest run.

        Raises:
            ValueError: if it is not trained.

        """
        if self.training is None:
            raise ValueError(f"{self.tag!r} is not trained")
        return Layout(self.tag).run(self.training.run, name)


def read_entry(
    storage: Storage, tag: str, *, predictions: Predictions | None = None, failed: str = ""
) -> TagEntry:
    """Return what there is of a tag in storage, from its markers and summaries.

    Args:
        storage: has it.
        tag: which.
        predictions: what was predicted with its classifier, if anything was.
        failed: why it has not come further, where it has failed.

    """
    layout = Layout(tag)
    try:
        dataset = load_dataset(storage, tag)
    except InputError:
        return TagEntry(tag, failed=failed, note="no dataset")
    training, evaluation, held_out, note = None, None, None, "not trained"
    try:
        run = latest_name(storage, layout.latest, "run", "train again")
        result = load_result(storage, tag, run)
        training, evaluation, note = result.training, result.evaluation, result.reason
        held_out = result.held_out
    except ObjectNotFound:
        pass
    except (InputError, UsageError, ValueError) as error:
        note = str(error)
    return TagEntry(
        tag,
        dataset,
        storage.stat(layout.explore("report.html")) is not None,
        training,
        evaluation,
        note,
        read_cautions(storage, dataset, held_out),
        predictions,
        failed,
    )


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Return what the rows of a CSV file of predictions say of each tag.

    Of no file, or somebody's of that name, it is nothing.
    """
    try:
        return _read_predictions(path)
    except (OSError, LookupError, TypeError, ValueError, csv.Error):
        return {}


@dataclass
class _Counts:
    """The rows of one tag so far; `best` is a heap."""

    rows: int = 0
    positives: int = 0
    errors: int = 0
    best: list[tuple[float, int, Scored]] = field(default_factory=list)


def _read_predictions(path: Path) -> dict[str, Predictions]:
    found: dict[str, _Counts] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            counts = found.setdefault(unquoted(row["tag"]), _Counts())
            counts.rows += 1
            if not row["probability"]:
                counts.errors += 1
                continue
            positive = row["decision"] == "true"
            counts.positives += positive
            scored = Scored(unquoted(row["file"]), float(row["probability"]), positive)
            heapq.heappush(counts.best, (scored.probability, -counts.rows, scored))
            if len(counts.best) > _SHOWN:
                heapq.heappop(counts.best)
    advice = _read_advice(path.with_name(path.name + ".about.json"))
    return {
        tag: Predictions(
            path,
            counts.rows,
            counts.positives,
            counts.errors,
            tuple(scored for _, _, scored in sorted(counts.best, reverse=True)),
            sentence({"event": "estimated", **advice[tag]}) if tag in advice else "",
        )
        for tag, counts in found.items()
    }


def _read_advice(path: Path) -> dict[str, dict[str, Any]]:
    """Return what predict has estimated of tags; nothing where no file says so."""
    try:
        found = json.loads(path.read_bytes())["advice"]
        return {tag: dict(shift) for tag, shift in found.items()}
    except (OSError, LookupError, RecursionError, TypeError, ValueError, AttributeError):
        return {}


def tags_of_leaderboard(storage: Storage) -> list[str]:
    """Return the tags that the newest leaderboard has, of which some run is evaluated."""
    try:
        found = json.loads(storage.read(report("leaderboard.json")))
        return [str(item["tag"]) for item in found["tags"]]
    except (ObjectNotFound, LookupError, RecursionError, TypeError, ValueError):
        return []


def make_index(
    storage: Storage,
    entries: Sequence[TagEntry],
    *,
    pictures: Path | None = None,
    serve: str = "",
) -> str:
    """Store the page of all tags, to which theirs lead, and return where it is.

    Args:
        storage: gets it, and has the pages that it leads to.
        entries: of the tags, in their order.
        pictures: the folder of what was predicted, if it is one on this machine.
        serve: the command that serves the board, where the posts are on one of this machine.

    """
    left = _THUMBNAIL_BYTES
    thumbnails: dict[tuple[str, str], str] = {}
    for entry in entries if pictures else ():
        for scored in entry.predictions.best if entry.predictions else ():
            image = _thumbnail(pictures, scored.file)  # type: ignore[arg-type]
            if image and len(image) <= left:
                left -= len(image)
                thumbnails[entry.tag, scored.file] = image
    html = (
        environment()
        .get_template("index.html")
        .render(
            entries=entries,
            layout=Layout,
            href=quote,
            file_href=partial(_file_link, storage),
            thumbnails=thumbnails,
            leaderboard=report("leaderboard.html")
            if storage.stat(report("leaderboard.html")) is not None
            else None,
            serve=serve,
            created=f"{datetime.now(UTC):%Y-%m-%d %H:%M %Z}",
            software=f"imagetag {__version__}",
        )
    )
    storage.write(INDEX, html.encode())
    store_tag_pages(storage, [entry.tag for entry in entries])
    return f"{storage.url}/{INDEX}"


def _file_link(storage: Storage, path: Path) -> str | None:
    """Return a link from the page to a file of this machine, None where that cannot work."""
    if not isinstance(storage, LocalStorage):
        return None
    return quote(os.path.relpath(os.path.realpath(path), os.path.realpath(storage.url)))


def _thumbnail(folder: Path, file: str) -> str:
    path = folder / file
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return ""
        return data_uri(jpeg(shrunk(load_rgb(path))), "image/jpeg")
    except (BadImage, OSError, ValueError):
        return ""
