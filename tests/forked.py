"""Python in processes of its own, forked from one that has imported TensorFlow once for all.

A fork is what `python -c` would be after the 5 seconds of a processor's time that the import takes
each time: none of TensorFlow's threads is started before, and nothing of ours is imported.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """A process that runs a script; it has methods of `subprocess.Popen`.

    Args:
        script: Python; what it gives to `sys.exit` is the exit code.
        arguments: `sys.argv` after its first.
        log: gets its standard error, and stays; by default a file that is removed with this.
        env: all of its environment; by default this process's.
        cwd: where it runs; by default where this one does.

    """

    def __init__(
        self,
        script: str,
        arguments: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        scratch = Path(tempfile.mkdtemp(prefix="forked-"))
        weakref.finalize(self, shutil.rmtree, scratch)
        self.stdout, self.stderr = scratch / "stdout", log or scratch / "stderr"
        for path in (self.stdout, self.stderr):
            path.write_bytes(b"")
        environment = dict(os.environ if env is None else env)
        files = (str(self.stdout), str(self.stderr))
        self._process = _FORKSERVER.Process(
            target=_run,
            args=(script, list(arguments), files, environment, str(cwd or Path.cwd())),
            daemon=True,
        )
        self._process.start()

    @property
    def log(self) -> str:
        """What is in its standard error so far."""
        return self.stderr.read_bytes().decode(errors="replace")

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        found = [path.read_bytes().decode(errors="replace") for path in (self.stdout, self.stderr)]
        return found[0], found[1]

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.exitcode is None and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_forked(
    script: str, arguments: Sequence[str] = (), *, cwd: Path | None = None, timeout: float = 800
) -> str:
    """Run a script to its end; return its standard output."""
    process = Forked(script, arguments, cwd=cwd)
    try:
        stdout, stderr = process.communicate(timeout)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    return stdout


@contextlib.contextmanager
def forked_on_demand(scratch: Path) -> Iterator[list[str]]:
    """Give a command that runs a module, as `python -m` does, in a process that is forked.

    It is for what starts commands, and is given neither scripts nor arguments by its test. The
    command itself waits for the other process, which has its standard output and error.

    Args:
        scratch: a folder, whose path is short.

    """
    with socket.create_server(str(scratch / "s"), family=socket.AF_UNIX) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):  # it is closed
                while True:
                    threading.Thread(target=_answer, args=(server.accept()[0],)).start()

        waiting = threading.Thread(target=serve)
        waiting.start()
        try:
            yield [sys.executable, "-IS", "-c", _ASKING, str(scratch / "s")]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            waiting.join()


_ASKING = """
import json, os, socket, sys
_, place, module, *arguments = sys.argv
with socket.socket(socket.AF_UNIX) as server:
    server.connect(place)
    asked = [os.getpid(), module, arguments, dict(os.environ), os.getcwd()]
    server.sendall(json.dumps(asked).encode() + b"\\n")
    code = int(server.makefile().readline())
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


def _answer(asking: socket.socket) -> None:
    with asking:
        pid, module, arguments, env, cwd = json.loads(asking.makefile().readline())
        script = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        files = (f"/proc/{pid}/fd/1", f"/proc/{pid}/fd/2")
        process = _FORKSERVER.Process(
            target=_run, args=(script, arguments, files, env, cwd), daemon=True
        )
        process.start()
        process.join()
        asking.sendall(f"{process.exitcode}\n".encode())


def _run(
    script: str, arguments: list[str], files: tuple[str, str], env: dict[str, str], cwd: str
) -> None:
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # so that TMPDIR counts
    for number, path in enumerate(files, 1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    sys.argv[1:] = arguments
    # Ctrl-C counts, though what started the tests in the background may have said otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    exec(script, {"__name__": "__main__"})
