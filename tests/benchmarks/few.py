"""Heads of few pictures, beside nearest neighbours and plain logistic regression.

    python -m tests.benchmarks.few --storage STORAGE --weights mobilenet.h5 --whole TAG

The storage has scraped tags, with features. Of each, some positives of the train split are drawn,
with as many negatives and with many, 20 times over; every head learns from the same, and ranks the
whole test split. The peers are scikit-learn's, on features that are standardized over what is
learned from, and neighbours on features as they are too; their votes are weighted by their
nearness. Which number of neighbours and which distance is best, the test split decides, which
favours them. Intervals are over the draws, of the mean over tags.

With --whole, `imagetag train` itself makes a head on features and a whole model of that tag, on the
same drawn pictures: what it keeps for the threshold, neither learns from.

Without a storage, drawn pictures and random weights show that it works.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

import jobs.embed
import jobs.evaluate
import jobs.train
from imagetag.dataset import Row, load_dataset, read_rows, tags_in
from imagetag.features import (
    ExtractorRecord,
    FeatureStore,
    StoredFeatures,
    find_extractor,
    mark_latest,
)
from imagetag.layout import Layout, features
from imagetag.runs import load_run
from imagetag.stats import fit_head
from imagetag.storage import Storage, open_storage
from tests.benchmarks.spread import mean_and_half
from tests.builders.datasets import store_dataset
from tests.builders.drawn import TAG, draw, store
from tests.builders.rows import key_of

_POSITIVES = (5, 10, 20, 50)
_MANY = 200  # negatives
_ALL = 1_000_000
_NEIGHBOURS = (1, 3, 5, 10, 20)
_STRENGTHS = (1.0, 0.01)
_WHOLE = (20, 50)  # positives: of ten, a whole model has too few left to learn from
_WHOLE_DRAWS = 3
_OURS = "imagetag"

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Tag:
    """The pictures of a tag that have features: rows, and `(rows, views, channels)`."""

    name: str
    rows: list[Row]
    values: Floats

    @property
    def tested(self) -> Bools:
        """Which are in the test split, `(rows,)`."""
        return np.array([row.split == "test" for row in self.rows])

    @property
    def labels(self) -> Bools:
        """Which have the tag, `(rows,)`."""
        return np.array([row.target == 1 for row in self.rows])

    def drawn(self, positives: int, negatives: int, seed: int) -> NDArray[np.intp]:
        """Return the places of some pictures of the train split; fewer where there are no more."""
        random = np.random.default_rng(seed)
        found = [
            random.permutation(np.flatnonzero(~self.tested & (self.labels == label)))[:count]
            for label, count in ((True, positives), (False, negatives))
        ]
        return np.concatenate(found)


def main() -> None:
    """Print a table for as many negatives, and one for many."""
    parser = argparse.ArgumentParser("tests.benchmarks.few")
    parser.add_argument("--storage", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--whole", default="", help="a tag to train whole models of")
    parser.add_argument("--weights", default="none", help="of MobileNet, for those")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as folder:
        scratch = Path(folder)
        place = options.storage or _made(scratch)
        storage = open_storage(str(place))
        record = find_extractor(storage)
        tags = _tags(storage, record, scratch)
        print(f"{len(tags)} tags: {', '.join(tag.name for tag in tags)}; {record.name}")
        for negatives in (None, _MANY):
            _compare(tags, negatives, options.draws)
        if options.whole:
            tag = next(tag for tag in tags if tag.name == options.whole)
            _compare_commands(storage, tag, record, options.weights, scratch)


def _compare(tags: list[Tag], negatives: int | None, draws: int) -> None:
    """Print the average precision of every head by how many positives it has learned from.

    What the train split has in all is drawn once.
    """
    print(f"\n{negatives or 'as many'} negatives; in brackets what {_OURS} has more, paired\n")
    for positives in (*_POSITIVES, *([] if negatives else [_ALL])):
        found: dict[str, list[float]] = {}  # of each head, the mean over tags of each draw
        for seed in range(1 if positives == _ALL else draws):
            each = [
                _precisions(tag, tag.drawn(positives, negatives or positives, seed)) for tag in tags
            ]
            for name in each[0]:
                found.setdefault(name, []).append(float(np.mean([tag[name] for tag in each])))
        means = {name: np.array(drawn) for name, drawn in found.items()}
        nearest = max(
            (name for name in means if name.startswith("neighbours")),
            key=lambda name: float(means[name].mean()),
        )
        cells = [
            f"{name} {mean_and_half(drawn)}"
            + ("" if name == _OURS else f" ({mean_and_half(means[_OURS] - drawn)})")
            for name, drawn in means.items()
            if name == nearest or not name.startswith("neighbours")
        ]
        count = "all" if positives == _ALL else positives
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def _precisions(tag: Tag, known: NDArray[np.intp]) -> dict[str, float]:
    """Return the average precision of each head on a tag's test split."""
    labels, groups = tag.labels[known], [tag.rows[place].group for place in known]
    asked = tag.values[tag.tested]
    head = fit_head(tag.values[known], labels, groups)
    logits = {_OURS: head.logits(asked)} | _peers(tag.values[known], labels, asked)
    truth = tag.labels[tag.tested]
    return {name: float(average_precision_score(truth, found)) for name, found in logits.items()}


def _peers(values: Floats, labels: Bools, asked: Floats) -> dict[str, Floats]:
    """Return what each of scikit-learn's heads says of the pictures that are asked for."""
    channels = values.shape[2]
    scaler = StandardScaler().fit(values.reshape(-1, channels))
    rows = scaler.transform(values.reshape(-1, channels))
    means, questions = (scaler.transform(some.mean(axis=1)) for some in (values, asked))
    found: dict[str, Floats] = {}
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=10_000)
        model.fit(rows, np.repeat(labels, values.shape[1]))
        found[f"logistic C={strength:g}"] = model.decision_function(questions)
    plain = values.mean(axis=1), asked.mean(axis=1)
    for metric, (base, wanted) in {
        "cosine": (means, questions),
        "euclidean": (means, questions),
        "cosine, as they are": plain,
        "euclidean, as they are": plain,
    }.items():
        kind = metric.partition(",")[0]
        search = NearestNeighbors(n_neighbors=min(max(_NEIGHBOURS), len(labels)), metric=kind)
        away, near = search.fit(base).kneighbors(wanted)
        votes = np.where(labels[near], 1.0, -1.0) / np.maximum(away, 1e-9)
        for count in _NEIGHBOURS:
            found[f"neighbours k={count} {metric}"] = votes[:, :count].sum(axis=1)
    return found


def _tags(storage: Storage, record: ExtractorRecord, scratch: Path) -> list[Tag]:
    """Return the tags that have enough positives to draw from, and some in test."""
    rows = {tag: list(read_rows(storage, load_dataset(storage, tag))) for tag in tags_in(storage)}
    pictures = {row.md5 for found in rows.values() for row in found}
    stored = FeatureStore(storage, record).read(pictures, scratch)
    tags = [_tag(name, found, stored) for name, found in sorted(rows.items())]
    return [tag for tag in tags if (tag.labels & ~tag.tested).sum() >= max(_POSITIVES)]


def _tag(name: str, rows: list[Row], stored: StoredFeatures) -> Tag:
    places = stored.find([row.md5 for row in rows], name)
    kept = [row for row, place in zip(rows, places, strict=True) if place >= 0]
    return Tag(name, kept, stored.values[places[places >= 0]].astype(np.float64))


def _compare_commands(
    storage: Storage, tag: Tag, record: ExtractorRecord, weights: str, scratch: Path
) -> None:
    """Print what the commands reach on drawn pictures of a tag, and the head that has all."""
    print(f"\nimagetag train of {tag.name}, {_WHOLE_DRAWS} draws, as many negatives\n")
    for positives in _WHOLE:
        found: dict[str, list[float]] = {}
        for seed in range(_WHOLE_DRAWS):
            known = tag.drawn(positives, positives, seed)
            place = scratch / f"{positives}-{seed}"
            _store(storage, tag, known, record, place)
            size = "{}x{}".format(*record.image_size)
            model = ["--model", record.model, "--weights", weights, "--image-size", size]
            found.setdefault("head on all of them", []).append(_precisions(tag, known)[_OURS])
            for name, how in {"--features": ["--features", "latest"], "--model": model}.items():
                found.setdefault(name, []).append(_trained(place, tag.name, how, scratch))
        cells = [f"{name} {mean_and_half(np.array(each))}" for name, each in found.items()]
        print(f"| {positives} | {' | '.join(cells)} |", flush=True)


def _store(
    storage: Storage, tag: Tag, known: NDArray[np.intp], record: ExtractorRecord, place: Path
) -> None:
    """Store a dataset of the drawn pictures and the test split, with their features."""
    chosen = [*known.tolist(), *np.flatnonzero(tag.tested).tolist()]
    rows = [tag.rows[number] for number in chosen]
    files = [storage.read(key_of(row, tag.name)) for row in rows]
    made = open_storage(str(place))
    store_dataset(made, tag.name, rows, files)
    FeatureStore(made, record).add([row.md5 for row in rows], tag.values[chosen].astype(np.float16))
    for entry in storage.list(features(record.name)):
        made.write(entry.key, storage.read(entry.key))
    mark_latest(made, record)


def _trained(place: Path, tag: str, how: list[str], scratch: Path) -> float:
    """Train and evaluate as the commands do; returns the average precision on the test split."""
    common = ["--storage", str(place), "--tags", tag, "--log-level", "error"]
    common += ["--cache-folder", str(scratch / "cache")]
    with contextlib.redirect_stdout(sys.stderr):
        assert jobs.train.main([*common, *how]) == 0
        assert jobs.evaluate.main([*common, "--no-suspects"]) == 0
    storage = open_storage(str(place))
    run = load_run(storage, tag, "latest")
    text = storage.read(Layout(tag).run(run.run, "test_predictions.csv")).decode()
    table = list(csv.DictReader(text.splitlines()))
    labels = [row["label"] == "positive" for row in table]
    return float(average_precision_score(labels, [float(row["logit"]) for row in table]))


def _made(scratch: Path) -> Path:
    """Store drawn pictures, with features by random weights."""
    place, network = scratch / "storage", scratch / "random.keras"
    store(place, map(draw, range(200)))
    layers = keras.layers
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(24, 3, 2, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    keras.Model(inputs, layers.GlobalAveragePooling2D()(x)).save(network)
    options = ["--storage", str(place), "--tags", TAG, "--extractor", str(network)]
    with contextlib.redirect_stdout(sys.stderr):
        assert jobs.embed.main([*options, "--log-level", "error"]) == 0
    return place


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
