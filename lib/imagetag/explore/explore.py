"""Explore a dataset: store plots, a page of what is in it, and the input size to train at."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from imagetag.arguments import check_numbers
from imagetag.dataset import Twins, find_families, load_dataset, read_rows, read_thumbnails
from imagetag.errors import InputError
from imagetag.explore.exploration import (
    DatasetFacts,
    Exploration,
    Options,
    explored,
    load_exploration,
)
from imagetag.explore.survey import Survey
from imagetag.job import measured
from imagetag.layout import Layout
from imagetag.log import get_logger, working
from imagetag.pages import store_tag_pages
from imagetag.storage import Place, Storage, opened


@check_numbers
def explore_tag(
    storage: Place,
    tag: str,
    *,
    max_pixels: Annotated[int, Ge(1024)] = 65536,
    percentile: Annotated[float, Gt(0), Lt(100)] = 50,
    samples: Annotated[int, Ge(0), Le(60)] = 24,
) -> Exploration:
    """Explore a tag's dataset, and store plots, a page and `explore.json`, which comes last.

    All numbers are from the manifest; only the few images that the page shows are read. What is
    already explored with the same options, and has not changed since, is left as it is. What gives
    the label away without a look at the pictures is logged as a warning when it is found.

    Args:
        storage: has the dataset; open, or a folder or URL.
        tag: which.
        max_pixels: of the input size to recommend, width x height.
        percentile: of widths and heights, that the input size follows.
        samples: pictures of each label and split that the page shows.

    Raises:
        ValueError: if a number is out of its option's bounds.
        InputError: if there is no complete dataset, or its train split is empty.

    """
    storage, layout = opened(storage), Layout(tag)
    page_url = f"{storage.url}/{layout.explore('report.html')}"
    dataset = load_dataset(storage, tag)
    options = Options(max_pixels=max_pixels, percentile=percentile, samples=samples)
    known = _stored(storage, layout)
    same = (dataset.fingerprint, options, DatasetFacts.of(dataset))
    if known and (known.fingerprint, known.options, known.dataset) == same:
        get_logger().info("already explored", **_size_fields(known), report=page_url)
        return known

    # Seaborn: not where there is nothing to do.
    from imagetag.explore.page import THUMBNAIL_BYTES, exploration_figures, exploration_page

    with working("exploring"):
        survey = Survey(read_rows(storage, dataset), samples)
        families = find_families(
            read_rows(storage, dataset), survey.grouping, Twins.of(storage, dataset)
        )
        exploration = explored(dataset, options, survey, families)
    with working("reading pictures for the page"):
        thumbnails, unreadable = read_thumbnails(
            storage, tag, exploration.pictures, THUMBNAIL_BYTES
        )
    exploration = exploration.model_copy(update={"unreadable": unreadable})
    with working("drawing the page"):
        figures = exploration_figures(exploration, survey)
        for name, figure in figures.items():
            storage.write(layout.explore(f"{name}.svg"), figure.drawn.wide)
        page = exploration_page(exploration, figures, thumbnails)
    storage.write(layout.explore("report.html"), page.encode())
    store_tag_pages(storage, [tag])
    storage.write(layout.explore("explore.json"), exploration.model_dump_json(indent=2).encode())
    get_logger().info(
        "explored",
        images=survey.count,
        **_size_fields(exploration),
        report=page_url,
    )
    _warn(exploration)
    measured(images=survey.count)
    return exploration


def _stored(storage: Storage, layout: Layout) -> Exploration | None:
    try:
        return load_exploration(storage, layout.tag)
    except InputError:
        return None  # never made, or by another version: made now


def _warn(exploration: Exploration) -> None:
    shortcuts = exploration.shortcuts
    if shortcuts.note:
        get_logger().info("shortcuts were not sought", why=shortcuts.note)
    for check in shortcuts.found:
        get_logger().warning(
            "shortcut: the label can be told without a look at the pictures",
            by=check.name,
            roc_auc=round(check.auc, 3),
            at_least=round(check.low, 3),
            how=check.how,
            advice=check.advice,
        )


def _size_fields(exploration: Exploration) -> dict[str, int]:
    size = exploration.input_size
    return {"height": size.height, "width": size.width}
