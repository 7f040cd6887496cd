"""The pages are complete in themselves, escape what is from outside, and say what is true."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagetag.dataset.manifest import Row
from imagetag.evaluate.galleries import Scored, pick_galleries, shown
from imagetag.evaluate.page import Pictures, evaluation_page
from imagetag.pages import rendering
from imagetag.pages.rendering import MAX_PAGE_BYTES
from imagetag.pages.templating import whole_options
from imagetag.stats.contract import Promise
from tests.builders.datasets import make_dataset
from tests.builders.evaluations import evaluation_of, promise, scored
from tests.builders.explorations import explored_page
from tests.builders.pictures import encoded
from tests.builders.rows import make_row
from tests.pages import HOSTILE, Page


def a_row(number: int, **changes: Any) -> Row:
    url = f"https://board.example/post?id={number}&s=view"
    return make_row(number, **{"page_url": url, **changes})


def make_predictions(tp: int, fp: int, fn: int, tn: int, **changes: Any) -> list[Scored]:
    groups = [("positive", 0.9, tp), ("negative", 0.8, fp), ("positive", 0.2, fn)]
    groups.append(("negative", 0.1, tn))
    drawn = [(label, chance) for label, chance, count in groups for _ in range(count)]
    return [
        scored(a_row(number, split="test", label=label, **changes), chance - number / 100_000)
        for number, (label, chance) in enumerate(drawn)
    ]


def evaluated(
    predictions: Sequence[Scored],
    tag: str = "robot",
    pictures: Pictures | None = None,
    *,
    history: Sequence[dict[str, float]] = (),
    settings: Mapping[str, Any] | None = None,
    promised: Promise | None = None,
    suspects: Sequence[Scored] | None = (),
    unjudged: str | None = None,
    **dataset: Any,
) -> str:
    evaluation = evaluation_of(
        predictions,
        make_dataset([item.row for item in predictions], tag=tag, **dataset),
        tag=tag,
        settings=settings,
        history=history,
        promise=promised,
        suspects=None if suspects is None else shown(suspects),
        unjudged=unjudged,
    )
    return evaluation_page(evaluation, predictions, pictures or Pictures())


def explored(tag: str = "robot", **dataset: Any) -> str:
    rows = [a_row(number) for number in range(60)]
    return explored_page(rows, make_dataset(rows, tag=tag, **dataset))[1]


def jpeg(side: int = 64, noise: bool = False) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256 if noise else 1, (side, side, 3))
    return encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG", quality=95)


def test_pages_ask_no_server_for_anything() -> None:
    predictions = make_predictions(20, 3, 4, 20)
    pictures = Pictures(*({item.row.md5: jpeg() for item in predictions} for _ in range(2)))
    for text in (explored(), evaluated(predictions, pictures=pictures)):
        page = Page(text)
        for tag, attributes in page.elements:
            for name in ("src", "srcset", "href", "action", "data", "poster", "background"):
                value = attributes.get(name, "data:")
                assert value.startswith(("data:", "#")) or (tag, name) == ("a", "href")
            assert not [name for name in attributes if name.startswith("on")]
        style = text[text.index("<style>") : text.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style
        policy = next(m for m in page.all("meta") if "http-equiv" in m)["content"]
        assert "default-src 'none'" in policy
        scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        assert len(scripts) == text.count("<script") <= 1
        digests = [hashlib.sha256(found.encode()).digest() for found in scripts]
        allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        assert re.findall(r"script-src ([^;]*)", policy) == allowed
        assert len(text.encode()) < MAX_PAGE_BYTES


@pytest.mark.usefixtures("quick_plots")
def test_links_go_to_posts_and_tell_them_nothing() -> None:
    page = Page(evaluated(make_predictions(3, 2, 1, 3)))
    assert {link["href"] for link in page.links} == {
        f"https://board.example/post?id={number}&s=view" for number in range(6)
    }
    exploration = Page(explored())
    links = page.links + exploration.links
    assert {link["rel"] for link in links} == {"noopener noreferrer"}
    assert all(link["href"].startswith("https://board.example/post?id=") for link in links)
    assert page.up == ["../../index.html"]  # the tag's own, from models/RUN/report.html
    assert exploration.up == ["../index.html"]


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "//board.example/post/1",
        "http:",
        "http://[broken",
        "",
    ],
)
def test_what_is_no_web_address_is_no_link(url: str) -> None:
    page = Page(evaluated(make_predictions(2, 1, 1, 2, page_url=url)))
    assert page.links == []
    assert "post 0" in page.text


@pytest.mark.usefixtures("quick_plots")
def test_a_hostile_web_address_stays_inside_its_attribute() -> None:
    url = 'https://board.example/"><script>alert(1)</script>'
    text = evaluated(make_predictions(2, 1, 1, 2, page_url=url))
    assert text.count("<script") == 1  # ours
    assert {link["href"] for link in Page(text).links} == {url}


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("tag", HOSTILE)
def test_hostile_names_are_text(tag: str) -> None:
    plain_shape = [name for name, _ in Page(explored()).elements]
    page = Page(explored(tag))
    assert [name for name, _ in page.elements] == plain_shape
    assert tag in page.text

    predictions = make_predictions(3, 2, 1, 3)
    plain_shape = [name for name, _ in Page(evaluated(predictions)).elements]
    page = Page(evaluated(predictions, tag=tag))
    assert [name for name, _ in page.elements] == plain_shape
    assert f"called {tag}" in page.text


@pytest.mark.usefixtures("quick_plots")
def test_hostile_settings_and_counts_are_text() -> None:
    bad = HOSTILE[0]
    predictions = make_predictions(3, 2, 1, 3, board=bad)
    dirty: dict[str, Any] = {"request": {bad: [bad]}, "failures": {bad: 1}, "skipped": {bad: 2}}
    for text in (
        explored(board=bad, software=bad, created=bad, **dirty),
        evaluated(predictions, settings={bad: bad, "nested": {bad: bad}}, board=bad, **dirty),
    ):
        assert "<script>alert" not in text
        assert html.escape(bad) in text
        Page(text)


@pytest.mark.usefixtures("quick_plots")
def test_pages_can_be_used_without_seeing_them() -> None:
    for text in (explored(), evaluated(make_predictions(3, 2, 1, 3))):
        page = Page(text)
        assert all(image["alt"] for image in page.all("img"))
        assert all("scope" in header for header in page.all("th"))
        for landmark in ("header", "main", "footer", "nav", "h1"):
            assert len(page.all(landmark)) == 1
        assert page.all("html") == [{"lang": "en"}]
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        jumps = [link["href"][1:] for link in page.all("a") if link["href"].startswith("#")]
        assert set(jumps) <= set(ids)
        assert len(page.all("caption")) == len(page.all("table"))


@pytest.mark.usefixtures("quick_plots")
def test_the_headline_says_precision_and_recall_in_words() -> None:
    page = Page(evaluated(make_predictions(59, 2, 4, 80)))
    words = page.text.replace(" ,", ",")
    assert "Of 61 pictures called robot, 59 are (precision 96.7 %)" in words
    assert "it finds 59 of 63 (recall 93.7 %)" in words


@pytest.mark.usefixtures("quick_plots")
def test_a_model_that_calls_nothing_positive_gets_no_precision() -> None:
    text = evaluated(make_predictions(0, 0, 4, 5))
    words = Page(text).text
    assert "No picture was called robot" in words
    assert "nothing was called positive" in words
    assert "nan" not in words.lower().split()


@pytest.mark.usefixtures("quick_plots")
def test_perfect_and_useless_models_are_reported() -> None:
    assert "None: everything called robot is." in Page(evaluated(make_predictions(5, 0, 0, 5))).text
    assert (
        "None: every picture of robot was found."
        in Page(evaluated(make_predictions(5, 5, 0, 1))).text
    )


def test_galleries_have_the_most_telling_first() -> None:
    predictions = make_predictions(40, 30, 35, 10)
    picked = pick_galleries(predictions)
    wrong = [item.probability for item in picked.false_positives]
    missed = [item.probability for item in picked.false_negatives]
    right = [item.probability for item in picked.hits]
    assert (len(wrong), len(missed), len(right)) == (24, 24, 12)
    assert wrong == sorted(wrong, reverse=True)
    assert missed == sorted(missed)
    assert right == sorted(right)
    assert wrong[0] == max(s.probability for s in predictions if s.row.label == "negative")
    assert right[0] == min(s.probability for s in predictions if s.called and s.positive)
    assert missed[0] == min(s.probability for s in predictions if s.row.label == "positive")
    assert {item.row.label for item in picked.false_positives} == {"negative"}
    assert len(list(picked.all())) == 60


def test_galleries_do_not_depend_on_the_order() -> None:
    predictions = [scored(item.row, 0.9) for item in make_predictions(40, 30, 0, 0)]
    assert pick_galleries(predictions) == pick_galleries(predictions[::-1])


@pytest.mark.usefixtures("quick_plots")
def test_a_page_stays_small_whatever_the_thumbnails() -> None:
    predictions = make_predictions(40, 30, 30, 10)
    large = jpeg(400, noise=True)
    assert 60 * len(large) > MAX_PAGE_BYTES
    every = {item.row.md5: large for item in predictions}
    text = evaluated(predictions, pictures=Pictures(every, every))
    assert len(text.encode()) < MAX_PAGE_BYTES - 1_500_000  # what the plots may take
    assert "no thumbnail" in text
    assert text.count("data:image/jpeg") > 5


def test_a_thumbnail_is_a_small_jpeg_of_the_same_shape() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 1200, 3), dtype=np.uint8)
    data = rendering.jpeg(rendering.shrunk(Image.fromarray(noise)))
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (256, 128))
    assert len(data) < 37_000  # 60 of them are within the page's budget


@pytest.mark.usefixtures("quick_plots")
def test_explicit_pictures_are_blurred_and_general_ones_are_not() -> None:
    explicit = evaluated(make_predictions(3, 2, 1, 3, rating="explicit"))
    assert explicit.count("frame veiled") == 6
    assert 'id="unveil"' in explicit
    general = evaluated(make_predictions(3, 2, 1, 3))
    assert "frame veiled" not in general
    assert 'id="unveil"' not in general


@pytest.mark.usefixtures("quick_plots")
def test_learning_curves_are_there_when_there_is_a_history() -> None:
    epoch = {"epoch": 1, "loss": 0.5, "accuracy": 0.8, "val_loss": 0.6, "val_accuracy": 0.7}
    predictions = make_predictions(3, 2, 1, 3)
    assert "Learning curves" not in evaluated(predictions)
    text = evaluated(predictions, history=[epoch, {**epoch, "val_loss": 0.9}])
    assert "the lowest validation loss was in epoch 1." in text


@pytest.mark.usefixtures("quick_plots")
def test_settings_and_dataset_are_tabulated() -> None:
    settings = {"model": "vgg19", "learning_rate": 3e-4, "mixed": True, "weights": None}
    words = Page(evaluated(make_predictions(3, 2, 1, 3), settings=settings)).text
    for expected in ("model vgg19", "learning_rate 0.0003", "mixed yes", "weights \u2013"):
        assert expected in words
    assert "failed: not found 2" in words
    assert "skipped: animated 5" in words
    assert re.search(r"fingerprint [0-9a-f]{16}\b", words)


# ---- what an evaluation adds


@pytest.mark.usefixtures("quick_plots")
def test_a_promise_is_said_in_words_and_so_is_what_it_would_take() -> None:
    predictions = make_predictions(3, 2, 1, 3)
    words = Page(evaluated(predictions, promised=promise(200))).text
    assert "Promised: at least 95.0 % of what it calls robot is, with 95.0 % confidence." in words
    assert "200 of 200 called are right" in words
    words = Page(evaluated(predictions, promised=promise(30))).text
    assert "Not promised: that at least 95.0 % of what it calls robot is." in words
    assert "positives to choose the threshold on are needed, and there are 30" in words
    assert "nothing is promised of it" in Page(evaluated(predictions)).text


@pytest.mark.usefixtures("quick_plots")
def test_an_option_in_a_sentence_is_not_broken_at_the_end_of_a_line() -> None:
    page = evaluated(make_predictions(3, 2, 1, 3), promised=promise(30))
    assert "--min-precision" in page
    assert page.count("--min-precision") == page.count('<span class="keep">--min-precision</span>')
    assert whole_options("<b>: by --scrape.limit.") == (
        '&lt;b&gt;: by <span class="keep">--scrape.limit</span>.'
    )


@pytest.mark.usefixtures("quick_plots")
def test_the_slider_moves_over_every_threshold() -> None:
    predictions = make_predictions(59, 2, 4, 80)
    page = Page(evaluated(predictions))
    [panel] = [found for _, found in page.elements if "data-steps" in found]
    steps = json.loads(panel["data-steps"])
    assert (steps["positives"], steps["negatives"]) == (63, 82)
    assert len(steps["tp"]) == len(steps["fp"]) == len(steps["threshold"]) == 146
    assert (steps["tp"][0], steps["fp"][0]) == (0, 0)
    assert (steps["tp"][-1], steps["fp"][-1]) == (63, 82)
    start = steps["start"]
    assert (steps["tp"][start], steps["fp"][start], steps["threshold"][start]) == (59, 2, 0.5)
    others = [value for number, value in enumerate(steps["threshold"]) if number != start]
    assert others == sorted(others, reverse=True)


@pytest.mark.usefixtures("quick_plots")
def test_the_slider_of_a_large_test_split_is_still_small() -> None:
    predictions = make_predictions(900, 20, 40, 1000)
    text = evaluated(predictions)
    [panel] = [found for _, found in Page(text).elements if "data-steps" in found]
    steps = json.loads(panel["data-steps"])
    assert len(steps["tp"]) <= 402
    assert steps["tp"][steps["start"]] == 900
    assert steps["tp"][-1] == 940


@pytest.mark.usefixtures("quick_plots")
def test_what_the_model_looked_at_is_there_to_be_shown() -> None:
    predictions = make_predictions(3, 2, 1, 3)
    small = {item.row.md5: jpeg() for item in predictions}
    text = evaluated(predictions, pictures=Pictures(small, small))
    assert 'id="looked"' in text
    assert text.count('class="seen"') == 6
    assert 'id="looked"' not in evaluated(predictions, pictures=Pictures(small, {}))


@pytest.mark.usefixtures("quick_plots")
def test_suspects_are_shown_with_links_and_counted() -> None:
    predictions = make_predictions(3, 2, 1, 40)
    suspects = [item for item in predictions if not item.positive][:30]
    page = Page(evaluated(predictions, suspects=suspects))
    assert "Shown are 24 of 30." in page.text
    assert "Not looked for." in Page(evaluated(predictions, suspects=None)).text
    unjudged = Page(evaluated(predictions, suspects=(), unjudged="too few groups")).text
    assert "No label could be judged: too few groups." in unjudged


@pytest.mark.usefixtures("quick_plots")
def test_parts_that_fail_are_marked_and_the_worst_is_named() -> None:
    predictions = [
        *make_predictions(60, 2, 4, 80),
        *(
            scored(a_row(1000 + n, split="test", label="negative", tags=("armour",)), 0.9)
            for n in range(30)
        ),
    ]
    words = Page(evaluated(predictions)).text
    assert "armour" in words
    assert "worse false positive rate" in words
    assert "It fails most on " in words
    assert "It fails most on" not in Page(evaluated(make_predictions(60, 2, 4, 80))).text


@pytest.mark.usefixtures("quick_plots")
def test_the_precision_where_the_tag_is_rare_is_told() -> None:
    words = Page(evaluated(make_predictions(59, 2, 4, 80))).text
    expected = 0.01 * 59 / 63 / (0.01 * 59 / 63 + 0.99 * 2 / 82)
    assert f"1 % {100 * expected:.1f} %" in words


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("negatives", [10, 63, 600])
def test_the_test_split_is_not_called_balanced_where_it_may_not_be(negatives: int) -> None:
    words = Page(evaluated(make_predictions(59, 2, 4, negatives))).text
    assert "Where the tag is rarer than in the test split" in words
    assert "balanced" not in words
