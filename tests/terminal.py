"""A terminal for tests: what a program writes to it, and what it shows in the end."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Sequence

_PIECES = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|(.)", re.DOTALL)


def on_terminal(
    command: str | Sequence[str],
    *,
    columns: int = 80,
    stdout: bool = False,
    code: int = 0,
    **environment: str,
) -> str:
    """Run a program with a terminal as its standard error, and return what it wrote there.

    Args:
        command: the program and its arguments, or a script for Python.
        columns: how wide the terminal is.
        stdout: let the terminal be its standard output too, and its input.
        code: how it has to end.
        environment: variables besides those of this process.

    """
    if isinstance(command, str):
        command = [sys.executable, "-c", command]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    unset = {name: os.environ[name] for name in os.environ if name not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        command,
        stdin=theirs if stdout else None,
        stdout=theirs if stdout else subprocess.DEVNULL,
        stderr=theirs,
        env={**unset, "TERM": "xterm", **environment},
    ) as process:
        os.close(theirs)
        text = b""
        while chunk := _read(ours):
            text += chunk
    os.close(ours)
    assert process.returncode == code, text.decode()
    return text.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side has closed
        return b""


def plain(text: str) -> str:
    """Return a text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def screen(text: str, columns: int = 80) -> list[str]:
    """Return the lines that a terminal shows in the end, with those that have left its top."""
    lines, row, column = [""], 0, 0
    for arguments, command, letter in _PIECES.findall(text):
        if command == "K":
            lines[row] = "" if arguments == "2" else lines[row][:column]
        elif command == "A":
            row = max(0, row - int(arguments or 1))
        elif command:
            assert command in "mhl", f"{command} is none of what this terminal knows"
        elif letter == "\r":
            column = 0
        elif letter == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        else:
            if column == columns:
                row, column = row + 1, 0
                lines += [""] * (row == len(lines))
            line = lines[row].ljust(column)
            lines[row] = line[:column] + letter + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]
