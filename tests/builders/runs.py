"""Runs as train leaves them, without training anything."""

from __future__ import annotations

from typing import Any

from imagetag.layout import Layout
from imagetag.runs import Run
from imagetag.storage import Storage


def make_run(**changes: Any) -> Run:
    """Return the marker of a run of three epochs, on two workers of two GPUs each."""
    values: dict[str, Any] = {
        "tag": "robot",
        "run": "first",
        "model": "vgg19",
        "settings": {"epochs": 30, "learning_rate": 1e-5, "augment": True, "weights": "imagenet"},
        "image_size": (224, 160),
        "images": {
            "train": {"positive": 801, "negative": 802},
            "validation": {"positive": 203, "negative": 204},
        },
        "fingerprint": "f" * 64,
        "seed": 20261122,
        "best_epoch": 2,
        "history": [{"epoch": float(epoch), "loss": 0.5} for epoch in (1, 2, 3)],
        "validation": {"loss": 0.25, "precision": 0.98765},
        "parameters": 20024897,
        "seconds": 5400.0,
        "devices": ["/device:GPU:0", "/device:GPU:1"],
        "workers": 2,
        "replicas": 4,
        "global_batch": 64,
        "versions": {"imagetag": "0.1.0", "keras": "3.15.1"},
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Run(**{**values, **changes})


def store_run(storage: Storage, run: Run) -> Run:
    """Store a run's marker."""
    storage.write(Layout(run.tag).run(run.run, "metrics.json"), run.model_dump_json().encode())
    return run
