"""What the jobs of a pipeline have in common: said once, for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from imagetag.checks import LEAST_SIDES, shown_url
from imagetag.errors import UsageError
from imagetag.job import FilePath, FilePlace, FolderPath, FolderPlace, TagsSettings, Takes


class PipelineSettings(TagsSettings):
    """Options of `imagetag run` that are of no job alone.

    The command has a field for the options of each job beside them, called as the job is.
    """

    file: FilePath | None = Field(
        None,
        description="a TOML file of settings, as imagetag init writes it",
        json_schema_extra={"positional": True},
    )
    board: str = Field(
        "safebooru",
        description="where the images come from, as scrape takes it: a board by its name; "
        "ENGINE+URL; folder+PATH, a folder with a sub-folder a tag; or links+FILE",
    )
    features: Annotated[FilePlace, Takes(words=("no", "latest", *LEAST_SIDES))] = Field(
        "no",
        description="embed each distinct picture once, for all tags, and train small heads on "
        "these features, no whole models: the network, as embed --extractor takes it, such as "
        "mobilenet, a file, or latest",
    )
    input: FilePlace = Field(
        "",
        description="new images to predict with the classifiers: a folder, a storage URL, or a "
        "list of URLs; none are predicted by default",
    )
    output: FolderPath = Field(
        Path("imagetag-output"),
        description="the folder on this machine for predictions, logs, and storage by default",
    )
    storage: FolderPlace = Field(
        "",
        description="where data lives: s3://bucket/prefix or a local folder",
        json_schema_extra={"default": "storage in --output"},
    )

    @property
    def on_features(self) -> bool:
        """Whether heads are trained on features, and no whole models."""
        return self.features != "no"

    @property
    def where(self) -> str:
        """The storage."""
        return self.storage or str(self.output / "storage")

    @property
    def predictions(self) -> Path:
        """The file of predictions."""
        return self.output / "predictions.csv"

    def check_input(self) -> None:
        """Check what is to be predicted now: no job looks at it before all tags are trained.

        Raises:
            UsageError: if a path is not there.

        """
        if Path(self.input).exists():  # there may be a comma in its name
            return
        for text in self.input.split(","):
            if "://" not in text and not Path(text).expanduser().exists():
                raise UsageError(f"--input {shown_url(text)}: there is no such file or folder")
