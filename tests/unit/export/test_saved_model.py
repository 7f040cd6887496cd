"""What the exported model does to a picture's bytes is what prediction does to them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagetag.dataset import local_copy
from imagetag.export import decoding, saved_model
from imagetag.imaging.images import Size
from imagetag.layout import Layout
from imagetag.models.architectures import build_model, logits_of, with_resizing
from imagetag.models.scoring import Score
from imagetag.runs.decision import Decision, between_logits
from imagetag.runs.runs import is_exported
from imagetag.stats.calibration import Calibration
from imagetag.storage.local import LocalStorage
from imagetag.train.precision import Precision, precision
from tests.builders.pictures import encoded
from tests.predicting import scorer_of

_RANDOM = np.random.default_rng(7)
_SIZES = [(96, 80), (67, 130)]  # (height, width) of a model's input


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    """Blotches with noise over them: sharp enough to show every pixel that is misplaced."""
    shape = (max(2, height // 16), max(2, width // 16), channels)
    coarse = _RANDOM.integers(0, 256, shape, dtype=np.uint8)
    bands = [
        np.asarray(Image.fromarray(coarse[..., i]).resize((width, height))) for i in range(channels)
    ]
    grain = _RANDOM.integers(-40, 40, (height, width, channels))
    values = np.clip(np.stack(bands, axis=-1) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(values)


def raw_png(
    width: int, height: int, depth: int, color: int, channels: int, transparent: bytes = b""
) -> bytes:
    """A PNG of random samples, of bit depths that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = width * channels * depth // 8
    rows = b"".join(b"\0" + _RANDOM.bytes(row) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if transparent:
        parts.insert(1, (b"tRNS", transparent))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def animated_webp() -> bytes:
    frames = [noise(60, 40), noise(60, 40)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


PHOTO, VEIL = noise(300, 201), noise(300, 201, 4)
PICTURES = {
    **{
        f"{kind} {width} x {height}": encoded(noise(width, height), kind)
        for kind in ("PNG", "JPEG")
        for width, height in [
            (1, 1),
            (30, 40),
            (80, 96),
            (130, 67),
            (161, 193),
            (61, 500),
            (1500, 1001),
            (2999, 17),
            (1, 5000),
            (1607, 1600),
        ]
    },
    "progressive": encoded(PHOTO, "JPEG", progressive=True, quality=60),
    "full colour": encoded(PHOTO, "JPEG", subsampling=0),
    "grey JPEG": encoded(PHOTO.convert("L"), "JPEG"),
    "CMYK": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "grey": encoded(PHOTO.convert("L"), "PNG"),
    "grey of 1 bit": raw_png(304, 200, 1, 0, 1),
    "grey of 2 bits": raw_png(304, 200, 2, 0, 1),
    "grey of 4 bits": raw_png(304, 200, 4, 0, 1),
    "grey of 16 bits": raw_png(304, 200, 16, 0, 1),
    "grey, one of them transparent": encoded(PHOTO.convert("L"), "PNG", transparency=100),
    "grey with alpha": encoded(VEIL.convert("LA"), "PNG"),
    "16 bits": raw_png(304, 200, 16, 2, 3),
    "16 bits with alpha": raw_png(304, 200, 16, 6, 4),
    "alpha": encoded(VEIL, "PNG"),
    "alpha, opaque": encoded(PHOTO.convert("RGBA"), "PNG"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "palette of 4": encoded(PHOTO.quantize(4), "PNG", bits=2),
    "palette, one of it transparent": encoded(PHOTO.convert("P"), "PNG", transparency=5),
    "palette with alpha": encoded(VEIL.quantize(64), "PNG"),
    "WebP": encoded(PHOTO, "WEBP"),
    "WebP with alpha": encoded(VEIL, "WEBP", lossless=True),
    "BMP": encoded(PHOTO, "BMP"),
    "BMP of 32 bits": encoded(VEIL, "BMP"),
    "grey of 1 bit, black transparent": raw_png(304, 200, 1, 0, 1, b"\0\0"),
    "grey of 2 bits, one of them transparent": raw_png(304, 200, 2, 0, 1, b"\0\1"),
    "grey of 4 bits, one of them transparent": raw_png(304, 200, 4, 0, 1, b"\0\7"),
}


@pytest.fixture(scope="module", params=_SIZES, ids=str)
def size(request: pytest.FixtureRequest) -> Size:
    found: Size = request.param
    return found


@pytest.fixture(scope="module", params=get_args(local_copy.Resize))
def resize(request: pytest.FixtureRequest) -> local_copy.Resize:
    found: local_copy.Resize = request.param
    return found


Load = Callable[[bytes], Any]


@pytest.fixture(scope="module")
def load(size: Size, resize: local_copy.Resize) -> Load:
    """Load a picture as the exported model does, compiled once for all of them."""
    compiled = tf.function(
        lambda data: decoding.load_pixels(data, size, resize),
        input_signature=[tf.TensorSpec([], tf.string)],
    )
    return lambda data: compiled(tf.constant(data)).numpy()


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_those_of_prediction(
    name: str, size: Size, resize: local_copy.Resize, load: Load
) -> None:
    expected = local_copy.load_pixels(PICTURES[name], size, resize).astype(float)
    found = load(PICTURES[name])
    assert found.shape == (*size, 3)
    differences = np.abs(found - expected)
    # Pillow rounds once more on its way, and 16 bits of grey to the nearest level.
    assert differences.max() <= 2
    assert differences.mean() < (0.55 if "16 bits" in name else 0.4)


def test_a_picture_that_exif_would_turn_is_taken_as_it_is_stored(
    size: Size, resize: local_copy.Resize, load: Load
) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    turned, plain = encoded(PHOTO, "JPEG", exif=exif), encoded(PHOTO, "JPEG")
    np.testing.assert_array_equal(load(turned), load(plain))
    upright = local_copy.load_pixels(turned, size, resize).astype(float)
    assert np.abs(load(turned) - upright).max() > 50


@pytest.mark.parametrize(
    ("width", "height", "fitted", "ratio"),
    [
        (1000, 1500, ((300, 200), "letterbox"), 4),
        (1600, 1200, ((200, 200), "letterbox"), 8),
        (1600, 1200, ((200, 200), "crop"), 4),
        (1607, 1600, ((200, 200), "crop"), 8),
        (1600, 1200, ((150, 200), "stretch"), 8),
        (1599, 1200, ((150, 200), "stretch"), 4),
        (400, 600, ((300, 200), "letterbox"), 2),
        (399, 600, ((300, 200), "stretch"), 1),
        (1, 5000, ((100, 100), "crop"), 1),
        (8, 5000, ((100, 100), "letterbox"), 8),
    ],
)
def test_a_jpeg_is_decoded_as_small_as_prediction_decodes_it(
    width: int, height: int, fitted: Any, ratio: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = []
    decode = tf.io.decode_jpeg

    def noting(data: Any, **options: Any) -> Any:
        ratios.append(options["ratio"])
        return decode(data, **options)

    monkeypatch.setattr(tf.io, "decode_jpeg", noting)
    decoding.load_pixels(tf.constant(encoded(Image.new("RGB", (width, height)), "JPEG")), *fitted)
    assert ratios == [ratio]


def resized_header(data: bytes, at: int) -> bytes:
    """The picture with 60,000 x 60,000 in its header, each side in 2 or 4 bytes."""
    sides = struct.pack(">II", 60000, 60000) if at == 16 else struct.pack(">HH", 60000, 60000)
    return data[:at] + sides + data[at + len(sides) :]


_JPEG, _PNG = encoded(PHOTO, "JPEG"), encoded(PHOTO, "PNG")
UNREADABLE = {
    "text": (b"no picture", "neither JPEG, PNG, WebP nor BMP"),
    "nothing": (b"", "neither JPEG, PNG, WebP nor BMP"),
    "GIF": (encoded(PHOTO.convert("P"), "GIF"), "neither JPEG, PNG, WebP nor BMP"),
    "cut JPEG": (_JPEG[:-3000], "Invalid JPEG data"),
    "beginning of a JPEG": (_JPEG[:4], "JPEG"),
    "cut PNG": (_PNG[:-3000], "Invalid PNG"),
    "beginning of a PNG": (_PNG[:18], "Invalid PNG"),
    "cut WebP": (PICTURES["WebP"][:-3000], "(?i)webp"),
    "animated WebP": (animated_webp(), "an animated WebP"),
    "cut BMP": (PICTURES["BMP"][:-3000], "Input size should match"),
    "BMP with a palette": (encoded(PHOTO.convert("P"), "BMP"), "a BMP with a palette"),
    "huge PNG": (resized_header(_PNG, 16), "more than 50000000 pixels"),
    "huge JPEG": (
        resized_header(_JPEG, _JPEG.index(b"\xff\xc0") + 5),
        "more than 50000000 pixels",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_not_taken_is_said(name: str, load: Load) -> None:
    data, complaint = UNREADABLE[name]
    with pytest.raises(tf.errors.InvalidArgumentError, match=complaint):
        load(data)


@pytest.mark.parametrize("name", ["alexnet-small", "mobilenet", "vgg19"])
def test_both_signatures_say_what_the_model_does(name: str, tmp_path: Path) -> None:
    model = build_model(name, (72, 80), weights=None)
    names = list(PICTURES)[-20:]
    pixels = np.stack([local_copy.load_pixels(PICTURES[name], (72, 80)) for name in names])
    # Without this, what tells pictures apart vanishes in a deep model of random weights.
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pixels, training=True)
    expected = outputs(model, pixels)
    spreads = {name: np.ptp(values) for name, values in expected.items()}
    assert min(spreads.values()) > 1e-5, "it says the same of all"
    saved_model.export_model(model, tmp_path / "1", (72, 80), "letterbox")
    signatures = tf.saved_model.load(tmp_path / "1").signatures
    assert set(signatures) == {"serving_default", "pixels"}
    values = tf.constant(pixels, tf.float32)
    compare(signatures["pixels"](pixels=values), expected, spreads)
    # From bytes: of the same pixels, as a model of random weights makes much of a level.
    data = tf.constant([PICTURES[name] for name in names])
    pixels = np.stack([decoding.load_pixels(item, (72, 80), "letterbox") for item in data])
    expected = outputs(model, pixels)
    compare(signatures["serving_default"](image_bytes=data), expected, spreads)


def outputs(model: keras.Model, pixels: Any) -> dict[str, Any]:
    logit = logits_of(model).predict_on_batch(pixels)[:, 0]
    return {"logit": logit, "probability": model.predict_on_batch(pixels)[:, 0]}


def compare(found: dict[str, Any], expected: dict[str, Any], spreads: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert (values.shape, values.dtype) == ((20,), tf.float32)
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=0.01 * spreads[name])


def flat(red: int, green: int = 0) -> bytes:
    return encoded(Image.new("RGB", (8, 8), (red, green, 0)), "PNG")


def decision_at(threshold: float) -> Decision:
    return Decision(
        tag="fox",
        run="first",
        trained="",
        fingerprint="",
        calibration=Calibration(),
        promise=None,
        logit_threshold=between_logits(threshold),
        threshold=0.5,
        created="",
    )


def as_tf_serving_writes(logit: np.float32) -> str:
    """A number in its JSON: six digits, or nine where six would be another number's."""
    short = f"{logit:.6g}"
    return short if np.float32(short) == logit else f"{logit:.9g}"


@pytest.mark.parametrize("level", [-100, -40, -20, 20, 40, 100])
def test_who_asks_tf_serving_decides_as_predict_does(level: int, tmp_path: Path) -> None:
    """At the threshold and its neighbours among numbers of 32 bits, however high it is."""
    step = float(np.spacing(np.float32(abs(level))))
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D(name="features")(inputs)
    head = keras.layers.Dense(1, name="logit")
    core = keras.Model(inputs, keras.layers.Activation("sigmoid")(head(features)))
    # Red is the level, and green one more step each.
    head.set_weights([np.array([[np.sign(level)], [step], [0]]), np.zeros(1)])
    model = with_resizing(core, (8, 8), "stretch")
    pictures = [flat(abs(level), green) for green in range(3)]
    logits = np.float32(level) + np.arange(3, dtype=np.float32) * np.float32(step)
    decision = decision_at(float(logits[1]))

    scored = scorer_of(model, size=(8, 8), resize="stretch").score(pictures, bytes)
    predicted = [score.logit for _, score in scored if isinstance(score, Score)]
    assert predicted == logits.tolist()
    assert [decision.positive(logit) for logit in predicted] == [False, True, True]

    saved_model.export_model(model, tmp_path / "1", (8, 8), "stretch")
    signatures = tf.saved_model.load(tmp_path / "1").signatures
    served = signatures["serving_default"](image_bytes=tf.constant(pictures))["logit"].numpy()
    assert served.tolist() == logits.tolist()
    for read in (float, lambda logit: float(as_tf_serving_writes(logit)), lambda x: float(str(x))):
        assert [read(x) >= decision.logit_threshold for x in served] == [False, True, True]


@pytest.mark.parametrize("name", get_args(Precision))
def test_logits_are_of_32_bits_whatever_was_computed_with(name: Precision, tmp_path: Path) -> None:
    with precision(name):
        model = build_model("alexnet-small", (72, 80), weights=None)
    pixels = np.stack([local_copy.load_pixels(PICTURES[name], (72, 80)) for name in PICTURES][:8])
    kernel, bias = model.get_layer("logit").get_weights()
    logits = logits_of(model).predict_on_batch(pixels)[:, 0]
    scale = 200 / np.ptp(logits)
    model.get_layer("logit").set_weights([kernel * scale, bias - scale * logits.mean()])
    expected = logits_of(model).predict_on_batch(pixels)[:, 0]
    assert expected.min() < -20 < 20 < expected.max()
    saved_model.export_model(model, tmp_path / "1", (72, 80), "letterbox")
    served = tf.saved_model.load(tmp_path / "1").signatures["pixels"]
    found = served(pixels=tf.constant(pixels, tf.float32))["logit"]
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    # More of them than 16 bits can tell apart: not rounded on the way.
    assert any(x != np.float32(tf.cast(x, tf.bfloat16)) for x in found.numpy())


@given(st.floats(-1e4, 1e4), st.integers(-3, 3))
def test_a_threshold_parts_the_same_logits_halfway_between_two(
    threshold: float, steps: int
) -> None:
    logit = np.float32(threshold)
    for _ in range(abs(steps)):
        logit = np.nextafter(logit, np.float32(np.sign(steps) * np.inf))
    parted = between_logits(threshold)
    assert (float(logit) >= threshold) == (float(logit) >= parted)
    assert (float(logit) >= parted) == (float(as_tf_serving_writes(logit)) >= parted)
    assert float(np.float32(parted)) != parted


def test_a_model_for_any_size_is_exported_for_one(
    resize: local_copy.Resize, tmp_path: Path
) -> None:
    layers = keras.layers
    # Of the means of red, green and blue.
    sums = layers.Dense(1, kernel_initializer="ones", name="logit")
    inputs = keras.Input((None, None, 3))
    means = layers.GlobalAveragePooling2D(name="features")(inputs)
    model = keras.Model(inputs, sums(means))
    saved_model.export_model(model, tmp_path / "1", (72, 72), resize)
    signatures = tf.saved_model.load(tmp_path / "1").signatures
    (spec,) = signatures["pixels"].structured_input_signature[1].values()
    assert (spec.shape.as_list(), spec.dtype) == ([None, 72, 72, 3], tf.float32)
    # Black, white in the middle: cropped it is white, stretched a third of it is.
    picture = Image.new("RGB", (300, 100))
    picture.paste((255, 255, 255), (100, 0, 200, 100))
    data = tf.constant([encoded(picture, "PNG")])
    found = signatures["serving_default"](image_bytes=data)["logit"].numpy()
    expected = {"crop": 255, "stretch": 255 / 3, "letterbox": 255 / 9 + local_copy.GREY * 2 / 3}
    assert found / 3 == pytest.approx([expected[resize]], abs=3)


def test_no_weight_is_stored_twice(tmp_path: Path) -> None:
    model = build_model("alexnet-small", (72, 80), weights=None)
    saved_model.export_model(model, tmp_path / "1", (72, 80), "letterbox")
    size = sum(path.stat().st_size for path in (tmp_path / "1" / "variables").iterdir())
    assert size == pytest.approx(4 * model.count_params(), rel=0.02)


def test_an_export_is_there_when_its_last_file_is(tmp_path: Path) -> None:
    written = []

    class Noting(LocalStorage):
        def write(self, key: str, data: Any) -> None:
            assert not is_exported(self, "a/b", "some")
            written.append(key)
            super().write(key, data)

    storage = Noting(tmp_path / "storage")
    model = build_model("alexnet-small", (72, 80), weights=None)
    saved_model.store_export(
        storage, "a/b", "some", model, tmp_path / "scratch", size=(72, 80), resize="crop"
    )
    assert is_exported(storage, "a/b", "some")
    assert written[-1] == Layout("a/b").run("some", "saved_model/2/saved_model.pb")
    assert Layout("a/b").run("some", "saved_model/2/variables/variables.index") in written
