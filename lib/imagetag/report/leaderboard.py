"""The leaderboard over the runs of many tags: a page that people read, and the same as JSON.

A tag at a time is read, compared and written; what is kept are a few numbers of each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from imagetag.errors import InputError
from imagetag.layout import INDEX, report
from imagetag.log import Progress, get_logger
from imagetag.pages import store_tag_pages
from imagetag.report.leaderboard_json import LeaderboardJson
from imagetag.report.leaderboard_page import LeaderboardPage
from imagetag.report.model_ranking import Summary
from imagetag.report.tag_ranking import find_runs, rank_runs
from imagetag.stats import Metric
from imagetag.storage import LocalStorage, Storage


@dataclass(frozen=True)
class Made:
    """What came out: where the page is, and the summary in words."""

    url: str
    summary: Summary
    headline: str


def make_leaderboard(
    storage: Storage, target: Storage, folder: str, tags: Sequence[str] | None, metric: Metric
) -> Made:
    """Compare the runs of tags, and store `leaderboard.html` and `leaderboard.json`.

    In the place where they belong, the pages of the tags lead to it from then on.

    Args:
        storage: has the runs.
        target: gets both files; may be the same.
        folder: of `target` to put them in (`""` or ending in `/`).
        tags: which; None for all in storage.
        metric: by which runs are ranked.

    Raises:
        InputError: if no run of any tag is evaluated.

    """
    found: list[str] = []
    summary, page = Summary(metric), LeaderboardPage(metric, _way(storage, target, folder))
    with tempfile.TemporaryDirectory(prefix="imagetag-report-") as scratch:
        path = Path(scratch) / "leaderboard.json"
        with path.open("w", encoding="utf-8") as stream, Progress("compare", unit="tags") as done:
            table = LeaderboardJson(stream, metric)
            for tag, runs in find_runs(storage, tags):
                ranking = rank_runs(storage, tag, runs, metric)
                if not runs:
                    get_logger().warning("no trained run", tag=tag)
                summary.add(ranking)
                table.add(ranking)
                page.add(ranking)
                found.append(tag)
                done.advance(runs=summary.runs)
            _check_any(storage, summary, tags)
            headline, models = summary.headline(), summary.ranking()
            table.end(summary, models, headline)
        target.upload(path, f"{folder}leaderboard.json")
    html = page.render(summary, models, headline, index=storage.stat(INDEX) is not None)
    target.write(f"{folder}leaderboard.html", html.encode())
    if f"{target.url}/{folder}" == f"{storage.url}/{report('')}":
        store_tag_pages(storage, found)
    return Made(f"{target.url}/{folder}leaderboard.html", summary, headline)


def _check_any(storage: Storage, summary: Summary, tags: Sequence[str] | None) -> None:
    if summary.evaluated:
        return
    named = "of any tag" if tags is None else f"of {', '.join(tags[:10])}"
    if not summary.runs:
        raise InputError(
            f"no trained run {named} in {storage.url}: run imagetag train, then imagetag evaluate"
        )
    raise InputError(
        f"none of the {summary.runs} trained runs {named} in {storage.url} has an evaluation that "
        "can be read: run imagetag evaluate first"
    )


def _way(storage: Storage, target: Storage, folder: str) -> str | None:
    """Return the relative URL from the page to the root of storage, None if there is none."""
    here, there = _place(target), _place(storage)
    if here[:2] != there[:2]:
        return None
    path = os.path.relpath(there[2], f"{here[2]}/{folder}")
    return "" if path == "." else quote(path) + "/"


def _place(storage: Storage) -> tuple[str, str, str]:
    if isinstance(storage, LocalStorage):
        return "", "", os.path.realpath(storage.url)
    parts = urlsplit(storage.url)
    return parts.scheme, parts.netloc, parts.path or "/"
