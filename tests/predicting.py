"""The predict job in tests: a tiny model in storage, pictures, and runs of the job."""

from __future__ import annotations

import contextlib
import csv
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from imagetag.dataset.local_copy import Resize, load_pixels
from imagetag.features.asked import Asked
from imagetag.features.extractor import ExtractorRecord
from imagetag.features.opening import prepare_extractor
from imagetag.features.stored_extractors import store_extractor
from imagetag.imaging.images import Size
from imagetag.layout import Layout
from imagetag.models.architectures import with_resizing
from imagetag.models.scoring import Input, Scorer, network_of
from imagetag.runs.decision import Decision, logit_of
from imagetag.runs.heads import store_head
from imagetag.stats.calibration import Calibration
from imagetag.stats.contract import Promise
from imagetag.stats.logistic import LinearHead
from imagetag.storage.opening import open_storage
from jobs import predict as predict_job
from tests.builders.pictures import encoded
from tests.builders.runs import make_run, store_run
from tests.ended import Ended, log_lines
from tests.forked import Forked

TAG = "red/disc"
SIZE: Size = (24, 32)
TEMPERATURE = 2.0
THRESHOLD = 0.7  # calibrated


def make_model(size: Size = SIZE, resize: Resize = "letterbox", seed: int = 4) -> keras.Model:
    """A model as `runs.load_model` returns it: small, and of another mind about each picture."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((*size, 3))
    x = layers.Rescaling(1 / 64, -2)(inputs)
    x = layers.Conv2D(4, 5, 3)(x)
    x = layers.GlobalMaxPooling2D(name="features")(x)
    head = layers.Dense(1, name="logit")
    core = keras.Model(inputs, layers.Activation("sigmoid", name="probability")(head(x)))
    kernel, bias = head.get_weights()
    head.set_weights([10 * kernel, bias + 2])
    return with_resizing(core, size, resize)


def alone(
    model: keras.Model, data: bytes | Path, size: Size = SIZE, resize: Resize = "letterbox"
) -> float:
    """What the whole model says of one picture: a probability, not calibrated."""
    pixels = load_pixels(data, size, resize)[None].astype("float32")
    return float(model.predict_on_batch(pixels)[0, 0])


def scorer_of(
    model: keras.Model,
    batch_size: int = 4,
    *,
    size: Size = SIZE,
    resize: Resize = "letterbox",
    features: bool = False,
) -> Scorer:
    """What asks one model."""
    network = network_of(model, Input(size, resize), batch_size, features=features)
    return Scorer([network], batch_size)


def store_model(
    storage: str,
    model: keras.Model,
    run: str = "tiny",
    *,
    tag: str = TAG,
    size: Size = SIZE,
    created: str = "2026-01-01T00:00:00+00:00",
) -> None:
    """Store a model as train does."""
    layout, target = Layout(tag), open_storage(storage)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.keras"
        model.save(path)
        target.upload(path, layout.run(run, "model.keras"))
    marker = make_run(
        tag=tag, run=run, settings={"resize": "letterbox"}, image_size=size, created=created
    )
    store_run(target, marker)
    target.write(layout.latest, run.encode() + b"\n")


def store_heads(
    storage: str,
    extractor: keras.Model | Path,
    tags: Sequence[str],
    scratch: Path,
    asked: Asked | None = None,
) -> ExtractorRecord:
    """Store runs on features of one extractor, a model or what has one, with heads of all minds."""
    target = open_storage(storage)
    path = extractor if isinstance(extractor, Path) else scratch / "tiny.keras"
    if not isinstance(extractor, Path):
        extractor.save(path)
    record, _ = prepare_extractor(str(path), asked or Asked(), scratch)
    record = store_extractor(target, record, path)
    for number, tag in enumerate(tags):
        random = np.random.default_rng(number)
        marker = make_run(tag=tag, run="tiny", extractor=record.name, image_size=record.image_size)
        head = LinearHead(random.standard_normal(record.channels), 0.25, 1.0)
        store_head(target, tag, "tiny", head)
        store_run(target, marker)
        target.write(Layout(tag).latest, b"tiny\n")
    return record


def decide(
    storage: str,
    run: str = "tiny",
    *,
    tag: str = TAG,
    temperature: float = TEMPERATURE,
    threshold: float = THRESHOLD,
    promise: Promise | None = None,
) -> Decision:
    """Store a decision as evaluate does."""
    calibration = Calibration(method="temperature", temperature=temperature)
    logit = logit_of(calibration, threshold)
    decision = Decision(
        tag=tag,
        run=run,
        trained="2026-01-01T00:00:00+00:00",
        fingerprint="f",
        calibration=calibration,
        promise=promise,
        logit_threshold=logit,
        threshold=threshold,
        created="2026-01-02T00:00:00+00:00",
    )
    key = Layout(tag).run(run, "decision.json")
    open_storage(storage).write(key, decision.model_dump_json().encode())
    return decision


def noise(number: int) -> bytes:
    """A small picture of some size and format."""
    random = np.random.default_rng(number)
    width, height = map(int, random.integers(10, 80, 2))
    # Some darker than others, so that the model is of different minds.
    top = int(random.integers(40, 256))
    image = Image.fromarray(random.integers(0, top, (height, width, 3), dtype=np.uint8))
    return encoded(image, ["PNG", "JPEG", "WEBP"][number % 3])


def ending(number: int) -> str:
    return ["png", "jpg", "webp"][number % 3]


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ---- running the job


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


SCRIPT = """
import sys
{before}
from jobs.predict import main
sys.exit(main(sys.argv[1:]))
"""


def arguments(storage: object, options: Sequence[object]) -> list[str]:
    return ["--storage", str(storage), "--tag", TAG, *map(str, options), "--log-format", "json"]


def run(storage: object, *options: object) -> Ended:
    """Run the job in this process."""
    stdout, stderr = io.StringIO(newline=""), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = predict_job.main(arguments(storage, options))
    return Ended(code, log_lines(stderr.getvalue(), chatter=True), stdout.getvalue())


def start(storage: object, *options: object, before: str = "", **how: Any) -> Forked:
    """Start the job as a process of its own; `before` is Python that it runs first."""
    return Forked(SCRIPT.format(before=before), arguments(storage, options), **how)


def start_anew(storage: object, *options: object, before: str = "") -> subprocess.Popen[str]:
    """Start it as a user does: with nothing imported."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(before=before), *arguments(storage, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(job: Forked | subprocess.Popen[str], timeout: float = 400) -> Ended:
    try:
        stdout, stderr = job.communicate(timeout=timeout)
    finally:
        job.kill()
    assert job.returncode is not None
    return Ended(job.returncode, log_lines(stderr), stdout)
