"""Which images the scrape job chooses: negatives, filters, and what tags share."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest

from imagetag.layout import parse_image
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from jobs import scrape as scrape_job
from tests.integration.ceph import Ceph
from tests.integration.conftest import new_bucket
from tests.integration.scraping import (
    Drawn,
    Moody,
    check,
    counts,
    dataset_of,
    end,
    image_keys,
    images,
    png,
    run,
    start,
    write_post,
)

# --- Negatives --------------------------------------------------------------------------------


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A board on which foxes are of one series, with others, and most posts are of none."""
    folder = tmp_path / "series"
    for post_id in range(1, 241):
        tags = {0: ["fox", "tales", "fur"], 3: (wolf := ["wolf", "tales", "fur"]), 5: wolf}.get(
            post_id % 8, [f"other{post_id % 5}"]
        )
        write_post(folder, post_id, picture=post_id, tags=[*tags, "solo"])
    return folder


def test_hard_negatives_are_of_the_same_series(series: Path, storage: Storage) -> None:
    with Moody(series) as board:
        ended = run(board, storage, "--limit", "20", "--negatives", "hard")
    assert ended.code == 0
    _, rows = check(storage)
    assert counts(rows) == {"positive": 20, "negative": 20}
    assert {"wolf" in row.tags for row in rows if row.label == "negative"} == {True}
    (told,) = [line["companions"] for line in ended.lines if "companions" in line]
    assert set(told) == {"tales", "fur"}


def test_mixed_negatives_are_of_both_kinds(series: Path, storage: Storage) -> None:
    with Moody(series) as board:
        run(board, storage, "--limit", "20", "--negatives", "mixed")
    _, rows = check(storage)
    kinds = Counter("wolf" in row.tags for row in rows if row.label == "negative")
    assert kinds.total() == 20
    assert 10 <= kinds[True] <= 14


@pytest.mark.parametrize("mode", ["random", "hard"])
def test_a_kill_does_not_change_the_choice(series: Path, tmp_path: Path, mode: str) -> None:
    stores = [open_storage(str(tmp_path / name)) for name in ("undisturbed", "killed")]
    options = ("--limit", "12", "--negatives", mode)
    with Moody(series) as board:
        run(board, stores[0], *options)
        for after in (4, 9, 15, 21):
            board.asked.clear()
            board.mood = lambda md5, _, after=after: _hang_after(board, after)  # type: ignore[misc]
            job = start(board, stores[1], *options, "--concurrency", "3")
            while len(image_keys(stores[1])) < after and job.poll() is None:
                pass
            job.kill()
            job.wait()
        board.mood = lambda _md5, _times: None
        assert run(board, stores[1], *options).code == 0
    assert images(stores[0]) == images(stores[1])
    assert check(stores[0])[0].fingerprint == check(stores[1])[0].fingerprint


def _hang_after(board: Moody, after: int) -> None:
    if len(board.asked) > after + 6:
        raise ConnectionResetError


def test_the_ratio_of_negatives(board: Moody, tmp_path: Path) -> None:
    for ratio, negatives in (("0.5", 5), ("2", 20), ("0.01", 1)):
        storage = open_storage(str(tmp_path / ratio))
        assert run(board, storage, "--limit", "10", "--negative-ratio", ratio).code == 0
        _, rows = check(storage)
        assert counts(rows) == {"positive": 10, "negative": negatives}


# --- Filters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (("--min-score", "5"), {4, 5}),
        (("--max-aspect", "2"), {1, 2, 3, 4}),
        (("--max-pixels", "5599"), {5}),
        (("--blocked-tags", "sword,gun barrel"), {1, 4, 5}),
        (("--since", "2024-03-01"), {3, 4, 5}),
        (("--since", "2024-03-01T12:00:00+09:00"), {4, 5}),
    ],
)
def test_filters(
    tmp_path: Path, storage: Storage, options: tuple[str, ...], taken: set[int]
) -> None:
    folder = tmp_path / "posts"
    fields: dict[int, dict[str, Any]] = {
        1: {"score": -3, "created_at": "2024-01-01T00:00:00Z"},
        2: {"tags": ["fox", "sword"], "created_at": "2024-02-01T00:00:00Z"},
        3: {"tags": ["fox", "gun_barrel"], "created_at": "2024-03-01T00:00:00Z"},
        4: {"score": 5, "created_at": "2024-04-01T00:00:00Z"},
        5: {"score": 9, "size": (100, 30), "created_at": "2024-05-01T00:00:00Z"},
    }
    for post_id, values in fields.items():
        write_post(folder, post_id, picture=post_id, **{"tags": ["fox"]} | values)
    owl = {"tags": ["owl"], "score": 7, "created_at": "2024-06-01T00:00:00Z"}
    for post_id in range(6, 12):
        write_post(folder, post_id, picture=post_id, **owl)  # type: ignore[arg-type]
    with Moody(folder) as board:
        run(board, storage, "--min-side", "20", *options)
    keys = [parse_image(key) for key in image_keys(storage)]
    found = {key.md5 for key in keys if key.label == "positive"}
    board_posts = {post.id: post.md5 for post in board.posts}
    assert found == {board_posts[post_id] for post_id in taken}


def test_since_finds_all_of_a_folder_whatever_their_ids(tmp_path: Path, storage: Storage) -> None:
    for number in range(400):
        folder = tmp_path / "pictures" / ("fox" if number % 2 else "owl")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
        day = f"{2024 if number % 100 < 2 else 2010}-06-01T00:00:00Z"
        (folder / f"{number}.json").write_text(json.dumps({"created_at": day}))
    source = ("--board", f"folder+{tmp_path / 'pictures'}", "--tags", "fox", "--no-curate")
    options = ("--storage", storage.url, "--since", "2024-01-01")
    assert scrape_job.main([*source, *options]) == 0
    assert counts(check(storage)[1]) == {"positive": 4, "negative": 4}


def test_since_ends_the_walk_where_only_the_posts_pages_tell_dates(
    tmp_path: Path, storage: Storage
) -> None:
    folder = tmp_path / "posts"
    for post_id in range(1, 301):
        day = f"{2024 if post_id > 290 else 2010}-06-01T00:00:00Z"
        tag = "fox" if post_id % 2 else "owl"
        write_post(folder, post_id, picture=post_id, tags=[tag], created_at=day)
    with Moody(folder, "closed") as board:
        assert run(board, storage, "--since", "2024-01-01").code == 0
        assert board.requests["view"] < 230
    assert counts(check(storage)[1]) == {"positive": 5, "negative": 5}


# --- Tags that share --------------------------------------------------------------------------

TAGS = [f"tag{number:02}" for number in range(50)]


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with 50 tags of 12 posts each, all over its 900 posts."""
    folder = tmp_path_factory.mktemp("fifty")
    for post_id in range(1, 901):
        tags = [TAGS[post_id % 75]] if post_id % 75 < 50 else ["scenery"]
        write_post(folder, post_id, picture=post_id, tags=tags)
    return folder


def test_fifty_tags_fetch_each_image_once(fifty: Path, tmp_path: Path) -> None:
    together = open_storage(str(tmp_path / "together"))
    with Moody(fifty) as board:
        assert run(board, together, "--limit", "10", tags=",".join(TAGS)).code == 0
        shared = board.requests.copy()
        assert max(Counter(board.asked).values()) == 1
        alone = Counter[str]()
        for number, tag in enumerate(TAGS[:5]):
            board.requests.clear()
            storage = open_storage(str(tmp_path / str(number)))
            assert run(board, storage, "--limit", "10", tags=tag).code == 0
            alone += board.requests
            # What was copied is what would have been fetched.
            assert dataset_of(storage, tag)[0].fingerprint == check(together, tag)[0].fingerprint
    for tag in TAGS:
        assert counts(dataset_of(together, tag)[1]) == {"positive": 10, "negative": 10}
    assert shared["image"] <= 0.75 * 10 * alone["image"]
    assert shared["api"] <= 0.5 * 10 * alone["api"]


def test_an_image_that_is_gone_is_fetched_again(board: Moody, storage: Storage) -> None:
    run(board, storage, "--limit", "10", tags="fox")
    for key in image_keys(storage):
        storage.delete(key)
    board.asked.clear()
    for entry in storage.list(".shared/"):
        storage.write(entry.key, storage.read(entry.key)[: len(entry.key) % 40])
        break
    assert run(board, storage, "--limit", "10", tags="robot").code == 0
    check(storage, "robot")
    assert len(board.asked) == len(set(board.asked)) == 20


def test_an_image_is_copied_under_a_tag_that_takes_it_only(
    drawn: Drawn, board: Moody, storage: Storage
) -> None:
    run(board, storage, "--limit", "1000", tags="fox")
    board.asked.clear()
    assert run(board, storage, "--limit", "1000", "--extensions", "png", tags="owl").code == 0
    _, rows = check(storage, "owl")
    assert {row.ext for row in rows} == {"png"}
    assert not set(board.asked) & {drawn.posts[i]["md5"] for i in drawn.ids("fox")}


def test_tags_in_a_bucket_share_by_copies_on_the_server(
    board: Moody, storage: Storage, s3_server: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_bucket(s3_server, monkeypatch)
    bucket = open_storage(f"{url}/some where")
    tags = "fox,robot,owl"
    assert end(start(board, bucket, "--limit", "15", tags=tags)).code == 0
    assert max(Counter(board.asked).values()) == 1
    run(board, storage, "--limit", "15", tags=tags)
    assert images(bucket) == images(storage)
    client = boto3.Session().client("s3")
    kinds = {
        client.head_object(Bucket=url[5:], Key=f"some where/{key}")["ContentType"]
        for key in image_keys(bucket)
    }
    assert kinds <= {"image/png", "image/jpeg", "image/webp"}, "a copy lost its type"


def test_two_lists_of_one_name_do_not_share_pictures(tmp_path: Path, storage: Storage) -> None:
    for number, place in enumerate(("first", "second")):
        pictures = tmp_path / place / "pictures"
        for position in range(8):
            label = ("fox", "owl")[position % 2]
            (pictures / label).mkdir(parents=True, exist_ok=True)
            (pictures / label / f"{position}.png").write_bytes(png(50 * number + position))
    for tag, place in (("fox", "first"), ("owl", "second")):
        source = tmp_path / place / "pictures"
        options = ("--storage", storage.url, "--tags", tag, "--no-curate")
        assert scrape_job.main(["--board", f"folder+{source}", *options]) == 0
        stored = {row.md5 for row in check(storage, tag)[1]}
        assert stored == {
            hashlib.md5(file.read_bytes()).hexdigest() for file in source.rglob("*.png")
        }
