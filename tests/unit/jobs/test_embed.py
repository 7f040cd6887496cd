"""The embed job: its extractors, what it tells, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imagetag.embed import embedding_run
from imagetag.features.feature_store import FeatureStore
from imagetag.features.stored_extractors import find_extractor
from imagetag.status.overview import Overview
from imagetag.storage.local import LocalStorage
from jobs import embed
from tests.builders.datasets import store_dataset
from tests.builders.rows import key_of, row_of
from tests.docs import ROOT
from tests.ended import Ended, log_lines
from tests.predicting import SIZE, make_model, noise


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """With two tags that share half of their pictures."""
    storage = LocalStorage(tmp_path / "storage")
    for tag, numbers in (("fox", range(8)), ("cat", range(4, 12))):
        files = [noise(number) for number in numbers]
        rows = [row_of(number, data) for number, data in zip(numbers, files, strict=True)]
        store_dataset(storage, tag, rows, files)
    return storage


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "tiny.keras"
    make_model().save(path)
    return path


@pytest.fixture
def run(storage: LocalStorage, capfd: pytest.CaptureFixture[str]) -> Runner:
    return Runner(storage, capfd)


class Runner:
    """Runs the job in this process."""

    def __init__(self, storage: LocalStorage, capfd: pytest.CaptureFixture[str]) -> None:
        self._storage, self._capfd = storage, capfd

    def __call__(self, *arguments: object, tags: str = "fox,cat") -> Ended:
        argv = ["--storage", self._storage.url, "--tags", tags, "--log-format", "json"]
        self._capfd.readouterr()
        code = embed.main([*argv, *map(str, arguments)])
        return Ended(code, log_lines(self._capfd.readouterr().err, chatter=True))


def states(storage: LocalStorage, *tags: str) -> dict[str, str]:
    """What imagetag status says of embed."""
    found = Overview(storage, tags or ("fox", "cat")).read()
    return {tag.tag: tag.stages["embed"].state for tag in found}


def test_pictures_are_embedded_and_the_extractor_stored_once(
    run: Runner, storage: LocalStorage, network: Path, tmp_path: Path
) -> None:
    ended = run("--extractor", network)
    assert ended.code == 0
    assert [line["tag"] for line in ended.lines if line["event"] == "tag done"] == ["fox", "cat"]
    last = ended.line("embedded")
    assert (last["event"], last["images"], last["already"], last["tags"]) == ("embedded", 12, 0, 2)
    record = find_extractor(storage)
    assert record.name == last["extractor"]
    assert record.image_size == SIZE
    features = FeatureStore(storage, record)
    found = features.read(features.ids(), tmp_path)
    assert found.values.shape == (12, 2, 4)
    assert np.isfinite(found.values).all()

    for again in ("latest", record.name, network):
        ended = run("--extractor", again)
        told = ended.line("embedded")
        assert (ended.code, told["images"], told["already"]) == (0, 0, 12)
    assert states(storage) == {"fox": "complete", "cat": "complete"}


def test_where_nothing_is_new_no_network_is_loaded(
    run: Runner, storage: LocalStorage, network: Path
) -> None:
    assert run("--extractor", network).code == 0
    storage.delete(f".features/{find_extractor(storage).name}/model.keras")
    ended = run("--extractor", "latest", tags="fox")
    assert (ended.code, ended.line("embedded")["already"]) == (0, 8)
    code = "import sys; from jobs.embed import main; code = main(sys.argv[1:]); "
    code += "code |= main([*sys.argv[1:-1], 'latest']); "
    code += "sys.exit(code or 'tensorflow' in sys.modules)"
    given = ["--storage", storage.url, "--tags", "fox,cat", "--extractor", str(network)]
    subprocess.run([sys.executable, "-c", code, *given], check=True, cwd=ROOT)


def test_what_is_asked_for_otherwise_is_another_extractor(
    run: Runner, storage: LocalStorage, network: Path, tmp_path: Path
) -> None:
    assert run("--extractor", network, tags="fox").code == 0
    assert run("--extractor", network, "--views", 1, tags="fox").line("embedded")["images"] == 8
    other = tmp_path / "other.keras"
    shutil.copy(network, other)
    assert run("--extractor", other, tags="fox").line("embedded")["images"] == 8
    storage.write(".features/damaged/extractor.json", b"{")
    storage.write(".features/no name of ours/extractor.json", b"{")
    assert run("--extractor", network, tags="fox").line("embedded")["images"] == 0


def test_the_last_real_measurement_is_kept(
    run: Runner, storage: LocalStorage, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_run, "LEAST_MEASURED", 8)
    assert run("--extractor", network, tags="fox").code == 0
    key = ".status/fox/embed-0.done.json"
    told = storage.read(key)
    measured = json.loads(told)["measured"]
    assert measured["images"] == 8
    assert 0 < measured["embedding_seconds"] <= json.loads(told)["seconds"]
    assert run("--extractor", network, tags="fox").code == 0  # nothing is new
    assert run("--extractor", network).line("embedded")["images"] == 4  # which tells little
    assert storage.read(key) == told


def test_pods_share_the_pictures(run: Runner, storage: LocalStorage, network: Path) -> None:
    counts = []
    for pod in range(3):  # more than tags
        ended = run("--extractor", network, "--shard-count", 3, "--shard-index", pod)
        assert ended.code == 0
        counts.append(ended.lines[-1]["images"])
        whole = "complete" if pod == 2 else "incomplete"
        assert states(storage) == {"fox": whole, "cat": whole}
    assert sum(counts) == 12
    assert len(FeatureStore(storage, find_extractor(storage)).ids()) == 12


def test_a_tag_without_a_dataset_is_told_and_the_others_are_embedded(
    run: Runner, storage: LocalStorage, network: Path
) -> None:
    ended = run("--extractor", network, tags="fox,dog")
    assert ended.code == 3
    assert "1 of 2 tags failed: dog" in ended.errors[-1]
    assert [line["tag"] for line in ended.lines if line["event"] == "tag done"] == ["fox"]
    assert states(storage, "fox", "dog") == {"fox": "complete", "dog": "failed"}
    assert len(FeatureStore(storage, find_extractor(storage)).ids()) == 8
    ended = run("--extractor", network, tags="dog")
    assert ended.code == 3
    assert "no complete dataset of the tag 'dog'" in ended.complaint


def test_a_picture_that_is_not_in_storage_is_told(
    run: Runner, storage: LocalStorage, network: Path
) -> None:
    storage.delete(key_of(row_of(2, noise(2)), "fox"))
    ended = run("--extractor", network, tags="fox")
    assert ended.code == 3
    assert "1 pictures are in the manifest of the tag 'fox' and not in" in ended.complaint
    ended = run("--extractor", network)
    assert ended.code == 3
    assert [line["tag"] for line in ended.lines if line["event"] == "tag done"] == ["cat"]
    assert "of the tag 'fox'" in ended.errors[0]
    assert states(storage) == {"fox": "failed", "cat": "complete"}
    assert find_extractor(storage).model == "tiny", "latest is what has features of the others"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--extractor", "mobilnet"], 2, "there is no backbone of that name"),
        (["--extractor", "latest"], 3, ": name a network with --extractor"),
        (["--extractor", "vgg19", "--image-size", "16x64"], 2, "vgg19 needs 32 pixels a side"),
        (["--extractor", "mobilenet", "--weights", "none"], 2, "random weights tell nothing"),
        (["--extractor", "NETWORK", "--image-size", "32x32"], 2, "--image-size says 32x32"),
        (["--extractor", "NETWORK", "--output-name", "no"], 2, "it has no layer 'no'"),
        (["--extractor", "NETWORK", "--views", "3"], 2, "views"),
        (["--shard-index", "2", "--shard-count", "2"], 2, "must be below"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], code: int, complaint: str, run: Runner, network: Path
) -> None:
    ended = run(*[str(network) if word == "NETWORK" else word for word in arguments])
    assert ended.code == code
    assert complaint in ended.complaint


def test_one_in_storage_keeps_its_settings_and_must_be_what_it_was(
    run: Runner, storage: LocalStorage, network: Path
) -> None:
    assert run("--extractor", network, tags="fox").code == 0
    ended = run("--extractor", "latest", "--views", 1)
    assert ended.code == 2
    assert "--views 1: the extractor 'tiny-24x32-" in ended.complaint
    assert "has 2; leave it out" in ended.complaint
    ended = run("--extractor", "latest", "--image-size", "32x32")
    assert (ended.code, "has (24, 32); leave" in ended.complaint) == (2, True)
    assert run("--extractor", "latest", "--views", 2, "--image-size", "24x32", tags="fox").code == 0
    name = find_extractor(storage).name
    marker = f".features/{name}/extractor.json"
    whole = json.loads(storage.read(marker))
    storage.write(marker, json.dumps({**whole, "views": 1}).encode())
    ended = run("--extractor", name)
    assert ended.code == 3
    assert "it changed under its name" in ended.complaint
    storage.write(marker, json.dumps(whole).encode())
    storage.write(f".features/{name}/model.keras", b"another")
    ended = run("--extractor", name)
    assert ended.code == 3
    assert "changed under its name, or is damaged" in ended.complaint
