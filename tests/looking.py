"""Pages in a real browser: at which size they are looked at, and what is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver

PHONE = 390  # CSS pixels


@contextmanager
def started_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Give a browser with a profile of its own; without Chromium the test is skipped."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("SKIPPED: the pages are not looked at, as chromium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


def resize(browser: webdriver.Chrome, width: int, scheme: str = "light") -> None:
    """Let a browser have a width, in CSS pixels, and a colour scheme; 390 is a phone's."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def requests(browser: webdriver.Chrome) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def clipped(browser: webdriver.Chrome) -> list[str]:
    """Return the texts that are cut off; not those of tables that can be scrolled by design."""
    found: list[str] = browser.execute_script(
        "const all = document.querySelectorAll("
        "  'h1,h2,h3,p,dt,dd,caption,figcaption,table,.value,.chance');"
        "return [...all]"
        ".filter(e => getComputedStyle(e).display !== 'inline')"
        ".filter(e => !e.closest('.scroll[tabindex=\"0\"]'))"
        ".filter(e => Math.max(e.scrollWidth, e.offsetWidth) > e.parentElement.clientWidth + 1"
        "  || e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.textContent.trim())"
    )
    return found


def too_wide(browser: webdriver.Chrome) -> list[str]:
    """Return what reaches beyond the viewport, or scrolls sideways, and can be seen."""
    found: list[str] = browser.execute_script(
        "const hidden = e => getComputedStyle(e).clipPath !== 'none' || e.matches('.skip, .plot');"
        "return [...document.body.querySelectorAll('*')]"
        ".filter(e => { for (let p = e; p; p = p.parentElement) if (hidden(p)) return false;"
        "  return true; })"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        "  || (e.scrollWidth > e.clientWidth + 1 && ['auto', 'scroll'].includes("
        "    getComputedStyle(e).overflowX)))"
        ".map(e => `${e.tagName} ${e.className}: ${e.textContent.trim().slice(0, 60)}`)"
    )
    return found
