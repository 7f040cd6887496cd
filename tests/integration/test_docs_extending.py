"""The examples of docs/extending.md do what the page says, in the places that it names."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import imagetag.boards
import imagetag.models
from imagetag import checks
from imagetag.boards.base import Query
from imagetag.boards.sites import ENGINES, Engine, open_board
from imagetag.dataset.manifest import load_dataset
from imagetag.errors import UsageError
from imagetag.models.architectures import backbone_of, build_model
from imagetag.models.weights import backbones, source_of
from imagetag.storage.local import LocalStorage
from imagetag.web.client import Client
from jobs import scrape
from tests import manifests
from tests.docs import ROOT, code, pages
from tests.scripted import Reply, Request, Server, serving

SECTIONS = {
    section.partition("\n")[0]: code(section)[0]
    for section in pages()["docs/extending.md"].split("\n## ")[1:]
}


def row(text: str, **names: Any) -> dict[str, Any]:
    """What a row of a table says."""
    found: dict[str, Any] = eval(f"{{{text}}}", names)
    return found


@pytest.mark.parametrize(
    ("section", "place"), [("A board engine", "boards"), ("A backbone", "models")]
)
@pytest.mark.parametrize("command", [("check",), ("format", "--check", "--diff")])
def test_the_modules_pass_the_linter(section: str, place: str, command: tuple[str, ...]) -> None:
    file = ROOT / "lib" / "imagetag" / place / "added.py"
    ruff = Path(sys.executable).with_name("ruff")
    given: list[str | Path] = [ruff, *command, "--quiet", "--stdin-filename", file, "-"]
    ended = subprocess.run(
        given, input=SECTIONS[section][0], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


# --- A board engine


PICTURES = range(1, 13)


def picture(number: int) -> bytes:
    """Noise: no two are near-duplicates."""
    pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def answer(request: Request) -> Reply:
    """A board whose even posts have the tag fox; it lists five posts at once, at most."""
    if request.path.startswith("/files/"):
        return Reply(picture(int(Path(request.path).stem)), headers={"Content-Type": "image/png"})
    if request.path != "/api/posts":
        return Reply(status=404)
    below = int(request.query.get("before", 10**6))
    words = request.query["q"].split()
    posts: list[dict[str, Any]] = []
    for number in reversed(PICTURES):
        tags = ["fox", "red hat"] if number % 2 == 0 else ["owl"]
        wanted = all(
            word[1:] not in tags if word.startswith("-") else word in tags for word in words
        )
        if number < below and wanted:
            posts.append(
                {
                    "id": number,
                    "image": f"/files/{number}.png",
                    "md5": hashlib.md5(picture(number)).hexdigest(),
                    "size": [80, 70],
                    "tags": tags,
                    "rating": "safe",
                }
            )
    return Reply(json.dumps(posts[: min(5, int(request.query["limit"]))]).encode())


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The page's engine in its place, and a board of it."""
    module, engine = SECTIONS["A board engine"]
    (tmp_path / "scrapbook.py").write_text(module)
    monkeypatch.setattr(imagetag.boards, "__path__", [*imagetag.boards.__path__, str(tmp_path)])
    for name, value in row(engine, Engine=Engine).items():
        monkeypatch.setitem(ENGINES, name, value)
    with serving(answer) as server:
        yield server


def test_the_engine_walks_all_posts(board: Server) -> None:
    client = Client(rate=1000, allow_private_hosts=True)
    opened = open_board(f"scrapbook+{board.url}", client)
    assert [post.id for post in opened.walk(Query(), limit=5)] == list(reversed(PICTURES))
    without = list(opened.walk(Query(without=("fox",))))
    assert [post.id for post in without] == [11, 9, 7, 5, 3, 1]
    assert (without[0].width, without[0].height, without[0].rating) == (80, 70, "general")
    (newest, *_) = opened.walk(Query(tags=("fox",)))
    assert newest.tags == ("fox", "red_hat")


def test_a_scrape_from_the_engine_stores_a_dataset(board: Server, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "storage")
    asked = ("--board", f"scrapbook+{board.url}", "--tags", "fox", "--limit", "4")
    how = ("--allow-private-hosts", "--max-rate", "1000", "--storage", storage.url)
    assert scrape.main([*asked, *how]) == 0
    images = load_dataset(storage, "fox").images
    for label in ("positive", "negative"):
        assert sum(counts[label] for counts in images.values()) == 4


# --- A backbone


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's backbone in its place."""
    module, side = SECTIONS["A backbone"]
    ((name, least),) = row(side).items()
    (tmp_path / f"{name}.py").write_text(module)
    monkeypatch.setattr(imagetag.models, "__path__", [*imagetag.models.__path__, str(tmp_path)])
    monkeypatch.setitem(checks.BACKBONES, name, least)
    backbones.cache_clear()
    yield name
    backbones.cache_clear()


def test_the_backbone_is_built_saved_and_loaded(backbone: str, tmp_path: Path) -> None:
    model = build_model(backbone, (32, 40), weights=None)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 32, 40, 3)).astype("float32")
    said = model.predict_on_batch(pixels)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(pixels), said, rtol=1e-5)
    inner = backbone_of(model)
    assert inner is not None
    inner.save_weights(tmp_path / "its.weights.h5")
    again = build_model(backbone, (32, 40), weights=tmp_path / "its.weights.h5")
    theirs = backbone_of(again)
    assert theirs is not None
    np.testing.assert_array_equal(theirs.get_weights()[0], inner.get_weights()[0])


def test_the_backbone_says_that_it_has_no_imagenet_weights(backbone: str) -> None:
    with pytest.raises(UsageError, match=f"there are none of {backbone}"):
        build_model(backbone, (32, 40), weights="imagenet")
    with pytest.raises(UsageError, match=f"there are none of {backbone}"):
        source_of(backbone)


def test_the_backbone_refuses_less_than_its_least_side(backbone: str) -> None:
    least = checks.BACKBONES[backbone]
    with pytest.raises(ValueError, match=f"at least {least}"):
        backbones()[backbone](include_top=False, weights=None, input_shape=(least - 1, 224, 3))


# --- An overlay


def test_the_overlay_is_what_the_page_says(tmp_path: Path) -> None:
    k8s = tmp_path / "k8s"
    shutil.copytree(manifests.K8S, k8s, ignore=shutil.ignore_patterns(".deploy"))
    for block in SECTIONS["An overlay"]:
        name = block.partition("\n")[0].removeprefix("# ")
        file = k8s / "overlays" / "ours" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block)
    made = manifests.kustomized(k8s / "overlays" / "ours")
    train = manifests.jobs(made)["train"]
    assert train["spec"]["completions"] == 3
    pod = train["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"example/pool": "gpu"}
    (container,) = pod["containers"]
    assert container["image"].startswith("registry.example/imagetag-train")
    settings = manifests.environment(made, container)
    assert settings["IMAGETAG_STORAGE"] == "s3://pictures/tags"
    assert settings["AWS_ENDPOINT_URL_S3"] == "https://s3.example:9000"
    assert settings["IMAGETAG_MODEL"] == "vgg19"
