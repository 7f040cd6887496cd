"""Explorations of made-up rows, for tests of what is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from imagetag.dataset.families import Twins, find_families
from imagetag.dataset.manifest import Dataset, Row, Verdict
from imagetag.explore.exploration import Exploration, Options, explored
from imagetag.explore.page import exploration_figures, exploration_page
from imagetag.explore.survey import Survey


def explored_page(
    rows: Sequence[Row],
    dataset: Dataset,
    *,
    verdicts: Sequence[Verdict] = (),
    thumbnails: Mapping[str, bytes] | None = None,
    samples: int = 24,
) -> tuple[Exploration, str]:
    """Return what is found in some rows, and the page of it."""
    survey = Survey(rows, samples)
    families = find_families(rows, survey.grouping, Twins(verdicts))
    options = Options(max_pixels=65536, percentile=50, samples=samples)
    exploration = explored(dataset, options, survey, families)
    figures = exploration_figures(exploration, survey)
    return exploration, exploration_page(exploration, figures, thumbnails or {})


def make_row(number: int, **changes: Any) -> Row:
    """Return a row of the manifest: odd ones are positive, every fifth is in test."""
    values: dict[str, Any] = {
        "post_id": number,
        "board": "safebooru",
        "page_url": f"https://board.example/post/{number}",
        "md5": hashlib.md5(str(number).encode()).hexdigest(),
        "ext": "jpg",
        "bytes": 100_000 + number,
        "width": 800,
        "height": 1200,
        "tags": (),
        "rating": "general",
        "split": "test" if number % 5 == 0 else "train",
        "label": "positive" if number % 2 else "negative",
        "group": str(number),
    }
    return Row(**{**values, **changes})
