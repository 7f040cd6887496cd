"""`imagetag run` with the real jobs: a labelled folder in, an index page out, one tag failing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagetag.demo.scenes import draw_posts
from imagetag.layout import INDEX
from jobs import run
from tests.ended import log_lines
from tests.refusing import SLOW, refusing

FILE = """
tags = ["fox", "unicorn"]
[explore]
max-pixels = 16384
samples = 2
[train]
model = "alexnet-small"
epochs = 1
export = false
[evaluate]
min-precision = 0.6
suspects = false
"""


def test_a_folder_becomes_a_classifier_and_a_page_while_another_tag_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_posts(tmp_path / "drawn", 120, seed=5)
    for line in (tmp_path / "drawn" / "posts.jsonl").read_text().splitlines():
        post = json.loads(line)
        folder = tmp_path / "pictures" / ("fox" if "fox" in post["tags"] else "other")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "drawn" / post["file"], folder)
    (tmp_path / "new").mkdir()
    for path in sorted((tmp_path / "drawn" / "images").iterdir())[:4]:
        shutil.copy(path, tmp_path / "new")
    (tmp_path / "pipeline.toml").write_text(FILE)
    capfd.readouterr()

    options = ["pipeline.toml", "--board", "folder+pictures", "--input", "new"]
    code = run.main(options)

    lines = log_lines(capfd.readouterr().err)
    assert code == lines[-1]["exit_code"] == 3
    assert lines[-1]["event"].startswith("1 of 2 tags failed: unicorn (scrape); ")
    done = [(line["stage"], line["tag"]) for line in lines if line["event"] == "stage done"]
    assert done == [
        *((stage, "fox") for stage in ("scrape", "explore", "train", "evaluate")),
        ("predict", None),
        ("report", None),
    ]
    [fox, unicorn] = [line for line in lines if line["event"] == "result"]
    assert (tmp_path / fox["page"]).is_file()
    assert fox["recall"] is not None
    assert "scrape failed: " in unicorn["failed"]

    output = tmp_path / "imagetag-output"
    index = output / "storage" / INDEX
    page = index.read_text()
    links = [
        f"{Path(fox['page']).relative_to('imagetag-output/storage')}",
        "fox/explore/report.html",
        ".reports/leaderboard.html",
        "../predictions.csv",
    ]
    for link in links:
        assert f'href="{link}"' in page
        assert (index.parent / link).is_file()
    assert page.count("data:image/jpeg") == 4  # what was predicted is seen
    assert "unicorn" in page
    assert sum(1 for _ in (output / "predictions.csv").open()) == 5
    [log] = (output / "logs").iterdir()
    logged = log_lines(log.read_text())
    assert {line["job"] for line in logged} == {*dict(done), "scrape"}
    assert any(line["event"] == "trained" and line["job"] == "train" for line in logged)

    # With nothing left to do, nothing that is slow to import is imported, by any job; but SciPy,
    # which counts how many pictures are missing where there are few.
    (tmp_path / "refusing").mkdir()
    environment = refusing(SLOW - {"scipy"}, tmp_path / "refusing")
    again = subprocess.run(
        [sys.executable, "-m", "jobs.run", *options, "--log-format", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = log_lines(again.stderr)
    assert {(line["stage"], line["tag"]) for line in lines if line["event"] == "stage done"} == {
        *done
    }
    assert {f"already {what}" for what in ("explored", "trained", "evaluated", "predicted")} <= {
        line["event"] for line in lines
    }
    # Several workers find out the same, before they wait for one another.
    given = ["--storage", str(output / "storage"), "--tags", "fox", "--model", "alexnet-small"]
    several = ["--workers", "2", "--worker-addresses", "127.0.0.1:9,127.0.0.1:19"]
    alone = subprocess.run(
        [sys.executable, "-m", "jobs.train", *given, "--epochs", "1", "--no-export", *several],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    assert "already trained, all of them" in alone.stderr
