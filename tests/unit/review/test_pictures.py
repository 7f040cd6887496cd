from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from imagetag.review import NoPicture, Pictures, read_bounded
from imagetag.storage import LocalStorage


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_made_anew_no_larger_than_asked_for_and_read_once() -> None:
    read = []

    def file(name: str) -> bytes:
        read.append(name)
        return png(800, 400)

    pictures = Pictures(file)
    for _ in range(2):
        with Image.open(io.BytesIO(pictures.get("a", 320))) as shown:
            assert (shown.format, shown.size) == ("JPEG", (320, 160))
    assert read == ["a"]
    with Image.open(io.BytesIO(pictures.get("a", 1600))) as shown:
        assert shown.size == (800, 400)  # it does not grow


def test_the_least_recently_seen_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def file(name: str) -> bytes:
        read.append(name)
        return png(10, 10)

    monkeypatch.setattr("imagetag.review.pictures._KEPT", 2 * len(Pictures(file).get("x", 9)))
    pictures = Pictures(file)
    read.clear()
    for name in "abacb":
        pictures.get(name, 9)
    assert "".join(read) == "abcb"


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg onload=alert(1)>", png(10, 10)[:50]],
    ids=["empty", "svg", "cut off"],
)
def test_what_is_no_picture_is_not_shown(data: bytes) -> None:
    with pytest.raises(NoPicture, match="decoded"):
        Pictures(lambda _: data).get("a", 320)


def test_a_file_that_is_gone_or_too_large_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(NoPicture, match="not in storage"):
        read_bounded(storage, "a.jpg")
    storage.write("a.jpg", b"1234")
    assert read_bounded(storage, "a.jpg") == b"1234"
    monkeypatch.setattr("imagetag.review.pictures._MAX_FILE", 3)
    with pytest.raises(NoPicture, match="larger"):
        read_bounded(storage, "a.jpg")
