"""What `imagetag export` writes says what `imagetag predict` says, by each format's own runtime."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from PIL import Image

from imagetag.dataset import local_copy
from imagetag.dataset.local_copy import load_pixels
from imagetag.export.contents import ExportedTag, Format, read_contents
from imagetag.export.export import export_tags
from imagetag.export.joined import joined, with_decisions
from imagetag.features.asked import Asked
from imagetag.layout import Layout
from imagetag.models.architectures import build_model, core_of, logits_of, with_resizing
from imagetag.models.heads import Heads, split_model
from imagetag.models.scoring import Score
from imagetag.predict.networks import Networks
from imagetag.runs.decision import Decision, logit_of
from imagetag.runs.loading import load_model
from imagetag.runs.runs import EXPORT_MARKER, load_run
from imagetag.stats.calibration import Calibration
from imagetag.stats.contract import Promise
from imagetag.storage.local import LocalStorage
from jobs import export as export_job
from jobs import predict as predict_job
from tests import predicting
from tests.builders.pictures import encoded
from tests.ended import Ended, log_lines
from tests.predicting import make_model, store_heads, store_model

Answers = Callable[[Any], dict[str, Any]]

TAGS = ("fox", "cat", "red/disc", "狐")  # the first and the last build on one extractor
SIZE = (67, 72)
PICTURES = 12
LOGITS, CHANCES = 1e-4, 1e-5  # how far runtimes may be from predict
LOGITS_OF_ROUNDED = 5e-3  # and of heads, whose features predict rounds to 16 bits
NAMES: dict[Format, str] = {
    "keras": "tags.keras",
    "saved_model": "tags",
    "onnx": "tags.onnx",
    "litert": "tags.tflite",
}
PROMISE = Promise(
    min_precision=0.95,
    confidence=0.95,
    level=0.99,
    threshold=1.5,
    met=True,
    bound=0.96,
    called=100,
    right=100,
    positives=120,
    negatives=120,
)


def decide(storage: Path, tag: str, calibration: Calibration, threshold: float) -> None:
    decision = Decision(
        tag=tag,
        run="tiny",
        trained="2026-01-01T00:00:00+00:00",
        fingerprint="f",
        calibration=calibration,
        promise=PROMISE.model_copy(update={"met": tag == "fox"}),
        logit_threshold=logit_of(calibration, threshold),
        threshold=threshold,
        created="2026-01-02T00:00:00+00:00",
    )
    key = Layout(tag).run("tiny", "decision.json")
    LocalStorage(storage).write(key, decision.model_dump_json().encode())


def of_two_minds(model: keras.Model, pixels: NDArray[np.float32], *, turned: bool) -> keras.Model:
    """A model with its head, or one with all turned around, of logits around zero."""
    head = core_of(model).get_layer("logit")
    kernel, bias = head.get_weights()
    if turned:
        kernel = kernel[::-1]
        head.set_weights([kernel, bias])
    logits = logits_of(core_of(model)).predict_on_batch(pixels)
    scale = 3 / logits.std()
    head.set_weights([kernel * scale, (bias - np.median(logits)) * scale])
    return model


def alexnet() -> keras.Model:
    """One as train makes it."""
    keras.utils.set_random_seed(7)
    return with_resizing(build_model("alexnet-small", SIZE, weights=None), SIZE, "letterbox")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        (found / f"{number:02}.{predicting.ending(number)}").write_bytes(predicting.noise(number))
    return found


@pytest.fixture(scope="module")
def pixels(folder: Path) -> NDArray[np.float32]:
    files = sorted(folder.iterdir())
    return np.stack([load_pixels(file.read_bytes(), SIZE) for file in files]).astype(np.float32)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.float32]) -> Path:
    """Four tags: calibrated by a temperature, by steps, by one step, and not evaluated."""
    folder = tmp_path_factory.mktemp("storage")
    models = {
        "fox": make_model(SIZE, seed=4),
        "cat": alexnet(),
        "red/disc": make_model(SIZE, seed=6),
        "狐": make_model(SIZE, seed=4),
    }
    for tag, model in models.items():
        of_two_minds(model, pixels, turned=tag == "狐")
        store_model(str(folder), model, tag=tag, size=SIZE)
    decide(folder, "fox", Calibration(method="temperature", temperature=2.0), 0.7)
    steps = ((-6.0, 0.01), (-1.5, 0.2), (0.5, 0.25), (4.0, 0.97))
    decide(folder, "cat", Calibration(method="isotonic", points=steps), 0.24)
    decide(folder, "red/disc", Calibration(method="isotonic", points=((-2.0, 0.1), (3, 0.8))), 0.4)
    return folder


@pytest.fixture(scope="module")
def predicted(storage: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the predict job says: probabilities and decisions, each (pictures, tags)."""
    output = tmp_path_factory.mktemp("predicted") / "rows.csv"
    options = ["--input", folder, "--output", output, "--tags", ",".join(TAGS)]
    with contextlib.redirect_stderr(io.StringIO()):
        code = predict_job.main(["--storage", str(storage), *map(str, options)])
    assert code == 0
    rows = predicting.rows_of(output)
    shape = (PICTURES, len(TAGS))
    chances = np.array([float(row["probability"]) for row in rows]).reshape(shape)
    decisions = np.array([row["decision"] == "true" for row in rows]).reshape(shape)
    assert all(0 < decisions[:, place].sum() < PICTURES for place in range(len(TAGS)))
    return chances, decisions


def export(storage: Path, *options: object) -> Ended:
    """Run the job in this process."""
    stderr = io.StringIO()
    arguments = ["--storage", storage, *options, "--log-format", "json"]
    with contextlib.redirect_stderr(stderr):
        code = export_job.main(list(map(str, arguments)))
    return Ended(code, log_lines(stderr.getvalue(), chatter=True), "")


@pytest.fixture(scope="module")
def export_as(
    storage: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Format], tuple[Path, Ended]]:
    """Export all tags as some format, once each."""

    @functools.cache
    def exported(kind: Format) -> tuple[Path, Ended]:
        output = tmp_path_factory.mktemp("exported") / NAMES[kind]
        return output, export(storage, "--tags", ",".join(TAGS), "--output", output)

    return exported


@pytest.fixture(scope="module", params=get_args(Format))
def exported(
    request: pytest.FixtureRequest, export_as: Callable[[Format], tuple[Path, Ended]]
) -> tuple[Format, Path, Ended]:
    return request.param, *export_as(request.param)


def load(kind: Format, path: Path) -> Answers:
    """Load a file as who knows nothing of this project does."""
    if kind == "keras":
        model = keras.models.load_model(path)
        return lambda pixels: dict(model.predict_on_batch(pixels))
    if kind == "saved_model":
        loaded = tf.saved_model.load(path)
        answer = loaded.signatures["pixels"]
        return lambda pixels: {
            name: value.numpy() for name, value in answer(pixels=tf.constant(pixels)).items()
        }
    if kind == "onnx":
        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return lambda pixels: dict(zip(names, session.run(None, {"pixels": pixels}), strict=True))
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda pixels: dict(runner(pixels=pixels))


@pytest.fixture(scope="module")
def logits(
    storage: Path, pixels: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What the models of the runs say, (pictures, tags)."""
    found = []
    for tag in TAGS:
        run = load_run(LocalStorage(storage), tag, "latest")
        model = load_model(LocalStorage(storage), run, tmp_path_factory.mktemp("model"))
        found.append(logits_of(core_of(model)).predict_on_batch(pixels)[:, 0])
    return np.stack(found, axis=1)


def test_each_format_says_what_predict_says(
    exported: tuple[Format, Path, Ended], pixels: NDArray[np.float32], predicted: Any, logits: Any
) -> None:
    kind, path, done = exported
    assert done.code == 0
    assert not (path / ".partial").exists()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    answers = load(kind, path)
    for count in (PICTURES, 1):  # batches of any number
        found = answers(pixels[:count])
        assert {"logit", "probability", "decision"} <= found.keys()
        chances, decisions = (values[:count] for values in predicted)
        np.testing.assert_allclose(found["logit"], logits[:count], rtol=0, atol=LOGITS)
        np.testing.assert_allclose(found["probability"], chances, rtol=0, atol=CHANCES)
        np.testing.assert_array_equal(found["decision"], decisions)
        assert found["decision"].dtype == bool


def test_each_file_tells_what_is_in_it(exported: tuple[Format, Path, Ended]) -> None:
    kind, path, done = exported
    contents = read_contents(path, kind)
    assert contents is not None
    assert [tag.tag for tag in contents.tags] == list(TAGS)
    assert [tag.evaluated for tag in contents.tags] == [True, True, True, False]
    fox, cat, _, raw = contents.tags
    assert (fox.threshold, fox.promise and fox.promise.met, fox.promise and fox.promise.bound) == (
        0.7,
        True,
        0.96,
    )
    assert fox.logit_threshold == pytest.approx(2 * np.log(0.7 / 0.3))
    assert (cat.calibration.method, len(cat.calibration.points)) == ("isotonic", 4)
    assert (raw.threshold, raw.logit_threshold, raw.promise) == (0.5, 0, None)
    assert (contents.input.image_size, contents.input.resize) == (SIZE, "letterbox")
    assert contents.versions["keras"] == keras.__version__
    # Of four tags' models three are different.
    [told] = [line for line in done.lines if line["event"] == "exported"]
    assert (told["tags"], told["extractors"]) == (4, 3)


def test_the_log_has_whose_thresholds_are_worth_little(
    exported: tuple[Format, Path, Ended],
) -> None:
    told = {
        line["event"]: line["tags"]
        for line in exported[2].lines
        if "tags" in line and line["level"] == "warning"
    }
    assert told == {
        "not evaluated: probabilities are the model's own; run imagetag evaluate": "狐",
        "evaluate could promise no precision at these thresholds": "cat, red/disc",
    }


def test_what_is_exported_again_is_left_as_it_is(
    exported: tuple[Format, Path, Ended], storage: Path
) -> None:
    kind, path, _ = exported
    before = {file: file.stat().st_mtime_ns for file in (path, *path.rglob("*"))}
    done = export(storage, "--tags", ",".join(TAGS), "--output", path, "--format", kind)
    assert (done.code, done.events[-1]) == (0, "already exported")
    after = {file: file.stat().st_mtime_ns for file in (path, *path.rglob("*"))}
    assert after == before


def test_another_export_replaces_one(storage: Path, tmp_path: Path) -> None:
    output = tmp_path / "tags.keras"
    export_tags(storage, ["fox"], str(output))
    export_tags(storage, ["red/disc"], str(output))
    contents = read_contents(output, "keras")
    assert contents is not None
    assert [tag.tag for tag in contents.tags] == ["red/disc"]


def test_a_saved_model_takes_files_and_names_its_tags(
    export_as: Callable[[Format], tuple[Path, Ended]], folder: Path, pixels: NDArray[np.float32]
) -> None:
    signatures = tf.saved_model.load(export_as("saved_model")[0]).signatures
    data = [file.read_bytes() for file in sorted(folder.iterdir())]
    served = signatures["serving_default"](image_bytes=tf.constant(data))
    for name, values in served.items():
        assert values.shape == (PICTURES, len(TAGS)), name
    assert [tag.decode() for tag in served["tag"].numpy()[-1]] == list(TAGS)
    called = served["logit"] >= served["logit_threshold"]
    np.testing.assert_array_equal(called, served["decision"])
    least = served["logit_threshold"].numpy()
    assert least[0, 0] == pytest.approx(2 * np.log(0.7 / 0.3))
    # TensorFlow decodes and resizes within a level or two of what Pillow does.
    difference = served["logit"] - signatures["pixels"](pixels=pixels)["logit"]
    assert np.abs(difference).mean() < 0.2


@pytest.fixture(scope="module")
def on_saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads on an extractor that is a SavedModel, which takes blue first."""
    folder = tmp_path_factory.mktemp("tagger")
    model = make_model(SIZE)
    body = keras.Model(core_of(model).input, core_of(model).get_layer("features").output)
    body.export(folder / "tagger", verbose=False)
    asked = Asked(channel_order="bgr", pixel_range="unit")
    store_heads(str(folder / "storage"), folder / "tagger", ("fox", "cat"), folder, asked)
    return folder / "storage"


@pytest.fixture(scope="module")
def predicted_by_heads(
    on_saved_model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> NDArray[np.float32]:
    """The logits that predict goes by, (pictures, heads): of features as they are stored."""
    storage = LocalStorage(on_saved_model)
    runs = [load_run(storage, tag, "latest") for tag in ("fox", "cat")]
    networks = Networks(storage, runs, tmp_path_factory.mktemp("networks"), 4)
    scored = networks.scorer.score(sorted(folder.iterdir()), lambda file: file)
    logits = [score.logits for _, score in scored if isinstance(score, Score)]
    return np.stack(logits)[:, networks.places]


@pytest.mark.parametrize("kind", ["saved_model", "onnx", "litert"])
def test_heads_on_a_saved_model_of_others_can_be_exported(
    kind: Format,
    on_saved_model: Path,
    predicted_by_heads: NDArray[np.float32],
    tmp_path: Path,
    pixels: NDArray[np.float32],
) -> None:
    output = tmp_path / NAMES[kind]
    assert export(on_saved_model, "--tags", "fox,cat", "--output", output).code == 0
    storage = LocalStorage(on_saved_model)
    runs = [load_run(storage, tag, "latest") for tag in ("fox", "cat")]
    models = [load_model(storage, run, tmp_path / run.tag) for run in runs]
    expected = [logits_of(core_of(model)).predict_on_batch(pixels)[:, 0] for model in models]
    found = load(kind, output)(pixels)["logit"]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=0, atol=LOGITS)
    np.testing.assert_allclose(found, predicted_by_heads, rtol=0, atol=LOGITS_OF_ROUNDED)


def test_a_keras_file_has_no_place_for_a_saved_model_of_others(
    on_saved_model: Path, tmp_path: Path
) -> None:
    done = export(on_saved_model, "--tags", "fox", "--output", tmp_path / "tags.keras")
    assert done.code == 3
    assert "a .keras file would name the SavedModel of the extractor" in done.complaint
    assert not list(tmp_path.iterdir())


def test_bars_have_the_colour_that_the_extractor_saw(tmp_path: Path) -> None:
    """They are most of a picture as wide as this."""
    model = make_model(SIZE)
    body = keras.Model(core_of(model).input, core_of(model).get_layer("features").output)
    folder = tmp_path / "storage"
    record = store_heads(str(folder), body, ("fox",), tmp_path, Asked(padding="white"))
    store_heads(str(folder), body, ("cat",), tmp_path)
    data = encoded(Image.new("RGB", (150, 10)), "PNG")
    storage = LocalStorage(folder)
    whole = load_model(storage, load_run(storage, "fox", "latest"), tmp_path / "fox")
    seen = record.pixels_of(data)[np.newaxis].astype(np.float32)
    expected = logits_of(core_of(whole)).predict_on_batch(seen)

    output = tmp_path / "tags"
    assert export_tags(storage, ["fox"], str(output)).input.bars == 255
    served = tf.saved_model.load(output).signatures["serving_default"]
    answer = served(image_bytes=tf.constant([data]))["logit"]
    np.testing.assert_allclose(answer, expected, rtol=0, atol=LOGITS)

    export_tags(storage, ["fox"], str(tmp_path / "tags.keras"))
    loaded = keras.models.load_model(tmp_path / "tags.keras")
    white, at_its_size = (np.full((1, *size, 3), 255, np.float32) for size in ((10, 150), SIZE))
    answer, expected = (loaded.predict_on_batch(pixels)["logit"] for pixels in (white, at_its_size))
    np.testing.assert_allclose(answer, expected, rtol=0, atol=LOGITS)

    done = export(folder, "--tags", "fox,cat", "--output", tmp_path / "both")
    assert done.code == 3
    assert "67x72 letterbox, bars of 255: fox; 67x72 letterbox: cat" in done.complaint


def test_heads_of_one_extractor_are_one_matrix() -> None:
    def parts(model: keras.Model) -> tuple[keras.Model, Heads]:
        return split_model(core_of(model), SIZE)

    model, other = alexnet(), alexnet()
    weights = model.get_weights()
    other.set_weights([*weights[:-2], weights[-2] + 1, weights[-1]])
    shared, extractors = joined(map(parts, (model, other)), SIZE)
    head = core_of(model).get_layer("logit").count_params()
    assert (extractors, shared.count_params()) == (1, model.count_params() + head)
    other.set_weights([weights[0] + 1, *weights[1:]])
    assert joined(map(parts, (model, other)), SIZE)[1] == 2


def test_a_keras_file_takes_pictures_of_any_size(
    export_as: Callable[[Format], tuple[Path, Ended]],
) -> None:
    model = keras.models.load_model(export_as("keras")[0])
    grey = np.full((1, 40, 150, 3), local_copy.GREY, np.float32)
    at_its_size = np.full((1, *SIZE, 3), local_copy.GREY, np.float32)
    for name, values in model.predict_on_batch(at_its_size).items():
        np.testing.assert_allclose(model.predict_on_batch(grey)[name], values, atol=1e-4)


# ---- what is decided, to the last bit


def test_probabilities_are_those_of_the_calibration() -> None:
    random = np.random.default_rng(5)
    calibrations = [
        Calibration(),
        Calibration(method="temperature", temperature=0.3),
        Calibration(method="temperature", temperature=20),
        Calibration(method="isotonic", points=((0.5, 0.25),)),
        # In 32 bits its ends are one, and it is a step as in 64.
        Calibration(method="isotonic", points=((-1, 0.1), (1, 0.2), (1 + 1e-12, 0.8), (3, 0.9))),
    ]
    for count in (2, 5, 40):
        points = zip(
            np.sort(random.normal(0, 5, count)), np.sort(random.random(count)), strict=True
        )
        calibrations.append(Calibration(method="isotonic", points=tuple(points)))
    asked = np.concatenate([random.normal(0, 6, 200), [-1e4, 1e4, 0.5]]).astype(np.float32)
    logits = np.repeat(asked[:, np.newaxis], len(calibrations), axis=1)
    found = decided(calibrations, [0.0] * len(calibrations))(logits)["probability"]
    for place, calibration in enumerate(calibrations):
        expected = calibration.probabilities(asked)
        np.testing.assert_allclose(found[:, place], expected, rtol=0, atol=CHANCES)


@pytest.mark.parametrize("level", [-100, -20, -1e-3, 1e-3, 20, 100])
def test_decisions_are_those_of_predict_at_the_threshold_and_its_neighbours(level: float) -> None:
    least = np.float32(level)
    below, above = np.nextafter(least, np.array([-np.inf, np.inf], np.float32))
    logits = np.array([[below], [least], [above]], np.float32)
    for threshold in (float(least), (float(below) + float(least)) / 2):
        decisions = decided([Calibration()], [threshold])(logits)["decision"]
        assert decisions[:, 0].tolist() == [False, True, True]
        assert decisions[:, 0].tolist() == [logit >= threshold for logit in logits[:, 0].tolist()]


def decided(calibrations: list[Calibration], thresholds: list[float]) -> Answers:
    tags = [
        ExportedTag(
            tag="fox",
            run="first",
            model="",
            trained="",
            evaluated=True,
            calibration=calibration,
            logit_threshold=threshold,
        )
        for calibration, threshold in zip(calibrations, thresholds, strict=True)
    ]
    inputs = keras.Input((len(tags),))
    model = with_decisions(keras.Model(inputs, keras.layers.Identity()(inputs)), tags)
    return lambda logits: {name: value.numpy() for name, value in model(logits).items()}


# ---- what stops it


def test_a_tag_without_a_run_stops_it_unless_it_is_to_be_skipped(
    storage: Path, tmp_path: Path
) -> None:
    options = ["--tags", "wolf,fox,bear", "--output", tmp_path / "tags.keras"]
    done = export(storage, *options)
    assert done.code == 3
    assert "2 of 3 tags have no run to export: wolf, bear; " in done.errors[-1]
    assert not (tmp_path / "tags.keras").exists()
    done = export(storage, *options, "--skip-missing")
    assert done.code == 0
    contents = read_contents(tmp_path / "tags.keras", "keras")
    assert contents is not None
    assert [tag.tag for tag in contents.tags] == ["fox"]


def test_models_of_different_inputs_are_not_joined(storage: Path, tmp_path: Path) -> None:
    size = (32, 32)
    store_model(str(storage), make_model(size), tag="square", size=size)
    done = export(storage, "--tags", "fox,square,cat", "--output", tmp_path / "tags.onnx")
    assert done.code == 3
    assert "67x72 letterbox: fox, cat; 32x32 letterbox: square" in done.complaint
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", get_args(Format))
def test_what_others_have_written_is_left_alone(
    kind: Format, storage: Path, tmp_path: Path
) -> None:
    output = tmp_path / NAMES[kind]
    theirs = output
    if kind == "saved_model":
        theirs = output / "notes.txt"
        output.mkdir()
    theirs.write_text("mine")
    done = export(storage, "--tags", "fox", "--output", output)
    assert done.code == 2
    assert str(output) in done.complaint
    assert "name another, or remove it first" in done.complaint
    assert theirs.read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [theirs.name]


def test_an_archive_of_others_is_left_alone(storage: Path, tmp_path: Path) -> None:
    output = tmp_path / "theirs.keras"
    make_model().save(output)
    before = output.read_bytes()
    assert export(storage, "--tags", "fox", "--output", output).code == 2
    with zipfile.ZipFile(output, "a") as archive:
        archive.writestr("imagetag.json", json.dumps({"tags": []}))
    assert export(storage, "--tags", "fox", "--output", output).code == 2
    assert output.read_bytes().startswith(before[:1000])


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("tags.onnx", ["--format", "keras"], "must end in .keras"),
        ("tags", ["--format", "litert"], "must end in .tflite"),
        ("tags.keras", ["--format", "saved_model"], "is a folder's"),
        ("folder.onnx", [], "is a folder"),
        ("file", [], "this is a file, not a folder"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(
    name: str, options: list[str], complaint: str, storage: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    done = export(storage, "--tags", "fox", "--output", tmp_path / name, *options)
    assert done.code == 2
    assert complaint in done.complaint


def test_onnx_without_its_packages_is_refused(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    lacking = lambda name, *package: None if name == "tf2onnx" else found(name, *package)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    done = export(storage, "--tags", "fox", "--output", tmp_path / "fox.onnx")
    assert done.code == 2
    assert "tf2onnx is needed; install image-tag-classification[onnx]" in done.complaint


def test_a_saved_model_is_there_when_its_last_file_is(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any instant, it is none; and whose it is is known when it is run again."""
    output, write = tmp_path / "1", LocalStorage.write
    export_tags(storage, ["red/disc"], str(output))

    def killed(self: LocalStorage, key: str, data: Any) -> None:
        if key == EXPORT_MARKER:
            raise KeyboardInterrupt
        write(self, key, data)

    monkeypatch.setattr(LocalStorage, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        export_tags(storage, ["fox"], str(output))
    assert not (output / EXPORT_MARKER).exists()
    monkeypatch.undo()
    contents = export_tags(storage, ["fox"], str(output))
    assert (output / EXPORT_MARKER).exists()
    assert read_contents(output, "saved_model") == contents
