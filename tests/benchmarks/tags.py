"""Many tags on features, beside whole models one by one: processor time, memory, quality, storage.

    python -m tests.benchmarks.tags
    python -m tests.benchmarks.tags --tags 1000
    python -m tests.benchmarks.tags --storage STORAGE --weights mobilenet.h5

By itself it takes the drawn board: pictures of the demo, made small, and tags of one to three of
the things in them. A storage that is given has scraped tags; it is copied, without its features and
runs. Processor seconds are of the commands, as the system accounts for them; decoded pictures and
memory are counted in them. Plain is scikit-learn's LogisticRegression on the same pictures'
features, standardized, C = 0.01, one tag at a time.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from imagetag.dataset import (
    Row,
    load_dataset,
    load_pixels,
    parts_of_groups,
    read_rows,
    split_of,
    tags_in,
)
from imagetag.demo import draw_posts
from imagetag.features import FeatureStore, StoredFeatures, find_extractor
from imagetag.inputs import load_partition
from imagetag.layout import LABELS, PARTS, Layout
from imagetag.quiet import quiet_imports
from imagetag.runs import load_run
from imagetag.storage import Storage, open_storage
from tests.benchmarks.commands import run_job
from tests.benchmarks.ratios import Goal, Ratio, compared, with_unit
from tests.builders.datasets import store_dataset
from tests.builders.pictures import encoded
from tests.builders.rows import row_of

_LEARNED = ("train", "validation")
_FEW, _PAIRS = 20, 1  # tags of the table of ratios
_SIDE = 128  # pixels, of drawn pictures
_PROBED = 50  # tags that get a plain logistic regression too
_TOGETHER = 3  # things that a tag names at the most
_MOST = 0.7  # of the pictures: what more have is no tag


class Jobs:
    """Commands of imagetag on one storage, and what they took."""

    def __init__(self, scratch: Path, storage: Path) -> None:
        self._scratch = scratch
        self._common = ["--storage", str(storage), "--log-level", "error"]
        self._cache = ["--cache-folder", str(scratch / "cache")]

    def run(self, job: str, tags: Sequence[str], *options: str) -> float:
        """Run a job of some tags; returns its processor seconds, and prints what else it took."""
        listed = self._scratch / "tags.txt"
        listed.write_text("".join(f"{tag}\n" for tag in tags))
        named = [*self._common, "--tags-file", str(listed)]
        if job not in ("status", "report"):
            named += self._cache
        used = run_job(job, [*named, *options])
        print(
            f"  {job:9} of {len(tags):5,} tags {used.processor:8.1f} processor seconds, "
            f"{used.peak / 1e6:6,.0f} MB at the peak, {used.decoded:6,} pictures decoded",
            file=sys.stderr,
        )
        return used.processor


def main() -> None:
    """Print what the tags took, beside a few of them by whole models."""
    options = _options(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as folder:
        scratch = Path(folder)
        place = scratch / "storage"
        jobs = Jobs(scratch, place)
        if options.storage:
            options.size = options.size or "160x160"
            shutil.copytree(options.storage, place)
            shutil.rmtree(place / ".features", ignore_errors=True)
            for runs in place.glob("*/models"):
                shutil.rmtree(runs)
        else:
            options.size = options.size or "96x96"
            files = _draw(open_storage(str(place)), options, scratch)
            if options.weights == "none":
                options.weights = _random_weights(files[:32], options.size, scratch)
        _measure(jobs, open_storage(str(place)), place, options, scratch)


def rows() -> Iterator[Ratio]:
    """Yield what a few tags take on features, beside a whole model of one of them."""
    options = _options(["--tags", str(_FEW), "--pictures", "500"])
    pairs = []
    with tempfile.TemporaryDirectory(prefix="imagetag-bench-") as folder:
        scratch = Path(folder)
        files = _draw(open_storage(str(scratch / "drawn")), options, scratch)
        weights = _random_weights(files[:32], "96x96", scratch)
        network = ["--weights", weights, "--image-size", "96x96"]
        for number in range(_PAIRS):
            place = scratch / f"storage-{number}"
            shutil.copytree(scratch / "drawn", place)
            jobs, tags = Jobs(scratch, place), sorted(tags_in(open_storage(str(place))))
            features = sum(_on_features(jobs, tags, network))
            pairs.append((features, _whole(jobs, tags[:1], network)))
    ours, theirs = zip(*pairs, strict=True)
    what = f"embed, train and evaluate {_FEW} tags on features, MobileNet"
    tell = with_unit("processor seconds")
    yield compared(what, ours, theirs, tell, by="one whole model", goal=Goal(3, "at most"))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests.benchmarks.tags")
    parser.add_argument("--storage", type=Path, help="with scraped tags; by default some are drawn")
    parser.add_argument("--tags", type=int, default=50, help="how many are drawn")
    parser.add_argument("--pictures", type=int, default=1000, help="of the drawn board")
    parser.add_argument("--limit", type=int, default=40, help="pictures a label of a drawn tag")
    parser.add_argument("--weights", default="none", help="of MobileNet; random for drawn tags")
    parser.add_argument("--size", help="by default 160x160, and 96x96 of drawn pictures")
    parser.add_argument("--whole", type=int, default=2, help="how many tags get whole models")
    return parser.parse_args(arguments)


def _on_features(jobs: Jobs, tags: Sequence[str], network: Sequence[str]) -> Iterator[float]:
    """Embed, train and evaluate tags; yield the processor seconds of each."""
    yield jobs.run("embed", tags, "--extractor", "mobilenet", *network)
    yield jobs.run("train", tags, "--features", "latest")
    yield jobs.run("evaluate", tags)


def _whole(jobs: Jobs, tags: Sequence[str], network: Sequence[str]) -> float:
    """Train and evaluate whole models of tags; return the processor seconds of one."""
    train = jobs.run("train", tags, "--model", "mobilenet", *network)
    return (train + jobs.run("evaluate", tags)) / len(tags)


def _draw(storage: Storage, options: argparse.Namespace, scratch: Path) -> list[bytes]:
    """Store datasets of the drawn board: so many tags, the most frequent first.

    Returns its pictures.
    """
    draw_posts(scratch / "board", options.pictures, seed=0)
    posts = [json.loads(line) for line in (scratch / "board" / "posts.jsonl").open()]
    files = [_small(scratch / "board" / post["file"]) for post in posts]
    often = Counter(tag for post in posts for tag in post["tags"])
    tagged: dict[str, set[int]] = defaultdict(set)
    for number, post in enumerate(posts):
        known = sorted(tag for tag in post["tags"] if often[tag] <= _MOST * len(posts))
        for count in range(1, _TOGETHER + 1):
            for things in itertools.combinations(known, count):
                tagged["+".join(things)].add(number)
    stored = 0
    for tag in sorted(tagged, key=lambda tag: (-len(tagged[tag]), tag)):
        random = Random(tag)
        others = sorted(set(range(len(posts))) - tagged[tag])
        chosen = [
            (number, label)
            for label, found in zip(LABELS, (sorted(tagged[tag]), others), strict=True)
            for number in random.sample(found, min(options.limit, len(found)))
        ]
        rows = [
            _row(posts[number], files[number], tag if label == "positive" else None)
            for number, label in chosen
        ]
        if not _complete(rows):
            continue
        store_dataset(storage, tag, rows, [files[number] for number, _ in chosen], board="drawn")
        stored += 1
        if stored == options.tags:
            return files
    raise SystemExit(f"the board has {stored} such tags: ask for more --pictures")


def _random_weights(files: Sequence[bytes], size: str, scratch: Path) -> str:
    """Return a file of random weights, normalized on some pictures: else nothing gets through."""
    with quiet_imports():
        import keras  # TensorFlow, for what is drawn alone

    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNet(include_top=False, weights=None)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    height, width = map(int, size.split("x"))
    pixels = np.stack([load_pixels(data, (height, width)) for data in files])
    network(pixels / 127.5 - 1, training=True)
    path = scratch / "mobilenet.weights.h5"
    network.save_weights(path)
    return str(path)


def _small(path: Path) -> bytes:
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    return encoded(picture, "JPEG")


def _row(post: dict[str, Any], data: bytes, tag: str | None) -> Row:
    group = str(post.get("parent_id", post["id"]))
    return row_of(
        post["id"],
        data,
        board="drawn",
        tags=(*post["tags"], *([tag] if tag else ())),
        split=split_of(group, 0.2),
        label="positive" if tag else "negative",
        group=group,
    )


def _complete(rows: Iterable[Row]) -> bool:
    """Return whether both labels are in the test split, and in every part of train."""
    train = [row for row in rows if row.split == "train"]
    parts = parts_of_groups(((row.group, row.label) for row in train), 0.15, 0.2)
    found = {(parts[row.group], row.label) for row in train}
    tested = {row.label for row in rows if row.split == "test"}
    return len(tested) == len(LABELS) and len(found) == len(LABELS) * len(PARTS)


def _measure(
    jobs: Jobs, storage: Storage, place: Path, options: argparse.Namespace, scratch: Path
) -> None:
    tags = sorted(tags_in(storage))
    network = ["--weights", options.weights, "--image-size", options.size]
    print("features, and a head a tag")
    steps = _on_features(jobs, tags, network)
    ours = next(steps) + next(steps)
    trained = _stored(place.glob("*/models"))
    ours += next(steps)
    evaluated = _stored(place.glob("*/models"))
    jobs.run("report", tags)
    jobs.run("status", tags)
    rows = {tag: list(read_rows(storage, load_dataset(storage, tag))) for tag in tags}
    pictures = {row.md5 for found in rows.values() for row in found}
    store = FeatureStore(storage, find_extractor(storage))
    stored = store.read(pictures, scratch)
    heads = {tag: _precision(storage, tag) for tag in tags}
    whole, probed = (_some(tags, count) for count in (options.whole, _PROBED))
    plain = {tag: _plain(storage, tag, rows[tag], stored) for tag in {*whole, *probed}}
    print("whole models")
    theirs = _whole(jobs, whole, network)
    by_whole = {tag: _precision(storage, tag) for tag in whole}

    places = sum(map(len, rows.values()))
    print(f"{len(tags)} tags take {ours / theirs:.1f} x the processor time of one by a whole model")
    print(f"{len(pictures):,} distinct pictures in {places:,} places")
    features = _stored(place.glob(".features/*/parts"))
    extractor = _stored(place.glob(".features")) - features
    print(
        f"stored: runs {trained / 1e6:.1f} MB, {trained / len(tags) / 1e3:.1f} kB each; with "
        f"their evaluations {evaluated / 1e6:.1f} MB, {evaluated / len(tags) / 1e3:.1f} kB each; "
        f"one extractor {extractor / 1e6:.1f} MB, features {features / 1e6:.1f} MB"
    )
    print("mean average precision")
    print(f"  of {len(tags)} tags: heads {_mean(heads, tags)}")
    for some, others in ((probed, ""), (whole, f", whole models {_mean(by_whole, whole)}")):
        print(f"  of {len(some)}: heads {_mean(heads, some)}, plain {_mean(plain, some)}{others}")


def _stored(folders: Iterable[Path]) -> int:
    """Return the bytes of the files in some folders."""
    return sum(
        path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()
    )


def _some(tags: Sequence[str], count: int) -> Sequence[str]:
    """Return so many of the tags, evenly spread."""
    return tags[:: max(len(tags) // count, 1)][:count]


def _mean(found: dict[str, float], tags: Sequence[str]) -> str:
    return f"{np.mean([found[tag] for tag in tags]):.3f}"


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
