"""A person audits predictions on the page, in a real browser with real keys."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from imagetag.audit import open_audit
from imagetag.errors import EXIT_DONE
from imagetag.review import ReviewServer
from imagetag.storage import LocalStorage
from imagetag.verdicts import load_audits
from tests.builders.audits import predicted
from tests.builders.pictures import encoded
from tests.looking import PHONE, clipped, resize, too_wide

TAG = "robot"
PATIENCE = 60  # seconds, for what never comes
HOSTILE = "\"><img src=x onerror='alert(1)'>.png"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return predictions of twelve pictures, one of a hostile name, that are called robots."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{number}.png" for number in range(11)] + [HOSTILE]
    for number, name in enumerate(names):
        picture = Image.new("RGB", (400, 300), (20 * number, 90, 160))
        (folder / name).write_bytes(encoded(picture, "PNG"))
    (tmp_path / "data").mkdir()
    return predicted(tmp_path / "robots.csv", dict.fromkeys(names, True), base=folder)


def until(browser: webdriver.Chrome, what: Callable[[], Any]) -> None:
    WebDriverWait(browser, PATIENCE, 0.02).until(lambda _: what())


def text(browser: webdriver.Chrome, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


def judge(browser: webdriver.Chrome, item: str, key: str) -> None:
    """Wait until a picture can be judged, and judge it."""
    script = (
        "const i = document.getElementById('picture');"
        "return i.dataset.item === arguments[0] && !i.classList.contains('loading')"
    )
    until(browser, lambda: browser.execute_script(script, item))
    ActionChains(browser).send_keys(key).perform()


def test_keys_prove_a_precision_and_the_job_ends_with_it(
    browser: webdriver.Chrome, output: Path, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path / "data")
    items = open_audit(storage, TAG, [str(output)]).items
    words = ["--storage", storage.url, "--tag", TAG, "--predictions", str(output)]
    command = [sys.executable, "-m", "jobs.audit", *words, "--target", "0.8", "--confidence", "0.8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            resize(browser, 1280)
            browser.get(process.stdout.readline().decode().strip())
            judge(browser, items[0], "y")
            # One after the other: which picture is judged next is the draw's to say.
            assert not browser.find_element(By.ID, "switch").is_displayed()
            for item in items[1:6]:
                judge(browser, item, "y")
            until(browser, lambda: text(browser, "end-title") == "No more is asked")
            assert "0.8" in text(browser, "end-text")
            assert "6 judged" in text(browser, "end-text")
            ActionChains(browser).send_keys("u").perform()  # the last was a mistake
            judge(browser, items[5], "y")
            until(browser, lambda: text(browser, "end-title") == "No more is asked")
            until(browser, lambda: text(browser, "saved") == "All is saved.")
            browser.get("about:blank")
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == EXIT_DONE, told
    [result] = load_audits(storage, TAG)
    assert (result.outcome, result.judged, result.called) == ("proven", 6, 12)


@pytest.mark.parametrize("width", [1280, PHONE])
def test_bounds_are_told_after_each_verdict_and_names_are_text(
    browser: webdriver.Chrome, output: Path, tmp_path: Path, width: int
) -> None:
    session = open_audit(LocalStorage(tmp_path / "data"), TAG, [str(output)], target=1)
    before = [called.file for called in session.first(12)].index(HOSTILE)
    with ReviewServer(session) as server:
        resize(browser, width)
        browser.get(server.url)
        for item in session.items[:before]:
            judge(browser, item, "y")
        until(browser, lambda: f"{before} of 12 judged" in text(browser, "progress"))
        until(browser, lambda: "among all 12: " in text(browser, "outlook"))
        until(browser, lambda: HOSTILE in browser.find_element(By.TAG_NAME, "body").text)
        assert not browser.find_elements(By.CSS_SELECTOR, "img[src='x']")
        assert not too_wide(browser)
        assert not clipped(browser)
        browser.get("about:blank")
