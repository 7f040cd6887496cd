"""What fuzzing has found is not found again: `tests/fuzz/corpus`, and all targets with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import fuzzing
from tests.fuzz.fuzzing import HOSTILE, Findings
from tests.fuzz.target import CORPUS, Target, TooSlow
from tests.fuzz.targets import kinds, targets_of

_MOST = 200_000  # bytes of all that is kept
_OF = kinds()


@pytest.fixture(params=_OF)
def target(request: pytest.FixtureRequest) -> Target:
    name: str = request.param
    return targets_of(_OF[name])[name]


def test_what_is_whole_is_taken(target: Target) -> None:
    """Else a target might refuse all that it is given, and nothing would ever be found."""
    kept = [path.read_bytes() for path in target.corpus() if path.name.startswith("whole")]
    whole = [*target.whole(), *kept]
    assert whole
    assert all(map(target.takes, whole))


def test_what_is_kept_is_read_or_refused(target: Target) -> None:
    for data in [b"", *(path.read_bytes() for path in target.corpus())]:
        target.takes(data)


def test_what_is_hostile_is_read_or_refused(target: Target) -> None:
    for data in HOSTILE if target.quick else ():
        target.takes(data)


def test_all_that_is_kept_is_small_and_of_a_target() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < _MOST
    assert {path.parent for path in files} <= {CORPUS / name for name in _OF}


def test_what_must_not_be_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.target._SECONDS", 0.05)

    def read(data: bytes) -> object:
        while data == b"slow":
            pass
        if data == b"large":
            return bytearray(3 << 30)
        if data == b"other":
            raise KeyError(data)
        return int("")

    target = Target("a", read, (ValueError,))
    assert not target.takes(b"refused")
    for data, found in ((b"slow", TooSlow), (b"large", MemoryError), (b"other", KeyError)):
        with pytest.raises(found):
            target.takes(data)


def test_what_is_found_is_kept_once_for_each_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read(data: bytes) -> None:
        if data.startswith(b"a"):
            raise KeyError(data)
        raise ValueError(data)

    monkeypatch.setattr(fuzzing, "FOUND", tmp_path)
    monkeypatch.setattr(fuzzing, "targets_of", lambda _: {"a": Target("a", read, (ValueError,))})
    found = Findings("kind", "a", 1.0)
    for data in (b"refused", b"a1", b"a2"):
        found.tried(data)
        assert (tmp_path / "a" / "last").read_bytes() == data
    [place] = found.places.values()
    assert Path(place).read_bytes() == b"a1"
    assert (found.executions, found.taken) == (3, 0)
