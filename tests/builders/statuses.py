"""Storages with tags at every stage, as jobs leave them, for tests of what is told of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from imagetag.dataset.manifest import write_dataset
from imagetag.job.heartbeat import Beat
from imagetag.layout import Layout, Stage, StatusKey, WorkState, status
from imagetag.storage.base import Storage
from tests.builders.datasets import make_dataset
from tests.builders.runs import make_run, store_run

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def write_scraped(storage: Storage, tag: str, *, made: datetime, fingerprint: str = "ab") -> None:
    """Store a dataset's marker: 400 images of the tag and 380 without it, and one picture."""
    dataset = make_dataset(
        tag=tag,
        request={"limit": 400},
        images={
            "train": {"positive": 320, "negative": 300},
            "test": {"positive": 80, "negative": 80},
        },
        bytes=780 * 250_000,
        failures={"http_404": 3},
        fingerprint=fingerprint,
        created=made.isoformat(timespec="seconds"),
    )
    write_dataset(storage, dataset)
    storage.write(Layout(tag).image("train", "positive", "0" * 32, "jpg"), b"x")


def write_explored(storage: Storage, tag: str, *, made: datetime, fingerprint: str = "ab") -> None:
    found = {
        "version": 2,
        "tag": tag,
        "fingerprint": fingerprint,
        "input_size": {"height": 256, "width": 192, "why": "the median"},
        "created": made.isoformat(timespec="seconds"),
    }
    _write(storage, Layout(tag).explore("explore.json"), found)


def write_trained(
    storage: Storage, tag: str, *, made: datetime, fingerprint: str = "ab", run: str = "vgg19-1"
) -> None:
    marker = make_run(
        tag=tag,
        run=run,
        fingerprint=fingerprint,
        image_size=(256, 192),
        history=[{"epoch": epoch, "loss": 0.3} for epoch in range(1, 13)],
        seconds=700.0,
        created=made.isoformat(timespec="seconds"),
    )
    store_run(storage, marker)
    storage.write(Layout(tag).latest, run.encode() + b"\n")


def write_evaluated(
    storage: Storage,
    tag: str,
    *,
    made: datetime,
    trained: datetime,
    met: bool = True,
    run: str = "vgg19-1",
) -> None:
    promise = {"min_precision": 0.95, "confidence": 0.95, "met": met, "bound": 0.953, "needed": 9}
    found = {
        "version": 3,
        "tag": tag,
        "run": run,
        "decision": {
            "trained": trained.isoformat(timespec="seconds"),
            "promise": promise if met else promise | {"bound": 0.9},
        },
        "metrics": {"chosen": {"precision": {"value": 0.987}, "recall": {"value": 0.812}}},
        "created": made.isoformat(timespec="seconds"),
    }
    _write(storage, Layout(tag).run(run, "evaluation.json"), found)


def write_all(storage: Storage, tag: str, *, made: datetime) -> None:
    """Store the markers of a tag that is done with, of jobs that took a minute each."""
    write_scraped(storage, tag, made=made - timedelta(seconds=180))
    write_explored(storage, tag, made=made - timedelta(seconds=120))
    write_trained(storage, tag, made=made - timedelta(seconds=60))
    write_evaluated(storage, tag, made=made, trained=made - timedelta(seconds=60))


def write_beat(
    storage: Storage,
    tag: str,
    stage: Stage,
    state: WorkState,
    *,
    updated: datetime,
    worker: int = 0,
    **fields: Any,
) -> None:
    values = {"started": updated - timedelta(seconds=60), "host": f"{stage}-0-x7f2k"} | fields
    beat = Beat(tag=tag, stage=stage, worker=worker, state=state, updated=updated, **values)
    key = status(StatusKey(tag, stage, worker, state))
    storage.write(key, beat.model_dump_json().encode())


def write_fifty(storage: Storage) -> list[str]:
    """Store fifty tags, as a pipeline leaves them in its middle; return them by name."""
    tags = [f"tag_{number:02}" for number in range(50)]
    for number, tag in enumerate(tags):
        made = ago(7200 - 60 * number)
        if number < 20:  # done, and measured
            write_all(storage, tag, made=made)
            write_beat(storage, tag, "scrape", "done", updated=made, measured={"images": 780})
            write_beat(storage, tag, "train", "done", updated=made, measured={"epochs": 12})
        elif number < 28:
            write_scraped(storage, tag, made=made)
            write_explored(storage, tag, made=made)
            progress: dict[str, Any] = {
                "doing": "train",
                "done": 40 * number,
                "total": 2000,
                "unit": "images",
            }
            write_beat(storage, tag, "train", "running", updated=ago(number), **progress)
        elif number < 40:
            write_scraped(storage, tag, made=made)
            write_explored(storage, tag, made=made)
        elif number < 46:
            progress = {"doing": f"{tag} positive", "done": 100, "total": 400, "unit": "images"}
            write_beat(storage, tag, "scrape", "running", updated=ago(20), **progress)
        elif number < 48:
            why = f"no posts with the tag '{tag}'; check its spelling on the board"
            write_beat(storage, tag, "scrape", "failed", updated=ago(900), exit_code=3, reason=why)
        else:
            write_beat(storage, tag, "scrape", "running", updated=ago(4000), done=12, total=400)
    storage.write(".shared/ab/abcd.json", b"{}")
    storage.write(".reports/leaderboard.json", b"{}")
    return tags


def _write(storage: Storage, key: str, value: dict[str, Any]) -> None:
    storage.write(key, json.dumps(value).encode())
