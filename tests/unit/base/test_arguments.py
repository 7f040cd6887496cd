"""Numbers are checked by the bounds in annotations, and what is wrong is said in one line."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt

from imagetag.arguments import (
    AnyWhole,
    Concurrency,
    Count,
    Probability,
    Share,
    check_number,
    check_numbers,
    checked_folder,
)


@pytest.mark.parametrize(
    ("hint", "value", "told"),
    [
        (int, "3", "take a whole number"),
        (int, 2.0, "take a whole number"),
        (float, float("inf"), "take a number"),
        (float, np.True_, "take a number"),
        (AnyWhole, -1, "take a whole number, 0 or more"),
        (Count | None, 0, "take a whole number, 1 or more, or None"),
        (Concurrency, 257, "take a whole number from 1 to 256"),
        (Share, 1, "take a number from 0 to below 1"),
        (Probability, 0, "take a number above 0 and below 1"),
        (Annotated[float, Gt(0), Le(9)], 10, "take a number above 0 and 9 at the most"),
        (Annotated[float, Gt(0)], 0, "take a number above 0"),
        (Annotated[float, Lt(0)], 0, "take a number below 0"),
        (Annotated[float, Le(5)], 6, "take a number, 5 at the most"),
    ],
)
def test_what_is_out_of_bounds_is_told(hint: Any, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"n={value!r}: {told}") + "$"):
        check_number("n", value, hint)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, np.int64(3)),
        (float, 3),
        (float, np.float32(0.5)),
        (Count | None, None),
        (int | bool, True),
        (Annotated[int, Ge(0), Le(5)], 5),
    ],
)
def test_what_is_within_them_is_taken(hint: Any, value: Any) -> None:
    check_number("n", value, hint)


def test_a_function_is_called_as_it_was() -> None:
    @check_numbers
    def cut(text: str, width: Count = 4, *, share: Share | None = None, **more: Any) -> Any:
        """Say it."""
        return text, width, share, more

    assert cut("a", 2, share=0.5, other=-1) == ("a", 2, 0.5, {"other": -1})
    assert cut("a") == ("a", 4, None, {})
    assert (cut.__doc__, [*inspect.signature(cut).parameters][:2]) == ("Say it.", ["text", "width"])
    with pytest.raises(ValueError, match="width=0: take a whole number, 1 or more"):
        cut("a", 0)
    with pytest.raises(TypeError, match="missing a required argument: 'text'"):
        cut()  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [None, 5, ""])
def test_what_is_no_path_is_told(value: Any) -> None:
    with pytest.raises(ValueError, match=f"cache={value!r}: take the path of a folder"):
        checked_folder("cache", value)
