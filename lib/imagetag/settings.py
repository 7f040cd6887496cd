"""Settings: one pydantic model a job, filled from the command line and `IMAGETAG_*` variables.

An option `--image-size` is the field `image_size` and the variable `IMAGETAG_IMAGE_SIZE`; the
command line wins. The parser is made from the model, so an option is written down once.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from imagetag.errors import UsageError
from imagetag.layout import encode

ENV_PREFIX = "IMAGETAG_"


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


class JobSettings(BaseSettings):
    """What every job takes."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="log lines: auto is console on a terminal, JSON elsewhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged; debug adds tracebacks"
    )

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

    storage: str = Field(
        description="where data lives: s3://bucket/prefix or a local folder; S3 credentials, "
        "region and endpoint come from the standard AWS settings (AWS_ENDPOINT_URL_S3, ...)"
    )


class TagSettings(StorageSettings):
    """What a job takes that works on a list of tags, or on its share of them."""

    tags: CommaList = Field((), description="the tags, separated by commas")
    tags_file: Path | None = Field(None, description="a file with one tag a line, beside --tags")
    shard_index: int = Field(
        default_factory=lambda: completion_index(),
        ge=0,
        description="which share of the tags is this pod's, from 0",
        json_schema_extra={"default": "JOB_COMPLETION_INDEX or 0"},
    )
    shard_count: int = Field(1, ge=1, description="how many pods share the tags")

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

    def my_tags(self) -> list[str]:
        """Return this shard's share: every `shard_count`-th tag from `shard_index` on.

        Raises:
            UsageError: as `all_tags`, or if the index is not below the count.

        """
        if self.shard_index >= self.shard_count:
            raise UsageError(
                f"--shard-index {self.shard_index} (or JOB_COMPLETION_INDEX) must be below "
                f"--shard-count {self.shard_count} ({env_name('shard_count')})"
            )
        return self.all_tags()[self.shard_index :: self.shard_count]


def cache_folder_field() -> Any:
    """Return the field of the option `--cache-folder`."""
    return Field(
        Path(tempfile.gettempdir()) / "imagetag-cache",
        description="local copies of images and weights, shared by all runs",
        json_schema_extra={"default": "imagetag-cache in the temporary folder"},
    )


def validation_fraction_field() -> Any:
    """Return the field of the option `--validation-fraction`."""
    return Field(
        0.15, gt=0, lt=1, description="share of the train split that is held out for validation"
    )


def threshold_fraction_field() -> Any:
    """Return the field of the option `--threshold-fraction`."""
    return Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the train split that is kept for evaluate to choose the threshold "
        "on: it has no say in the training",
    )


# What the jobs that fetch pictures from others' servers share.


def _fits_a_header(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("take ASCII, as it goes into a header")
    return value


Contact = Annotated[str, AfterValidator(_fits_a_header)]


def contact_field() -> Any:
    """Return the field of the option `--contact`, whose type is `Contact`."""
    return Field("", description="an address or URL in the user agent, for the board's owner")


def board_user_field() -> Any:
    """Return the field of the option `--board-user`."""
    return Field("", description="user name or id for the board's API")


def board_key_field() -> Any:
    """Return the field of the option `--board-key`."""
    return Field(
        SecretStr(""),
        description="API key of that user; better in its variable than on the command line",
        json_schema_extra={"default": "none"},
    )


def max_rate_field() -> Any:
    """Return the field of the option `--max-rate`."""
    return Field(
        5.0,
        gt=0,
        le=1_000_000,
        description="requests a second for the whole job, divided by --shard-count",
    )


def concurrency_field() -> Any:
    """Return the field of the option `--concurrency`."""
    return Field(16, ge=1, le=256, description="downloads under way at once")


def ignore_robots_field() -> Any:
    """Return the field of the option `--ignore-robots`."""
    return Field(
        False,
        description="do not ask robots.txt and X-Robots-Tag: with the owner's leave, or for your "
        "own board",
    )


def allow_private_hosts_field() -> Any:
    """Return the field of the option `--allow-private-hosts`."""
    return Field(
        False, description="connect to loopback and private addresses too: for your own board"
    )


def checked_tag(name: str) -> str:
    """Return the tag as boards write it (spaces become underscores).

    Raises:
        UsageError: if it is empty, too long, or would be an operator in a board's search.

    """
    tag = re.sub(r"\s+", "_", name.strip())
    if not tag or any(ord(char) < 32 or ord(char) == 127 for char in tag):
        raise UsageError(f"{name[:40]!r} is not a tag: it is empty or has control characters")
    if any("\ud800" <= char <= "\udfff" for char in tag):  # how Python shows bytes it cannot read
        raise UsageError(f"{name[:40]!r} is not a tag: it is not UTF-8")
    if tag[0] in "-~" or "*" in tag:
        raise UsageError(f"{name!r} is not one tag: '-', '~' and '*' are search operators")
    if len(tag.encode()) > 200:
        raise UsageError(f"{name[:40]!r}... is not a tag: it is longer than 200 bytes")
    encode(tag)  # it becomes a folder's name
    return tag


Settings = TypeVar("Settings", bound=JobSettings)


def parse_settings(
    settings_class: type[Settings], argv: Sequence[str], *, command: str, summary: str
) -> Settings:
    """Read a job's settings from its arguments and the environment.

    Raises:
        UsageError: one line that names each value that is wrong, and how.
        SystemExit: 0 after `--help`, 2 after an unknown option (argparse prints it).

    """
    given = vars(_parser(settings_class, command, summary).parse_args(argv))
    try:
        return settings_class(**given)
    except ValidationError as error:
        raise UsageError("; ".join(_complaint(item) for item in error.errors())) from error
    except ValueError as error:  # a default factory met a bad variable
        raise UsageError(str(error)) from error


def option_name(field: str) -> str:
    """Return the option of a field: `image_size` is `--image-size`."""
    return "--" + field.replace("_", "-")


def env_name(field: str) -> str:
    """Return the environment variable of a field: `image_size` is `IMAGETAG_IMAGE_SIZE`."""
    return ENV_PREFIX + field.upper()


def default_text(field: FieldInfo) -> str:
    """Return a field's default as help and README show it."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default" in extra:
        return str(extra["default"])
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, tuple):
        return ",".join(field.default) or "none"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "none" if field.default in (None, "") else str(field.default)


def completion_index() -> int:
    """Return this pod's index in an Indexed Job of Kubernetes, 0 elsewhere.

    Raises:
        ValueError: if the variable JOB_COMPLETION_INDEX is no index.

    """
    text = os.environ.get("JOB_COMPLETION_INDEX", "").strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"JOB_COMPLETION_INDEX must be a number from 0, and it is {text[:100]!r}")
    return int(text)


def _parser(settings_class: type[BaseModel], command: str, summary: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"imagetag {command}", description=summary, allow_abbrev=False
    )
    for name, field in settings_class.model_fields.items():
        text = f"{field.description} [{env_name(name)}; {default_text(field)}]"
        how: dict[str, Any] = {"metavar": _metavar(name, field)}
        if field.annotation is bool:
            how = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(
            option_name(name),
            dest=name,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **how,
        )
    return parser


def _metavar(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(map(str, get_args(field.annotation))) + "}"
    return name.rsplit("_", 1)[-1].upper()


def _complaint(item: Any) -> str:
    field = str(item["loc"][0]) if item["loc"] else "settings"
    where = f"{option_name(field)} ({env_name(field)})"
    if item["type"] == "missing":
        return f"{where} is required"
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, and it is {repr(item['input'])[:200]}"
