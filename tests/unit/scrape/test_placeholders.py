"""Which pictures are none, and which were only posted again."""

from __future__ import annotations

import pytest

from imagetag.dataset.manifest import Lead
from imagetag.scrape.placeholders import is_placeholder

PLAIN = Lead()
MOVED = Lead(end="http://host.example/removed.png")


def wide(width: int, height: int = 90) -> Lead:
    return Lead(width=width, height=height)


@pytest.mark.parametrize(
    ("leads", "placeholder"),
    [
        ([PLAIN], False),
        ([MOVED], False),  # nobody knows of one
        ([PLAIN] * 3, False),
        ([PLAIN] * 4, True),
        ([MOVED, PLAIN], False),
        ([MOVED, MOVED], True),
        ([Lead(end="http://host.example/1.png"), Lead(end="http://host.example/2.png")], False),
        ([wide(100), wide(100)], False),
        ([wide(100), PLAIN], False),
        ([wide(100), Lead(width=200)], False),  # half a size is none
        ([wide(100), wide(200)], True),
        ([wide(100), wide(100, 50)], True),
    ],
)
def test_posts_of_different_files_are_told_from_reposts(
    leads: list[Lead], *, placeholder: bool
) -> None:
    assert is_placeholder({("one", i): lead for i, lead in enumerate(leads)}) is placeholder
    # A picture is on several boards, which have their own addresses and sizes for it.
    assert not is_placeholder({(f"board {i}", 1): lead for i, lead in enumerate(leads)})
