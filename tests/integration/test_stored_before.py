"""What the version before has stored is read: as done, and with the same numbers.

`tests/data/before-packages.zip` is a storage as commit 68fcc9f left it, without the pages and plots
that nothing reads: `imagetag scrape` from a folder of 24 drawn pictures with the tag (a red disc)
and 24 without (a blue square), explore, train (an AlexNet a fiftieth as wide, 7 epochs), evaluate,
report; and `predicted.csv`, the rows of `imagetag predict` of that folder.
"""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagetag.dataset.manifest import load_dataset, read_rows
from imagetag.layout import Layout
from imagetag.storage.local import LocalStorage
from jobs import evaluate, explore, predict, scrape, status, train
from tests.docs import code
from tests.forked import run_forked

TAG, RUN = "red:disc", "alexnet"
LAYOUT = Layout(TAG)
ARCHIVE = Path(__file__).parents[1] / "data" / "before-packages.zip"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def pictures(storage: LocalStorage, tmp_path: Path) -> Path:
    """The folder that was scraped, but for near-duplicates that were dropped."""
    folder = tmp_path / "drawings"
    for row in read_rows(storage, load_dataset(storage, TAG)):
        label, name = row.page_url.split("/")[-2:]
        path = folder / label.replace("%3A", ":") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read(LAYOUT.image(row.split, row.label, row.md5, row.ext)))
    return folder


Run = Callable[..., list[str]]


@pytest.fixture
def run(storage: LocalStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a job on the storage, with exit code 0; gives the events that it logs."""

    def run(main: Callable[[list[str]], int], *options: str) -> list[str]:
        capsys.readouterr()
        assert main(["--storage", storage.url, *options, "--log-format", "json"]) == 0
        lines = capsys.readouterr().err.splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]

    return run


def test_all_of_it_is_done_already(
    storage: LocalStorage, pictures: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main(["--storage", storage.url, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["tags"]
    assert told["tag"] == TAG
    for stage in ("scrape", "explore", "train", "evaluate"):
        assert told["stages"][stage]["state"] == "complete", stage

    tags = ("--tags", TAG)
    assert "already explored" in run(explore.main, *tags)
    settings = ("--model", "alexnet", "--image-size", "67x67", "--epochs", "7", "--run", RUN)
    rates = ("--patience", "12", "--learning-rate", "0.003", "--dropout", "0", "--no-augment")
    assert "already trained" in run(train.main, *tags, *settings, *rates)
    wanted = ("--min-precision", "0.5", "--calibration", "none")
    assert "already evaluated" in run(evaluate.main, *tags, *wanted)
    # The path of a folder is part of what a scrape was asked for.
    asked = storage.read(LAYOUT.dataset).replace(b'"/tmp/drawings"', f'"{pictures}"'.encode())
    storage.write(LAYOUT.dataset, asked)
    board = ("--board", f"folder+{pictures}", "--limit", "24", "--test-fraction", "0.25")
    assert "already complete" in run(scrape.main, *tags, *board)


def test_it_is_evaluated_anew_with_the_same_logits(
    storage: LocalStorage, run: Run, tmp_path: Path
) -> None:
    table = LAYOUT.run(RUN, "test_predictions.csv")
    before = logits(storage.read(table))
    storage.delete(table)
    cache = ("--cache-folder", str(tmp_path / "cache"))
    assert "evaluated" in run(evaluate.main, "--tags", TAG, "--calibration", "none", *cache)
    assert logits(storage.read(table)) == pytest.approx(before, abs=1e-4)
    assert max(before.values()) - min(before.values()) > 10


def logits(table: bytes) -> dict[str, float]:
    rows = csv.DictReader(table.decode().splitlines())
    return {row["md5"]: float(row["logit"]) for row in rows}


def test_it_predicts_the_same(run: Run, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "now.csv"
    run(predict.main, "--tag", TAG, "--input", str(pictures), "--output", str(output))
    now, before = rows(output), rows(tmp_path / "predicted.csv")
    assert len(now) > 40
    assert now.keys() <= before.keys()
    for name, row in now.items():
        assert row["decision"] == before[name]["decision"]
        assert float(row["probability"]) == pytest.approx(
            float(before[name]["probability"]), abs=1e-5
        )
    assert {row["decision"] for row in now.values()} == {"true", "false"}


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def test_the_code_of_its_card_runs(storage: LocalStorage, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "storage" / LAYOUT.run(RUN, "README.md").rpartition("/")[0]
    positive = next(pictures.glob("red*/*.jpg"))
    shutil.copy(positive, folder / "picture.jpg")
    blocks, _ = code((folder / "README.md").read_text())
    (script,) = (block for block in blocks if "load_model" in block)
    assert "import imagetag.models" in script
    before = rows(tmp_path / "predicted.csv")[positive.relative_to(pictures).as_posix()]
    said = float(run_forked(script, cwd=folder).split()[-1])
    assert said == pytest.approx(float(before["probability"]), abs=0.05)
