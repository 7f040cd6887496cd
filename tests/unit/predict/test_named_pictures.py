"""Pictures that are named one by one, or in a list, wherever each of them is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from imagetag.errors import InputError, UsageError
from imagetag.imaging.images import BadImage
from imagetag.predict.named_pictures import Named, grouped, spooled
from imagetag.predict.sources import Several, StoredPictures
from imagetag.storage.local import LocalStorage
from tests.predicting import noise, write


def test_paths_are_read_in_their_order_with_commas_and_blanks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, name in enumerate(("b, c.png", "a.png")):
        write(tmp_path, name, noise(number))
    names = (f"{tmp_path}/b, c.png", "~/a.png", f"{tmp_path}/none.png", f"{tmp_path}")
    source = Named(names, None)
    assert source.local
    found = list(source.pictures())
    assert tuple(picture.file for picture in found) == names
    assert [Path(str(source.read(found[i]))).read_bytes() for i in (0, 1)] == [noise(0), noise(1)]
    for picture, reason in zip(found[2:], ("missing", "no_file"), strict=True):
        with pytest.raises(BadImage) as caught:
            source.read(picture)
        assert caught.value.reason == reason
    storage, key = source.home(found[1]) or (None, "")
    assert storage is not None
    assert (storage.url, key) == (str(tmp_path), "a.png")


def test_a_path_that_changes_has_another_version(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", b"one")
    source = Named((str(path),), None)
    [before] = source.pictures()
    os.utime(path, ns=(1, 1))
    [after] = source.pictures()
    assert before.version != after.version


def test_a_list_is_read_twice_though_it_came_once(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbfb.png\r\n", b"\n", b"  \n", b"s3://bucket/c,d.png\n", b"\xff.png"]
    source = Named(spooled(iter(lines), tmp_path / "names"), None)
    for _ in range(2):
        names = [picture.file for picture in source.pictures()]
        assert names == ["b.png", "s3://bucket/c,d.png", "\udcff.png"]
    assert not source.local


def test_what_is_no_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no list of paths and URLs"):
        spooled([b"\x89PNG\0\n"], tmp_path / "names")
    with pytest.raises(InputError, match="standard input names no picture"):
        list(Named(spooled([b"\n"], tmp_path / "names"), None).pictures())


@pytest.mark.parametrize("name", ["ftp://example.org/a.png", "s3:///a.png"])
def test_what_is_no_place_is_an_error_of_its_row(name: str) -> None:
    source = Named((name,), None)
    [picture] = source.pictures()
    with pytest.raises(BadImage, match="is no path, s3://bucket/key or http URL"):
        source.read(picture)


def test_names_in_a_row_are_read_together() -> None:
    names = [("a", True), ("b", True), ("folder", False), ("other", False), ("c", True)]
    assert list(grouped(names)) == [
        (True, ("a", "b")),
        (False, ("folder",)),
        (False, ("other",)),
        (True, ("c",)),
    ]


def test_several_folders_keep_their_pictures_apart(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        write(tmp_path, f"{folder}/a.png", noise(number))
    (tmp_path / "empty").mkdir()
    source = Several(
        [
            (f"{name}/", StoredPictures(LocalStorage(tmp_path / name)))
            for name in ("one", "empty", "two")
        ]
    )
    with capture_logs() as logs:
        found = list(source.pictures())
    assert [picture.file for picture in found] == ["one/a.png", "two/a.png"]
    assert len({picture.name for picture in found}) == 2
    assert [line["log_level"] for line in logs] == ["warning"]
    assert [Path(str(source.read(picture))).read_bytes() for picture in found] == [
        noise(0),
        noise(1),
    ]
    source.save(found[1], tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == noise(1)
    with pytest.raises(InputError, match="none of the inputs has an image"):
        list(Several([("", StoredPictures(LocalStorage(tmp_path / "empty")))]).pictures())
