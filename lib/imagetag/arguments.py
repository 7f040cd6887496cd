"""What functions and classes that people call are given: numbers in bounds, paths, settings.

A parameter's bounds are in its annotation. They are those of the command's option.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from imagetag.checks import expanded

AnyWhole = Annotated[int, Ge(0)]
Count = Annotated[int, Ge(1)]
Concurrency = Annotated[int, Ge(1), Le(256)]
Share = Annotated[float, Ge(0), Lt(1)]
"""A fraction that may be none."""
Probability = Annotated[float, Gt(0), Lt(1)]

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class Arguments(BaseModel):
    """Base of settings that functions take: no other names, finite numbers, True is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in wanted and wanted & {int, float}:
            raise ValueError(f"take a number, not {value}")
        return value


def check_numbers(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Have the numbers that a function is given checked by the bounds in its annotations.

    What it raises then is a ValueError of one line: which parameter, its value, what to take.
    """
    signature = inspect.signature(function)

    @functools.cache
    def numbers() -> dict[str, Any]:
        hints = get_type_hints(function, include_extras=True)
        return {
            name: hints[name]
            for name in signature.parameters
            if name in hints and _kinds(hints[name]) & {int, float}
        }

    @functools.wraps(function)
    def checking(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        given = signature.bind(*args, **kwargs).arguments
        for name, hint in numbers().items():
            if name in given:
                check_number(name, given[name], hint)
        return function(*args, **kwargs)

    return checking


def check_number(name: str, value: Any, hint: Any) -> None:
    """Check one number by its annotation, which is of `int` or `float`, with bounds or without.

    Raises:
        ValueError: if it is no such number.

    """
    kinds = _kinds(hint)
    if (value is None and type(None) in kinds) or (isinstance(value, bool) and bool in kinds):
        return
    bounds = _bounds(hint)
    kind: type = Real if float in kinds else Integral
    whole = kind is Integral
    if (
        not isinstance(value, kind)
        or isinstance(value, bool)
        or not (whole or math.isfinite(float(value)))  # type: ignore[arg-type]
        or not all(_holds(bound, value) for bound in bounds)
    ):
        what = "whole number" if whole else "number"
        none = ", or None" if type(None) in kinds else ""
        raise ValueError(f"{name}={value!r}: take a {what}{_told(bounds)}{none}")


def checked_folder(name: str, value: Path | str) -> Path:
    """Return a folder's path, with its `~` expanded.

    Raises:
        ValueError: if it is no path.

    """
    if not isinstance(value, Path | str) or not str(value):
        raise ValueError(f"{name}={value!r}: take the path of a folder")
    return Path(expanded(str(value)))


def _kinds(hint: Any) -> set[Any]:
    """Return the types that an annotation allows, without what is said of them."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return set().union(*map(_kinds, get_args(hint)))
    return {hint} if isinstance(hint, type) else set()


def _bounds(hint: Any) -> list[Ge | Gt | Le | Lt]:
    if get_origin(hint) is Annotated:
        return [each for each in get_args(hint)[1:] if isinstance(each, Ge | Gt | Le | Lt)]
    return [bound for part in get_args(hint) for bound in _bounds(part)]


def _limit(bound: Ge | Gt | Le | Lt) -> Any:
    return getattr(bound, type(bound).__name__.lower())


def _holds(bound: Ge | Gt | Le | Lt, value: Any) -> bool:
    return bool(getattr(operator, type(bound).__name__.lower())(value, _limit(bound)))


def _told(bounds: list[Ge | Gt | Le | Lt]) -> str:
    """Return the bounds as the end of a sentence, such as ` from 0 to below 1`."""
    words = {type(bound): f"{_limit(bound):,}" for bound in bounds}
    below = f"below {words[Lt]}" if Lt in words else ""
    if Gt in words:
        most = f"{words[Le]} at the most" if Le in words else below
        return f" above {words[Gt]}" + (f" and {most}" if most else "")
    if Ge in words:
        most = words.get(Le, below)
        return f" from {words[Ge]} to {most}" if most else f", {words[Ge]} or more"
    return f", {words[Le]} at the most" if Le in words else f" {below}" if below else ""
