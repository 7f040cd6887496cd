"""The demo job: what is wrong with its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.demo import main


def test_an_output_that_can_be_no_folder_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--output", str(tmp_path / "file" / "out"), "--log-format", "json"]) == 2
    assert "file/out: Not a directory" in capsys.readouterr().err
