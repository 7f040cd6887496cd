"""A stored record is read whole, as what it is, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagetag.errors import InputError
from imagetag.record import Record
from imagetag.storage.base import ObjectNotFound
from imagetag.storage.local import LocalStorage
from imagetag.storage.records import load_record

KEY = "owl/note.json"


class Note(Record):
    run: str
    tag: str
    pictures: int = 0


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_a_record_comes_back_and_what_later_versions_added_is_passed_over(
    storage: LocalStorage,
) -> None:
    data = b'{"run": "first", "tag": "owl", "pictures": 3, "more": 1}'
    storage.write(KEY, data)
    found = load_record(storage, KEY, Note, max_bytes=len(data), run="first", tag="owl")
    assert found == Note(run="first", tag="owl", pictures=3)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "cannot be read: the JSON: "),
        (b"[]", "cannot be read: the JSON: "),
        (b'{"run": "first",\n', "cannot be read: the JSON: "),
        (b'{"run": "first", "tag": "owl", "pictures": "many"}', "cannot be read: pictures: "),
        (b'{"run": "first", "tag": "fox"}', "is of the run 'first' of the tag 'fox'; "),
        (b'{"run": "other", "tag": "owl"}', "is of the run 'other' of the tag 'owl'; "),
        (b'{"run": "first", "tag": "owl"}' + b" " * 80, "cannot be read: it is larger than 100 "),
    ],
)
def test_what_is_no_such_record_is_one_line_with_what_to_do(
    data: bytes, told: str, storage: LocalStorage
) -> None:
    storage.write(KEY, data)
    with pytest.raises(InputError) as caught:
        load_record(storage, KEY, Note, "begin anew", max_bytes=100, run="first", tag="owl")
    text = str(caught.value)
    assert text.startswith(f"{storage.url}/{KEY} {told}")
    assert text.endswith("; begin anew")
    assert "\n" not in text


def test_one_that_is_not_there_is_told_apart(storage: LocalStorage) -> None:
    with pytest.raises(ObjectNotFound):
        load_record(storage, KEY, Note)
