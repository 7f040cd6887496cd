"""Several devices and several processes train one model, and go on together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import jobs.pack
from imagetag.dataset.split import parts_of_groups
from imagetag.runs.loading import load_model
from imagetag.storage.local import LocalStorage
from tests.builders.drawn import PICTURES, TAG
from tests.integration.trainings import (
    RARELY,
    SMALL,
    Start,
    assert_same,
    dataset,
    finish,
    held,
    lines_of,
    run_of,
    starting,
    weights_of,
)

# No batch normalization, which is sensitive to rounding, and no dropout, of which each replica has
# its own.
EXACT = (
    *("--model", "alexnet", "--dropout", 0, "--image-size", "72x72", "--optimizer", "sgd"),
    *("--learning-rate", 0.01, "--epochs", 2, "--patience", 9, "--no-export"),
)

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def start(storage: Path, tmp_path: Path) -> Iterator[Start]:
    with starting(storage, tmp_path) as start:
        yield start


def test_replicas_and_workers_train_as_one_process_does(storage: Path, start: Start) -> None:
    finish(start("one", *EXACT, "--batch-size", 16))
    # Two workers of two replicas each, which take their four images in two parts.
    halves = ("--batch-size", 4, "--micro-batch", 2, "--cpu-devices", 2)
    finish(start("four", *EXACT, *halves, workers=2))
    one, four = run_of(storage, "one"), run_of(storage, "four")
    assert abs(one.history[0]["loss"] - one.history[1]["loss"]) > 1e-4, "it learned nothing"
    assert (four.global_batch, four.replicas, four.workers) == (16, 4, 2)
    assert four.images == one.images
    # What rounding does to a step grows in the next ones.
    for row, other, near in zip(one.history, four.history, (1e-5, 3e-4), strict=True):
        assert other == pytest.approx(row, rel=near, abs=1e-6)
    for ours, theirs in zip(weights_of(storage, "four"), weights_of(storage, "one"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_head_is_fitted_by_all_workers_as_by_one(
    storage: Path, start: Start, tmp_path: Path
) -> None:
    frozen = (
        *("--model", "mobilenet", "--weights", "none", "--freeze-backbone", "yes"),
        *("--image-size", "32x32", "--no-augment", "--dropout", 0, "--fine-tune-blocks", 0),
        "--no-export",
    )
    finish(start("features-one", *frozen, "--batch-size", 16))
    finish(start("features-two", *frozen, "--batch-size", 8, workers=2))
    one, two = run_of(storage, "features-one"), run_of(storage, "features-two")
    assert (one.settings["head"], one.settings["mirror"]) == ("fitted", "yes")
    assert (one.best_epoch, len(one.history)) == (1, 1)
    assert two.history[0] == pytest.approx(one.history[0], rel=1e-3, abs=1e-4)
    model, other = (
        load_model(LocalStorage(storage), found, tmp_path / found.run) for found in (one, two)
    )
    pixels = np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    said = model.predict_on_batch(pixels)
    np.testing.assert_allclose(other.predict_on_batch(pixels), said, atol=1e-3)
    # Of a picture and of its mirror image it says the same.
    np.testing.assert_allclose(model.predict_on_batch(pixels[:, :, ::-1]), said, atol=1e-6)


def test_each_worker_fetches_its_own_share(storage: Path, start: Start, tmp_path: Path) -> None:
    finish(start("shares", *SMALL, "--epochs", 1, "--batch-size", 8, workers=2))
    shares = [
        {path.stem for path in (tmp_path / f"cache-{index}" / "images").rglob("*.*")}
        for index in (0, 1)
    ]
    rows = [item.row for item in PICTURES if item.row.split == "train"]
    parts = parts_of_groups(((row.group, row.label) for row in rows), 0.15, 0.2)
    wanted = {row.md5 for row in rows if parts[row.group] != "threshold"}
    assert shares[0] | shares[1] == wanted
    assert abs(len(shares[0]) - len(shares[1])) <= 8  # of the last batch, the first has more
    # Only what fills up the validation's one batch may be on both.
    assert len(shares[0] & shares[1]) <= 2


def test_two_workers_that_stream_shards_go_on_too(storage: Path, start: Start) -> None:
    pack = ["--storage", str(storage), "--tags", TAG, "--shard-bytes", "20000"]
    assert jobs.pack.main([*pack, "--image-size", "72x72"]) == 0
    options = (*SMALL, "--packed", "latest", "--batch-size", 8)
    finish(start("stream-calm", *options, workers=2))
    workers = start("stream-torn", *options, workers=2, before=held(2))
    workers[0].wait_for("held")
    workers[0].process.kill()
    assert workers[1].wait() == 75
    finish(start("stream-torn", *options, workers=2))
    assert_same(storage, "stream-calm", "stream-torn")


def test_when_a_worker_dies_all_leave_and_go_on_together(storage: Path, start: Start) -> None:
    options = (*SMALL, "--batch-size", 8)
    finish(start("workers-calm", *options, workers=2))
    left, dead = start("workers-torn", *options, workers=2, before=held(2, 1))
    dead.wait_for("held")
    dead.process.kill()
    assert left.wait() == 75
    assert "start all of them again" in left.complaint

    chief, told = start("workers-torn", *options, workers=2, before=held(1, 1))
    told.wait_for("held")
    told.process.send_signal(signal.SIGTERM)
    assert told.wait() == 143
    assert chief.wait() == 75

    workers = start("workers-torn", *options, workers=2)
    finish(workers)
    places = [
        [(line["epoch"], line["step"], line["digest"]) for line in worker.lines()
         if line["event"] == "resumed"]
        for worker in workers
    ]  # fmt: skip
    assert places[0] == places[1]
    assert len(places[0]) == 1
    assert_same(storage, "workers-calm", "workers-torn")

    # One that was started again when all was done has nothing to wait for.
    [late] = start("workers-torn", *options, workers=2, only=1)
    assert late.wait() == 0


@pytest.mark.parametrize("told", [0, 1])
def test_where_one_of_two_workers_is_interrupted_both_go_on_from_there(
    told: int, start: Start
) -> None:
    options = (f"interrupted-{told}", *SMALL, *RARELY, "--batch-size", 8)
    workers = start(*options, workers=2, before=held(2, told))
    workers[told].wait_for("held")
    workers[told].process.send_signal(signal.SIGINT)
    assert workers[told].wait() == 130
    assert "; a checkpoint is stored (epoch " in workers[told].complaint
    assert workers[1 - told].wait() == 75
    workers = start(*options, workers=2)
    finish(workers)
    resumed = [
        {(line["epoch"], line["digest"]) for line in worker.lines() if line["event"] == "resumed"}
        for worker in workers
    ]
    assert resumed[0] == resumed[1]
    assert min(resumed[0])[0] > 2


def test_two_workers_that_are_interrupted_together_go_on_too(start: Start) -> None:
    """Ctrl-C in a terminal reaches all that were started there."""
    options = ("interrupted", *SMALL, *RARELY, "--batch-size", 8)
    workers = start(*options, workers=2, before=held(2))
    workers[0].wait_for("held")
    for worker in workers:
        worker.process.send_signal(signal.SIGINT)
    assert [worker.wait() for worker in workers] == [130, 130]
    workers = start(*options, workers=2)
    finish(workers)
    assert "resumed" in [line["event"] for line in workers[0].lines()]


def test_a_tag_that_cannot_be_trained_stops_no_other(storage: Path, start: Start) -> None:
    """As with one worker; all of them know which, and why."""
    tags = ("--tags", f"nothere,{TAG},gone", "--epochs", 1)
    told = []
    for name, workers in (("tags-1", 1), ("tags-2", 2)):
        started = start(name, *SMALL, *tags, "--batch-size", 16 // workers, workers=workers)
        for worker in started:
            assert worker.wait() == 3, worker.log.read_text()
            assert worker.complaint == "2 of 3 tags failed: nothere, gone"
            # One worker alone also tells which tags there are.
            errors = [line["event"] for line in worker.lines() if line["level"] == "error"]
            told.append([text.partition(f" in {storage}: ")[0] for text in errors])
        assert lines_of(started[0], "trained")
        assert run_of(storage, name).workers == workers
    assert told == [told[0]] * 3
    assert told[0][0] == "no complete dataset of the tag 'nothere'"

    # Given again, what is trained is not trained again.
    for worker in start("tags-2", *SMALL, *tags, "--batch-size", 8, workers=2):
        assert worker.wait() == 3, worker.log.read_text()
        assert lines_of(worker, "already trained")


@pytest.mark.parametrize("tags", ["{}", "nothere,{}", "{},nothere"])
def test_workers_that_see_different_datasets_start_again(
    tags: str, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    options = (*SMALL, "--epochs", 1, "--batch-size", 8, "--tags", tags.format(TAG))
    workers = start("apart", *options, workers=2, own=((), ("--storage", tmp_path / "empty")))
    assert [worker.wait() for worker in workers] == [75, 75]
    assert all("start all" in worker.complaint for worker in workers)


def test_a_worker_that_never_comes_is_waited_for_no_longer_than_asked(start: Start) -> None:
    for index in (0, 1):
        options = (*SMALL, "--rendezvous-timeout", 3)
        [alone] = start("alone", *options, workers=2, only=index)
        assert alone.wait() == 75
        assert "--rendezvous-timeout" in alone.complaint
