"""The evaluate job: how good a tag's trained classifier is, and from where on to believe it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from imagetag.checks import checked_run_name
from imagetag.dataset import check_dataset, check_run
from imagetag.errors import InputError
from imagetag.job import (
    FolderPath,
    Heartbeats,
    TagSettings,
    cache_folder_field,
    check_mlflow,
    for_each_tag,
    judge_tags,
    mlflow_field,
    run_job,
    tell_next,
)
from imagetag.storage import open_storage


class EvaluateSettings(TagSettings):
    """Options of `imagetag evaluate`."""

    headings: ClassVar = {
        "Labels": ("suspects", "verdicts"),
        "Speed and caches": ("batch_size", "cache_folder", "concurrency"),
    }

    run: Annotated[str, AfterValidator(checked_run_name)] = Field(
        "latest", description="which run's model: its name, or latest"
    )
    min_precision: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="the precision to promise: the threshold with the most recall for which it is "
        "sure, judged by images that training has kept for that",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="how sure that must be")
    require_promise: bool = Field(
        False, description="end with exit code 3 where it cannot be promised; all is stored anyhow"
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the probability from which on a picture is called the tag; nothing is "
        "promised then",
    )
    calibration: Literal["auto", "none", "temperature", "isotonic"] = Field(
        "auto",
        description="how the model's probabilities are set right; auto takes what is best on "
        "the images that training has kept for that",
    )
    prevalence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of pictures that have the tag where the model will be used: tells the "
        "precision to expect there",
    )
    suspects: bool = Field(
        True,
        description="look for labels that are probably wrong, which reads the train images too",
    )
    verdicts: Literal["use", "ignore"] = Field(
        "use",
        description="what people said of images: use it for the figures where no choice of what "
        "they judged can flatter, or ignore it",
    )
    batch_size: int = Field(32, ge=1, description="images the model takes at once")
    mlflow: str = mlflow_field()
    cache_folder: FolderPath = cache_folder_field()
    concurrency: int = Field(16, ge=1, le=256, description="downloads under way at once")


def work(settings: EvaluateSettings) -> None:
    """Evaluate each tag of this shard."""
    check_mlflow(settings.mlflow)
    storage = open_storage(settings.storage, settings.concurrency, existing=True)

    def check(tag: str) -> None:
        check_run(storage, tag, settings.run)
        check_dataset(storage, tag)

    failures = judge_tags(settings, check)
    # NumPy: not for --help. TensorFlow comes with the first tag that needs it.
    from imagetag.evaluate import evaluate_tag
    from imagetag.features import SharedFeatures
    from imagetag.runs import Request, load_run
    from imagetag.train import log_evaluation

    shared = SharedFeatures(storage, failures.tags, settings.cache_folder)
    request = Request(**settings.model_dump(include=set(Request.model_fields)))

    def evaluate(tag: str) -> None:
        evaluation = evaluate_tag(
            storage,
            tag,
            settings.run,
            request,
            batch_size=settings.batch_size,
            cache_folder=settings.cache_folder,
            concurrency=settings.concurrency,
            shared=shared,
        )
        if settings.mlflow:
            run = load_run(storage, tag, evaluation.run)
            log_evaluation(settings.mlflow, storage, run, evaluation)
        promise = evaluation.decision.promise
        if settings.require_promise and not (promise and promise.met):
            why = promise.advice if promise else "--threshold was given"
            raise InputError(
                f"--min-precision {settings.min_precision:g} cannot be promised of the run "
                f"{evaluation.run!r} of {tag!r}: {why}"
            )

    for_each_tag(settings, evaluate, Heartbeats(storage, "evaluate"), failures)
    tell_next("predict", settings, "--input", "FOLDER", same=("run",))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("evaluate", str(__doc__), EvaluateSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
