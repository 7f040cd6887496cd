"""Imageboards: engines are code, one module each; sites are rows of data."""

from __future__ import annotations

import importlib
import os.path
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from imagetag.boards.base import NO_LOGIN, Board, BoardError, File, Login, Post, Query, Site
from imagetag.checks import expanded, expanded_board, shown_url
from imagetag.errors import UsageError
from imagetag.suggest import did_you_mean
from imagetag.web import Client

__all__ = [
    "ENGINES",
    "SITES",
    "Board",
    "BoardError",
    "File",
    "Login",
    "Post",
    "Query",
    "Site",
    "check_board",
    "open_board",
]


@dataclass(frozen=True)
class Engine:
    """A board's software, as a row of data; its module has the engine's name.

    Attributes:
        board: the class in that module.
        page_size: the most posts that a board of it lists at once.
        login: whether its API takes a user and a key.
        local: whether it reads a path instead of a URL.

    """

    board: str
    page_size: int
    login: Literal["none", "optional"] = "none"
    local: bool = False


# By name. A module is imported when a board of it is opened.
ENGINES: dict[str, Engine] = {
    "gelbooru02": Engine("Gelbooru02", 1000, "optional"),
    "gelbooru": Engine("Gelbooru", 100, "optional"),
    "danbooru": Engine("Danbooru", 200, "optional"),
    "moebooru": Engine("Moebooru", 100),
    "e621": Engine("E621", 320, "optional"),
    "philomena": Engine("Philomena", 50, "optional"),
    "folder": Engine("FolderBoard", 1000, local=True),
    "links": Engine("LinksBoard", 1000, local=True),
}

# Seconds between two requests are those that the boards' own rules ask for.
SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("safebooru", "gelbooru02", "https://safebooru.org", 1000),
        Site("tbib", "gelbooru02", "https://tbib.org", 1000),
        Site("xbooru", "gelbooru02", "https://xbooru.com", 1000),
        Site("hypnohub", "gelbooru02", "https://hypnohub.net", 1000),
        Site("gelbooru", "gelbooru", "https://gelbooru.com", 100, login="required"),
        Site("danbooru", "danbooru", "https://danbooru.donmai.us", 200, 0.1, "optional"),
        Site("safebooru-donmai", "danbooru", "https://safebooru.donmai.us", 200, 0.1, "optional"),
        Site("yandere", "moebooru", "https://yande.re", 100),
        Site("konachan", "moebooru", "https://konachan.com", 100),
        Site("konachan-net", "moebooru", "https://konachan.net", 100),
        Site("e621", "e621", "https://e621.net", 320, 1.0, "optional"),
        Site("e926", "e621", "https://e926.net", 320, 1.0, "optional"),
        Site("derpibooru", "philomena", "https://derpibooru.org", 50, login="optional"),
        Site("ponybooru", "philomena", "https://ponybooru.org", 50, login="optional"),
        Site("furbooru", "philomena", "https://furbooru.org", 50, login="optional"),
    )
}

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s@:\[\]<>\\^`{|}\"]+)(:\d+)?")


def open_board(spec: str, client: Client, login: Login = NO_LOGIN) -> Board:
    """Open a board by its name in the table, as `engine+https://host`, or as `engine+PATH`.

    Raises:
        UsageError: if there is no such name or engine, the URL is not one, or the board wants
            credentials that are not given.
        InputError: if there is nothing in the path.

    """
    site = _site(expanded_board(spec))
    board = _class_of(site)(site, client, login)
    if site.interval:
        client.set_interval(site.root, site.interval)
    return board


def check_board(spec: str) -> None:
    """Check what can be told at once of a board that is to be opened: its name, its path.

    Raises:
        UsageError: if there is no such name or engine, the URL is not one, or there is nothing at
            the path.

    """
    from imagetag.boards.listed import ListedBoard  # the engines of paths alone need it

    site = _site(expanded_board(spec))
    board = _class_of(site)
    if issubclass(board, ListedBoard):
        board.check_place(site.root)


def _class_of(site: Site) -> type[Board]:
    module = importlib.import_module(f"imagetag.boards.{site.engine}")
    found: type[Board] = getattr(module, ENGINES[site.engine].board)
    return found


def _site(spec: str) -> Site:
    name, plus, root = spec.partition("+")
    if not plus:
        if spec in SITES:
            return SITES[spec]
        raise UsageError(f"--board {shown_url(spec)!r}: {_meant(spec)}")
    engine = ENGINES.get(name)
    if engine is None:
        there_are = did_you_mean(name, ENGINES) or f"; there are {', '.join(ENGINES)}"
        named = f" {name!r}" if shown_url(spec) == spec else " of that name"
        raise UsageError(f"--board {shown_url(spec)!r}: no engine{named}{there_are}")
    board = _path_name(spec, name, root) if engine.local else _host_name(spec, root)
    return Site(board, name, root, engine.page_size, login=engine.login)


def _meant(spec: str) -> str:
    """Return what to say of a board that is neither in the table nor ENGINE+URL."""
    path = expanded(spec)
    if os.path.isdir(path):  # noqa: PTH112 - it takes whatever was given
        return f"this is a folder; did you mean folder+{spec}?"
    if os.path.isfile(path):  # noqa: PTH113
        return f"this is a file; did you mean links+{spec}?"
    if known := [site.name for site in SITES.values() if site.root == spec.rstrip("/")]:
        return f"did you mean {known[0]}?"
    if "://" in spec:
        there_are = ", ".join(ENGINES)
        return (
            f"say which engine it runs, such as gelbooru02+{shown_url(spec)}; there are {there_are}"
        )
    if near := did_you_mean(spec, SITES):
        return f"there is no such board{near}"
    return (
        f"there are {', '.join(SITES)}, or any by ENGINE+URL, such as "
        "gelbooru02+https://example.org; folder+PATH is a folder of yours, and links+FILE a list"
    )


def _path_name(spec: str, engine: str, path: str) -> str:
    """Return what manifests call a folder or a file: the engine and its last component."""
    last = path.rstrip("/") if "://" in path else os.path.abspath(path)  # noqa: PTH100 - no `..`
    if not path or "\0" in path:
        raise UsageError(f"--board {spec!r}: {path!r} is not a path")
    if shown_url(path) != path and not os.path.exists(path):  # noqa: PTH110 - as above
        raise UsageError(f"--board {engine}+{shown_url(path)}: write s3://bucket/key or a path")
    return f"{engine}:{last.rpartition('/')[2]}".encode(errors="replace").decode()


def _host_name(spec: str, root: str) -> str:
    """Return what manifests call a board on the net: its host, port and path."""
    try:
        parts = urlsplit(root)
        plain = parts.port != 0 and shown_url(root) == root
    except ValueError:  # half an IPv6 address, or a port that is no number
        plain = False
    if not plain or parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.netloc):
        raise UsageError(
            f"--board {shown_url(spec)!r}: {shown_url(root)!r} is not an address such as "
            "https://example.org; an account is given by --board-user and --board-key"
        )
    return parts.netloc + parts.path.rstrip("/")
