"""A pipeline's settings in a TOML file: what is read of it, and a commented one to begin with."""

from __future__ import annotations

import json
import os
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from imagetag.errors import UsageError, one_line
from imagetag.job import (
    JobSettings,
    OptionsOf,
    default_text,
    env_name,
    make_settings,
    nested,
    sections,
)
from imagetag.run.settings import PipelineSettings
from imagetag.suggest import nearest

_WIDTH = 92
_NO_KEYS = frozenset({"file", *JobSettings.model_fields})  # what a file has no key for
_Settings = TypeVar("_Settings", bound=PipelineSettings)


def with_file(settings: _Settings) -> _Settings:
    """Return the settings with what their file has, where neither option nor variable says else.

    Raises:
        UsageError: if the file is wrong.

    """
    if settings.file is None:
        return settings
    settings_class = type(settings)
    found = read_file(settings.file, settings_class)
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    for job in nested(settings_class):
        # A variable of the job itself, such as IMAGETAG_EPOCHS, wins too.
        table = {
            name: value
            for name, value in found.pop(job, {}).items()
            if not os.environ.get(env_name(name), "").strip()
        }
        given[job] = {**table, **getattr(settings, job)}
    try:
        return make_settings(settings_class, given, file=found)
    except UsageError as error:  # all else was judged when it was read
        raise UsageError(f"{settings.file}: {error}") from error


def read_file(path: Path, settings_class: type[JobSettings]) -> dict[str, Any]:
    """Return the values of a file by field; those of a job are a dict of its own.

    Args:
        path: of the file.
        settings_class: of the command: its fields are keys, its jobs are tables.

    Raises:
        UsageError: if it cannot be read, or has a key or a table that there is not.

    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file; imagetag init writes one") from error
    except IsADirectoryError as error:
        raise UsageError(
            f"{path} is a folder, and a file of settings is wanted; to read its pictures, give "
            f"--board folder+{path}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {one_line(error)}") from error
    jobs = nested(settings_class)
    keys = [
        name for name in settings_class.model_fields if name not in jobs | dict.fromkeys(_NO_KEYS)
    ]
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = _field(key)
        if name in jobs and isinstance(value, Mapping):
            fields = jobs[name].fields()
            for inner in value:
                if _field(inner) not in fields:
                    where = f" in [{key}]"
                    hint = _hint(inner, fields, jobs)
                    raise UsageError(f"{path}: there is no {inner}{where}{hint}")
            found[name] = {_field(inner): item for inner, item in value.items()}
        elif name in jobs:
            raise UsageError(f"{path}: {key} is a table: write [{key}], and its options below")
        elif isinstance(value, Mapping) or name not in keys:
            if isinstance(value, Mapping):
                what, hint = f"[{key}]", _hint(key, list(jobs), jobs)
            else:
                what, hint = f"{key} above the first table", _hint(key, [*keys, *jobs], jobs)
            raise UsageError(f"{path}: there is no {what}{hint}")
        else:
            found[name] = value
    return found


def template(settings_class: type[JobSettings], given: Mapping[str, Any]) -> str:
    """Return a commented file of all options, each with its default.

    Args:
        settings_class: of the command.
        given: the values of those that are not left at their defaults.

    """
    jobs = nested(settings_class)
    lines = [
        "# A pipeline: imagetag run FILE. Everything that is commented out has its default.",
        "# The command line wins over IMAGETAG_* variables, and those over this file.",
    ]
    for _, names in sections(settings_class):
        for name in names:
            if name in jobs or name in _NO_KEYS:
                continue
            lines += _entry(name, settings_class.model_fields[name], given)
    for job, options in jobs.items():
        lines += ["", "", f"[{job}]"]
        fields = options.fields()
        for heading, names in sections(options.settings_class):
            shown = [name for name in names if name in fields]
            if heading and shown:
                lines += ["", f"# --- {heading}"]
            for name in shown:
                lines += _entry(name, options.settings_class.model_fields[name], {})
    return "\n".join(lines) + "\n"


def _entry(name: str, field: FieldInfo, given: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    text = str(field.description)
    yield from (f"# {line}" for line in textwrap.wrap(text[:1].upper() + text[1:] + ".", _WIDTH))
    if name in given:
        yield f"{_key(name)} = {_toml(given[name])}"
        return
    extra = field.json_schema_extra
    told = isinstance(extra, dict) and "default" in extra
    if told or field.default in (None, PydanticUndefined):
        yield f"#{_key(name)} =  # default: {default_text(field)}"
    else:
        yield f"#{_key(name)} = {_toml(field.default)}"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)


def _field(key: str) -> str:
    return key.replace("-", "_")


def _key(field: str) -> str:
    return field.replace("_", "-")


def _hint(key: str, fields: Sequence[str], jobs: Mapping[str, OptionsOf]) -> str:
    """Return what there is instead of a key, as the end of a sentence.

    Args:
        key: that there is not, where it stands.
        fields: that there are.
        jobs: whose tables may have it, or what it is most like.

    """
    own = list(map(_key, fields))
    tables: dict[str, list[str]] = {}
    for job, options in jobs.items():
        for field in options.fields():
            tables.setdefault(_key(field), []).append(f"[{job}]")
    if found := tables.get(_key(key)):
        return f"; it is an option of {' and '.join(found)}"
    for near in nearest(_key(key), [*own, *tables]):
        where = "" if near in own else f" in {' or '.join(tables[near])}"
        return f"; did you mean {near}{where}?"
    return f"; there are {', '.join(own)}"
