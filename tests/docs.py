"""The README and docs/ as tests read them, and their tables of options, which `make docs` writes.

A table stands between `<!-- options of JOB -->` and `<!-- end of options -->`, and is made from the
job's settings model. `common` is the table of what all jobs take that work on tags; those options
are in no other.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from pydantic.fields import FieldInfo

from imagetag.settings import (
    JobSettings,
    TagSettings,
    default_text,
    env_name,
    option_name,
    sections,
)

ROOT = Path(__file__).parents[1]
_TABLE = re.compile(r"(<!-- options of ([a-z-]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def pages() -> dict[str, str]:
    """Return the text of the README and of each page of docs/, by its path from the root."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def settings_of(job: str) -> type[JobSettings]:
    """Return the settings model that is written in a job's module."""
    module = importlib.import_module(f"jobs.{job}")
    [found] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, JobSettings)
        and value.__module__ == module.__name__
    ]
    return found


def tables(text: str) -> list[str]:
    """Return the jobs that have a table in a page's text."""
    return [match[2] for match in _TABLE.finditer(text)]


def with_tables(text: str) -> str:
    """Return a page's text with its tables made anew."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{_table(match[2])}\n{match[3]}", text)


def _table(job: str) -> str:
    settings = TagSettings if job == "common" else settings_of(job)
    elsewhere = set() if job == "common" else set(TagSettings.model_fields)
    lines: list[str] = []
    for heading, names in sections(settings):
        shown = [name for name in names if name not in elsewhere]
        if heading and shown:
            lines += [f"**{heading}**", ""]
        if shown:
            lines += ["| option | variable | default | what it is |", "| --- | --- | --- | --- |"]
            lines += [_row(name, settings.model_fields[name]) for name in shown] + [""]
    return "\n".join(lines)


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{option_name(name)}`", f"`{env_name(name)}`", default_text(field))
    return f"| {' | '.join(cells)} | {field.description} |"


def main() -> None:
    """Write the tables of all pages anew."""
    for path, text in pages().items():
        (ROOT / path).write_text(with_tables(text), encoding="utf-8")


if __name__ == "__main__":
    main()
