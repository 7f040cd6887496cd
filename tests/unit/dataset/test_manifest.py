"""What is known of each image: written, read back, and not believed where it is broken."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagetag.dataset.manifest import (
    Curated,
    Curation,
    Dataset,
    Failure,
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
from imagetag.errors import InputError
from imagetag.layout import Layout
from imagetag.storage.local import LocalStorage
from tests.builders.datasets import make_dataset
from tests.builders.rows import make_row

LAYOUT = Layout("re:zero")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def a_row(number: int = 0, **changes: Any) -> Row:
    odd = ("re:zero", "初音ミク", 'quo"te', "line\u2028end")
    return make_row(number, **{"split": "train", "label": "positive", "tags": odd, **changes})


def a_dataset(parts: list[str], **changes: Any) -> Dataset:
    return make_dataset(**{"tag": LAYOUT.tag, "parts": tuple(parts), **changes})


@given(
    st.lists(st.text(st.characters(codec="utf-8"))),
    st.text(st.characters(codec="utf-8")),
    st.integers(),
)
def test_a_row_comes_back_as_it_was(tags: list[str], group: str, post: int) -> None:
    row = a_row(tags=tuple(tags), group=group, post_id=post)
    text = row.model_dump_json()
    assert "\n" not in text
    assert Row.model_validate_json(text) == row


def test_rows_and_failures_come_back_part_by_part(storage: LocalStorage) -> None:
    rows = [a_row(number) for number in range(10)]
    failure = Failure(
        post_id=1,
        board="safebooru",
        page_url="https://safebooru.org/",
        label="negative",
        reason="truncated",
        detail="12 bytes short",
        permanent=True,
    )
    one = write_part(storage, LAYOUT, "part", rows[:6])
    two = write_part(storage, LAYOUT, "part", rows[6:])
    failed = write_part(storage, LAYOUT, "failed", [failure])
    assert list(read_parts(storage, [one, two], Row)) == rows
    assert list(read_parts(storage, [failed], Failure)) == [failure]
    assert part_keys(storage, LAYOUT, "part") == sorted([one, two])
    assert part_keys(storage, LAYOUT, "failed") == [failed]
    write_dataset(storage, a_dataset([one, two]))
    assert list(read_rows(storage, load_dataset(storage, LAYOUT.tag))) == rows


def test_the_same_rows_make_the_same_part(storage: LocalStorage) -> None:
    rows = [a_row(number) for number in range(3)]
    assert write_part(storage, LAYOUT, "part", rows) == write_part(storage, LAYOUT, "part", rows)
    assert len(part_keys(storage, LAYOUT, "part")) == 1


def test_what_others_put_beside_the_parts_is_none(storage: LocalStorage) -> None:
    for name in ("notes.txt", "part-.jsonl", "part-zz.jsonl", ".part-0123456789.jsonl"):
        storage.write(LAYOUT.manifest + name, b"{}")
    assert part_keys(storage, LAYOUT, "part") == []


def broken(line: bytes) -> bytes:
    good = a_row().model_dump_json().encode()
    return b"\n".join([good, b"", good, line, good]) + b"\n"


def changed(**changes: Any) -> bytes:
    fields = json.loads(a_row().model_dump_json())
    fields.update(changes)
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"not json", "JSON"),
        (b'{"post_id": 1', "JSON"),
        (b"[]", "the JSON"),
        (b"null", "the JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 300_000, "recursion limit"),
        (b'{"tags":' * 100_000, "recursion limit"),
        (b'{"board": "' + b"x" * 3_000_000 + b'"}', "JSON"),
        (b'{"post_id": 1}', "board: Field required"),
        (changed(md5="../../etc/passwd"), "md5"),
        (changed(md5="A" * 32), "md5"),
        (changed(md5="a" * 32 + "\n"), "md5"),
        (changed(ext="j/g"), "ext"),
        (changed(width=0), "width"),
        (changed(height=-1), "height"),
        (changed(bytes="many"), "bytes"),
        (changed(split="validation"), "split"),
        (changed(label="re:zero"), "label"),
        (changed(rating="safe"), "rating"),
        (changed(tags="solo"), "tags"),
    ],
)
def test_a_broken_line_is_refused_with_its_part_and_number(
    storage: LocalStorage, line: bytes, complaint: str
) -> None:
    key = LAYOUT.part("part", "ab" * 12)
    storage.write(key, broken(line))
    rows = read_parts(storage, [key], Row)
    assert [next(rows), next(rows)] == [a_row()] * 2
    with pytest.raises(InputError) as error:
        next(rows)
    text = str(error.value)
    assert f"{storage.url}/{key} line 4: " in text
    assert complaint in text
    assert "\n" not in text
    assert len(text) < 500


def test_fields_of_a_later_version_are_passed_over(storage: LocalStorage) -> None:
    key = LAYOUT.part("part", "ab" * 12)
    storage.write(key, changed(aesthetic_score=7) + b"\n")
    assert list(read_parts(storage, [key], Row)) == [a_row()]


def test_a_missing_part_is_named(storage: LocalStorage) -> None:
    there = write_part(storage, LAYOUT, "part", [a_row()])
    gone = LAYOUT.part("part", "ab" * 12)
    write_dataset(storage, a_dataset([there, gone]))
    with pytest.raises(InputError, match=r"missing.*scrape the tag again") as error:
        list(read_rows(storage, load_dataset(storage, LAYOUT.tag)))
    assert gone in str(error.value)


def test_without_the_marker_there_is_no_dataset(storage: LocalStorage) -> None:
    write_part(storage, LAYOUT, "part", [a_row()])
    with pytest.raises(InputError, match="no complete dataset of the tag 're:zero'") as error:
        load_dataset(storage, LAYOUT.tag)
    assert "imagetag scrape --tags re:zero" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        a_dataset([]).model_dump_json().encode()[:-1],
        a_dataset([]).model_dump_json().replace('"version":1', '"version":2').encode(),
        a_dataset([], images={})
        .model_dump_json()
        .replace("{}", '{"%s": 1}' % ("x\\n" * 9999))
        .encode(),
        a_dataset([], tag="other\n" * 9999).model_dump_json().encode(),
        a_dataset(["../../../etc/passwd"]).model_dump_json().encode(),
        a_dataset(["/etc/passwd"]).model_dump_json().encode(),
        a_dataset([Layout("other").part("part", "ab" * 12)]).model_dump_json().encode(),
        a_dataset([LAYOUT.part("failed", "ab" * 12)]).model_dump_json().encode(),
        a_dataset([LAYOUT.part("curated", "ab" * 12)]).model_dump_json().encode(),
        a_dataset([], curation=Curation(parts=("../../etc/passwd",))).model_dump_json().encode(),
        a_dataset([], curation=Curation(parts=(LAYOUT.part("part", "ab" * 12),)))
        .model_dump_json()
        .encode(),
    ],
)
def test_a_summary_that_is_not_ours_is_refused(storage: LocalStorage, content: bytes) -> None:
    storage.write(LAYOUT.dataset, content)
    with pytest.raises(InputError) as error:
        load_dataset(storage, LAYOUT.tag)
    assert LAYOUT.dataset in str(error.value)
    assert "scrape the tag again" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_an_image_that_two_pods_stored_is_one() -> None:
    first, second, other = a_row(1), a_row(1, post_id=2), a_row(3)
    assert list(distinct([first, other, second, other])) == [first, other]


def test_a_summary_counts_by_split_and_label() -> None:
    rows = [
        a_row(1),
        a_row(2, label="negative"),
        a_row(3, label="negative"),
        a_row(4, split="test"),
    ]
    images, size, _ = summarize(rows)
    assert images == {
        "train": {"positive": 1, "negative": 2},
        "test": {"positive": 1, "negative": 0},
    }
    assert size == 400_010


def test_a_summary_of_nothing_has_zeros() -> None:
    images, size, fingerprint = summarize([])
    assert (images["train"]["positive"], images["test"]["negative"], size) == (0, 0, 0)
    assert fingerprint != summarize([a_row()])[2]


def test_the_fingerprint_is_that_of_the_set_not_of_the_order() -> None:
    rows = [a_row(number) for number in range(50)]
    shuffled = Random(3).sample(rows, len(rows))
    assert summarize(rows) == summarize(shuffled)


@pytest.mark.parametrize("change", [{"label": "negative"}, {"split": "test"}, {"md5": "a" * 32}])
def test_the_fingerprint_changes_with_every_image_label_and_split(change: dict[str, str]) -> None:
    rows = [a_row(number) for number in range(50)]
    before = summarize(rows)[2]
    for place in (0, 25, 49):
        other = [*rows]
        other[place] = a_row(place, **change)
        assert summarize(other)[2] != before
    assert summarize(rows[1:])[2] != before
    assert summarize([*rows, rows[0]])[2] != before


def test_swapping_two_labels_changes_the_fingerprint() -> None:
    one = [a_row(1), a_row(2, label="negative")]
    other = [a_row(1, label="negative"), a_row(2)]
    assert summarize(one)[2] != summarize(other)[2]


def a_verdict(row: Row, *, dropped: bool = False, group: str | None = None) -> Curated:
    return Curated(md5=row.md5, twin=None, dropped=dropped, group=group, conflicting=False)


def test_a_dataset_of_before_curation_and_hashes_is_read(storage: LocalStorage) -> None:
    row = json.loads(a_row().model_dump_json())
    del row["phashes"]
    key = LAYOUT.part("part", "ab" * 12)
    storage.write(key, json.dumps(row).encode() + b"\n")
    marker = json.loads(a_dataset([key]).model_dump_json())
    del marker["curation"]
    storage.write(LAYOUT.dataset, json.dumps(marker).encode())
    assert list(read_rows(storage, load_dataset(storage, LAYOUT.tag))) == [a_row()]


def test_rows_are_read_as_curation_left_them(storage: LocalStorage) -> None:
    rows = [a_row(number) for number in range(5)]
    part = write_part(storage, LAYOUT, "part", rows)
    verdicts = [a_verdict(rows[1], dropped=True), a_verdict(rows[3], group="safebooru:0")]
    key = write_part(storage, LAYOUT, "curated", verdicts)
    write_dataset(storage, a_dataset([part]))
    assert list(read_rows(storage, load_dataset(storage, LAYOUT.tag))) == rows  # not named yet
    write_dataset(storage, a_dataset([part], curation=Curation(parts=(key,))))
    moved = rows[3].model_copy(update={"group": "safebooru:0"})
    assert list(read_rows(storage, load_dataset(storage, LAYOUT.tag))) == [
        *(rows[0], rows[2], moved, rows[4])
    ]


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.sampled_from("ab")), max_size=30))
def test_what_one_part_drops_no_other_brings_back(said: list[tuple[int, str | None]]) -> None:
    rows = [a_row(number) for number in range(10)]
    with TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder))
        parts = [
            write_part(
                storage,
                LAYOUT,
                "curated",
                [a_verdict(rows[number], dropped=group is None, group=group)],
            )
            for number, group in said
        ]
        left = list(curated(rows, read_changes(storage, Curation(parts=tuple(parts)))))
    dropped = {number for number, group in said if group is None}
    assert [row.md5 for row in left] == [
        row.md5 for number, row in enumerate(rows) if number not in dropped
    ]
    groups: dict[str, str] = {}
    for number, group in said:
        groups.setdefault(rows[number].md5, group or "")
    for row, old in zip(left, [old for n, old in enumerate(rows) if n not in dropped], strict=True):
        assert row == old.model_copy(update={"group": groups.get(row.md5, old.group)})


def test_every_stored_curated_part_stands_until_the_next_curation(storage: LocalStorage) -> None:
    assert standing_curation(storage, LAYOUT) is None
    rows = [a_row(1), a_row(2)]
    named = write_part(storage, LAYOUT, "curated", [a_verdict(rows[0], dropped=True)])
    write_dataset(storage, a_dataset([], curation=Curation(parts=(named,), method=1, dropped=1)))
    assert standing_curation(storage, LAYOUT) == Curation(parts=(named,), method=1, dropped=1)
    later = write_part(storage, LAYOUT, "curated", [a_verdict(rows[1], dropped=True)])
    standing = standing_curation(storage, LAYOUT)
    assert standing == Curation(parts=tuple(sorted((named, later))), dropped=2)
    storage.delete(LAYOUT.dataset)
    assert standing_curation(storage, LAYOUT) == standing
