"""The README and docs/ tell every option, command, exit code and board as the code has them."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from imagetag import errors
from imagetag.boards.sites import SITES
from jobs.cli import JOBS
from tests.docs import ROOT, headings, links, pages, tables, with_tables

PAGES = pages()


def test_the_readme_is_short_and_long_pages_begin_with_a_table_of_contents() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 200
    for path, text in PAGES.items():
        if text.count("\n") > 150:
            top = {link for link in links(text.split("\n## ")[0]) if link.startswith("#")}
            sections = anchors(text.split("\n## ", 1)[1])
            assert top >= {f"#{anchor}" for anchor in sections}, path


@pytest.mark.parametrize("path", PAGES)
def test_the_tables_of_options_are_those_of_the_code(path: str) -> None:
    assert PAGES[path] == with_tables(PAGES[path]), "make docs writes them"


def test_every_job_has_its_table_of_options() -> None:
    found = sorted(chain.from_iterable(map(tables, PAGES.values())))
    assert found == sorted(["common", *JOBS]), "see docs/contributing.md, Pages"


def test_every_command_is_in_the_list() -> None:
    rows = re.findall(
        r"^\| `imagetag ([a-z-]+)` \| (.*?) \|", PAGES["docs/README.md"], re.MULTILINE
    )
    assert dict(rows) == JOBS


def test_every_page_is_in_the_list() -> None:
    for path in PAGES.keys() - {"README.md", "docs/README.md"}:
        assert f"]({path.removeprefix('docs/')})" in PAGES["docs/README.md"]
        assert f"]({path}" in PAGES["README.md"]


def test_every_exit_code_is_told() -> None:
    codes = re.findall(r"^\| (\d+) \|", PAGES["docs/operating.md"], re.MULTILINE)
    known = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert set(map(int, codes)) == known


def test_every_board_is_in_the_table() -> None:
    rows = [
        f"| `{site.name}` | {site.engine} | {site.root.removeprefix('https://')} | {site.login} |"
        for site in SITES.values()
    ]
    assert "\n".join(rows) in PAGES["docs/boards.md"]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text)
    }


def test_the_links_of_pages_are_seen() -> None:
    assert {"docs/evaluation.png", "docs/evaluation.md#the-promise"} <= set(
        links(PAGES["README.md"])
    )


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_to_files_and_headings_that_exist(path: str) -> None:
    for link in links(PAGES[path]):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / path).parent / name).resolve() if name else ROOT / path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(PAGES[target.relative_to(ROOT).as_posix()]), link
