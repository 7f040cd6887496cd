"""What a board offers to tests of politeness: robots.txt, an interstitial, latency, a crowd."""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from imagetag.demo.server import BoardServer
from tests.boardserver import ENGINES, Engine
from tests.boardserver.guarded import GuardedServer
from tests.boardserver.interstitial import COOKIE
from tests.integration.crawler import write_board

NAME = "test/1.0 (by somebody)"
LISTS: dict[Engine, str] = {
    "gelbooru02": "/index.php?page=post&s=list&tags=fox",
    "danbooru": "/posts.json?tags=fox",
    "e621": "/posts.json?tags=fox",
    "philomena": "/api/v1/json/search/images?q=fox",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("posts")
    write_board(folder, 20)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver_path):
        pytest.skip("there is no Chromium here, or no driver of it")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
    ):
        options.add_argument(option)
    driver = webdriver.Chrome(options, Service(driver_path))
    yield driver
    driver.quit()


def get(url: str, name: str = NAME, cookie: str = "") -> requests.Response:
    headers = {"User-Agent": name} | ({"Cookie": f"{COOKIE}={cookie}"} if cookie else {})
    return requests.get(url, headers=headers, timeout=20)


def solved(page: str) -> str:
    """What the script of an interstitial page would set as the cookie."""
    match = re.search(r'puzzle = "([0-9a-f]+)"', page)
    assert match
    number = 0
    while True:
        value = 0x811C9DC5
        for char in match[1] + str(number):
            value = (value ^ ord(char)) * 0x01000193 & 0xFFFFFFFF
        if value % 4096 == 0:
            return f"{match[1]}.{number}"
        number += 1


# --- robots.txt -------------------------------------------------------------------------------


def test_robots(folder: Path) -> None:
    text = "User-agent: *\nDisallow: /index.php\nCrawl-delay: 2\n"
    with GuardedServer(folder, robots=text, interstitial=True) as board:
        answer = get(f"{board.url}/robots.txt")
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert board.requests == {"robots": 1}
    with GuardedServer(folder, robots="") as board:
        assert get(f"{board.url}/robots.txt").status_code == 200
    for interstitial in (False, True):
        with GuardedServer(folder, interstitial=interstitial) as board:
            assert get(f"{board.url}/robots.txt").status_code == 404


# --- The interstitial -------------------------------------------------------------------------


@pytest.mark.parametrize("engine", LISTS)
def test_a_browser_gets_past_the_interstitial_and_can_hand_over_its_cookie(
    folder: Path, browser: webdriver.Chrome, engine: Engine
) -> None:
    with GuardedServer(folder, protocol=ENGINES[engine], interstitial=True) as board:
        url = board.url + LISTS[engine]
        refused = get(url)
        assert refused.status_code == 503
        assert refused.headers["Content-Type"].startswith("text/html")
        assert "<script>" in refused.text
        assert "Set-Cookie" not in refused.headers
        browser.get(url)
        WebDriverWait(browser, 60).until(lambda driver: driver.get_cookie(COOKIE))
        cookie = browser.get_cookie(COOKIE)
        assert cookie is not None
        name = str(browser.execute_script("return navigator.userAgent"))
        WebDriverWait(browser, 60).until(
            lambda driver: "Checking" not in driver.find_element(By.TAG_NAME, "body").text
        )
        assert board.requests["list" if engine == "gelbooru02" else "api"] == 1
        assert get(url, name, cookie["value"]).status_code == 200
        # The cookie is good for that user agent only.
        assert get(url, NAME, cookie["value"]).status_code == 503
        assert get(url, name).status_code == 503
        browser.delete_all_cookies()


def test_cookies_that_do_not_open(folder: Path) -> None:
    with (
        GuardedServer(folder, interstitial=True) as board,
        GuardedServer(folder, interstitial=True) as other,
    ):
        url = board.url + LISTS["gelbooru02"]
        right = solved(get(url).text)
        assert get(url, cookie=right).status_code == 200
        puzzle, _, number = right.partition(".")
        elsewhere = solved(get(other.url + LISTS["gelbooru02"]).text)
        for wrong in (
            f"{puzzle}.{int(number) + 1}",
            f"{puzzle}.",
            f"{puzzle}.{number}x",
            f"{puzzle}.{'9' * 20}",
            puzzle,
            f"{'0' * 32}.{number}",
            elsewhere,
            '"',
            "é",
        ):
            assert get(url, cookie=wrong).status_code == 503, wrong
        before = board.requests["interstitial"]
        assert before == 10
        assert get(url, "other/1.0", right).status_code == 503


def test_pictures_are_not_behind_the_interstitial(folder: Path) -> None:
    with BoardServer(folder) as open_board, GuardedServer(folder, interstitial=True) as board:
        listing = "/index.php?page=dapi&s=post&q=index&json=1&limit=1"
        picture = get(open_board.url + listing).json()[0]["file_url"]
        path = picture.removeprefix(open_board.url)
        assert get(board.url + path).headers["Content-Type"] == "image/png"
        for hidden in (listing, "/", "/images/1/none.png", "/index.php?page=post&s=view&id=1000"):
            assert get(board.url + hidden).status_code == 503


# --- Latency, and a crowd ---------------------------------------------------------------------


def test_every_answer_takes_its_time(folder: Path) -> None:
    with GuardedServer(folder, latency=0.2, robots="") as board:
        for path in ("/robots.txt", LISTS["gelbooru02"], "/none"):
            started = time.monotonic()
            get(board.url + path)
            assert time.monotonic() - started >= 0.2


def test_hundreds_of_connections_at_once(folder: Path) -> None:
    with GuardedServer(folder, latency=0.1) as board:
        host, _, port = board.url.removeprefix("http://").partition(":")
        lines = [socket.create_connection((host, int(port)), timeout=60) for _ in range(400)]
        try:
            for _ in range(2):  # each connection stays, and is used again
                for line in lines:
                    line.sendall(f"HEAD {LISTS['gelbooru02']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                for line in lines:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += line.recv(4096)
                    assert head.startswith(b"HTTP/1.1 200 ")
        finally:
            for line in lines:
                line.close()
        assert board.requests == {"list": 800}
