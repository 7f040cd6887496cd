"""Headless Chromium for one visit: it reaches one host, and leaves no process or file behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_START_SECONDS = 30.0  # for Chromium to come up, before the page's own time begins
_GRACE_SECONDS = 5.0  # that a page's time may be over by, before Chromium is killed
_MAX_COOKIE = 4096  # characters
_MAX_COOKIES = 50
_ARGUMENTS = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # containers have 64 MB of it
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",  # a proxy would look names up by itself
)
_PREFERENCES = {
    "profile.managed_default_content_settings.images": 2,  # none
    "webrtc.ip_handling_policy": "disable_non_proxied_udp",
}


class Chromium:
    """Headless Chromium with an empty profile, as a context; it is gone after it, come what may.

    Args:
        paths: of Chromium and of its driver.
        agent: its user agent.
        host: the only host that it reaches,
        address: and where.
        seconds: how long a page may take, before it is killed soon.

    """

    def __init__(
        self, paths: tuple[str, str], agent: str, host: str, address: str, seconds: float
    ) -> None:
        self._paths = paths
        self._agent = agent
        self._rules = f"MAP {host} {_bracketed(address)}, MAP * ~NOTFOUND"
        self._exit = contextlib.ExitStack()
        self._seconds = seconds
        self._watchdog = threading.Timer(0, self.kill)
        self._service: Any = None
        self._driver: Any = None
        self._profile = ""
        self._frame = ""
        self._pages: list[tuple[int, str]] = []  # status and media type of each that was loaded
        self.requests = 0

    def __enter__(self) -> Chromium:
        with contextlib.ExitStack() as stack:
            profile = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="imagetag-", ignore_cleanup_errors=True)
            )
            stack.callback(self.kill)
            self._start(profile)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _start(self, profile: str) -> None:
        from selenium import webdriver

        self._profile = profile
        browser, driver = self._paths
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        options.page_load_strategy = "none"
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        options.add_experimental_option("prefs", _PREFERENCES)
        for argument in (
            *_ARGUMENTS,
            f"--user-data-dir={profile}/profile",
            f"--user-agent={self._agent}",
            f"--host-resolver-rules={self._rules}",
            *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # it refuses to start else
        ):
            options.add_argument(argument)
        # A session of its own, and a HOME, are how its processes are found.
        self._service = webdriver.ChromeService(
            driver, env=_environment(profile), popen_kw={"start_new_session": True}
        )
        self._watch(_START_SECONDS)
        self._driver = webdriver.Chrome(options=options, service=self._service)
        self._tell("Browser.setDownloadBehavior", behavior="deny")
        self._frame = self._tell("Page.getFrameTree")["frameTree"]["frame"]["id"]

    def kill(self) -> None:
        """End Chromium and its driver. They have nothing to save, so they are not asked to."""
        self._watchdog.cancel()
        process = getattr(self._service, "process", None)
        if process is None:
            return
        deadline = time.monotonic() + 10
        doomed: set[int] = set()
        while time.monotonic() < deadline:
            ours = [
                found
                for found in _processes()
                if self._owns(found) or (found.is_dead and found.pid in doomed)
            ]
            doomed |= {found.pid for found in ours}
            process.poll()
            living = [found for found in ours if not found.is_dead]
            # Where we are a container's init, the dead are ours to wait for; else they are its.
            orphans = [found for found in ours if found.is_dead and found.parent == os.getpid()]
            if not living and not orphans:
                return
            for found in living:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    os.kill(found.pid, signal.SIGKILL)
            for found in orphans:
                if found.pid != process.pid:
                    with contextlib.suppress(OSError):
                        os.waitpid(found.pid, os.WNOHANG)
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove the profile, if a signal came while that was done."""
        if self._profile:
            shutil.rmtree(self._profile, ignore_errors=True)

    def _owns(self, process: _Process) -> bool:
        """Tell whether a process is one of this browser's, whoever its parent is by now."""
        if process.session == self._service.process.pid:
            return True
        try:  # one that has left the session, such as the handler of crashes
            return (
                f"HOME={self._profile}\0".encode()
                in process.folder.joinpath("environ").read_bytes()
            )
        except OSError:  # somebody else's, or it ended
            return False

    def open(self, url: str) -> None:
        """Start to load a page."""
        self._watch(self._seconds + _GRACE_SECONDS)
        self._driver.get(url)

    def look(self) -> bool:
        """Return whether the page that is loaded last is no longer one that only stops us."""
        for entry in self._driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            params = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests += params["request"]["url"].startswith("http")
            elif (
                message["method"] == "Network.responseReceived"
                and params["type"] == "Document"
                and params.get("frameId") == self._frame
            ):
                response = params["response"]
                self._pages.append((int(response["status"]), str(response["mimeType"])))
        if not self._pages:
            return False
        status, media_type = self._pages[-1]
        # What refuses us after the script ran, but needs no browser, is an answer.
        return status < 400 or (len(self._pages) > 1 and "html" not in media_type)

    def cookies(self, host: str) -> list[tuple[str, str, str, str, bool]]:
        """Return the cookies for a host: name, value, domain, path, and whether for https alone."""
        found = []
        for cookie in self._tell("Network.getAllCookies")["cookies"]:
            name, value, domain = cookie["name"], cookie["value"], cookie["domain"]
            bare = domain.lstrip(".")
            if len(name) + len(value) > _MAX_COOKIE or not f".{host}".endswith(f".{bare}"):
                continue
            if "." not in domain:
                domain += ".local"  # what cookie jars call the domain of a host without a dot
            found.append((name, value, domain, cookie["path"], cookie["secure"]))
        return found[:_MAX_COOKIES]

    def _watch(self, seconds: float) -> None:
        """See to it that whatever hangs, such as a script in an endless loop, ends by then."""
        self._watchdog.cancel()
        self._watchdog = threading.Timer(seconds, self.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _tell(self, command: str, **params: Any) -> Any:
        return self._driver.execute_cdp_cmd(command, params)


def product(browser: str) -> str:
    """Return Chromium's own user agent, as it says where it is not headless.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: if it does not tell its version.

    """
    with tempfile.TemporaryDirectory(prefix="imagetag-") as home:
        done = subprocess.run(  # noqa: S603 - what `which` found
            [browser, "--version"],
            env=_environment(home),
            capture_output=True,
            timeout=_START_SECONDS,
            check=True,
        )
    version = re.search(rb"\b(\d{2,4})\.\d+\.\d+", done.stdout)
    if version is None:
        raise ValueError(f"{browser} --version says {done.stdout[:100]!r}")
    return (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{int(version[1])}.0.0.0 Safari/537.36"
    )


def _environment(home: str) -> dict[str, str]:
    """Return what Chromium needs of the environment; credentials in ours are not its business."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


class _Process(NamedTuple):
    """A line of the table of processes."""

    pid: int
    is_dead: bool
    parent: int
    session: int
    folder: Path


def _processes() -> Iterator[_Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            yield _Process(int(folder.name), state == "Z", int(parent), int(session), folder)
