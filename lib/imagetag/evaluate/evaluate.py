"""Evaluate a tag's run, where that is not done: only then are TensorFlow and what draws loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from imagetag.arguments import Concurrency, Count, check_numbers, checked_folder
from imagetag.dataset import Dataset, load_dataset
from imagetag.errors import InputError
from imagetag.evaluate.held_out import held_out, standing_verdicts
from imagetag.explore import read_cautions
from imagetag.features import SharedFeatures
from imagetag.layout import Layout
from imagetag.log import get_logger
from imagetag.pages import store_tag_pages
from imagetag.quiet import quiet_imports
from imagetag.runs import (
    Evaluation,
    Request,
    Run,
    load_decision,
    load_run,
    load_suspects,
    store_card,
)
from imagetag.storage import CACHE_FOLDER, ObjectNotFound, Place, Storage, opened


@check_numbers
def evaluate_tag(
    storage: Place,
    tag: str,
    run: str = "latest",
    request: Request | Mapping[str, Any] | None = None,
    *,
    batch_size: Count = 32,
    cache_folder: Path | str = CACHE_FOLDER,
    concurrency: Concurrency = 16,
    shared: SharedFeatures | None = None,
) -> Evaluation:
    """Return a run's evaluation: the one that is stored if nothing has changed since, or a new one.

    What is stored then, `evaluation_run.evaluate_run` says.

    Args:
        storage: has the dataset and the model; open, or a folder or URL.
        tag: which.
        run: its name, or `latest`.
        request: what is wanted, also as a dict; None for a `min_precision` of 0.95 and the other
            defaults.
        batch_size: pictures the model takes at once.
        cache_folder: local copies of images.
        concurrency: downloads under way at once.
        shared: features, where several tags have runs on the same; None for the tag's own.

    Raises:
        ValueError: if the request is none, or a number is out of its option's bounds.
        InputError: if there is no dataset or model, it is not known what the run was trained on,
            verdicts cannot be read, or a label has no image to choose the threshold on or to test.

    """
    storage, folder = opened(storage, concurrency), checked_folder("cache_folder", cache_folder)
    request = Request.model_validate({} if request is None else request)
    found = load_run(storage, tag, run)
    dataset = load_dataset(storage, tag)
    done = _stored(storage, found, dataset, request)
    if done is not None:
        store_card(storage, found, dataset, done)  # an older version stored none with the results
        page = f"{storage.url}/{Layout(tag).run(found.run, 'report.html')}"
        store_tag_pages(storage, [tag])  # which it may have been stopped before
        get_logger().info("already evaluated", run=found.run, report=page)
        return done
    with quiet_imports():
        from imagetag.evaluate.evaluation_run import evaluate_run

    return evaluate_run(
        storage,
        found,
        dataset,
        request,
        batch_size=batch_size,
        cache_folder=folder,
        concurrency=concurrency,
        shared=shared,
    )


def _stored(storage: Storage, run: Run, dataset: Dataset, request: Request) -> Evaluation | None:
    """Return the evaluation if it is there, of this model, this dataset and this request."""
    try:
        key = Layout(run.tag).run(run.run, "evaluation.json")
        done = Evaluation.model_validate_json(storage.read(key), extra="ignore")
        decision = load_decision(storage, run.tag, run.run, run.created)
        if request.suspects:
            load_suspects(storage, run.tag, run.run)
    except (ObjectNotFound, ValidationError, InputError):
        return None
    # What explore finds is no part of the fingerprint: it may have been run since.
    cautions = read_cautions(storage, dataset, held_out(run, request))
    verdicts = standing_verdicts(storage, run.tag, request).digest
    wanted = (request, dataset.fingerprint, run.created, cautions, verdicts)
    theirs = (
        *(done.request, done.dataset.fingerprint, done.decision.trained, done.cautions),
        done.verdicts.digest,
    )
    return done if theirs == wanted and decision == done.decision else None
