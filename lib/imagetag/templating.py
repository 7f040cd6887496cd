"""The templates of all pages, and how they are rendered; it imports nothing that draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment(**filters: Callable[..., Any]) -> Environment:
    """Return what renders the templates of pages: values are escaped, and none may be missing."""
    environment = Environment(
        loader=PackageLoader("imagetag"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment
