"""Train, evaluate and predict as they are run: what they leave behind, and how they fail."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, get_args

import boto3
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import logit
from sklearn.metrics import average_precision_score, roc_auc_score

import jobs.evaluate
import jobs.explore
import jobs.pack
import jobs.predict
import jobs.train
from imagetag.dataset.local_copy import load_pixels
from imagetag.dataset.manifest import Dataset, Mark, Row, load_dataset, summarize, write_dataset
from imagetag.errors import UsageError
from imagetag.evaluate.threshold import share_of_positives
from imagetag.explore.exploration import load_exploration
from imagetag.inputs.batch_plan import Plan
from imagetag.inputs.partition import load_partition
from imagetag.layout import Label, Layout, PartName
from imagetag.models import architectures
from imagetag.models.architectures import build_model
from imagetag.models.weights import find_weights, stored_weights
from imagetag.runs.decision import load_decision
from imagetag.runs.evaluation import Evaluation
from imagetag.runs.loading import load_model
from imagetag.runs.runs import Run, load_run
from imagetag.runs.suspects import load_suspects
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from imagetag.train import training_run
from imagetag.train.checkpoint import Checkpoints
from imagetag.train.cluster import Cluster
from imagetag.train.data import Images
from imagetag.train.fit import Fitting, Phase, Recipe
from imagetag.train.settings import Means, Training, deciding, settled
from imagetag.train.step import Objective
from imagetag.train.target import Target
from tests.builders.arrays import Arrays as Inputs
from tests.builders.drawn import LAYOUT, PICTURES, ROWS, TAG, Picture, draw, md5s, store
from tests.builders.rows import key_of
from tests.ended import Ended, log_lines
from tests.forked import Forked, run_forked
from tests.integration import tiny
from tests.pages import undrawn
from tests.plainly import HEAVY, imported_by

QUICK = ("--model", "alexnet-small", "--epochs", "1")
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the dataset, explored; nobody writes to it. It has no test image."""
    folder = tmp_path_factory.mktemp("data")
    store(folder, PICTURES)
    shutil.rmtree(folder / LAYOUT.root / "test")
    with undrawn():
        given = ["--storage", str(folder), "--tags", TAG, "--max-pixels", "9216"]
        assert jobs.explore.main(given) == 0
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fresh(data: Path, tmp_path: Path) -> Path:
    """A storage of the test's own, with the dataset in it."""
    return shutil.copytree(data, tmp_path / "storage")


# ---- running jobs


def process(job: str, *options: Any) -> Ended:
    """Run a job as its users do, as a process; every line of its log is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    return Ended(done.returncode, log_lines(done.stderr), done.stdout)


def fork(job: str, *options: Any, **how: Any) -> Forked:
    """Start a job in a process that has imported TensorFlow already."""
    script = f"import sys\nfrom jobs.{job} import main\nsys.exit(main())"
    return Forked(script, list(map(str, options)), **how)


def forked(job: str, *options: Any) -> Ended:
    """Run a job in such a process."""
    started = fork(job, *options)
    try:
        stdout, stderr = started.communicate(timeout=800)
    finally:
        started.kill()
    assert started.returncode is not None
    return Ended(started.returncode, log_lines(stderr), stdout)


Runner = Callable[..., Ended]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], quick_plots: None) -> Runner:
    """Run a job in this process, which saves the seconds that TensorFlow takes to start."""

    def run(job: str, *options: Any) -> Ended:
        capfd.readouterr()
        code = getattr(jobs, job).main([*map(str, options), "--log-format", "json"])
        out, err = capfd.readouterr()
        return Ended(code, log_lines(err, chatter=True), out)

    return run


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `alexnet-small` be of few layers in this process: how it learns is not looked at."""
    monkeypatch.setitem(architectures.ALEXNETS, "alexnet-small", tiny.ALEXNET)


def on(storage: Path, cache: Path | None = None) -> list[Any]:
    return ["--storage", storage, "--tags", TAG, *(["--cache-folder", cache] if cache else [])]


def models(storage: Path, *parts: str) -> Path:
    return storage.joinpath(LAYOUT.root, "models", *parts)


def metrics(storage: Path, name: str = "latest") -> Run:
    return load_run(LocalStorage(storage), TAG, name)


# ---- train


@pytest.fixture(scope="module")
def trained(
    data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ended]:
    """A storage with a run trained by a process; no test image, and two others, were there."""
    storage = shutil.copytree(data, tmp_path_factory.mktemp("trained") / "storage")
    lost, broken = sorted(md5s("train"))[:2]
    for row in ROWS:
        if row.md5 == lost:
            (storage / key_of(row, TAG)).unlink()
        elif row.md5 == broken:
            (storage / key_of(row, TAG)).write_bytes(b"x" * row.bytes)
    ended = process("train", *on(storage, cache / "broken"), *QUICK, "--epochs", 3, "--seed", 11)
    return storage, ended


def test_a_run_says_all_that_led_to_it(trained: tuple[Path, Ended]) -> None:
    storage, ended = trained
    assert (ended.code, ended.stdout) == (0, "")
    assert ended.events.count("epoch") == 3
    found = metrics(storage)
    assert found.run == ended.lines[-1]["run"]
    assert re.fullmatch(r"alexnet-small-[0-9a-f]{8}", found.run)
    assert (found.tag, found.model, found.seed) == (TAG, "alexnet-small", 11)
    assert (
        found.settings
        == Training(
            model="alexnet-small",
            weights="none",  # what auto stood for
            freeze_backbone="no",
            head="trained",
            mirror="no",
            verdicts="ignore",  # as there are none
            fine_tune_blocks=1,
            epochs=3,
            learning_rate=1e-3,
            seed=11,
        ).model_dump()
    )
    assert (found.workers, found.replicas, found.global_batch) == (1, 1, 16)
    assert found.fingerprint == summarize(ROWS)[2]
    assert {"imagetag", "python", "tensorflow", "keras", "numpy"} <= found.versions.keys()
    assert found.seconds > 0
    with models(storage, found.run, "history.csv").open(newline="") as stream:
        history = [
            {name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)
        ]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history == found.history


def test_the_input_size_is_what_explore_recommended(trained: tuple[Path, Ended]) -> None:
    storage, _ = trained
    size = load_exploration(LocalStorage(storage), TAG).input_size
    assert metrics(storage).image_size == (size.height, size.width) == (96, 96)
    model = keras.models.load_model(models(storage, metrics(storage).run, "model.keras"))
    assert model.input_shape == (None, None, None, 3)
    assert model.layers[1].get_config()["height"] == 96
    assert model.count_params() == metrics(storage).parameters


def making(storage: LocalStorage, found: Run) -> training_run._Making:
    """What stores a run, in the state in which it would do so."""
    dataset = Dataset.model_validate_json(storage.read(LAYOUT.dataset))
    training = Training(**found.settings)
    target = Target(storage, found.run, training, found.image_size, dataset)
    cluster = Cluster(tf.distribute.get_strategy)
    return training_run._Making(target, cluster, Means(cache_folder=Path("unused")))


class Stopping(LocalStorage):
    """A folder that notes what is written, and is cut off at a key that ends in `stop_at`."""

    def __init__(self, root: Path, stop_at: str) -> None:
        super().__init__(root)
        self.stop_at = stop_at
        self.written: list[str] = []

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        if key.endswith(self.stop_at):
            raise KeyboardInterrupt
        self.written.append(Path(key).name)
        super().write(key, data)


def test_the_marker_comes_after_the_model_and_the_pointer_last(
    trained: tuple[Path, Ended], tmp_path: Path
) -> None:
    order = [
        "model.keras",
        "fingerprint.pb",
        "variables.data-00000-of-00001",
        "variables.index",
        "saved_model.pb",
        "history.csv",
        "events.out.tfevents.history",
        "events.out.tfevents.history",
        "README.md",
        "metrics.json",
        "LATEST",
    ]
    found = metrics(trained[0]).model_copy(update={"run": "another"})
    assert models(trained[0], "LATEST").read_text() == metrics(trained[0]).run + "\n"
    model = constant_model((96, 96))
    for stop_at in [*dict.fromkeys(order), "nothing"]:
        number = order.index(stop_at) if stop_at in order else len(order)
        folder = shutil.copytree(trained[0], tmp_path / f"stopped at {stop_at}")
        storage = Stopping(folder, stop_at)
        (tmp_path / stop_at).mkdir()
        with pytest.raises(KeyboardInterrupt) if stop_at in order else contextlib.nullcontext():
            making(storage, found)._store(found, model, [1.0] * 3, tmp_path / stop_at)
        assert storage.written == order[:number]
        assert metrics(folder) == (found if stop_at == "nothing" else metrics(trained[0]))


def test_no_test_image_is_opened_and_others_that_fail_are_left_out(
    trained: tuple[Path, Ended], cache: Path
) -> None:
    storage, ended = trained
    lost, broken = sorted(md5s("train"))[:2]
    left_out = [line for line in ended.lines if line["event"] == "left out"]
    assert all(line["level"] == "warning" for line in left_out)
    assert lost in left_out[0]["detail"]
    assert broken in left_out[1]["file"]
    assert len(left_out) == 2, "it asked for test images"
    fetched = {path.stem for path in (cache / "broken" / "images").rglob("*.*")}
    assert fetched == (md5s("train") | md5s("validation")) - {lost}
    assert metrics(storage).images == {
        part: {
            label: sum(row.label == label for row in ROWS if row.md5 in members - {lost})
            for label in ("positive", "negative")
        }
        for part, members in (
            ("train", md5s("train")),
            ("validation", md5s("validation")),
            ("threshold", md5s("threshold")),
        )
    }


def test_the_saved_model_is_that_of_the_best_epoch(
    trained: tuple[Path, Ended], tmp_path: Path
) -> None:
    storage, _ = trained
    found = metrics(storage)
    best = found.history[found.best_epoch - 1]
    assert best["val_loss"] == min(row["val_loss"] for row in found.history)
    assert found.validation == {
        name: best[f"val_{name}"] for name in ("loss", "accuracy", "precision", "recall")
    }
    # Computed again, from the files.
    model = load_model(LocalStorage(storage), found, tmp_path)
    held_out = [item for item in PICTURES if item.row.md5 in md5s("validation")]
    pixels = np.stack([load_pixels(item.data, found.image_size) for item in held_out])
    labels = np.array([item.row.label == "positive" for item in held_out])
    scores = np.clip(model.predict(pixels, verbose=0)[:, 0].astype(float), 1e-7, 1 - 1e-7)
    counts = found.images["train"]
    balance = {label: sum(counts.values()) / (2 * counts[label]) for label in counts}
    weights = np.where(labels, balance["positive"], balance["negative"])
    loss = -(weights * np.where(labels, np.log(scores), np.log(1 - scores))).mean()
    assert found.validation["loss"] == pytest.approx(loss, rel=1e-3, abs=1e-4)
    called = scores > 0.5
    assert found.validation["accuracy"] == pytest.approx((called == labels).mean())
    assert found.validation["recall"] == pytest.approx(called[labels].mean())
    assert found.validation["precision"] == pytest.approx(
        labels[called].mean() if called.any() else 0
    )


def test_what_each_picture_was_used_for_is_stored_and_no_group_in_two_parts(
    trained: tuple[Path, Ended],
) -> None:
    found = metrics(trained[0])
    used = load_partition(LocalStorage(trained[0]), found)
    assert used.keys() == {row.md5 for row in ROWS if row.split == "train"}
    for part in get_args(PartName):
        assert {md5 for md5, picture in used.items() if picture.use == part} == md5s(part)
    groups = {
        part: {row.group for row in ROWS if row.md5 in md5s(part)} for part in get_args(PartName)
    }
    assert len(set.union(*groups.values())) == sum(map(len, groups.values()))
    assert len(groups["train"]) > len(groups["threshold"]) > len(groups["validation"]) > 2


def test_training_again_does_nothing(trained: tuple[Path, Ended], cache: Path, run: Runner) -> None:
    storage, _ = trained
    # But for the record that each job leaves of itself.
    files = [path for path in storage.rglob("*") if path.is_file() and ".jobs" not in path.parts]
    before = {path: path.stat().st_mtime_ns for path in files}
    same = [*on(storage, cache), *QUICK, "--epochs", 3, "--seed", 11]
    for size in ("auto", "96x96"):
        ended = run("train", *same, "--image-size", size)
        assert (ended.code, ended.events[-1]) == (0, "already trained")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_kill_before_the_pointer_is_made_good_by_the_next_run(
    trained: tuple[Path, Ended], cache: Path, run: Runner
) -> None:
    storage, _ = trained
    name = metrics(storage).run
    models(storage, "LATEST").unlink()
    ended = run("train", *on(storage, cache), *QUICK, "--epochs", 3, "--seed", 11)
    assert ended.events[-1] == "already trained"
    assert models(storage, "LATEST").read_text() == name + "\n"


@pytest.mark.usefixtures("tiny_model")
def test_other_settings_make_another_run_and_the_newest_stays_the_latest(
    trained: tuple[Path, Ended], cache: Path, tmp_path: Path, run: Runner
) -> None:
    storage = shutil.copytree(trained[0], tmp_path / "storage")
    first = metrics(storage)
    other = (*QUICK, "--no-augment", "--no-export")
    assert run("train", *on(storage, cache), *other).code == 0
    second = metrics(storage)
    assert second.run != first.run
    assert metrics(storage, first.run) == first
    again = run("train", *on(storage, cache), *QUICK, "--epochs", 3, "--seed", 11)
    assert again.events[-1] == "already trained"
    assert metrics(storage) == second


@pytest.mark.parametrize("what", ["settings", "images"])
def test_a_complete_run_is_not_replaced_by_another_of_its_name(
    what: str, trained: tuple[Path, Ended], cache: Path, tmp_path: Path, run: Runner
) -> None:
    storage = shutil.copytree(trained[0], tmp_path / "storage")
    name = metrics(storage).run
    options = [*on(storage, cache), *QUICK, "--epochs", 3, "--seed", 11, "--run", name]
    if what == "images":
        store(storage, PICTURES[:-1])
    else:
        options += ["--batch-size", 8]
    ended = run("train", *options)
    assert ended.code == 2
    assert f"--run '{name}'" in ended.complaint
    assert "choose another name" in ended.complaint


def test_a_damaged_marker_is_no_marker(
    trained: tuple[Path, Ended], tmp_path: Path, run: Runner
) -> None:
    storage = shutil.copytree(trained[0], tmp_path / "storage")
    found = metrics(storage)
    marker = models(storage, found.run, "metrics.json")
    marker.write_bytes(marker.read_bytes()[:-50])
    dataset = Dataset.model_validate_json((storage / LAYOUT.dataset).read_bytes())
    training = Training(**found.settings)
    target = Target(LocalStorage(storage), found.run, training, (96, 96), dataset)
    assert target.completed() is None


def test_the_same_seed_gives_the_same_numbers_wherever_images_are_cached(
    data: Path, fresh: Path, cache: Path, run: Runner
) -> None:
    options = (*QUICK, "--epochs", 2, "--seed", 5, "--no-export")
    assert forked("train", *on(fresh, cache), *options, "--run", "one").code == 0
    assert run("train", *on(fresh, cache), *options, "--run", "two", "--cache-memory", 0).code == 0
    one, two = metrics(fresh, "one"), metrics(fresh, "two")
    assert one.history == two.history
    assert len({row["loss"] for row in one.history}) == 2


LONG = ("--epochs", "1000", "--patience", "1000")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_is_stopped_leaves_no_run_and_can_be_repeated(
    signum: signal.Signals, fresh: Path, cache: Path, tmp_path: Path, run: Runner
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = [*on(fresh, cache), *QUICK, "--run", "mine", "--no-export"]
    # It would go on for long: the signal surely comes in the middle of an epoch.
    stopped = fork("train", *options, *LONG, env=os.environ | {"TMPDIR": str(scratch)})
    try:
        while '"event": "epoch"' not in stopped.log:
            assert stopped.returncode is None, stopped.log
            time.sleep(0.02)
        stopped.send_signal(signum)
        code = stopped.wait(200)
    finally:
        stopped.kill()

    assert not models(fresh, "LATEST").exists()
    assert not models(fresh, "mine", "metrics.json").exists()
    if signum == signal.SIGTERM:
        assert code == 143
        assert "stopped by SIGTERM" in json.loads(stopped.log.splitlines()[-1])["event"]
        assert list(scratch.glob("imagetag-*")) == []
    else:
        assert code == -signal.SIGKILL
    # With fewer epochs it is another training: not from that one's checkpoint.
    ended = run("train", *options)
    if signum == signal.SIGTERM:
        assert ended.code == 2
        assert "--resume never" in ended.complaint
        ended = run("train", *options, "--resume", "never")
    assert ended.code == 0
    assert metrics(fresh).run == "mine"
    assert list(models(fresh, "mine", "checkpoint").glob("*")) == []


def test_a_mirrored_training_is_about_as_good(
    fresh: Path, cache: Path, pictures: Path, run: Runner
) -> None:
    options = (*QUICK, "--epochs", 3, "--no-augment", "--image-size", "72x72")
    # An odd number of images is left for the last batch: too few for both replicas.
    count = len(md5s("train"))
    batch = next(n for n in range(4, 20) if count % (2 * n) == 1)
    two = forked(
        *("train", *on(fresh, cache), *options, "--run", "two", "--batch-size", batch),
        *("--strategy", "mirrored", "--cpu-devices", 2),
    )
    assert two.code == 0
    (devices,) = [line for line in two.lines if line["event"] == "devices"]
    assert (devices["replicas"], devices["strategy"]) == (2, "mirrored")
    one = run(
        *("train", *on(fresh, cache), *options, "--run", "one", "--batch-size", 2 * batch),
        *("--strategy", "none", "--no-export"),
    )
    assert one.code == 0
    assert not saved_model(fresh, "one").exists()
    assert next(line for line in one.lines if line["event"] == "devices")["replicas"] == 1
    accuracies = [metrics(fresh, name).validation["accuracy"] for name in ("one", "two")]
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.15)
    assert len(metrics(fresh, "two").devices) == 2
    # What the replicas hold together is exported once, and for one device.
    picture = pictures / "nested" / "c.jpg"
    (answer,) = served(saved_model(fresh, "two"), [picture])
    model = keras.models.load_model(models(fresh, "two", "model.keras"))
    expected = model.predict_on_batch(load_pixels(picture, (72, 72))[None])
    assert answer == pytest.approx(expected[0].tolist(), abs=0.02)


@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_what_is_predicted_is_framed_as_in_training(
    resize: Any, fresh: Path, cache: Path, pictures: Path, run: Runner
) -> None:
    for item in PICTURES:
        if item.row.split == "test":
            LocalStorage(fresh).write(key_of(item.row, TAG), item.data)
    options = ("--resize", resize, "--image-size", "72x120", "--epochs", 2)
    assert run("train", *on(fresh, cache), *QUICK, *options).code == 0
    model = keras.models.load_model(models(fresh, metrics(fresh).run, "model.keras"))
    picture = pictures / "nested" / "c.jpg"

    def says(mode: Any) -> float:
        pixels = load_pixels(picture, (72, 120), mode)[None].astype("float32")
        return float(model.predict_on_batch(pixels)[0, 0])

    ended = run("predict", "--storage", fresh, "--tag", TAG, "--input", pictures / "nested")
    [row] = [row for row in csv.DictReader(io.StringIO(ended.stdout)) if row["file"] == "c.jpg"]
    assert float(row["probability"]) == pytest.approx(says(resize), rel=1e-3, abs=1e-6)
    other = says("letterbox")
    assert abs(other - says(resize)) > 0.05 * max(other, 1 - other) * min(other, 1 - other)
    (answer,) = served(saved_model(fresh, metrics(fresh).run), [picture])
    assert answer == pytest.approx([says(resize)], abs=0.02)
    assert run("evaluate", *on(fresh, cache)).code == 0


def test_the_saved_model_takes_images_of_any_size(
    trained: tuple[Path, Ended], pictures: Path
) -> None:
    storage, _ = trained
    found = metrics(storage)
    model = keras.models.load_model(models(storage, found.run, "model.keras"), safe_mode=True)
    with Image.open(pictures / "nested" / "c.jpg") as image:
        whole = np.asarray(image.convert("RGB"), "float32")[None]
    assert whole.shape[1:3] != found.image_size
    fitted = load_pixels(pictures / "nested" / "c.jpg", found.image_size)[None].astype("float32")
    assert model.predict_on_batch(whole)[0, 0] == pytest.approx(
        float(model.predict_on_batch(fitted)[0, 0]), abs=0.03
    )


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("how", [("--mixed-precision", "yes"), ("--jit", "yes")])
def test_how_it_is_computed_is_not_in_the_model(
    how: tuple[str, str], fresh: Path, cache: Path, tmp_path: Path, run: Runner
) -> None:
    options = (*QUICK, "--no-export", "--run", "some")
    assert run("train", *on(fresh, cache), *options, *how).code == 0
    model = load_model(LocalStorage(fresh), metrics(fresh), tmp_path)
    assert {layer.dtype_policy.name for layer in model.layers[-1].layers} == {"float32"}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    precision = metrics(fresh).settings["mixed_precision"]
    assert precision == ("mixed_bfloat16" if "precision" in how[0] else "float32")
    assert math.isfinite(metrics(fresh).validation["loss"])


@pytest.mark.usefixtures("tiny_model")
def test_all_that_shapes_a_training_at_once(fresh: Path, cache: Path, run: Runner) -> None:
    ended = run(
        *("train", *on(fresh, cache), *QUICK, "--epochs", 3, "--no-export", "--run", "all"),
        *("--optimizer", "adamw", "--weight-decay", 0.01, "--schedule", "cosine"),
        *("--warmup-epochs", 1, "--label-smoothing", 0.1, "--clip-norm", 1),
        *("--class-weights", "none", "--micro-batch", 8),
        *("--cache-memory", 0, "--cache-bytes", 300_000),
    )
    assert ended.code == 0
    lines = [line for line in ended.lines if "beyond --cache-bytes" in line["event"]]
    assert {(line["level"], line["kept"] < line["images"]) for line in lines} == {("warning", True)}
    assert list(cache.glob("decoded-*")) == []
    rates = [row["learning_rate"] for row in metrics(fresh).history]
    assert rates[0] > rates[1] > rates[2] > 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--micro-batch", 5], "--micro-batch 5 must divide --batch-size 16"),
        (["--freeze-backbone", "yes"], "alexnet-small has no backbone to freeze"),
        (["--strategy", "multi-worker"], "--strategy multi-worker: give --workers"),
        (["--workers", 2], "--worker-addresses has 0 and --workers is 2"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(
    options: list[Any], complaint: str, fresh: Path, cache: Path, run: Runner
) -> None:
    ended = run("train", *on(fresh, cache), *QUICK, *options)
    assert ended.code == 2
    assert complaint in ended.complaint


# ---- streamed from a pack


@pytest.mark.usefixtures("tiny_model")
def test_a_training_from_a_pack(fresh: Path, cache: Path, run: Runner) -> None:
    ended = run("train", *on(fresh, cache), *QUICK, "--packed", "latest")
    assert ended.code == 3
    assert "run imagetag pack --tags red/disc first" in ended.complaint
    assert run("pack", *on(fresh), "--image-size", "72x72", "--shard-bytes", 20_000).code == 0
    shutil.rmtree(fresh / LAYOUT.root / "train")  # it needs none of the images themselves
    ended = run("train", *on(fresh, cache), *QUICK, "--packed", "latest", "--no-export")
    assert ended.code == 0
    found = metrics(fresh)
    assert found.image_size == (72, 72)
    assert found.images == {
        "train": {
            label: sum(row.label == label for row in ROWS if row.md5 in md5s("train"))
            for label in ("positive", "negative")
        },
        "validation": {
            label: sum(row.label == label for row in ROWS if row.md5 in md5s("validation"))
            for label in ("positive", "negative")
        },
        "threshold": {
            label: sum(row.label == label for row in ROWS if row.md5 in md5s("threshold"))
            for label in ("positive", "negative")
        },
    }
    again = run("train", *on(fresh, cache), *QUICK, "--packed", "latest", "--no-export")
    assert again.events[-1] == "already trained"
    other = run("train", *on(fresh, cache), *QUICK, "--packed", "latest", "--resize", "crop")
    assert other.code == 3
    assert "--resize letterbox and not crop" in other.complaint
    [shard, *_] = (fresh / LAYOUT.root / "packed").rglob("train-*.tfrecord")
    shard.write_bytes(shard.read_bytes()[:-5])
    broken = run("train", *on(fresh, cache), *QUICK, "--packed", "latest", "--seed", 3)
    assert broken.code == 3
    assert "is damaged" in broken.complaint


# ---- without suspect labels


def test_forgotten_tags_are_found_and_not_trained_on(
    tmp_path: Path, cache: Path, run: Runner
) -> None:
    """Some of the discs say that they are none."""
    positives = [item.row for item in PICTURES if item.row.label == "positive"]
    parts = {
        "train": [row for row in positives if row.md5 in md5s("train")][:5],
        "validation": [row for row in positives if row.md5 in md5s("validation")][:1],
        "test": [row for row in positives if row.split == "test"][:1],
    }
    forgotten = {row.md5 for rows in parts.values() for row in rows}
    assert len(forgotten) == 7

    def with_label(item: Picture) -> Picture:
        label: Label = "negative" if item.row.md5 in forgotten else item.row.label
        return Picture(item.row.model_copy(update={"label": label}), item.data)

    pictures = [with_label(item) for item in PICTURES]
    store(tmp_path, pictures)
    options = (*on(tmp_path, cache), *QUICK, "--image-size", "96x96", "--no-export")
    excluding = (*options, "--exclude-suspects", "latest")

    assert run("train", *options, "--run", "all").code == 0
    early = run("train", *excluding)
    assert early.code == 3
    assert "run imagetag evaluate --tags red/disc first" in early.complaint
    assert run("evaluate", *on(tmp_path, cache)).code == 0

    suspects = load_suspects(LocalStorage(tmp_path), TAG, "all")
    negatives = {item.md5: item for item in suspects.of_label("negative")}
    assert len(negatives.keys() & forgotten) >= 3  # what one epoch from scratch makes of few
    assert len(negatives.keys() - forgotten) <= 1
    for item in suspects.found:
        assert item.page_url == f"https://board.example/post/{item.post_id}"
    left_out = {md5 for md5, item in negatives.items() if item.part == "train"}
    assert left_out & forgotten

    ended = run("train", *excluding)
    assert ended.code == 0
    [line] = [line for line in ended.lines if line["event"] == "suspects excluded"]
    assert line["images"] == len(left_out)
    all_of_them, excluded = metrics(tmp_path, "all"), metrics(tmp_path)
    assert excluded.run != "all"
    assert excluded.images["validation"] == all_of_them.images["validation"]
    negative = all_of_them.images["train"]["negative"] - len(left_out)
    assert excluded.images["train"] == all_of_them.images["train"] | {"negative": negative}
    assert excluded.settings["exclude_suspects"] == line["by"]

    # That it is complete, or evaluated, does not make another training of the same command.
    assert run("evaluate", *on(tmp_path, cache)).code == 0
    assert load_suspects(LocalStorage(tmp_path), TAG, excluded.run).found
    for choice in ("latest", "all", line["by"]):
        again = run("train", *options, "--exclude-suspects", choice)
        assert (again.code, again.events[-1]) == (0, "already trained")
        assert again.lines[-1]["run"] == excluded.run

    pack = (*on(tmp_path), "--image-size", "72x72", "--shard-bytes", 20_000)
    assert run("pack", *pack, "--exclude-suspects", "latest").code == 0
    packed = (*on(tmp_path, cache), *QUICK, "--packed", "latest", "--no-export")
    refused = run("train", *packed)
    assert refused.code == 3
    assert f"is of --exclude-suspects {line['by']} and not no" in refused.complaint
    assert run("train", *packed, "--exclude-suspects", "latest").code == 0
    assert metrics(tmp_path).images == excluded.images


# ---- the SavedModel


def served(folder: Path, *batches: list[Path]) -> list[Any]:
    """Ask an exported model as a server does: in a fresh process, with TensorFlow alone.

    Returns:
        For each batch of files its probabilities, or its error.

    """
    script = """
    import json, sys
    import tensorflow as tf

    folder, batches = json.loads(sys.argv[1])
    model = tf.saved_model.load(folder)
    answers = []
    for names in batches:
        data = tf.constant([open(name, "rb").read() for name in names], tf.string)
        try:
            found = model.signatures["serving_default"](image_bytes=data)
            answers.append([float(value) for value in found["probability"]])
        except tf.errors.InvalidArgumentError as error:
            answers.append(error.message)
    assert "imagetag" not in sys.modules
    print(json.dumps(answers))
    """
    question = json.dumps([str(folder), [[str(path) for path in batch] for batch in batches]])
    answers: list[Any] = json.loads(run_forked(textwrap.dedent(script), [question]))
    return answers


def saved_model(storage: Path, name: str) -> Path:
    return models(storage, name, "saved_model", "2")


def test_the_saved_model_says_of_raw_files_what_predict_says(
    trained: tuple[Path, Ended], pictures: Path, run: Runner
) -> None:
    storage, _ = trained
    ended = run("predict", "--storage", storage, "--tag", TAG, "--input", pictures)
    rows = list(csv.DictReader(io.StringIO(ended.stdout, newline="")))
    good = [pictures / row["file"] for row in rows if not row["error"]]
    expected = [float(row["probability"]) for row in rows if not row["error"]]
    assert max(expected) - min(expected) > 0.05, "it says the same of all"
    bad = pictures / "corrupt.png"
    folder = saved_model(storage, metrics(storage).run)
    together, alone, error = served(folder, good, good[1:2], [good[0], bad, good[1]])
    assert together == pytest.approx(expected, abs=0.02)
    assert alone == pytest.approx(together[1:2], abs=1e-5)
    # One file that cannot be read: the whole batch is refused.
    assert isinstance(error, str)
    assert "Invalid PNG data" in error


def test_an_older_run_gets_its_saved_model_without_being_trained_again(
    trained: tuple[Path, Ended], cache: Path, pictures: Path, tmp_path: Path, run: Runner
) -> None:
    storage = shutil.copytree(trained[0], tmp_path / "storage")
    before = metrics(storage)
    shutil.rmtree(models(storage, before.run, "saved_model"))
    same = [*on(storage, cache), *QUICK, "--epochs", 3, "--seed", 11]
    assert run("train", *same, "--no-export").events[-1] == "already trained"
    assert not saved_model(storage, before.run).exists()
    assert run("train", *same).events[-1] == "already trained"
    assert metrics(storage) == before
    files = [pictures / "a, b.png", pictures / "nested" / "c.jpg"]
    (found,) = served(saved_model(storage, before.run), files)
    (expected,) = served(saved_model(trained[0], before.run), files)
    assert found == pytest.approx(expected, abs=1e-6)


# ---- how it is fitted


def constant_model(size: tuple[int, int] = (1, 1)) -> keras.Model:
    """A model that learns a bias alone, as all images are black."""
    inputs = keras.Input((*size, 3))
    features = keras.layers.GlobalAveragePooling2D(name="features")(inputs)
    logit = keras.layers.Dense(1, name="logit")(features)
    return keras.Model(inputs, keras.layers.Activation("sigmoid")(logit))


def fit(
    model: keras.Model, labels: list[int], validation: list[int], folder: Path, **changes: Any
) -> list[dict[str, float]]:
    def part(targets: list[int], shuffle: bool) -> Images:
        column = np.array(targets)
        there = np.ones(len(targets), np.bool_)
        source = Inputs(np.zeros((len(targets), 1, 1, 3), np.float32), there)
        groups = [str(number) for number in range(len(targets))]
        return Images(source, column, groups, Plan(column, 8, 1, shuffle=shuffle))

    storage = LocalStorage(folder)
    recipe = Recipe(**{"objective": Objective(), "patience": 20, **changes})
    fitting = Fitting(
        model,
        [Phase("all", "all", 20, 0.1)],
        recipe,
        part(labels, shuffle=True),
        part(validation, shuffle=False),
        Cluster(tf.distribute.get_strategy),
        Checkpoints(storage, TAG, "some", folder / "local"),
        "identity",
    )
    return fitting.fit(resume=True).history


@pytest.mark.usefixtures("tiny_model")
def test_both_labels_count_alike_however_many_there_are(tmp_path: Path) -> None:
    counts: dict[Label, int] = {"positive": 6, "negative": 18}
    weights = training_run._class_weights(counts)
    assert weights == pytest.approx((24 / 36, 24 / 12))
    model = constant_model()
    labels = [1] * 6 + [0] * 18
    fit(model, labels, labels, tmp_path, objective=Objective(class_weights=weights))
    # Knowing nothing, it says a half rather than a quarter.
    assert model.predict_on_batch(np.zeros((1, 1, 1, 3)))[0, 0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("tiny_model")
def test_training_stops_early_with_the_weights_of_the_best_epoch(tmp_path: Path) -> None:
    model = constant_model()
    # The longer it learns that all are positive, the worse it is at these.
    history = fit(model, [1] * 24, [1] * 5 + [0] * 4, tmp_path, patience=4)
    losses = [row["val_loss"] for row in history]
    best = losses.index(min(losses))
    assert len(history) == best + 1 + 4
    assert losses[-1] > losses[best] + 0.01
    score = float(model.predict_on_batch(np.zeros((1, 1, 1, 3)))[0, 0])
    expected = -(5 * math.log(score) + 4 * math.log(1 - score)) / 9
    assert losses[best] == pytest.approx(expected, abs=1e-5)
    # Half of the patience without a better epoch, and the rate is half.
    rates = [row["learning_rate"] for row in history]
    assert rates[best + 2] == 0.1
    assert rates[best + 3] == 0.05


# ---- weights


@pytest.fixture
def bucket(s3_settings: None) -> str:
    boto3.Session().client("s3").create_bucket(Bucket="weights")
    return "s3://weights"


@pytest.mark.parametrize(
    ("model", "weights", "freeze", "expected"),
    [
        ("vgg19", "auto", "auto", ("imagenet", "yes", 1e-3)),
        ("vgg19", "imagenet", "no", ("imagenet", "no", 1e-4)),
        ("vgg19", "my.weights.h5", "auto", ("my.weights.h5", "yes", 1e-3)),
        ("vgg19", "none", "auto", ("none", "no", 1e-3)),
        ("alexnet", "auto", "auto", ("none", "no", 1e-4)),
        ("alexnet-bn", "auto", "auto", ("none", "no", 1e-3)),
        ("alexnet-bn", "my.weights.h5", "auto", ("my.weights.h5", "no", 1e-4)),
    ],
)
def test_what_auto_stands_for(
    model: str, weights: str, freeze: Any, expected: tuple[str, str, float]
) -> None:
    asked = Training(model=model, weights=weights, freeze_backbone=freeze)
    found = settled(asked)
    assert (found.weights, found.freeze_backbone, found.learning_rate) == expected
    assert settled(asked.model_copy(update={"learning_rate": 0.5})).learning_rate == 0.5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("fitted", "yes")),
        ({"mirror": "no"}, ("fitted", "no")),
        ({"head": "trained"}, ("trained", "no")),
        ({"head": "trained", "mirror": "yes"}, ("trained", "yes")),
        ({"freeze_backbone": "no"}, ("trained", "no")),
        ({"packed": "latest"}, ("trained", "no")),
        ({"model": "alexnet"}, ("trained", "no")),
    ],
)
def test_a_frozen_backbones_head_is_fitted_and_sees_the_mirror_image(
    changes: dict[str, str], expected: tuple[str, str]
) -> None:
    found = settled(Training(**changes))
    assert (found.head, found.mirror) == expected


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"head": "fitted", "freeze_backbone": "no"}, "--head fitted: vgg19 is not frozen"),
        ({"head": "fitted", "packed": "latest"}, "--head fitted: not with --packed"),
        (
            {"head": "fitted", "model": "alexnet"},
            "--head fitted: alexnet has no backbone",
        ),
        ({"mirror": "yes", "model": "alexnet"}, "--mirror yes: alexnet has no backbone"),
    ],
)
def test_heads_that_cannot_be_are_one_line(changes: dict[str, str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        settled(Training(**changes))


def test_a_run_from_before_heads_were_fitted_is_one_without() -> None:
    found = settled(Training(head="trained")).model_dump()
    old = {name: value for name, value in found.items() if name not in ("head", "mirror")}
    assert deciding(old) == deciding(found)
    assert deciding(old) != deciding(settled(Training()))


def test_an_old_copy_of_stored_weights_is_not_trusted(tmp_path: Path) -> None:
    right = b"\x89HDF\r\n\x1a\n".ljust(100, b"\0")  # as much of it as is looked at
    (tmp_path / "my.weights.h5").write_bytes(right)
    url = (tmp_path / "my.weights.h5").as_uri()
    path = find_weights(url, tmp_path / "cache")
    assert isinstance(path, Path)
    path.write_bytes(b"wrong")
    stored_weights.cache_clear()  # as in another process
    assert find_weights(url, tmp_path / "cache") == path
    assert path.read_bytes() == right


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("place", ["file", "s3"])
def test_training_goes_on_from_given_weights(
    place: str, bucket: str, fresh: Path, cache: Path, tmp_path: Path, run: Runner
) -> None:
    keras.utils.set_random_seed(77)
    source = build_model("alexnet-small", (96, 96), weights=None)
    path = tmp_path / "some.weights.h5"
    source.save_weights(path)
    if place == "s3":
        open_storage(bucket).upload(path, "of/mine.weights.h5")
        path.unlink()
    weights = path if place == "file" else f"{bucket}/of/mine.weights.h5"

    still = ("--learning-rate", 1e-12, "--no-export")
    ended = run("train", *on(fresh, cache), *QUICK, *still, "--weights", weights)

    assert ended.code == 0
    found = metrics(fresh)
    assert found.settings["weights"] == str(weights)
    model = load_model(LocalStorage(fresh), found, tmp_path)
    for ours, theirs in zip(model.trainable_weights, source.trainable_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


# ---- how it fails


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--image-size", "96"], "'96' is no size: write HEIGHTxWIDTH"),
        (["--image-size", "0x96"], "'0x96' is no size: write HEIGHTxWIDTH"),
        (["--image-size", "32x32"], "needs 67 pixels"),
        (["--model", "vgg20"], "there is no model 'vgg20'; did you mean vgg19?"),
        (["--weights", "imagenet"], "no ImageNet weights"),
        (["--weights", "/nowhere/some.h5"], "there is no file '/nowhere/some.h5'"),
        (["--weights", "s3://weights/none.h5"], "--weights 's3://weights/none.h5': "),
        (["--weights", "http://example.org/some.h5"], "--weights 'http://example.org/some.h5': "),
        (["--run", "../x"], "--run '../x'"),
    ],
)
def test_wrong_settings_end_with_2_and_one_line(
    options: list[str], complaint: str, bucket: str, fresh: Path, cache: Path, run: Runner
) -> None:
    ended = run("train", *on(fresh, cache), *QUICK, *options)
    assert ended.code == 2
    assert complaint in ended.complaint
    assert not models(fresh).exists()


def test_an_unexplored_tag_has_no_input_size(fresh: Path, cache: Path, run: Runner) -> None:
    shutil.rmtree(fresh / LAYOUT.root / "explore")
    ended = run("train", *on(fresh, cache), *QUICK)
    assert ended.code == 3
    assert "run imagetag explore --tags red/disc first" in ended.complaint


def test_a_tag_that_was_not_scraped(tmp_path: Path, cache: Path, run: Runner) -> None:
    ended = run("train", *on(tmp_path, cache), *QUICK)
    assert ended.code == 3
    assert "run imagetag scrape --tags red/disc first" in ended.complaint


@pytest.mark.parametrize(
    ("kept", "complaint"),
    [
        (lambda row: row.label == "positive", "has 0 negative images to train on and 8 are"),
        (lambda row: row.post_id < 12, r"has \d \w+ images to train on and 8 are"),
    ],
)
def test_too_few_images_are_said_with_what_to_do(
    kept: Callable[[Row], bool], complaint: str, tmp_path: Path, cache: Path, run: Runner
) -> None:
    store(tmp_path, [item for item in PICTURES if kept(item.row)])
    ended = run("train", *on(tmp_path, cache), *QUICK, "--image-size", "96x96")
    assert ended.code == 3
    assert re.search(complaint, ended.complaint)
    assert "scrape more" in ended.complaint


def test_a_family_that_has_all_positives_leaves_none_to_validate_on(
    tmp_path: Path, cache: Path, run: Runner
) -> None:
    def in_one_family(item: Picture) -> Picture:
        group = "all" if item.row.label == "positive" else item.row.group
        return Picture(item.row.model_copy(update={"group": group}), item.data)

    store(tmp_path, map(in_one_family, PICTURES))
    ended = run("train", *on(tmp_path, cache), *QUICK, "--image-size", "96x96")
    assert ended.code == 3
    assert "has 0 positive images to validate on and 2 are" in ended.complaint


@pytest.mark.usefixtures("tiny_model")
def test_a_training_that_diverges_is_one_line(fresh: Path, cache: Path, run: Runner) -> None:
    ended = run("train", *on(fresh, cache), *QUICK, "--learning-rate", 1e38)
    assert (ended.code, ended.stdout) == (3, "")
    assert "diverged" in ended.complaint
    assert "--learning-rate 1e+38: try a tenth of it" in ended.complaint
    assert not models(fresh).exists()


# ---- evaluate


@pytest.fixture(scope="module")
def evaluated(
    trained: tuple[Path, Ended], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ended, Run]:
    """A storage with an evaluation by another process; no image it was trained on was there."""
    folder = tmp_path_factory.mktemp("evaluated")
    storage = shutil.copytree(trained[0], folder / "storage")
    shutil.rmtree(storage / LAYOUT.root / "train")
    for item in PICTURES:
        if item.row.split == "test" or item.row.md5 in md5s("threshold"):
            LocalStorage(storage).write(key_of(item.row, TAG), item.data)
    ended = forked("evaluate", *on(storage, folder / "cache"), "--no-suspects")
    return storage, ended, metrics(storage)


def rows_of(storage: Path, name: str) -> list[dict[str, str]]:
    with models(storage, name, "test_predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def evaluation(storage: Path, name: str) -> Evaluation:
    return Evaluation.model_validate_json(models(storage, name, "evaluation.json").read_bytes())


def test_the_numbers_are_those_of_the_stored_predictions(
    evaluated: tuple[Path, Ended, Run],
) -> None:
    storage, ended, found = evaluated
    assert (ended.code, ended.stdout) == (0, "")
    with models(storage, found.run, "test_predictions.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    labels = np.array([row["label"] == "positive" for row in table])
    scores = np.array([float(row["probability"]) for row in table])
    result = evaluation(storage, found.run)
    decision = load_decision(LocalStorage(storage), TAG, found.run, found.created)
    assert decision == result.decision
    called = np.array([float(row["logit"]) for row in table]) >= decision.logit_threshold - 1e-6
    assert called.tolist() == [row["decision"] == "true" for row in table]
    numbers = result.metrics.chosen
    assert (result.tag, result.run, numbers.threshold) == (TAG, found.run, decision.threshold)
    assert numbers.accuracy.value == pytest.approx((called == labels).mean())
    assert numbers.recall.value == pytest.approx(called[labels].mean())
    assert numbers.precision.value == pytest.approx(labels[called].mean())
    assert numbers.specificity.value == pytest.approx((~called)[~labels].mean())
    assert numbers.confusion.model_dump() == {
        "tp": (called & labels).sum(),
        "fp": (called & ~labels).sum(),
        "fn": (~called & labels).sum(),
        "tn": (~called & ~labels).sum(),
    }
    area, precision = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    assert result.metrics.roc_auc.value == pytest.approx(area, abs=1e-4)
    assert result.metrics.average_precision.value == pytest.approx(precision, abs=1e-4)
    assert list(scores) == sorted(scores, reverse=True)


def test_the_threshold_was_chosen_on_pictures_that_chose_nothing_else(
    evaluated: tuple[Path, Ended, Run],
) -> None:
    storage, _, found = evaluated
    with models(storage, found.run, "threshold_predictions.csv").open(newline="") as stream:
        table = {row["md5"]: row for row in csv.DictReader(stream)}
    assert table.keys() == md5s("threshold")
    result = evaluation(storage, found.run)
    promise = result.decision.promise
    assert promise is not None
    labels = [row["label"] == "positive" for row in table.values()]
    assert result.chosen_on == {"positive": sum(labels), "negative": len(labels) - sum(labels)}
    groups = {row["group"] for row in table.values()}
    assert promise.positives + promise.negatives == len(groups)
    assert not promise.met  # of so few pictures nothing can be promised
    assert promise.needed is None or promise.needed > promise.positives


def test_what_was_learned_from_chooses_no_threshold_however_it_is_grouped_by_then(
    evaluated: tuple[Path, Ended, Run], cache: Path, tmp_path: Path, run: Runner
) -> None:
    storage = shutil.copytree(evaluated[0], tmp_path / "storage")
    kept, learned = sorted(md5s("threshold")), sorted(md5s("train"))
    by_md5 = {row.md5: row for row in ROWS}
    # A curation finds that two of what was kept are twins of what was learned from; a later scrape
    # brings pictures that turn the order of groups, and so the parts of another training.
    groups = {kept[0]: "twins 1", learned[0]: "twins 1", kept[1]: "twins 2", learned[1]: "twins 2"}
    groups |= {md5: f"renamed {md5}" for md5 in learned[2:]}
    relabelled, gone = kept[2], kept[3]

    def now(item: Picture) -> Picture:
        row = item.row.model_copy(update={"group": groups.get(item.row.md5, item.row.group)})
        if row.md5 == relabelled:
            other: Label = "negative" if row.label == "positive" else "positive"
            row = row.model_copy(update={"label": other})
        return Picture(row, item.data)

    more = [item for item in map(draw, range(1000, 1030)) if item.row.split == "train"]
    store(storage, [*(now(item) for item in PICTURES if item.row.md5 != gone), *more])
    ended = run("evaluate", *on(storage, cache), "--no-suspects")
    assert ended.code == 0
    [line] = [line for line in ended.lines if "has changed since" in line["event"]]
    since = {"added": len(more), "gone": 1, "relabelled": 1, "tied": 2}
    assert {name: line[name] for name in since} == since
    found = evaluation(storage, evaluated[2].run)
    assert found.since.model_dump() == since
    with models(storage, found.run, "threshold_predictions.csv").open(newline="") as stream:
        table = {row["md5"]: row for row in csv.DictReader(stream)}
    assert table.keys() == {*kept[2:]} - {gone}
    assert table[relabelled]["label"] != by_md5[relabelled].label
    assert found.decision.fingerprint != evaluated[2].fingerprint


@pytest.mark.usefixtures("tiny_model")
def test_other_groups_are_another_training(
    trained: tuple[Path, Ended], cache: Path, tmp_path: Path, run: Runner
) -> None:
    storage = shutil.copytree(trained[0], tmp_path / "storage")
    same = [*on(storage, cache), *QUICK, "--seed", 11, "--no-export", "--image-size", "96x96"]
    before = metrics(storage)
    twins = {row.group for row in ROWS if row.split == "train"}
    [one, other, *_] = sorted(twins)

    def merged(item: Picture) -> Picture:
        group = one if item.row.group == other else item.row.group
        return Picture(item.row.model_copy(update={"group": group}), item.data)

    store(storage, map(merged, PICTURES))
    refused = run("train", *same, "--epochs", 3, "--run", before.run)
    assert refused.code == 2
    assert "with other settings or other images" in refused.complaint
    ended = run("train", *same, "--epochs", 1)
    assert "already trained" not in ended.events
    assert metrics(storage).fingerprint != before.fingerprint


@pytest.mark.parametrize("damage", ["unknown", "missing", "another"])
def test_a_run_of_which_nobody_knows_what_it_learned_from_is_not_evaluated(
    damage: str,
    evaluated: tuple[Path, Ended, Run],
    cache: Path,
    tmp_path: Path,
    run: Runner,
) -> None:
    storage, name = shutil.copytree(evaluated[0], tmp_path / "storage"), evaluated[2].run
    models(storage, name, "evaluation.json").unlink()
    parts, marker = models(storage, name, "parts.csv"), models(storage, name, "metrics.json")
    if damage == "unknown":  # as runs were before it was stored
        found = json.loads(marker.read_text())
        del found["parts"]
        marker.write_text(json.dumps(found))
    elif damage == "missing":
        parts.unlink()
    else:
        parts.write_bytes(parts.read_bytes().replace(b"threshold", b"train"))
    ended = run("evaluate", *on(storage, cache), "--no-suspects")
    assert ended.code == 3
    assert re.search(r"train (it|the run) again", ended.complaint)
    # Which costs no training where the run tells what it was.
    ended = run("train", *on(storage, cache), *QUICK, "--epochs", 3, "--seed", 11)
    assert (ended.code, ended.events[-1]) == (0, "already trained")
    known = damage != "unknown"
    assert run("evaluate", *on(storage, cache), "--no-suspects").code == (0 if known else 3)


def test_an_evaluation_is_made_anew_where_other_cautions_hold(
    evaluated: tuple[Path, Ended, Run], cache: Path, tmp_path: Path, run: Runner
) -> None:
    storage, name = shutil.copytree(evaluated[0], tmp_path / "storage"), evaluated[2].run
    mark = Mark(tag="owl", negatives=0.9, positives=0.1, board=0.1)
    dataset = load_dataset(LocalStorage(storage), TAG)
    marked = dataset.model_copy(update={"negatives_marked_by": (mark,)})
    write_dataset(LocalStorage(storage), marked)
    ended = run("evaluate", *on(storage, cache), "--no-suspects")
    assert "already evaluated" not in ended.events
    assert mark.caution in evaluation(storage, name).cautions


def test_as_many_positives_are_expected_as_groups_have() -> None:
    rows = [row for row in ROWS if row.split == "train"]
    positive = [row for row in rows if row.label == "positive"]
    negative = [row for row in rows if row.label == "negative"]
    family = [row.model_copy(update={"group": "family"}) for row in negative]
    alone = [row.model_copy(update={"group": row.md5}) for row in positive]
    expected = len(alone) / (len(alone) + 1)
    assert share_of_positives([*family, *alone]) == pytest.approx(expected)


def test_every_test_image_is_scored_and_no_other(
    evaluated: tuple[Path, Ended, Run], tmp_path: Path
) -> None:
    storage, ended, found = evaluated
    assert "left out" not in ended.events, "it asked for train images"
    with models(storage, found.run, "test_predictions.csv").open(newline="") as stream:
        table = {row["md5"]: row for row in csv.DictReader(stream)}
    wanted = {item.row.md5: item for item in PICTURES if item.row.split == "test"}
    assert table.keys() == wanted.keys()
    model = load_model(LocalStorage(storage), found, tmp_path)
    calibration = evaluation(storage, found.run).decision.calibration
    for md5, item in list(wanted.items())[:5]:
        pixels = load_pixels(item.data, found.image_size)[None]
        raw = logit(float(model.predict(pixels, verbose=0)[0, 0]))
        assert float(table[md5]["logit"]) == pytest.approx(raw, abs=1e-3)
        expected = float(calibration.probabilities(raw))
        assert float(table[md5]["probability"]) == pytest.approx(expected, abs=1e-3)
        assert (table[md5]["label"], table[md5]["page_url"]) == (item.row.label, item.row.page_url)


def test_what_is_done_already_is_told_without_tensorflow(
    evaluated: tuple[Path, Ended, Run], cache: Path
) -> None:
    storage, _, _ = evaluated
    imported = imported_by(
        ["train", *on(storage, cache), *QUICK, "--epochs", 3, "--seed", 11],
        ["evaluate", *on(storage, cache), "--no-suspects"],
    )
    assert imported & HEAVY == set()


def test_the_page_names_the_tag_and_the_run(evaluated: tuple[Path, Ended, Run]) -> None:
    storage, ended, found = evaluated
    page = models(storage, found.run, "report.html").read_text()
    assert TAG in page
    assert found.run in page
    assert ended.lines[-1]["report"] == str(models(storage, found.run, "report.html"))


def test_the_model_card_has_the_test_figures(evaluated: tuple[Path, Ended, Run]) -> None:
    storage, _, run = evaluated
    card = (storage / Layout(run.tag).run(run.run, "README.md")).read_text()
    assert "model-index:" in card
    assert "that neither the training nor the choice" in card


def test_evaluating_again_does_nothing_unless_asked_for_more(
    evaluated: tuple[Path, Ended, Run], cache: Path, tmp_path: Path, run: Runner
) -> None:
    original, _, found = evaluated
    storage = shutil.copytree(original, tmp_path / "storage")
    marker = models(storage, found.run, "evaluation.json")
    before = marker.stat().st_mtime_ns
    ended = run("evaluate", *on(storage, cache), "--no-suspects")
    assert (ended.code, ended.events) == (0, ["already evaluated"])
    assert marker.stat().st_mtime_ns == before
    # A promise that was not made is none the second time.
    ended = run("evaluate", *on(storage, cache), "--no-suspects", "--require-promise")
    assert (ended.code, ended.events[0]) == (3, "already evaluated")
    assert "--min-precision 0.95 cannot be promised" in ended.complaint

    given = ("--no-suspects", "--threshold", 0.7)
    assert run("evaluate", *on(storage, cache), *given).code == 0
    result = evaluation(storage, found.run)
    assert result.metrics.chosen.threshold == 0.7
    assert result.decision.promise is None
    decided = [(float(row["probability"]), row["decision"]) for row in rows_of(storage, found.run)]
    assert all((chance >= 0.7) == (decision == "true") for chance, decision in decided)

    # The same name, trained anew: the old numbers are not this model's.
    path = models(storage, found.run, "metrics.json")
    renewed = found.model_copy(update={"created": "2027-01-01T00:00:00+00:00"})
    path.write_text(renewed.model_dump_json())
    assert run("evaluate", *on(storage, cache), *given).events[-1] == "evaluated"


def test_what_evaluation_lacks_is_said_with_what_to_do(
    evaluated: tuple[Path, Ended, Run], fresh: Path, cache: Path, tmp_path: Path, run: Runner
) -> None:
    ended = run("evaluate", *on(fresh, cache))
    assert ended.code == 3
    assert "run imagetag train --tags red/disc first" in ended.complaint

    storage = shutil.copytree(evaluated[0], tmp_path / "evaluated")
    ended = run("evaluate", *on(storage, cache), "--run", "unknown")
    assert ended.code == 3
    assert "no complete run 'unknown'" in ended.complaint

    store(storage, [x for x in PICTURES if x.row.split == "train" or x.row.label == "positive"])
    ended = run("evaluate", *on(storage, cache))
    assert ended.code == 3
    assert "has no negative image to test" in ended.complaint

    kept = md5s("threshold")
    store(storage, [x for x in PICTURES if x.row.md5 not in kept or x.row.label == "positive"])
    ended = run("evaluate", *on(storage, cache))
    assert ended.code == 3
    assert "has no negative image to choose the threshold on" in ended.complaint

    (storage / LAYOUT.dataset).unlink()
    ended = run("evaluate", *on(storage, cache))
    assert ended.code == 3
    assert "no complete dataset" in ended.complaint


# ---- predict


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good pictures, a corrupt one, a text, and a folder in it."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "nested" / "deep").mkdir(parents=True)
    for number, name in enumerate(["a, b.png", "nested/c.jpg", "nested/deep/d.png"]):
        (folder / name).write_bytes(PICTURES[number].data)
    (folder / "corrupt.png").write_bytes(PICTURES[1].data[:100])
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def test_predicting_a_folder_gives_a_row_a_picture(
    trained: tuple[Path, Ended], pictures: Path
) -> None:
    ended = forked("predict", "--storage", trained[0], "--tag", TAG, "--input", pictures)
    assert ended.code == 0
    table = list(csv.DictReader(io.StringIO(ended.stdout, newline="")))
    assert [row["file"] for row in table] == [
        "a, b.png",
        "corrupt.png",
        "nested/c.jpg",
        "nested/deep/d.png",
    ]
    for row in table:
        if row["file"] == "corrupt.png":
            assert (row["probability"], row["decision"]) == ("", "")
            assert row["error"].startswith("truncated: ")
        else:
            assert row["decision"] == str(float(row["probability"]) >= 0.5).lower()
            assert row["error"] == ""
    last = ended.lines[-1]
    assert (last["event"], last["images"], last["errors"]) == ("predicted", 4, 1)
    assert ended.lines[-2]["event"] == "files that are no images, or hidden, were passed over"
    assert ended.lines[-2]["files"] == 1


def test_predictions_are_stored_where_asked(
    trained: tuple[Path, Ended], pictures: Path, tmp_path: Path, bucket: str, run: Runner
) -> None:
    options = ("--storage", trained[0], "--tag", TAG, "--input", pictures)
    for output in (tmp_path / "new" / "out.jsonl", f"{bucket}/some/out.jsonl"):
        ended = run("predict", *options, "--output", output, "--batch-size", 2)
        assert (ended.code, ended.stdout) == (0, "")
    data = (tmp_path / "new" / "out.jsonl").read_bytes()
    assert open_storage(bucket).read("some/out.jsonl") == data
    rows = [json.loads(line) for line in data.splitlines()]
    assert [row["decision"] is None for row in rows] == [False, True, False, False]


@pytest.mark.parametrize(
    ("changes", "code", "complaint"),
    [
        ({"--input": "EMPTY"}, 2, "there is no such folder"),
        ({"--tag": "unknown"}, 3, "no trained model of the tag 'unknown'"),
        ({"--run": "unknown"}, 3, "no complete run 'unknown'"),
        ({"--output": "some.txt"}, 2, "must end in .csv, .jsonl or .parquet"),
        ({"--input": "ftp://example.org/"}, 2, "ftp://example.org/"),
    ],
)
def test_what_prediction_lacks_is_one_line(
    changes: dict[str, str],
    code: int,
    complaint: str,
    trained: tuple[Path, Ended],
    pictures: Path,
    tmp_path: Path,
    run: Runner,
) -> None:
    output = tmp_path / "out.csv"
    options: dict[str, Any] = {"--storage": trained[0], "--tag": TAG, "--input": pictures}
    options |= {"--output": output} | changes
    if options["--input"] == "EMPTY":
        options["--input"] = tmp_path / "empty"
    ended = run("predict", *(word for option in options.items() for word in option))
    assert ended.code == code
    assert complaint in ended.complaint
    assert not output.exists()
