"""A browser for the one page that needs it: what it is given there, the HTTP client goes on with.

A page in the place of an answer that runs a script, sets a cookie and loads itself again is opened
in headless Chromium. Its cookies and its user agent, which such cookies are tied to, go to the
client. The browser reaches the page's host and no other, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import threading
import time
from urllib.parse import urlsplit

from imagetag.errors import Terminated, UsageError, one_line
from imagetag.log import get_logger
from imagetag.web.chromium import Chromium, product
from imagetag.web.client import Client, user_agent
from imagetag.web.hosts import HttpError
from imagetag.web.transport import refusal

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CLOSE_SECONDS = 3.0
_POLL_SECONDS = 0.2
_MOST_TURNS = 50  # that are taken for what a page asked for besides itself
_HOST = re.compile(r"[0-9a-z._-]+|[0-9a-f:.]+")  # nothing that could end a rule


class Unblocker:
    """Opens a page that is none for us in Chromium, and hands what it gets there to the client.

    Called with the page's URL; returns whether asking again is worth while. `close` may be called
    from another thread, and ends a visit under way.

    Args:
        client: gets the cookies and the user agent.
        contact: as in the client's own user agent.
        allow_private_hosts: also visit loopback, private and link-local addresses.
        seconds: how long a page may take to let us pass.

    Raises:
        UsageError: if selenium, Chromium or its driver is missing.

    """

    def __init__(
        self,
        client: Client,
        *,
        contact: str = "",
        allow_private_hosts: bool = False,
        seconds: float = 30.0,
    ) -> None:
        self._client = client
        self._contact = contact
        self._allow_private_hosts = allow_private_hosts
        self._seconds = seconds
        self._closed = threading.Event()
        self._visiting = threading.Lock()
        self._browser: Chromium | None = None
        browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
        driver = shutil.which("chromedriver")
        missing = [
            name
            for name, found in (
                ("selenium", importlib.util.find_spec("selenium")),
                ("chromium", browser),
                ("chromedriver", driver),
            )
            if not found
        ]
        if missing or browser is None or driver is None:
            raise UsageError(
                f"--browser auto: {', '.join(missing)} not found; install "
                "image-tag-classification[browser], Chromium and its driver, "
                "or use --browser never"
            )
        self._paths = browser, driver

    def __enter__(self) -> Unblocker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser, if there is one, and visit nothing more."""
        self._closed.set()
        browser = self._browser
        if browser is not None:
            browser.kill()
        if self._visiting.acquire(timeout=_CLOSE_SECONDS):  # it has a folder to remove
            self._visiting.release()
        if browser is not None:
            browser.remove()

    def __call__(self, url: str) -> bool:
        """Visit a page until it lets us pass; return whether it did.

        Raises:
            Terminated: if `close`, or the client's `stop`, was called.

        """
        self._check_closed()
        with self._visiting:
            return self._visit(url)

    def _visit(self, url: str) -> bool:
        log = get_logger()
        try:
            host = urlsplit(url).hostname or ""
            log = log.bind(host=host)
            address = self._address(host)
            agent = f"{product(self._paths[0])} {user_agent(self._contact)}"
            self._client.wait_turn(url)
            log.info("opening the page in a browser")
            self._browser = Chromium(self._paths, agent, host, address, self._seconds)
            with self._browser as browser:
                passed = self._wait(browser, url)
                cookies = browser.cookies(host) if passed else []
        except Exception as error:  # of selenium, its driver, or Chromium: all say the same
            self._check_closed()
            self._browser = None
            reason = one_line(getattr(error, "msg", None) or error).partition(";")[0]
            log.warning("the browser failed", reason=reason)
            return False
        self._browser = None  # after a signal it stays: `close` ends what that left unfinished
        if passed:
            self._client.adopt(cookies, agent)
            log.info("the page let the browser pass", cookies=len(cookies))
        else:
            log.warning("the page does not let a browser pass", seconds=self._seconds)
        with contextlib.suppress(HttpError):
            for _ in range(min(browser.requests - 1, _MOST_TURNS)):  # its scripts asked too
                self._client.wait_turn(url)
        return passed

    def _wait(self, browser: Chromium, url: str) -> bool:
        """Open a page; return whether it lets us pass in time."""
        self._check_closed()
        browser.open(url)
        deadline = time.monotonic() + self._seconds
        while not (passed := browser.look()) and time.monotonic() < deadline:
            if self._closed.wait(_POLL_SECONDS):
                raise Terminated
        return passed

    def _check_closed(self) -> None:
        if self._closed.is_set():
            raise Terminated

    def _address(self, host: str) -> str:
        """Return the address that the browser may connect to.

        Raises:
            OSError, ValueError: if there is none.

        """
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host[:100]!r} is no host's name")
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in found]
        refused = None
        for address in addresses:
            refused = None if self._allow_private_hosts else refusal(address)
            if refused is None:
                return address
        raise ValueError(f"{refused}; --allow-private-hosts permits it")
