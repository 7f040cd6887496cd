"""What a site's owner does not want: robots.txt (RFC 9309) and the X-Robots-Tag of an answer."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from cachetools import LRUCache
from protego import Protego

from imagetag.web.hosts import HttpError

MAX_ROBOTS = 500 << 10  # bytes; what comes after is not read, as the RFC allows
_TOKEN = "imagetag"  # noqa: S105 - the name that a robots.txt calls us by
_MANY = 64  # sites remembered; a file may hold half a megabyte of rules
_UNREADABLE_SECONDS = 60.0  # before a robots.txt that could not be read is asked for again
_LONGEST_INTERVAL = 60.0  # seconds
_GROUP = re.compile(r"^\s*user[- ]?agent\s*[:\s]\s*(.*)", re.IGNORECASE)
_OPT_OUT = {"noai", "noimageai", "noindex", "noimageindex", "none"}
# Directives that have a value after their colon: they are no names of robots.
_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


class Robots:
    """Knows each site's robots.txt, read once. Safe to use from many threads.

    Args:
        read: gives what is at the URL of a robots.txt, empty if there is none; raises HttpError
            if that can't be told now.
        set_interval: is told the seconds between two requests that a site asks for, with a URL
            of that site.

    """

    def __init__(
        self, read: Callable[[str], bytes], set_interval: Callable[[str, float], None]
    ) -> None:
        self._read = read
        self._set_interval = set_interval
        self._lock = threading.Lock()
        self._sites: LRUCache[str, _Site] = LRUCache(_MANY)

    def check(self, url: str, shown: str) -> None:
        """Raise HttpError if the URL may not be fetched; `shown` is what the error calls it."""
        parts = urlsplit(url)
        root = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            site = self._sites.setdefault(root, _Site())
        where = f"{root}/robots.txt"
        rules = site.rules
        if rules is None:
            rules = self._rules(site, where)
        if not rules.can_fetch(url, _TOKEN):
            raise HttpError(
                "robots",
                f"{shown}: {where} does not let {_TOKEN} fetch it; ask the site's owner, and with "
                "their leave use --ignore-robots",
                permanent=True,
            )

    def _rules(self, site: _Site, where: str) -> Protego:
        with site.lock:
            if site.rules is not None:
                return site.rules
            if site.error is None or time.monotonic() > site.error_until:
                try:
                    content = self._read(where)
                    site.error = None
                except HttpError as error:
                    site.error = error
                    site.error_until = time.monotonic() + _UNREADABLE_SECONDS
            if site.error is not None:
                raise HttpError(
                    site.error.reason,
                    f"{where} cannot be read, so nothing else is fetched there: {site.error}",
                    permanent=site.error.permanent,
                )
            rules = parse(content)
            if interval := interval_of(rules):
                self._set_interval(where, interval)
            site.rules = rules
            return rules


class _Site:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rules: Protego | None = None
        self.error: HttpError | None = None
        self.error_until = 0.0


def parse(content: bytes) -> Protego:
    """Read a robots.txt, whatever it holds."""
    lines = content[:MAX_ROBOTS].decode("utf-8-sig", errors="replace").splitlines()
    if len(content) > MAX_ROBOTS:
        lines = lines[:-1]  # half a line may say more than the whole one
    # The groups of others are thrown together: ten thousand of them would take minutes to part.
    return Protego.parse("\n".join(_GROUP.sub(_as_ours_or_not, line, count=1) for line in lines))


def _as_ours_or_not(group: re.Match[str]) -> str:
    value = group[1].partition("#")[0].strip().lower()
    name = re.match(r"[a-z_-]*", value)
    ours = name is not None and name[0] == _TOKEN
    return f"User-agent: {_TOKEN if ours else value if value == '*' else 'another'}"


def interval_of(rules: Protego) -> float:
    """Return the seconds between two requests that a robots.txt asks for, 0 for none."""
    interval = rules.crawl_delay(_TOKEN) or 0.0
    rate = rules.request_rate(_TOKEN)
    if rate is not None:
        # No number is too large for these two, but for a float.
        interval = max(interval, min(rate.seconds, 10**9) / min(rate.requests, 10**9))
    return min(interval, _LONGEST_INTERVAL)


def opted_out(headers: Iterable[str]) -> str | None:
    """Return the directive among the X-Robots-Tag headers that keeps a picture from us, if any.

    A header may name a robot, `otherbot: noindex`; what follows is for that robot alone.
    """
    for header in headers:
        robot = None
        for part in header.lower().split(","):
            words = part
            name, colon, rest = part.partition(":")
            name = name.strip()
            if colon and name in _VALUED:
                continue
            if colon and re.fullmatch(r"[a-z*][\w.*-]*", name):
                robot, words = name, rest
            if robot in (None, "*", _TOKEN):
                for word in re.split(r"[\s;]+", words):
                    if word in _OPT_OUT:
                        return word
    return None
