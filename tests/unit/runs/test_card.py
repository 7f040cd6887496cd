"""Model cards say what the run says, their code runs, and nothing from outside is markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from scipy.special import logit

from imagetag.export.saved_model import export_model
from imagetag.layout import Layout
from imagetag.models.architectures import ALEXNETS, CUSTOM_LAYERS, alexnet, build_model
from imagetag.runs.card import model_card, store_card
from imagetag.stats.calibration import Calibration
from imagetag.stats.contract import Promise
from imagetag.storage.local import LocalStorage
from imagetag.verdicts import store_audit
from tests.builders.audits import audit_result
from tests.builders.datasets import make_dataset
from tests.builders.evaluations import evaluation_of, make_evaluation, promise, scored
from tests.builders.rows import make_row
from tests.builders.runs import make_run
from tests.forked import run_forked

RUN = make_run()
DATASET = make_dataset(
    request={"ratings": ["general", "sensitive"], "negatives": "hard", "since": None},
    images={
        "train": {"positive": 1004, "negative": 1006},
        "test": {"positive": 251, "negative": 252},
    },
)
SIZE = (72, 80)  # (height, width) of the models' input
HOSTILE = [
    "<script>alert(1)</script>",
    "</code><img src=x onerror=alert(1)>",
    "<!-- gone",
    "&lt;b&gt;",
    "a|b",
    "a\\|b|",
    "\\",
    "`code`",
    "``",
    "a\n\n# A heading\n- a list",
    "```\nfence",
    "a\r\n| b | c |",
    "[a](javascript:alert(1)) ![b](https://example.org/c.png)",
    "https://example.org/a <https://example.org/b>",
    "*a* **b** _c_ ~~d~~",
    "{{ 7 * 7 }}{% raw %}{#",
    "a\u202eb\u2028c\x00d",
    "惣流・アスカ・ラングレー",
    " ",
]


class Page(HTMLParser):
    """A card as a reader sees it: its elements, the rows of its tables, and what stands as code."""

    def __init__(self, card: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.rows: list[list[str]] = []
        self.codes: list[str] = []
        self._open: list[str] = []
        _, _, body = card.removeprefix("---\n").partition("\n---\n")  # without the front matter
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, attrs))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
        if "code" in self._open:
            self.codes[-1] += data


def test_a_card_says_what_the_run_and_its_dataset_say() -> None:
    rows = Page(model_card(RUN, DATASET)).rows
    for row in (
        ["run", "first"],
        ["model", "vgg19, 20024897 parameters"],
        ["input", "RGB, brought to 224 x 160 pixels (height x width)"],
        ["took", "1.5 hours (5400 seconds)"],
        ["on", "/device:GPU:0, /device:GPU:1"],
        ["batch", "64 images, over 4 replicas on 2 workers"],
        ["weights are those of", "epoch 2 of 3"],
        ["seed", "20261122"],
        ["dataset's fingerprint", "f" * 64],
        ["version of keras", "3.15.1"],
        ["train", "801", "802"],
        ["validation", "203", "204"],
        ["test", "251", "252"],
        ["ratings", "general, sensitive"],
        ["since", "–"],  # noqa: RUF001 - a dash
        ["epochs", "30"],
        ["learning_rate", "1e-05"],
        ["augment", "yes"],
        ["weights", "imagenet"],
        ["loss", "0.25"],
        ["precision", "0.98765"],
    ):
        assert row in rows


def test_every_setting_is_shown_also_one_that_the_card_has_never_heard_of() -> None:
    settings = {"resize": "letterbox", "new": 3, "nested": {"a": [1, None]}, "phases": [1.5, "x"]}
    rows = Page(model_card(make_run(settings=settings), DATASET)).rows
    assert ["resize", "letterbox"] in rows
    assert ["new", "3"] in rows
    assert ["nested", '{"a": [1, null]}'] in rows
    assert ["phases", "1.5, x"] in rows


def test_a_card_of_files_without_a_request_has_no_table_of_it() -> None:
    assert "asked for |" in model_card(RUN, DATASET)
    assert "asked for |" not in model_card(RUN, make_dataset(request={}))


def everywhere(text: str) -> str:
    """A card with a text at each place that is filled from outside."""
    run = make_run(
        tag=text,
        run=text,
        model=text,
        settings={text: text, "list": [text], "nested": {text: text}},
        devices=[text],
        versions={text: text},
        validation={text: 0.5},
        fingerprint=text,
        created=text,
    )
    dataset = make_dataset(
        tag=text,
        board=text,
        request={text: text, "list": [text]},
        created=text,
        software=text,
    )
    return model_card(run, dataset, [text], make_evaluation(tag=text, run=text))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_comes_from_outside_is_text_and_nothing_else(text: str) -> None:
    card = everywhere(text)
    front = front_matter(card)
    assert front["tags"] == ["imageboard", text]
    assert front["model-index"][0]["name"] == f"{text} {text}"
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == f"{text} of {text}"
    page, harmless = Page(card), Page(everywhere("harmless"))
    assert page.elements == harmless.elements
    assert [len(row) for row in page.rows] == [len(row) for row in harmless.rows]
    assert set(re.findall("<[^>]*>?", card)) <= {"<code>", "</code>"}
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    assert page.codes.count(shown or " ") == harmless.codes.count("harmless")


def front_matter(card: str) -> Any:
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(text)


def test_hubs_read_what_it_is_and_how_good() -> None:
    front = front_matter(model_card(RUN, DATASET))
    assert front == {
        "library_name": "keras",
        "license": "unknown",
        "pipeline_tag": "image-classification",
        "tags": ["imageboard", "robot"],
    }
    front = front_matter(model_card(RUN, DATASET, (), make_evaluation()))
    [model] = front["model-index"]
    [result] = model["results"]
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"]["split"] == "test"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert list(values) == front["metrics"]
    assert values["precision"] == values["recall"] == values["accuracy"] == 79 / 80


def test_nothing_called_is_no_precision() -> None:
    rows = [make_row(number) for number in range(1, 161)]
    evaluation = evaluation_of([scored(row, 0.1) for row in rows], DATASET)
    card = model_card(RUN, DATASET, (), evaluation)
    assert "precision" not in front_matter(card)["metrics"]
    assert ["precision", *3 * ["\N{EN DASH}"]] in Page(card).rows


@pytest.mark.parametrize(
    ("promised", "said"),
    [
        (promise(), "one can be 95 % sure of a precision of\n0.95 or more"),
        (promise(8, 2), "**No precision of 0.95 can be promised:**"),
        (None, "no precision is promised"),
    ],
)
def test_an_evaluated_run_has_its_test_figures(promised: Promise | None, said: str) -> None:
    card = model_card(RUN, DATASET, (), make_evaluation(promise=promised))
    [found] = [row for row in Page(card).rows if row[0] == "precision" and len(row) == 4]
    assert found[1] == "0.9875"
    assert 0.9 < float(found[2]) < 0.9875 < float(found[3]) < 1
    assert "On 160 test images, 80 of them with the tag" in card
    assert said in card
    assert "when `imagetag evaluate` has run" not in card
    assert "when `imagetag evaluate` has run" in model_card(RUN, DATASET)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("none", "no calibration made them better"),
        ("isotonic", "by the `isotonic` calibration in"),
    ],
)
def test_calibrated_is_said_only_of_what_was(method: Any, said: str) -> None:
    evaluation = make_evaluation()
    calibration = Calibration(method=method, points=((-1.0, 0.1), (1.0, 0.9)))
    decision = evaluation.decision.model_copy(update={"calibration": calibration})
    evaluation = evaluation.model_copy(update={"decision": decision})
    assert said in model_card(RUN, DATASET, (), evaluation)


def test_cautions_stand_at_the_top() -> None:
    card = model_card(RUN, DATASET, ["All are PNG."])
    assert card.index("All are PNG.") < card.index("## Model details")


def test_one_replica_is_one() -> None:
    def batch(**changes: int) -> str:
        rows = Page(model_card(make_run(**changes), DATASET)).rows
        return next(row[1] for row in rows if row[0] == "batch")

    assert batch(replicas=1, workers=1) == "64 images, over 1 replica on 1 worker"
    assert batch() == "64 images, over 4 replicas on 2 workers"


def test_an_evaluation_makes_the_card_tell_of_it(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    path = tmp_path / Layout(RUN.tag).run(RUN.run, "README.md")
    for before in (None, b"as train left it"):
        if before:
            path.write_bytes(before)
        store_card(storage, RUN, DATASET, make_evaluation(cautions=["All are PNG."]))
        assert "0.9875" in path.read_text()
        assert "All are PNG." in path.read_text()
    written = path.stat().st_mtime_ns
    store_card(storage, RUN, DATASET, make_evaluation(cautions=["All are PNG."]))
    assert path.stat().st_mtime_ns == written


def test_it_tells_what_an_audit_of_this_model_has_proven(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    key = Layout(RUN.tag).run(RUN.run, "README.md")
    store_audit(storage, audit_result(trained="2025-01-01T00:00:00+00:00"))  # an earlier model
    store_card(storage, RUN, DATASET, make_evaluation())
    assert "Audited" not in storage.read(key).decode()
    store_audit(storage, audit_result(name="a" * 12, trained=RUN.created))
    store_card(storage, RUN, DATASET, make_evaluation())
    told = "0.95 proven on your pictures, 2026-12-01, 60 judged"
    assert f"of 300 pictures elsewhere that it called the tag: `{told}`" in (
        storage.read(key).decode()
    )


def test_a_long_value_is_cut() -> None:
    rows = Page(model_card(make_run(settings={"weights": "x" * 5000}), DATASET)).rows
    assert ["weights", "x" * 299 + "…"] in rows


def save_picture(path: Path, size: tuple[int, int]) -> Any:
    """Write a JPEG of some (height, width), and return what Keras reads of it as a batch."""
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size[::-1]).save(path)
    return keras.utils.img_to_array(keras.utils.load_img(path))[None]


def run_code(block: str, folder: Path, before: str = "") -> float:
    """Run a card's code in a process that knows nothing; return the number it prints."""
    return float(run_forked(before + block, cwd=folder))


def code_blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


WITHOUT_US = "import sys\nsys.modules['imagetag'] = None\n"


def small_model() -> keras.Model:
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 9, 8, "same", activation="relu")(x)
    x = keras.layers.Flatten(name="features")(x)
    x = keras.layers.Dense(1, name="logit")(x)
    return keras.Model(inputs, keras.layers.Activation("sigmoid")(x))


def of_any_size(model: keras.Model) -> keras.Model:
    inputs = keras.Input((None, None, 3))
    resized = keras.layers.Resizing(*SIZE, pad_to_aspect_ratio=True, fill_value=128.0)(inputs)
    return keras.Model(inputs, model(resized))


@pytest.mark.parametrize("name", ["vgg19", "alexnet"])
def test_the_keras_code_of_a_card_runs(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    core = alexnet(SIZE, width=1 / 16) if name == "alexnet" else small_model()
    model = of_any_size(core)
    model.save(tmp_path / "model.keras")
    pixels = save_picture(tmp_path / "picture.jpg", (50, 110))
    block, _ = code_blocks(model_card(make_run(model=name), DATASET))
    printed = run_code(block, tmp_path, "" if name == "alexnet" else WITHOUT_US)
    assert printed == pytest.approx(float(model.predict_on_batch(pixels)[0, 0]), abs=1e-4)


def test_the_tensorflow_code_of_a_card_runs(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = small_model()
    export_model(model, tmp_path / "saved_model" / "2", SIZE, "letterbox")
    pixels = save_picture(tmp_path / "picture.jpg", SIZE)
    _, block = code_blocks(model_card(RUN, DATASET))
    printed = run_code(block, tmp_path, WITHOUT_US)
    assert printed == pytest.approx(logit(float(model.predict_on_batch(pixels)[0, 0])), abs=1e-2)


@pytest.mark.parametrize("name", [*ALEXNETS, "mobilenet"])
def test_our_own_layers_are_imported_where_a_model_has_some(name: str) -> None:
    model = build_model(name, SIZE, weights=None)
    ours = any(isinstance(layer, tuple(CUSTOM_LAYERS.values())) for layer in model.layers)
    card = model_card(make_run(model=name), DATASET)
    assert ("import imagetag.models" in card) == ours
