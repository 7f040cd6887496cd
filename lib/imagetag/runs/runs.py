"""Trained models in storage: what a run left behind, and how to find it."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from imagetag import __version__
from imagetag.dataset import Resize, check_run, latest_name, no_run
from imagetag.errors import InputError, one_line
from imagetag.layout import Label, Layout, PartName, checked_run
from imagetag.log import get_logger
from imagetag.parallel import map_ahead
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage, load_record

# TF Serving loads the highest number it finds. What 1 had, by older versions, was no logit.
EXPORT_FOLDER = "saved_model/2"
EXPORT_MARKER = "saved_model.pb"


class Turned(Record):
    """What verdicts of people change: labels of pictures, and who is left out as none can tell."""

    to_positive: int = 0
    to_negative: int = 0
    left_out: int = 0

    @property
    def anything(self) -> bool:
        """Whether anything is changed."""
        return any((self.to_positive, self.to_negative, self.left_out))


class Run(BaseModel):
    """A complete training run, stored as its `metrics.json`: the marker, written last.

    `image_size` is (height, width) in pixels; `images` counts what was trained and validated on,
    and what the threshold is chosen on, which may be the same; `parts` is a digest of `parts.csv`,
    which says what each picture was used for, empty in older runs; `turned` is what verdicts
    changed of what was trained and validated on; `history` is a row an epoch; `validation` are the
    metrics of the best epoch, whose weights the model has.

    A run on features has the name of their `extractor`, and a head in place of a model; no epochs;
    and its `validation` is of pictures that the head had not seen (out of fold).
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    tag: str
    run: str
    model: str
    extractor: str = ""
    settings: dict[str, Any]
    image_size: tuple[int, int]
    images: dict[PartName, dict[Label, int]]
    fingerprint: str
    parts: str = ""
    turned: Turned = Turned()
    seed: int
    best_epoch: int
    history: list[dict[str, float]]
    validation: dict[str, float]
    parameters: int
    seconds: float
    devices: list[str]
    workers: int = 1
    replicas: int = 1
    global_batch: int = 0
    versions: dict[str, str]
    created: str

    @property
    def out_of_fold(self) -> bool:
        """Whether the threshold is chosen on what was learned from, by scores out of fold."""
        return bool(self.settings.get("threshold_from") == "out-of-fold")  # older runs lack it

    @property
    def resize(self) -> Resize:
        """How pictures are fitted into the input: as the settings say, or letterboxed.

        Raises:
            InputError: if the settings say what this version does not know.

        """
        found: Resize = self.settings.get("resize", "letterbox")  # older runs lack it
        if found not in get_args(Resize):
            raise InputError(
                f"the run {self.run!r} of {self.tag!r} fits pictures by {str(found)[:100]!r}, "
                f"which is none of {', '.join(get_args(Resize))}: train it again"
            )
        return found


def load_run(storage: Storage, tag: str, run: str) -> Run:
    """Return a complete run of a tag by its name, or the newest for `latest`.

    Raises:
        InputError: if there is none, or it cannot be read.

    """
    layout = Layout(tag)
    try:
        if run == "latest":
            name = latest_name(
                storage, layout.latest, "run", "train again, or name a run with --run"
            )
        else:
            name = checked_run(run)
        key = layout.run(name, "metrics.json")
        return load_record(storage, key, Run, "train the run again", run=name, tag=tag)
    except ObjectNotFound as error:
        raise no_run(storage, tag, run) from error


def find_runs(storage: Storage, tags: Sequence[str], name: str) -> tuple[list[Run], list[str]]:
    """Return a run of each tag, and the tags that have none: they do not stop the others.

    Raises:
        InputError: if none has one.

    """

    def find(tag: str) -> Run | InputError:
        try:
            check_run(storage, tag, name)  # it names what there is
            return load_run(storage, tag, name)
        except InputError as error:
            return error

    runs: list[Run] = []
    failed: list[str] = []
    for tag, found in map_ahead(find, tags, threads=16, ahead=32):
        if not isinstance(found, InputError):
            runs.append(found)
            continue
        if len(tags) == 1:
            raise found
        get_logger().error(one_line(found, None), tag=tag, exit_code=found.exit_code)
        failed.append(tag)
    if not runs:
        raise InputError(f"none of the {len(tags)} tags has a trained model in {storage.url}")
    return runs, failed


def is_exported(storage: Storage, tag: str, run: str) -> bool:
    """Tell whether a run's SavedModel is in storage, all of it."""
    return storage.stat(Layout(tag).run(run, f"{EXPORT_FOLDER}/{EXPORT_MARKER}")) is not None


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of what a result depends on: ours, and some libraries'.

    None of these is imported for it, if its package is called as it is.
    """
    return {
        "imagetag": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in libraries},
        "numpy": np.__version__,
    }


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # scikit-learn is sklearn, and TensorFlow has builds
        return str(importlib.import_module(library).__version__)
