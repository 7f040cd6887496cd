"""What `imagetag review` refuses before it serves anything."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest

from imagetag.errors import EXIT_INPUT, EXIT_USAGE
from imagetag.storage import LocalStorage
from jobs.review import main
from tests.builders.reviews import TAG, store_reviewable


def test_a_page_is_of_one_tag(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--storage", str(tmp_path), "--tags", "fox,robot"]) == EXIT_USAGE
    assert "a page asks about one tag, and --tags are 2" in capfd.readouterr().err


def test_a_tag_without_a_dataset_says_what_to_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--storage", str(tmp_path), "--tags", "fox"]) == EXIT_INPUT
    assert "imagetag scrape --tags fox" in capfd.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--storage", str(tmp_path), "--tags", "fox"]) == EXIT_USAGE
    assert "image-tag-classification[review]" in capfd.readouterr().err


def test_the_address_is_printed_and_the_log_does_not_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store_reviewable(LocalStorage(tmp_path))
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: True)
    cache = tmp_path / "cache"
    words = ["--storage", str(tmp_path), "--tags", TAG, "--cache-folder", str(cache)]
    assert main(words) == 0
    printed, told = capfd.readouterr()
    token = printed.strip().split("/")[3]
    assert printed.startswith("http://127.0.0.1:")
    assert len(token) >= 32
    assert token not in told
