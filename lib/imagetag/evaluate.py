"""Evaluate a trained model on the test split, which nothing before it has looked at."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import keras
from pydantic import ValidationError

from imagetag import __version__, images
from imagetag.dataset import Sample, sync
from imagetag.errors import InputError
from imagetag.layout import Layout
from imagetag.log import get_logger
from imagetag.manifest import load_dataset, read_rows
from imagetag.metrics import Evaluation, Scored, binary_metrics
from imagetag.predict import score
from imagetag.report import evaluation_page, pick_galleries, thumbnail
from imagetag.runs import Run, load_model, load_run
from imagetag.storage import ObjectNotFound, Storage


def evaluate_tag(
    storage: Storage,
    tag: str,
    run_name: str,
    *,
    threshold: float,
    batch_size: int,
    cache_folder: Path,
    concurrency: int = 16,
) -> Evaluation:
    """Score a tag's test split with a run's model; store the numbers, the scores and a page.

    Beside the model: `test_predictions.csv`, `report.html`, and last `evaluation.json`.

    Args:
        storage: has the dataset and the model.
        tag: which.
        run_name: of the run, or `latest`.
        threshold: a picture of at least this probability is called positive.
        batch_size: pictures the model takes at once.
        cache_folder: local copies of images.
        concurrency: downloads under way at once.

    Raises:
        InputError: if there is no dataset or model, or a label has no test image.

    """
    log = get_logger()
    run = load_run(storage, tag, run_name)
    resize = run.resize  # which may be none that this version knows
    dataset = load_dataset(storage, tag)
    done = _stored(storage, run)
    if (
        done is not None
        and done.dataset.fingerprint == dataset.fingerprint
        and done.metrics.threshold == threshold
        and done.settings.get("trained") == run.created
    ):
        log.info("already evaluated", run=run.run)
        return done
    if run.fingerprint != dataset.fingerprint:
        # Harmless for the test split, as a group never moves between splits: only worth knowing.
        log.warning("images were added since this run was trained", run=run.run)
    rows = [row for row in read_rows(storage, dataset) if row.split == "test"]
    for label in ("positive", "negative"):
        if not any(row.label == label for row in rows):
            raise InputError(
                f"the test split of {tag!r} has no {label} image: scrape more with a higher --limit"
            )
    samples = sync(storage, tag, rows, cache_folder / "images", concurrency)
    keras.utils.clear_session()  # of the tag before
    with tempfile.TemporaryDirectory(prefix="imagetag-evaluate-") as scratch:
        model = load_model(storage, run, Path(scratch))
    probabilities = score(
        model,
        samples,
        lambda sample: sample.path,
        size=run.image_size,
        resize=resize,
        batch_size=batch_size,
    )
    scored = []
    for sample, probability in probabilities:
        if isinstance(probability, images.BadImage):
            log.warning("left out", file=str(sample.path), detail=str(probability))
        else:
            scored.append(Scored(sample.row, probability))
    metrics = binary_metrics(
        [item.row.label == "positive" for item in scored],
        [item.probability for item in scored],
        threshold,
    )
    evaluation = Evaluation(
        tag=tag,
        run=run.run,
        settings=_settings(run),
        dataset=dataset,
        metrics=metrics,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=f"imagetag {__version__}",
    )
    _store(storage, evaluation, run, scored, samples)
    return evaluation


def _settings(run: Run) -> dict[str, object]:
    size = f"{run.image_size[0]} x {run.image_size[1]} (height x width)"
    counts = {
        f"{part} images": f"{labels['positive']} positive, {labels['negative']} negative"
        for part, labels in run.images.items()
    }
    return {
        **run.settings,
        "image_size": size,
        **counts,
        "parameters": run.parameters,
        "best_epoch": run.best_epoch,
        "seconds": run.seconds,
        "devices": ", ".join(run.devices),
        "trained": run.created,
        **run.versions,
    }


def _stored(storage: Storage, run: Run) -> Evaluation | None:
    try:
        key = Layout(run.tag).run(run.run, "evaluation.json")
        return Evaluation.model_validate_json(storage.read(key))
    except (ObjectNotFound, ValidationError):
        return None


def _store(
    storage: Storage,
    evaluation: Evaluation,
    run: Run,
    scored: Sequence[Scored],
    samples: Sequence[Sample],
) -> None:
    layout = Layout(run.tag)
    paths = {sample.row.md5: sample.path for sample in samples}
    metrics = evaluation.metrics
    thumbnails = {
        row.md5: thumbnail(images.load_rgb(paths[row.md5], at_least=(256, 256)))
        for row in pick_galleries(scored, metrics.threshold).rows()
    }
    page = evaluation_page(evaluation, scored, thumbnails, run.history)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["md5", "page_url", "label", "probability"])
    for item in sorted(scored, key=lambda item: -item.probability):
        probability = f"{item.probability:.6f}"
        writer.writerow([item.row.md5, item.row.page_url, item.row.label, probability])
    storage.write(layout.run(run.run, "test_predictions.csv"), table.getvalue().encode())
    storage.write(layout.run(run.run, "report.html"), page.encode())
    marker = evaluation.model_dump_json(indent=2).encode() + b"\n"
    storage.write(layout.run(run.run, "evaluation.json"), marker)
    get_logger().info(
        "evaluated",
        run=run.run,
        images=metrics.positives + metrics.negatives,
        accuracy=round(metrics.accuracy, 4),
        precision=metrics.precision and round(metrics.precision, 4),
        recall=round(metrics.recall, 4),
        threshold=metrics.threshold,
        report=f"{storage.url}/{layout.run(run.run, 'report.html')}",
    )
