"""Predict as it is run: on folders, lists of URLs, boards; killed and gone on with; in shards."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from imagetag.demo.gelbooru02 import Gelbooru02
from imagetag.demo.pages import Answer
from imagetag.demo.posts import PostIndex, read_posts
from imagetag.demo.server import BoardServer
from imagetag.errors import TransientError, UsageError
from imagetag.layout import Layout
from imagetag.predict import resumable
from imagetag.predict.copies import Copies
from imagetag.predict.resumable import Parts
from imagetag.predict.sources import StoredPictures
from imagetag.runs.decision import sigmoid
from imagetag.runs.loading import load_model
from imagetag.runs.runs import load_run
from imagetag.stats.contract import Promise
from imagetag.status.overview import Overview
from imagetag.status.tag_status import StageStatus
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from tests.boardserver.guarded import GuardedServer
from tests.builders.pictures import encoded
from tests.builders.results import make_logits, make_pictures, table_of
from tests.ended import Ended
from tests.forked import Forked
from tests.integration.scraping import Drawn, Moody, write_post
from tests.predicting import (
    TAG,
    TEMPERATURE,
    THRESHOLD,
    alone,
    decide,
    end,
    ending,
    make_model,
    noise,
    rows_of,
    run,
    start,
    start_anew,
    store_model,
    write,
)

LAYOUT = Layout(TAG)
COLUMNS = ["file", "page_url", "probability", "decision", "error", "tag"]
# Parts of one batch each, so that there is something to go on from.
SOON = "import imagetag.predict.resumable as p; p._LEAST_SECONDS = p._SHARE = 0.0"


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def stored(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with an evaluated model; nobody writes to it."""
    folder = tmp_path_factory.mktemp("stored")
    store_model(str(folder), model)
    decide(str(folder))
    return folder


@pytest.fixture
def fresh(stored: Path, tmp_path: Path) -> Path:
    """A storage of the test's own."""
    return shutil.copytree(stored, tmp_path / "storage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures in a tree of folders; nobody writes to it."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(30):
        write(folder, name(number), noise(number))
    return folder


def name(number: int) -> str:
    return f"{number // 10}/{number:02}.{ending(number)}"


def expected(model: keras.Model, data: bytes, threshold: float = THRESHOLD) -> tuple[float, bool]:
    """What is told of a picture: the calibrated probability, and whether it is positive."""
    raw = min(max(alone(model, data), 1e-7), 1 - 1e-7)
    probability = sigmoid(np.log(raw / (1 - raw)) / TEMPERATURE)
    assert abs(probability - threshold) > 1e-4, "too close to call"
    return probability, probability >= threshold


def contents(storage: Storage) -> dict[str, bytes]:
    return {entry.key: storage.read(entry.key) for entry in storage.list()}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


# ---- a folder


def test_a_folder_as_a_user_predicts_it(stored: Path, folder: Path, model: keras.Model) -> None:
    ended = end(start_anew(stored, "--input", folder))
    assert ended.code == 0
    assert ended.stdout.splitlines()[0] == ",".join(COLUMNS)
    assert [row["file"] for row in ended.rows] == [name(number) for number in range(30)]
    decisions = []
    for number, row in enumerate(ended.rows):
        probability, decision = expected(model, noise(number))
        assert float(row["probability"]) == pytest.approx(probability, abs=2e-5)
        assert len(row["probability"]) == 8
        assert row["decision"] == str(decision).lower()
        assert (row["page_url"], row["error"]) == ("", "")
        decisions.append(decision)
    assert 3 < decisions.count(True) < 27
    [last] = ended.lines
    assert (last["event"], last["images"], last["errors"]) == ("predicted", 30, 0)
    assert last["positives"] == decisions.count(True)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_format_tells_the_same(kind: str, stored: Path, folder: Path, tmp_path: Path) -> None:
    plain = run(stored, "--input", folder).rows
    output = tmp_path / "new" / f"out.{kind}"
    ended = run(stored, "--input", folder, "--output", output, "--batch-size", 4)
    assert (ended.code, ended.stdout) == (0, "")
    found: list[dict[str, Any]]
    if kind == "parquet":
        found = pyarrow.parquet.read_table(output).to_pylist()
    elif kind == "jsonl":
        found = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        found = rows_of(output)
    assert [list(row) for row in found] == [COLUMNS] * 30
    for row, same in zip(found, plain, strict=True):
        assert row["file"] == same["file"]
        assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=2e-6)
        assert str(row["decision"]).lower() == same["decision"]
    assert sorted(path.name for path in output.parent.iterdir() if path.is_file()) == [
        output.name,
        f"{output.name}.about.json",
    ]


def test_a_run_that_was_not_evaluated_is_warned_of(
    fresh: Path, folder: Path, model: keras.Model
) -> None:
    (fresh / LAYOUT.run("tiny", "decision.json")).unlink()
    ended = run(fresh, "--input", folder)
    assert ended.code == 0
    [warning] = [line for line in ended.lines if line["level"] == "warning"]
    assert warning["event"].startswith("not evaluated: ")
    assert "run imagetag evaluate" in warning["event"]
    assert warning["threshold"] == 0.5
    for number, row in enumerate(ended.rows):
        assert float(row["probability"]) == pytest.approx(alone(model, noise(number)), abs=2e-5)
        assert row["decision"] == str(float(row["probability"]) >= 0.5).lower()


@pytest.mark.parametrize("met", [False, True])
def test_a_threshold_that_promises_nothing_is_warned_of(
    met: bool, fresh: Path, folder: Path
) -> None:
    promise = Promise(
        min_precision=0.95,
        confidence=0.95,
        level=0.99,
        threshold=THRESHOLD,
        met=met,
        bound=0.71,
        called=10,
        right=8,
        positives=20,
        negatives=20,
    )
    decide(str(fresh), promise=promise)
    warnings = [line for line in run(fresh, "--input", folder).lines if line["level"] == "warning"]
    assert [(line["min_precision"], line["bound"]) for line in warnings] == [(0.95, 0.71)] * (
        not met
    )
    assert len(run(fresh, "--input", folder, "--threshold", 0.5).lines) == 1


def test_a_threshold_that_is_given_wins(stored: Path, folder: Path) -> None:
    usual = run(stored, "--input", folder).rows
    ended = run(stored, "--input", folder, "--threshold", "0.3")
    assert [row["probability"] for row in ended.rows] == [row["probability"] for row in usual]
    for row in ended.rows:
        assert row["decision"] == str(float(row["probability"]) >= 0.3).lower()
    assert [row["decision"] for row in ended.rows] != [row["decision"] for row in usual]


def test_positives_are_sorted_out(stored: Path, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "positives"
    write(target, name(0), b"somebody's")
    ended = run(stored, "--input", folder, "--copy-to", target, "--output", tmp_path / "out.csv")
    assert ended.code == 0
    positives = {
        row["file"] for row in rows_of(tmp_path / "out.csv") if row["decision"] == "true"
    } - {name(0)}
    assert len(positives) > 3
    assert not (target / ".partial").exists()
    found = contents(LocalStorage(target))
    assert found.pop(name(0)) == b"somebody's"
    found.pop(f"0/00-{md5(noise(0))}.png", None)
    assert found == {key: (folder / key).read_bytes() for key in positives}


def test_what_was_predicted_is_not_predicted_again(
    stored: Path, folder: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(folder, tmp_path / "mine")
    options = ["--input", mine, "--output", tmp_path / "out.csv"]
    assert run(stored, *options).events[-1] == "predicted"
    before = (tmp_path / "out.csv").stat().st_mtime_ns
    ended = run(stored, *options)
    assert (ended.code, ended.events) == (0, ["already predicted"])
    assert (ended.lines[0]["rows"], ended.lines[0]["output"]) == (30, f"{tmp_path}/out.csv")
    assert (ended.lines[0]["images"], ended.lines[0]["positives"] > 0) == (30, True)
    assert (tmp_path / "out.csv").stat().st_mtime_ns == before
    # Another threshold, a new picture, a changed one, a lost output.
    assert run(stored, *options, "--threshold", 0.5).events[-1] == "predicted"
    assert run(stored, *options).events[-1] == "predicted"
    write(mine, "9/new.png", noise(50))
    assert run(stored, *options).lines[-1]["images"] == 31
    write(mine, "9/new.png", noise(51))
    assert run(stored, *options).events[-1] == "predicted"
    (tmp_path / "out.csv").unlink()
    assert run(stored, *options).events[-1] == "predicted"
    assert run(stored, *options).events == ["already predicted"]


def test_what_a_folder_has_is_estimated_at_the_end(
    fresh: Path, folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    for number in range(4):
        shutil.copytree(folder, mine / str(number))
    pictures = make_pictures(150, 150)
    options = ["--input", mine, "--output", tmp_path / "out.csv"]
    missing = run(fresh, *options, "--advice", "yes")
    assert (missing.code, missing.events) == (
        0,
        ["no advice on what these images have", "predicted"],
    )
    assert "threshold_predictions.csv" in missing.lines[0]["reason"]
    for seed, part in enumerate(("threshold", "test")):
        table = table_of(pictures, make_logits(pictures, 4.0, seed=seed))
        open_storage(str(fresh)).write(LAYOUT.run("tiny", f"{part}_predictions.csv"), table)
    (tmp_path / "out.csv").unlink()
    ended = run(fresh, *options)
    assert (ended.code, ended.events) == (0, ["predicted", "estimated"])
    told = ended.lines[-1]
    assert (told["tag"], told["images"], told["wanted"]) == (TAG, 120, None)
    assert 0 <= told["share"]["low"] <= told["share"]["value"] <= told["share"]["high"] <= 1
    about = json.loads((tmp_path / "out.csv.about.json").read_bytes())
    assert about["advice"][TAG] == {name: told[name] for name in about["advice"][TAG]}
    again = run(fresh, *options)
    assert again.events == ["already predicted", "estimated"]
    assert again.lines[-1]["share"] == told["share"]
    terminal = run(fresh, "--input", mine)
    assert terminal.events == ["predicted", "estimated"]
    assert terminal.lines[-1]["share"] == told["share"]
    assert run(fresh, "--input", mine, "--advice", "no").events == ["predicted"]


NO_TENSORFLOW = """
import atexit, json
def tell():
    told = {"event": "modules", "level": "info", "tensorflow": "tensorflow" in sys.modules}
    print(json.dumps(told), file=sys.stderr)
atexit.register(tell)
"""


def test_what_was_predicted_is_told_without_tensorflow(
    stored: Path, folder: Path, tmp_path: Path
) -> None:
    options = ["--input", folder, "--output", tmp_path / "out.csv"]
    assert run(stored, *options).code == 0
    ended = end(start_anew(stored, *options, before=NO_TENSORFLOW))
    assert ended.code == 0
    assert ended.lines[0]["event"] == "already predicted"
    assert ended.lines[-1]["tensorflow"] is False


# ---- several tags, files and lists


def test_several_tags_have_a_row_each_and_are_gone_on_with(
    fresh: Path, folder: Path, tmp_path: Path
) -> None:
    store_model(str(fresh), make_model(seed=9), tag="owl")
    both = ["--tag", "", "--tags", f"owl,{TAG}"]
    alone = {
        tag: run(fresh, "--input", folder, "--tag", tag, "--batch-size", 4).rows
        for tag in ("owl", TAG)
    }
    options = [*both, "--input", folder, "--batch-size", 4]
    ended = run(fresh, *options)
    assert ended.code == 0
    assert [(row["file"], row["tag"]) for row in ended.rows] == [
        (name(number), tag) for number in range(30) for tag in ("owl", TAG)
    ]
    for tag, rows in alone.items():
        assert [row for row in ended.rows if row["tag"] == tag] == rows
    assert ended.lines[-1]["images"] == 30
    # One without a model does not stop the others, and is told at the end.
    more = run(fresh, "--tag", "", "--tags", f"owl,bat,{TAG}", *options[4:])
    assert (more.code, more.rows) == (3, ended.rows)
    assert more.lines[-1]["event"] == "1 of 3 tags have no row: bat"
    output = tmp_path / "out.csv"
    assert run(fresh, *options, "--output", output).code == 0
    assert rows_of(output) == ended.rows
    # The same, of which each image is a row.
    wide = run(fresh, *options, "--layout", "wide").rows
    assert [row["file"] for row in wide] == [name(number) for number in range(30)]
    for place, row in enumerate(wide):
        for tag, same in zip(("owl", TAG), ended.rows[2 * place : 2 * place + 2], strict=True):
            told = (row[f"probability:{tag}"], row[f"decision:{tag}"])
            assert told == (same["probability"], same["decision"])
    [line] = run(fresh, *options, "--output", output).lines
    assert (line["event"], line["rows"]) == ("already predicted", 60)


def test_files_folders_and_a_list_together(
    stored: Path, folder: Path, tmp_path: Path, s3_bucket: str
) -> None:
    bucket = open_storage(s3_bucket)
    bucket.write("some/b.png", noise(3))
    write(tmp_path, "x, y.png", noise(4))
    usual = [float(row["probability"]) for row in run(stored, "--input", folder).rows]
    job = start(
        stored,
        *("--input", f"{s3_bucket}/some/b.png,{folder / '2'}", "--input", "-"),
        folder / name(5),
        before="import io; sys.stdin = io.TextIOWrapper(open('names', 'rb'))",
        cwd=write(tmp_path, "names", f"x, y.png\n\n{folder / name(7)}\nnone.png\n".encode()).parent,
    )
    ended = end(job)
    assert ended.code == 0, ended.lines
    expected = {
        f"{s3_bucket}/some/b.png": 3,
        **{str(folder / name(number)): number for number in range(20, 30)},
        "x, y.png": 4,
        str(folder / name(7)): 7,
        "none.png": None,
        str(folder / name(5)): 5,
    }
    assert [row["file"] for row in ended.rows] == list(expected)
    for row, number in zip(ended.rows, expected.values(), strict=True):
        if number is None:
            assert row["error"].startswith("missing: ")
        else:
            assert float(row["probability"]) == pytest.approx(usual[number], abs=2e-5)


@pytest.mark.parametrize("style", ["hydrus", "kohya"])
def test_positives_have_sidecars_and_the_rest_has_none(
    style: str, stored: Path, folder: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(folder, tmp_path / "mine")
    ended = run(stored, "--input", mine, "--sidecars", style)
    positives = {row["file"] for row in ended.rows if row["decision"] == "true"}
    assert 3 < len(positives) < 27
    stems = {key: key if style == "hydrus" else key.rpartition(".")[0] for key in positives}
    found = {key: data for key, data in contents(LocalStorage(mine)).items() if ".txt" in key}
    assert found == {f"{stem}.txt": f"{TAG}\n".encode() for stem in stems.values()}
    assert {path.name for path in mine.iterdir()} == {"0", "1", "2"}
    again = run(stored, "--input", mine, "--sidecars", style)
    assert again.rows == ended.rows
    assert {k: d for k, d in contents(LocalStorage(mine)).items() if ".txt" in k} == found


# ---- pictures of every kind, and what is none


@functools.cache
def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in some 50 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    side = 20_000
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * side))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def scene() -> Image.Image:
    """A picture that is not the same upside down or on its side."""
    random = np.random.default_rng(8)
    pixels = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    pixels[:20] //= 6
    pixels[:, 40:, 1:] //= 5
    return Image.fromarray(pixels)


GOOD: dict[str, Callable[[], bytes]] = {
    "1x1.png": lambda: encoded(Image.new("RGB", (1, 1), (200, 30, 60)), "PNG"),
    "long.png": lambda: encoded(Image.new("RGB", (3000, 1), (200, 30, 60)), "PNG"),
    "grey.png": lambda: encoded(scene().convert("L"), "PNG"),
    "grey.jpg": lambda: encoded(scene().convert("L"), "JPEG"),
    "bits.png": lambda: encoded(scene().convert("1"), "PNG"),
    "palette.png": lambda: encoded(scene().quantize(32), "PNG"),
    "palette.gif": lambda: encoded(scene().quantize(32), "GIF"),
    "cmyk.jpg": lambda: encoded(scene().convert("CMYK"), "JPEG", quality=95),
    "alpha.png": lambda: encoded(scene().convert("RGBA"), "PNG"),
    "grey-alpha.png": lambda: encoded(scene().convert("LA"), "PNG"),
    "16-bit.png": lambda: encoded(
        Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257), "PNG"
    ),
    "animated.gif": lambda: encoded(
        scene().quantize(32), "GIF", save_all=True, append_images=[Image.new("P", (64, 48))] * 3
    ),
    "animated.webp": lambda: encoded(
        scene(),
        "WEBP",
        save_all=True,
        lossless=True,
        append_images=[Image.new("RGB", (64, 48))] * 3,
    ),
    "picture.bmp": lambda: encoded(scene(), "BMP"),
}
AS_GREY = ("grey.png", "grey-alpha.png", "16-bit.png")
AS_SCENE = ("alpha.png", "animated.webp", "picture.bmp", "upright.png", "turned.png")
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.png": (bomb, "too_many_pixels"),
    "cut.jpg": (lambda: encoded(scene(), "JPEG")[:-900], "truncated"),
    "cut.png": (lambda: encoded(scene(), "PNG")[:-900], "truncated"),
    "empty.jpg": (lambda: b"", "not_an_image"),
    "page.png": (lambda: b"<!doctype html><title>403</title>", "not_an_image"),
    "program.webp": (lambda: b"\x7fELF" + bytes(1000), "not_an_image"),
    "icon.png": (lambda: encoded(scene(), "ICO"), "not_an_image"),
    "vector.jpg": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
}
TURNED = {0x0112: 6}  # EXIF's orientation: to be turned by a quarter to the right


def test_pictures_of_every_kind_and_what_is_none(
    stored: Path, model: keras.Model, tmp_path: Path
) -> None:
    files = {key: make() for key, make in GOOD.items()}
    files |= {key: make() for key, (make, _) in BAD.items()}
    lying = scene().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif.update(TURNED)
    files["upright.png"] = encoded(scene(), "PNG")
    files["turned.png"] = encoded(lying, "PNG", exif=exif)
    files["upright.jpg"] = encoded(scene(), "JPEG", quality=98, subsampling=0)
    files["turned.jpg"] = encoded(lying, "JPEG", quality=98, subsampling=0, exif=exif)
    files["lying.jpg"] = encoded(lying, "JPEG", quality=98, subsampling=0)
    for key, data in files.items():
        write(tmp_path, key, data)

    ended = run(stored, "--input", tmp_path)

    assert ended.code == 0
    found = {row["file"]: row for row in ended.rows}
    assert list(found) == sorted(files, key=str.encode)
    for key, (_, reason) in BAD.items():
        row = found.pop(key)
        assert (row["probability"], row["decision"]) == ("", "")
        assert row["error"].startswith(f"{reason}: "), row
    assert {row["error"] for row in found.values()} == {""}
    told = {key: float(row["probability"]) for key, row in found.items()}

    def says(image: Image.Image) -> float:
        return expected(model, encoded(image.convert("RGB"), "PNG"))[0]

    for key in AS_SCENE:
        assert told[key] == pytest.approx(says(scene()), abs=2e-5), key
    for key in AS_GREY:
        assert told[key] == pytest.approx(says(scene().convert("L")), abs=2e-3), key
    assert told["bits.png"] == pytest.approx(says(scene().convert("1")), abs=2e-5)
    for key in ("palette.png", "palette.gif", "animated.gif"):
        assert told[key] == pytest.approx(says(scene().quantize(32)), abs=2e-5), key
    assert told["1x1.png"] == pytest.approx(says(Image.new("RGB", (9, 9), (200, 30, 60))), abs=2e-5)
    # A JPEG is not turned without a trace, but lying it is another picture.
    assert told["turned.jpg"] == pytest.approx(told["upright.jpg"], abs=0.01)
    assert abs(told["lying.jpg"] - told["upright.jpg"]) > 0.05
    last = ended.lines[-1]
    assert (last["images"], last["errors"]) == (len(files), len(BAD))
    assert last["reasons"] == {"too_many_pixels": 1, "truncated": 2, "not_an_image": 5}


PEAK = """
import json, resource
import jobs.predict
def telling(argv, main=jobs.predict.main):
    code = main(argv)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"event": "peak", "level": "info", "used": used >> 10}), file=sys.stderr)
    return code
jobs.predict.main = telling
"""


def test_a_bomb_is_refused_and_takes_no_memory(stored: Path, tmp_path: Path) -> None:
    write(tmp_path, "plain/a.png", noise(0))
    for number in range(40):
        write(tmp_path, f"bombs/{number}.png", bomb())
    write(tmp_path, "bombs/a.png", noise(0))
    peaks = {}
    for kind in ("plain", "bombs"):
        ended = end(start(stored, "--input", tmp_path / kind, before=PEAK))
        assert ended.code == 0
        peaks[kind] = ended.lines[-1]["used"]  # megabytes
    assert ended.lines[-2]["reasons"] == {"too_many_pixels": 40}
    assert peaks["bombs"] < peaks["plain"] + 100


# ---- what is lacking


def complaint(ended: Ended, code: int) -> str:
    assert ended.code == code, ended.lines
    assert ended.stdout in ("", ",".join(COLUMNS) + "\r\n")
    return ended.complaint


def test_a_model_that_is_not_there_or_not_right_is_one_line(
    fresh: Path, folder: Path, model: keras.Model, tmp_path: Path
) -> None:
    def says(*options: object) -> str:
        return complaint(run(fresh, "--input", folder, *options), 3)

    assert "no trained model of the tag 'owl'" in says("--tag", "owl")
    assert "no complete run 'other'" in says("--run", "other")
    storage = open_storage(str(fresh))

    # Of another tag.
    for file in ("metrics.json", "model.keras"):
        storage.write(Layout("owl").run("tiny", file), storage.read(LAYOUT.run("tiny", file)))
    told = says("--tag", "owl", "--run", "tiny")
    assert "metrics.json is of the run 'tiny' of the tag 'red/disc'" in told
    storage.write(
        LAYOUT.run("tiny", "decision.json"),
        storage.read(LAYOUT.run("tiny", "decision.json")).replace(b'"tiny"', b'"other"'),
    )
    assert "decision.json is of the run 'other'" in says()
    decide(str(fresh))

    whole = storage.read(LAYOUT.run("tiny", "model.keras"))
    for data in (whole[: len(whole) // 2], b"", b"no archive"):
        storage.write(LAYOUT.run("tiny", "model.keras"), data)
        assert "model.keras cannot be loaded" in says()
    storage.delete(LAYOUT.run("tiny", "model.keras"))
    assert "model.keras is missing" in says()

    # Of another size than its run says, and of none of our makes.
    store_model(str(fresh), model, size=(32, 24))
    assert "takes pictures of 24 x 32 pixels" in says()
    plain = keras.Sequential([keras.Input((*(24, 32), 3)), keras.layers.Flatten()])
    store_model(str(fresh), plain)
    assert "has no part with the layers features and logit" in says()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--input", "EMPTY"], 3, "no image there, by name or by content"),
        (["--input", "EMPTY", "--output", "x.txt"], 2, "must end in .csv, .jsonl or .parquet"),
        (["--input", "ftp://example.org/"], 2, "--input 'ftp://example.org/'"),
        (["--input", "EMPTY/no.txt"], 2, "No such file"),
        ([], 2, "images from where? Give --input or --board"),
        (["--board", "nobooru", "--query", "fox"], 2, "--board 'nobooru': there is no such board"),
        (["--board", "safebooru", "--query", "fo*"], 2, "'fo*' is not one tag"),
        (["--input", "EMPTY", "--threshold", "1.5"], 2, "--threshold (IMAGETAG_THRESHOLD)"),
        (["--input", "EMPTY", "--shard-index", "1"], 2, "--shard-index 1"),
        (["--input", "EMPTY", "--copy-to", "EMPTY/x"], 2, "is inside --input"),
        (["--input", "EMPTY", "--contact", "Käthe"], 2, "--contact (IMAGETAG_CONTACT): take ASCII"),
    ],
)
def test_what_is_asked_wrong_is_one_line(
    options: list[str], code: int, said: str, stored: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    given = [option.replace("EMPTY", str(tmp_path / "empty")) for option in options]
    ended = run(stored, *given)
    assert said in complaint(ended, code)


# ---- from others' servers


def politely(*options: object) -> list[object]:
    return ["--allow-private-hosts", "--max-rate", 1000, *options]


def on_board(board: Moody, *options: object) -> list[object]:
    return politely("--board", f"gelbooru02+{board.url}", *options)


def image_of(drawn: Drawn, post_id: int) -> bytes:
    path: Path = drawn.folder / drawn.posts[post_id]["file"]
    return path.read_bytes()


def url_of(board: BoardServer, post: dict[str, Any]) -> str:
    """Where the engine has a picture."""
    return f"{board.url}/images/{1 + post['id'] // 1000}/{post['md5']}.{post['ext']}"


def any_rating(drawn: Drawn, *tags: str) -> list[int]:
    found = (i for i, post in drawn.posts.items() if set(tags) <= set(post["tags"]))
    return sorted(found, reverse=True)


def middle(model: keras.Model, pictures: list[bytes]) -> float:
    """A threshold that some pictures reach and others do not."""
    found = sorted({round(expected(model, data, -1.0)[0], 3) for data in pictures})
    gaps = [(high - low, (low + high) / 2) for low, high in itertools.pairwise(found)]
    return round(max(gaps)[1], 4)


def test_a_board_is_searched_newest_first(
    stored: Path, board: Moody, drawn: Drawn, model: keras.Model, tmp_path: Path
) -> None:
    ids = any_rating(drawn, "fox")
    threshold = middle(model, [image_of(drawn, post_id) for post_id in ids])
    output, target = tmp_path / "out.csv", tmp_path / "positives"
    options = ["--query", "fox", "--output", output, "--copy-to", target]
    ended = end(start(stored, *on_board(board, *options, "--threshold", threshold)))
    assert ended.code == 0, ended.lines
    found = rows_of(output)
    assert len(found) == len(ids) > 20
    positives = {}
    for post_id, row in zip(ids, found, strict=True):
        data = image_of(drawn, post_id)
        assert row["page_url"] == f"{board.url}/index.php?page=post&s=view&id={post_id}"
        assert row["file"].startswith(f"{board.url}/images/")
        assert drawn.posts[post_id]["md5"] in row["file"]
        probability, decision = expected(model, data, threshold)
        assert float(row["probability"]) == pytest.approx(probability, abs=2e-5)
        assert row["decision"] == str(decision).lower()
        if decision:
            positives[f"{md5(data)}.{drawn.posts[post_id]['ext']}"] = data
    assert contents(LocalStorage(target)) == positives
    assert 0 < len(positives) < len(ids)


def test_a_search_has_many_tags_and_a_limit(stored: Path, board: Moody, drawn: Drawn) -> None:
    def ids(*options: object) -> list[int]:
        ended = run(stored, *on_board(board, *options))
        assert ended.code == 0, ended.lines
        return [int(row["page_url"].rpartition("=")[2]) for row in ended.rows]

    tags = drawn.posts[any_rating(drawn, "fox")[0]]["tags"]
    other = next(tag for tag in tags if tag != "fox" and len(any_rating(drawn, "fox", tag)) > 2)
    both = any_rating(drawn, "fox", other)
    assert ids("--query", f"fox {other}") == both
    assert ids("--query", f"{other} fox", "--limit", 2) == both[:2]
    without = [i for i in any_rating(drawn, "fox") if i not in both]
    assert ids("--query", f"fox -{other}") == without
    assert ids("--query", "fox rating:general") == drawn.ids("fox")
    assert ids("--limit", 5) == sorted(drawn.posts, reverse=True)[:5]


def test_a_board_whose_api_is_closed_is_searched_by_its_pages(stored: Path, drawn: Drawn) -> None:
    with Moody(drawn.folder, api="closed") as board:
        ended = run(stored, *on_board(board, "--query", "fox", "--limit", 3))
        assert ended.code == 0, ended.lines
        for post_id, row in zip(any_rating(drawn, "fox"), ended.rows, strict=False):
            assert drawn.posts[post_id]["md5"] in row["file"]
            assert row["probability"]


def test_what_a_board_says_wrong_is_one_line(stored: Path, board: Moody) -> None:
    def says(code: int, *options: object) -> str:
        return complaint(run(stored, *on_board(board, *options)), code)

    assert "has no posts for --query 'nobody'" in says(3, "--query", "nobody")
    assert "it is probably an alias" in says(3, "--query", "alias")
    private = run(stored, "--board", f"gelbooru02+{board.url}", "--query", "fox")
    assert "private" in complaint(private, 2)


@pytest.mark.usefixtures("quick_retries")
def test_a_board_that_is_down_is_a_passing_failure(stored: Path, board: Moody) -> None:
    board.down = True
    ended = run(stored, *on_board(board, "--query", "fox"))
    assert "the board cannot be listed" in complaint(ended, 75)


@pytest.mark.usefixtures("quick_retries")
def test_a_list_of_urls_has_a_row_each(
    stored: Path, board: Moody, drawn: Drawn, model: keras.Model, tmp_path: Path
) -> None:
    ids = any_rating(drawn, "fox")[:6]
    moods = {
        1: Answer(HTTPStatus.GONE, "text/html", b"<html>gone</html>"),
        2: Answer(HTTPStatus.OK, "text/html", b"<html>log in</html>"),
        3: Answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/html", b"busy"),
    }
    sums = [drawn.posts[post_id]["md5"] for post_id in ids]
    board.mood = lambda md5, _: moods.get(sums.index(md5)) if md5 in sums else None
    good = [url_of(board, drawn.posts[post_id]) for post_id in ids]
    urls = [*good, "no url", f"{board.url}/film.mp4", good[0]]
    listing = write(tmp_path, "list.txt", "\n".join(urls).encode())

    threshold = middle(model, [image_of(drawn, ids[i]) for i in (0, 4, 5)])
    options = ["--input", listing, "--copy-to", tmp_path / "positives", "--threshold", threshold]
    ended = run(stored, *politely(*options))

    assert ended.code == 0, ended.lines
    assert [row["file"] for row in ended.rows] == urls
    assert [row["error"].split(":")[0] for row in ended.rows] == [
        *("", "http_410", "not_an_image", "http_503", "", "", "bad_url", "video", "")
    ]
    positives = {}
    for place, post_id in ((0, 0), (4, 4), (5, 5), (8, 0)):
        data = image_of(drawn, ids[post_id])
        probability, decision = expected(model, data, threshold)
        assert float(ended.rows[place]["probability"]) == pytest.approx(probability, abs=2e-5)
        if decision:
            positives[f"{md5(data)}.{drawn.posts[ids[post_id]]['ext']}"] = data
    assert contents(LocalStorage(tmp_path / "positives")) == positives
    assert len(board.asked) == 7 + 4  # the busy one is asked five times

    refused = run(stored, "--input", listing)
    assert refused.code == 0
    assert [row["error"].split(":")[0] for row in refused.rows[:2]] == ["private_host"] * 2


@pytest.mark.usefixtures("quick_retries")
def test_robots_are_obeyed_unless_one_has_leave(stored: Path, drawn: Drawn, tmp_path: Path) -> None:
    robots = "User-agent: *\nDisallow: /images/\n"
    with GuardedServer(drawn.folder, robots=robots) as board:
        url = url_of(board, drawn.posts[any_rating(drawn, "fox")[0]])
        listing = write(tmp_path, "list.csv", f"url\n{url}\n".encode())
        [row] = run(stored, *politely("--input", listing)).rows
        assert row["error"].startswith("robots: ")
        [row] = run(stored, *politely("--input", listing, "--ignore-robots")).rows
        assert row["error"] == ""


# ---- shards


def test_shards_have_each_picture_once_and_in_order(
    stored: Path, folder: Path, tmp_path: Path
) -> None:
    whole = {row["file"]: row for row in run(stored, "--input", folder).rows}
    found: list[dict[str, str]] = []
    for index in range(2):
        pod = {"JOB_COMPLETION_INDEX": str(index), "IMAGETAG_SHARD_COUNT": "2"}
        job = start(
            *(stored, "--input", folder, "--output", tmp_path / "out.csv"),
            env=os.environ | pod,
        )
        assert end(job).code == 0
        rows = rows_of(tmp_path / f"out-{index:05}-of-00002.csv")
        assert 5 < len(rows) < 25
        assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
        found += rows
    assert sorted(row["file"] for row in found) == sorted(whole)
    for row in found:
        assert float(row["probability"]) == pytest.approx(
            float(whole[row["file"]]["probability"]), abs=2e-6
        )
    assert not (tmp_path / "out.csv").exists()


def test_shards_of_a_search_fetch_each_picture_once(
    stored: Path, board: Moody, drawn: Drawn, tmp_path: Path
) -> None:
    found: list[str] = []
    for index in range(3):
        share = ("--shard-index", index, "--shard-count", 3, "--output", tmp_path / "out.jsonl")
        ended = run(stored, *on_board(board, "--query", "fox", "--limit", 12, *share))
        assert ended.code == 0, ended.lines
        path = tmp_path / f"out-{index:05}-of-00003.jsonl"
        pages = [json.loads(line)["page_url"] for line in path.read_text().splitlines()]
        numbers = [int(page.rpartition("=")[2]) for page in pages]
        assert numbers == sorted(numbers, reverse=True)
        found += pages
    newest = any_rating(drawn, "fox")[:12]
    assert {int(page.rpartition("=")[2]) for page in found} == set(newest)
    assert len(found) == len(board.asked) == 12


# ---- killed, and run again


def wait_for_parts(output: Path, count: int) -> None:
    folder = output.with_name(output.name + ".parts")
    while len(list(folder.glob("*.jsonl"))) < count:
        time.sleep(0.02)


def make_slow(board: Moody) -> None:
    """Let pictures take their time."""

    def mood(_md5: str, _times: int) -> None:
        time.sleep(0.15)

    board.mood = mood


def kill(job: Forked, number: signal.Signals) -> int:
    job.send_signal(number)
    return job.wait(timeout=200)


def test_a_search_that_was_killed_goes_on_where_it_was(
    stored: Path, board: Moody, drawn: Drawn, model: keras.Model, tmp_path: Path
) -> None:
    ids = any_rating(drawn, "fox")
    threshold = middle(model, [image_of(drawn, post_id) for post_id in ids])
    options = on_board(
        board,
        *("--query", "fox", "--concurrency", 1, "--batch-size", 2, "--threshold", threshold),
    )
    whole, all_positives = tmp_path / "whole.parquet", tmp_path / "all"
    undisturbed = run(stored, *options, "--output", whole, "--copy-to", all_positives)
    assert undisturbed.code == 0, undisturbed.lines

    output, positives = tmp_path / "out.parquet", tmp_path / "positives"
    mine = [*options, "--output", output, "--copy-to", positives]
    make_slow(board)
    job = start(stored, *mine, before=SOON)
    wait_for_parts(output, 3)
    assert kill(job, signal.SIGKILL) == -signal.SIGKILL
    assert not output.exists()
    board.mood = lambda _md5, _times: None
    # Meanwhile a post has come, and the newest of before is gone.
    newer = shutil.copytree(drawn.folder, tmp_path / "newer")
    write_post(newer, max(drawn.posts) + 5, 7, tags=["fox"])
    posts = [post for post in read_posts(newer) if post.id != ids[0]]
    board._protocol = Gelbooru02(PostIndex(posts))
    asked = len(board.asked)
    ended = run(stored, *mine)
    assert ended.code == 0, ended.lines
    reused = ended.lines[-1]["reused"]
    assert reused >= 6
    assert len(board.asked) - asked == len(ids) - reused
    assert output.read_bytes() == whole.read_bytes()
    assert contents(LocalStorage(positives)) == contents(LocalStorage(all_positives))
    assert 0 < len(contents(LocalStorage(positives))) < len(ids)
    # A run of its own takes the newer one.
    again = run(stored, *mine)
    assert again.lines[-1]["images"] == len(ids)
    assert output.read_bytes() != whole.read_bytes()


def test_a_list_that_was_killed_anywhere_ends_the_same_to_the_last_byte(
    stored: Path, board: Moody, drawn: Drawn, tmp_path: Path
) -> None:
    posts = [drawn.posts[post_id] for post_id in any_rating(drawn)[:40]]
    urls = [url_of(board, post) for post in posts]
    listing = write(tmp_path, "list.txt", "\n".join(urls).encode())
    options = politely("--input", listing, "--concurrency", 2, "--batch-size", 4)
    make_slow(board)
    output, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    for count, number, code in ((1, signal.SIGKILL, -9), (4, signal.SIGTERM, 143)):
        job = start(stored, *options, "--output", output, before=SOON)
        wait_for_parts(output, count)
        assert kill(job, number) == code
    board.mood = lambda _md5, _times: None
    asked = len(board.asked)
    ended = run(stored, *options, "--output", output)
    assert ended.code == 0, ended.lines
    reused = ended.lines[-1]["reused"]
    assert reused >= 16
    assert len(board.asked) - asked == 40 - reused
    assert run(stored, *options, "--output", whole).code == 0
    assert output.read_bytes() == whole.read_bytes()
    assert {row["error"] for row in rows_of(output)} == {""}


@pytest.mark.parametrize(
    ("number", "code", "how"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_folder_that_was_stopped_keeps_what_was_done(
    number: signal.Signals, code: int, how: str, stored: Path, folder: Path, tmp_path: Path
) -> None:
    """The rows since the last part are saved on the way out."""
    options = ["--input", folder, "--batch-size", 2]
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    # No part is due; after ten pictures each takes its time. (One batch waits for the next.)
    script = """
import imagetag.predict.sources as p, time
real = p.StoredPictures.read
def slow(self, picture):
    if picture.file > "1/02":
        print("slow", flush=True)
        time.sleep(1000)
    return real(self, picture)
p.StoredPictures.read = slow
"""
    job = start(stored, *options, "--output", output, before=script)
    while "slow" not in job.stdout.read_text():
        assert job.returncode is None
        time.sleep(0.02)
    time.sleep(2)
    job.send_signal(number)
    _, stderr = job.communicate(timeout=200)
    assert job.returncode == code
    last = json.loads(stderr.splitlines()[-1])
    assert last["event"] == f"{how}; 8 images are done; run it again to go on"
    assert not output.exists()
    told = predicting(stored)
    assert (told.state, told.exit_code) == ("stopped", code)
    assert told.reason.endswith("8 images are done; run it again to go on")
    ended = run(stored, *options, "--output", output)
    assert ended.lines[-1]["reused"] == 8
    assert predicting(stored).state == "none"
    assert run(stored, *options, "--output", whole).code == 0
    assert output.read_bytes() == whole.read_bytes()


def predicting(storage: Path) -> StageStatus:
    """Return what imagetag status tells of it."""
    [found] = Overview(LocalStorage(storage), [TAG]).read()
    return found.stages["predict"]


def stop_after(rows: int, storage: object, *options: object) -> None:
    """Predict so many rows, as a run that was killed."""
    real = Parts._store

    def cut(self: Parts, count: int) -> None:
        real(self, count)
        if self._saved >= rows:
            raise TransientError("cut off")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resumable, "_LEAST_SECONDS", 0.0)
        patch.setattr(resumable, "_SHARE", 0.0)
        patch.setattr(Parts, "_store", cut)
        patch.setattr(Parts, "save_at_last", lambda self: None)
        assert run(storage, *options).code == 75


def test_parts_of_another_model_or_decision_are_not_used(
    fresh: Path, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    options = ["--input", folder, "--batch-size", 2, "--output", output]

    def reused(*more: object) -> object:
        ended = run(fresh, *options, *more)
        assert ended.code == 0, ended.lines
        output.unlink()
        return ended.lines[-1]["reused"]

    stop_after(8, fresh, *options)
    assert reused() == 8
    stop_after(8, fresh, *options)
    assert reused("--threshold", 0.2) == 0
    stop_after(8, fresh, *options)
    decide(str(fresh), threshold=0.4)
    assert reused() == 0
    stop_after(8, fresh, *options)
    store_model(str(fresh), make_model(seed=9), created="2026-02-02T00:00:00+00:00")
    assert reused() == 0
    # Nor where nothing was decided.
    stop_after(8, fresh, *options)
    store_model(str(fresh), make_model(seed=9), created="2026-03-03T00:00:00+00:00")
    assert reused() == 0


def test_no_row_is_kept_before_its_copy(
    stored: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, target = tmp_path / "out.csv", tmp_path / "positives"
    real = Copies._copy

    def slow(self: Copies, picture: Any) -> None:
        time.sleep(0.3)
        real(self, picture)

    monkeypatch.setattr(Copies, "_copy", slow)
    options = ["--input", folder, "--batch-size", 8, "--output", output, "--copy-to", target]
    stop_after(8, stored, *options)
    [part] = (tmp_path / "out.csv.parts").iterdir()
    rows = [json.loads(line) for line in part.read_text().splitlines()[1:]]
    positives = {row["file"] for row in rows if True in row["decisions"]}
    assert positives
    assert positives <= contents(LocalStorage(target)).keys()


# ---- in a bucket


def test_all_of_it_in_a_bucket(stored: Path, folder: Path, s3_bucket: str, tmp_path: Path) -> None:
    bucket = open_storage(s3_bucket)
    for source, prefix in ((stored, "models"), (folder, "data/in")):
        for key, data in contents(LocalStorage(source)).items():
            bucket.write(f"{prefix}/{key}", data)
    options = [
        *("--input", f"{s3_bucket}/data/in", "--copy-to", f"{s3_bucket}/data/out"),
        *("--batch-size", 4),
    ]
    here = tmp_path / "here.csv"
    assert run(stored, "--input", folder, "--output", here, "--batch-size", 4).code == 0
    output = f"{s3_bucket}/results/out.csv"
    storage = f"{s3_bucket}/models"
    stop_after(12, storage, *options, "--output", output)
    assert [key for key in contents(bucket) if key.startswith("results/")] == [
        f"results/out.csv.parts/{first:010}.jsonl" for first in (0, 4, 8)
    ]
    ended = end(start(storage, *options, "--output", output))
    assert ended.code == 0, ended.lines
    assert ended.lines[-1]["reused"] == 12
    assert bucket.read("results/out.csv") == here.read_bytes()
    positives = [row["file"] for row in rows_of(here) if row["decision"] == "true"]
    copied = open_storage(f"{s3_bucket}/data/out")
    assert contents(copied) == {key: (folder / key).read_bytes() for key in sorted(positives)}
    assert run(storage, *options, "--output", output).events == ["already predicted"]
    results = [key for key in contents(bucket) if key.startswith("results/")]
    assert results == ["results/out.csv", "results/out.csv.about.json"]
    # A list of URLs may be there too.
    bucket.write("list.txt", b"no url\n")
    [row] = run(storage, "--input", f"{s3_bucket}/list.txt").rows
    assert row["error"].startswith("bad_url: ")


def test_what_is_loaded_is_what_was_stored(stored: Path, tmp_path: Path) -> None:
    """The helpers' run is one that the library takes for its own."""
    storage = LocalStorage(stored)
    found = load_run(storage, TAG, "latest")
    model = load_model(storage, found, tmp_path)
    assert alone(model, noise(1)) == pytest.approx(alone(make_model(), noise(1)), abs=1e-6)


def copy_all(source: StoredPictures, target: Storage) -> None:
    with Copies(source, target) as copies:
        for picture in source.pictures():
            copies.add(picture)
        copies.wait()


@pytest.mark.parametrize(
    ("origin", "goal"), [("data/in", "data/out"), ("in", "out/deep"), ("in", "in-positives")]
)
def test_in_one_bucket_the_server_copies(
    origin: str, goal: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {"a.png": noise(0), "b/c.jpg": noise(1)}
    for key, data in pictures.items():
        open_storage(f"{s3_bucket}/{origin}").write(key, data)
    source = StoredPictures(open_storage(f"{s3_bucket}/{origin}"))
    target = open_storage(f"{s3_bucket}/{goal}")
    with monkeypatch.context() as patch:
        patch.setattr(source, "save", None)  # nothing is fetched for it
        copy_all(source, target)
    assert contents(target) == pictures
    copy_all(source, target)
    assert contents(target) == pictures
    target.write("a.png", b"somebody's")
    copy_all(source, target)
    beside = {f"a-{md5(noise(0))}.png": noise(0)}
    assert contents(target) == pictures | {"a.png": b"somebody's"} | beside


def test_between_a_bucket_and_elsewhere(s3_bucket: str, folder: Path, tmp_path: Path) -> None:
    copy_all(StoredPictures(open_storage(str(folder))), open_storage(f"{s3_bucket}/up"))
    copy_all(StoredPictures(open_storage(f"{s3_bucket}/up")), open_storage(str(tmp_path / "down")))
    assert contents(open_storage(str(tmp_path / "down"))) == contents(LocalStorage(folder))


def test_copies_into_the_input_are_refused_in_a_bucket_too(s3_bucket: str) -> None:
    source = StoredPictures(open_storage(f"{s3_bucket}/in"))
    for inside in ("in", "in/sub"):
        with pytest.raises(UsageError, match="is inside --input"):
            Copies(source, open_storage(f"{s3_bucket}/{inside}"))
    with pytest.raises(UsageError, match="is inside --input"):
        Copies(StoredPictures(open_storage(s3_bucket)), open_storage(f"{s3_bucket}/out"))
