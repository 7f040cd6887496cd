from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagetag.dataset import load_dataset, read_rows
from imagetag.errors import InputError
from imagetag.layout import Layout
from imagetag.review import QUEUES, Given, NoPicture, QueueName, TagSession, open_tag_session
from imagetag.storage import LocalStorage, Storage
from imagetag.verdicts import load_verdicts, store_verdicts
from tests.builders.reviews import TAG, store_reviewable
from tests.builders.rows import key_of
from tests.builders.verdicts import new_verdict
from tests.pages import HOSTILE


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path)


def opened(storage: Storage, queue: QueueName = "suspects", **options: Any) -> TagSession:
    return open_tag_session(storage, TAG, queue, **options)


def answer(session: TagSession, item: str, answer: str, number: int = 1) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    session.take([Given(id=f"{number:016x}", item=item, answer=answer, at=at)])


def test_suspects_of_both_labels_are_asked_about_with_what_a_model_says(storage: Storage) -> None:
    first, second, *_ = store_reviewable(storage)
    session = opened(storage)
    assert set(session.items) == {first.md5, second.md5}
    facts = session.facts(second.md5)
    assert ("label", "not robot") in facts.notes
    assert ("the model says", "90.0 %") in facts.notes
    assert facts.link == second.page_url


def test_each_queue_has_its_pictures_in_its_order(storage: Storage) -> None:
    rows = store_reviewable(storage)
    test = {row.md5 for row in rows if row.split == "test"}
    assert set(opened(storage, "uncertain").items) == {row.md5 for row in rows}
    assert set(opened(storage, "test").items) == test
    promise = opened(storage, "promise").items
    assert not test & set(promise)
    positives = sum(row.target for row in rows if row.split == "train")
    said = [opened(storage, "promise").facts(item).notes for item in promise]
    assert all(("label", "robot") in notes for notes in said[1:positives])
    assert opened(storage, "promise", limit=3).items == promise[:3]


def test_mistakes_are_those_of_the_test_the_surest_first(storage: Storage) -> None:
    rows = store_reviewable(storage)
    with pytest.raises(InputError, match=r"'mistakes' of the tag 'robot'.* has no picture"):
        opened(storage, "mistakes")
    key = Layout(TAG).run("first", "test_predictions.csv")
    table = storage.read(key).decode()
    storage.write(key, table.replace(",positive,", ",negative,").encode())
    wrong = [row.md5 for row in rows if row.split == "test" and row.target]
    assert set(opened(storage, "mistakes").items) == set(wrong)


def test_random_pictures_are_drawn_with_the_same_known_chance(storage: Storage) -> None:
    rows = store_reviewable(storage)
    five, ten = (opened(storage, "random", limit=limit) for limit in (5, 10))
    assert ten.items[:5] == five.items  # a larger sample has the smaller one
    assert opened(storage, "random", limit=5, seed=1).items != five.items
    answer(five, five.items[0], "yes")
    [verdict] = load_verdicts(storage, TAG).standing.values()
    assert (verdict.queue, verdict.chance) == ("random", 5 / len(rows))


def test_a_drawn_picture_is_any_with_the_same_chance(storage: Storage) -> None:
    rows = store_reviewable(storage)
    dataset = load_dataset(storage, TAG)
    from imagetag.review.queues import drawn

    counts = dict.fromkeys((row.md5 for row in rows), 0)
    for seed in range(2000):
        for row, chance in drawn(read_rows(storage, dataset), 5, seed) if seed % 100 else []:
            counts[row.md5] += 1
            assert chance == 0.25
    # 1,980 draws of a quarter: the standard deviation is 19.
    assert all(abs(count - 495) < 80 for count in counts.values())


def test_answers_become_verdicts_with_the_reviewers_name(storage: Storage) -> None:
    first, second, *_ = store_reviewable(storage)
    session = opened(storage, by="Anna")
    answer(session, first.md5, "no", 1)
    answer(session, second.md5, "unclear", 2)
    standing = load_verdicts(storage, TAG).standing
    assert {md5: (found.answer, found.by) for md5, found in standing.items()} == {
        first.md5: ("no", "Anna"),
        second.md5: ("unclear", "Anna"),
    }
    assert standing[first.md5].chance is None
    answer(session, first.md5, "withdrawn", 3)  # an undo, at the same instant
    assert set(load_verdicts(storage, TAG).standing) <= {first.md5, second.md5}


def test_what_was_judged_before_is_done_already_and_told(storage: Storage) -> None:
    first, *_ = store_reviewable(storage)
    store_verdicts(storage, TAG, [new_verdict(first.md5, "no", "random", by="Ben")])
    session = opened(storage)
    assert session.answers == {first.md5: "no"}
    assert (session.progress().done, session.progress().total) == (1, 2)
    [told] = [text for name, text in session.facts(first.md5).notes if name == "judged before"]
    assert told.startswith("no by Ben, ")


def test_an_answer_stands_also_after_one_was_withdrawn_by_a_clock_that_was_ahead(
    storage: Storage,
) -> None:
    first, *_ = store_reviewable(storage)
    ahead = new_verdict(first.md5, "withdrawn", "suspects")
    later = ahead.model_copy(update={"at": ahead.at + timedelta(days=1)})
    store_verdicts(storage, TAG, [later])
    session = opened(storage)
    assert session.progress().done == 0
    session.take([Given(id="1" * 16, item=first.md5, answer="no", at=ahead.at)], ahead.at)
    assert load_verdicts(storage, TAG).standing[first.md5].answer == "no"


def test_verdicts_of_a_session_and_of_one_that_was_killed_are_in_few_parts(
    storage: Storage,
) -> None:
    first, second, *_ = store_reviewable(storage)
    for _ in range(40):
        store_verdicts(storage, TAG, [new_verdict(second.md5, "no", "suspects")])
    session = opened(storage)
    assert len(parts(storage)) == 1
    for number in range(40):
        answer(session, first.md5, "yes", number)
    assert len(parts(storage)) == 41
    session.tidy()
    assert len(parts(storage)) == 1
    found = load_verdicts(storage, TAG).standing
    assert {md5: one.answer for md5, one in found.items()} == {first.md5: "yes", second.md5: "no"}


def parts(storage: Storage) -> list[str]:
    return [entry.key for entry in storage.list(Layout(TAG).verdicts)]


def test_an_answer_of_an_older_page_on_another_picture_of_the_dataset_is_taken(
    storage: Storage,
) -> None:
    rows = store_reviewable(storage)
    session = opened(storage)
    answer(session, rows[5].md5, "yes")
    assert load_verdicts(storage, TAG).standing[rows[5].md5].answer == "yes"
    assert session.progress().done == 0


def test_pictures_are_shown_and_a_missing_one_says_so(storage: Storage) -> None:
    first, second, *_ = store_reviewable(storage)
    session = opened(storage)
    with Image.open(io.BytesIO(session.picture(first.md5, 320))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (48, 32))
    storage.delete(key_of(second, TAG))
    with pytest.raises(NoPicture, match="not in storage"):
        session.picture(second.md5, 320)
    with pytest.raises(KeyError):
        session.picture("../../etc/passwd", 320)


def test_what_a_stranger_wrote_stays_text_and_makes_no_link(storage: Storage) -> None:
    link = "javascript:alert(1)"
    store_reviewable(storage, tags=tuple(HOSTILE), page_url=link, board=f"folder:{HOSTILE[1]}")
    session = opened(storage)
    facts = session.facts(session.items[0])
    assert facts.link is None
    assert facts.tags[:3] == tuple(HOSTILE[:3])


def test_a_picture_that_is_no_longer_in_the_dataset_is_left_out(storage: Storage) -> None:
    rows = store_reviewable(storage)
    key = Layout(TAG).run("first", "threshold_predictions.csv")
    table = storage.read(key).decode()
    storage.write(key, table.replace(rows[0].md5, "0" * 32).encode())
    assert "0" * 32 not in opened(storage, "promise").items


def test_one_of_each_group_is_asked_about_for_a_promise(storage: Storage) -> None:
    rows = store_reviewable(storage, group="a family")
    assert len(opened(storage, "promise").items) == 1
    first = min(row.md5 for row in rows if row.split == "train")
    assert opened(storage, "promise").items == (first,)


@pytest.mark.parametrize("queue", [name for name in QUEUES if name != "random"])
def test_a_queue_of_a_tag_without_an_evaluated_run_says_what_to_run(
    storage: Storage, queue: QueueName
) -> None:
    store_reviewable(storage)
    for name in ("suspects.json", "decision.json", "test_predictions.csv"):
        storage.delete(Layout(TAG).run("first", name))
    storage.delete(Layout(TAG).run("first", "threshold_predictions.csv"))
    with pytest.raises(InputError, match="run imagetag evaluate --tags robot --run first"):
        opened(storage, queue)
    assert opened(storage, "random").items


@pytest.mark.parametrize(
    ("old", "new"),
    [(",positive,", ",maybe,"), ("true", "perhaps"), ("md5", "name"), ("0.1", "much"), ("\n", '"')],
)
def test_a_damaged_table_is_told_with_its_line(storage: Storage, old: str, new: str) -> None:
    store_reviewable(storage)
    key = Layout(TAG).run("first", "threshold_predictions.csv")
    storage.write(key, storage.read(key).decode().replace(old, new, 1).encode())
    with pytest.raises(InputError, match=r"threshold_predictions\.csv: .*evaluate"):
        opened(storage, "promise")
