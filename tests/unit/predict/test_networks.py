"""The networks of runs: those that are the same up to their features are one, with many heads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from imagetag.features.asked import Asked
from imagetag.features.feature_store import rounded
from imagetag.features.opening import load_extractor
from imagetag.models.architectures import core_of, features_of
from imagetag.models.scoring import Score, network_of
from imagetag.predict.networks import Networks
from imagetag.runs.heads import load_head
from imagetag.runs.loading import load_model
from imagetag.runs.runs import load_run
from imagetag.storage.opening import open_storage
from tests.predicting import SIZE, make_model, noise, scorer_of, store_heads, store_model

TAGS = ["fox", "owl", "bat", "cat"]


def with_head(seed: int) -> keras.Model:
    """The same network as others have, with a head of its own."""
    model = make_model()
    weights = np.random.default_rng(seed).standard_normal((4, 1))
    core_of(model).get_layer("logit").set_weights([weights, np.ones(1)])
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, keras.Model]:
    """Three on one network, and in their midst one of another's."""
    return {
        "fox": with_head(1),
        "owl": with_head(2),
        "bat": make_model(seed=9),
        "cat": with_head(3),
    }


@pytest.fixture(scope="module")
def stored(models: dict[str, keras.Model], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("stored"))
    for tag, model in models.items():
        store_model(folder, model, tag=tag)
    return folder


def logits(networks: Networks) -> NDArray[np.float32]:
    """What they say of six pictures, (6, tags)."""
    found = [score for _, score in networks.scorer.score(range(6), noise)]
    return np.array([score.logits[networks.places] for score in found if isinstance(score, Score)])


def opened(stored: str, tmp_path: Path, tags: list[str] = TAGS) -> Networks:
    storage = open_storage(stored)
    runs = [load_run(storage, tag, "tiny") for tag in tags]
    return Networks(storage, runs, tmp_path, 4)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a model is loaded, and a network compiled, and by whom."""
    found: Counter[str] = Counter()

    def counted(storage: Any, run: Any, folder: Path) -> Any:
        found[run.tag] += 1
        return load_model(storage, run, folder)

    def compiled(*given: Any, **more: Any) -> Any:
        found["compiled"] += 1
        return network_of(*given, **more)

    monkeypatch.setattr("imagetag.predict.networks.load_model", counted)
    monkeypatch.setattr("imagetag.predict.networks.network_of", compiled)
    return found


def test_what_is_the_same_up_to_its_features_is_one_network(
    models: dict[str, keras.Model], stored: str, loads: Counter[str], tmp_path: Path
) -> None:
    found = logits(opened(stored, tmp_path))
    assert loads == dict.fromkeys(TAGS, 1) | {"compiled": 2}
    for place, tag in enumerate(TAGS):
        alone = [score for _, score in scorer_of(models[tag]).score(range(6), noise)]
        expected = [score.logit for score in alone if isinstance(score, Score)]
        assert found[:, place] == pytest.approx(expected, abs=1e-5)
        assert np.ptp(expected) > 0.1
    assert list(tmp_path.rglob("*.keras")) == []


def test_what_memory_has_no_room_for_is_loaded_in_turn(
    stored: str, loads: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = logits(opened(stored, tmp_path))
    loads.clear()
    monkeypatch.setattr("imagetag.predict.networks.ROOM", 1)
    monkeypatch.setattr("imagetag.predict.turns.ROOM", 1)
    networks = opened(stored, tmp_path)
    assert logits(networks).tolist() == together.tolist()
    assert loads == {"fox": 2, "owl": 1, "bat": 2, "cat": 1, "compiled": 2}


def test_models_of_other_inputs_are_not_taken_for_one(
    stored: str, loads: Counter[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "storage")
    store_model(folder, make_model(), tag="fox")
    store_model(folder, make_model((16, 20)), tag="owl", size=(16, 20))
    networks = opened(folder, tmp_path, ["owl", "fox"])
    found = logits(networks)
    assert loads["compiled"] == 2
    for place, (size, model) in enumerate([((16, 20), make_model((16, 20))), (SIZE, make_model())]):
        alone = [score for _, score in scorer_of(model, size=size).score(range(6), noise)]
        expected = [score.logit for score in alone if isinstance(score, Score)]
        assert found[:, place] == pytest.approx(expected, abs=1e-5)


def test_runs_on_features_go_once_through_their_extractor_whose_bars_may_be_white(
    models: dict[str, keras.Model], loads: Counter[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "storage")
    tags = [f"tag {number}" for number in range(40)]
    body = features_of(core_of(models["bat"]))
    record = store_heads(folder, body, tags, tmp_path, Asked(padding="white"))
    store_model(folder, models["fox"], tag="fox")
    networks = opened(folder, tmp_path, [*tags[:20], "fox", *tags[20:]])
    found = logits(networks)
    assert loads == {"fox": 1, "compiled": 1}
    storage = open_storage(folder)
    pixels = np.stack([record.pixels_of(noise(number)) for number in range(6)])
    extractor = load_extractor(storage, record, tmp_path / "again", batch_size=4)
    features = rounded(extractor.features(pixels))
    assert features.shape == (6, 2, 4)
    for tag, column in zip(tags, np.delete(found, 20, axis=1).T, strict=True):
        head, _ = load_head(storage, load_run(storage, tag, "tiny"))
        assert column.tolist() == head.logits(features).astype(np.float32).tolist()
    alone = [score for _, score in scorer_of(models["fox"]).score(range(6), noise)]
    assert found[:, 20] == pytest.approx(
        [score.logit for score in alone if isinstance(score, Score)], abs=1e-5
    )
