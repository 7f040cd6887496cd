"""What a board says in the place of posts, in JSON, XML, HTML or plain text, and what it means."""

from __future__ import annotations

import html
import re
from typing import Any, Literal

from imagetag.boards.fields import document, load_json
from imagetag.errors import one_line

Meaning = Literal["busy", "account", "query"]

_MOST_BYTES = 64 << 10  # of an answer that is words and no listing
_MOST_TEXT = 2000  # of one that is neither JSON nor markup
_MOST_WORDS = 300  # characters
_NAMES = ("reason", "message", "error", "errors", "detail")
_POSTS = ("posts", "post", "images")
# In this order: "rate limit of your API key" is no refusal of the key.
_MEANINGS: tuple[tuple[Meaning, re.Pattern[str]], ...] = (
    (
        "busy",
        re.compile(
            r"throttl|rate.?limit|\blimited due\b|too many requests|overload|maintenance|temporar"
            r"|unavailable|\bbusy\b|timed.?out|try again (later|soon|in\b)|slow down"
            r"|back (soon|later|shortly)",
            re.IGNORECASE,
        ),
    ),
    (
        "account",
        re.compile(
            r"authenticat|api.?key|\blog(ged)?.?in\b|\bsign(ed)?.?in\b|access.denied|anonymous"
            r"|credential|unauthori[sz]ed|forbidden"
            r"|(need|requir|want|creat|without|valid|members?)\w*\W.{0,30}\b(account|only)\b",
            re.IGNORECASE,
        ),
    ),
    (
        "query",
        re.compile(
            r"(tags?|terms?|query|search|page|pagination)\W{0,2}(count |query )?limit"
            r"|(too many|more than \w+|at most \w+|limit\w* (of|to) \w+) (search )?(tags|terms)"
            r"|too deep|(beyond|past) page|deep pag|search\w* .{0,30}disabled",
            re.IGNORECASE,
        ),
    ),
)


def meaning_of(words: str) -> Meaning | None:
    """Return what words mean: ask later, as whom, or for something else; None if that is not known.

    "query" is a limit of tags or pages that no other tag would meet either.
    """
    return next((meaning for meaning, pattern in _MEANINGS if pattern.search(words)), None)


def words_of(content: bytes) -> str:
    """Return what an answer without posts says, on one line; empty where it says nothing."""
    content = document(content)
    if content.startswith(b"<"):
        return _words_of_markup(content[:_MOST_BYTES].decode(errors="replace"))
    if len(content) > _MOST_BYTES:
        return ""
    try:
        return words_in(load_json(content))
    except ValueError:
        text = content.decode(errors="replace").strip()
        spoken = len(text) <= _MOST_TEXT and not text.startswith(("[", "{"))
        return one_line(text, _MOST_WORDS) if spoken else ""


def words_in(found: Any) -> str:
    """Return what a JSON document says that lists no posts, as `words_of` does."""
    if isinstance(found, list):
        found = next((one for one in found if one), "")
        if isinstance(found, dict) and "id" in found:
            return ""
    if isinstance(found, dict):
        if any(found.get(name) for name in _POSTS):
            return ""
        told = [found.get(name) for name in _NAMES]
        told = [one for some in told for one in (some if isinstance(some, list) else [some])]
        found = ": ".join(dict.fromkeys(one for one in told if isinstance(one, str) and one))
    return one_line(found, _MOST_WORDS) if isinstance(found, str) else ""


def _words_of_markup(text: str) -> str:
    if re.search(r"<post[\s>/]", text):
        return ""
    if re.match(r"(?:<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", text, re.IGNORECASE):
        heads = re.findall(r"<(title|h[12])\b[^<>]*>([^<]*)", text, re.IGNORECASE)
        words = [word for _, word in heads]
        # A page that wants a password in the place of a listing.
        if re.search(r"<input\b[^<>]*\btype\s*=\s*[\"']?password", text, re.IGNORECASE):
            words.append("log in")
    else:
        words = [value for _, value in re.findall(r"\b(reason|message|error)=\"([^\"]*)\"", text)]
        words.append(re.sub(r"<[^<>]*>", " ", text))
    return one_line(
        ": ".join(word.strip() for word in map(html.unescape, words) if word.strip()), _MOST_WORDS
    )
