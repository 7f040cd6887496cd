"""Which picture is none: what a host gives in the place of files that it has no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from imagetag.dataset import Lead

_REPOSTS = 3  # posts of one board that may well show one picture

Sighting = tuple[str, int]  # the board and the id of a post


def is_placeholder(leads: Mapping[Sighting, Lead]) -> bool:
    """Tell whether posts that lead to one picture, byte for byte, are of different files.

    People post a picture again, and the same one lies in two folders. But posts of one board are
    not of one file where two were redirected to one place, where they tell different sizes, or
    where there are more than three of them. Where a source vouches for a file, by its sum or as it
    lies in a folder, there is no lead, and that file is what the post means.

    Args:
        leads: how the posts lead to the picture.

    """
    of_boards: dict[str, list[Lead]] = {}
    for (board, _), lead in leads.items():
        of_boards.setdefault(board, []).append(lead)
    return any(map(_of_different_files, of_boards.values()))


def _of_different_files(leads: list[Lead]) -> bool:
    ends = Counter(lead.end for lead in leads if lead.end)
    sizes = {(lead.width, lead.height) for lead in leads if lead.width and lead.height}
    return len(leads) > _REPOSTS or len(sizes) > 1 or any(count > 1 for count in ends.values())
