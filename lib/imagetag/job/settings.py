"""Settings: one pydantic model a job, filled from the command line and `IMAGETAG_*` variables.

An option `--image-size` is the field `image_size` and the variable `IMAGETAG_IMAGE_SIZE`; the
command line wins. The parser is made from the model (`options`), so an option is written down once.

A command that runs other jobs takes their options under a prefix: `--train.image-size` is the
field of the job `train`, and `IMAGETAG_TRAIN_IMAGE_SIZE` its variable. It says so with a field

    train: Annotated[dict[str, Any], OptionsOf(TrainSettings)] = Field({}, description=...)

which gets the values that are given, and makes the job's settings of them with `make_settings`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from imagetag.errors import UsageError
from imagetag.job.shared_fields import pod_index_field
from imagetag.job.value_types import CommaList, FilePath, FolderPlace, checked_tag
from imagetag.job.variables import ENV_PREFIX, VariablesSource, env_name
from imagetag.log import LogFormat


class JobSettings(BaseSettings):
    """What every job takes.

    Attributes:
        headings: the fields that help shows under a heading, behind those that matter first.

    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,  # a file may have `image-size = 224` and a tag `2000`
    )
    headings: ClassVar[Mapping[str, tuple[str, ...]]] = {"Log": ("log_format", "log_level")}

    log_format: LogFormat = Field(
        "auto", description="log lines: auto is console on a terminal, JSON elsewhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged; debug adds tracebacks"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - these three are not asked
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from: what is given, and what variables say."""
        return init_settings, VariablesSource(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _trimmed(cls, values: Any) -> Any:
        """Cut off the blanks and line breaks that `echo` and editors leave at the ends of values.

        A value that is nothing else is none, as an empty variable is.
        """
        trimmed = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in values.items()
        }
        return {name: value for name, value in trimmed.items() if value or not values[name]}


class StorageSettings(JobSettings):
    """What a job takes that works on stored data."""

    storage: FolderPlace = Field(
        description="where data lives: s3://bucket/prefix or a local folder; S3 credentials, "
        "region and endpoint come from the standard AWS settings (AWS_ENDPOINT_URL_S3, ...)"
    )


class BatchSettings(StorageSettings):
    """What a job takes that works through pictures or tags, and tells what it has done."""

    headings: ClassVar = {"Metrics": ("metrics_file", "metrics_push")}

    metrics_file: FilePath | None = Field(
        None,
        description="a file for Prometheus, such as DIRECTORY/imagetag.prom of node_exporter's "
        "textfile collector, replaced every 15 seconds and at the end; needs "
        "image-tag-classification[metrics]",
    )
    metrics_push: str = Field(
        "",
        description="the URL of a Prometheus push gateway that gets the same; needs the same",
    )


class TagsSettings(JobSettings):
    """What a command takes that works on a list of tags."""

    tags: CommaList = Field((), description="the tags, separated by commas")
    tags_file: FilePath | None = Field(
        None, description="a file with one tag a line, beside --tags"
    )

    def all_tags(self) -> list[str]:
        """Return every tag asked for, in order and once each.

        Raises:
            UsageError: if there is none, one is not a tag, or the file cannot be read.

        """
        names = list(self.tags)
        if self.tags_file is not None:
            try:
                # Not `splitlines`: it would part a tag at what is no end of a line elsewhere.
                lines = self.tags_file.read_text(encoding="utf-8-sig").split("\n")
            except (OSError, ValueError) as error:
                raise UsageError(f"--tags-file {self.tags_file}: {error}") from error
            names += [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
        if not names:
            raise UsageError("no tags given: use --tags a,b or --tags-file FILE")
        return list(dict.fromkeys(checked_tag(name) for name in names))


class TagSettings(TagsSettings, BatchSettings):
    """What a job takes that works on a list of tags, or on its share of them."""

    headings: ClassVar = {"Share of the tags": ("shard_index", "shard_count")}

    shard_index: int = pod_index_field("which share of the tags is this pod's")
    shard_count: int = Field(1, ge=1, description="how many pods share the tags")

    def my_tags(self) -> list[str]:
        """Return this shard's share: every `shard_count`-th tag from `shard_index` on.

        Raises:
            UsageError: as `all_tags`, or if the index is not below the count.

        """
        check_share(self.shard_index, self.shard_count)
        return self.all_tags()[self.shard_index :: self.shard_count]


def check_share(index: int, count: int) -> None:
    """Check which share of the work is this pod's.

    Raises:
        UsageError: if the index is not below the count.

    """
    if index >= count:
        raise UsageError(
            f"--shard-index {index} (or JOB_COMPLETION_INDEX) must be below "
            f"--shard-count {count} ({env_name('shard_count')})"
        )


Settings = TypeVar("Settings", bound=JobSettings)


@dataclass(frozen=True)
class OptionsOf:
    """What a field of dict is annotated with that takes the options of another job.

    Attributes:
        settings_class: of that job.
        without: the fields that the command itself gives, such as the tags.

    """

    settings_class: type[JobSettings]
    without: Collection[str] = ()

    def fields(self) -> list[str]:
        """Return the fields that are options of the command."""
        return [name for name in self.settings_class.model_fields if name not in self.without]


def nested(settings_class: type[JobSettings]) -> dict[str, OptionsOf]:
    """Return the fields that take the options of other jobs."""
    return {
        name: item
        for name, field in settings_class.model_fields.items()
        for item in field.metadata
        if isinstance(item, OptionsOf)
    }
