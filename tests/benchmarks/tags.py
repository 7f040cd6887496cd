"""Many tags on features, beside whole models one by one: processor time, quality, storage.

    python -m tests.benchmarks.tags --storage STORAGE --weights mobilenet.h5

The storage has scraped tags; it is copied, without its features and runs. Processor seconds and
memory are of the commands, as the system accounts for them. Plain is scikit-learn's
LogisticRegression on the same pictures' features, standardized, C = 0.01, one tag at a time.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from imagetag.dataset import Row, load_dataset, read_rows, tags_in
from imagetag.features import FeatureStore, StoredFeatures, find_extractor
from imagetag.inputs import load_partition
from imagetag.layout import Layout
from imagetag.runs import load_run
from imagetag.storage import Storage, open_storage

_LEARNED = ("train", "validation")


class Jobs:
    """Commands of imagetag on one storage, and what they took."""

    def __init__(self, scratch: Path, storage: Path) -> None:
        self._scratch = scratch
        self._common = ["--storage", str(storage), "--log-level", "error"]
        self._cache = ["--cache-folder", str(scratch / "cache")]

    def run(self, job: str, tags: Sequence[str], *options: str) -> float:
        """Run a job of some tags; returns its processor seconds, and prints its peak memory."""
        listed = self._scratch / "tags.txt"
        listed.write_text("".join(f"{tag}\n" for tag in tags))
        command = [sys.executable, "-m", f"jobs.{job}", *self._common, "--tags-file", str(listed)]
        process = subprocess.Popen([*command, *self._cache, *options])
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{job} ended with {process.returncode}")
        seconds = used.ru_utime + used.ru_stime
        print(
            f"  {job:9} of {len(tags):5,} tags {seconds:8.1f} processor seconds, "
            f"{used.ru_maxrss / 1024:6,.0f} MB at the peak",
            flush=True,
        )
        return seconds


def main() -> None:
    """Print what the tags took, beside a few of them by whole models."""
    parser = argparse.ArgumentParser("tests.benchmarks.tags")
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--weights", default="none", help="of MobileNet")
    parser.add_argument("--size", default="160x160")
    parser.add_argument("--whole", type=int, default=2, help="how many tags get whole models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as folder:
        scratch = Path(folder)
        place = scratch / "storage"
        jobs = Jobs(scratch, place)
        shutil.copytree(options.storage, place)
        shutil.rmtree(place / ".features", ignore_errors=True)
        for runs in place.glob("*/models"):
            shutil.rmtree(runs)
        _measure(jobs, open_storage(str(place)), place, options, scratch)


def _measure(
    jobs: Jobs, storage: Storage, place: Path, options: argparse.Namespace, scratch: Path
) -> None:
    tags = sorted(tags_in(storage))
    network = ["--weights", options.weights, "--image-size", options.size]
    print("features, and a head a tag")
    ours = jobs.run("embed", tags, "--extractor", "mobilenet", *network)
    ours += jobs.run("train", tags, "--features", "latest")
    runs = sum(
        path.stat().st_size for tag in tags for path in (place / tag / "models").rglob("*.*")
    )
    ours += jobs.run("evaluate", tags)
    rows = {tag: list(read_rows(storage, load_dataset(storage, tag))) for tag in tags}
    pictures = {row.md5 for found in rows.values() for row in found}
    store = FeatureStore(storage, find_extractor(storage))
    stored = store.read(pictures, scratch)
    heads = {tag: _precision(storage, tag) for tag in tags}
    plain = {tag: _plain(storage, tag, rows[tag], stored) for tag in tags}
    full = sum(path.stat().st_size for tag in tags for path in (place / tag).rglob("models/*/*"))
    whole = tags[:: max(len(tags) // options.whole, 1)][: options.whole]
    print("whole models")
    theirs = jobs.run("train", whole, "--model", "mobilenet", *network)
    theirs = (theirs + jobs.run("evaluate", whole)) / len(whole)
    trained = {tag: _precision(storage, tag) for tag in whole}

    places = sum(map(len, rows.values()))
    embedded = sum(
        len(path.read_bytes()) // 16 for path in (place / ".features").rglob("parts/*.ids")
    )
    print(f"{len(tags)} tags take {ours / theirs:.1f} x the processor time of one by a whole model")
    print(f"{embedded:,} pictures decoded by embed, {len(pictures):,} distinct, {places:,} places")
    print(f"a run takes {runs / len(tags) / 1e3:.1f} kB, evaluated {full / len(tags) / 1e3:.0f} kB")
    print("mean average precision")
    print(f"  of {len(tags)} tags: heads {_mean(heads)}, plain {_mean(plain)}")
    fewer = [{tag: found[tag] for tag in whole} for found in (heads, plain)]
    print(
        f"  of {len(whole)} tags: heads {_mean(fewer[0])}, plain {_mean(fewer[1])}, "
        f"whole models {_mean(trained)}"
    )


def _mean(found: dict[str, float]) -> str:
    return f"{np.mean(list(found.values())):.3f}"


def _precision(storage: Storage, tag: str) -> float:
    """Return the average precision of a tag's newest run on its test split."""
    run = load_run(storage, tag, "latest")
    text = storage.read(Layout(tag).run(run.run, "test_predictions.csv")).decode()
    table = list(csv.DictReader(text.splitlines()))
    labels = [row["label"] == "positive" for row in table]
    return float(average_precision_score(labels, [float(row["logit"]) for row in table]))


def _plain(storage: Storage, tag: str, rows: list[Row], stored: StoredFeatures) -> float:
    """Return that of a plain logistic regression on what the head has learned from."""
    parts = load_partition(storage, load_run(storage, tag, "latest"))
    learned = [row for row in rows if row.md5 in parts and parts[row.md5].use in _LEARNED]
    tested = [row for row in rows if row.split == "test"]
    values, labels = _of(learned, tag, stored)
    flat = values.reshape(-1, values.shape[-1])
    scaler = StandardScaler().fit(flat)
    head = LogisticRegression(C=0.01, max_iter=10_000)
    head.fit(scaler.transform(flat), np.repeat(labels, values.shape[1]))
    values, labels = _of(tested, tag, stored)
    logits = head.decision_function(scaler.transform(values.mean(axis=1)))
    return float(average_precision_score(labels, logits))


def _of(
    rows: list[Row], tag: str, stored: StoredFeatures
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the features of pictures that can be decoded, (n, views, channels), and targets."""
    places = stored.find([row.md5 for row in rows], tag)
    labels = np.array([row.target for row in rows])
    return stored.values[places[places >= 0]].astype(np.float64), labels[places >= 0]


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
