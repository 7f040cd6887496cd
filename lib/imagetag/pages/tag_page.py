"""The page of a tag: the way to its exploration, its evaluations, the leaderboard and all tags.

A tag's other pages lead to this one, and are written once. What comes later is told here alone, in
a small page that is made anew of what is in storage, and never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from jinja2 import Template

from imagetag import __version__
from imagetag.dataset import run_files
from imagetag.layout import INDEX, Layout, report
from imagetag.pages.templating import page_environment, way
from imagetag.storage import Storage

_THREADS = 8  # pages made at once

_Pages = list[tuple[str, str]]  # the names and the keys of pages


def store_tag_pages(storage: Storage, tags: Sequence[str]) -> None:
    """Store the pages of tags anew; a tag without an exploration or an evaluation gets none.

    What a page leads to is looked up before it is written and once more behind that: whichever of
    several jobs is the last to write one has seen what all of them have made.

    Args:
        storage: has the pages that they lead to.
        tags: whose.

    """
    shared = _shared(storage)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="pages") as pool:
        list(pool.map(lambda tag: _store(storage, Layout(tag), shared), tags))
    if _shared(storage) != shared:
        store_tag_pages(storage, tags)


def _store(storage: Storage, layout: Layout, shared: _Pages) -> None:
    found = _own(storage, layout)
    while found:
        links = [(name, way(layout.index, key)) for name, key in (*found, *shared)]
        html = _template().render(tag=layout.tag, links=links, software=f"imagetag {__version__}")
        storage.write(layout.index, html.encode())
        before, found = found, _own(storage, layout)
        if found == before:
            return


def _shared(storage: Storage) -> _Pages:
    pages = [("Leaderboard", report("leaderboard.html")), ("All tags", INDEX)]
    return [(name, key) for name, key in pages if storage.stat(key)]


def _own(storage: Storage, layout: Layout) -> _Pages:
    """Return the tag's own pages, the evaluations by the names of their runs."""
    explored = layout.explore("report.html")
    pages = [("Exploration of the dataset", explored)] if storage.stat(explored) else []
    runs = sorted(
        key.run for key, _ in run_files(storage, layout.tag) if key.name == "evaluation.json"
    )
    return pages + [(f"Evaluation of {run}", layout.run(run, "report.html")) for run in runs]


@cache
def _template() -> Template:
    return page_environment().get_template("tag.html")
