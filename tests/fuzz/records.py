"""What jobs leave in storage for each other: markers, manifests, tables, features, heads."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imagetag import layout
from imagetag.boards import Post
from imagetag.dataset import Failure, Repeat, load_dataset, read_parts, read_rows
from imagetag.errors import InputError
from imagetag.explore.exploration import input_size, load_exploration, load_shortcuts
from imagetag.features import FeatureStore, find_extractor
from imagetag.inputs import load_partition
from imagetag.job import JobRecord
from imagetag.layout import Layout
from imagetag.plan.rates import find_rates
from imagetag.report import read_entry, tags_of_leaderboard
from imagetag.report.results import load_result, load_table
from imagetag.runs import load_decision, load_head, load_run, load_scores, load_suspects, store_head
from imagetag.scrape import reuse
from imagetag.stats import LinearHead
from imagetag.status import Overview, show
from imagetag.storage import Storage
from imagetag.verdicts import (
    Judgement,
    load_audits,
    load_judgements,
    load_verdicts,
    store_audit,
    store_judgements,
    store_verdicts,
)
from imagetag.verdicts.verdicts import Verdict
from tests.builders.audits import audit_result
from tests.builders.datasets import store_dataset
from tests.builders.evaluations import decide, promise
from tests.builders.extractors import features_of, make_record, md5s
from tests.builders.results import make_logits, make_pictures, write_run
from tests.builders.reviews import suspects_of
from tests.builders.rows import make_row
from tests.builders.runs import make_run
from tests.builders.statuses import NOW, write_all, write_beat
from tests.fuzz.target import Target
from tests.storages import InMemory

TAG = "robot"
OF = Layout(TAG)
Read = Callable[[Storage], object]


def _one(name: str, key: str, read: Read, made: Callable[[], InMemory]) -> Target:
    """Return a target that is an object of a storage in which all else is as jobs leave it."""
    objects = functools.cache(lambda: made().objects)
    return Target(
        name,
        lambda data: read(InMemory({**objects(), key: data})),
        whole=lambda: [objects()[key]],
    )


# --- What scrape leaves -----------------------------------------------------------------------


def _scraped() -> InMemory:
    storage = InMemory()
    rows = [make_row(number, tags=("robot", "sky"), score=3) for number in range(1, 5)]
    store_dataset(storage, TAG, rows)
    # By names that are known, whatever is in them.
    [part] = [key for key in storage.objects if key.startswith(OF.manifest)]
    storage.objects[_PART] = storage.objects.pop(part)
    storage.objects[OF.dataset] = storage.objects[OF.dataset].replace(part.encode(), _PART.encode())
    repeat = {"post_id": 9, "board": "a", "page_url": "", "md5": "0" * 32, "label": "positive"}
    storage.objects[_REPEAT] = json.dumps(repeat | {"tags": ["robot"]}).encode()
    failure = {"post_id": 9, "board": "a", "page_url": "", "label": "positive"}
    failed = {"reason": "http_404", "detail": "gone", "permanent": True}
    storage.objects[_FAILED] = json.dumps(failure | failed).encode()
    note: dict[str, Any] = {
        "key": OF.image("train", "positive", "0" * 32, "png"),
        "md5": "0" * 32,
        "ext": "png",
    }
    note |= {"bytes": 1, "width": 1, "height": 1}
    storage.objects[_NOTE] = json.dumps(note).encode()
    return storage


_PART, _REPEAT, _FAILED = (OF.part(kind, "0" * 24) for kind in ("part", "repeat", "failed"))
_POST = Post(1, "a", "", "", "0" * 32, 1, 1, (TAG,), "general", None)
_NOTE = layout.shared(hashlib.sha256(("0" * 32).encode()).hexdigest()[:32])


def _dataset(storage: Storage) -> None:
    dataset = load_dataset(storage, TAG)
    assert dataset.total == dataset.total
    list(read_rows(storage, dataset))


def _part(storage: Storage) -> None:
    for row in read_rows(storage, load_dataset(storage, TAG)):
        assert row.target in (0, 1)
        OF.image(row.split, row.folder_label, row.md5, row.ext)


def _note(storage: Storage) -> None:
    found = reuse.find(storage, _POST)
    if found is not None:
        layout.parse_image(found.key)


# --- What train and evaluate leave ------------------------------------------------------------

_TABLE = b"md5,label,use,fold,logit\n%s,positive,train,1,0.5\n%s,negative,threshold,,\n" % (
    *(b"0" * 32, b"1" * 32),
)


def _evaluated() -> InMemory:
    storage = _scraped()
    pictures = make_pictures(4, 4)
    logits = make_logits(pictures, 3.0, seed=1)
    write_run(storage, TAG, "first", pictures, logits)
    storage.objects[OF.latest] = b"first\n"
    found = decide(TAG, promise=promise(200, 20))
    storage.objects[_DECISION] = found.model_dump_json().encode()
    suspect = {"md5": "0" * 32, "part": "train", "label": "positive", "post_id": 1, "board": "a"}
    suspect |= {"page_url": "", "probability": 0.1, "said": None, "rank": 1}
    suspects = suspects_of(()).model_dump(mode="json")
    suspects |= {"found": [suspect], "tag": TAG, "run": "first"}
    storage.objects[_SUSPECTS] = json.dumps(suspects).encode()
    return storage


def _run_key(name: str) -> str:
    return OF.run("first", name)


_DECISION, _SUSPECTS, _PARTS = map(_run_key, ("decision.json", "suspects.json", "parts.csv"))


def _decision(storage: Storage) -> None:
    found = load_decision(storage, TAG, "first", decide(TAG).trained)
    if found is None:
        return
    for logit in (-1e4, -1.0, 0.0, 0.3, 1e4):
        assert 0 <= found.probability(logit) <= 1
        found.positive(logit)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    if found.promise is not None and not found.promise.met:
        assert found.promise.advice
        assert found.promise.too_few in (True, False)


def _training(storage: Storage) -> None:
    run = load_run(storage, TAG, "latest")
    assert run.model_dump_json()
    load_result(storage, TAG, run.run)
    read_entry(storage, TAG)


def _result(storage: Storage) -> None:
    found = load_result(storage, TAG, "first")
    assert found.held_out is None or found.training
    if found.evaluation is not None:
        load_table(storage, found.evaluation)
    read_entry(storage, TAG)


def _scores(storage: Storage) -> None:
    for one in load_scores(storage, TAG, "first", "test"):
        assert one.mistaken in (True, False)
        assert 0 <= one.probability <= 1


def _parts(data: bytes) -> None:
    """What a run used each picture for; its digest is in the run, so that it is as it was."""
    run = make_run(parts=hashlib.sha256(data).hexdigest())
    for used in load_partition(InMemory({_PARTS: data}), run).values():
        assert used.use in ("train", "validation", "threshold", "excluded")
        assert used.label in ("positive", "negative")


def _explored() -> InMemory:
    storage = InMemory()
    write_all(storage, TAG, made=NOW)
    key = OF.explore("explore.json")
    told = json.loads(storage.objects[key])
    told["input_size"] |= {"reason": "the median"}
    storage.objects[key] = json.dumps(told).encode()
    return storage


def _exploration(storage: Storage) -> None:
    size = input_size(storage, TAG, "auto")
    assert min(size) > 0
    for load in (load_exploration, load_shortcuts):
        try:
            load(storage, TAG)
        except InputError:
            continue


# --- What people said -------------------------------------------------------------------------

_VERDICTS, _JUDGED = OF.verdict_part("0" * 24), OF.audited_part("0" * 12, "0" * 24)
_AUDIT = OF.audit("0123456789ab")


def _judged() -> InMemory:
    storage = InMemory()
    verdict = Verdict(md5="0" * 32, answer="yes", queue="suspects", at=NOW, id="0" * 16)
    key = store_verdicts(storage, TAG, [verdict, verdict.model_copy(update={"answer": "no"})])
    storage.objects[_VERDICTS] = storage.objects.pop(key)
    judgement = Judgement(item="0" * 24, file="a.png", answer="yes", at=NOW, id="0" * 16)
    store_judgements(storage, TAG, "0" * 12, [judgement])
    [key] = [key for key in storage.objects if key.startswith(OF.audited("0" * 12))]
    storage.objects[_JUDGED] = storage.objects.pop(key)
    store_audit(storage, audit_result())
    return storage


def _verdicts(storage: Storage) -> None:
    found = load_verdicts(storage, TAG)
    assert len(found.digest) in (0, 12)


def _audits(storage: Storage) -> None:
    for one in load_audits(storage, TAG):
        assert one.short in one.sentence


# --- What all jobs tell -----------------------------------------------------------------------


def _told() -> InMemory:
    storage = _explored()
    measured = {"images": 100, "requests": 120, "bytes_per_image": 1e5}
    write_beat(storage, TAG, "scrape", "done", updated=NOW, measured=measured)
    write_beat(storage, TAG, "train", "running", updated=NOW, doing="train", done=3, total=9)
    storage.objects[_SHARE] = json.dumps(
        {"index": 0, "count": 1, "tags": {TAG: {"fingerprint": "ab", "moment": str(NOW)}}}
    ).encode()
    record = JobRecord(job="train", started=NOW, ended=NOW, exit_code=0, summary={"seconds": 1.5})
    storage.objects[_JOB] = record.model_dump_json().encode()
    return storage


_JOB = layout.job_record("train", 0)
_SHARE = layout.feature_share("a-1x1-0", 0, 1, "0" * 24)
_RUNNING, _DONE = (f".status/{TAG}/{name}.json" for name in ("train-0.running", "scrape-0.done"))


def _status(storage: Storage) -> None:
    found = Overview(storage, threads=1).read(NOW)
    with contextlib.redirect_stdout(io.StringIO()):
        show(found, storage.url, as_json=True)
        show(found, storage.url, as_json=False)


def _jobs(storage: Storage) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        show([], storage.url, as_json=True, jobs=Overview(storage, threads=1).jobs()[0])


def _rates(storage: Storage) -> None:
    rates = find_rates(storage, "vgg19", {})
    for rate in rates.of.values():
        assert rate.value > 0


def _leaderboard(storage: Storage) -> None:
    for tag in tags_of_leaderboard(storage):
        tag.encode(errors="surrogatepass")


def _leader() -> InMemory:
    return InMemory({layout.report("leaderboard.json"): b'{"tags": [{"tag": "robot"}]}'})


# --- What embed leaves ------------------------------------------------------------------------

_RECORD = make_record()
_NAMES = md5s(3)
_EXTRACTOR = layout.features(_RECORD.name, "extractor.json")
_IDS, _FEATURES = (layout.feature_part(_RECORD.name, "0" * 24, ext) for ext in ("ids", "npz"))
_HEAD = _run_key("head.npz")
_ON_FEATURES = make_run(extractor=_RECORD.name)


def _embedded() -> InMemory:
    storage = InMemory({_EXTRACTOR: _RECORD.model_dump_json().encode()})
    FeatureStore(storage, _RECORD).add(_NAMES, features_of(_NAMES))
    for ending, key in (("ids", _IDS), ("npz", _FEATURES)):
        [made] = [key for key in storage.objects if key.endswith(f".{ending}")]
        storage.objects[key] = storage.objects.pop(made)
    store_head(storage, TAG, "first", LinearHead(np.ones(3), 0.5, 1.0))
    return storage


def _extractor(storage: Storage) -> None:
    assert layout.features(find_extractor(storage, _RECORD.name).name)


def _features(storage: Storage) -> None:
    store = FeatureStore(storage, _RECORD)
    store.missing(_NAMES)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found = store.read(_NAMES, Path(folder))
        there, values = found.readable(_NAMES, TAG)
        assert values.shape == (there.sum(), 2, 3)


def _head(storage: Storage) -> None:
    head, _ = load_head(storage, _ON_FEATURES)
    assert head.weights.shape == (3,)


TARGETS = (
    _one("dataset", OF.dataset, _dataset, _scraped),
    _one("manifest", _PART, _part, _scraped),
    _one("repeats", _REPEAT, lambda store: list(read_parts(store, [_REPEAT], Repeat)), _scraped),
    _one("failures", _FAILED, lambda store: list(read_parts(store, [_FAILED], Failure)), _scraped),
    _one("shared-note", _NOTE, _note, _scraped),
    _one("run", _run_key("metrics.json"), _training, _evaluated),
    _one("evaluation", _run_key("evaluation.json"), _result, _evaluated),
    _one("predictions-of-test", _run_key("test_predictions.csv"), _result, _evaluated),
    _one("scores", _run_key("test_predictions.csv"), _scores, _evaluated),
    _one("decision", _DECISION, _decision, _evaluated),
    _one("suspects", _SUSPECTS, lambda store: load_suspects(store, TAG, "first"), _evaluated),
    Target("parts-of-a-run", _parts, whole=lambda: [_TABLE]),
    _one("exploration", OF.explore("explore.json"), _exploration, _explored),
    _one("latest", OF.latest, _training, _evaluated),
    _one("verdicts", _VERDICTS, _verdicts, _judged),
    _one("judgements", _JUDGED, lambda store: load_judgements(store, TAG, "0" * 12), _judged),
    _one("audit", _AUDIT, _audits, _judged),
    _one("status", _RUNNING, _status, _told),
    _one("measured", _DONE, _rates, _told),
    _one("job-record", _JOB, _jobs, _told),
    _one("share", _SHARE, _status, _told),
    _one("leaderboard", layout.report("leaderboard.json"), _leaderboard, _leader),
    _one("extractor", _EXTRACTOR, _extractor, _embedded),
    _one("pictures-of-features", _IDS, _features, _embedded),
    _one("features", _FEATURES, _features, _embedded),
    _one("head", _HEAD, _head, _embedded),
)
