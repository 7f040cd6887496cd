"""Curation: no twin on both sides of a split, whatever happens while it is at work."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from PIL import Image, ImageOps
from structlog.testing import capture_logs

from imagetag.curate.curate import curate_tag
from imagetag.curate.seen import Seen
from imagetag.dataset.manifest import (
    Dataset,
    Row,
    curated,
    distinct,
    load_dataset,
    part_keys,
    read_changes,
    read_parts,
    read_rows,
    standing_curation,
    summarize,
    write_dataset,
    write_part,
)
from imagetag.errors import InputError, Terminated, TransientError
from imagetag.imaging import are_twins, layouts
from imagetag.layout import Label, Layout, Split
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import make_dataset
from tests.builders.pictures import encoded
from tests.builders.rows import key_of, row_of
from tests.storages import Killed, Late, Mortal, Wrapped

LAYOUT = Layout("fox")


def picture(number: int, change: str = "") -> bytes:
    """Return a picture that is like no other number's; a change makes a near-duplicate of it."""
    grid = Image.frombytes("RGB", (7, 7), random.Random(number).randbytes(147))
    image = grid.resize((160, 120), Image.Resampling.BICUBIC)
    if change == "mirror":
        image = ImageOps.mirror(image)
    if change == "crop":
        image = image.crop((12, 0, 160, 110))
    if change == "png":
        return encoded(image)
    return encoded(image, "JPEG", quality=60 if change == "worse" else 92)


@dataclass(frozen=True)
class Shown:
    """An image of a dataset that a test makes."""

    data: bytes
    split: Split = "train"
    label: Label = "positive"
    group: str = ""
    post_id: int = 0

    @property
    def md5(self) -> str:
        return hashlib.md5(self.data).hexdigest()

    def row(self, *, hashed: bool = True) -> Row:
        return row_of(
            self.post_id or int(self.md5[:8], 16),
            self.data,
            board="board",
            split=self.split,
            label=self.label,
            group=self.group or f"board:{self.md5[:8]}",
            phashes=layouts.perceptual_hashes(self.data) if hashed else (),
        )


KEPT = Shown(picture(1))
LEAKED = Shown(picture(1, "mirror"), "test")
MISLABELLED = Shown(picture(1, "crop"), "test", "negative")
PARENT = Shown(picture(2), group="board:20")
CHILD = Shown(picture(3), group="board:20")
REPOST = Shown(picture(2, "worse"), group="board:21")
REPOSTS_CHILD = Shown(picture(4), group="board:21")
DOUBTED = Shown(picture(5))
DOUBTFUL = Shown(picture(5, "png"), label="negative")
HELD_OUT = Shown(picture(6), "test")
HELD_OUT_TOO = Shown(picture(6, "crop"), "test", "negative")
OTHERS = [
    Shown(picture(10)),
    Shown(picture(11), label="negative"),
    Shown(picture(12), "test"),
    Shown(picture(13), "test", "negative"),
]
ALL = [
    *(KEPT, LEAKED, MISLABELLED, PARENT, CHILD, REPOST, REPOSTS_CHILD, DOUBTED, DOUBTFUL),
    *(HELD_OUT, HELD_OUT_TOO, *OTHERS),
]


def complete(
    storage: Storage, shown: Sequence[Shown], *, hashed: bool = True, part_rows: int = 4
) -> Dataset:
    """Store images as the scraper does: objects, parts, the marker."""
    rows = [image.row(hashed=hashed) for image in shown]
    for image, row in zip(shown, rows, strict=True):
        storage.write(key_of(row, "fox"), image.data)
    for start in range(0, len(rows), part_rows):
        write_part(storage, LAYOUT, "part", rows[start : start + part_rows])
    return mark(storage)


def mark(storage: Storage) -> Dataset:
    """Write the marker anew, as a scrape does at its end."""
    parts = tuple(part_keys(storage, LAYOUT, "part"))
    curation = standing_curation(storage, LAYOUT)
    changes = read_changes(storage, curation)
    rows = list(curated(distinct(read_parts(storage, parts, Row)), changes))
    dataset = make_dataset(rows, tag="fox", board="board", parts=parts, curation=curation)
    write_dataset(storage, dataset)
    return dataset


def content(storage: Storage) -> dict[str, bytes]:
    """All that is stored, but for the record that each job leaves of itself."""
    keys = [entry.key for entry in storage.list()]
    return {key: storage.read(key) for key in keys if not key.startswith(".status/.jobs/")}


def rows_of(storage: Storage) -> dict[str, Row]:
    return {row.md5: row for row in read_rows(storage, load_dataset(storage, "fox"))}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    """What curation makes of all the images, undisturbed."""
    storage = LocalStorage(tmp_path_factory.mktemp("finished"))
    complete(storage, ALL)
    curate_tag(storage, "fox")
    return storage


def test_a_test_image_whose_twin_is_in_train_is_dropped(finished: LocalStorage) -> None:
    rows = rows_of(finished)
    assert rows.keys() == {image.md5 for image in ALL} - {LEAKED.md5, MISLABELLED.md5}


def test_no_object_of_a_dropped_image_remains(finished: LocalStorage) -> None:
    stored = {
        key.rsplit("/", 1)[1].split(".")[0] for key in content(finished) if key.count("/") == 3
    }
    assert stored == rows_of(finished).keys()


def test_twins_in_train_and_all_that_belongs_to_them_are_one_group(
    finished: LocalStorage,
) -> None:
    rows = rows_of(finished)
    family = [PARENT, CHILD, REPOST, REPOSTS_CHILD]
    assert {rows[image.md5].group for image in family} == {"board:20"}
    assert len({row.group for row in rows.values()}) == len(rows) - len(family)


GRANDPARENT = Shown(picture(30), group="board:30", post_id=30)
ITS_CHILD = Shown(picture(31), group="board:30", post_id=31)
GRANDCHILD = Shown(picture(32), "test", group="board:31", post_id=32)
ITS_SIBLING = Shown(picture(33), "test", "negative", group="board:31", post_id=33)


def test_a_family_of_three_generations_is_in_one_split(storage: LocalStorage) -> None:
    complete(storage, [GRANDPARENT, ITS_CHILD, GRANDCHILD, ITS_SIBLING, *OTHERS])
    curate_tag(storage, "fox")
    kept = [GRANDPARENT, ITS_CHILD, *OTHERS]
    assert rows_of(storage).keys() == {image.md5 for image in kept}


def test_a_family_of_three_generations_in_train_is_one_group(storage: LocalStorage) -> None:
    complete(storage, [GRANDPARENT, ITS_CHILD, replace(GRANDCHILD, split="train"), *OTHERS])
    curate_tag(storage, "fox")
    rows = rows_of(storage)
    family = [GRANDPARENT, ITS_CHILD, GRANDCHILD]
    assert {rows[image.md5].group for image in family} == {"board:30"}


def test_twins_of_other_labels_stay_in_train_and_are_counted(finished: LocalStorage) -> None:
    rows = rows_of(finished)
    assert rows[DOUBTED.md5].label == "positive"
    assert rows[DOUBTFUL.md5].label == "negative"
    assert rows[DOUBTED.md5].group == rows[DOUBTFUL.md5].group
    curation = load_dataset(finished, "fox").curation
    assert curation is not None
    assert (curation.dropped, curation.groups, curation.conflicting) == (2, 2, 2)


def test_twins_within_test_stay(finished: LocalStorage) -> None:
    assert {HELD_OUT.md5, HELD_OUT_TOO.md5} <= rows_of(finished).keys()


def test_the_marker_counts_what_remains(finished: LocalStorage) -> None:
    dataset = load_dataset(finished, "fox")
    assert (dataset.images, dataset.bytes, dataset.fingerprint) == summarize(
        read_rows(finished, dataset)
    )
    assert dataset.images["test"] == {"positive": 2, "negative": 2}


def test_one_line_says_how_many(storage: LocalStorage) -> None:
    complete(storage, ALL)
    with capture_logs() as logs:
        curate_tag(storage, "fox")
    [line] = [entry for entry in logs if entry["event"] == "curated"]
    assert (line["dropped"], line["groups"], line["conflicting"]) == (2, 2, 2)
    assert not [entry for entry in logs if entry["log_level"] == "warning"]


@pytest.mark.parametrize("hashed", [True, False])
def test_neither_the_order_nor_who_hashed_matters(
    storage: LocalStorage, finished: LocalStorage, hashed: bool
) -> None:
    complete(storage, ALL[::-1], hashed=hashed, part_rows=3)
    curate_tag(storage, "fox", concurrency=3)
    assert part_keys(storage, LAYOUT, "curated") == part_keys(finished, LAYOUT, "curated")
    images = [key for key in content(storage) if key.count("/") == 3]
    assert images == [key for key in content(finished) if key.count("/") == 3]


def test_a_dataset_without_twins_is_left_as_it_is(storage: LocalStorage) -> None:
    before = complete(storage, OTHERS)
    after = curate_tag(storage, "fox")
    assert after.fingerprint == before.fingerprint
    assert after.curation is not None
    assert (after.curation.parts, after.curation.dropped) == ((), 0)
    assert len(rows_of(storage)) == len(OTHERS)


def test_without_a_complete_dataset_there_is_nothing_to_curate(storage: LocalStorage) -> None:
    with pytest.raises(InputError, match="no complete dataset"):
        curate_tag(storage, "fox")


def test_a_second_run_changes_nothing(finished: LocalStorage) -> None:
    before = content(finished)
    watched = Mortal(finished, float("inf"))
    with capture_logs() as logs:
        curate_tag(watched, "fox")
    assert watched.changes == 0
    assert content(finished) == before
    assert "already curated" in {entry["event"] for entry in logs}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("changes", range(4))
def test_killed_between_any_two_changes_the_next_run_ends_the_same(
    storage: LocalStorage, finished: LocalStorage, changes: int, late: bool
) -> None:
    complete(storage, ALL)
    mortal = Mortal(storage, changes, late=late)
    with pytest.raises(Killed):
        curate_tag(mortal, "fox")
    # Whenever it is read, no twin of a training image is tested with, or nothing is decided yet.
    rows = rows_of(storage)
    assert (LEAKED.md5 in rows) == (MISLABELLED.md5 in rows)
    for row in rows.values():
        assert storage.stat(key_of(row, "fox"))
    curate_tag(storage, "fox")
    assert content(storage) == content(finished)


def test_a_run_makes_four_changes(storage: LocalStorage) -> None:
    # So that the test above has them all: the part, the marker, two dropped images.
    complete(storage, ALL)
    watched = Mortal(storage, float("inf"))
    curate_tag(watched, "fox")
    assert watched.changes == 4


def test_what_was_dropped_stays_dropped_when_more_is_scraped(storage: LocalStorage) -> None:
    complete(storage, ALL)
    curate_tag(storage, "fox")
    more = [Shown(picture(11, "crop"), "test"), Shown(picture(50)), Shown(picture(2, "mirror"))]
    for image in more:
        row = image.row()
        storage.write(key_of(row, "fox"), image.data)
    write_part(storage, LAYOUT, "part", [image.row() for image in more])
    between = mark(storage)
    assert {LEAKED.md5, MISLABELLED.md5}.isdisjoint(rows_of(storage))
    assert between.images["test"] == {"positive": 3, "negative": 2}
    dataset = curate_tag(storage, "fox")
    assert dataset.images["test"] == {"positive": 2, "negative": 2}
    rows = rows_of(storage)
    assert more[0].md5 not in rows  # the twin of a training image
    assert rows[more[2].md5].group == rows[PARENT.md5].group
    assert dataset.curation is not None
    assert part_keys(storage, LAYOUT, "curated") == list(dataset.curation.parts)
    assert dataset.curation.dropped == 3


@pytest.mark.parametrize("changes", range(5))
def test_killed_while_curating_more_the_next_run_ends_the_same(
    tmp_path: Path, changes: int
) -> None:
    ends = []
    for name, allowed in (("undisturbed", 100), ("killed", changes)):
        storage = LocalStorage(tmp_path / name)
        complete(storage, ALL[:9])
        curate_tag(storage, "fox")
        complete(storage, [*OTHERS, Shown(picture(10, "crop"), "test")])
        for image in (LEAKED, MISLABELLED):  # had before, and not fetched again
            row = image.row()
            assert storage.stat(key_of(row, "fox")) is None
        mortal = Mortal(storage, allowed)
        try:
            curate_tag(mortal, "fox")
        except Killed:
            assert name == "killed"
            mark(storage)  # a scrape comes in between
            curate_tag(storage, "fox")
        ends.append(content(storage))
    assert ends[0] == ends[1]


def test_another_threshold_curates_anew_and_brings_nothing_back(storage: LocalStorage) -> None:
    complete(storage, ALL)
    [first] = curate_tag(storage, "fox").curation.parts  # type: ignore[union-attr]
    dataset = curate_tag(storage, "fox", threshold=0)
    assert dataset.curation is not None
    assert dataset.curation.threshold == 0
    assert {LEAKED.md5, MISLABELLED.md5}.isdisjoint(rows_of(storage))
    assert part_keys(storage, LAYOUT, "curated") == list(dataset.curation.parts)
    assert first.startswith(LAYOUT.manifest + "curated-")


def test_files_that_were_replaced_by_rubbish_are_passed_over_with_one_warning(
    storage: LocalStorage,
) -> None:
    complete(storage, ALL, hashed=False)
    rows = rows_of(storage)
    broken = [OTHERS[0], OTHERS[1], OTHERS[2]]
    for image, rubbish in zip(broken, (b"rubbish", b"", image_cut(OTHERS[2].data)), strict=True):
        row = rows[image.md5]
        storage.write(key_of(row, "fox"), rubbish)
    gone = rows[OTHERS[3].md5]
    storage.delete(LAYOUT.image(gone.split, gone.label, gone.md5, gone.ext))
    with capture_logs() as logs:
        dataset = curate_tag(storage, "fox")
    assert dataset.curation is not None
    assert dataset.curation.unreadable == 4
    assert dataset.curation.dropped == 2
    [warning] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["images"] == 4


def image_cut(data: bytes) -> bytes:
    return data[: len(data) // 3]


def test_a_hash_that_is_a_lie_costs_a_look_and_nothing_else(storage: LocalStorage) -> None:
    shown = [OTHERS[0], OTHERS[2]]
    [lie] = layouts.perceptual_hashes(OTHERS[0].data)
    for image in shown:
        row = image.row().model_copy(update={"phashes": ("rubbish", lie)})
        storage.write(key_of(row, "fox"), image.data)
        write_part(storage, LAYOUT, "part", [row])
    mark(storage)
    dataset = curate_tag(storage, "fox")
    assert dataset.curation is not None
    assert dataset.curation.dropped == 0


def test_pictures_that_tags_share_are_looked_at_once(
    tmp_path: Path, finished: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, judged = Seen(), list[Any]()

    def judge(thumbnails: Any, pairs: Any, threshold: int) -> list[bool]:
        judged.extend(pairs)
        return are_twins(thumbnails, pairs, threshold)

    monkeypatch.setattr("imagetag.curate.seen.are_twins", judge)
    opened: list[str] = []

    class Read(Wrapped):
        def open(self, key: str) -> AbstractContextManager[BinaryIO]:
            opened.append(key)
            return super().open(key)

    counts = []
    for name in ("one", "other"):
        storage = Read(LocalStorage(tmp_path / name))
        complete(storage, ALL)
        opened.clear()
        judged.clear()
        curate_tag(storage, "fox", seen=seen)
        assert content(storage.inner) == content(finished)
        counts.append((len(judged), sum(not key.endswith(("json", "jsonl")) for key in opened)))
    assert counts[0] > (0, 1)
    assert counts[1] == (0, 0)


def test_when_nothing_is_left_to_test_with_that_is_said(storage: LocalStorage) -> None:
    complete(storage, [KEPT, LEAKED, MISLABELLED, OTHERS[1], OTHERS[2]])
    with capture_logs() as logs:
        curate_tag(storage, "fox")
    [warning] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["labels"] == ["negative"]


class Interrupted(Wrapped):
    """Before the n-th change of one run, or behind it, another does all its work."""

    def __init__(
        self, inner: Storage, changes: int, *, late: bool, other: Callable[[], Any]
    ) -> None:
        super().__init__(inner)
        self._left, self._late, self._other = changes, late, other

    def _change(self, do: Any, *arguments: Any) -> None:
        self._left -= 1
        if self._left == -1 and not self._late:
            self._other()
        do(*arguments)
        if self._left == -1 and self._late:
            self._other()


@pytest.mark.parametrize("thresholds", [(0, 31), (31, 0), (31, 31)])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("changes", range(5))
def test_of_two_runs_at_once_neither_takes_what_the_other_names(
    storage: LocalStorage, changes: int, thresholds: tuple[int, int], *, late: bool
) -> None:
    complete(storage, [*ALL, Shown(detailed(92)), Shown(detailed(20), "test")])
    one, other = thresholds

    def work() -> None:
        curate_tag(storage, "fox", threshold=other)

    interrupted = Interrupted(storage, changes, late=late, other=work)
    with contextlib.suppress(TransientError):
        curate_tag(interrupted, "fox", threshold=one)
    check_images(storage)
    curate_tag(storage, "fox", threshold=one)
    check_images(storage)
    dataset = load_dataset(storage, "fox")
    assert dataset.curation is not None
    assert list(dataset.curation.parts) == part_keys(storage, LAYOUT, "curated")
    before = content(storage)
    assert curate_tag(storage, "fox", threshold=one) == dataset
    assert content(storage) == before


def detailed(quality: int) -> bytes:
    """Return a picture whose copies of other qualities are twins by a threshold above 0 alone."""
    grid = Image.frombytes("RGB", (60, 45), random.Random(1).randbytes(60 * 45 * 3))
    return encoded(grid.resize((240, 180), Image.Resampling.BICUBIC), "JPEG", quality=quality)


def check_images(storage: Storage) -> None:
    """Every row that can be read has its image, and the marker says what is there."""
    dataset = load_dataset(storage, "fox")
    rows = list(read_rows(storage, dataset))
    for row in rows:
        assert storage.stat(key_of(row, "fox"))
    assert (dataset.images, dataset.bytes, dataset.fingerprint) == summarize(rows)


@pytest.mark.parametrize(("changes", "late"), [(0, False), (0, True), (1, True)])
def test_a_scrape_that_ends_while_it_is_curated_is_not_undone(
    storage: LocalStorage, changes: int, *, late: bool
) -> None:
    complete(storage, ALL[:9])

    def scrape() -> None:
        complete(storage, OTHERS)

    with pytest.raises(TransientError, match="run this again, one at a time"):
        curate_tag(Interrupted(storage, changes, late=late, other=scrape), "fox")
    assert {image.md5 for image in OTHERS} <= rows_of(storage).keys()
    check_images(storage)


def test_what_is_listed_late_is_dropped_all_the_same(
    storage: LocalStorage, finished: LocalStorage
) -> None:
    complete(storage, ALL)
    curate_tag(Late(storage, lambda key: "/test/" in key), "fox")
    assert content(storage) == content(finished)


def test_a_part_that_is_deleted_and_still_listed_is_no_error(storage: LocalStorage) -> None:
    complete(storage, ALL)
    late = Late(storage, still=lambda _: True)
    for threshold in (0, 31, 20):
        dataset = curate_tag(late, "fox", threshold=threshold)
        assert curate_tag(late, "fox", threshold=threshold) == dataset
    assert rows_of(storage)


class Stalled(LocalStorage):
    """A storage that gives no image of the train split until it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.let_go = threading.Event()

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        if "/train/" in key:
            self.let_go.wait(60)
        return super().open(key)


def test_sigterm_does_not_wait_for_a_storage_that_stalls(tmp_path: Path) -> None:
    storage = Stalled(tmp_path)
    complete(storage, ALL, hashed=False)

    def terminate(*_: object) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGALRM, terminate)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Terminated):
            curate_tag(storage, "fox")
        assert any(thread.name.startswith("curate") for thread in threading.enumerate())
    finally:
        signal.signal(signal.SIGALRM, previous)
        storage.let_go.set()
