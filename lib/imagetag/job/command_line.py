"""From a command line and variables to settings, and back from settings to a command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from imagetag.errors import UsageError
from imagetag.job.complaints import wrong_options, wrong_value, wrong_variables
from imagetag.job.options import Parser, add_options, is_option, is_repeatable, option_name
from imagetag.job.settings import JobSettings, Settings, nested
from imagetag.job.value_types import joined
from imagetag.job.variables import env_name, values_of_variables
from imagetag.log import LogFormat


def parse_settings(
    settings_class: type[Settings], argv: Sequence[str], *, command: str, summary: str
) -> Settings:
    """Read a job's settings from its arguments and the environment.

    Raises:
        UsageError: one line that names each option that there is not, each `IMAGETAG_*` variable
            that is none of any job, and each value that is wrong, and how.
        SystemExit: 0 after `--help`.

    """
    parser = Parser(
        prog=f"imagetag {command}",
        usage=f"imagetag {command} [OPTIONS]",
        description=summary,
        allow_abbrev=False,
    )
    add_options(parser, settings_class)
    found, unknown = parser.parse_known_args(argv)
    given = vars(found)
    for name, field in settings_class.model_fields.items():
        if is_repeatable(field):  # argparse takes those before the first option, or behind the last
            given.setdefault(name, []).extend(text for text in unknown if not is_option(text))
            unknown = [text for text in unknown if is_option(text)]
            if not given[name]:
                del given[name]
    complaints = wrong_options(unknown, settings_class, command)
    for name, options in nested(settings_class).items():
        dotted = [key for key in given if key.startswith(f"{name}.")]
        values = {key.removeprefix(f"{name}."): given.pop(key) for key in dotted}
        given[name] = values_of_variables(options.fields(), f"{name}.") | values
    settings, wrong = _made(settings_class, given)
    complaints += wrong_variables(settings_class) + wrong
    if settings is None or complaints:
        raise UsageError("; ".join(complaints))
    return settings


def log_format_of(argv: Sequence[str]) -> LogFormat:
    """Return the log format that is asked for, whatever else is wrong; `auto` if it is none."""
    given = values_of_variables(("log_format",), "").get("log_format", "auto")
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
    variables = values_of_variables(settings_class.model_fields, "")
    values = {name.replace("-", "_"): value for name, value in (file or {}).items()}
    values = {name: value for name, value in values.items() if name not in variables}
    settings, complaints = _made(settings_class, {**values, **given}, prefix)
    if settings is None:
        raise UsageError("; ".join(complaints))
    return settings


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
        elif is_repeatable(type(settings).model_fields[name]):
            argv += [f"{option}={place}" for place in value]
        elif isinstance(value, tuple):
            argv.append(f"{option}={joined(value)}")
        else:
            text = value.isoformat() if isinstance(value, datetime) else str(value)
            argv.append(f"{option}={text}")
    return argv, secrets


def _made(
    settings_class: type[Settings], given: Mapping[str, Any], prefix: str = ""
) -> tuple[Settings | None, list[str]]:
    """Return the settings, or what is wrong with them."""
    try:
        return settings_class(**given), []
    except ValidationError as error:
        return None, [wrong_value(item, settings_class, prefix) for item in error.errors()]
    except UsageError as error:  # by a validator that knows the whole line
        return None, [re.sub(r"--(?=[a-z])", f"--{prefix}", str(error))]
    except ValueError as error:  # a default factory met a bad variable
        return None, [str(error)]
