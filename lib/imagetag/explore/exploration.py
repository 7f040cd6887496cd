"""What is found in a dataset: all that the page of `explore` tells, and the input size."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from imagetag import __version__
from imagetag.checks import Wrong, parse_size
from imagetag.dataset import Dataset, Families, Mark, Picture, bounded
from imagetag.errors import InputError, UsageError
from imagetag.explore.companions import Companions
from imagetag.explore.shortcuts import Shortcuts, check_shortcuts
from imagetag.explore.sizes import Candidate, InputSize, compare_sizes, recommend_size
from imagetag.explore.survey import Survey
from imagetag.imaging import Size
from imagetag.layout import LABELS, SPLITS, Label, Layout, Split
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage, load_record

# Of what the dataset's marker says; it is from outside, and a page has no room for all of it.
_LONGEST = 200  # characters of a text
_MOST = 30  # reasons, and settings

FloatArray = NDArray[np.float64]


class Options(Record):
    """What was asked for: the bounds of the recommendation, and pictures of a split and label."""

    max_pixels: int
    percentile: float = Field(gt=0, lt=100)
    samples: int = Field(ge=0, le=60)


class Spread(Record):
    """A distribution by its percentiles."""

    min: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float


class Sheet(Record):
    """Some pictures of one label in one split, drawn evenly by their md5."""

    split: Split
    label: Label
    images: int
    shown: tuple[Picture, ...]


class Curated(Record):
    """What `imagetag curate` found, in numbers: see `manifest.Curation`."""

    dropped: int
    groups: int
    conflicting: int
    unreadable: int
    threshold: int
    digest: str


class DatasetFacts(Record):
    """What the dataset's marker says, in brief; `curation` is None if it was not curated."""

    board: str
    bytes: int
    request: dict[str, Any]
    failures: dict[str, int]
    skipped: dict[str, int]
    created: str
    software: str
    fingerprint: str
    curation: Curated | None
    negatives_marked_by: tuple[Mark, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetFacts:
        """Return what a page has room for; it is the same as long as the dataset is."""
        curation = dataset.curation
        return cls(
            board=dataset.board[:_LONGEST],
            bytes=bounded(dataset.bytes),
            request={name: _brief(value) for name, value in _first(dataset.request).items()},
            failures=_counts(dataset.failures),
            skipped=_counts(dataset.skipped),
            created=dataset.created[:_LONGEST],
            software=dataset.software[:_LONGEST],
            fingerprint=dataset.fingerprint[:_LONGEST],
            curation=curation
            and Curated(
                dropped=bounded(curation.dropped),
                groups=bounded(curation.groups),
                conflicting=bounded(curation.conflicting),
                unreadable=bounded(curation.unreadable),
                threshold=bounded(curation.threshold),
                digest=hashlib.sha256("\n".join(sorted(curation.parts)).encode()).hexdigest(),
            ),
            negatives_marked_by=dataset.negatives_marked_by,
        )


class Exploration(Record):
    """What was found in a dataset, stored as `explore.json`: every number of the page.

    `images`, `families` and `sheets` are of both splits, as no choice follows from them. All else
    is of the train split alone, as the test split must not influence any choice: `width` and
    `height` are in pixels, `aspect_ratio` is width / height, `bytes` is of files; `formats` and
    `ratings` count by label. `unreadable` counts the pictures that could not be shown, by reason.
    """

    version: Literal[2] = 2
    tag: str
    fingerprint: str
    options: Options
    images: dict[Split, dict[Label, int]]
    input_size: InputSize
    sizes: tuple[Candidate, ...]
    width: Spread
    height: Spread
    aspect_ratio: Spread
    bytes: Spread
    formats: dict[str, dict[Label, int]]
    ratings: dict[str, dict[Label, int]]
    shortcuts: Shortcuts
    companions: Companions
    families: Families
    sheets: tuple[Sheet, ...]
    unreadable: dict[str, int]
    dataset: DatasetFacts
    software: str
    created: str

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Yield what a notebook shows: all of it is some hundred lines, which `model_dump` has."""
        yield "tag", self.tag
        yield "images", self.images
        yield "input_size", (self.input_size.height, self.input_size.width)
        yield "shortcuts", [check.name for check in self.shortcuts.found]

    @property
    def pictures(self) -> list[Picture]:
        """The pictures that the page shows or links to."""
        return [
            *(picture for sheet in self.sheets for picture in sheet.shown),
            *(picture for group in self.families.largest for picture in group.shown),
            *(
                picture
                for conflict in self.families.conflicts
                for picture in (*conflict.positive, *conflict.negative)
            ),
        ]


class _Recommendation(Record):
    """What `train` reads of an exploration; version 1 had it too."""

    version: Literal[1, 2]
    input_size: InputSize


class _Checked(Record):
    """What other pages tell of an exploration."""

    version: Literal[2]
    shortcuts: Shortcuts


def explored(dataset: Dataset, options: Options, survey: Survey, families: Families) -> Exploration:
    """Return what there is to say of a dataset, the recommended input size among it.

    Raises:
        InputError: if the train split is empty.

    """
    size = recommend_size(
        survey.width,
        survey.height,
        max_pixels=options.max_pixels,
        percentile=options.percentile,
    )
    return Exploration(
        tag=dataset.tag,
        fingerprint=dataset.fingerprint,
        options=options,
        images=survey.images,
        input_size=size,
        sizes=compare_sizes(survey.width, survey.height, size),
        width=_spread(survey.width),
        height=_spread(survey.height),
        aspect_ratio=_spread(survey.width / survey.height),
        bytes=_spread(survey.bytes),
        formats=survey.formats,
        ratings=survey.ratings,
        shortcuts=check_shortcuts(survey.facts),
        companions=survey.tags.companions(dataset.tag),
        families=families,
        sheets=tuple(
            Sheet(
                split=split,
                label=label,
                images=survey.images[split][label],
                shown=survey.shown[split, label].items(),
            )
            for split in SPLITS
            for label in LABELS
        ),
        unreadable={},
        dataset=DatasetFacts.of(dataset),
        software=f"imagetag {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def load_exploration(storage: Storage, tag: str) -> Exploration:
    """Return what `explore` stored.

    Raises:
        InputError: if the tag has not been explored, or the result cannot be read, as one of an
            older version cannot.

    """
    return _load(storage, tag, Exploration)


def load_shortcuts(storage: Storage, tag: str) -> Shortcuts:
    """Return the shortcuts that `explore` found.

    Raises:
        InputError: as `load_exploration`.

    """
    return _load(storage, tag, _Checked).shortcuts


def input_size(storage: Storage, tag: str, text: str, least: int = 1) -> Size:
    """Return the (height, width) in pixels that `--image-size` asks for.

    Args:
        storage: has what explore found, in whichever version.
        tag: whose.
        text: HEIGHTxWIDTH, or auto for what explore recommended.
        least: pixels a side that the model takes.

    Raises:
        InputError: if it is auto and the tag has not been explored, or what was recommended is
            too small: for another tag it may not be.
        UsageError: if it is neither.

    """
    try:
        size = parse_size(text)
    except Wrong as error:
        raise UsageError(f"--image-size: {error}") from error
    if size is not None:
        return size
    recommended = _load(storage, tag, _Recommendation).input_size
    height, width = recommended.height, recommended.width
    if min(height, width) < least:
        raise InputError(
            f"--image-size auto: explore recommended {height}x{width} for {tag!r}, and the model "
            f"needs {least} pixels a side: give another"
        )
    return height, width


Stored = TypeVar("Stored", bound=Record)


def _load(storage: Storage, tag: str, record: type[Stored]) -> Stored:
    key = Layout(tag).explore("explore.json")
    command = f"run imagetag explore --tags {shlex.quote(tag)}"
    try:
        return load_record(storage, key, record, f"delete it and {command} again")
    except ObjectNotFound as error:
        raise InputError(
            f"the tag {tag!r} in {storage.url} is not explored: {command} first"
        ) from error


def _spread(values: FloatArray) -> Spread:
    numbers = np.percentile(values, (0, 5, 25, 50, 75, 95, 100))
    return Spread(**dict(zip(Spread.model_fields, map(float, numbers), strict=True)))


def _first(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first of some named values, with names that are not too long."""
    return {name[:_LONGEST]: value for name, value in list(values.items())[:_MOST]}


def _counts(values: Mapping[str, int]) -> dict[str, int]:
    return {name: bounded(count) for name, count in _first(values).items()}


def _brief(value: Any) -> Any:
    """Return a setting, or the beginning of its text where that is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= _LONGEST:
        return value
    return (value if isinstance(value, str) else text)[:_LONGEST] + "..."
