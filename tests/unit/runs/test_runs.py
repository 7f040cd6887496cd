"""Runs in storage: found by name or as the newest, and what is wrong with one is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from imagetag.errors import InputError, UsageError
from imagetag.layout import Layout
from imagetag.models.architectures import build_model
from imagetag.runs.loading import load_model
from imagetag.runs.runs import Run, load_run
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from tests.builders.runs import make_run, store_run
from tests.forked import run_forked

TAG = "fate/stay_night"
LAYOUT = Layout(TAG)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "storage"))


def a_run(**changes: Any) -> Run:
    return make_run(**{"tag": TAG, **changes})


def complaint(work: Callable[[], object]) -> str:
    """What an input error says, which is one line."""
    with pytest.raises(InputError) as caught:
        work()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_found_by_its_name_and_the_newest_as_latest(storage: Storage) -> None:
    first, second = a_run(), a_run(run="second", seed=2)
    store_run(storage, first)
    store_run(storage, second)
    storage.write(LAYOUT.latest, b"second\n")
    assert load_run(storage, TAG, "first") == first
    assert load_run(storage, TAG, "second") == second
    assert load_run(storage, TAG, "latest") == second


def test_a_run_says_how_pictures_are_fitted_and_an_older_one_letterboxes() -> None:
    for resize in ("letterbox", "crop", "stretch"):
        assert a_run(settings={"resize": resize}).resize == resize
    assert a_run(settings={"epochs": 2}).resize == "letterbox"


@pytest.mark.parametrize("unknown", ["squeeze", "", None, 3, ["crop"], {}, "a\nb" * 999])
def test_a_run_that_fits_pictures_in_an_unknown_way_is_refused(unknown: Any) -> None:
    text = complaint(lambda: a_run(settings={"resize": unknown}).resize)
    assert text.startswith("the run 'first' of 'fate/stay_night' fits pictures by ")
    assert text.endswith("none of letterbox, crop, stretch: train it again")
    assert len(text) < 400


def test_what_is_missing_is_said_with_what_to_run(storage: Storage) -> None:
    for run, what in (("latest", "no trained model of"), ("third", "no complete run 'third' of")):
        text = complaint(lambda run=run: load_run(storage, TAG, run))  # type: ignore[misc]
        assert text.startswith(f"{what} the tag 'fate/stay_night' in {storage.url}")
        assert "run imagetag train --tags fate/stay_night first" in text


def test_a_run_without_its_marker_is_none(storage: Storage) -> None:
    storage.write(LAYOUT.run("first", "model.keras"), b"whole")
    storage.write(LAYOUT.run("first", "history.csv"), b"whole")
    assert "no complete run" in complaint(lambda: load_run(storage, TAG, "first"))


@pytest.mark.parametrize(
    "damaged", [b"", b"{}", b"no JSON", b"\xff\xfe", a_run().model_dump_json().encode()[:-9]]
)
def test_a_damaged_marker_is_named(damaged: bytes, storage: Storage) -> None:
    key = LAYOUT.run("first", "metrics.json")
    storage.write(key, damaged)
    storage.write(LAYOUT.latest, b"first\n")
    for run in ("first", "latest"):
        text = complaint(lambda run=run: load_run(storage, TAG, run))  # type: ignore[misc]
        assert text.startswith(f"{storage.url}/{key} cannot be read")
        assert text.endswith("train the run again")


@pytest.mark.parametrize("changes", [{"tag": "other"}, {"run": "other"}])
def test_a_marker_of_another_run_is_not_believed(changes: Any, storage: Storage) -> None:
    marker = a_run(**changes).model_dump_json().encode()
    storage.write(LAYOUT.run("first", "metrics.json"), marker)
    assert "'other'" in complaint(lambda: load_run(storage, TAG, "first"))


@pytest.mark.parametrize("damaged", [b"", b"\xff", b"../../other/models/x", b"latest", b"a b"])
def test_a_damaged_pointer_is_named(damaged: bytes, storage: Storage) -> None:
    storage.write(LAYOUT.latest, damaged)
    text = complaint(lambda: load_run(storage, TAG, "latest"))
    assert text.startswith(f"{storage.url}/{LAYOUT.latest} names no run")


def test_a_name_that_cannot_be_a_run_is_a_wrong_usage(storage: Storage) -> None:
    with pytest.raises(UsageError, match=r"--run '\.\./x'"):
        load_run(storage, TAG, "../x")


@pytest.fixture
def small_model() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")])


def test_a_model_comes_back_as_it_was(
    small_model: keras.Model, storage: Storage, tmp_path: Path
) -> None:
    small_model.save(tmp_path / "some.keras")
    storage.upload(tmp_path / "some.keras", LAYOUT.run("first", "model.keras"))
    loaded = load_model(storage, a_run(), tmp_path)
    inputs = np.eye(4)
    np.testing.assert_array_equal(
        loaded.predict_on_batch(inputs), small_model.predict_on_batch(inputs)
    )


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_truncated_model_is_one_line_that_says_how_to_get_another(
    kept: int, small_model: keras.Model, storage: Storage, tmp_path: Path
) -> None:
    key = LAYOUT.run("first", "model.keras")
    small_model.save(tmp_path / "some.keras")
    storage.write(key, (tmp_path / "some.keras").read_bytes()[:kept])
    text = complaint(lambda: load_model(storage, a_run(), tmp_path))
    assert text.startswith(f"{storage.url}/{key} cannot be loaded")
    marker = f"{storage.url}/{LAYOUT.run('first', 'metrics.json')}"
    assert text.endswith(f"; delete {marker} and train the run again")


def test_a_missing_model_is_named(storage: Storage, tmp_path: Path) -> None:
    text = complaint(lambda: load_model(storage, a_run(), tmp_path))
    assert text.startswith(f"{storage.url}/{LAYOUT.run('first', 'model.keras')} is missing")


def test_a_model_that_would_run_code_is_refused(storage: Storage, tmp_path: Path) -> None:
    hostile = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x)])
    hostile.save(tmp_path / "some.keras")
    storage.upload(tmp_path / "some.keras", LAYOUT.run("first", "model.keras"))
    assert "cannot be loaded" in complaint(lambda: load_model(storage, a_run(), tmp_path))


def test_a_model_with_layers_of_our_own_loads_in_a_process_that_did_not_build_it(
    storage: Storage, tmp_path: Path
) -> None:
    run = a_run()
    path = tmp_path / "model.keras"
    build_model("alexnet", (72, 72), weights=None).save(path)
    storage.upload(path, LAYOUT.run(run.run, "model.keras"))
    store_run(storage, run)
    code = (
        "import sys; from pathlib import Path; from imagetag.runs import load_model, load_run; "
        "from imagetag.storage.opening import open_storage; storage = open_storage(sys.argv[1]); "
        "run = load_run(storage, sys.argv[2], 'first'); "
        "print(load_model(storage, run, Path(sys.argv[3])).name)"
    )
    assert run_forked(code, [storage.url, TAG, str(tmp_path / "loaded")]).strip() == "alexnet"
