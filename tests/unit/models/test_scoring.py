"""What a model says of many pictures: of each what it says of it alone."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest

from imagetag.dataset.local_copy import Resize, load_pixels
from imagetag.errors import InputError
from imagetag.imaging.images import BadImage
from imagetag.models.scoring import Score, Scorer
from imagetag.runs.decision import sigmoid
from tests.predicting import SIZE, alone, make_model, noise


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def scorer(model: keras.Model) -> Scorer:
    """One that takes four at a time; shared, as compiling takes a while."""
    return Scorer(model, SIZE, "letterbox", 4)


def probabilities(found: Iterator[tuple[int, Score | BadImage]]) -> list[float]:
    return [sigmoid(score.logit) for _, score in found if isinstance(score, Score)]


def test_many_models_one_after_the_other_are_nothing_to_warn_of(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First in this file: TensorFlow warns twice and then no more."""
    said: list[str] = []
    logger = logging.getLogger("tensorflow")
    monkeypatch.setattr(logger, "handle", lambda record: said.append(record.getMessage()))
    for _ in range(8):
        list(Scorer(model, SIZE, "letterbox", 2).score(range(2), noise))
    assert said == []


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_are_those_of_the_model_on_each_picture_alone(
    batch_size: int, model: keras.Model
) -> None:
    scored = list(Scorer(model, SIZE, "letterbox", batch_size).score(range(10), noise))
    assert [number for number, _ in scored] == list(range(10))
    expected = [alone(model, noise(number)) for number in range(10)]
    assert max(expected) - min(expected) > 0.5, "a model that tells nothing apart proves nothing"
    assert probabilities(iter(scored)) == pytest.approx(expected, abs=1e-5)
    assert all(isinstance(score, Score) and score.features is None for _, score in scored)


@pytest.mark.parametrize("size", [(24, 32), (40, 17)])
def test_pictures_are_fitted_as_they_were_in_training(size: tuple[int, int]) -> None:
    model = make_model(size)
    expected = {
        resize: [alone(model, noise(number), size, resize) for number in range(6)]
        for resize in get_args(Resize)
    }
    for resize in get_args(Resize):
        scored = Scorer(model, size, resize, 4).score(range(6), noise)
        assert probabilities(scored) == pytest.approx(expected[resize], abs=1e-5)
        for other in {*get_args(Resize)} - {resize}:
            assert expected[other] != pytest.approx(expected[resize], abs=1e-3)


def test_features_are_what_the_head_builds_on(model: keras.Model) -> None:
    scorer = Scorer(model, SIZE, "letterbox", 4, features=True)
    core = model.layers[-1]
    head = core.get_layer("logit")
    features = keras.Model(core.input, core.get_layer("features").output)
    for number, score in scorer.score(range(6), noise):
        assert isinstance(score, Score)
        assert score.features is not None
        assert score.features.shape == (4,)
        assert score.features.dtype == np.float32
        assert score.features.base is None, "it keeps the whole batch"
        pixels = load_pixels(noise(number), SIZE)[None].astype("float32")
        assert score.features == pytest.approx(np.asarray(features(pixels))[0], rel=1e-4)
        assert score.logit == pytest.approx(float(head(score.features[None])[0, 0]), abs=1e-4)


def test_what_cannot_be_read_is_an_error_in_its_place(
    model: keras.Model, scorer: Scorer, tmp_path: Path
) -> None:
    def read(number: int) -> bytes | Path:
        if number % 5 == 1:
            raise BadImage("gone", "for good")
        if number % 5 == 2:
            return b"no picture"
        return tmp_path / "nothing.png" if number % 5 == 3 else noise(number)

    scored = list(scorer.score(range(11), read))
    assert [number for number, _ in scored] == list(range(11))
    for number, found in scored:
        reason = [None, "gone", "not_an_image", "missing", None][number % 5]
        if reason is None:
            assert isinstance(found, Score)
            assert sigmoid(found.logit) == pytest.approx(alone(model, noise(number)), abs=1e-5)
        else:
            assert isinstance(found, BadImage)
            assert found.reason == reason


def test_the_model_is_called_with_one_shape_only(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, shapes = scorer._forward, []

    def noted(batch: Any) -> Any:
        shapes.append((batch.dtype.name, *batch.shape))
        return forward(batch)

    monkeypatch.setattr(scorer, "_forward", noted)
    list(scorer.score(range(10), noise))
    list(scorer.score(range(3), noise))
    assert shapes == [("uint8", 4, *SIZE, 3)] * 4


def test_a_picture_has_the_same_score_to_the_last_bit_in_whatever_company(scorer: Scorer) -> None:
    first = dict(scorer.score(range(8), noise))
    for others in ([0, 1, 2, 3, 100, 5, 102, 7], [4, 1, 6, 3]):
        for place, (number, score) in enumerate(scorer.score(others, noise)):
            if number == place:
                assert score == first[number]


def test_nothing_is_scored_of_nothing(scorer: Scorer) -> None:
    assert list(scorer.score([], noise)) == []


def test_pictures_are_read_at_once(scorer: Scorer) -> None:
    together = threading.Barrier(4, timeout=20)

    def read(number: int) -> bytes:
        together.wait()  # passes only four of them together
        return noise(number)

    assert len(list(scorer.score(range(8), read))) == 8


def test_items_without_end_are_taken_a_few_batches_ahead(scorer: Scorer) -> None:
    taken = itertools.count()

    def items() -> Iterator[int]:
        while True:
            yield next(taken)

    scored = scorer.score(items(), noise)
    assert [number for number, _ in itertools.islice(scored, 10)] == list(range(10))
    scored.close()  # type: ignore[attr-defined]
    assert next(taken) < 60


def test_pictures_are_read_while_the_model_is_at_work(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(model, SIZE, "letterbox", 2)
    forward, read_on = scorer._forward, threading.Event()
    seen: list[int] = []

    def read(number: int) -> bytes:
        seen.append(number)
        if number == 3:  # of the next batch
            read_on.set()
        return noise(number)

    def slow(batch: object) -> object:
        assert read_on.wait(20), "the next batch waits for the model"
        return forward(batch)

    monkeypatch.setattr(scorer, "_forward", slow)
    assert len(list(scorer.score(range(4), read))) == 4


def test_a_model_that_is_not_ours_is_refused(model: keras.Model) -> None:
    plain = keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Flatten()])
    with pytest.raises(InputError, match=r"no part with the layers logit"):
        Scorer(plain, SIZE, "letterbox", 4)
    with pytest.raises(InputError, match=r"takes pictures of 24 x 32 .* its run says 32 x 24"):
        Scorer(model, (32, 24), "letterbox", 4)
