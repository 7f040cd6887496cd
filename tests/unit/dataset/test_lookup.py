"""A tag, run or pack that storage lacks is told with those that it has, before anything slow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imagetag import log
from imagetag.dataset.lookup import check_dataset, check_pack, check_run, repair_latest, tags_in
from imagetag.errors import InputError, UsageError
from imagetag.job.job import for_each_tag, judge_tags
from imagetag.job.settings import TagSettings
from imagetag.layout import Layout
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path)
    for tag in ("animal", "re:zero", "fox"):
        storage.write(Layout(tag).dataset, b"{}")
    layout = Layout("animal")
    for run in ("vgg19-1234", "mobilenet-88"):
        storage.write(layout.run(run, "metrics.json"), b"{}")
    storage.write(layout.run("under-way", "checkpoint/a"), b"")
    storage.write(layout.latest, b"vgg19-1234\n")
    storage.write(layout.packed("224", "index.json"), b"{}")
    storage.write(layout.latest_packed, b"224\n")
    storage.write(".shared/00/00.json", b"{}")
    return storage


def test_what_is_there_is_well(storage: LocalStorage) -> None:
    assert list(tags_in(storage)) == ["animal", "fox", "re:zero"]
    check_dataset(storage, "re:zero")
    check_run(storage, "animal", "latest")
    check_run(storage, "animal", "mobilenet-88")
    check_pack(storage, "animal", "latest")
    check_pack(storage, "animal", "224")


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (
            lambda s: check_dataset(s, "anmal"),
            "no complete dataset of the tag 'anmal' in S: there are animal, fox, re:zero; or run "
            "imagetag scrape --tags anmal first",
        ),
        (
            lambda s: check_run(s, "foxx", "latest"),
            "no trained model of the tag 'foxx' in S: there are fox, re:zero, animal; or run "
            "imagetag train --tags foxx first",
        ),
        (
            lambda s: check_run(s, "fox", "latest"),
            "no trained model of the tag 'fox' in S: run imagetag train --tags fox first",
        ),
        (
            lambda s: check_run(s, "animal", "vgg19"),
            "no complete run 'vgg19' of the tag 'animal' in S: there are vgg19-1234, mobilenet-88; "
            "or run imagetag train --tags animal first",
        ),
        (
            lambda s: check_run(s, "animal", "under-way"),
            "no complete run 'under-way' of the tag 'animal' in S: there are mobilenet-88, "
            "vgg19-1234; or run imagetag train --tags animal first",
        ),
        (
            lambda s: check_pack(s, "animal", "225"),
            "no complete pack '225' of the tag 'animal' in S: there are 224; or run imagetag pack "
            "--tags animal first",
        ),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    storage: LocalStorage, check: Callable[[LocalStorage], None], says: str
) -> None:
    with pytest.raises(InputError) as error:
        check(storage)
    assert str(error.value).replace(storage.url, "S") == says


def test_a_folder_that_is_only_read_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    wrong, right = str(tmp_path / "dta"), str(tmp_path / "data")
    with pytest.raises(UsageError, match=r"--storage .*dta: there is no such folder; did you mean"):
        open_storage(wrong, existing=True)
    with pytest.raises(UsageError, match="there is no such folder"):
        open_storage(f"file://{wrong}", existing=True)
    assert open_storage(right, existing=True).url == right
    assert open_storage(wrong).url == wrong
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_tags_that_cannot_be_worked_on_are_told_before_the_others_are(
    storage: LocalStorage, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = TagSettings(storage=storage.url, tags=("fox", "foxx", "animal"))
    worked: list[str] = []
    log.configure("json", "info")
    failures = judge_tags(settings, lambda tag: check_dataset(storage, tag))
    [line] = map(json.loads, capfd.readouterr().err.splitlines())
    assert line["tag"] == "foxx"
    assert line["exit_code"] == 3
    with pytest.raises(InputError, match=r"^1 of 3 tags failed: foxx$"):
        for_each_tag(settings, worked.append, failures=failures)
    assert worked == ["fox", "animal"]


def test_where_no_tag_is_left_nothing_is_begun(storage: LocalStorage) -> None:
    one = TagSettings(storage=storage.url, tags=("foxx",))
    with pytest.raises(InputError, match="no complete dataset of the tag 'foxx'"):
        judge_tags(one, lambda tag: check_dataset(storage, tag))
    two = TagSettings(storage=storage.url, tags=("foxx", "anmal"))
    with pytest.raises(InputError, match="2 of 2 tags failed: foxx, anmal"):
        judge_tags(two, lambda tag: check_dataset(storage, tag))


def test_tags_are_judged_at_once_and_told_in_their_order(
    storage: LocalStorage, capfd: pytest.CaptureFixture[str]
) -> None:
    last = threading.Event()

    def check(tag: str) -> None:
        if tag == "foxx":
            assert last.wait(60), "one alone would wait for the other in vain"
        try:
            check_dataset(storage, tag)
        finally:
            if tag == "anmal":
                last.set()

    settings = TagSettings(storage=storage.url, tags=("foxx", "anmal"))
    log.configure("json", "info")
    with pytest.raises(InputError, match="2 of 2 tags failed: foxx, anmal"):
        judge_tags(settings, check)
    lines = map(json.loads, capfd.readouterr().err.splitlines())
    assert [line["tag"] for line in lines] == ["foxx", "anmal"]


@pytest.mark.parametrize(
    ("newest", "names"),
    [
        (None, "mine"),
        ("2026-01-01T00:00:00+00:00", "mine"),
        ("2026-01-03T00:00:00+00:00", "other"),
        ("2026-01-02T00:00:00+00:00", "other"),
    ],
)
def test_latest_is_mended_where_it_names_nothing_or_an_older_one(
    newest: str | None, names: str, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("fox/models/LATEST", b"other\n")

    def created() -> str:
        if newest is None:
            raise InputError("no complete run")
        return newest

    repair_latest(storage, "fox/models/LATEST", "mine", "2026-01-02T00:00:00+00:00", created)
    assert storage.read("fox/models/LATEST").decode() == f"{names}\n"
