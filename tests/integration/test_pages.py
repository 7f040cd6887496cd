"""Both pages, as a browser shows them: complete, silent, and not wider than a phone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from imagetag.dataset.manifest import (
    Curated,
    Curation,
    Row,
    write_part,
)
from imagetag.evaluate.galleries import shown
from imagetag.evaluate.page import Pictures, evaluation_page
from imagetag.explore.explore import explore_tag
from imagetag.layout import Layout, report
from imagetag.pages.drawing import DARK, PAPER
from imagetag.pages.rendering import jpeg, shrunk
from imagetag.report.leaderboard import make_leaderboard
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import store_dataset
from tests.builders.evaluations import evaluation_of, promise, scored
from tests.builders.results import make_logits, make_pictures, write_run
from tests.builders.rows import key_of, make_row
from tests.looking import PHONE, clipped, requests, resize, too_wide

TAG = "asuka_langley_soryu"
LONG_TAG = "W" * 200  # the longest a tag can be, and nowhere to break it
BOARD = f"storage/{report('leaderboard.html')}"
PAGES = (
    *("explore.html", "evaluate.html", BOARD),
    *("long/explore.html", "long/evaluate.html", f"long/{BOARD}"),
)
ROWS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the PAGES in it, of 400 drawn pictures."""
    folder = tmp_path_factory.mktemp("pages")
    write_pages(folder, TAG)
    (folder / "long").mkdir()
    write_pages(folder / "long", LONG_TAG)
    return folder


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_a_page_is_complete_silent_and_fits(
    browser: webdriver.Chrome, folder: Path, name: str, scheme: str, width: int
) -> None:
    open_page(browser, folder / name, scheme, width)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")

    assert browser.get_log("browser") == []
    requested = [url for url in requests(browser) if not url.startswith("data:")]
    assert requested == [(folder / name).as_uri()]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert clipped(browser) == []
    if width == PHONE:  # there, nothing needs to be scrolled sideways
        assert too_wide(browser) == []
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_plots_follow_the_color_scheme_and_the_width(
    browser: webdriver.Chrome, folder: Path, scheme: str, width: int
) -> None:
    open_page(browser, folder / "explore.html", scheme, width)
    chosen = browser.execute_script(
        "return [...document.querySelectorAll('picture')].map(p =>"
        "  p.lastElementChild.currentSrc === p.firstElementChild.srcset)"
    )
    assert set(chosen) == {width == PHONE}
    papers = browser.execute_script(
        "return [...document.querySelectorAll('img.plot')].map(plot => {"
        "  const canvas = document.createElement('canvas').getContext('2d');"
        "  canvas.drawImage(plot, 0, 0);"
        "  return [...canvas.getImageData(1, 1, 1, 1).data]; })"
    )
    paper = PAPER if scheme == "light" else DARK[PAPER]
    assert papers == [[*bytes.fromhex(paper[1:]), 255]] * 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_charts_take_the_width_there_is_and_the_pages_colours(
    browser: webdriver.Chrome, folder: Path, scheme: str, width: int
) -> None:
    open_page(browser, folder / "evaluate.html", scheme, width)
    charts = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(chart => {"
        "  const card = chart.closest('.card').getBoundingClientRect();"
        "  const found = [...chart.querySelectorAll('.area, span, li, .x-label')];"
        "  const boxes = found.map(e => e.getBoundingClientRect());"
        "  const ticks = [...chart.querySelectorAll('.x-ticks span')].map(e => "
        "    e.getBoundingClientRect());"
        "  return {"
        "    inside: boxes.every(b => b.left >= card.left && b.right <= card.right),"
        "    apart: ticks.every((b, i) => !i || b.left > ticks[i - 1].right),"
        "    area: chart.querySelector('.area').offsetWidth / card.width,"
        "    below: card.bottom - chart.closest('figure').lastElementChild"
        "      .getBoundingClientRect().bottom,"
        "    size: getComputedStyle(chart).fontSize,"
        "    line: getComputedStyle(chart.querySelector('.area .accent path:not(.shade),"
        "      .area .ink path')).stroke,"
        "    grid: getComputedStyle(chart.querySelector('.grid-lines')).stroke,"
        "  }; })"
    )
    assert len(charts) == 6  # of learning curves there are two
    for chart in charts:
        assert chart["inside"]
        assert chart["apart"]
        assert chart["area"] > 0.6
        assert chart["size"] == "12.48px"
        assert chart["grid"] == {"light": "rgb(227, 231, 237)", "dark": "rgb(43, 48, 58)"}[scheme]
    # As tall as what is beside them, but for learning curves beside a long table.
    assert all(chart["below"] < 40 for chart in charts[:4])
    accents = sum(chart["line"] == "rgb(20, 160, 140)" for chart in charts)
    assert accents == 5  # the histogram has none


@pytest.mark.parametrize("name", ["explore.html", "evaluate.html"])
def test_explicit_pictures_are_blurred_until_asked_for(
    browser: webdriver.Chrome, folder: Path, name: str
) -> None:
    open_page(browser, folder / name, "light", 1280)
    style = "return getComputedStyle(document.querySelector('.veiled img')).filter"
    assert "blur" in browser.execute_script(style)
    browser.execute_script("document.getElementById('unveil').click()")
    browser.execute_script(
        "for (const a of document.getAnimations()) a.finish()"  # the blur fades away
    )
    assert browser.execute_script(style) == "none"


def test_an_exploration_is_read_by_keyboard(browser: webdriver.Chrome, folder: Path) -> None:
    open_page(browser, folder / "explore.html", "light", PHONE)
    assert "File size gives the label away" in browser.find_element("css selector", ".alert").text
    tab_to(browser, "#unveil")
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert browser.execute_script("return document.getElementById('unveil').checked")
    tab_to(browser, ".shot a")
    link = str(browser.switch_to.active_element.get_attribute("href"))
    assert link.startswith("https://board.example/index.php?page=post")


def test_the_slider_moves_the_counts(browser: webdriver.Chrome, folder: Path) -> None:
    open_page(browser, folder / "evaluate.html", "light", 1280)
    slider = browser.find_element("id", "threshold-slider")
    chosen = slider_counts(browser)
    assert shown_text(browser, "chosen") == "the threshold in use"
    assert shown_text(browser, "value") == "0.8000"
    tile = browser.find_element("css selector", ".tile.first .value").text
    assert shown_text(browser, "precision") == tile.replace("\N{NO-BREAK SPACE}", " ")

    slider.send_keys(Keys.END)  # every picture is called
    every = slider_counts(browser)
    assert (every["fn"], every["tn"]) == (0, 0)
    assert shown_text(browser, "recall") == "100.0 %"
    slider.send_keys(Keys.HOME)
    none = slider_counts(browser)
    assert (none["tp"], none["fp"], none["called"]) == (0, 0, 0)
    assert shown_text(browser, "precision") == "\N{EN DASH}"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider_counts(browser)["called"] == 1
    assert "1 called" in str(slider.get_attribute("aria-valuetext"))
    assert every["tp"] == none["fn"] == chosen["tp"] + chosen["fn"]
    assert every["fp"] == none["tn"] == chosen["fp"] + chosen["tn"]

    browser.find_element("id", "threshold-reset").send_keys(Keys.ENTER)
    assert slider_counts(browser) == chosen
    browser.find_element("id", "threshold-rate").send_keys(Keys.END)
    rare = float(shown_text(browser, "precision").split()[0])
    assert rare < float(tile.split()[0])
    assert browser.get_log("browser") == []


def slider_counts(browser: webdriver.Chrome) -> dict[str, int]:
    return {name: int(shown_text(browser, name)) for name in ("called", "tp", "fp", "fn", "tn")}


def shown_text(browser: webdriver.Chrome, name: str) -> str:
    return str(browser.find_element("id", f"threshold-{name}").text)


def test_what_the_model_looked_at_is_shown_when_asked_for(
    browser: webdriver.Chrome, folder: Path
) -> None:
    open_page(browser, folder / "evaluate.html", "light", 1280)
    style = "return getComputedStyle(document.querySelector('.frame .seen')).display"
    assert browser.execute_script(style) == "none"
    box = browser.find_element("id", "looked")
    box.send_keys(Keys.SPACE)  # by keyboard
    assert browser.execute_script(style) == "block"


def test_the_leaderboard_is_read_by_keyboard_and_without_a_script(
    browser: webdriver.Chrome, folder: Path
) -> None:
    open_page(browser, folder / BOARD, "light", PHONE)
    shown = "return [...document.querySelectorAll('.entry')].filter(e => e.offsetHeight).length"
    assert browser.execute_script(shown) == BOARD_TAGS
    assert tab_to(browser, "input") == "only-all"
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element.get_attribute("id") == "only-clear"
    assert browser.execute_script(shown) == 1
    tab_to(browser, "summary")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.querySelector('details.clear').open")
    open_page(browser, folder / BOARD, "light", 800)  # here a table is wider than the page
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    hint = "return getComputedStyle(document.querySelector('.wide')).backgroundImage"
    assert "gradient" in browser.execute_script(hint)
    tab_to(browser, ".wide")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    moved = (
        "const done = arguments[0], box = document.activeElement;"
        "box.scrollLeft ? done(true) : box.addEventListener('scroll', () => done(true))"
    )
    assert browser.execute_async_script(moved)


def test_the_leaderboard_leads_to_the_reports(browser: webdriver.Chrome, folder: Path) -> None:
    open_page(browser, folder / BOARD, "dark", 1280)
    links = browser.execute_script(
        "return [...document.querySelectorAll('a.run')].map(a => a.href)"
    )
    assert len(set(links)) == 2 * BOARD_TAGS
    browser.get(links[0])
    assert browser.title == "report"


def tab_to(browser: webdriver.Chrome, selector: str) -> str:
    """Press Tab until an element of that kind has the focus; returns its id."""
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        found = browser.switch_to.active_element
        if browser.execute_script("return arguments[0].matches(arguments[1])", found, selector):
            return found.get_attribute("id") or ""
    raise AssertionError(f"no {selector} is reached by Tab")


def open_page(browser: webdriver.Chrome, page: Path, scheme: str, width: int) -> None:
    resize(browser, width, scheme)
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(page.as_uri())
    # Pictures load as they are scrolled to.
    browser.execute_script("for (const i of document.images) i.loading = 'eager'")
    browser.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(done)"
    )


BOARD_TAGS = 8


def write_leaderboard(storage: Storage, tag: str) -> None:
    """Store a leaderboard of eight tags with two runs each; one of them is a clear case."""
    pictures = make_pictures(60, 80)
    long = len(tag) > 100
    for number in range(BOARD_TAGS):
        name = tag if number == 0 else f"tag/{number}"
        for model, skill in (("vgg19", 6 if number == 0 else 2), ("alexnet", 2)):
            write_run(
                storage,
                name,
                model[0] * 100 if long else f"{model}-2026-03-01T12.00.00",
                pictures,
                make_logits(pictures, skill, seed=10 * number + len(model)),
                model=model.ljust(200, "x") if long else model,
            )
    make_leaderboard(storage, storage, report(""), None, "average-precision")


def write_pages(folder: Path, tag: str) -> None:
    """Write the pages of a made-up dataset of 400 pictures into a folder."""
    rng = np.random.default_rng(7)
    rows = [draw_row(number, rng) for number in range(ROWS)]
    storage = LocalStorage(folder / "storage")
    dataset = store_dataset(storage, tag, rows)
    write_exploration(folder, tag, rows)
    write_leaderboard(storage, tag)

    test = [scored(row, make_probability(row, rng), 0.8) for row in rows if row.split == "test"]
    evaluation = evaluation_of(
        test,
        dataset,
        tag=tag,
        run="vgg19-imagenet",
        threshold=0.8,
        settings=SETTINGS,
        promise=promise(40),
        suspects=shown(item for item in test if not item.positive and item.probability > 0.5),
        history=make_history(rng),
    )
    wanted = {item.md5 for items in evaluation.galleries.values() for item in items}
    thumbnails = {row.md5: jpeg(shrunk(draw(row))) for row in rows if row.md5 in wanted}
    overlays = {md5: jpeg(Image.new("RGB", (64, 64), "orange")) for md5 in thumbnails}
    html = evaluation_page(evaluation, test, Pictures(thumbnails, overlays))
    (folder / "evaluate.html").write_text(html, encoding="utf-8")


def write_exploration(folder: Path, tag: str, rows: list[Row]) -> None:
    """Write explore.html of pictures with companions, families, twins and a shortcut."""
    storage, layout = LocalStorage(folder / "explored"), Layout(tag)
    told = [as_explored(number, row) for number, row in enumerate(rows)]
    for row in told:
        key = key_of(row, tag)
        storage.write(key, jpeg(shrunk(draw(row))))
    twins = told[1], told[2]
    verdicts = [
        Curated(md5=one.md5, twin=other.md5, dropped=False, group=one.group, conflicting=True)
        for one, other in (twins, twins[::-1])
    ]
    part = write_part(storage, layout, "curated", verdicts)
    curation = Curation(parts=(part,), dropped=3, groups=1, conflicting=2)
    store_dataset(storage, tag, told, curation=curation)
    explore_tag(storage, tag, max_pixels=65536, percentile=50, samples=24)
    (folder / "explore.html").write_bytes(storage.read(layout.explore("report.html")))


def as_explored(number: int, row: Row) -> Row:
    tags = ["1girl", "solo", *["red_plugsuit", "W" * 200][: number % 3]]
    positive = row.label == "positive"
    return row.model_copy(
        update={
            "tags": tuple(tags if positive else ["1girl", "scenery"]),
            "bytes": row.bytes * 20 if positive else row.bytes,
            "group": f"{row.split} {number // 9}" if number < 60 else row.group,
        }
    )


SETTINGS: dict[str, Any] = {
    "model": "vgg19",
    "weights": "imagenet",
    "image_size": "320x192",
    "batch_size": 32,
    "epochs": 30,
    "patience": 5,
    "learning_rate": 0.0003,
    "seed": 0,
    "strategy": "mirrored",
    "mixed_precision": True,
    "threshold": 0.8,
}


def draw_row(number: int, rng: np.random.Generator) -> Row:
    width = int(np.exp(rng.normal(6.9, 0.45)))
    height = int(width * np.exp(rng.normal(0.3, 0.25)))
    post = 1_000_000 + 97 * number
    return make_row(
        post,
        page_url=f"https://board.example/index.php?page=post&s=view&id={post}",
        md5=hashlib.md5(str(number).encode()).hexdigest(),
        ext=str(rng.choice(["jpg", "png", "webp"], p=[0.7, 0.27, 0.03])),
        bytes=max(1000, int(width * height * np.exp(rng.normal(-1.5, 0.5)))),
        width=width,
        height=height,
        tags=("1girl", "solo"),
        rating=str(
            rng.choice(
                ["general", "sensitive", "questionable", "explicit"], p=[0.7, 0.2, 0.07, 0.03]
            )
        ),
        split="test" if number % 3 == 0 else "train",
        label="positive" if number % 2 else "negative",
    )


def make_probability(row: Row, rng: np.random.Generator) -> float:
    logit = rng.normal(3.2 if row.label == "positive" else -3.2, 2.3)
    return float(1 / (1 + np.exp(-logit)))


def make_history(rng: np.random.Generator) -> list[dict[str, float]]:
    return [
        {
            "loss": 0.65 * 0.83**epoch + 0.05 + rng.normal(0, 0.006),
            "accuracy": 0.985 - 0.35 * 0.83**epoch + rng.normal(0, 0.004),
            "val_loss": 0.6 * 0.8**epoch + 0.13 + 0.006 * epoch + rng.normal(0, 0.012),
            "val_accuracy": 0.955 - 0.33 * 0.8**epoch + rng.normal(0, 0.008),
        }
        for epoch in range(16)
    ]


def draw(row: Row) -> Image.Image:
    """Draw a face on a wall, in colours that follow from the row."""
    rng = np.random.default_rng(int(row.md5[:8], 16))
    scale = 300 / max(row.width, row.height)
    size = max(40, int(row.width * scale)), max(40, int(row.height * scale))
    wall = tuple(int(value) for value in rng.integers(120, 245, 3))
    picture = Image.new("RGB", size, wall)
    pen = ImageDraw.Draw(picture)
    for _ in range(9):
        left, top, radius = (int(value) for value in rng.integers(0, 300, 3))
        shade = tuple(max(0, value - 30) for value in wall)
        pen.ellipse((left, top, left + radius // 3, top + radius // 3), fill=shade)
    x, y, side = size[0] / 2, size[1] * 0.45, min(size) * 0.28
    hair = (196, 72, 40) if row.label == "positive" else tuple(rng.integers(20, 200, 3).tolist())
    pen.ellipse((x - side * 1.25, y - side * 1.4, x + side * 1.25, y + side * 1.9), fill=hair)
    pen.ellipse((x - side * 0.9, y - side, x + side * 0.9, y + side * 1.1), fill=(250, 224, 205))
    for eye in (x - side * 0.4, x + side * 0.4):
        pen.ellipse((eye - side * 0.16, y, eye + side * 0.16, y + side * 0.4), fill=(40, 90, 190))
    pen.arc(
        (x - side * 0.3, y + side * 0.4, x + side * 0.3, y + side * 0.85), 20, 160, (150, 40, 40), 3
    )
    return picture
