"""A board that one has to be polite to: rules for robots, a page for browsers only, a distance."""

from __future__ import annotations

import time
from http import HTTPStatus
from pathlib import Path

from imagetag.demo.gelbooru02 import Gelbooru02
from imagetag.demo.pages import Answer
from imagetag.demo.protocol import Protocol, Request
from imagetag.demo.server import BoardServer
from tests.boardserver.interstitial import Interstitial


class GuardedServer(BoardServer):
    """A board with more before it; it counts requests as `robots` and as `interstitial`, too.

    `robots` is the text of `/robots.txt`. With `interstitial`, everything else but the pictures is
    shown only to browsers. Every answer takes at least `latency` seconds.
    """

    def __init__(
        self,
        folder: Path,
        protocol: type[Protocol] = Gelbooru02,
        robots: str | None = None,
        interstitial: bool = False,
        latency: float = 0.0,
    ) -> None:
        super().__init__(folder, protocol=protocol)
        self._robots = robots
        self._interstitial = Interstitial() if interstitial else None
        self._latency = latency

    def answer(self, request: Request) -> Answer:
        """Return what a client gets: an answer, unless something stands before it."""
        time.sleep(self._latency)
        if request.path == "/robots.txt":
            if self._robots is not None:
                self._count("robots")
                body = self._robots.encode()
                return Answer(HTTPStatus.OK, "text/plain; charset=utf-8", body)
        elif (page := self._page_before(request)) is not None:
            self._count("interstitial")
            return page
        return super().answer(request)

    def _page_before(self, request: Request) -> Answer | None:
        """Return the page that a client gets in the place of an answer, None if it gets through."""
        gate, user_agent = self._interstitial, request.headers.get("User-Agent", "")
        if gate is None or gate.passed(user_agent, request.headers.get("Cookie", "")):
            return None
        kind, _ = self._protocol.answer(request)
        return None if kind in ("image", "preview") else gate.page(user_agent)
