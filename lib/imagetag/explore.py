"""Explore a dataset by its manifest, and store plots, a page and the input size to train at."""

from __future__ import annotations

from imagetag.errors import InputError
from imagetag.exploration import Exploration, Measures, Options, explored, load_exploration
from imagetag.explore_page import exploration_figures, exploration_page
from imagetag.layout import Layout
from imagetag.log import get_logger
from imagetag.manifest import load_dataset, read_rows
from imagetag.storage import Storage


def explore_tag(storage: Storage, tag: str, *, max_pixels: int, percentile: float) -> Exploration:
    """Explore a tag's dataset from its manifest, and store plots, a page and `explore.json`.

    What is already explored with the same options, and has not changed since, is left as it is.

    Raises:
        InputError: if there is no complete dataset, or its train split is empty.

    """
    layout = Layout(tag)
    dataset = load_dataset(storage, tag)
    options = Options(max_pixels=max_pixels, percentile=percentile)
    known = _stored(storage, layout)
    if known and (known.fingerprint, known.options) == (dataset.fingerprint, options):
        get_logger().info("already explored", **_size_fields(known))
        return known

    measures = Measures(read_rows(storage, dataset))
    exploration = explored(tag, dataset.fingerprint, options, measures)
    figures = exploration_figures(exploration, measures)
    for name, figure in figures.items():
        storage.write(layout.explore(f"{name}.png"), figure.chart.light)
    page = exploration_page(exploration, dataset, figures)
    storage.write(layout.explore("report.html"), page.encode())
    storage.write(layout.explore("explore.json"), exploration.model_dump_json(indent=2).encode())
    get_logger().info("explored", images=measures.count, **_size_fields(exploration))
    return exploration


def _stored(storage: Storage, layout: Layout) -> Exploration | None:
    try:
        return load_exploration(storage, layout.tag)
    except InputError:
        return None  # never made, or by another version: made now


def _size_fields(exploration: Exploration) -> dict[str, int]:
    size = exploration.input_size
    return {"height": size.height, "width": size.width}
