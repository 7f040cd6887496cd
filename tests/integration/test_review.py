"""A person at the page of a review, in a real browser with real keys."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from imagetag.errors import EXIT_INTERRUPTED
from imagetag.review import Progress, ReviewServer, Session, open_tag_session
from imagetag.storage import LocalStorage, Storage
from imagetag.verdicts import load_verdicts
from tests.builders.datasets import store_dataset
from tests.builders.reviews import TAG, picture_of, store_reviewable
from tests.builders.rows import key_of, make_row
from tests.looking import PHONE, clipped, requests, resize, too_wide
from tests.pages import HOSTILE

PATIENCE = 60  # seconds, for what never comes
HOSTILE_TAG = "\"><img/src=x/onerror='alert(1)'>"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = LocalStorage(tmp_path)
    store_reviewable(storage)
    return storage


@contextmanager
def reviewing(browser: webdriver.Chrome, session: Session, width: int = 1280) -> Iterator[str]:
    """Open a session's page; gives its address."""
    with ReviewServer(session) as server:
        try:
            resize(browser, width)
            browser.get("about:blank")
            browser.get_log("browser")
            browser.get_log("performance")
            browser.get(server.url)
            shown(browser, session.items[0])
            yield server.url
        finally:
            browser.get("about:blank")


def until(browser: webdriver.Chrome, what: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, PATIENCE, 0.02).until(lambda _: what())


def shown(browser: webdriver.Chrome, item: str) -> None:
    """Wait until a picture can be judged."""
    script = (
        "const i = document.getElementById('picture');"
        "return i.dataset.item === arguments[0] && !i.classList.contains('loading')"
    )
    until(browser, lambda: browser.execute_script(script, item))


def text(browser: webdriver.Chrome, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


def press(browser: webdriver.Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def click(browser: webdriver.Chrome, name: str) -> None:
    browser.find_element(By.ID, name).click()


def saved(browser: webdriver.Chrome) -> None:
    """Wait until the page says that all is saved."""
    until(browser, lambda: text(browser, "saved") == "All is saved.")


def waiting(browser: webdriver.Chrome) -> None:
    """Wait until the page says that something is not."""
    until(browser, lambda: "not saved yet" in text(browser, "saved"))


def stored(storage: Storage, tag: str = TAG) -> dict[str, str]:
    return {md5: one.answer for md5, one in load_verdicts(storage, tag).standing.items()}


def offline(browser: webdriver.Chrome, off: bool) -> None:
    conditions = {"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)


def test_keys_judge_one_picture_after_the_other_and_undo(
    browser: webdriver.Chrome, storage: Storage
) -> None:
    session = open_tag_session(storage, TAG, "promise", by="Anna")
    first, second, third, fourth, *_ = session.items
    with reviewing(browser, session):
        assert text(browser, "progress") == "0 of 16 judged, 16 left"
        press(browser, "y")
        shown(browser, second)
        press(browser, "n")
        shown(browser, third)
        press(browser, "?")
        shown(browser, fourth)
        press(browser, "u")
        shown(browser, third)
        assert text(browser, "progress") == "2 of 16 judged, 14 left"
        press(browser, "n")
        shown(browser, fourth)
        saved(browser)
        assert stored(storage) == {first: "yes", second: "no", third: "no"}
        press(browser, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        shown(browser, second)
        assert text(browser, "judged") == "judged: no"
        press(browser, "y")  # another thought
        shown(browser, fourth)
        press(browser, "u", "u", "u", "u", "u", "u")
        saved(browser)
        until(browser, lambda: stored(storage) == {})
        assert text(browser, "progress") == "0 of 16 judged, 16 left"
    assert {one.by for one in load_verdicts(storage, TAG).standing.values()} <= {"Anna"}


def test_what_is_judged_is_counted_before_it_is_saved(
    browser: webdriver.Chrome, storage: Storage
) -> None:
    session = open_tag_session(storage, TAG, "promise")
    first, second, *_ = session.items
    with reviewing(browser, session):
        press(browser, "y")
        shown(browser, second)
        saved(browser)
        try:
            offline(browser, True)
            assert text(browser, "progress") == "1 of 16 judged, 15 left"
            for key, then, judged in (
                *(("u", first, 0), ("n", second, 1), ("u", first, 0), ("y", second, 1)),
                *(("y", None, 2), ("u", second, 1)),
            ):
                press(browser, key)
                assert text(browser, "progress").startswith(f"{judged} of 16 judged,"), key
                if then:  # what is not shown is not judged
                    shown(browser, then)
        finally:
            offline(browser, False)
        saved(browser)
        assert text(browser, "progress") == "1 of 16 judged, 15 left"


def test_on_a_phone_buttons_do_what_keys_do(browser: webdriver.Chrome, storage: Storage) -> None:
    session = open_tag_session(storage, TAG, "suspects")
    first, second = session.items
    with reviewing(browser, session, PHONE):
        click(browser, "no")
        shown(browser, second)
        click(browser, "unclear")
        until(browser, lambda: text(browser, "end-title") == "All are judged")
        saved(browser)
        assert stored(storage) == {first: "no", second: "unclear"}
        click(browser, "undo")
        shown(browser, second)
        saved(browser)
        assert stored(storage) == {first: "no"}


@pytest.mark.parametrize("width", [1280, PHONE])
def test_names_of_strangers_are_shown_and_nothing_is_asked_of_others(
    browser: webdriver.Chrome, tmp_path: Path, width: int
) -> None:
    storage = LocalStorage(tmp_path)
    links: dict[str, Any] = {
        "page_url": "javascript:alert(1)",
        "board": HOSTILE[1],
        "tags": tuple(HOSTILE),
    }
    store_reviewable(storage, 10, tag=HOSTILE_TAG, **links)
    session = open_tag_session(storage, HOSTILE_TAG, "promise", by=HOSTILE[0])
    with reviewing(browser, session, width) as url:
        until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#tag-list li"))
        assert text(browser, "tag") == HOSTILE_TAG
        tags = browser.find_elements(By.CSS_SELECTOR, "#tag-list li")
        assert [tag.text for tag in tags] == HOSTILE
        assert browser.find_element(By.ID, "link").get_attribute("href") is None
        assert too_wide(browser) == []
        assert clipped(browser) == []
        press(browser, "g")
        until(browser, lambda: browser.find_elements(By.CLASS_NAME, "tile"))
        assert too_wide(browser) == []
        assert clipped(browser) == []
        asked = [one for one in requests(browser) if not one.startswith(("data:", "about:"))]
        assert asked
        assert all(one.startswith(url) for one in asked)
        assert browser.get_log("browser") == []


def test_many_are_judged_at_once_but_none_that_was_not_in_sight(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path)
    store_reviewable(storage, 30)
    session = open_tag_session(storage, TAG, "promise")
    with reviewing(browser, session, PHONE):
        press(browser, "g")
        tiles = until(browser, lambda: browser.find_elements(By.CLASS_NAME, "tile"))
        items = session.items
        assert len(tiles) == 24
        until(browser, lambda: all_in_sight(browser, 3))
        tiles[1].click()
        tiles[2].click()
        tiles[2].click()
        press(browser, Keys.ARROW_RIGHT, "?")
        seen = [number for number in range(24) if in_sight(browser, number)]
        assert len(seen) < 24
        click(browser, "rest-yes")
        saved(browser)
        wanted = {items[number]: "yes" for number in seen}
        wanted |= {items[1]: "no", items[2]: "yes", items[3]: "unclear"}
        assert stored(storage) == wanted
        left = 24 - len(wanted)
        assert text(browser, "left").startswith(f"{left} picture")
        click(browser, "undo")
        saved(browser)
        assert stored(storage) == {items[1]: "no", items[2]: "yes", items[3]: "unclear"}


def in_sight(browser: webdriver.Chrome, number: int) -> bool:
    script = (
        "const t = document.getElementsByClassName('tile')[arguments[0]];"
        "return Boolean(t.dataset.seen && t.firstChild.complete)"
    )
    return bool(browser.execute_script(script, number))


def all_in_sight(browser: webdriver.Chrome, count: int) -> bool:
    return all(in_sight(browser, number) for number in range(count))


def test_a_lost_connection_loses_nothing_and_stops_nobody(
    browser: webdriver.Chrome, storage: Storage
) -> None:
    session = open_tag_session(storage, TAG, "promise")
    first, second, third, *_ = session.items
    with reviewing(browser, session):
        prefetched(browser, 4)
        offline(browser, True)
        try:
            press(browser, "y")
            shown(browser, second)  # it was fetched before
            press(browser, "n")
            shown(browser, third)
            waiting(browser)
            assert text(browser, "saved").startswith("2 verdicts not saved yet")
            assert stored(storage) == {}
        finally:
            offline(browser, False)
        saved(browser)
        assert stored(storage) == {first: "yes", second: "no"}


def prefetched(browser: webdriver.Chrome, count: int) -> None:
    """Wait until so many pictures have come, and what is told of them."""
    script = (
        "const all = performance.getEntriesByType('resource').map(e => e.name);"
        "return Math.min(all.filter(n => n.includes('/pictures/large/')).length,"
        " all.filter(n => n.includes('/items/')).length)"
    )
    until(browser, lambda: browser.execute_script(script) >= count)


def test_what_a_stopped_review_did_not_get_is_sent_to_the_next(
    browser: webdriver.Chrome, storage: Storage
) -> None:
    session = open_tag_session(storage, TAG, "promise")
    first, second, *_ = session.items
    resize(browser, 1280)
    with ReviewServer(session) as server:
        browser.get(server.url)
        shown(browser, first)
        prefetched(browser, 3)
    press(browser, "n")
    waiting(browser)
    assert stored(storage) == {}
    again = open_tag_session(storage, TAG, "promise")
    with ReviewServer(again) as server:
        until(browser, lambda: "open the address that it printed" in text(browser, "saved"))
        browser.get(server.url)
        saved(browser)
        assert stored(storage) == {first: "no"}
        browser.refresh()
        shown(browser, second)  # where it was left
        browser.get("about:blank")


def test_two_windows_hear_of_each_other_and_overwrite_nothing(
    browser: webdriver.Chrome, storage: Storage
) -> None:
    session = open_tag_session(storage, TAG, "promise")
    first, second, third, *_ = session.items
    with reviewing(browser, session) as url:
        here = browser.current_window_handle
        browser.switch_to.new_window("window")
        there = browser.current_window_handle
        try:
            resize(browser, 1280)
            browser.get(url)
            shown(browser, first)
            press(browser, "n")
            shown(browser, second)
            saved(browser)
            browser.switch_to.window(here)
            until(browser, lambda: text(browser, "progress").startswith("1 of 16"))
            until(browser, lambda: text(browser, "judged") == "judged: no")
            press(browser, Keys.ARROW_RIGHT)
            shown(browser, second)
            press(browser, "y")
            shown(browser, third)
            saved(browser)
            browser.switch_to.window(there)
            until(browser, lambda: text(browser, "progress").startswith("2 of 16"))
            assert stored(storage) == {first: "no", second: "yes"}
        finally:
            browser.switch_to.window(there)
            browser.close()
            browser.switch_to.window(here)


def test_the_job_prints_an_address_and_ends_by_a_signal(
    browser: webdriver.Chrome, storage: Storage, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "jobs.review", "--storage", str(tmp_path), "--tags", TAG]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as job:
        try:
            assert job.stdout is not None
            browser.get(job.stdout.readline().strip())
            until(browser, lambda: browser.find_element(By.ID, "yes").is_enabled())
            press(browser, "y")
            saved(browser)
        finally:
            job.send_signal(signal.SIGINT)
            _, told = job.communicate(timeout=PATIENCE)
            browser.get("about:blank")
    assert job.returncode == EXIT_INTERRUPTED
    assert "all that the page showed as saved is stored" in told
    assert "Traceback" not in told
    assert list(stored(storage).values()) == ["yes"]


def test_an_answer_is_not_called_saved_while_the_page_asks_for_news(
    browser: webdriver.Chrome, storage: Storage
) -> None:
    session = open_tag_session(storage, TAG, "promise")
    asked, free = threading.Event(), threading.Event()
    progress = session.progress
    try:
        with reviewing(browser, session):
            saved(browser)

            def slow() -> Progress:
                asked.set()
                assert free.wait(PATIENCE)
                return progress()

            session.progress = slow  # type: ignore[method-assign]
            assert asked.wait(PATIENCE)
            press(browser, "y")
            assert text(browser, "saved") == "saving 1 verdict …"
            assert stored(storage) == {}
            free.set()
            saved(browser)
            assert stored(storage) == {session.items[0]: "yes"}
    finally:
        free.set()


class SlowBucket(LocalStorage):
    """Opens no picture but one until it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.at_once, self.free = "", threading.Event()

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        if key.endswith(".png") and self.at_once not in key:
            assert self.free.wait(PATIENCE)
        return super().open(key)


def test_a_slow_bucket_delays_no_verdict_and_nothing_is_judged_unseen(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    storage = SlowBucket(tmp_path)
    store_reviewable(storage)
    session = open_tag_session(storage, TAG, "promise")
    first, second, third, *_ = session.items
    storage.at_once = first
    try:
        with reviewing(browser, session):
            press(browser, "y")
            saved(browser)
            assert stored(storage) == {first: "yes"}
            assert not browser.find_element(By.ID, "yes").is_enabled()
            press(browser, "n")  # nobody has seen the second
            storage.free.set()
            shown(browser, second)
            press(browser, "n")
            shown(browser, third)
            saved(browser)
            assert stored(storage) == {first: "yes", second: "no"}
    finally:
        storage.free.set()


def test_ten_thousand_pictures_are_a_queue_like_any_other(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path)
    rows = [make_row(number, ext="png") for number in range(10_000)]
    store_dataset(storage, TAG, rows)
    session = open_tag_session(storage, TAG, "random")
    by_md5 = {row.md5: row for row in rows}
    for item in session.items[:12]:
        storage.write(key_of(by_md5[item], TAG), picture_of(1))
    with reviewing(browser, session):
        assert text(browser, "progress") == "0 of 10,000 judged, 10,000 left"
        for number in range(3):
            shown(browser, session.items[number])
            press(browser, "y")
        saved(browser)
        assert text(browser, "progress") == "3 of 10,000 judged, 9,997 left"
        got = [one for one in requests(browser) if re.search("/pictures/", one)]
        assert len(got) < 20  # they come when they are wanted, or soon will be


def test_a_picture_that_cannot_be_shown_says_why_and_is_passed_over(
    browser: webdriver.Chrome, storage: Storage, tmp_path: Path
) -> None:
    session = open_tag_session(storage, TAG, "promise")
    first, second, *_ = session.items
    [path] = tmp_path.rglob(f"{second}.*")
    path.unlink()
    with reviewing(browser, session):
        press(browser, "y")
        until(browser, lambda: "its file is not in storage" in text(browser, "no-picture"))
        press(browser, "y", "n")  # of what nobody has seen
        saved(browser)
        assert stored(storage) == {first: "yes"}
        press(browser, "?")
        shown(browser, session.items[2])
        saved(browser)
        assert stored(storage)[second] == "unclear"
