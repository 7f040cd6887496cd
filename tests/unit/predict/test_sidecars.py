"""Sidecars as hydrus and kohya's tools read them; what is there stays, and tags are added once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from imagetag.errors import UsageError
from imagetag.predict.sidecars import Sidecars, Style
from imagetag.predict.sources import Picture, StoredPictures
from imagetag.storage.base import ObjectInfo
from imagetag.storage.local import LocalStorage
from tests.predicting import noise, write
from tests.unit.predict.test_classifiers import Any_


def picture_of(key: str) -> Picture:
    return Picture(key, key, "", origin=ObjectInfo(key, 1))


def written(folder: Path, style: Style, *tags: str, key: str = "b.c/a.x.png") -> list[str]:
    """Add tags to a picture's sidecar, and return all files that are there then."""
    write(folder, key, noise(0))
    Sidecars(style, StoredPictures(LocalStorage(folder))).add(picture_of(key), tags)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_hydrus_has_the_whole_name_and_a_tag_a_line(tmp_path: Path) -> None:
    assert written(tmp_path, "hydrus", "fox", "re:zero") == ["b.c/a.x.png", "b.c/a.x.png.txt"]
    assert (tmp_path / "b.c/a.x.png.txt").read_bytes() == b"fox\nre:zero\n"


def test_kohya_has_the_stem_and_one_line_with_commas(tmp_path: Path) -> None:
    assert written(tmp_path, "kohya", "fox", "re:zero") == ["b.c/a.x.png", "b.c/a.x.txt"]
    assert (tmp_path / "b.c/a.x.txt").read_bytes() == b"fox, re:zero\n"


@pytest.mark.parametrize(
    ("style", "before", "after"),
    [
        ("hydrus", "owl", "owl\nfox\n"),
        ("hydrus", "owl\r\nfox\r\n", None),
        ("hydrus", "\ufefffox", None),
        ("hydrus", "foxglove\n", "foxglove\nfox\n"),
        ("kohya", "owl", "owl, fox\n"),
        ("kohya", "1girl, owl,\n", "1girl, owl, fox\n"),
        ("kohya", "owl ,fox, x", None),
        ("kohya", "A red fox runs.\nsecond line", "A red fox runs., fox\nsecond line"),
        ("kohya", "\n", "fox\n"),
    ],
)
def test_what_is_there_stays_and_a_tag_is_added_once(
    style: Style, before: str, after: str | None, tmp_path: Path
) -> None:
    path = tmp_path / ("a.png.txt" if style == "hydrus" else "a.txt")
    path.write_bytes(before.encode())
    os.utime(path, ns=(1, 1))
    for _ in range(2):
        written(tmp_path, style, "fox", key="a.png")
        assert path.read_bytes().decode() == (before if after is None else after)
    if after is None:
        assert path.stat().st_mtime_ns == 1


def test_a_link_and_who_may_read_it_stay(tmp_path: Path) -> None:
    target = tmp_path / "mine.txt"
    target.write_text("owl\n")
    target.chmod(0o600)
    (tmp_path / "a.txt").symlink_to("mine.txt")
    written(tmp_path, "kohya", "fox", key="a.png")
    assert (tmp_path / "a.txt").is_symlink()
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("owl, fox\n", 0o600)


@pytest.mark.parametrize("there", ["a.txt/x", "elsewhere"])
def test_what_is_no_place_for_a_sidecar_is_named_and_stops_nothing(
    there: str, tmp_path: Path
) -> None:
    source = write(tmp_path, "pictures/sub/a.png", noise(0)).parent.parent
    (tmp_path / "to").mkdir()
    if there == "elsewhere":
        (tmp_path / "to/sub").write_text("mine")
    else:
        (tmp_path / "to/sub/a.txt").mkdir(parents=True)
    sidecars = Sidecars(
        "kohya", StoredPictures(LocalStorage(source)), LocalStorage(tmp_path / "to")
    )
    with capture_logs() as logs:
        sidecars.add(picture_of("sub/a.png"), ["fox"])
    assert [line["event"] for line in logs] == ["no sidecar is written"]


def test_what_another_pod_of_the_same_process_id_is_writing_stays_its_own(tmp_path: Path) -> None:
    others = tmp_path / f".imagetag-{os.getpid()}"
    others.write_text("owl\n")
    written(tmp_path, "hydrus", "fox", key="a.png")
    assert others.read_text() == "owl\n"


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"a" * ((1 << 20) + 1)])
def test_what_is_no_text_is_left_alone_and_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with capture_logs() as logs:
        written(tmp_path, "kohya", "fox", key="a.png")
    assert (tmp_path / "a.txt").read_bytes() == data
    assert [(line["event"], line["sidecar"]) for line in logs] == [
        ("no sidecar is written", "a.txt")
    ]


def test_a_folder_of_ones_own_gets_them_with_their_folders(tmp_path: Path) -> None:
    write(tmp_path, "in/b/a.png", noise(0))
    source = StoredPictures(LocalStorage(tmp_path / "in"))
    Sidecars("hydrus", source, LocalStorage(tmp_path / "out")).add(picture_of("b/a.png"), ["fox"])
    assert (tmp_path / "out/b/a.png.txt").read_text() == "fox\n"
    assert [path.name for path in (tmp_path / "in/b").iterdir()] == ["a.png"]


def test_what_is_on_a_server_needs_a_folder_and_has_its_last_name(tmp_path: Path) -> None:
    url = "https://example.org/x/..%2Fa%20b.png?c=d"
    with pytest.raises(UsageError, match="--sidecars-folder"):
        Sidecars("kohya", Any_()).add(Picture(url, url, ""), ["fox"])
    for address in (url, "https://example.org/"):
        Sidecars("kohya", Any_(), LocalStorage(tmp_path)).add(
            Picture(address, address, ""), ["fox"]
        )
    names = {path.name for path in tmp_path.iterdir()}
    assert "a_b.txt" in names
    assert len(names) == 2


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    source = StoredPictures(LocalStorage(tmp_path))
    with pytest.raises(UsageError, match=r"a\.txt cannot be written"):
        Sidecars("kohya", source).add(picture_of("a.png"), ["fox"])
