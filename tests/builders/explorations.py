"""Explorations of made-up rows, for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imagetag.dataset.families import Twins, find_families
from imagetag.dataset.manifest import Curated, Dataset, Row
from imagetag.explore.exploration import Exploration, Options, explored
from imagetag.explore.page import exploration_figures, exploration_page
from imagetag.explore.survey import Survey


def explored_page(
    rows: Sequence[Row],
    dataset: Dataset,
    *,
    verdicts: Sequence[Curated] = (),
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
