"""A Ceph object gateway on loopback, for tests: a monitor, an object daemon and radosgw."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
PACKAGES = "radosgw ceph-mon ceph-osd"

_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0]
mon initial members = a
public network = 127.0.0.0/8
ms bind ipv4 = true
ms bind ipv6 = false
ms bind msgr1 = false
auth cluster required = none
auth service required = none
auth client required = none
# radosgw's own default is 'secure', which cannot be had without authentication.
ms mon client mode = crc
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
crash dir = {folder}/log
pid file =
setuser match path =
# One copy of everything, and no waiting for peers that there are not.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 500
paxos propose interval = 0.05
mon data avail warn = 1
mon data avail crit = 1

[mon.a]
host = localhost
mon addr = 127.0.0.1:{mon_port}
mon data = {folder}/mon
mon cluster log file = {folder}/log/cluster.log

[osd]
osd data = {folder}/osd
osd journal = {folder}/osd/journal
osd objectstore = {store}
osd memory target = 1073741824
osd crush update on start = false
# How long the watches of a killed gateway are waited for.
osd client watch timeout = 5
bluestore block create = true
bluestore block size = {size}
bluestore block path =
memstore device bytes = {size}

[client]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw run sync thread = false
rgw thread pool size = 64
rgw dynamic resharding = false
rgw enable apis = s3
"""


class Ceph:
    """One object gateway with one user.

    Args:
        folder: where its data and logs are; a stopped or killed one can be started again there.
        durable: keep the data on disk, so that a kill loses nothing; else in memory.

    Attributes:
        endpoint, key, secret: how to reach it.

    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder = folder
        self.key, self.secret = "tests-key", "tests-secret"
        port, mon_port = _free_ports(2)
        self.endpoint = f"http://127.0.0.1:{port}"
        self._mon_port = mon_port
        self._fsid = str(uuid.uuid4())
        self._conf = str(folder / "ceph.conf")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("mon", "osd", "rgw", "run", "log"):
            (folder / name).mkdir(parents=True)
        config = _CONFIG.format(
            folder=folder,
            fsid=self._fsid,
            mon_port=mon_port,
            port=port,
            store="bluestore" if durable else "memstore",
            size=8 << 30,
        )
        Path(self._conf).write_text(config)

    def start(self) -> None:
        """Start what is not running, and wait until the gateway answers."""
        new = not (self.folder / "monmap").exists()
        if new:
            self._make_monitor()
        self._spawn("mon", "ceph-mon", "-f", "-i", "a")
        self._run("ceph", "--connect-timeout", "30", "osd", "stat")
        if new:
            self._make_osd()
        self._spawn("osd", "ceph-osd", "-f", "-i", "0")
        self._wait("osd", lambda: b"1 up" in self._run("ceph", "osd", "stat"))
        self._spawn("rgw", "radosgw", "-f", "-n", "client.rgw.a")
        self._wait("rgw", self._answers)
        if new:
            self.add_user("tests")

    def add_user(self, name: str) -> None:
        """Add a user whose credentials are `NAME-key` and `NAME-secret`."""
        self._run(
            *("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}"),
            *(f"--access-key={name}-key", f"--secret-key={name}-secret"),
        )

    def add_key(self, user: str, name: str) -> None:
        """Give a user other credentials beside those it has: `NAME-key` and `NAME-secret`."""
        self._run(
            *("radosgw-admin", "key", "create", f"--uid={user}", "--key-type=s3"),
            *(f"--access-key={name}-key", f"--secret-key={name}-secret"),
        )

    def stop(self) -> None:
        """Stop it, and keep the data."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill all of it at once, as a power cut does."""
        self._signal(signal.SIGKILL)

    def _make_monitor(self) -> None:
        monmap = str(self.folder / "monmap")
        self._run(
            *("monmaptool", "--create", "--clobber", "--fsid", self._fsid),
            *("--set-min-mon-release", "pacific"),
            *("--addv", "a", f"[v2:127.0.0.1:{self._mon_port}]", monmap),
        )
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--fsid", self._fsid)

    def _make_osd(self) -> None:
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd, "0")
        place = ("root=default", "host=localhost")
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", *place)
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd)

    def _run(self, program: str, *arguments: str) -> bytes:
        command = [program, "-c", self._conf, *arguments]
        if program == "monmaptool":
            command = [program, *arguments]
        done = subprocess.run(command, capture_output=True, timeout=400, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def _spawn(self, name: str, *command: str) -> None:
        if name in self._running:
            return
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self._running[name] = _daemon([*command, "-c", self._conf], out)

    def _wait(self, name: str, ready: Callable[[], bool], seconds: float = 400) -> None:
        until = time.monotonic() + seconds
        while not ready():
            if self._running[name].poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{name} does not come up; see {self.folder / 'log'}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _signal(self, number: signal.Signals) -> None:
        running = [
            self._running.pop(name) for name in ("rgw", "osd", "mon") if name in self._running
        ]
        for process in running:
            process.send_signal(number)
            if number != signal.SIGKILL:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
        for process in running:
            process.wait()


def missing() -> str | None:
    """Say why none can be started here, None if it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"no {', '.join(absent)} here: apt-get install {PACKAGES}" if absent else None


def _daemon(command: list[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own, so that an interrupt on the terminal is left to us.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports
