"""The evaluate job: how good a tag's trained classifier is on its test split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from imagetag.job import for_each_tag, run_job
from imagetag.quiet import quiet_imports
from imagetag.settings import TagSettings, cache_folder_field
from imagetag.storage import open_storage


class EvaluateSettings(TagSettings):
    """Options of `imagetag evaluate`."""

    run: str = Field("latest", description="which run's model: its name, or latest")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="from which probability on a picture is called the tag"
    )
    batch_size: int = Field(32, ge=1, description="images the model takes at once")
    cache_folder: Path = cache_folder_field()
    concurrency: int = Field(16, ge=1, le=256, description="downloads under way at once")


def work(settings: EvaluateSettings) -> None:
    """Evaluate each tag of this shard."""
    settings.my_tags()  # wrong tags are known before TensorFlow has started
    storage = open_storage(settings.storage, settings.concurrency)

    with quiet_imports():  # TensorFlow: not for --help
        from imagetag.evaluate import evaluate_tag

    for_each_tag(
        settings,
        lambda tag: evaluate_tag(
            storage,
            tag,
            settings.run,
            threshold=settings.threshold,
            batch_size=settings.batch_size,
            cache_folder=settings.cache_folder,
            concurrency=settings.concurrency,
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("evaluate", str(__doc__), EvaluateSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
