"""The port of a board that must be found again where it was."""

from __future__ import annotations

import socket
from pathlib import Path

from imagetag.errors import UsageError

_USUAL_PORT = 8480


def board_port(known: Path) -> int:
    """Return the port that this board has had, or the usual one, or 0 for any if that is taken.

    A board is known by its address: at the same one, a demo that is run again finds all done.

    Raises:
        UsageError: if the port that it has had is taken.

    """
    told = known.read_text(encoding="utf-8", errors="replace").strip() if known.is_file() else ""
    had = int(told) if told.isdecimal() else None
    port = had or _USUAL_PORT
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if had is None:
                return 0
            raise UsageError(
                f"port {port}, by which what is done is known, is taken: stop the imagetag board "
                "that serves there, or take another --output"
            ) from error
    return port
