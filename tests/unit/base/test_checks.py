"""Values of settings are judged before anything slow: by name, by size, by a file's beginning."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest

from imagetag.checks import (
    LEAST_SIDES,
    Wrong,
    checked_model,
    checked_size,
    checked_weights,
    expanded_board,
    missing_folder,
    parse_size,
    shown_url,
)
from imagetag.errors import UsageError
from imagetag.job.command_line import parse_settings
from imagetag.models.architectures import build_model, model_names
from imagetag.models.weights import backbones
from jobs import settings_of
from tests.secret_urls import SCHEMES, SECRET, told_of


def test_the_models_are_those_that_can_be_built() -> None:
    assert list(LEAST_SIDES) == model_names()


@pytest.mark.parametrize("name", backbones())
def test_no_backbone_takes_less_than_its_least_side(name: str) -> None:
    least = LEAST_SIDES[name]
    with pytest.raises(
        ValueError, match=rf"(?i)at least {least}|must be >= {least}|{least}x{least}"
    ):
        backbones()[name](include_top=False, weights=None, input_shape=(least - 1, 224, 3))


@pytest.mark.parametrize("name", ["alexnet-small", "mobilenet", "xception"])
def test_a_model_takes_its_least_side(name: str) -> None:
    least = LEAST_SIDES[name]
    model = build_model(name, (least, least), weights=None)
    assert model.input_shape == (None, least, least, 3)


def test_a_model_that_there_is_not_is_told_with_what_is_like_it() -> None:
    assert checked_model("vgg19") == "vgg19"
    with pytest.raises(Wrong, match=r"^there is no model 'vgg91'; did you mean vgg19\?$"):
        checked_model("vgg91")
    with pytest.raises(Wrong, match=r"^there is no model 'VGG19'; did you mean vgg19\?$"):
        checked_model("VGG19")
    with pytest.raises(Wrong, match=r"^there is no model 'yolo'; there are alexnet, .*, xception$"):
        checked_model("yolo")


def test_sizes() -> None:
    assert parse_size("auto") is None
    assert parse_size("224x192") == (224, 192)
    assert checked_size("224X192") == "224x192"
    with pytest.raises(Wrong, match=r"'128' is no size: .*, such as 128x128$"):
        parse_size("128")
    for text in ("", "x", "0x224", "224x", "1x2x3", "²x2", "224 x 224", "100000x1", "large"):
        with pytest.raises(Wrong, match=r"is no size: write HEIGHTxWIDTH in pixels"):
            parse_size(text)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of weights as Keras saves them, by the endings of their names."""
    folder = tmp_path_factory.mktemp("weights")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(300)])
    found = {}
    for ending in (".weights.h5", ".keras", ".h5"):
        path = folder / f"a{ending}"
        model.save_weights(path) if ending == ".weights.h5" else model.save(path)
        found[ending] = path.read_bytes()
    return found


@pytest.mark.parametrize("ending", [".weights.h5", ".keras", ".h5"])
def test_a_whole_weights_file_is_taken_and_one_that_is_cut_off_is_not(
    weights: dict[str, bytes], ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"mine{ending}"
    path.write_bytes(weights[ending])
    assert checked_weights(str(path)) == str(path)
    for share in (0.0, 0.02, 0.5, 0.99):
        path.write_bytes(weights[ending][: int(len(weights[ending]) * share)])
        with pytest.raises(Wrong, match=r"mine.* (is cut off: it has|is no HDF5|is no .keras)"):
            checked_weights(str(path))


def test_what_is_no_weights_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("hello")
    (tmp_path / "a.keras").write_text("hello")
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "folder.h5").mkdir()
    with zipfile.ZipFile(tmp_path / "zip.h5", "w") as archive:
        archive.writestr("a", "b")
    for name, says in {
        "a.h5": "is no HDF5 file",
        "zip.h5": "is no HDF5 file",
        "a.keras": "is no .keras archive",
        "a.txt": "is no weights file: Keras reads .weights.h5, .h5 and .keras",
        "folder.h5": "is no file",
        "none.h5": "there is no file .*; or take imagenet or none",
    }.items():
        with pytest.raises(Wrong, match=says):
            checked_weights(str(tmp_path / name))
    with pytest.raises(Wrong, match=r"^there is no file 'imagnet'; did you mean imagenet\?$"):
        checked_weights("imagnet")
    for text in ("auto", "none", "imagenet", "s3://bucket/a.weights.h5"):
        assert checked_weights(text) == text


def test_a_folder_that_is_not_there_is_told_with_the_nearest_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "date").touch()
    assert missing_folder(tmp_path / "dta") == (
        f"there is no such folder; did you mean {tmp_path / 'data'}?"
    )
    assert missing_folder(tmp_path / "x" / "y") == "there is no such folder"


def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded_board("folder+~/pictures") == f"folder+{tmp_path}/pictures"
    assert expanded_board("gelbooru02+https://a.example/~me") == "gelbooru02+https://a.example/~me"
    assert expanded_board("safebooru") == "safebooru"
    argv = {
        "train": ["--storage", "~/s", "--tags-file=~/t.txt", "--cache-folder", "~/c"],
        "predict": ["--storage=~/s", "--input", "~/i", "--output=~/o.csv", "--copy-to", "~/d"],
        "report": ["--storage", "~/s", "--output", "~/o"],
        "board": ["--folder", "~/f"],
        "demo": ["--output", "~/o"],
        "run": ["--storage", "~/s", "--output", "~/o", "--input", "~/i"],
    }
    for job, options in argv.items():
        found = parse_settings(settings_of(job), options, command=job, summary="")
        paths = [str(value) for _, value in found if "~" in str(value)]
        assert not paths, (job, paths)
        assert str(tmp_path) in str(found)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--model", "xception", "--image-size", "64x64"], "--image-size 64x64: xception needs 71"),
        (["--model", "alexnet", "--weights", "imagenet"], "--model alexnet: there are no ImageNet"),
        (["--model", "alexnet", "--freeze-backbone", "yes"], "--freeze-backbone yes: alexnet has"),
        (["--micro-batch", "3"], "--micro-batch 3 must divide --batch-size 16"),
        (["--preset", "original-vgg19", "--batch-size", "6"], "--micro-batch 4 must divide"),
        (["--strategy", "multi-worker"], "--strategy multi-worker: give --workers"),
        (["--strategy", "mirrored", "--workers", "2"], "--strategy mirrored: with 2 workers"),
        (["--run", "a/b"], "--run 'a/b': use letters"),
    ],
)
def test_settings_of_a_training_that_do_not_go_together(argv: list[str], says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_settings(
            settings_of("train"), ["--storage", "here", *argv], command="train", summary=""
        )
    assert str(error.value).startswith(says)


def test_wrong_settings_wait_for_no_tensorflow(tmp_path: Path) -> None:
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "h5py"):
            raise AssertionError(name)
sys.meta_path.insert(0, Refuse())
from jobs.cli import main
sys.exit(main())
"""
    for argv, says in (
        (["train", "--model", "vgg91", "--resize", "cut"], "did you mean vgg19?; --resize"),
        (["evaluate", "--run", "nope"], "no complete run 'nope' of the tag 'fox'"),
        (["predict", "--run", "nope", "--input", str(tmp_path)], "no complete run 'nope'"),
        (["train", "--image-size", "64x64"], "no complete dataset of the tag 'fox'"),
        (["pack"], "no complete dataset of the tag 'fox'"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *argv, "--storage", str(tmp_path), "--tags", "fox"],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[3],
        )
        assert done.returncode in (2, 3), done.stderr
        assert done.stderr.count("\n") == 1
        assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rest", SECRET)
@pytest.mark.parametrize("engine", ["", "danbooru+", "links+", "no-engine+"])
def test_of_a_url_that_may_have_a_secret_in_it_its_scheme_alone_is_told(
    engine: str, rest: str
) -> None:
    for scheme in SCHEMES:
        shown = shown_url(f"{engine}{scheme}{rest}")
        assert not told_of(shown)
        assert shown.startswith(engine)


@pytest.mark.parametrize("text", ["me:hunterhushed@host/a", "hunter@hushed://host"])
def test_nor_is_what_lacks_its_scheme(text: str) -> None:
    assert not told_of(shown_url(text))


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/some/prefix",
        "s3://bucket/me@home",
        "s3://bucket/100%25",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint:mine/prefix",
        "https://board.example:8080/booru",
        "gelbooru02+http://[::1]:8080",
        "links+s3://bucket/list.csv",
        "http://minio:9000/bucket",
        "file:///home/me@work/a?b",
        "folder+/home/me@work",
        "/home/me@work/a:b",
        "me@home/data",
        "data",
        "c:/data",
        "",
    ],
)
def test_what_has_no_secret_in_it_is_told_as_it_is(url: str) -> None:
    assert shown_url(url) == url
