"""One target, fuzzed for some seconds: by coverage with atheris where that is installed.

Else hypothesis draws inputs, and damages those that are known. Either way an input on which the
target does what it must not is written down once for each place, and the others are tried further.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from tests.fuzz.target import TooSlow, place_of
from tests.fuzz.targets import targets_of

FOUND = Path("build/fuzz")
"""Gets what was found, and the inputs that atheris took for interesting."""

_LONGEST = 1 << 14  # bytes of an input
_LONG = 200_000  # bytes of those that are only long; not with atheris, which slows all down
# What readers fall over, of all kinds; inserted anywhere.
HOSTILE = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\xc3\x28"),
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 30, b"1e-400", b"true", b"null", b'""'),
    *(b"../", b"..%2F", b"%2e%2e/", b"C:\\", b"//", b"/etc/passwd", b"file:///", b"http://[::1"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<![CDATA[", b"<!--", b"<post ", b"</a>"),
    *(b"[" * 2000, b'{"a":' * 2000, b"<a>" * 600, b'"' * 99, b"a" * 5000, b"\n" * 200, b"," * 300),
    *(b"=cmd|", b"\r", b"\t", b"'", b'"', b"\xe2\x80\xa8", b"\x85", b"\xff\xd9", b"IEND", b"{}"),
)


class Findings:
    """Tries inputs on a target, and keeps those on which it does what it must not.

    Attributes:
        notes: whether each input is written down first, for what ends the process.

    """

    notes = True

    def __init__(self, kind: str, name: str, seconds: float) -> None:
        self.target = targets_of(kind)[name]
        self.folder = FOUND / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.executions = self.taken = 0
        self.places: dict[str, str] = {}
        self._slowest = 0.0
        self._seconds, self._end = seconds, float("inf")

    def begin(self) -> None:
        """Let the time run from here on, behind all that is imported and known."""
        self._end = time.monotonic() + self._seconds

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    def tried(self, data: bytes) -> None:
        """Try an input."""
        if self.notes:
            (self.folder / "last").write_bytes(data)
        self.executions += 1
        begun = time.process_time()
        try:
            self.taken += self.target.takes(data)
        except (Exception, TooSlow) as error:
            place = place_of(error)
            if place not in self.places:
                path = self.folder / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
                path.write_bytes(data)
                self.places[place] = str(path)
                print(f"{self.target.name}: {place}: {str(error)[:150]!r}, by {path}", flush=True)
        self._slowest = max(self._slowest, time.process_time() - begun)

    def told(self, means: str) -> str:
        """Return what came of it, as JSON."""
        return json.dumps(
            {
                "target": self.target.name,
                "means": means,
                "executions": self.executions,
                "taken": self.taken,
                "slowest": round(self._slowest, 3),
                "found": self.places,
            }
        )


def main(kind: str, name: str, seconds: str, result: str, means: str = "") -> None:
    """Fuzz a target of a module, and write what came of it to a file."""
    logging.disable()
    structlog.configure(processors=[_dropped])
    guided = importlib.util.find_spec("atheris") is not None and means != "hypothesis"
    fuzz = _with_atheris if guided else _with_hypothesis
    fuzz(
        lambda: Findings(kind, name, float(seconds)),
        lambda told: Path(result).write_text(told),
    )


def _dropped(_logger: object, _method: str, event: object) -> structlog.typing.EventDict:
    raise structlog.DropEvent


def _with_hypothesis(findings: Callable[[], Findings], tell: Callable[[str], object]) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    found = findings()
    known = found.target.seeds()

    @st.composite
    def damaged(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(known)) if known else b""
        for _ in range(draw(st.integers(0, 4))):
            start = draw(st.integers(0, len(data)))
            end = draw(st.integers(start, min(len(data), start + 40)))
            piece = draw(st.sampled_from(HOSTILE) | st.binary(max_size=8) | st.just(data[start:]))
            data = data[:start] + piece + data[end:]
        return data[: 4 * _LONGEST]

    @settings(
        max_examples=200,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def some(data: bytes) -> None:
        if not found.over:
            found.tried(data)

    for data in (*known, *_long()):
        found.tried(data)
    found.begin()
    number = 0
    while not found.over:
        seed(number)(given(damaged() | st.binary(max_size=200))(some))()
        number += 1
    tell(found.told("hypothesis"))


def _long() -> Iterator[bytes]:
    """Yield inputs that take minutes where something is gone through again and again."""
    for piece in HOSTILE:
        yield piece * (_LONG // len(piece))


def _with_atheris(findings: Callable[[], Findings], tell: Callable[[str], object]) -> None:
    import atheris

    with atheris.instrument_imports(include=["imagetag", "bs4", "protego", "defusedxml", "PIL"]):
        found = findings()
        known = found.target.seeds()
        for data in known:  # what is imported late is so by now
            found.tried(data)
    found.begin()
    found.notes = False  # libFuzzer does that itself

    def once(data: bytes) -> None:
        if found.over:
            tell(found.told("atheris"))
            os._exit(0)
        found.tried(data)

    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, _words(Path(scratch)) as words:
        interesting = found.folder / "interesting"
        interesting.mkdir(exist_ok=True)
        for data in known:
            (interesting / hashlib.sha256(data).hexdigest()[:20]).write_bytes(data)
        options = [f"-max_len={_LONGEST}", f"-dict={words}", "-timeout=60", "-rss_limit_mb=0"]
        options += [f"-artifact_prefix={found.folder}/ended-", "-print_final_stats=0"]
        atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(interesting)], once)
        atheris.Fuzz()


@contextlib.contextmanager
def _words(folder: Path) -> Iterator[Path]:
    """Give a dictionary as libFuzzer reads it."""
    path = folder / "words"
    short = [word for word in HOSTILE if len(word) <= 40]
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in short)
    path.write_text("".join(f'"{line}"\n' for line in lines))
    yield path


if __name__ == "__main__":
    main(*sys.argv[1:])
