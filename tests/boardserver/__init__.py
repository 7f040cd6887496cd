"""Boards of every engine for tests: the protocols that `imagetag board` does not speak, and more.

Each module follows the boards of one engine, also where they are odd. `ENGINES` has what a
`BoardServer` takes as its protocol.
"""

from __future__ import annotations

from typing import Literal

from imagetag.demo.gelbooru02 import Gelbooru02
from imagetag.demo.protocol import Protocol
from tests.boardserver.danbooru import Danbooru
from tests.boardserver.e621 import E621
from tests.boardserver.gelbooru import Gelbooru
from tests.boardserver.moebooru import Moebooru
from tests.boardserver.philomena import Philomena

Engine = Literal["gelbooru02", "gelbooru", "danbooru", "moebooru", "e621", "philomena"]

ENGINES: dict[Engine, type[Protocol]] = {
    "gelbooru02": Gelbooru02,
    "gelbooru": Gelbooru,
    "danbooru": Danbooru,
    "moebooru": Moebooru,
    "e621": E621,
    "philomena": Philomena,
}
