"""What a model says of many pictures: of each what it says of it alone."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from imagetag.dataset.local_copy import Resize, load_pixels
from imagetag.errors import InputError
from imagetag.imaging.images import BadImage, Size
from imagetag.models.architectures import core_of
from imagetag.models.heads import Heads, join_heads, split_model
from imagetag.models.scoring import Input, Network, Score, Scorer, network_of
from imagetag.runs.decision import sigmoid
from tests.predicting import SIZE, alone, make_model, noise, scorer_of


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def scorer(model: keras.Model) -> Scorer:
    """One that takes four at a time; shared, as compiling takes a while."""
    return scorer_of(model)


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
        list(scorer_of(model, 2).score(range(2), noise))
    assert said == []


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_are_those_of_the_model_on_each_picture_alone(
    batch_size: int, model: keras.Model
) -> None:
    scored = list(scorer_of(model, batch_size).score(range(10), noise))
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
        scored = scorer_of(model, size=size, resize=resize).score(range(6), noise)
        assert probabilities(scored) == pytest.approx(expected[resize], abs=1e-5)
        for other in {*get_args(Resize)} - {resize}:
            assert expected[other] != pytest.approx(expected[resize], abs=1e-3)


def test_features_are_what_the_head_builds_on(model: keras.Model) -> None:
    scorer = scorer_of(model, features=True)
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


def watched(network: Network, watch: Callable[[NDArray[np.uint8]], object]) -> Network:
    """The network; what it is given is seen first."""

    def forward(pixels: NDArray[np.uint8]) -> Any:
        watch(pixels)
        return network.forward(pixels)

    return replace(network, forward=forward)


def test_the_model_is_called_with_one_shape_only(model: keras.Model) -> None:
    shapes: list[Any] = []
    network = network_of(model, Input(SIZE, "letterbox"), 4)
    seen = watched(network, lambda batch: shapes.append((batch.dtype.name, *batch.shape)))
    scorer = Scorer([seen], 4)
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


def test_pictures_are_read_while_the_model_is_at_work(model: keras.Model) -> None:
    network = network_of(model, Input(SIZE, "letterbox"), 2)
    read_on = threading.Event()

    def read(number: int) -> bytes:
        if number == 3:  # of the next batch
            read_on.set()
        return noise(number)

    def wait(_: object) -> None:
        assert read_on.wait(20), "the next batch waits for the model"

    assert len(list(Scorer([watched(network, wait)], 2).score(range(4), read))) == 4


def test_a_model_that_is_not_ours_is_refused(model: keras.Model) -> None:
    plain = keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Flatten()])
    with pytest.raises(InputError, match=r"no part with the layers features and logit"):
        scorer_of(plain)
    with pytest.raises(InputError, match=r"takes pictures of 24 x 32 .* its run says 32 x 24"):
        scorer_of(model, size=(32, 24))
    odd = keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Flatten(name="features")])
    odd.add(keras.layers.ReLU())
    odd.add(keras.layers.Dense(1, name="logit"))
    with pytest.raises(InputError, match="no part with the layers features and logit"):
        scorer_of(odd)


# ---- several networks, and several heads


def test_a_picture_is_read_once_and_decoded_once_for_each_input_however_many_heads(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[tuple[object, ...]] = Counter()
    reads: Counter[int] = Counter()
    passes: Counter[str] = Counter()

    def load(source: bytes, size: Size, resize: Resize, _: int) -> NDArray[np.uint8]:
        decoded[source, size, resize] += 1
        return load_pixels(source, size, resize)

    def read(number: int) -> bytes:
        reads[number] += 1
        return b"none" if number == 4 else noise(number)

    monkeypatch.setattr("imagetag.models.scoring.load_pixels", load)
    random = np.random.default_rng(0)
    heads = Heads(random.standard_normal((4, 300)), random.standard_normal(300))
    stretched = make_model(resize="stretch")
    small = make_model((16, 20), seed=5)
    networks = {
        "many": network_of(model, Input(SIZE, "letterbox"), 3, heads=heads),
        "own": network_of(model, Input(SIZE, "letterbox"), 3),
        "stretched": network_of(stretched, Input(SIZE, "stretch"), 3),
        "small": network_of(small, Input((16, 20), "letterbox"), 3),
    }
    seen = [
        watched(network, lambda _, name=name: passes.update([name]))  # type: ignore[misc]
        for name, network in networks.items()
    ]
    alone = {
        number: np.concatenate([score_of(network, number) for network in networks.values()])
        for number in range(8)
    }
    for turn in (3, 6):
        for counts in (decoded, reads, passes):
            counts.clear()
        found = dict(Scorer(seen, 3, turn=turn).score(range(8), read))
        assert reads == dict.fromkeys(range(8), 1)
        assert set(decoded.values()) == {1}
        assert len(decoded) == 7 * 3 + 1  # what is no picture is given up at once
        assert passes == dict.fromkeys(networks, 3)
        assert isinstance(found.pop(4), BadImage)
        for number, score in found.items():
            assert isinstance(score, Score)
            assert score.logits == pytest.approx(alone[number], abs=1e-4)
            assert score.logits.base is None, "it keeps the whole batch"


def score_of(network: Network, number: int) -> NDArray[np.float32]:
    [(_, score)] = Scorer([network], 3).score([number], noise)
    assert isinstance(score, Score)
    return score.logits


def test_what_a_head_says_does_not_depend_on_those_beside_it(model: keras.Model) -> None:
    random = np.random.default_rng(1)
    heads = Heads(random.standard_normal((4, 100)), random.standard_normal(100))
    wanted = Input(SIZE, "letterbox")
    together = [score_of(network_of(model, wanted, 3, heads=heads), n) for n in range(5)]
    for place in (0, 50, 99):
        one = Heads(heads.weights[:, [place]], heads.bias[[place]])
        network = network_of(model, wanted, 3, heads=one)
        assert [logits[place] for logits in together] == [score_of(network, n)[0] for n in range(5)]


def test_heads_are_one_matrix_and_a_models_own_is_taken_from_it(model: keras.Model) -> None:
    body, own = split_model(core_of(model), SIZE)
    joined = join_heads([own, Heads(np.ones((4, 2)), np.array([1.0, 2.0]))])
    assert joined.weights.shape == (4, 3)
    features = np.asarray(body(load_pixels(noise(3), SIZE)[None].astype("float32")))
    logits = joined.logits(features)
    assert (logits.shape, logits.dtype.name) == ((1, 3), "float32")
    assert sigmoid(float(logits[0, 0])) == pytest.approx(alone(model, noise(3)), abs=1e-5)
    assert logits[0, 1:] == pytest.approx(features.sum() + np.array([1, 2]), rel=1e-6)
