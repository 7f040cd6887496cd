"""Real servers for the integration tests."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from selenium import webdriver

from imagetag.demo.scenes import draw_posts
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from tests.integration.ceph import Ceph, missing
from tests.integration.scraping import Drawn, Moody
from tests.looking import started_browser


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real S3 server, with nothing in it that must last: its `endpoint`, `key` and `secret`."""
    if why := missing():
        pytest.skip(why)
    server = Ceph(tmp_path_factory.mktemp("ceph"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_bucket(s3_server: Ceph, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket's URL, `s3://NAME`; the AWS settings reach it, in child processes too."""
    return new_bucket(s3_server, monkeypatch)


def new_bucket(server: Ceph, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a bucket, and set the AWS settings; gives its URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
    name = f"bucket-{secrets.token_hex(6)}"
    boto3.Session().client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    folder = tmp_path_factory.mktemp("drawn")
    draw_posts(folder, 120, seed=5)
    lines = (folder / "posts.jsonl").read_text().splitlines()
    return Drawn(folder, {post["id"]: post for post in map(json.loads, lines)})


@pytest.fixture
def board(drawn: Drawn) -> Iterator[Moody]:
    with Moody(drawn.folder) as server:
        yield server


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "data"))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.01)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with started_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started
