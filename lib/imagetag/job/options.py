"""The options of a job, made of its settings: their names, their headings, their help."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from imagetag.errors import UsageError
from imagetag.job.settings import JobSettings, nested
from imagetag.job.value_types import Repeatable, split_places
from imagetag.job.variables import env_name


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
            elif is_positional(field):
                flags, how = [name], {"metavar": _metavar(name, field), "nargs": "?"}
            elif is_repeatable(field):
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


def is_positional(field: FieldInfo) -> bool:
    """Tell whether a field has no option: its value stands alone."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("positional"))


def is_repeatable(field: FieldInfo) -> bool:
    """Tell whether a field takes any number of values."""
    return any(isinstance(item, Repeatable) for item in field.metadata)


def _metavar(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(map(str, get_args(field.annotation))) + "}"
    return name.rsplit("_", 1)[-1].upper()


def is_option(text: str) -> bool:
    """Tell whether an argument is an option, not a value."""
    return text.startswith("-") and text != "-"


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, not the usage of fifty options before it."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError: one line."""
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
