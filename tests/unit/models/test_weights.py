"""Pretrained weights get into an image whole or not at all, and Keras finds them there offline."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from imagetag.checks import FOLDER_VARIABLE
from imagetag.errors import TransientError, UsageError
from imagetag.models import weights
from imagetag.models.architectures import build_model
from imagetag.models.weights import (
    Source,
    backbones,
    fetch,
    link_into_cache,
    source_of,
)
from tests.scripted import Reply, Request, serving

MOBILENET = "mobilenet_1_0_224_tf_no_top.h5"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL it is served under."""
    folder = tmp_path / "served"
    folder.mkdir()

    def answer(request: Request) -> Reply:
        file = folder / request.path.removeprefix("/")
        return Reply(file.read_bytes()) if file.is_file() else Reply(status=404)

    with serving(answer) as server:
        yield folder, server.url


def test_keras_says_what_it_would_fetch() -> None:
    file, url, checksum = source_of("vgg19")
    assert file == "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert url.startswith("https://")
    assert url.endswith(file)
    assert checksum == "253f8cb515780f3b799900260a226db6"


def test_what_keras_has_no_checksum_of_is_known_here() -> None:
    assert source_of("mobilenet") == Source(
        MOBILENET, source_of("mobilenet").url, weights._CHECKSUMS[MOBILENET]
    )


def test_asking_leaves_keras_as_it_was() -> None:
    files = sys.modules[backbones()["vgg19"].__module__].file_utils
    before = files.get_file
    source_of("vgg19")
    assert files.get_file is before


def test_no_such_backbone() -> None:
    with pytest.raises(UsageError, match=r"no weights of 'vgg20': there are those of .*vgg19"):
        source_of("vgg20")


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_with_the_right_checksum_is_kept(
    mirror: tuple[Path, str], tmp_path: Path, algorithm: str
) -> None:
    folder, url = mirror
    (folder / MOBILENET).write_bytes(b"weights")
    checksum = hashlib.new(algorithm, b"weights").hexdigest()
    file = fetch(f"mobilenet={checksum.upper()}", tmp_path / "into", url + "/")
    assert file == tmp_path / "into" / MOBILENET
    assert file.read_bytes() == b"weights"
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_file_with_another_checksum_is_not(mirror: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = mirror
    (folder / MOBILENET).write_bytes(b"others")
    found = hashlib.md5(b"others").hexdigest()
    expected = weights._CHECKSUMS[MOBILENET]
    with pytest.raises(TransientError, match=f"has the checksum {found} instead of {expected}"):
        fetch("mobilenet", tmp_path / "into", url)
    assert list((tmp_path / "into").iterdir()) == []


def test_a_file_that_does_not_end_is_given_up(
    mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    monkeypatch.setattr(weights, "_MAX_BYTES", 5)
    (folder / MOBILENET).write_bytes(b"weights")
    with pytest.raises(TransientError, match="is larger than"):
        fetch("mobilenet", tmp_path / "into", url)
    assert list((tmp_path / "into").iterdir()) == []


def test_a_file_that_is_not_there(mirror: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"no_top\.h5 cannot be fetched: 404"):
        fetch("mobilenet", tmp_path / "into", mirror[1])


@pytest.mark.parametrize("wanted", ["mobilenetv2", "vgg19=123", "vgg19=" + "x" * 32])
def test_nothing_is_fetched_without_a_checksum(wanted: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give its SHA-256 or MD5 as"):
        fetch(wanted, tmp_path / "into", "http://127.0.0.1:1")


def test_the_command_fetches_all_that_it_is_given(
    mirror: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = mirror
    (folder / MOBILENET).write_bytes(b"weights")
    checksum = hashlib.md5(b"weights").hexdigest()
    options = ["--into", str(tmp_path / "into"), "--mirror", url]
    assert weights.main([f"mobilenet={checksum}, ", *options]) == 0
    assert capsys.readouterr().out == f"{MOBILENET}: 7 bytes\n"
    assert weights.main([f"mobilenet={checksum},vgg19", *options]) == 75
    assert f"imagetag.models.weights: {url}/vgg19_" in capsys.readouterr().err


def test_none_makes_an_empty_folder(tmp_path: Path) -> None:
    assert weights.main(["", "--into", str(tmp_path / "into")]) == 0
    assert list((tmp_path / "into").iterdir()) == []


def test_keras_takes_the_weights_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked, cache = tmp_path / "baked", tmp_path / "cache"
    baked.mkdir()
    keras.utils.set_random_seed(3)
    model = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    with h5py.File(baked / MOBILENET, "w") as file:  # of the older kind that Keras has there
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    baked.chmod(0o555)
    monkeypatch.setenv(FOLDER_VARIABLE, str(baked))
    monkeypatch.setenv("KERAS_HOME", str(cache))
    # Read by Keras when it is imported, and here it has been.
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(cache))
    built = build_model("mobilenet", (32, 32), weights="imagenet")
    loaded = next(layer for layer in built.layers if hasattr(layer, "backbone")).backbone
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (cache / "models" / MOBILENET).is_symlink()


def test_links_are_made_once_and_nothing_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked, cache = tmp_path / "baked", tmp_path / "cache"
    baked.mkdir()
    (baked / "a.h5").write_text("the image's")
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "b.h5").write_text("downloaded")
    (baked / "b.h5").write_text("the image's")
    monkeypatch.setenv(FOLDER_VARIABLE, str(baked))
    monkeypatch.setenv("KERAS_HOME", str(cache))
    link_into_cache()
    link_into_cache()
    assert (cache / "models" / "a.h5").read_text() == "the image's"
    assert (cache / "models" / "b.h5").read_text() == "downloaded"


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="set KERAS_HOME to a folder"):
        link_into_cache()


def test_outside_the_image_nothing_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    assert FOLDER_VARIABLE not in os.environ
    link_into_cache()
    assert not (tmp_path / "cache").exists()
