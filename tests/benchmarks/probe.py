"""Our training beside a plain linear probe by scikit-learn, on the same pictures.

    python -m tests.benchmarks.probe --folder PICTURES --tag fox --weights mobilenet.h5

The folder has a sub-folder a tag; pictures of the other folders are the negatives. Without one,
drawn pictures and random weights show that it works. The probe: average-pooled features of each
picture and its mirror image, standardized, a logistic regression with C = 0.01, the mean over both
at test. It learns from what `imagetag train` trains and validates on, four fifths of the train
split: which those are moves an average precision by more than all else. Each seed has another
split. Intervals are 95 % over seeds, those of differences paired. With
`--fine-tune-blocks 0` ours is the head alone, without fine-tuning, which is kept only where it is
better.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

import jobs.evaluate
import jobs.train
from imagetag.dataset import Row, load_pixels
from imagetag.inputs import load_partition
from imagetag.layout import Label, Layout
from imagetag.models import build_model, features_of
from imagetag.runs import Run, load_run
from imagetag.storage import open_storage
from tests.benchmarks.spread import mean_and_half
from tests.builders.datasets import store_dataset
from tests.builders.drawn import PICTURES
from tests.builders.rows import key_of, row_of

_SIZE = (160, 160)
_LEARNED = ("train", "validation")
Floats = NDArray[np.float64]
Pictures = dict[Label, list[Path]]


def main() -> None:
    """Compare them on several seeds, and print a row each."""
    parser = argparse.ArgumentParser("tests.benchmarks.probe")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tag", default="")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fine-tune-blocks", default="1", help="0 trains the head alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, tag = options.folder, options.tag
        if folder is None:
            folder, tag = _drawn(Path(scratch) / "drawn"), "disc"
        pictures: Pictures = {"positive": [], "negative": []}
        for path in sorted(folder.rglob("*.*")):
            pictures["positive" if path.parent.name == tag else "negative"].append(path)
        rows = [
            _compare(Path(scratch), pictures, tag, options, seed) for seed in range(options.seeds)
        ]
    print(f"{'':10} {'probe':>13} {'imagetag':>13}")
    for name in ("ap", "accuracy", "seconds"):
        probe, ours = (np.array([row[f"{who} {name}"] for row in rows]) for who in ("probe", "our"))
        means = f"{mean_and_half(probe)} {mean_and_half(ours)}"
        print(f"{name:10} {means}   difference {mean_and_half(ours - probe)}")
    kept = sum(row["kept"] for row in rows)
    print(f"fine-tuning was kept in {kept:.0f} of {len(rows)}")


def _compare(
    scratch: Path, pictures: Pictures, tag: str, options: argparse.Namespace, seed: int
) -> dict[str, float]:
    place = scratch / f"storage-{seed}"
    rows = _dataset(place, pictures, tag, options.limit, seed)
    common = ["--storage", str(place), "--tags", tag, "--log-level", "error"]
    with contextlib.redirect_stdout(sys.stderr):
        cache = ["--cache-folder", str(scratch / f"cache-{seed}")]
        model = ["--model", "mobilenet", "--weights", options.weights, "--image-size", "160x160"]
        model += ["--freeze-backbone", "yes", "--seed", str(seed), "--no-export"]
        model += ["--fine-tune-blocks", options.fine_tune_blocks]
        begun = time.perf_counter()
        assert jobs.train.main([*common, *cache, *model]) == 0
        ours = time.perf_counter() - begun
        assert jobs.evaluate.main([*common, *cache, "--no-suspects"]) == 0
    storage = open_storage(str(place))
    run = load_run(storage, tag, "latest")
    text = storage.read(Layout(tag).run(run.run, "test_predictions.csv")).decode()
    table = list(csv.DictReader(text.splitlines()))
    labels = np.array([row["label"] == "positive" for row in table])
    logits = np.array([float(row["logit"]) for row in table])
    begun = time.perf_counter()
    precision, accuracy = _probe(storage, run, rows, options.weights)
    found = {
        "probe ap": precision,
        "probe accuracy": accuracy,
        "probe seconds": time.perf_counter() - begun,
        "our ap": float(average_precision_score(labels, logits)),
        "our accuracy": float(((logits > 0) == labels).mean()),
        "our seconds": ours,
        "kept": float(run.best_epoch > 1),
    }
    print(f"seed {seed}: {len(labels)} test pictures, {found}", file=sys.stderr, flush=True)
    return found


def _dataset(place: Path, pictures: Pictures, tag: str, limit: int, seed: int) -> list[Row]:
    """Store a dataset of some of the pictures, of which a fifth is in test, and return its rows."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    files: list[bytes] = []
    for label, found in pictures.items():
        chosen = random.permutation(len(found))[:limit]
        for place_of, number in enumerate(chosen):
            data = found[number].read_bytes()
            split = "test" if place_of < len(chosen) / 5 else "train"
            rows.append(row_of(len(rows), data, label=label, split=split))
            files.append(data)
    store_dataset(open_storage(str(place)), tag, rows, files)
    return rows


def _probe(storage: Any, run: Run, rows: list[Row], weights: str) -> tuple[float, float]:
    features = _features(storage, run.tag, rows, weights)
    labels = np.array([row.target for row in rows])
    tested = np.array([row.split == "test" for row in rows])
    parts = load_partition(storage, run)
    known = np.array([row.md5 in parts and parts[row.md5].use in _LEARNED for row in rows])
    scaler = StandardScaler().fit(features[known].reshape(-1, features.shape[-1]))

    def scaled(of: Any) -> Floats:
        return np.asarray(scaler.transform(features[of].reshape(-1, features.shape[-1])))

    head = LogisticRegression(C=0.01, max_iter=10_000)
    head.fit(scaled(known), np.repeat(labels[known], 2))
    logits = head.decision_function(scaled(tested)).reshape(-1, 2).mean(axis=1)
    precision = average_precision_score(labels[tested], logits)
    return float(precision), float(((logits > 0) == labels[tested]).mean())


def _features(storage: Any, tag: str, rows: list[Row], weights: str) -> NDArray[np.float32]:
    """Return the pooled features of pictures and of their mirror images, `(pictures, 2, 1024)`."""
    path = Path(weights) if weights != "none" else None
    model = features_of(build_model("mobilenet", _SIZE, weights=path))
    pixels = np.stack(
        [load_pixels(storage.read(key_of(row, tag)), _SIZE, "letterbox") for row in rows]
    )
    views = (pixels, pixels[:, :, ::-1])
    return np.stack([model.predict(view, batch_size=32, verbose=0) for view in views], axis=1)


def _drawn(folder: Path) -> Path:
    for picture in PICTURES:
        label = "disc" if picture.row.label == "positive" else "other"
        path = folder / label / f"{picture.row.md5}.{picture.row.ext}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.data)
    return folder


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
