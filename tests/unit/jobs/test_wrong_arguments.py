"""What the functions and classes of docs/python.md cannot be given is told at once, on one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagetag.curate import curate_tag
from imagetag.errors import ImagetagError, InputError, UsageError
from imagetag.evaluate import evaluate_tag
from imagetag.explore import explore_tag
from imagetag.inputs import Batches, RandomAffine
from imagetag.models import choose_devices
from imagetag.predict import predict_tag
from imagetag.runs import Request
from imagetag.scrape import scrape_tag
from imagetag.scrape.selection import DEFAULTS, Selection
from imagetag.train import Cluster, Means, Training, train_tag
from tests.builders.drawn import PICTURES, TAG, store

_WHOLE, _CONCURRENCY = "take a whole number, 1 or more", "take a whole number from 1 to 256"
_PROBABILITY = "take a number above 0 and below 1, or None"


@pytest.mark.parametrize(
    ("call", "given", "complaint"),
    [
        (predict_tag, {"pictures": "x", "batch_size": 0}, f"batch_size=0: {_WHOLE}"),
        (predict_tag, {"pictures": "x", "batch_size": True}, f"batch_size=True: {_WHOLE}"),
        (predict_tag, {"pictures": "x", "threshold": 5}, f"threshold=5: {_PROBABILITY}"),
        (predict_tag, {"pictures": "x", "threshold": -1}, f"threshold=-1: {_PROBABILITY}"),
        (predict_tag, {"pictures": "x", "threshold": "x"}, f"threshold='x': {_PROBABILITY}"),
        (predict_tag, {"pictures": "x", "threshold": math.nan}, f"threshold=nan: {_PROBABILITY}"),
        (predict_tag, {"pictures": "x", "concurrency": 0}, f"concurrency=0: {_CONCURRENCY}"),
        (evaluate_tag, {"batch_size": 0}, f"batch_size=0: {_WHOLE}"),
        (evaluate_tag, {"batch_size": 1.5}, f"batch_size=1.5: {_WHOLE}"),
        (evaluate_tag, {"concurrency": 257}, f"concurrency=257: {_CONCURRENCY}"),
        (evaluate_tag, {"cache_folder": 5}, "cache_folder=5: take the path of a folder"),
        (evaluate_tag, {"request": {"threshold": 2}}, "threshold\n  Input should be less than 1"),
        (curate_tag, {"threshold": 999}, "threshold=999: take a whole number from 0 to 100"),
        (curate_tag, {"threshold": -1}, "threshold=-1: take a whole number from 0 to 100"),
        (curate_tag, {"concurrency": 0}, f"concurrency=0: {_CONCURRENCY}"),
        (explore_tag, {"max_pixels": 0}, "max_pixels=0: take a whole number, 1,024 or more"),
        (explore_tag, {"percentile": 100}, "percentile=100: take a number above 0 and below 100"),
        (explore_tag, {"samples": True}, "samples=True: take a whole number from 0 to 60"),
        (scrape_tag, {"concurrency": 0}, f"concurrency=0: {_CONCURRENCY}"),
        (scrape_tag, {"max_rate": 0}, "max_rate=0: take a number above 0"),
        (scrape_tag, {"max_rate": math.inf}, "max_rate=inf: take a number above 0"),
        (scrape_tag, {"board": None}, "board=None: take a board's name"),
        (scrape_tag, {"contact": "me@例"}, "contact='me@例': take ASCII"),
        (scrape_tag, {"contact": None}, "contact=None: take ASCII"),
        (scrape_tag, {"limit": 0}, "limit\n  Input should be greater"),
        (train_tag, {"training": {"batch_size": 0}}, "batch_size\n  Input should be greater"),
        (train_tag, {"means": {"micro_batch": 0}}, "micro_batch\n  Input should be greater"),
        (train_tag, {"means": 5}, "instance of Means"),
        (train_tag, {"cluster": "mirrored"}, "cluster='mirrored': take imagetag.train.Cluster"),
        (Batches, {"batch_size": True}, f"batch_size=True: {_WHOLE}"),
        (Batches, {"concurrency": 1000}, f"concurrency=1000: {_CONCURRENCY}"),
        (Batches, {"workers": -1}, "workers=-1: take a whole number, 0 or more"),
        (Batches, {"max_queue_size": 0}, f"max_queue_size=0: {_WHOLE}"),
        (Batches, {"rescale": math.nan}, "rescale=nan: take a number"),
        (Batches, {"cache_folder": None}, "cache_folder=None: take the path of a folder"),
        (Batches, {"size": (10**6, 10**6)}, "in pixels, 99999 at the most"),
        (Batches, {"size": (True, 20)}, "in pixels, 99999 at the most"),
    ],
)
def test_a_wrong_argument_of_a_function(
    call: Callable[..., Any], given: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        call(tmp_path, TAG, **given)


@pytest.mark.parametrize(
    ("settings", "given", "complaint"),
    [
        (RandomAffine, {"rotation": 999}, "rotation=999: take a number from 0 to 360"),
        (RandomAffine, {"zoom": -1}, "zoom=-1: take a number from 0 to below 1"),
        (RandomAffine, {"shear": 90}, "shear=90: take a number from 0 to below 90"),
        (RandomAffine, {"seed": -1}, "seed=-1: take a whole number, 0 or more, or None"),
        (Cluster, {"start": "mirrored"}, "start='mirrored': take a function"),
        (Cluster, {"start": print, "workers": 0}, f"workers=0: {_WHOLE}"),
        (choose_devices, {"name": "mirror"}, "name='mirror': take auto, none, mirrored"),
        (choose_devices, {"name": "none", "cpu_devices": 65}, "cpu_devices=65: take a whole"),
        (Means, {"micro_batch": 0}, "greater than or equal to 1"),
        (Means, {"concurrency": 0}, "greater than or equal to 1"),
        (Means, {"concurrency": 257}, "less than or equal to 256"),
        (Means, {"cache_memory": -1}, "greater than or equal to 0"),
        (Means, {"checkpoint_seconds": math.inf}, "finite number"),
        (Means, {"cache_foldr": "x"}, "Extra inputs"),
        (Training, {"batch_size": True}, "take a number, not True"),
        (Training, {"learning_rate": False}, "take a number, not False"),
        (Training, {"learning_rate": math.inf}, "finite number"),
        (Training, {"image_size": (96,)}, "valid string"),
        (Training, {"image_size": (0, 96)}, "'0x96' is no size"),
        (Training, {"image_size": (96.5, 96)}, "'96.5x96' is no size"),
        (Request, {"threshold": True}, "take a number, not True"),
        (Selection, {**DEFAULTS, "board": "b", "limit": True}, "take a number, not True"),
        (Selection, {**DEFAULTS, "board": "b", "min_side": 0}, "greater than or equal to 1"),
        (Selection, {**DEFAULTS, "board": "b", "max_bytes": 0}, "greater than or equal to 1"),
        (Selection, {**DEFAULTS, "board": "b", "max_aspect": 0.5}, "greater than or equal to 1"),
        (Selection, {**DEFAULTS, "board": "b", "max_pixels": 10**12}, "less than or equal"),
        (Selection, {**DEFAULTS, "board": "b", "ratings": ()}, "at least 1 item"),
        (Selection, {**DEFAULTS, "board": "b", "extensions": ("pdf",)}, "take bmp, gif, jp"),
    ],
)
def test_a_wrong_field(settings: Callable[..., Any], given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        settings(**given)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    four: Any = np.int64(4)
    half: Any = np.float32(0.5)
    with pytest.raises(InputError, match="no trained model"):
        evaluate_tag(tmp_path, TAG, batch_size=four, request={"threshold": half})
    assert RandomAffine(rotation=half).rotation == 0.5


def test_a_text_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Means(cache_folder="~/cache").cache_folder == tmp_path / "cache"
    with pytest.raises(ImagetagError, match="no trained model"):
        evaluate_tag(tmp_path, TAG, cache_folder="x")


def test_a_path_alone_is_no_board(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"this is a folder; did you mean folder\+"):
        scrape_tag(tmp_path / "data", TAG, tmp_path)


@pytest.mark.parametrize("run", [None, 5, Path("x")])
def test_what_is_no_runs_name(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--run .*: write it as text"):
        evaluate_tag(tmp_path, TAG, run)
    with pytest.raises(UsageError, match=r"--run .*: write it as text"):
        predict_tag(tmp_path, TAG, tmp_path, run)


def test_a_size_is_height_and_width() -> None:
    training = Training(image_size=(96, 64))
    assert training == Training(image_size="96x64")
    assert training.image_size == "96x64"


def test_a_day_without_a_zone_is_of_utc() -> None:
    selection = Selection(**DEFAULTS, board="b", since=datetime(2024, 1, 31))  # noqa: DTZ001
    assert selection.since == datetime(2024, 1, 31, tzinfo=UTC)


def test_pictures_that_do_not_fit_onto_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "data", PICTURES[:24])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    folder = tmp_path / "cache"
    with pytest.raises(InputError, match=r"do not fit into .*No space left.*a smaller size"):
        Batches(tmp_path / "data", TAG, size=(99, 99), cache_memory=0, cache_folder=folder)
