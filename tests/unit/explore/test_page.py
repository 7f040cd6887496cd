"""The page of an exploration: what it says is true, names what misleads, and stays small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from imagetag.dataset.manifest import Curated, Curation, Row
from imagetag.explore import page as explore_page
from imagetag.explore.page import THUMBNAIL_BYTES
from imagetag.pages import drawing
from imagetag.pages.rendering import MAX_PAGE_BYTES
from tests.builders.datasets import make_dataset
from tests.builders.explorations import explored_page
from tests.builders.pictures import encoded
from tests.builders.rows import make_row
from tests.pages import HOSTILE, LARGEST_MEAN, Page


def text_of(rows: Sequence[Row], **options: Any) -> str:
    dataset = {name: options.pop(name) for name in ("tag", "curation", "board") if name in options}
    return explored_page(rows, make_dataset(rows, **dataset), **options)[1]


def words_of(rows: Sequence[Row], **options: Any) -> str:
    return Page(text_of(rows, **options)).text.replace("\N{NO-BREAK SPACE}", " ")


ROWS = [make_row(number) for number in range(1, 161)]

pytestmark = pytest.mark.usefixtures("quick_plots")


def test_it_says_the_size_and_why() -> None:
    words, x = words_of(ROWS), "\N{MULTIPLICATION SIGN}"
    assert "Train at 320 high and 192 wide" in words
    assert "50th percentile of the train pictures" in words
    # 224 x 224: pictures of 800 x 1200 are shrunk to 149 x 224, and cropped to 800 x 800.
    assert f"224 {x} 224 0.0 % 5.4{x} 33.5 % 33.3 % 33.3 % 0.82{x}" in words
    assert f"320 {x} 192 recommended 0.0 % 4.2{x} 10.0 % 10.0 % 10.0 % 1.0{x}" in words


def test_a_shortcut_is_told_at_the_top_with_what_to_do() -> None:
    planted = [row.model_copy(update={"ext": "png"}) if row.post_id % 2 else row for row in ROWS]
    page = Page(text_of(planted))
    words = page.text
    alarm = "Format gives the label away without a look at the pictures: ROC AUC 1.00."
    assert alarm in words
    assert "0 % of the positives are jpg, and 100 % of the negatives" in words
    assert "What to do: scrape again with --extensions of the formats" in words
    assert "ROC AUC of format: it gives the label away" in words
    assert words.index(alarm) < words.index("Input size")
    assert "file size gives it away" not in words


def test_without_a_shortcut_there_is_no_alarm() -> None:
    words = words_of(ROWS)
    assert "without a look at the pictures" in words  # what the section is about
    assert "gives the label away without" not in words
    assert "gives it away" not in words
    assert "none gives the label away" in words


def test_too_few_pictures_for_the_check_are_told() -> None:
    words = words_of(ROWS[:20])
    assert "too few pictures to tell" in words
    assert "That cannot be told of fewer than 20 groups of pictures of a label" in words


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_names_are_text(bad: str) -> None:
    def page(name: str) -> Page:
        tags = [("name", name) if number % 3 else ("name",) for number in range(160)]
        rows = [
            row.model_copy(
                update={"tags": tuple(dict.fromkeys((*own, "robot"))), "board": name[:60]}
            )
            for row, own in zip(ROWS, tags, strict=True)
        ]
        return Page(text_of(rows, tag=name, board=name))

    plain, hostile = page("plain"), page(bad)
    assert [name for name, _ in hostile.elements] == [name for name, _ in plain.elements]
    assert bad in hostile.text


def test_tags_that_are_hostile_are_listed_as_text() -> None:
    rows = [row.model_copy(update={"tags": tuple(HOSTILE)}) for row in ROWS]
    text = text_of(rows)
    assert text.count("<script") == 0
    words = Page(text).text
    for bad in HOSTILE:
        assert bad in words


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//x/y", "", "http:"])
def test_what_is_no_web_address_is_no_link(url: str) -> None:
    rows = [row.model_copy(update={"page_url": url}) for row in ROWS]
    page = Page(text_of(rows))
    assert page.links == []
    assert "post 3" in page.text


def test_companions_are_listed_with_their_shares() -> None:
    def tags(row: Row) -> tuple[str, ...]:
        if row.label == "negative":
            return ("sea",)
        return ("robot", "metal") if row.post_id % 4 == 1 else ("robot",)

    words = words_of([row.model_copy(update={"tags": tags(row)}) for row in ROWS])
    section = words[words.index("Most frequent beside the tag") :]
    assert "metal 50.0 % 0.0 % 33\N{MULTIPLICATION SIGN}" in section
    assert "What marks the negatives" in section
    assert "sea 0.0 % 100.0 % 0.02\N{MULTIPLICATION SIGN}" in section


def twins_of(one: Row, other: Row, conflicting: bool = False) -> list[Curated]:
    return [
        Curated(
            md5=row.md5,
            twin=twin.md5,
            dropped=False,
            group=one.group,
            conflicting=conflicting,
        )
        for row, twin in ((one, other), (other, one))
    ]


def test_twins_of_both_labels_are_shown_with_links() -> None:
    rows = list(ROWS)
    rows[1] = rows[1].model_copy(update={"group": rows[0].group})  # posts 1 and 2
    assert rows[0].label != rows[1].label
    curation = Curation(parts=(), dropped=7, groups=1, conflicting=2)
    text = text_of(rows, verdicts=twins_of(rows[0], rows[1], True), curation=curation, samples=0)
    page = Page(text)
    assert "The same picture with and without the tag" in page.text
    assert "groups with twins, or posts of one file, of both labels 1" in page.text
    assert "of whose file another post has the tag 7" in page.text
    assert "groups with both labels 1 0" in page.text
    links = {link["href"] for link in page.links}
    assert links == {"https://board.example/post/1", "https://board.example/post/2"}


def test_a_dataset_that_was_not_curated_is_told_so() -> None:
    assert "This dataset was not curated" in words_of(ROWS)
    assert "This dataset was not curated" not in words_of(ROWS, curation=Curation(parts=()))


def jpeg(size: int) -> bytes:
    """Return a JPEG that fills a number of bytes."""
    return encoded(Image.new("RGB", (2, 2)), "JPEG").ljust(size, b"\0")


def test_contact_sheets_show_both_labels_of_both_splits() -> None:
    small = {row.md5: jpeg(700) for row in ROWS}
    page = Page(text_of(ROWS, thumbnails=small, samples=5))
    assert "To look at some test pictures is no choice made from them" in page.text
    for heading in (
        "Train, positive: 5 of 64",
        "Train, negative: 5 of 64",
        "Test, positive: 5 of 16",
        "Test, negative: 5 of 16",
    ):
        assert heading in page.text
    shots = [image for image in page.all("img") if image["src"].startswith("data:image/jpeg")]
    assert len(shots) == 20
    assert all(image["alt"].startswith("Post ") for image in shots)
    assert sum(", positive, rated general" in image["alt"] for image in shots) == 10
    assert all(link["href"].startswith("https://board.example/post/") for link in page.links)
    assert {link["rel"] for link in page.links} == {"noopener noreferrer"}


@pytest.mark.parametrize("rating", ["questionable", "explicit"])
def test_pictures_that_not_everybody_wants_to_see_are_veiled(rating: str) -> None:
    small = {row.md5: jpeg(700) for row in ROWS}
    rated = [row.model_copy(update={"rating": rating}) for row in ROWS]
    text = text_of(rated, thumbnails=small, samples=5)
    assert text.count("frame veiled") == 20
    assert 'id="unveil"' in text
    plain = text_of(ROWS, thumbnails=small, samples=5)
    assert "frame veiled" not in plain
    assert 'id="unveil"' not in plain


def test_the_largest_page_there_can_be_is_within_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Plots as large as they get, all texts as long as they are let, and as many rows.
    plot = drawing.Plot(*[bytes(LARGEST_MEAN)] * 2)
    monkeypatch.setattr(explore_page, "for_all_screens", lambda draw: plot)
    long = "&" * 2000
    url = "https://board.example/?" + "&" * 95
    rows, verdicts = [], []
    for number in range(1200):
        conflict = number < 240
        row = make_row(
            number,
            split="test" if number >= 800 else "train",
            group=f"g{number // 4 if conflict else number // 8}",
            page_url=url,
            board=long,
            rating="explicit",
            ext=f"x{number % 900}",
            tags=("robot", *(f"{number % 2}{n:02}".ljust(240, "&") for n in range(60))),
            post_id=10**300,
        )
        rows.append(row)
        if conflict:
            verdicts += twins_of(row, row, True)[:1]
    many = {f"{number}{long}": 10**300 for number in range(100)}
    dataset = make_dataset(
        rows,
        board=long,
        request=dict.fromkeys(many, long),
        failures=many,
        skipped=many,
        software=long,
        created=long,
        curation=Curation(parts=()),
    )
    count = 4 * 60 + 6 * 6 + 50 * 4
    filled = dict.fromkeys((row.md5 for row in rows), jpeg(THUMBNAIL_BYTES // count))
    found, text = explored_page(rows, dataset, verdicts=verdicts, thumbnails=filled, samples=60)
    assert len(found.pictures) == count
    assert text.count("data:image/jpeg") == count
    assert len(text.encode()) < MAX_PAGE_BYTES
    assert len(found.model_dump_json(indent=2)) < 4_000_000
    Page(text)


def test_the_numbers_of_the_page_are_in_the_json() -> None:
    rows = [
        row.model_copy(update={"tags": ("robot", "metal"), "group": str(row.post_id // 3)})
        for row in ROWS
    ]
    dataset = make_dataset(rows, curation=Curation(parts=(), dropped=3))
    found, text = explored_page(rows, dataset)
    again, same = explored_page(rows, dataset)
    stored = found.model_validate_json(found.model_dump_json())
    assert stored == found
    # The page has nothing but the exploration to take numbers from: the same gives the same.
    assert again.model_copy(update={"created": found.created}) == found
    assert same.replace(again.created, "") == text.replace(found.created, "")
