"""Imageboards: engines are code, one module each; sites are rows of data."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from imagetag.boards.base import Board, BoardError, Post, Site
from imagetag.boards.gelbooru02 import Gelbooru02
from imagetag.errors import UsageError
from imagetag.http import Client

__all__ = ["ENGINES", "SITES", "Board", "BoardError", "Post", "Site", "open_board"]

ENGINES: dict[str, type[Board]] = {"gelbooru02": Gelbooru02}

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s@:\[\]<>\\^`{|}\"]+)(:\d+)?")

SITES: dict[str, Site] = {"safebooru": Site("safebooru", "gelbooru02", "https://safebooru.org")}


def open_board(spec: str, client: Client) -> Board:
    """Open a board by its name in the table, or as `engine+https://host`.

    Raises:
        UsageError: if there is no such name or engine, or the URL is not one.

    """
    engine, plus, root = spec.partition("+")
    if not plus:
        site = SITES.get(spec)
        if site is None:
            raise UsageError(
                f"--board {spec!r}: there are {', '.join(SITES)}, or any by ENGINE+URL, "
                "such as gelbooru02+https://example.org"
            )
        return ENGINES[site.engine](site, client)
    if engine not in ENGINES:
        raise UsageError(f"--board {spec!r}: no engine {engine!r}; there are {', '.join(ENGINES)}")
    return ENGINES[engine](Site(_site_name(spec, root), engine, root), client)


def _site_name(spec: str, root: str) -> str:
    """Return what manifests call the board: its host, port and path."""
    try:
        parts = urlsplit(root)
        plain = parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:  # half an IPv6 address, or a port that is no number
        plain = False
    if not plain or parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.netloc):
        raise UsageError(
            f"--board {spec!r}: {root!r} is not an address such as https://example.org"
        )
    return parts.netloc + parts.path.rstrip("/")
