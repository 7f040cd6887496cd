"""Where the board of a demo is when it is run again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from imagetag.demo.port import board_port
from imagetag.errors import UsageError


def test_a_demo_that_is_run_again_has_its_board_where_it_was(tmp_path: Path) -> None:
    known = tmp_path / "port"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        known.write_text(f"{port}\n")
        with pytest.raises(UsageError, match=f"port {port}, .* is taken: stop the imagetag board"):
            board_port(known)
    assert board_port(known) == port
