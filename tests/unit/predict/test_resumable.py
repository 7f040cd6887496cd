"""An output that can be gone on with, after any end, and is the same as in one go."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from structlog.testing import capture_logs

from imagetag.errors import InputError, TransientError, UsageError
from imagetag.predict import resumable as parts_module
from imagetag.predict.resumable import About, Parts
from imagetag.predict.sources import Cursor, Picture, Source
from imagetag.predict.writers import Answers, Kind, Shape, Table
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from tests.storages import Late

BATCH = 4
REQUEST = {"model": "tiny"}
TABLE = Table("long", ["fox"])


class Numbers(Source):
    """Pictures by name; `versions` tells which are not what they were."""

    def __init__(
        self,
        names: list[str],
        versions: Mapping[str, str] | None = None,
        *,
        cursors: bool = False,
    ) -> None:
        self.names, self.versions, self.cursors = names, versions or {}, cursors
        self.identity = {"names": True}
        self.listed: list[str] = []

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:
        for place, name in enumerate(self.names):
            if after and place <= after["place"]:
                continue
            self.listed.append(name)
            cursor = {"place": place} if self.cursors else None
            yield Picture(name, name, self.versions.get(name, "0"), cursor=cursor)

    def read(self, picture: Picture) -> bytes:
        raise NotImplementedError

    def save(self, picture: Picture, path: Path) -> None:
        raise NotImplementedError

    def forget(self, picture: Picture) -> None:
        raise NotImplementedError


def names(count: int) -> list[str]:
    return [f"{number:03}.png" for number in range(count)]


def answers_of(picture: Picture) -> Answers:
    number = int(picture.name[:3])
    if number % 7 == 3:
        return Answers(picture.file, "", "missing: gone")
    return Answers(picture.file, "", None, [number / 1000], [number % 2 == 0])


def everybody(_: Picture) -> bool:
    return True


class Killed(Exception):
    """What ends a run in these tests."""


@pytest.fixture
def target(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "target")


@pytest.fixture(autouse=True)
def _a_part_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(parts_module, "_SHARE", 0.0)


def predict(
    target: Storage,
    source: Source,
    *,
    stop_after: int | None = None,
    request: Mapping[str, Any] = REQUEST,
    kind: Kind = "csv",
    save: bool = False,
    mine: Callable[[Picture], bool] = everybody,
    batch: int = BATCH,
) -> tuple[list[str], Parts]:
    """Make all rows that are missing; returns the pictures that it took, and what made them."""
    parts = Parts(target, f"out.{kind}", request, TABLE, batch=batch)
    done: list[str] = []
    try:
        for picture in parts.remaining(source, mine):
            if len(done) == stop_after:
                raise Killed
            parts.add(picture, answers_of(picture))
            done.append(picture.name)
    except Killed:
        if save:
            parts.save_at_last()
        raise
    parts.finish(kind)
    return done, parts


def stopped(target: Storage, source: Source, after: int, **how: Any) -> None:
    with pytest.raises(Killed):
        predict(target, source, stop_after=after, **how)


def keys(target: Storage) -> list[str]:
    return [entry.key for entry in target.list()]


def test_parts_that_are_listed_late_are_removed_all_the_same(target: LocalStorage) -> None:
    late = Late(target, lambda key: ".parts/" in key)
    stopped(late, Numbers(names(23)), 9)
    assert len(keys(target)) == 2
    done, _ = predict(late, Numbers(names(23)))
    assert len(done) == 23 - 2 * BATCH
    assert keys(target) == ["out.csv", "out.csv.about.json"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("stop_after", [0, 3, 4, 9, 21, 22])
@pytest.mark.parametrize("cursors", [False, True])
def test_a_killed_run_goes_on_and_ends_the_same(
    kind: Kind, stop_after: int, cursors: bool, target: LocalStorage, tmp_path: Path
) -> None:
    source = Numbers(names(23), cursors=cursors)
    whole = LocalStorage(tmp_path / "whole")
    predict(whole, source, kind=kind)
    stopped(target, source, stop_after, kind=kind)
    assert keys(target) == [f"out.{kind}.parts/{i:010}.jsonl" for i in range(0, stop_after - 3, 4)]
    done, parts = predict(target, source, kind=kind)
    assert done == names(23)[stop_after // BATCH * BATCH :]
    assert parts.reused == stop_after // BATCH * BATCH
    assert target.read(f"out.{kind}") == whole.read(f"out.{kind}")
    assert keys(target) == [f"out.{kind}", f"out.{kind}.about.json"]
    assert not (tmp_path / "target" / f"out.{kind}.parts").exists()
    abouts = [About.model_validate_json(s.read(f"out.{kind}.about.json")) for s in (target, whole)]
    assert abouts[0].model_copy(update={"created": abouts[1].created}) == abouts[1]
    assert (abouts[0].rows, abouts[0].positives, abouts[0].errors) == (23, 11, {"missing": 3})


def test_it_may_be_killed_many_times(target: LocalStorage) -> None:
    source = Numbers(names(30))
    for _ in range(6):
        stopped(target, source, 5)
    done, _ = predict(target, source)
    assert done == names(30)[24:]
    assert [row.split(b",")[0].decode() for row in target.read("out.csv").splitlines()[1:]] == (
        names(30)
    )


@pytest.mark.parametrize("write", [1, 2, 3, 4, 5, 6])
def test_a_kill_at_any_write_loses_nothing(
    write: int, target: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three parts, that it is being replaced, the output, and what it is of."""
    source = Numbers(names(10))
    whole = LocalStorage(tmp_path / "whole")
    predict(whole, source)
    real, count = LocalStorage.write, 0

    def cut_off(self: LocalStorage, key: str, data: Any) -> None:
        nonlocal count
        count += 1
        if count == write:
            raise Killed
        real(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", cut_off)
        with pytest.raises(Killed):
            predict(target, source)
    assert (target.stat("out.csv") is not None) == (write == 6)
    predict(target, source)
    assert target.read("out.csv") == whole.read("out.csv")
    assert keys(target) == keys(whole)


def test_what_is_not_a_whole_batch_is_made_again(target: LocalStorage) -> None:
    """So that each picture is in the same place of a batch as it would have been."""
    source = Numbers(names(10))
    stopped(target, source, 6, save=True)
    assert keys(target) == ["out.csv.parts/0000000000.jsonl"]
    parts = Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH)
    for picture in parts.remaining(source, everybody):
        parts.add(picture, answers_of(picture))
    parts._store(2)  # the last, which has not the length of a batch
    assert keys(target)[-1] == "out.csv.parts/0000000008.jsonl"
    done, _ = predict(target, source)
    assert done == names(10)[8:]
    # A batch of another length: what fits it.
    stopped(target, source, 9, request={"model": "other"})
    done, _ = predict(target, source, request={"model": "other"}, batch=3)
    assert done == names(10)


def test_rows_are_saved_when_a_run_is_stopped(
    target: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "_LEAST_SECONDS", 1000.0)
    monkeypatch.setattr(parts_module, "_MOST_SECONDS", 1000.0)
    source = Numbers(names(30))
    stopped(target, source, 17)
    assert keys(target) == []
    stopped(target, source, 17, save=True)
    assert keys(target) == ["out.csv.parts/0000000000.jsonl"]
    done, parts = predict(target, source)
    assert (done[0], parts.reused) == ("016.png", 16)


def test_what_cannot_be_saved_is_told_and_not_waited_for(
    target: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TransientError("the storage is down")

    monkeypatch.setattr(parts_module, "_LEAST_SECONDS", 1000.0)
    monkeypatch.setattr(LocalStorage, "write", fail)
    with capture_logs() as logs:
        stopped(target, Numbers(names(9)), 8, save=True)
    assert [line["error"] for line in logs] == ["the storage is down"]


@pytest.mark.parametrize(
    ("rows", "seconds", "writes"), [(5000, 0.0, 1), (4999, 0.0, 0), (8, 11.0, 1), (8, 9.0, 0)]
)
def test_parts_are_written_now_and_then(
    rows: int, seconds: float, writes: int, target: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "_LEAST_SECONDS", 10.0)
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    parts = Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH)
    for number, picture in enumerate(Numbers(names(rows)).pictures()):
        if number == rows - 1:
            now[0] += seconds
        parts.add(replace(picture), Answers(picture.file, "", None, [0.5], [True]))
    assert len(keys(target)) == writes


@pytest.mark.parametrize(
    "request_now",
    [{"model": "other"}, {"model": "tiny", "threshold": 0.5}],
)
def test_another_request_uses_nothing_of_it(
    request_now: dict[str, Any], target: LocalStorage
) -> None:
    source = Numbers(names(20))
    stopped(target, source, 9)
    done, _ = predict(target, source, request=request_now)
    assert done == names(20)
    assert keys(target) == ["out.csv", "out.csv.about.json"]


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        (Numbers([*names(6), "0055.png", *names(20)[6:]]), 4),
        (Numbers(names(20)[1:]), 0),
        (Numbers(names(20), {"009.png": "new"}), 8),
        (Numbers(names(20), {"016.png": "new"}), 16),
        (Numbers(names(25)), 16),
        (Numbers(names(14)), 12),
        (Numbers(names(12)), 12),
    ],
)
def test_where_the_input_has_changed_rows_are_made_again(
    changed: Numbers, kept: int, target: LocalStorage, tmp_path: Path
) -> None:
    stopped(target, Numbers(names(20)), 17)
    with capture_logs() as logs:
        done, parts = predict(target, changed)
    assert parts.reused == kept
    assert done == changed.names[kept:]
    whole = LocalStorage(tmp_path / "whole")
    predict(whole, changed)
    assert target.read("out.csv") == whole.read("out.csv")
    told = [line for line in logs if line["event"] == "the input has changed since"]
    assert [line["images"] for line in told] == [kept] * (kept < 16)


def test_leftovers_of_another_input_are_not_taken_up_behind_new_rows(target: LocalStorage) -> None:
    stopped(target, Numbers(names(24)), 20)
    changed = Numbers(names(24), {"005.png": "new"})
    stopped(target, changed, 9)  # so there are old parts from row 12 on
    done, _ = predict(target, changed)
    assert done == names(24)[12:]


def test_what_is_listed_behind_a_cursor_is_not_asked_for_again(target: LocalStorage) -> None:
    source = Numbers(names(20), cursors=True)
    stopped(target, source, 9)
    # Newer ones, and one of those before is gone.
    later = Numbers(["900.png", "901.png", *names(20)[1:]], cursors=True)
    source.listed = []
    done, parts = predict(target, source)
    assert source.listed == done == names(20)[8:]
    assert parts.reused == 8
    assert len(target.read("out.csv").splitlines()) == 21
    assert Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH).done(later, everybody) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: data.replace(b"0.005", b"0.995"),
        lambda data: data.replace(b'"first":4', b'"first":5'),
        lambda data: b"",
        lambda data: b"{}\n",
        lambda data: b"\xff\xfe\x00" * 50,
        lambda data: data.replace(b'"version":2', b'"version":3'),
        lambda data: data.replace(b'"pictures":4', b'"pictures":1'),
    ],
)
def test_a_damaged_part_is_made_again(
    damage: Callable[[bytes], bytes], target: LocalStorage, tmp_path: Path
) -> None:
    source = Numbers(names(20))
    stopped(target, source, 17)
    key = "out.csv.parts/0000000004.jsonl"
    before = target.read(key)
    assert damage(before) != before
    target.write(key, damage(before))
    done, _ = predict(target, source)
    assert done == names(20)[4:]
    whole = LocalStorage(tmp_path / "whole")
    predict(whole, source)
    assert target.read("out.csv") == whole.read("out.csv")


def test_a_part_that_is_lost_meanwhile_is_a_passing_failure(target: LocalStorage) -> None:
    source = Numbers(names(20))
    parts = Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH)
    for picture in parts.remaining(source, everybody):
        parts.add(picture, answers_of(picture))
    target.delete("out.csv.parts/0000000004.jsonl")
    with pytest.raises(TransientError, match=r"out\.csv\.parts/0000000004\.jsonl is gone"):
        parts.finish("csv")
    assert target.stat("out.csv") is None
    assert predict(target, source)[0] == names(20)[4:]


# ---- a complete output


def test_a_complete_output_is_known_again(target: LocalStorage) -> None:
    source = Numbers(names(10))
    predict(target, source)

    def done(other: Source = source, request: Mapping[str, Any] = REQUEST) -> About | None:
        return Parts(target, "out.csv", request, TABLE, batch=BATCH).done(other, everybody)

    about = done()
    assert about is not None
    assert (about.rows, about.positives, about.errors) == (10, 5, {"missing": 1})
    assert done(Numbers(names(9))) is None
    assert done(Numbers(names(11))) is None
    assert done(Numbers(names(10), {"009.png": "new"})) is None
    assert done(request={"model": "other"}) is None
    # One that has changed at its beginning, as a board has, is not listed to its end.
    changed = Numbers(["999.png", *names(10)])
    assert done(changed) is None
    assert changed.listed == ["999.png"]


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("out.csv", None),
        ("out.csv", b"cut"),
        ("out.csv.about.json", None),
        ("out.csv.about.json", b"{"),
        ("out.csv.about.json", b'{"version":1}'),
        ("out.csv.about.json", b"\xff\xff"),
    ],
)
def test_an_output_that_was_touched_is_not_taken_for_complete(
    key: str, data: bytes | None, target: LocalStorage
) -> None:
    source = Numbers(names(10))
    predict(target, source)
    if data is None:
        target.delete(key)
    else:
        target.write(key, data)
    parts = Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH)
    assert parts.done(source, everybody) is None
    predict(target, source)
    assert parts.done(source, everybody) is not None


def test_while_an_output_is_replaced_none_passes_for_complete(
    target: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Numbers(names(8))
    predict(target, source)
    real = LocalStorage.write

    def cut_off(self: LocalStorage, key: str, data: Any) -> None:
        if key.endswith("about.json") and b"version" in data:
            raise Killed
        real(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", cut_off)
        with pytest.raises(Killed):
            predict(target, source, request={"model": "new"})
    parts = Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH)
    parts.check_place()
    assert parts.done(source, everybody) is None


def test_somebodys_file_is_no_output_to_be_replaced(target: LocalStorage) -> None:
    parts = Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH)
    target.write("out.csv", b"url\na.png\n")
    with pytest.raises(UsageError, match=r"out\.csv is there already"):
        parts.check_place()
    target.delete("out.csv")
    predict(target, Numbers(names(3)))
    parts.check_place()
    target.delete("out.csv.about.json")
    with pytest.raises(UsageError, match=r"out\.csv is there already"):
        parts.check_place()
    target.write("out.csv.parts/0000000000.jsonl", b"")
    parts.check_place()
    target.write("folder.csv/a", b"")
    with pytest.raises(UsageError, match="is a folder"):
        Parts(target, "folder.csv", REQUEST, TABLE, batch=BATCH).check_place()
    with pytest.raises(UsageError, match="no file can have that name"):
        Parts(target, f"{'x' * 250}.csv", REQUEST, TABLE, batch=BATCH).check_place()


def test_shards_have_each_picture_once(target: LocalStorage) -> None:
    source = Numbers(names(20))
    shards = [
        predict(
            LocalStorage(Path(target.url) / str(index)),
            source,
            mine=lambda picture, index=index: int(picture.name[:3]) % 3 == index,  # type: ignore[misc]
        )[0]
        for index in range(3)
    ]
    assert sorted(itertools.chain(*shards)) == names(20)
    assert all(shard == sorted(shard) for shard in shards)


def test_a_shard_without_pictures_is_an_empty_output(target: LocalStorage) -> None:
    source = Numbers(names(5))
    done, _ = predict(target, source, mine=lambda _: False)
    assert done == []
    assert target.read("out.csv") == b"file,page_url,probability,decision,error,tag\r\n"
    parts = Parts(target, "out.csv", REQUEST, TABLE, batch=BATCH)
    assert parts.done(source, lambda _: False) is not None
    assert parts.done(source, everybody) is None


def test_rows_wait_for_what_must_come_first(target: LocalStorage) -> None:
    seen: list[int] = []
    parts = Parts(
        target, "out.csv", REQUEST, TABLE, batch=BATCH, ready=lambda: seen.append(len(keys(target)))
    )
    for picture in Numbers(names(10)).pictures():
        parts.add(picture, answers_of(picture))
    parts.finish("csv")
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("shape", get_args(Shape))
def test_several_tags_are_gone_on_with(shape: Shape, target: LocalStorage, tmp_path: Path) -> None:
    table = Table(shape, ["fox", "owl"])

    def made(storage: LocalStorage, stop_after: int | None = None) -> About:
        parts = Parts(storage, "out.csv", REQUEST, table, batch=BATCH)
        for done, picture in enumerate(parts.remaining(source, everybody)):
            if done == stop_after:
                raise Killed
            one = answers_of(picture)
            parts.add(
                picture,
                replace(
                    one, probabilities=[*one.probabilities] * 2, decisions=[*one.decisions] * 2
                ),
            )
        return parts.finish("csv")

    source = Numbers(names(23))
    whole = LocalStorage(tmp_path / "whole")
    about = made(whole)
    assert (about.images, about.rows) == (23, 46 if shape == "long" else 23)
    assert (about.positives, about.errors) == (22, {"missing": 3})
    with pytest.raises(Killed):
        made(target, 9)
    assert len(keys(target)) == 2
    made(target)
    assert target.read("out.csv") == whole.read("out.csv")


def test_parts_have_the_fewer_pictures_the_more_tags_there_are(
    target: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "_LEAST_SECONDS", 1e9)
    monkeypatch.setattr(parts_module, "_MOST_SECONDS", 1e9)
    monkeypatch.setattr(parts_module, "_MOST_ANSWERS", 24)
    parts = Parts(target, "out.csv", REQUEST, Table("wide", ["fox", "owl", "bat"]), batch=BATCH)
    for picture in Numbers(names(23)).pictures():
        parts.add(picture, Answers(picture.file, "", None, [0.5] * 3, [True] * 3))
    assert keys(target) == ["out.csv.parts/0000000000.jsonl", "out.csv.parts/0000000008.jsonl"]


def test_no_picture_at_all_is_told(target: LocalStorage) -> None:
    class Empty(Numbers):
        def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:
            raise InputError("nothing there")
            yield

    with pytest.raises(InputError):
        predict(target, Empty([]))
    assert keys(target) == []


def test_parts_hold_any_text(target: LocalStorage) -> None:
    picture = Picture("x", "x", "")
    parts = Parts(target, "out.jsonl", REQUEST, TABLE, batch=1)
    texts = ["初音ミク\u2028\r\n.png", '"quoted"', "half \ud800"]
    for text in texts:
        parts.add(picture, Answers(text, "", f"bad: {text}"))
    parts.finish("jsonl")
    rows = [json.loads(line) for line in target.read("out.jsonl").decode().split("\n")[:-1]]
    assert [row["file"] for row in rows] == [*texts[:2], "half ?"]
    assert open_storage(target.url).stat("out.jsonl.about.json") is not None
