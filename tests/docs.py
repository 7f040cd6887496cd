"""The README and docs/ as tests read them, and the tables in them that `make docs` writes.

A table of options stands between `<!-- options of JOB -->` and `<!-- end of options -->`, and is
made from the job's settings model. `common` is the table of what all jobs take that work on tags;
those options are in no other. That of the packages in the images stands between
`<!-- packages of the images -->` and `<!-- end of packages -->`.
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic.fields import FieldInfo

from imagetag.job.options import default_text, option_name, sections
from imagetag.job.settings import JobSettings, TagSettings, nested
from imagetag.job.variables import env_name
from jobs import settings_of
from tests import packages

ROOT = packages.ROOT
_TABLE = re.compile(r"(<!-- options of ([a-z-]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)

_PACKAGES = re.compile(
    r"(<!-- packages of the images -->\n).*?(<!-- end of packages -->)", re.DOTALL
)


def pages() -> dict[str, str]:
    """Return the text of the README and of each page of docs/, by its path from the root."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def tables(text: str) -> list[str]:
    """Return the jobs that have a table in a page's text."""
    return [match[2] for match in _TABLE.finditer(text)]


def with_tables(text: str) -> str:
    """Return a page's text with its tables made anew."""
    text = _PACKAGES.sub(lambda match: f"{match[1]}\n{packages.table()}\n\n{match[2]}", text)
    return _TABLE.sub(lambda match: f"{match[1]}\n{_table(match[2])}\n{match[3]}", text)


def _table(job: str) -> str:
    settings = TagSettings if job == "common" else settings_of(job)
    elsewhere = {} if job == "common" else TagSettings.model_fields
    lines: list[str] = []
    for heading, names in sections(settings):
        shown = [
            name
            for name in names
            if name not in elsewhere
            or settings.model_fields[name].description != elsewhere[name].description
        ]
        if heading and shown:
            lines += [f"**{heading}**", ""]
        if shown:
            lines += ["| option | variable | default | what it is |", "| --- | --- | --- | --- |"]
            lines += [_row(name, settings, settings.model_fields[name]) for name in shown] + [""]
    return "\n".join(lines)


def _row(name: str, settings: type[JobSettings], field: FieldInfo) -> str:
    option, variable = option_name(name), env_name(name)
    if name in nested(settings):
        option, variable = f"{option}.OPTION", f"{variable}_OPTION"
    elif isinstance(field.json_schema_extra, dict) and "positional" in field.json_schema_extra:
        option = name.upper()
    return f"| `{option}` | `{variable}` | {default_text(field)} | {field.description} |"


def code(text: str) -> tuple[list[str], list[str]]:
    """Return the blocks of code of a page, and the pieces of code in its sentences."""
    blocks = [token.content for token in _tokens(text) if token.type == "fence"]
    return blocks, [token.content for token in _tokens(text) if token.type == "code_inline"]


def links(text: str) -> list[str]:
    """Return where the links of a page lead, and where its pictures are."""
    found = [token.attrGet("href") or token.attrGet("src") for token in _tokens(text)]
    return [str(link) for link in found if link]


def headings(text: str) -> list[str]:
    """Return the texts of a page's headings."""
    return [
        following.content
        for token, following in pairwise(_tokens(text))
        if token.type == "heading_open"
    ]


def _tokens(text: str) -> list[Token]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [piece for token in tokens for piece in (token, *(token.children or ()))]


def commands(block: str) -> list[list[str]]:
    """Return the words of each command that a block of code shows after a prompt."""
    lines = re.findall(r"^\$ ((?:.*\\\n)*.*)", block, re.MULTILINE)
    found: list[list[str]] = []
    for line in lines:
        lexer = shlex.shlex(line.replace("\\\n", ""), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word in ("&&", "||", "|", ";"):
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return found


def main() -> None:
    """Write the tables of all pages anew."""
    for path, text in pages().items():
        (ROOT / path).write_text(with_tables(text), encoding="utf-8")


if __name__ == "__main__":
    main()
