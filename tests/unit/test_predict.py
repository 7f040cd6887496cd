"""Scoring: a row a picture, in order, with what cannot be read as an error among them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict, get_args

import keras
import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from imagetag.dataset import Resize, Size, load_pixels
from imagetag.errors import InputError, UsageError
from imagetag.images import BadImage
from imagetag.predict import Prediction, open_writer, predict_images, score
from imagetag.storage import LocalStorage, open_storage
from jobs.predict import _output, output_kind

SIZE = (24, 32)


class Fitted(TypedDict):
    """How pictures are fitted into the model's input."""

    size: Size
    resize: Resize


FITTED = Fitted(size=SIZE, resize="letterbox")


def picture(number: int) -> bytes:
    random = np.random.default_rng(number)
    width, height = map(int, random.integers(10, 80, 2))
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, ["PNG", "JPEG", "WEBP"][number % 3])
    return buffer.getvalue()


class Watched:
    """A model that notes the shapes it is called with."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.shapes: set[tuple[int, ...]] = set()

    def predict_on_batch(self, pixels: Any) -> Any:
        self.shapes.add(pixels.shape)
        return self.model.predict_on_batch(pixels)


@pytest.fixture(scope="module")
def real_model() -> keras.Model:
    keras.utils.set_random_seed(4)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Rescaling(1 / 64, -2),
            layers.Conv2D(4, 5, 3),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1, "sigmoid"),
        ]
    )


@pytest.fixture
def model(real_model: keras.Model) -> Watched:
    return Watched(real_model)


def alone(model: Watched, data: bytes, fitted: Fitted = FITTED) -> float:
    return float(model.model.predict(load_pixels(data, **fitted)[None], verbose=0)[0, 0])


# ---- score


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_probabilities_are_those_of_the_model_on_each_picture_alone(
    batch_size: int, model: Watched
) -> None:
    scored = list(score(model, range(10), picture, **FITTED, batch_size=batch_size))
    assert [number for number, _ in scored] == list(range(10))
    expected = [alone(model, picture(number)) for number in range(10)]
    assert max(expected) - min(expected) > 0.1, "a model that tells nothing apart proves nothing"
    assert [probability for _, probability in scored] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [(24, 32), (40, 17)])
@pytest.mark.parametrize("resize", get_args(Resize))
def test_pictures_are_fitted_as_they_were_in_training(
    resize: Resize, size: Size, model: Watched, tmp_path: Path
) -> None:
    fitted = Fitted(size=size, resize=resize)
    expected = [alone(model, picture(number), fitted) for number in range(6)]
    for other in {*get_args(Resize)} - {resize}:
        others = [
            alone(model, picture(number), Fitted(size=size, resize=other)) for number in range(6)
        ]
        assert others != pytest.approx(expected, abs=1e-3)
    scored = list(score(model, range(6), picture, **fitted, batch_size=4))
    assert [probability for _, probability in scored] == pytest.approx(expected, abs=1e-5)
    for number in range(6):
        write(tmp_path, f"{number}.png", picture(number))
    found = predict_images(model, LocalStorage(tmp_path), **fitted, threshold=0.5, batch_size=4)
    assert [row.probability for row in found] == pytest.approx(expected, abs=1e-5)
    assert model.shapes == {(4, *size, 3)}


def test_what_cannot_be_read_is_an_error_in_its_place(model: Watched) -> None:
    def read(number: int) -> bytes:
        if number % 4 == 1:
            raise BadImage("missing", "gone")
        return b"no picture" if number % 4 == 2 else picture(number)

    scored = list(score(model, range(11), read, **FITTED, batch_size=3))
    assert [number for number, _ in scored] == list(range(11))
    for number, result in scored:
        if number % 4 in (1, 2):
            assert isinstance(result, BadImage)
            assert result.reason == ("missing" if number % 4 == 1 else "not_an_image")
        else:
            assert result == pytest.approx(alone(model, picture(number)), abs=1e-5)


def test_the_model_is_called_with_one_shape_only(model: Watched) -> None:
    list(score(model, range(10), picture, **FITTED, batch_size=4))
    list(score(model, range(3), picture, **FITTED, batch_size=4))
    assert model.shapes == {(4, *SIZE, 3)}


def test_nothing_is_scored_of_nothing(model: Watched) -> None:
    assert list(score(model, [], picture, **FITTED, batch_size=4)) == []
    assert model.shapes == set()


def test_pictures_are_read_at_once(model: Watched) -> None:
    together = threading.Barrier(4, timeout=20)

    def read(number: int) -> bytes:
        together.wait()  # passes only four of them together
        return picture(number)

    assert len(list(score(model, range(8), read, **FITTED, batch_size=2))) == 8


def test_items_without_end_are_taken_a_few_batches_ahead(model: Watched) -> None:
    taken = itertools.count()

    def items() -> Iterator[int]:
        while True:
            yield next(taken)

    scored = score(model, items(), picture, **FITTED, batch_size=4)
    assert [number for number, _ in itertools.islice(scored, 10)] == list(range(10))
    scored.close()  # type: ignore[attr-defined]
    assert next(taken) < 100


# ---- predict_images


def write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def predict(model: Watched, folder: Path, threshold: float = 0.5) -> list[Prediction]:
    source = open_storage(str(folder))
    return list(predict_images(model, source, **FITTED, threshold=threshold, batch_size=4))


def test_pictures_of_all_folders_are_scored_and_other_files_counted(
    model: Watched, tmp_path: Path
) -> None:
    names = ["a.png", "b/c/d.JPG", "b/e.webp", "z.jpeg"]
    for number, name in enumerate(names):
        write(tmp_path, name, picture(number))
    for name in ("README.txt", "b/Thumbs.db", "b/c/png"):
        write(tmp_path, name, picture(1))

    with capture_logs() as logs:
        found = predict(model, tmp_path)

    assert [prediction.file for prediction in found] == names
    for number, prediction in enumerate(found):
        assert prediction.probability == pytest.approx(alone(model, picture(number)), abs=1e-5)
        assert prediction.error is None
    assert [line["files"] for line in logs if "passed over" in line["event"]] == [3]


def test_a_decision_is_true_from_the_threshold_on(model: Watched, tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path, f"{number}.png", picture(number))
    probabilities = [prediction.probability for prediction in predict(model, tmp_path)]
    threshold = sorted(filter(None, probabilities))[3]
    decisions = [prediction.decision for prediction in predict(model, tmp_path, threshold)]
    assert decisions == [(probability or 0) >= threshold for probability in probabilities]
    assert decisions.count(True) == 3


def test_a_file_that_cannot_be_read_is_a_row_with_its_error(model: Watched, tmp_path: Path) -> None:
    write(tmp_path, "1-cut.png", picture(0)[:200])
    write(tmp_path, "2-gone.png", picture(0))
    write(tmp_path, "3-good.png", picture(0))
    write(tmp_path, "4-text.jpg", b"<html>404</html>")
    write(tmp_path, "5-empty.gif", b"")

    class Losing(LocalStorage):
        def read(self, key: str) -> bytes:
            if key == "2-gone.png":
                (tmp_path / key).unlink()  # as another process may, after the listing
            return super().read(key)

    source = Losing(tmp_path)
    found = list(predict_images(model, source, **FITTED, threshold=0.5, batch_size=2))

    assert [prediction.file[:1] for prediction in found] == ["1", "2", "3", "4", "5"]
    reasons = [prediction.error and prediction.error.split(":")[0] for prediction in found]
    assert reasons == ["truncated", "missing", None, "not_an_image", "not_an_image"]
    for prediction in found:
        told_nothing = prediction.probability is None and prediction.decision is None
        assert told_nothing == (prediction.error is not None)


def test_a_file_too_large_to_be_a_picture_is_not_read(model: Watched, tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(300_000_000)
    (found,) = predict(model, tmp_path)
    assert found.error == "too_large: 300000000 bytes"


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_folder_without_pictures_is_an_input_error(
    names: list[str], model: Watched, tmp_path: Path
) -> None:
    for name in names:
        write(tmp_path, name, b"text")
    with pytest.raises(InputError, match=r"no image there \(a file that ends in bmp, ") as caught:
        predict(model, tmp_path)
    assert caught.value.exit_code == 3
    assert str(tmp_path) in str(caught.value)


# ---- what is written

NAMES = [
    "plain.png",
    "a, b.png",
    'say "cheese".png',
    "line\nbreak\r\n.png",
    " spaces .png",
    "初音ミク/🎀.png",
    "semi;tab\t'.png",
]


def predictions() -> list[Prediction]:
    made = [
        Prediction(name, i / 7, i / 7 >= 0.5, None)
        for i, name in enumerate([*NAMES, "latin-\udce9.png"])
    ]
    return [*made, Prediction("bad.png", None, None, 'truncated: 3 bytes, "at" least')]


def written(kind: Any) -> str:
    stream = io.StringIO(newline="")
    writer = open_writer(stream, kind)
    for prediction in predictions():
        writer.write(prediction)
    stream.getvalue().encode()  # any text can be stored
    return stream.getvalue()


def test_csv_reads_back_as_it_was() -> None:
    header, *rows = csv.reader(io.StringIO(written("csv"), newline=""))
    assert header == ["file", "probability", "decision", "error"]
    *good, latin, bad = rows
    assert [row[0] for row in good] == NAMES
    assert [float(row[1]) for row in good] == pytest.approx([i / 7 for i in range(7)], abs=1e-6)
    assert [row[2] for row in good] == ["false"] * 4 + ["true"] * 3
    assert {row[3] for row in good} == {""}
    assert latin[0] == "latin-\ufffd.png"
    assert bad == ["bad.png", "", "", 'truncated: 3 bytes, "at" least']


def test_json_lines_read_back_as_they_were() -> None:
    lines = written("jsonl").split("\n")
    assert lines.pop() == ""
    *good, latin, bad = map(json.loads, lines)
    assert [row["file"] for row in good] == NAMES
    assert [row["probability"] for row in good] == pytest.approx(
        [i / 7 for i in range(7)], abs=1e-6
    )
    assert [row["decision"] for row in good] == [False] * 4 + [True] * 3
    assert {row["error"] for row in good} == {None}
    assert latin["file"] == "latin-\ufffd.png"
    assert bad == {
        "file": "bad.png",
        "probability": None,
        "decision": None,
        "error": 'truncated: 3 bytes, "at" least',
    }


@pytest.mark.parametrize("url", ["{}/some/out.csv", "file://{}/some/out.csv"])
def test_the_output_appears_only_when_it_is_whole(url: str, tmp_path: Path) -> None:
    output, path = url.format(tmp_path), tmp_path / "some" / "out.csv"

    def fail() -> None:
        with _output(output) as stream:
            stream.write("half")
            stream.flush()
            assert not path.exists() or path.read_bytes() == b"whole\r\n"
            raise InputError("the model is gone")

    with pytest.raises(InputError):
        fail()
    assert not path.exists()
    with _output(output) as stream:
        stream.write("whole\r\n")
    assert path.read_bytes() == b"whole\r\n"
    with pytest.raises(InputError):
        fail()
    assert path.read_bytes() == b"whole\r\n"


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_kind("-") == "csv"
    with _output("-") as stream:
        open_writer(stream, "csv").write(Prediction("a.png", 0.5, True, None))
    assert capsys.readouterr().out.splitlines() == [
        "file,probability,decision,error",
        "a.png,0.5,true,",
    ]


def test_the_name_of_the_output_is_its_format() -> None:
    assert output_kind("s3://bucket/x.JSONL") == "jsonl"
    assert output_kind("x.csv") == "csv"
    for name in ("x.parquet", "folder/", "csv", ""):
        with pytest.raises(UsageError, match="--output"):
            output_kind(name)
