"""Suggestions: what somebody may have meant who wrote something that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LIKE = 0.6  # how alike two words are that may be one, from 0 to 1
_LISTED = 10  # names of all that there are


def nearest(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Return what a word is most like, best first; nothing where it is like none."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=count, cutoff=_LIKE)
    return [by_lower[name] for name in found]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests what a word is most like; empty if it is none."""
    return "".join(f"; did you mean {name}?" for name in nearest(word, known))


def nearest_first(word: str, known: Iterable[str]) -> str:
    """Return what there is as a list with commas, what is most like a word first."""
    names = sorted(known, key=lambda name: -difflib.SequenceMatcher(None, word, name).ratio())
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
