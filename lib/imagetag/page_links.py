"""The links between a tag's pages: exploration, evaluations, and the leaderboard of all tags.

A page is written when others do not exist yet. Where they come later, the place for links in the
stored page is written anew, and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from imagetag.layout import INDEX, Layout, parse_run, report
from imagetag.storage import ObjectNotFound, Storage
from imagetag.templating import way

_BEGIN, _END = "<!--pages-->", "<!--/pages-->"
_MOST = 6  # evaluations that an exploration links to
_EVALUATION = "evaluation.json"


def with_links(storage: Storage, tag: str, key: str, page: str) -> str:
    """Return a page of a tag with links to the others that are in storage.

    Args:
        storage: has the others.
        tag: whose.
        key: of the page; links are relative to it.
        page: as its template made it.

    """
    layout = Layout(tag)
    runs = _evaluated(storage, layout) if key == layout.explore("report.html") else []
    return _with_links(storage, layout, key, page, runs)


def _with_links(storage: Storage, layout: Layout, key: str, page: str, runs: Sequence[str]) -> str:
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:  # of a version that had no place for them
        return page
    return before + begin + _links(storage, layout, key, runs) + end + after


def link_pages(storage: Storage, tag: str, *, runs: bool = False) -> None:
    """Bring the links of the stored exploration up to date, and of the evaluations with `runs`."""
    layout = Layout(tag)
    evaluated = _evaluated(storage, layout)
    keys = [layout.explore("report.html")]
    if runs:
        keys += [layout.run(run, "report.html") for run in evaluated]
    for key in keys:
        try:
            page = storage.read(key).decode()
        except ObjectNotFound:
            continue
        linked = _with_links(storage, layout, key, page, evaluated)
        if linked != page:
            storage.write(key, linked.encode())


def _links(storage: Storage, layout: Layout, key: str, runs: Sequence[str]) -> str:
    found: list[tuple[str, str]] = []
    if key == layout.explore("report.html"):
        found += [(f"Evaluation of {run}", layout.run(run, "report.html")) for run in runs[-_MOST:]]
    else:
        found.append(("Exploration of the dataset", layout.explore("report.html")))
    found += [("Leaderboard", report("leaderboard.html")), ("All tags", INDEX)]
    items = Markup("").join(
        Markup('<li><a href="{}">{}</a></li>').format(way(key, other), name)
        for name, other in found
        if storage.stat(other)
    )
    label = 'aria-label="Other pages"'
    return f'<nav {label}><ul class="pages">{items}</ul></nav>' if items else ""


def _evaluated(storage: Storage, layout: Layout) -> list[str]:
    """Return the names of the evaluated runs, in their order."""
    names = (parse_run(info.key) for info in storage.list(layout.models) if _is_marker(info.key))
    return sorted(key.run for key in names if key.name == _EVALUATION)


def _is_marker(key: str) -> bool:
    return key.endswith(f"/{_EVALUATION}")
