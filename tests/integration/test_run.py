"""`imagetag run` with the real jobs: a labelled folder in, an index page out, one tag failing."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TextIO

import pytest

from imagetag import log
from imagetag.demo.scenes import draw_posts
from imagetag.errors import InputError
from imagetag.job.command_line import parse_settings
from imagetag.layout import INDEX
from imagetag.run import child, pipeline
from imagetag.sentences import Event
from jobs import run
from tests.ended import log_lines
from tests.forked import forked_on_demand
from tests.pages import undrawn
from tests.predicting import make_model
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


FEATURES = """
tags = ["fox", "robot", "unicorn"]
features = "network.keras"
board = "folder+pictures"
input = "new"
[explore]
max-pixels = 16384
samples = 2
[evaluate]
min-precision = 0.6
suspects = false
"""


def draw(folder: Path, *tags: str) -> None:
    """Draw a folder of pictures for each tag and one for others, and four that are new."""
    draw_posts(folder / "drawn", 120, seed=5)
    for line in (folder / "drawn" / "posts.jsonl").read_text().splitlines():
        post = json.loads(line)
        into = folder / "pictures" / next((tag for tag in tags if tag in post["tags"]), "other")
        into.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "drawn" / post["file"], into)
    (folder / "new").mkdir()
    for path in sorted((folder / "drawn" / "images").iterdir())[:4]:
        shutil.copy(path, folder / "new")


class InThisProcess:
    """What a pipeline runs as a child process, without another import of TensorFlow."""

    before: ClassVar[dict[str, Callable[[], None]]] = {}

    def __init__(self, job: str, argv: Sequence[str], log: TextIO, secrets: object = None) -> None:
        self._main = importlib.import_module(f"jobs.{job}").main
        self._job, self._argv = job, [*argv, "--log-format", "json"]

    def run(self, tell: Callable[[Event], None]) -> int:
        self.before.get(self._job, lambda: None)()
        written = io.StringIO()
        with contextlib.redirect_stderr(written), undrawn():
            code: int = self._main(self._argv)
        for line in log_lines(written.getvalue(), chatter=True):
            tell(line)
        return code

    def ending(self) -> str:
        return "ended"


def test_tags_on_features_go_through_all_jobs_and_one_that_lost_a_picture_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path, "fox", "robot")
    make_model().save("network.keras")
    (tmp_path / "pipeline.toml").write_text(FEATURES)
    output = tmp_path / "imagetag-output"

    def lose() -> None:
        shared = {path.name for path in (output / "storage" / "fox").rglob("*.*")}
        pictures = (output / "storage" / "robot" / "train").rglob("*.*")
        next(path for path in pictures if path.name not in shared).unlink()

    monkeypatch.setattr(InThisProcess, "before", {"embed": lose})
    monkeypatch.setattr(pipeline, "Child", InThisProcess)

    def lines_of(*options: str) -> list[dict[str, Any]]:
        argv = ["pipeline.toml", "--log-format", "json", *options]
        capfd.readouterr()
        try:
            run.work(parse_settings(run.RunSettings, argv, command="run", summary="x"))
        finally:
            log.configure("json")
        return log_lines(capfd.readouterr().err, chatter=True)

    with pytest.raises(InputError, match=r"^2 of 3 tags failed: unicorn \(scrape\), robot \(emb"):
        lines_of()
    lines = log_lines(capfd.readouterr().err, chatter=True)
    done = [(line["stage"], line["tag"]) for line in lines if line["event"] == "stage done"]
    assert done == [
        *((stage, tag) for stage in ("scrape", "explore") for tag in ("fox", "robot")),
        *(("embed", None), ("train", "fox"), ("evaluate", "fox"), ("predict", None)),
        ("report", None),
    ]
    [fox, robot, _] = [line for line in lines if line["event"] == "result"]
    assert robot["failed"].startswith("embed failed: 1 pictures are in the manifest of the tag 'r")
    assert (tmp_path / fox["page"]).is_file()
    page = (output / "storage" / INDEX).read_text()
    assert (
        'head on features, <span class="keep">24 &times; 32</span> (height &times; width)' in page
    )
    assert sum(1 for _ in (output / "predictions.csv").open()) == 5

    monkeypatch.setattr(InThisProcess, "before", {})
    lines = lines_of("--tags", "fox")
    [embedded] = [line for line in lines if line["event"] == "embedded"]
    assert embedded["images"] == 0
    assert {f"already {what}" for what in ("explored", "trained", "evaluated")} <= {
        line["event"] for line in lines
    }


def test_a_folder_becomes_a_classifier_and_a_page_while_another_tag_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path, "fox")
    (tmp_path / "pipeline.toml").write_text(FILE)
    capfd.readouterr()

    options = ["pipeline.toml", "--board", "folder+pictures", "--input", "new"]
    (tmp_path / "forks").mkdir()
    with forked_on_demand(tmp_path / "forks") as command, monkeypatch.context() as patch:
        patch.setattr(child, "command", lambda job: [*command, f"jobs.{job}"])
        patch.setattr(child, "PARENT", "_NOT_OF_ITS_PARENT")  # which is what forks
        code = run.main(options)

    lines = log_lines(capfd.readouterr().err, chatter=True)
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
