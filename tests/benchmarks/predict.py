"""How fast pictures are scored, beside `model.predict` on one at a time, and the bare forward pass;
and what `imagetag predict` takes with 1,000 tags on one network, beside 1.

The pictures are JPEGs of 320 x 240 pixels, 12 kB each; the models have random weights. Where a
model uses every processor, decoding takes its share of them: a twentieth beside MobileNet, next to
nothing beside VGG16.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagetag.dataset.local_copy import load_pixels
from imagetag.models.architectures import build_model, features_of, with_resizing
from imagetag.models.scoring import Input, Network, Score, Scorer, network_of
from tests.benchmarks.commands import run_job
from tests.benchmarks.ratios import Goal, Ratio, compared, with_unit
from tests.predicting import store_heads

_SIZE, _FILES, _PAIRS = (224, 224), 64, 3
_SIZE_OF_HEADS, _PICTURES, _TAGS, _TAG_PAIRS = (160, 160), 200, 1000, 2
# A model, how many pictures it takes at once, how many batches, and how many pictures alone.
_MODELS = (("mobilenet", 32, 8, 24), ("vgg16", 8, 2, 4))


def _draw(folder: Path) -> list[Path]:
    """Make pictures with edges and some noise, as drawings have them."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(_FILES):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        large = Image.fromarray(coarse).resize((320, 240), Image.Resampling.NEAREST)
        pixels = np.asarray(large).astype("int16")
        pixels += random.integers(-6, 7, pixels.shape, dtype="int16")
        data = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(data, "JPEG", quality=75)
        path = folder / f"{number}.jpg"
        path.write_bytes(data.getvalue())
        paths.append(path)
    return paths


def _scored(scorer: Scorer, paths: list[Path], count: int) -> float:
    """Return the pictures a second from files to scores."""
    started = time.perf_counter()
    items = (paths[number % _FILES] for number in range(count))
    scores = [found for _, found in scorer.score(items, lambda path: path)]
    assert all(isinstance(found, Score) for found in scores)
    return len(scores) / (time.perf_counter() - started)


def _bare(network: Network, batch: NDArray[np.uint8], count: int) -> float:
    """Return the pictures a second of the same compiled model on one batch that is there."""
    started = time.perf_counter()
    for _ in range(count // len(batch)):
        np.asarray(network.forward(batch)["logits"])
    return count / (time.perf_counter() - started)


def _alone(model: keras.Model, paths: list[Path]) -> float:
    """Return the pictures a second of `model.predict` on each."""
    started = time.perf_counter()
    for path in paths:
        model.predict(load_pixels(path, _SIZE)[None], verbose=0)
    return len(paths) / (time.perf_counter() - started)


def _measured(paths: list[Path], name: str, size: int, batches: int, few: int) -> Iterator[Ratio]:
    """Yield a model's rates from files to scores, beside both."""
    keras.utils.set_random_seed(0)
    model = with_resizing(build_model(name, _SIZE, weights=None), _SIZE, "letterbox")
    network = network_of(model, Input(_SIZE, "letterbox"), size)
    scorer = Scorer([network], size)
    batch = np.stack([load_pixels(path, _SIZE) for path in paths[:size]])
    # Compiled outside the measurement.
    _bare(network, batch, size)
    _alone(model, paths[:2])
    runs = [
        (
            _scored(scorer, paths, size * batches),
            _bare(network, batch, size * batches),
            _alone(model, paths[:few]),
        )
        for _ in range(_PAIRS)
    ]
    ours, bare, alone = zip(*runs, strict=True)
    what, tell = f"prediction by {name}, batches of {size}, from files", with_unit("pictures/s")
    yield compared(what, ours, alone, tell, by="`model.predict`, one by one", goal=Goal(2))
    yield compared(what, ours, bare, tell, by="the bare forward pass", goal=Goal(0.85))


def _with_tags(folder: Path, paths: list[Path]) -> Ratio:
    """Return how long the job takes with very many tags on one extractor, beside one tag."""
    keras.utils.set_random_seed(0)
    body = features_of(build_model("mobilenet", _SIZE_OF_HEADS, weights=None))
    storage, pictures, output = folder / "storage", folder / "many", folder / "out.csv"
    tags = [f"tag_{number}" for number in range(_TAGS)]
    store_heads(str(storage), body, tags, folder)
    pictures.mkdir()
    for number in range(_PICTURES):
        (pictures / f"{number}.jpg").symlink_to(paths[number % _FILES])
    seconds: dict[int, list[float]] = {1: [], _TAGS: []}
    for _ in range(_TAG_PAIRS):
        for count, taken in seconds.items():
            (folder / "tags.txt").write_text("".join(f"{tag}\n" for tag in tags[:count]))
            options = ["--storage", storage, "--tags-file", folder / "tags.txt"]
            options += ["--input", pictures, "--output", output, "--layout", "wide"]
            output.unlink(missing_ok=True)
            taken.append(run_job("predict", [*map(str, options), "--log-level", "error"]).processor)
    what = f"imagetag predict of {_PICTURES} pictures, {_TAGS:,} heads on MobileNet"
    tell = with_unit("processor seconds")
    return compared(what, seconds[_TAGS], seconds[1], tell, by="1 head", goal=Goal(1.5, "at most"))


def rows() -> Iterator[Ratio]:
    """Yield the figures of each model, and of many tags."""
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        paths = _draw(Path(scratch))
        for model in _MODELS:
            yield from _measured(paths, *model)
        yield _with_tags(Path(scratch), paths)
