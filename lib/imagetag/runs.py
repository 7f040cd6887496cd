"""Trained models in storage: what a run left behind, and how to find and load it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from pydantic import BaseModel, ConfigDict, ValidationError

from imagetag import __version__
from imagetag.errors import InputError
from imagetag.layout import Label, Layout, checked_run
from imagetag.storage import ObjectNotFound, Storage

Part = Literal["train", "validation"]


class Run(BaseModel):
    """A complete training run, stored as its `metrics.json`: the marker, written last.

    `image_size` is (height, width) in pixels; `images` counts what was trained and validated on;
    `history` is a row an epoch; `validation` are the metrics of the best epoch, whose weights the
    model has.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    tag: str
    run: str
    model: str
    settings: dict[str, Any]
    image_size: tuple[int, int]
    images: dict[Part, dict[Label, int]]
    fingerprint: str
    seed: int
    best_epoch: int
    history: list[dict[str, float]]
    validation: dict[str, float]
    parameters: int
    seconds: float
    devices: list[str]
    versions: dict[str, str]
    created: str


def load_run(storage: Storage, tag: str, run: str) -> Run:
    """Return a complete run of a tag by its name, or the newest for `latest`.

    Raises:
        InputError: if there is none, or it cannot be read.

    """
    layout = Layout(tag)
    try:
        name = storage.read(layout.latest).decode().strip() if run == "latest" else run
        key = layout.run(checked_run(name), "metrics.json")
        return Run.model_validate_json(storage.read(key))
    except ObjectNotFound as error:
        what = "trained model" if run == "latest" else f"complete run {run!r}"
        raise InputError(
            f"no {what} of the tag {tag!r} in {storage.url}: run imagetag train --tags {tag} first"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"the run {run!r} of the tag {tag!r} in {storage.url} cannot be read "
            f"({type(error).__name__}); train it again"
        ) from error


def load_model(storage: Storage, run: Run, folder: Path) -> keras.Model:
    """Fetch a run's model into a folder and load it.

    Raises:
        InputError: if the file is missing or damaged.

    """
    key = Layout(run.tag).run(run.run, "model.keras")
    path = folder / "model.keras"
    storage.download(key, path)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged archive raises whatever its reader does
        raise InputError(
            f"{storage.url}/{key} cannot be loaded ({' '.join(str(error).split())[:200]}); "
            "train it again"
        ) from error


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    return {
        "imagetag": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
