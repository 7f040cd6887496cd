"""The protocols that a local board can speak, one module an engine."""

from __future__ import annotations

from typing import Literal

from imagetag.demo.posts import PostIndex
from imagetag.demo.protocols.base import Protocol
from imagetag.demo.protocols.danbooru import Danbooru
from imagetag.demo.protocols.e621 import E621
from imagetag.demo.protocols.gelbooru import Gelbooru
from imagetag.demo.protocols.gelbooru02 import Gelbooru02
from imagetag.demo.protocols.moebooru import Moebooru
from imagetag.demo.protocols.philomena import Philomena

Engine = Literal["gelbooru02", "gelbooru", "danbooru", "moebooru", "e621", "philomena"]

_PROTOCOLS: dict[Engine, type[Protocol]] = {
    "gelbooru02": Gelbooru02,
    "gelbooru": Gelbooru,
    "danbooru": Danbooru,
    "moebooru": Moebooru,
    "e621": E621,
    "philomena": Philomena,
}


def protocol_of(engine: Engine, index: PostIndex) -> Protocol:
    """Return what speaks an engine's protocol over some posts."""
    return _PROTOCOLS[engine](index)
