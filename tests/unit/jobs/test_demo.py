"""What the demo says of its predictions, and where its board is when it is run again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from imagetag.errors import UsageError
from jobs.demo import _port, _score, main


def test_pictures_that_an_earlier_demo_drew_are_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(
        "file,decision,tag\na.png,true,fox\na.png,false,owl\nb.png,true,fox\n"
        "earlier.png,true,fox\nc.png,false,fox\n"
    )
    told = _score("fox", path, {"a.png": ["fox"], "b.png": ["owl"], "c.png": []})
    assert told == (
        "fox: right about 2 of 3 new pictures: found in 1 of the 1 that have it, and in 1 of the "
        "2 that do not"
    )


def test_an_output_that_can_be_no_folder_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--output", str(tmp_path / "file" / "out"), "--log-format", "json"]) == 2
    assert "file/out: Not a directory" in capsys.readouterr().err


def test_a_demo_that_is_run_again_has_its_board_where_it_was(tmp_path: Path) -> None:
    known = tmp_path / "port"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        known.write_text(f"{port}\n")
        with pytest.raises(UsageError, match=f"port {port}, .* is taken: stop the imagetag board"):
            _port(known)
    assert _port(known) == port
