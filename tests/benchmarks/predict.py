"""How fast pictures are scored, beside `model.predict` on one at a time, and the bare forward pass;
and how long `imagetag predict` takes with 1, 100 and 1,000 tags on one network.

The pictures are JPEGs of 320 x 240 pixels, 12 kB each; the models have random weights. Where a
model uses every processor, decoding takes its share of them: a twentieth beside MobileNet, next to
nothing beside VGG16.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagetag.dataset.local_copy import load_pixels
from imagetag.models.architectures import build_model, features_of, with_resizing
from imagetag.models.scoring import Input, Network, Score, Scorer, network_of
from tests.predicting import store_heads

_SIZE, _FILES, _RUNS = (224, 224), 64, 7
_SIZE_OF_HEADS, _PICTURES, _TAGS, _TAG_RUNS = (160, 160), 300, (1, 100, 1000), 3
# A model, how many pictures it takes at once, how many batches, and how many pictures alone.
_MODELS = (("mobilenet", 32, 16, 32), ("vgg16", 8, 4, 8))


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


def _measure(paths: list[Path], name: str, size: int, batches: int, few: int) -> None:
    """Print the median rates of several runs, in turn, and the medians of their ratios."""
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
        for _ in range(_RUNS)
    ]
    ours, bare, alone = (statistics.median(column) for column in zip(*runs, strict=True))
    slower = statistics.median(run[1] / run[0] for run in runs)
    faster = statistics.median(run[0] / run[2] for run in runs)
    print(f"{name}, batches of {size}, {len(os.sched_getaffinity(0))} processors")
    print(f"  {'Scorer, from files to scores':36} {ours:7.1f} images/s")
    print(
        f"  {'the bare forward pass':36} {bare:7.1f} images/s; ours takes {slower:.3f} x its time"
    )
    print(
        f"  {'model.predict on one at a time':36} {alone:7.1f} images/s; ours is {faster:.1f} x it"
    )


def _measure_tags(folder: Path, paths: list[Path]) -> None:
    """Print how long the job takes with more and more tags on one extractor, in turn."""
    keras.utils.set_random_seed(0)
    body = features_of(build_model("mobilenet", _SIZE_OF_HEADS, weights=None))
    storage, pictures = folder / "storage", folder / "many"
    tags = [f"tag_{number}" for number in range(max(_TAGS))]
    store_heads(str(storage), body, tags, folder)
    pictures.mkdir()
    for number in range(_PICTURES):
        (pictures / f"{number}.jpg").symlink_to(paths[number % _FILES])
    seconds: dict[int, list[float]] = {count: [] for count in _TAGS}
    for _ in range(_TAG_RUNS):
        for count in _TAGS:
            (folder / "tags.txt").write_text("".join(f"{tag}\n" for tag in tags[:count]))
            options = [
                "--storage",
                storage,
                "--tags-file",
                folder / "tags.txt",
                "--input",
                pictures,
            ]
            options += ["--output", folder / "out.csv", "--layout", "wide", "--log-level", "error"]
            (folder / "out.csv").unlink(missing_ok=True)
            started = time.perf_counter()
            command = [sys.executable, "-m", "jobs.predict", *map(str, options)]
            subprocess.run(command, check=True)
            seconds[count].append(time.perf_counter() - started)
    one = seconds[_TAGS[0]]
    print(f"imagetag predict of {_PICTURES} pictures by heads on MobileNet, 160 x 160, 2 views")
    for count, took in seconds.items():
        times = statistics.median(now / first for now, first in zip(took, one, strict=True))
        print(f"  {count:5,} tags {statistics.median(took):7.1f} s; {times:.2f} x one tag's")


def main() -> None:
    """Print the figures of each model, and of many tags."""
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as scratch:
        paths = _draw(Path(scratch))
        _measure_tags(Path(scratch), paths)
        for model in _MODELS:
            _measure(paths, *model)


if __name__ == "__main__":
    main()
