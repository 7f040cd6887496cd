"""Arrays are read whole and within bounds, or refused as what they are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from imagetag.storage import read_arrays


def archive(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def with_member(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr(name, content)
    return file.getvalue()


def test_what_is_in_it_is_read() -> None:
    found = read_arrays(archive(a=np.arange(3), b=np.ones((2, 2), np.float16)), 1000)
    assert sorted(found) == ["a", "b"]
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"].dtype == np.float16


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    data = archive(a=np.zeros(1_000_000))
    assert len(data) < 20_000
    assert read_arrays(data, 8_001_000)["a"].size == 1_000_000
    with pytest.raises(ValueError, match="it unpacks to 8,000,128 bytes"):
        read_arrays(data, 1_000_000)


def claims(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return with_member("a.npy", b"\x93NUMPY\x01\x00" + b"\x76\x00" + header.encode())


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"PK",
        lambda: archive(a=np.arange(9))[:-9],
        lambda: with_member("a", b"no array"),
        lambda: with_member("a.npy", b"no array"),
        lambda: claims("(1000000000000000,)"),
        lambda: claims("(-1,)"),
        lambda: claims("(" * 80),
        lambda: archive(a=np.array([{}], object)),
    ],
)
def test_what_is_no_such_archive_is_a_value_error_of_one_line(make: Callable[[], bytes]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_arrays(make())
