"""The demo: two tags in, two good classifiers out, and nothing is left running."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from imagetag.dataset.manifest import load_dataset, read_rows
from imagetag.layout import INDEX, Layout
from imagetag.runs.evaluation import Evaluation
from imagetag.storage.opening import open_storage

TAGS = ("robot", "fox")

pytestmark = pytest.mark.timeout(2700)


@dataclass(frozen=True)
class Demo:
    output: Path
    stdout: str
    process_group: int

    def evaluation(self, tag: str) -> Evaluation:
        layout, storage = Layout(tag), open_storage(str(self.output / "storage"))
        run = storage.read(layout.latest).decode().strip()
        return Evaluation.model_validate_json(storage.read(layout.run(run, "evaluation.json")))

    def predictions(self, tag: str) -> dict[str, dict[str, str]]:
        """The rows of a tag's predictions by file."""
        with (self.output / "predictions.csv").open(newline="") as stream:
            return {row["file"]: row for row in csv.DictReader(stream) if row["tag"] == tag}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo as its users run it, with its defaults; it has ended."""
    output = tmp_path_factory.mktemp("demo") / "output"
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.demo", "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, _ = process.communicate(timeout=2600)
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    assert process.returncode == 0, stdout[-5000:]
    return Demo(output, stdout, process.pid)


@pytest.mark.parametrize("tag", TAGS)
def test_each_tag_has_a_classifier_that_is_right_nine_times_of_ten(demo: Demo, tag: str) -> None:
    metrics = demo.evaluation(tag).metrics
    assert min(metrics.positives, metrics.negatives) > 40
    assert metrics.half.accuracy.value is not None
    assert metrics.half.accuracy.value > 0.9


@pytest.mark.parametrize("tag", TAGS)
def test_each_tag_has_a_promise_that_holds_on_the_test_split(demo: Demo, tag: str) -> None:
    evaluation = demo.evaluation(tag)
    promise = evaluation.decision.promise
    assert promise is not None
    assert promise.met
    precision = evaluation.metrics.chosen.precision
    assert precision.high is not None
    assert precision.high >= promise.min_precision
    assert re.search(
        rf"^{tag} +\d+  {promise.min_precision:g} promised ", demo.stdout, re.MULTILINE
    )


@pytest.mark.parametrize("tag", TAGS)
def test_each_tag_has_its_pages_and_the_summary_says_where(demo: Demo, tag: str) -> None:
    run = demo.evaluation(tag).run
    layout = Layout(tag)
    index = demo.output / "storage" / INDEX
    for key in (layout.explore("report.html"), layout.run(run, "report.html")):
        page = index.parent / key
        assert tag in page.read_text()
        assert f'href="{key}"' in index.read_text()
    assert 'href="../predictions.csv"' in index.read_text()
    assert str(demo.output / "predictions.csv") in demo.stdout
    chosen = demo.evaluation(tag).metrics.chosen
    numbers = f"{chosen.precision.value:.3f} +{chosen.recall.value:.3f}"
    row = rf"^{tag} .* {numbers}  .*{run}/report\.html$"
    assert re.search(row, demo.stdout, re.MULTILINE)
    assert f"Begin with {index}" in demo.stdout.splitlines()[-1]


@pytest.mark.parametrize("tag", TAGS)
def test_new_pictures_are_told_apart(demo: Demo, tag: str) -> None:
    with (demo.output / "fresh" / "posts.jsonl").open() as stream:
        posts = {Path(post["file"]).name: post["tags"] for post in map(json.loads, stream)}
    found = demo.predictions(tag)
    assert found.keys() == posts.keys()
    assert len(posts) == 40
    right = [(row["decision"] == "true") == (tag in posts[file]) for file, row in found.items()]
    assert sum(right) / len(right) >= 0.85
    assert f"{tag}: right about {sum(right)} of 40 new pictures: " in demo.stdout
    assert any(tag in tags for tags in posts.values())


def test_links_to_posts_work_again_while_the_board_is_served_as_the_end_says(demo: Demo) -> None:
    match = re.search(r"work while this runs:  \S*imagetag (board .*)$", demo.stdout, re.MULTILINE)
    assert match is not None
    command = [sys.executable, "-m", "jobs.cli", *shlex.split(match[1])]
    rows = open_storage(str(demo.output / "storage"))
    row = next(read_rows(rows, load_dataset(rows, "fox")))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as board:
        try:
            assert board.stdout is not None
            url = board.stdout.readline().strip()
            assert row.page_url.startswith(f"{url}/")
            assert requests.get(row.page_url, timeout=60).status_code == 200
        finally:
            board.terminate()


def test_nothing_that_it_started_is_left(demo: Demo) -> None:
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.process_group, 0)
    match = re.search(r"--board gelbooru02\+(http://\S+)", demo.stdout)
    assert match is not None
    board = urlsplit(match[1])
    assert board.hostname is not None
    assert board.port is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((board.hostname, board.port), timeout=5)
    assert not [
        path for path in demo.output.rglob("*") if path.is_dir() and not any(path.iterdir())
    ]
    assert "warning" not in demo.stdout
