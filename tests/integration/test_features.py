"""Two tags on one extractor: embed, train, evaluate and predict, as they are run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import jobs.embed
import jobs.evaluate
import jobs.explore
import jobs.export
import jobs.pack
import jobs.predict
import jobs.train
from imagetag.dataset import local_copy
from imagetag.dataset.local_copy import load_pixels
from imagetag.dataset.manifest import Row
from imagetag.evaluate import evaluation_run, scores
from imagetag.evaluate.scores import OfHead
from imagetag.features.shared import SharedFeatures
from imagetag.inputs.partition import load_partition
from imagetag.layout import Layout
from imagetag.runs.evaluation import Evaluation, Judged
from imagetag.runs.heads import load_head
from imagetag.runs.loading import load_model
from imagetag.runs.runs import Run, Turned, load_run
from imagetag.runs.suspects import load_suspects
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from imagetag.verdicts import Answer, load_verdicts, store_verdicts
from tests.builders.datasets import store_dataset
from tests.builders.drawn import PICTURES, TAG
from tests.builders.verdicts import new_verdict
from tests.ended import log_lines
from tests.pages import undrawn
from tests.plainly import HEAVY, imported_by

OTHER = "blue_square"
TAGS = (TAG, OTHER)
SIZE = (32, 32)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a feature map, whose features tell colours and edges apart."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(24, 3, 2, activation="relu", name="map")(x)
    path = tmp_path_factory.mktemp("network") / "colours.keras"
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)).save(path)
    return path


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, network: Path) -> Storage:
    """Both tags, with heads that are evaluated; every picture is of both."""
    folder = tmp_path_factory.mktemp("features")
    storage = open_storage(str(folder / "storage"))
    for tag in TAGS:
        rows = [
            picture.row.model_copy(
                update={"label": picture.row.label if tag == TAG else _other(picture.row.label)}
            )
            for picture in PICTURES
        ]
        store_dataset(storage, tag, rows, [picture.data for picture in PICTURES])
    shared = ["--storage", storage.url, "--tags", ",".join(TAGS)]
    cache = ["--cache-folder", str(folder / "cache")]
    assert jobs.embed.main([*shared, *cache, "--extractor", str(network)]) == 0
    assert jobs.train.main([*shared, *cache, "--features", "latest"]) == 0
    with undrawn():
        assert jobs.explore.main(shared) == 0  # whose cautions evaluate tells
        assert jobs.evaluate.main([*shared, *cache]) == 0
    return storage


def _other(label: str) -> str:
    return "negative" if label == "positive" else "positive"


def test_each_tag_has_a_head_of_its_own_that_works(storage: Storage) -> None:
    for tag in TAGS:
        run = load_run(storage, tag, "latest")
        key = Layout(tag).run(run.run, "evaluation.json")
        evaluation = Evaluation.model_validate_json(storage.read(key))
        assert (evaluation.metrics.average_precision.value or 0) > 0.95
    one, other = (load_head(storage, load_run(storage, tag, "latest"))[0] for tag in TAGS)
    assert np.corrcoef(one.weights, other.weights)[0, 1] < -0.9  # what is one is not the other


def test_predict_says_what_evaluate_did_of_the_same_pictures(
    storage: Storage, tmp_path: Path
) -> None:
    rows = [picture for picture in PICTURES if picture.row.split == "test"]
    for picture in rows:
        (tmp_path / f"{picture.row.md5}.{picture.row.ext}").write_bytes(picture.data)
    output = tmp_path / "rows.csv"
    arguments = ["--storage", storage.url, "--tags", ",".join(TAGS), "--input", str(tmp_path)]
    assert jobs.predict.main([*arguments, "--output", str(output)]) == 0
    said = {
        (Path(row["file"]).stem, row["tag"]): float(row["probability"])
        for row in csv.DictReader(io.StringIO(output.read_text()))
    }
    assert len(said) == 2 * len(rows)
    for tag in TAGS:
        run = load_run(storage, tag, "latest")
        table = storage.read(Layout(tag).run(run.run, "test_predictions.csv")).decode()
        for row in csv.DictReader(io.StringIO(table)):
            assert said[row["md5"], tag] == pytest.approx(float(row["probability"]), abs=2e-3)


def test_the_composed_model_gives_the_logits_of_the_head(storage: Storage, tmp_path: Path) -> None:
    run = load_run(storage, TAG, "latest")
    head, record = load_head(storage, run)
    some = PICTURES[:6]
    shared = SharedFeatures(storage, [TAG], tmp_path)
    stored = shared.of(record)
    features = stored.values[stored.find([picture.row.md5 for picture in some], TAG)]
    pixels = np.stack([load_pixels(picture.data, SIZE, "letterbox") for picture in some])
    said = load_model(storage, run, tmp_path).predict(pixels.astype(np.float32), verbose=0)
    logits = np.log(said / (1 - said))[:, 0]
    assert logits == pytest.approx(head.logits(features.astype(np.float32)), abs=0.02)


def test_where_nothing_is_left_nothing_heavy_is_imported(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_bytes(PICTURES[0].data)
    several = ["--storage", storage.url, "--tags", ",".join(TAGS)]
    cache = ["--cache-folder", tmp_path / "cache"]
    first: list[list[object]] = [
        ["pack", *several, "--image-size", "16x16"],
        ["export", *several, "--output", tmp_path / "tags.keras"],
        ["predict", *several, "--input", tmp_path / "new", "--output", tmp_path / "rows.csv"],
    ]
    with undrawn():
        for job, *arguments in first:
            assert getattr(jobs, str(job)).main(list(map(str, arguments))) == 0
    imported = imported_by(
        ["explore", *several],
        ["embed", *several, *cache, "--extractor", "latest"],
        ["train", *several, *cache, "--features", "latest"],
        ["evaluate", *several, *cache, "--run", "latest"],
        *first,
    )
    assert imported & HEAVY == set()


def test_heatmaps_are_of_each_tags_own_head(storage: Storage, tmp_path: Path) -> None:
    positive = next(picture for picture in PICTURES if picture.row.label == "positive")
    pixels = load_pixels(positive.data, SIZE, "letterbox")[np.newaxis]
    shared = SharedFeatures(storage, TAGS, tmp_path)
    heat = [
        OfHead(storage, load_run(storage, tag, "latest"), shared).camera().heatmaps(pixels)
        for tag in TAGS
    ]
    assert heat[0].max() == 1
    assert not np.allclose(heat[0], heat[1])


def test_evaluate_reads_no_picture_but_those_of_the_pages_and_each_once(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(storage: Storage, tag: str, rows: Any, *more: Any) -> Any:
        read.extend(row.md5 for row in rows)
        return local_copy.sync(storage, tag, rows, *more)

    monkeypatch.setattr(evaluation_run, "sync", counted)
    scores._shown_by.cache_clear()  # of what ran in this process before
    tags = ["--tags", ",".join(TAGS), "--cache-folder", str(tmp_path)]
    with undrawn():
        assert jobs.evaluate.main(["--storage", storage.url, *tags, "--min-precision", "0.9"]) == 0
    shown: list[str] = []
    for tag in TAGS:
        key = Layout(tag).run(load_run(storage, tag, "latest").run, "evaluation.json")
        evaluation = Evaluation.model_validate_json(storage.read(key))
        shown += {item.md5 for items in evaluation.galleries.values() for item in items}
    assert shown
    assert sorted(read) == sorted(set(shown))


def test_verdicts_of_people_train_another_head_and_figures_they_cannot_flatter(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = "judged"
    kinds: dict[str, list[Row]] = {"train": [], "threshold": [], "test": []}
    store_dataset(
        *(storage, tag, [picture.row for picture in PICTURES]),
        [picture.data for picture in PICTURES],
    )
    arguments = ["--storage", storage.url, "--tags", tag, "--cache-folder", str(tmp_path)]

    def learn() -> Run:
        assert jobs.train.main([*arguments, "--features", "latest"]) == 0
        return load_run(storage, tag, "latest")

    def evaluate(*options: str) -> Evaluation:
        with undrawn():
            assert jobs.evaluate.main([*arguments, *options]) == 0
        key = Layout(tag).run(load_run(storage, tag, "latest").run, "evaluation.json")
        return Evaluation.model_validate_json(storage.read(key))

    def judge(rows: Sequence[Row], answer: Answer) -> None:
        store_verdicts(storage, tag, [new_verdict(row.md5, answer, "suspects") for row in rows])

    first = learn()
    before = evaluate()
    used = load_partition(storage, first)
    for picture in PICTURES:
        row = picture.row
        use = "test" if row.split == "test" else used[row.md5].use
        kinds["train" if use == "validation" else use].append(row)

    # Chosen pictures of what is held out change nothing but what is said of them.
    some = [row for row in kinds["test"] if row.label == "negative"][:3]
    judge([*some, *kinds["threshold"][:2]], "yes")
    after = evaluate()
    assert learn() == first
    assert (after.metrics, after.decision.promise) == (before.metrics, before.decision.promise)
    tested = len(kinds["test"])
    assert after.verdicts.test == Judged(pictures=tested, judged=3, needed=tested, left=tested - 3)
    page, card = (
        storage.read(Layout(tag).run(first.run, name)).decode()
        for name in ("report.html", "README.md")
    )
    for text in (page, card):
        assert "3 verdicts on test pictures did not count" in text
    capsys.readouterr()
    evaluate()
    assert "already evaluated" in capsys.readouterr().err

    # All of the test split: the labels are the person's.
    judge(kinds["test"], "no")
    judge(some, "yes")
    whole = evaluate("--no-suspects")
    assert whole.verdicts.test is not None
    assert whole.verdicts.test.counted == tested
    assert (whole.metrics.positives, whole.metrics.negatives) == (3, tested - 3)
    ignored = evaluate("--verdicts", "ignore")
    assert (ignored.metrics, ignored.verdicts.digest) == (before.metrics, "")

    # What is learned from.
    turned = [row for row in kinds["train"] if row.label == "positive"][:4]
    judge(turned, "no")
    judge(kinds["train"][-1:], "unclear")
    assert evaluate().verdicts.unlearned == 5
    second = learn()
    assert second.run != first.run
    assert second.turned == Turned(to_negative=4, left_out=1)
    learned = {md5: used.label for md5, used in load_partition(storage, second).items()}
    assert {learned[row.md5] for row in turned} == {"negative"}
    latest = evaluate()
    assert (latest.verdicts.unlearned, latest.since.relabelled) == (0, 0)
    assert latest.verdicts.learned == second.turned
    judged = load_verdicts(storage, tag).standing.keys()
    assert not judged & {item.md5 for item in load_suspects(storage, tag, second.run).found}


def test_a_scrape_after_embed_is_told_of_and_loses_nothing(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = "new_pictures"
    store_dataset(storage, tag, [picture.row for picture in PICTURES[:40]])
    run = load_run(storage, TAG, "latest")
    key = f".features/{run.extractor}/"
    lists = [entry.key for entry in storage.list(key) if entry.key.endswith(".ids")]
    kept = {name: storage.read(name) for name in lists}
    for name in lists:
        storage.delete(name)
    arguments = ["--storage", storage.url, "--tags", tag, "--cache-folder", str(tmp_path)]
    capsys.readouterr()
    assert jobs.train.main([*arguments, "--features", "latest"]) == 3
    [line] = [line for line in log_lines(capsys.readouterr().err) if line["level"] == "error"]
    assert "have no features of the extractor" in line["event"]
    assert f"imagetag embed --extractor {run.extractor} --tags new_pictures" in line["event"]
    for name, data in kept.items():
        storage.write(name, data)
    assert jobs.train.main([*arguments, "--features", "latest"]) == 0


def test_ten_positives_get_a_head_and_are_told_what_it_is_worth(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [
        picture
        for label in ("positive", "negative")
        for split, count in (("train", 8), ("test", 2))
        for picture in [
            each for each in PICTURES if (each.row.label, each.row.split) == (label, split)
        ][:count]
    ]
    tag = "few"
    store_dataset(storage, tag, [each.row for each in few], [each.data for each in few])
    arguments = ["--storage", storage.url, "--tags", tag, "--cache-folder", str(tmp_path)]
    assert jobs.train.main([*arguments, "--features", "latest"]) == 0
    capsys.readouterr()
    with undrawn():
        assert jobs.evaluate.main(arguments) == 0
    [line] = [line for line in log_lines(capsys.readouterr().err) if line["event"] == "evaluated"]
    learned = load_run(storage, tag, "latest").images["train"]["positive"]
    assert learned >= 5
    assert line["worth"].startswith(f"learned from {learned} positives; on 2 positive test")
    assert line["worth"].endswith("too few to promise a precision of 0.95")
    page = storage.read(Layout(tag).run(line["run"], "report.html")).decode()
    assert line["worth"][1:] in page
    assert "nan" not in line["worth"]


def test_a_threshold_from_out_of_fold_scores_is_chosen_on_all_that_is_learned_from(
    storage: Storage, tmp_path: Path
) -> None:
    tag = "all_learned_from"
    rows = [picture.row for picture in PICTURES]
    store_dataset(storage, tag, rows, [picture.data for picture in PICTURES])
    shared = ["--storage", storage.url, "--tags", tag]
    cache = ["--cache-folder", str(tmp_path / "cache")]
    options = ["--features", "latest", "--threshold-from", "out-of-fold"]
    assert jobs.train.main([*shared, *cache, *options]) == 0
    with undrawn():
        assert jobs.evaluate.main([*shared, *cache, "--min-precision", "0.8"]) == 0
    run = load_run(storage, tag, "latest")
    layout = Layout(tag)
    learned = {row.md5: row.group for row in rows if row.split == "train"}
    evaluation = Evaluation.model_validate_json(
        storage.read(layout.run(run.run, "evaluation.json"))
    )
    promise = evaluation.decision.promise
    assert promise is not None
    assert promise.met
    assert promise.positives + promise.negatives == len(set(learned.values()))
    assert sum(evaluation.chosen_on.values()) == len(learned)
    table = storage.read(layout.run(run.run, "threshold_predictions.csv")).decode()
    chosen_on = {row["md5"]: float(row["logit"]) for row in csv.DictReader(io.StringIO(table))}
    assert chosen_on.keys() == learned.keys()
    for name in ("report.html", "README.md"):
        assert "judged by a head that" in storage.read(layout.run(run.run, name)).decode()

    picture = next(picture for picture in PICTURES if picture.row.split == "train")
    (tmp_path / f"it.{picture.row.ext}").write_bytes(picture.data)
    output = tmp_path / "rows.csv"
    given = ["--input", str(tmp_path / f"it.{picture.row.ext}"), "--output", str(output)]
    assert jobs.predict.main([*shared, *given]) == 0
    [said] = csv.DictReader(io.StringIO(output.read_text()))
    head, record = load_head(storage, run)
    stored = SharedFeatures(storage, [tag], tmp_path).of(record)
    features = stored.values[stored.find([picture.row.md5], tag)].astype(np.float32)
    [logit] = head.logits(features)  # of the head that has learned from it
    assert float(said["probability"]) == pytest.approx(
        evaluation.decision.probability(logit), abs=2e-3
    )
    assert logit != pytest.approx(chosen_on[picture.row.md5], abs=1e-3)
    assert jobs.export.main([*shared, "--output", str(tmp_path / "one.keras")]) == 0


def test_both_heads_are_exported_on_one_extractor(storage: Storage, tmp_path: Path) -> None:
    output = tmp_path / "both.keras"
    arguments = ["--storage", storage.url, "--tags", ",".join(TAGS), "--output", str(output)]
    assert jobs.export.main(arguments) == 0
    some = PICTURES[:6]
    pixels = np.stack([load_pixels(picture.data, SIZE, "letterbox") for picture in some])
    said = keras.models.load_model(output).predict(pixels.astype(np.float32), verbose=0)
    for place, tag in enumerate(TAGS):
        head, record = load_head(storage, load_run(storage, tag, "latest"))
        stored = SharedFeatures(storage, [tag], tmp_path).of(record)
        features = stored.values[stored.find([picture.row.md5 for picture in some], tag)]
        logits = head.logits(features.astype(np.float32))
        assert said["logit"][:, place] == pytest.approx(logits, abs=0.02)
