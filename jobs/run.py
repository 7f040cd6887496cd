"""The run job: all jobs for the tags on this machine, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from imagetag.boards import check_board
from imagetag.job import OptionsOf, StorageSettings, TagSettings, run_job
from imagetag.run import PipelineSettings, run_all, tell, with_file
from jobs.embed import EmbedSettings
from jobs.evaluate import EvaluateSettings
from jobs.explore import ExploreSettings
from jobs.predict import PredictSettings
from jobs.report import ReportSettings
from jobs.scrape import ScrapeSettings
from jobs.train import TrainSettings

_OURS = frozenset(TagSettings.model_fields)


def _options(settings_class: type[StorageSettings], *without: str) -> OptionsOf:
    """Return what takes a job's options, without those that all have in common."""
    return OptionsOf(settings_class, without=_OURS | set(without))


class RunSettings(PipelineSettings):
    """Options of `imagetag run`.

    What the jobs have in common is an option once; those of one job have its name before them.
    """

    headings: ClassVar = {
        "Options of the jobs, such as --train.model mobilenet; imagetag JOB --help lists them": (
            "scrape",
            "explore",
            "embed",
            "train",
            "evaluate",
            "report",
            "predict",
        )
    }

    scrape: Annotated[dict[str, Any], _options(ScrapeSettings, "board", "retry_failed")] = Field(
        {}, description="of imagetag scrape"
    )
    explore: Annotated[dict[str, Any], _options(ExploreSettings)] = Field(
        {}, description="of imagetag explore"
    )
    embed: Annotated[dict[str, Any], _options(EmbedSettings, "extractor")] = Field(
        {}, description="of imagetag embed, with --features"
    )
    train: Annotated[dict[str, Any], _options(TrainSettings, "features")] = Field(
        {}, description="of imagetag train"
    )
    evaluate: Annotated[dict[str, Any], _options(EvaluateSettings)] = Field(
        {}, description="of imagetag evaluate"
    )
    report: Annotated[dict[str, Any], _options(ReportSettings, "output")] = Field(
        {}, description="of imagetag report"
    )
    predict: Annotated[
        dict[str, Any],
        _options(PredictSettings, "tag", "input", "output", "layout", "board", "query", "limit"),
    ] = Field({}, description="of imagetag predict")


def work(settings: RunSettings) -> None:
    """Run the pipeline.

    Raises:
        ImagetagError: at the end, if a tag failed.

    """
    settings = with_file(settings)
    settings.check_input()
    check_board(settings.board)
    outcome = run_all(settings)
    try:
        tell(outcome, settings)
    finally:  # nobody may read to the end
        if outcome.error is not None:
            raise outcome.error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "what is stored is kept; run it again to go on"
    return run_job("run", str(__doc__), RunSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
