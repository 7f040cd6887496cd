"""Exploring: the test split has no say, few images are read, and nothing is redone."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from imagetag.dataset.manifest import Curated, Curation, write_part
from imagetag.errors import InputError
from imagetag.explore.exploration import Exploration, input_size, load_exploration
from imagetag.explore.explore import explore_tag
from imagetag.explore.sizes import recommend_size
from imagetag.layout import Layout
from imagetag.storage.base import Storage
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import store_dataset
from tests.builders.pictures import encoded
from tests.builders.rows import key_of, make_row

TAG = "robot"
RED = encoded(Image.new("RGB", (40, 60), (200, 30, 30)), "JPEG")


class Recorded(LocalStorage):
    """A folder that notes what is written and opened, and fails at a key ending in `fail_at`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []
        self.opened: list[str] = []
        self.fail_at = "nothing"

    def write(self, key: str, data: bytes | BinaryIO) -> None:
        if key.endswith(self.fail_at):
            raise KeyboardInterrupt
        self.written.append(key)
        super().write(key, data)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        self.opened.append(key)
        return super().open(key)


@pytest.fixture
def storage(tmp_path: Path, quick_plots: None) -> Recorded:
    return Recorded(tmp_path)


def explore(
    storage: Storage, max_pixels: int = 65536, percentile: float = 50, samples: int = 3
) -> Exploration:
    return explore_tag(storage, TAG, max_pixels=max_pixels, percentile=percentile, samples=samples)


def test_no_train_pictures_is_an_input_error(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number, split="test") for number in range(10)])
    with pytest.raises(InputError, match="train split has no pictures"):
        explore(storage)


def test_it_fits_into_a_cell_of_a_notebook(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(60)])
    found = explore(storage)
    size = f"({found.input_size.height}, {found.input_size.width})"
    assert f"input_size={size}" in repr(found)
    assert len(repr(found)) < 300 < len(found.model_dump_json())


def test_the_test_split_influences_nothing_but_its_own_count(storage: Recorded) -> None:
    train = [make_row(number, split="train") for number in range(1, 40)]
    first = [make_row(100, split="test")]
    other = [
        make_row(number, split="test", width=9000, height=50, ext="gif", rating="explicit", bytes=9)
        for number in range(200, 300)
    ]
    store_dataset(storage, TAG, train + first)
    with_first = explore(storage)
    store_dataset(storage, TAG, train + other)
    with_other = explore(storage)

    assert with_other.images["test"] == {"positive": 50, "negative": 50}
    own = {"fingerprint", "images", "families", "sheets", "dataset", "unreadable", "created"}
    assert with_other.model_dump(exclude=own) == with_first.model_dump(exclude=own)
    assert with_other.families.splits["train"] == with_first.families.splits["train"]
    assert with_other.sheets[:2] == with_first.sheets[:2]


def test_what_is_found_is_what_is_in_the_manifest(storage: Recorded) -> None:
    rows = [make_row(number, ext="png" if number % 4 == 1 else "jpg") for number in range(1, 41)]
    dataset = store_dataset(storage, TAG, rows)
    found = explore(storage)

    assert found == load_exploration(storage, TAG)
    assert found.fingerprint == dataset.fingerprint
    assert found.images == dataset.images
    assert found.formats == {
        "jpg": {"positive": 8, "negative": 16},
        "png": {"positive": 8, "negative": 0},
    }
    assert found.ratings == {"general": {"positive": 16, "negative": 16}}
    assert (found.width.min, found.width.median, found.height.max) == (800, 800, 1200)
    assert found.aspect_ratio.median == pytest.approx(2 / 3)
    assert found.input_size == recommend_size(
        np.array([800]), np.array([1200]), max_pixels=65536, percentile=50
    )


def test_the_marker_is_written_last_with_every_plot_before_it(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    storage.written.clear()
    explore(storage)
    names = [key.removeprefix("robot/explore/") for key in storage.written]
    assert names[-3:] == ["report.html", "robot/index.html", "explore.json"]
    assert set(names[:-3]) == {
        "dimensions.svg",
        "aspect_ratio.svg",
        "file_size.svg",
        "class_balance.svg",
    }


def test_exploring_again_does_nothing(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    first = explore(storage)
    storage.written.clear()
    assert explore(storage) == first
    assert storage.written == []


@pytest.mark.parametrize("changed", [{"max_pixels": 40_000}, {"percentile": 25.0}, {"samples": 4}])
def test_other_options_explore_again(storage: Recorded, changed: dict[str, Any]) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    explore(storage)
    storage.written.clear()
    explore(storage, **changed)
    assert "robot/explore/explore.json" in storage.written


def test_other_images_explore_again(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    explore(storage)
    dataset = store_dataset(storage, TAG, [make_row(number) for number in range(1, 30)])
    assert explore(storage).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("written", [b"{}", b"not JSON", b"\xff", b'{"version": 3}'])
def test_an_unreadable_result_is_made_anew(storage: Recorded, written: bytes) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    storage.write("robot/explore/explore.json", written)
    assert explore(storage) == load_exploration(storage, TAG)


def test_a_kill_before_the_marker_leaves_no_result(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    storage.fail_at = "explore.json"
    with pytest.raises(KeyboardInterrupt):
        explore(storage)
    with pytest.raises(InputError, match="not explored"):
        load_exploration(storage, TAG)
    storage.fail_at = "nothing"
    assert explore(storage) == load_exploration(storage, TAG)


def test_a_missing_exploration_says_what_to_run(storage: Recorded) -> None:
    with pytest.raises(InputError, match="run imagetag explore --tags robot first"):
        load_exploration(storage, TAG)


@pytest.mark.parametrize("written", [b"{}", b"not JSON", b"\xff"])
def test_an_unreadable_exploration_says_which_file(storage: Recorded, written: bytes) -> None:
    storage.write("robot/explore/explore.json", written)
    with pytest.raises(InputError, match=r"robot/explore/explore\.json cannot be read"):
        load_exploration(storage, TAG)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [("positive",), ("negative",), ("positive", "negative")])
@pytest.mark.parametrize("count", [1, 2])
def test_few_or_equal_images_and_one_label_are_explored(
    tmp_path: Path, labels: tuple[str, ...], count: int
) -> None:
    storage = LocalStorage(tmp_path)  # with plots
    rows = [
        make_row(number, split="train", label=labels[number % len(labels)])
        for number in range(count)
    ]
    store_dataset(storage, TAG, rows)
    assert explore(storage).input_size.width == 192


# What version 1 stored.
OLD = {
    "version": 1,
    "tag": TAG,
    "fingerprint": "0",
    "options": {"max_pixels": 65536, "percentile": 50.0},
    "images": {"train": {"positive": 1, "negative": 1}, "test": {"positive": 1, "negative": 1}},
    "input_size": {"height": 320, "width": 192, "reason": "the 50th percentile"},
    **dict.fromkeys(
        ("width", "height", "aspect_ratio", "bytes"),
        dict.fromkeys(("min", "p5", "p25", "median", "p75", "p95", "max"), 1.0),
    ),
    "formats": {},
    "ratings": {},
    "software": "imagetag 0.1.0",
    "created": "2026-01-01T00:00:00+00:00",
}


def test_training_still_takes_the_size_that_an_older_version_found(storage: Recorded) -> None:
    storage.write("robot/explore/explore.json", json.dumps(OLD).encode())
    assert input_size(storage, TAG, "auto") == (320, 192)
    assert input_size(storage, TAG, "64x96") == (64, 96)
    with pytest.raises(InputError, match=r"explore recommended 320x192 for .* needs 224 pixels"):
        input_size(storage, TAG, "auto", least=224)  # other tags may do better: exit code 3


def test_what_an_older_version_found_is_explored_again(storage: Recorded) -> None:
    dataset = store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    old = {**OLD, "fingerprint": dataset.fingerprint}
    storage.write("robot/explore/explore.json", json.dumps(old).encode())
    with pytest.raises(InputError, match="run imagetag explore --tags robot again"):
        load_exploration(storage, TAG)
    assert explore(storage).version == 2
    assert load_exploration(storage, TAG).version == 2


def test_only_the_images_of_the_contact_sheets_are_read(storage: Recorded) -> None:
    rows = [make_row(number) for number in range(100)]
    store_dataset(storage, TAG, rows, [RED] * len(rows))
    found = explore(storage, samples=3)

    read = sorted(key for key in storage.opened if key.endswith(".jpg"))
    assert len(read) == 4 * 3
    lowest = [
        sorted(row.md5 for row in rows if (row.split, row.label) == (split, label))[:3]
        for split in ("train", "test")
        for label in ("positive", "negative")
    ]
    assert [[picture.md5 for picture in sheet.shown] for sheet in found.sheets] == lowest
    assert [sheet.images for sheet in found.sheets] == [40, 40, 10, 10]
    assert found.unreadable == {}
    page = storage.read("robot/explore/report.html").decode()
    assert page.count("data:image/jpeg") == 12


def test_images_that_cannot_be_read_are_counted_and_the_rest_is_explored(
    storage: Recorded,
) -> None:
    rows = [make_row(number) for number in range(100)]
    store_dataset(storage, TAG, rows)
    for row in rows[::2]:
        storage.write(key_of(row, TAG), RED)
    with capture_logs() as logs:
        found = explore(storage, samples=4)
    assert found.unreadable == {"missing": 8}  # the positives
    assert "8 missing" in storage.read("robot/explore/report.html").decode()
    assert any(log["log_level"] == "warning" and log.get("missing") == 8 for log in logs)


def test_no_samples_read_nothing(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(100)])
    found = explore(storage, samples=0)
    assert [sheet.shown for sheet in found.sheets] == [()] * 4
    assert not [key for key in storage.opened if key.endswith(".jpg")]


def test_a_curation_that_only_regroups_is_explored(storage: Recorded) -> None:
    rows = [make_row(number, split="train") for number in range(1, 40)]
    twins = rows[0], rows[2]
    store_dataset(storage, TAG, rows)
    assert explore(storage).families.splits["train"].several == 0
    verdicts = [
        Curated(md5=one.md5, twin=other.md5, dropped=False, group="1", conflicting=False)
        for one, other in (twins, twins[::-1])
    ]
    part = write_part(storage, Layout(TAG), "curated", verdicts)
    store_dataset(storage, TAG, rows, curation=Curation(parts=(part,), dropped=4, groups=1))
    found = explore(storage)
    assert found.families.splits["train"].several == 1
    assert (found.families.twins, found.families.twin_groups) == (2, 1)
    assert {picture.md5 for picture in found.families.largest[0].shown} == {
        row.md5 for row in twins
    }
    assert found.dataset.curation is not None
    assert found.dataset.curation.dropped == 4


def test_a_shortcut_is_logged_when_it_is_found_and_none_where_there_is_none(
    storage: Recorded,
) -> None:
    rows = [make_row(number, split="train") for number in range(120)]
    planted = [row.model_copy(update={"ext": "png"}) if row.post_id % 2 else row for row in rows]
    store_dataset(storage, TAG, planted)
    with capture_logs() as logs:
        found = explore(storage)
    [warned] = [log for log in logs if log["event"].startswith("shortcut")]
    assert warned["log_level"] == "warning"
    assert warned["by"] == "format"
    assert warned["roc_auc"] == 1.0
    assert "--extensions" in warned["advice"]
    assert warned["how"] == "0 % of the positives are jpg, and 100 % of the negatives"
    with capture_logs() as logs:
        explore(storage)
    [again] = logs
    assert (again["event"], again["log_level"]) == ("already explored", "info")
    assert again["report"].endswith("/explore/report.html")
    assert [check.name for check in found.shortcuts.found] == ["format"]

    store_dataset(storage, TAG, [make_row(number, split="train") for number in range(200, 320)])
    with capture_logs() as logs:
        assert explore(storage).shortcuts.found == []
    assert not [log for log in logs if log["event"].startswith("shortcut:")]


def test_too_few_images_for_shortcuts_are_told(storage: Recorded) -> None:
    store_dataset(storage, TAG, [make_row(number) for number in range(1, 20)])
    with capture_logs() as logs:
        found = explore(storage)
    assert found.shortcuts.checks == ()
    assert any("fewer than 20" in str(log.get("why")) for log in logs)


def test_numbers_that_no_image_has_are_no_defect(storage: Recorded) -> None:
    huge = {"width": 10**400, "height": 10**300, "bytes": 10**350, "post_id": -(10**400)}
    rows = [make_row(number, split="train") for number in range(60)]
    rows.append(make_row(60, split="train", **huge))
    many = {"odd": 10**400}
    curation = Curation(parts=(), dropped=10**400)
    store_dataset(storage, TAG, rows, failures=many, skipped=many, curation=curation)
    assert explore(storage) == load_exploration(storage, TAG)


def test_made_up_formats_do_not_fill_the_page(storage: Recorded) -> None:
    rows = [make_row(number, split="train", ext=f"x{number}") for number in range(100)]
    store_dataset(storage, TAG, rows)
    formats = explore(storage).formats
    assert len(formats) == 21
    assert sum(sum(labels.values()) for labels in formats.values()) == 100
    assert sum(formats["other"].values()) == 80


def test_a_long_request_is_cut_short(storage: Recorded) -> None:
    rows = [make_row(number) for number in range(1, 20)]
    request = {"tags": ["x" * 50] * 1000, "limit": 5, "note": "y" * 10_000}
    many = {f"reason {number}": 1 for number in range(1000)}
    store_dataset(storage, TAG, rows, request=request, failures=many, skipped=many, board="b" * 999)
    found = explore(storage).dataset
    assert found.request["limit"] == 5
    assert found.board == "b" * 200
    assert len(found.request["tags"]) == len(found.request["note"]) == 203
    assert len(found.failures) == len(found.skipped) == 30
    storage.written.clear()
    explore(storage)
    assert storage.written == []  # it is still the same
