"""A path that is too long for any file is wrong usage, and no defect, wherever it is given."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

LONG = "x" * 5000


@pytest.mark.parametrize(
    "argv",
    [
        ["predict", "--storage", "HERE", "--input", LONG],
        ["predict", "--storage", "HERE", "--input", f"{LONG}.png"],
        ["status", "--storage", LONG],
        ["train", "--storage", "HERE", "--weights", f"{LONG}.h5"],
    ],
)
def test_it_ends_with_2(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, *options = [str(tmp_path) if text == "HERE" else text for text in argv]
    assert importlib.import_module(f"jobs.{job}").main([*options, "--tags", "fox"]) == 2
    assert "unexpected" not in capsys.readouterr().err
