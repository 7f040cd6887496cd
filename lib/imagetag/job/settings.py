"""Settings: one pydantic model a job, filled from the command line and `IMAGETAG_*` variables.

An option `--image-size` is the field `image_size` and the variable `IMAGETAG_IMAGE_SIZE`; the
command line wins. The parser is made from the model, so an option is written down once.

A command that runs other jobs takes their options under a prefix: `--train.image-size` is the
field of the job `train`, and `IMAGETAG_TRAIN_IMAGE_SIZE` its variable. It says so with a field

    train: Annotated[dict[str, Any], OptionsOf(TrainSettings)] = Field({}, description=...)

which gets the values that are given, and makes the job's settings of them with `make_settings`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from imagetag.checks import Wrong, expanded
from imagetag.dataset import THRESHOLD_FRACTION, VALIDATION_FRACTION
from imagetag.errors import UsageError
from imagetag.layout import encode
from imagetag.log import LogFormat
from imagetag.storage import CACHE_FOLDER
from imagetag.suggest import did_you_mean, nearest

ENV_PREFIX = "IMAGETAG_"
# What has the prefix and is no option: the folder of baked-in weights, and a switch of the tests.
_OTHER_VARIABLES = {"IMAGETAG_IMAGENET_FOLDER", "IMAGETAG_NO_SKIPS"}
# What Kubernetes sets in pods for a Service called `imagetag` or `imagetag-...`, and its values
# where one has the name of a setting: IMAGETAG_PORT.
_SERVICE_LINK = re.compile(
    r"IMAGETAG_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+")


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


@dataclass(frozen=True)
class Takes:
    """What the value of an option is, for a shell that completes it: a path, or one of words."""

    kind: Literal["file", "folder", ""] = ""
    words: tuple[str, ...] = ()


def _home(path: Path) -> Path:
    return Path(expanded(str(path)))


# Paths with `~`, which shells leave to us in `--storage=~/data` and `folder+~/pictures`.
FilePath = Annotated[Path, AfterValidator(_home), Takes("file")]
FolderPath = Annotated[Path, AfterValidator(_home), Takes("folder")]
FilePlace = Annotated[str, AfterValidator(expanded), Takes("file")]  # a path, or a URL
FolderPlace = Annotated[str, AfterValidator(expanded), Takes("folder")]


def split_places(text: str) -> tuple[str, ...]:
    """Return the paths and URLs of a text, which commas separate.

    What exists here by the whole text is one, and so is a URL with commas in it.
    """
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if len(parts) < 2 or os.path.lexists(expanded(text)):
        return tuple(filter(None, [text.strip()]))
    if "://" in parts[0] and not all(map(_begins_anew, parts)):
        return (text.strip(),)
    return parts


def _begins_anew(part: str) -> bool:
    """Tell whether a part of a text is a place of its own, not the rest of a URL with commas."""
    return "://" in part or part.startswith(("/", "./", "../", "~")) or os.path.lexists(part)


@dataclass(frozen=True)
class Repeatable:
    """Marks an option that may be given again and again, or its values without it."""


# Paths and URLs: as a text split at commas, and on the command line given in any number, where
# those that stand alone, such as a shell makes of `*.jpg`, are never split.
Places = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(lambda value: split_places(value) if isinstance(value, str) else value),
    AfterValidator(lambda value: tuple(map(expanded, value))),
    Repeatable(),
    Takes("file"),
]


class _Variables(EnvSettingsSource):
    """The variables, without those of a setting's name that Kubernetes has set for a Service."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        return None if _is_service_link(field_name, value) else value, key, is_complex


def _is_service_link(field: str, value: object) -> bool:
    return (
        isinstance(value, str)
        and _SERVICE_LINK.fullmatch(env_name(field)) is not None
        and _SERVICE_URL.fullmatch(value.strip()) is not None
    )


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
        return init_settings, _Variables(settings_cls)

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


class TagSettings(TagsSettings, StorageSettings):
    """What a job takes that works on a list of tags, or on its share of them."""

    headings: ClassVar = {"Share of the tags": ("shard_index", "shard_count")}

    shard_index: int = Field(
        default_factory=lambda: completion_index(),
        ge=0,
        description="which share of the tags is this pod's, from 0",
        json_schema_extra={"default": "JOB_COMPLETION_INDEX or 0"},
    )
    shard_count: int = Field(1, ge=1, description="how many pods share the tags")

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


def mlflow_field() -> Any:
    """Return the field of the option `--mlflow`."""
    return Field(
        "",
        description="log each run to this MLflow server, or to a folder; needs "
        "image-tag-classification[mlflow]",
    )


def check_mlflow(uri: str) -> None:
    """Check that what `--mlflow` needs is there, if it is asked for.

    Raises:
        UsageError: if it is not installed.

    """
    if uri and importlib.util.find_spec("mlflow") is None:
        raise UsageError(
            f"--mlflow {uri} (IMAGETAG_MLFLOW) needs MLflow: install "
            "image-tag-classification[mlflow]"
        )


def cache_folder_field() -> Any:
    """Return the field of the option `--cache-folder`."""
    return Field(
        CACHE_FOLDER,
        description="local copies of images and weights, shared by all runs",
        json_schema_extra={"default": "imagetag-cache in the temporary folder"},
    )


def validation_fraction_field() -> Any:
    """Return the field of the option `--validation-fraction`."""
    return Field(
        VALIDATION_FRACTION,
        gt=0,
        lt=1,
        description="share of the train split that is held out for validation",
    )


def threshold_fraction_field() -> Any:
    """Return the field of the option `--threshold-fraction`."""
    return Field(
        THRESHOLD_FRACTION,
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


def parse_settings(
    settings_class: type[Settings], argv: Sequence[str], *, command: str, summary: str
) -> Settings:
    """Read a job's settings from its arguments and the environment.

    Raises:
        UsageError: one line that names each option that there is not, each `IMAGETAG_*` variable
            that is none of any job, and each value that is wrong, and how.
        SystemExit: 0 after `--help`.

    """
    parser = _Parser(
        prog=f"imagetag {command}",
        usage=f"imagetag {command} [OPTIONS]",
        description=summary,
        allow_abbrev=False,
    )
    add_options(parser, settings_class)
    found, unknown = parser.parse_known_args(argv)
    given = vars(found)
    for name, field in settings_class.model_fields.items():
        if _repeatable(field):  # argparse takes those before the first option, or behind the last
            given.setdefault(name, []).extend(text for text in unknown if not _is_option(text))
            unknown = [text for text in unknown if _is_option(text)]
            if not given[name]:
                del given[name]
    complaints = _unknown_options(unknown, settings_class, command)
    for name, options in nested(settings_class).items():
        dotted = [key for key in given if key.startswith(f"{name}.")]
        values = {key.removeprefix(f"{name}."): given.pop(key) for key in dotted}
        given[name] = _variables(options.fields(), f"{name}.") | values
    settings, wrong = _made(settings_class, given)
    complaints += _unknown_variables(settings_class) + wrong
    if settings is None or complaints:
        raise UsageError("; ".join(complaints))
    return settings


def log_format_of(argv: Sequence[str]) -> LogFormat:
    """Return the log format that is asked for, whatever else is wrong; `auto` if it is none."""
    given = _variables(("log_format",), "").get("log_format", "auto")
    option = option_name("log_format")
    for text, following in pairwise([*argv, ""]):
        name, equals, value = text.partition("=")
        if name == option:
            given = value if equals else following
    found: LogFormat
    for found in get_args(LogFormat):
        if given.strip() == found:
            return found
    return "auto"


def make_settings(
    settings_class: type[Settings],
    given: Mapping[str, Any],
    *,
    prefix: str = "",
    file: Mapping[str, Any] | None = None,
) -> Settings:
    """Return a job's settings of values by field, for a command that runs it.

    Args:
        settings_class: of the job.
        given: what wins over the job's variables: what an `OptionsOf` field has, and what the
            command gives.
        prefix: of the job's options in the command, such as `train.`: complaints name them so.
        file: what the job's variables win over, such as the table of a TOML file.

    Raises:
        UsageError: one line that names each value that is wrong, and how.

    """
    variables = _variables(settings_class.model_fields, "")
    values = {name.replace("-", "_"): value for name, value in (file or {}).items()}
    values = {name: value for name, value in values.items() if name not in variables}
    settings, complaints = _made(settings_class, {**values, **given}, prefix)
    if settings is None:
        raise UsageError("; ".join(complaints))
    return settings


def _made(
    settings_class: type[Settings], given: Mapping[str, Any], prefix: str = ""
) -> tuple[Settings | None, list[str]]:
    """Return the settings, or what is wrong with them."""
    try:
        return settings_class(**given), []
    except ValidationError as error:
        return None, [_complaint(item, settings_class, prefix) for item in error.errors()]
    except UsageError as error:  # by a validator that knows the whole line
        return None, [re.sub(r"--(?=[a-z])", f"--{prefix}", str(error))]
    except ValueError as error:  # a default factory met a bad variable
        return None, [str(error)]


def _variables(fields: Collection[str], prefix: str) -> dict[str, str]:
    """Return the values of those fields whose variables are set, and not to nothing."""
    found = {name: os.environ.get(env_name(prefix + name), "").strip() for name in fields}
    return {
        name: value
        for name, value in found.items()
        if value and not _is_service_link(prefix + name, value)
    }


def variables_of(settings_class: type[JobSettings]) -> set[str]:
    """Return the environment variables that a job reads."""
    of_others = nested(settings_class)
    found = {env_name(name) for name in settings_class.model_fields if name not in of_others}
    for name, options in of_others.items():
        # Both are read: that with the prefix wins.
        found |= {
            env_name(prefix + field) for field in options.fields() for prefix in ("", f"{name}.")
        }
    return found


def _unknown_variables(settings_class: type[JobSettings]) -> list[str]:
    """Return what is wrong with `IMAGETAG_*` variables that no job has.

    The other jobs are those of the package of this one, which knows all of them.
    """
    known = variables_of(settings_class) | _OTHER_VARIABLES
    strange = {
        name: name.upper()
        for name, value in os.environ.items()
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() not in known
        and value.strip()
        and not _SERVICE_LINK.fullmatch(name.upper())
    }
    if not strange:
        return []
    package = getattr(sys.modules[settings_class.__module__], "__package__", None)
    of_all = getattr(sys.modules.get(package or ""), "variables", None)
    if of_all is not None:  # it imports them, so it is asked only where need be
        known |= of_all()
    settings = {name.removeprefix(ENV_PREFIX): name for name in known}
    return [
        f"the variable {name} is set, and there is no such setting"
        + "".join(
            f"; did you mean {settings[near]}?"
            for near in nearest(upper.removeprefix(ENV_PREFIX), settings)
        )
        for name, upper in sorted(strange.items())
        if upper not in known
    ]


def sections(settings_class: type[JobSettings]) -> list[tuple[str, list[str]]]:
    """Return the fields of a job as help and docs show them, by heading.

    The first heading is empty: under it are those that matter first, which are all that no class
    puts under another. A job's own headings come before those that it shares with others.
    """
    under: dict[str, list[str]] = {}
    placed: set[str] = set()
    for owner in settings_class.__mro__:
        for heading, names in vars(owner).get("headings", {}).items():
            new = [name for name in names if name not in placed]
            placed.update(new)
            if new:
                under.setdefault(heading, []).extend(new)
    first = [name for name in settings_class.model_fields if name not in placed]
    return [("", first), *under.items()]


def nested(settings_class: type[JobSettings]) -> dict[str, OptionsOf]:
    """Return the fields that take the options of other jobs."""
    return {
        name: item
        for name, field in settings_class.model_fields.items()
        for item in field.metadata
        if isinstance(item, OptionsOf)
    }


def add_options(
    parser: argparse.ArgumentParser,
    settings_class: type[JobSettings],
    *,
    prefix: str = "",
    without: Collection[str] = (),
) -> list[argparse.Action]:
    """Add the options of a job to a parser, under headings, and return them.

    Args:
        parser: what gets them; what is not given is not in its namespace.
        settings_class: of the job.
        prefix: before each option, such as `train.` for `--train.model`. Help does not list
            those: it is the job's own that does.
        without: fields that are left out.

    """
    of_others = nested(settings_class)
    added: list[argparse.Action] = []
    for heading, names in sections(settings_class):
        group = parser.add_argument_group(heading) if heading and not prefix else parser
        for name in names:
            field = settings_class.model_fields[name]
            if name in without:
                continue
            if name in of_others:
                options = of_others[name]
                group.add_argument(
                    f"--{name}.OPTION",
                    help=str(field.description).replace("%", "%%"),
                    default=argparse.SUPPRESS,
                    metavar="VALUE",
                )
                added += add_options(
                    parser, options.settings_class, prefix=f"{name}.", without=options.without
                )
                continue
            text = f"{field.description} [{env_name(name)}; {default_text(field)}]"
            flags = [option_name(prefix + name)]
            how: dict[str, Any] = {"metavar": _metavar(name, field), "dest": prefix + name}
            if field.annotation is bool:
                flags.append(option_name(f"{prefix}no_{name}"))
                how = {"action": _Switch, "nargs": 0, "dest": prefix + name}
            elif _positional(field):
                flags, how = [name], {"metavar": _metavar(name, field), "nargs": "?"}
            elif _repeatable(field):
                how |= {"action": "extend", "type": split_places}
                if not prefix:
                    action = parser.add_argument(
                        name,
                        nargs="*",
                        action="extend",
                        default=argparse.SUPPRESS,
                        metavar=_metavar(name, field),
                        help=f"the same as {option_name(name)}, for each",
                    )
                    added.append(action)
            action = group.add_argument(
                *flags,
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS if prefix else text.replace("%", "%%"),
                **how,
            )
            added.append(action)
    return added


def field_of(settings_class: type[JobSettings], name: str) -> FieldInfo | None:
    """Return the field that an option of a parser sets: of `train.model`, the job train's."""
    outer, dot, inner = name.partition(".")
    if not dot:
        return settings_class.model_fields.get(name)
    options = nested(settings_class).get(outer)
    return options.settings_class.model_fields.get(inner) if options else None


def option_name(field: str) -> str:
    """Return the option of a field: `image_size` is `--image-size`."""
    return "--" + field.replace("_", "-")


def env_name(field: str) -> str:
    """Return the environment variable of a field: `image_size` is `IMAGETAG_IMAGE_SIZE`."""
    return ENV_PREFIX + field.replace(".", "_").upper()


def default_text(field: FieldInfo) -> str:
    """Return a field's default as help and docs/ show it."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default" in extra:
        return str(extra["default"])
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, tuple):
        return ",".join(field.default) or "none"
    if field.default == {}:
        return "none"
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


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, not the usage of fifty options before it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        """Print help, and raise BrokenPipeError where argparse would say nothing."""
        print(self.format_help(), end="", file=file, flush=True)


class _Switch(argparse.Action):
    """Sets a field to true by its first flag, and to false by its second."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse calls it
        namespace: argparse.Namespace,
        values: Any,  # noqa: ARG002
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def _unknown_options(
    arguments: Sequence[str], settings_class: type[JobSettings], command: str
) -> list[str]:
    """Return what is wrong with arguments that the parser does not know."""
    known, see = list(_option_names(settings_class)), f"see imagetag {command} --help"
    options = [text.partition("=")[0] for text in arguments if text.startswith("-")]
    if not options:  # else what follows one may be its value
        return [f"{text[:100]!r} is no option: {see}" for text in arguments]
    return [
        f"there is no {name[:100]}" + (_meant(name, known) or f": see imagetag {command} --help")
        for name in options
    ]


def _meant(option: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests what there is instead of an option.

    Compared is what follows the job's name: in a command that runs the job `train` its option
    `--train.model` is meant by `--model`, and for the job itself it is the other way round.
    """
    ends: dict[str, list[str]] = {}
    for name in known:
        ends.setdefault(_end(name), []).append(name)
    found = [name for end in nearest(_end(option), ends) for name in ends[end]]
    if "." in option:  # one job is named: that of them, or what is most like it
        found = nearest(option, found) or found
    first, last = ", ".join(found[:-1]), found[-1:]
    return f"; did you mean {' or '.join(filter(None, [first, *last]))}?" if found else ""


def _end(option: str) -> str:
    return option.lstrip("-").rpartition(".")[2]


def _option_names(
    settings_class: type[JobSettings], prefix: str = "", without: Collection[str] = ()
) -> Iterator[str]:
    of_others = nested(settings_class)
    for name, field in settings_class.model_fields.items():
        if name in of_others:
            options = of_others[name]
            yield from _option_names(options.settings_class, f"{name}.", options.without)
            continue
        if name in without or _positional(field):
            continue
        yield option_name(prefix + name)
        if field.annotation is bool:
            yield option_name(f"{prefix}no_{name}")


def _positional(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("positional"))


def _repeatable(field: FieldInfo) -> bool:
    return any(isinstance(item, Repeatable) for item in field.metadata)


def _is_option(text: str) -> bool:
    return text.startswith("-") and text != "-"


def _metavar(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(map(str, get_args(field.annotation))) + "}"
    return name.rsplit("_", 1)[-1].upper()


def _complaint(item: Any, settings_class: type[JobSettings], prefix: str) -> str:
    name = str(item["loc"][0]) if item["loc"] else "settings"
    if item["type"] == "extra_forbidden":
        known = [option_name(prefix + field) for field in settings_class.model_fields]
        option = option_name(prefix + name)
        return f"there is no {option}{did_you_mean(option, known)}"
    where = f"{option_name(prefix + name)} ({env_name(prefix + name)})"
    if item["type"] == "missing":
        return f"{where} is required"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        return f"{where}: {cause}"
    message = item["msg"].removeprefix("Value error, ")
    complaint = f"{where}: {message}, and it is {repr(item['input'])[:200]}"
    field = settings_class.model_fields.get(name)
    if field is not None and get_origin(field.annotation) is Literal:
        complaint += did_you_mean(str(item["input"]), map(str, get_args(field.annotation)))
    return complaint


def arguments(
    settings: JobSettings, without: Collection[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Return what gives a process without our variables the same settings.

    Args:
        settings: of its job.
        without: fields that are left out.

    Returns:
        options for its command line, of what is not left at its default; and variables for secrets,
        which would be seen there.

    """
    argv, secrets = [], {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        given = name in settings.model_fields_set and name not in without
        if not given or value in (None, "", ()):
            continue
        option = option_name(name)
        if isinstance(value, bool):
            argv.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, SecretStr):
            if value.get_secret_value():
                secrets[env_name(name)] = value.get_secret_value()
        elif isinstance(value, tuple):
            argv.append(f"{option}={','.join(map(str, value))}")
        else:
            text = value.isoformat() if isinstance(value, datetime) else str(value)
            argv.append(f"{option}={text}")
    return argv, secrets
