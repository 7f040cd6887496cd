"""What is wrong with options, variables and their values, and what may have been meant."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from imagetag.checks import Wrong, shown_url
from imagetag.job.options import is_positional, option_name
from imagetag.job.settings import JobSettings, nested
from imagetag.job.variables import ENV_PREFIX, OTHER_VARIABLES, env_name, is_of_kubernetes
from imagetag.suggest import did_you_mean, nearest


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


def wrong_variables(settings_class: type[JobSettings]) -> list[str]:
    """Return what is wrong with `IMAGETAG_*` variables that no job has.

    The other jobs are those of the package of this one, which knows all of them.
    """
    known = variables_of(settings_class) | OTHER_VARIABLES
    strange = {
        name: name.upper()
        for name, value in os.environ.items()
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() not in known
        and value.strip()
        and not is_of_kubernetes(name.upper())
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


def wrong_options(
    arguments: Sequence[str], settings_class: type[JobSettings], command: str
) -> list[str]:
    """Return what is wrong with arguments that the parser does not know."""
    known, see = list(_option_names(settings_class)), f"see imagetag {command} --help"
    options = [text.partition("=")[0] for text in arguments if text.startswith("-")]
    if not options:  # else what follows one may be its value
        return [f"{shown_url(text)[:100]!r} is no option: {see}" for text in arguments]
    return [f"there is no {name[:100]}" + (_meant(name, known) or f": {see}") for name in options]


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
        if name in without or is_positional(field):
            continue
        yield option_name(prefix + name)
        if field.annotation is bool:
            yield option_name(f"{prefix}no_{name}")


def wrong_value(item: Any, settings_class: type[JobSettings], prefix: str) -> str:
    """Return what is wrong with a value: one of the errors of pydantic, by its option."""
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
    told = item["input"]
    given = repr(shown_url(told) if isinstance(told, str) else told)[:200]
    field = settings_class.model_fields.get(name)
    if item["type"] == "literal_error" and field is not None:
        words = [str(word) for word in _words(field.annotation)]
        hint = did_you_mean(str(item["input"]), words)
        return f"{where}: {given} is none of {', '.join(words)}{hint}"
    kind = item["type"]
    if kind in _WANTED:
        return f"{where}: {given} is no {_WANTED[kind]}"
    if kind in _BOUNDS:
        bound = next(iter(item["ctx"].values()))
        return f"{where}: {given} is not {_BOUNDS[kind]} {str(bound).removesuffix('.0')}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, and it is {given}"


def _words(annotation: Any) -> Iterator[Any]:
    """Yield the words of a choice, also where it may be left out."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _words(part)


# What pydantic's kinds of errors mean to who sets a value.
_WANTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "whole number, such as 3"),
    "int_parsing_size": "whole number of a sensible size",
    **dict.fromkeys(("float_parsing", "float_type"), "number, such as 0.5"),
    "finite_number": "finite number",
    **dict.fromkeys(("bool_parsing", "bool_type"), "switch: write true or false"),
    **dict.fromkeys(("string_type", "path_type"), "text"),
    **dict.fromkeys(("tuple_type", "list_type"), 'list: write a,b or in a file ["a", "b"]'),
    **dict.fromkeys(
        (
            *("datetime_parsing", "datetime_type", "datetime_from_date_parsing"),
            "datetime_object_invalid",
        ),
        "day or time, such as 2024-01-31",
    ),
}
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
