"""The templates of all pages, and how they are rendered; it imports nothing that draws."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_OPTION = re.compile(r"--[a-z][a-z0-9.-]*[a-z0-9]")


def way(page: str, key: str) -> str:
    """Return the relative URL from a stored page to another object, in a folder or on a server.

    Keys are percent-encoded where a tag needs it, and their percent signs are part of the names.
    """
    return quote(posixpath.relpath(key, posixpath.dirname(page) or "."))


def whole_options(text: str) -> Markup:
    """Return a sentence as HTML in which no option is broken at the end of a line."""
    # All that an option is made of is as it was when escaped.
    return Markup(_OPTION.sub(r'<span class="keep">\g<0></span>', str(escape(text))))  # noqa: S704


def page_environment(**filters: Callable[..., Any]) -> Environment:
    """Return what renders the templates of pages: values are escaped, and none may be missing."""
    environment = Environment(
        loader=PackageLoader("imagetag.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters, whole_options=whole_options)
    return environment
