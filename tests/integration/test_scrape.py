"""The scrape job, from a real board over HTTP into real storage, undisturbed and disturbed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from statistics import median
from typing import Any, Literal
from urllib.parse import urlsplit

import boto3
import pytest

from imagetag.dataset.manifest import Row, part_keys, read_parts
from imagetag.demo.pages import Answer
from imagetag.demo.protocol import Request
from imagetag.job.heartbeat import Beat
from imagetag.layout import Layout, Split, parse_image
from imagetag.status.overview import Overview
from imagetag.storage.base import Storage
from imagetag.storage.opening import open_storage
from imagetag.storage.records import load_record
from jobs import plan as plan_job
from tests.ended import Ended
from tests.integration.scraping import (
    Drawn,
    Moody,
    check,
    checked,
    counts,
    dataset_of,
    end,
    failures,
    hang_up,
    image_keys,
    images,
    picture,
    png,
    refused,
    run,
    start,
    write_post,
)

# --- What it stores ---------------------------------------------------------------------------


def test_images_of_a_tag_and_as_many_without_it(
    drawn: Drawn, board: Moody, storage: Storage
) -> None:
    ended = end(start(board, storage, "--limit", "20"))
    assert (ended.code, ended.errors) == (0, [])
    dataset, rows = check(storage)
    assert counts(rows) == {"positive": 20, "negative": 20}
    folders = {key.rpartition("/")[0] for key in image_keys(storage)}
    assert folders == {
        *("fox/train/fox", "fox/train/not_fox", "fox/test/fox", "fox/test/not_fox"),
    }
    others = {entry.key for entry in storage.list()} - set(image_keys(storage))
    others -= {".status/fox/scrape-0.done.json", ".status/.jobs/scrape-0.json"}
    notes = {key for key in others if key.startswith(".shared/")}
    assert others - notes == {"fox/dataset.json", *dataset.parts}
    assert len(notes) == len(rows)
    assert all(re.fullmatch(r"fox/manifest/part-[0-9a-f]{24}\.jsonl", key) for key in dataset.parts)
    positives = [row for row in rows if row.label == "positive"]
    assert {row.post_id for row in positives} == set(drawn.ids("fox")[:20]), "not the newest"
    for row in rows:
        post = drawn.posts[row.post_id]
        assert (row.md5, row.ext) == (post["md5"], post["ext"])
        assert (row.width, row.height, row.bytes) == (post["width"], post["height"], post["size"])
        assert row.tags == tuple(post["tags"])
        assert row.rating == "general"
        assert row.board == urlsplit(board.url).netloc
        assert row.page_url == f"{board.url}/index.php?page=post&s=view&id={row.post_id}"
        assert row.group == f"{row.board}:{post.get('parent_id', row.post_id)}"
    assert dataset.tag == "fox"
    assert dataset.board == urlsplit(board.url).netloc
    assert dataset.request == {
        "board": board.url,
        "limit": 20,
        "ratings": ["general"],
        "extensions": ["jpg", "png", "webp"],
        "min_side": 64,
        "max_bytes": 50_000_000,
        "test_fraction": 0.2,
        "negatives": "random",
        "negative_ratio": 1.0,
        "max_pixels": 50_000_000,
        "max_aspect": None,
        "min_score": None,
        "blocked_tags": [],
        "since": None,
    }
    assert dataset.failures == {}
    assert dataset.software.startswith("imagetag ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", dataset.created)
    assert len(board.asked) == 40


def test_children_are_in_the_split_of_their_parent(
    drawn: Drawn, board: Moody, storage: Storage
) -> None:
    run(board, storage, "--limit", "1000", "--test-fraction", "0.5", tags="frog")
    _, rows = check(storage, "frog")
    by_post = {row.post_id: row for row in rows}
    families = 0
    for post_id, row in by_post.items():
        parent = by_post.get(drawn.posts[post_id].get("parent_id", 0))
        if parent is not None:
            assert parent.split == row.split
            families += 1
    assert families >= 4
    assert {row.split for row in rows} == {"train", "test"}


def test_a_second_run_asks_nobody_anything(board: Moody, storage: Storage) -> None:
    assert run(board, storage, "--limit", "10").code == 0
    before, marker = board.requests.copy(), storage.read("fox/dataset.json")
    assert run(board, storage, "--limit", "10").code == 0
    assert board.requests == before
    assert storage.read("fox/dataset.json") == marker


def test_a_higher_limit_fetches_only_what_is_new(board: Moody, storage: Storage) -> None:
    run(board, storage, "--limit", "10")
    first = images(storage)
    assert run(board, storage, "--limit", "25").code == 0
    _, rows = check(storage)
    assert counts(rows) == {"positive": 25, "negative": 25}
    assert len(board.asked) == len(set(board.asked)) == 50
    assert first.items() <= images(storage).items(), "what was there has moved"


def test_the_same_options_in_another_order_ask_the_same(board: Moody, storage: Storage) -> None:
    run(board, storage, "--limit", "5", "--rating", "sensitive,general", "--extensions", "png,jpg")
    before = board.requests.copy()
    run(board, storage, "--limit", "5", "--rating", "safe,sensitive", "--extensions", "jpeg,png")
    assert board.requests == before


@pytest.mark.parametrize("ratings", ["", "general,explicit", "sensitive,questionable,explicit"])
def test_only_ratings_asked_for(drawn: Drawn, board: Moody, storage: Storage, ratings: str) -> None:
    options = ("--rating", ratings) if ratings else ()
    assert run(board, storage, "--limit", "1000", *options, tags="no_humans").code == 3
    wanted = ratings.split(",") if ratings else ["general"]
    keys = [parse_image(key) for key in image_keys(storage)]
    assert {key.md5 for key in keys} == drawn.sums(drawn.ids("no_humans", *wanted))
    assert run(board, storage, "--limit", "1000", *options, tags="frog").code == 0
    _, rows = check(storage, "frog")
    assert {row.rating for row in rows} == set(wanted)


@pytest.mark.parametrize(
    ("option", "value", "reason", "fits"),
    [
        ("--extensions", "png", "extension", lambda post: post["ext"] == "png"),
        ("--extensions", "jpeg,webp", "extension", lambda post: post["ext"] != "png"),
        ("--min-side", "400", "too_small", lambda post: min(post["width"], post["height"]) >= 400),
        ("--max-bytes", "40000", "file_too_large", lambda post: post["size"] <= 40000),
    ],
)
@pytest.mark.parametrize("api", ["open", "closed"])
def test_what_does_not_fit_is_counted_and_replaced(
    drawn: Drawn,
    storage: Storage,
    option: str,
    value: str,
    reason: str,
    fits: Callable[[dict[str, Any]], bool],
    api: Literal["open", "closed"],
) -> None:
    with Moody(drawn.folder, api) as board:
        assert run(board, storage, "--limit", "1000", option, value).code == 0
    dataset, rows = check(storage)
    foxes = drawn.ids("fox")
    fitting = [post_id for post_id in foxes if fits(drawn.posts[post_id])]
    assert 0 < len(fitting) < len(foxes)
    assert {row.post_id for row in rows if row.label == "positive"} == set(fitting)
    assert all(fits(drawn.posts[row.post_id]) for row in rows)
    others = set(drawn.ids("no_humans")) - set(foxes)
    assert counts(rows)["negative"] == min(
        len(fitting), sum(fits(drawn.posts[post_id]) for post_id in others)
    )
    assert dataset.skipped[reason] >= len(foxes) - len(fitting)
    assert dataset.failures == {}
    if reason != "file_too_large":  # no board tells the size of files
        assert set(board.asked) == {row.md5 for row in rows}, "fetched what it could not use"


def test_a_closed_api_gives_the_same_images(drawn: Drawn, board: Moody, tmp_path: Path) -> None:
    found = []
    with Moody(drawn.folder, "closed") as closed:
        for number, server in enumerate((board, closed)):
            storage = open_storage(str(tmp_path / str(number)))
            assert run(server, storage, "--limit", "25").code == 0
            _, rows = check(storage)
            groups = [row.group.partition(":")[2].rpartition(":")[2] for row in rows]
            found.append({(r.label, r.md5, r.tags, g) for r, g in zip(rows, groups, strict=True)})
        assert closed.requests["view"] == 50
    assert found[0] == found[1]


@pytest.mark.parametrize(("tag", "limit"), [("night", 10), ("fox", 20), ("solo", 39)])
def test_negatives_are_as_old_as_positives(
    board: Moody, storage: Storage, tag: str, limit: int
) -> None:
    run(board, storage, "--limit", str(limit), tags=tag)
    _, rows = check(storage, tag)
    positives = [row.post_id for row in rows if row.label == "positive"]
    negatives = [row.post_id for row in rows if row.label == "negative"]
    assert len(negatives) == len(positives) >= min(limit, 30)
    oldest, newest = min(positives), max(positives)
    fifths = Counter((i - oldest) * 5 // (newest + 1 - oldest) for i in negatives)
    assert set(fifths) == set(range(5)), f"of {oldest}..{newest}, only {sorted(negatives)}"
    assert abs(median(negatives) - median(positives)) < 0.2 * (newest - oldest)


def test_a_negative_never_carries_the_tag_whatever_the_board_finds(
    drawn: Drawn, board: Moody, storage: Storage
) -> None:
    board.deaf = True
    assert run(board, storage, "--limit", "30").code == 0
    dataset, rows = check(storage)
    assert counts(rows) == {"positive": 30, "negative": 30}
    assert dataset.skipped["tag_present"] > 0


def test_a_picture_is_stored_once_however_many_posts_show_it(
    tmp_path: Path, storage: Storage
) -> None:
    folder = tmp_path / "posts"
    for post_id in range(1, 41):
        write_post(folder, post_id, picture=post_id, tags=["fox"] if post_id % 2 else ["owl"])
    for post_id in range(41, 81):  # each picture twice more, under both labels
        write_post(folder, post_id, picture=post_id - 40, tags=["fox"])
        write_post(folder, post_id + 40, picture=post_id - 40, tags=["owl"])
    for api in ("open", "closed"):
        other = open_storage(f"{storage.url}-{api}")
        with Moody(folder, api) as board:
            assert run(board, other, "--limit", "1000").code == 3  # all pictures are foxes
        keys = [parse_image(key) for key in image_keys(other)]
        assert len(keys) == len({key.md5 for key in keys}) == 40
        assert {key.label for key in keys} == {"positive"}


def test_what_a_picture_is_counts_more_than_what_its_post_says(
    tmp_path: Path, storage: Storage
) -> None:
    folder = tmp_path / "posts"
    write_post(folder, 1, picture=1, tags=["fox"], width=900, height=900)  # it has 80 x 70
    write_post(folder, 2, picture=2, tags=["fox"], ext="jpg")  # it is a PNG
    write_post(folder, 3, picture=3, tags=["owl"])
    with Moody(folder) as board:
        ended = run(board, storage, "--min-side", "75")
        assert "(left out: too_small 2)" in ended.errors[0]
        ended = run(board, storage, "--extensions", "jpg,webp")
        assert "(left out: extension 2)" in ended.errors[0]
        assert ended.code == 3
        assert image_keys(storage) == []
        assert run(board, storage, "--extensions", "png,jpg").code == 0
    _, rows = check(storage)
    assert {(row.post_id, row.ext, row.width, row.height) for row in rows} == {
        *((1, "png", 80, 70), (2, "png", 80, 70), (3, "png", 80, 70)),
    }


# --- What it says when it cannot --------------------------------------------------------------


def test_an_unknown_tag(board: Moody, storage: Storage) -> None:
    ended = end(start(board, storage, tags="no_such_tag"))
    assert ended.code == 3
    (line,) = ended.errors
    assert "no posts with the tag 'no_such_tag'; check its spelling" in line
    [record, entry] = storage.list()
    assert record.key == ".status/.jobs/scrape-0.json"
    beat = load_record(storage, entry.key, Beat)
    assert (beat.tag, beat.state, beat.exit_code, beat.reason) == ("no_such_tag", "failed", 3, line)


def test_an_alias_is_told_by_what_its_posts_carry(board: Moody, storage: Storage) -> None:
    ended = run(board, storage, tags="alias")
    assert ended.code == 3
    (line,) = ended.errors
    assert "probably an alias" in line
    assert "most common tags are" in line
    assert " fox" in line
    assert "no_humans" in line
    assert board.asked == []
    assert [entry.key for entry in storage.list()] == [
        ".status/.jobs/scrape-0.json",
        ".status/alias/scrape-0.failed.json",
    ]


def test_one_tag_that_fails_does_not_stop_the_others(board: Moody, storage: Storage) -> None:
    ended = end(start(board, storage, "--limit", "5", tags="fox,no_such_tag,owl"))
    assert ended.code == 3
    assert ended.errors[-1] == "1 of 3 tags failed: no_such_tag"
    for tag in ("fox", "owl"):
        _, rows = check(storage, tag)
        assert counts(rows) == {"positive": 5, "negative": 5}
    assert {entry.key.split("/")[0] for entry in storage.list()} == {
        *(".shared", ".status", "fox", "owl")
    }


def test_a_tag_that_every_post_has_gets_no_marker(board: Moody, storage: Storage) -> None:
    ended = run(board, storage, "--limit", "5", tags="no_humans")
    assert ended.code == 3
    assert "no usable post without the tag 'no_humans'" in ended.errors[0]
    assert storage.stat("no_humans/dataset.json") is None


def test_private_boards_need_the_option(board: Moody, storage: Storage) -> None:
    job = subprocess.run(
        [
            *(sys.executable, "-m", "jobs.scrape", "--tags", "fox", "--storage", storage.url),
            *("--board", f"gelbooru02+{board.url}"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert job.returncode == 2
    (line,) = checked(job.stderr)
    assert "127.0.0.1" in line["event"]
    assert "--allow-private-hosts" in line["event"]
    assert not board.requests


@pytest.mark.parametrize("contact", ["a\nX-Other: b", "Jürgen", "\u2603"])
def test_a_contact_that_fits_no_header_is_refused(
    board: Moody, storage: Storage, contact: str
) -> None:
    ended = run(board, storage, "--contact", contact)
    assert ended.code == 2
    assert "--contact" in ended.errors[0]
    assert not board.requests


def test_another_split_than_before_is_refused(board: Moody, storage: Storage) -> None:
    run(board, storage, "--limit", "10")
    for complete in (True, False):  # also of what a run left that was killed
        if not complete:
            storage.delete("fox/dataset.json")
        before = images(storage)
        ended = run(board, storage, "--limit", "10", "--test-fraction", "0.6")
        assert ended.code == 2
        assert "--test-fraction 0.6" in ended.errors[0]
        assert images(storage) == before


# --- Shards -----------------------------------------------------------------------------------


def test_shards_share_the_tags(board: Moody, storage: Storage) -> None:
    tags = ["fox", "robot", "owl", "ghost", "frog"]
    jobs = [
        start(
            *(board, storage, "--limit", "8", "--shard-count", "2", "--shard-index", str(index)),
            tags=",".join(tags),
        )
        for index in range(2)
    ]
    done = []
    for ended in map(end, jobs):
        assert ended.code == 0
        done.append({line["tag"] for line in ended.lines if line["event"] == "dataset complete"})
    assert done == [{"fox", "owl", "frog"}, {"robot", "ghost"}]
    total = 0
    for tag in tags:
        _, rows = check(storage, tag)
        assert counts(rows) == {"positive": 8, "negative": 8}
        total += len(rows)
    assert len(board.asked) < total, "nothing was shared between the tags"
    assert max(Counter(board.asked).values()) <= 2, "a shard fetched a picture twice"


# --- Posts that fail --------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("api", ["open", "closed"])
def test_every_post_is_stored_or_recorded_with_its_reason_and_others_replace_it(
    drawn: Drawn, storage: Storage, api: Literal["open", "closed"]
) -> None:
    foxes = drawn.ids("fox")
    some = drawn.posts[foxes[0]]
    cut = (drawn.folder / some["file"]).read_bytes()[: some["size"] // 2]
    moods: list[tuple[str, Callable[[int], Answer | None], bool]] = [
        ("http_404", lambda _: refused(HTTPStatus.NOT_FOUND), True),
        ("http_403", lambda _: refused(HTTPStatus.FORBIDDEN), False),
        ("http_500", lambda _: refused(HTTPStatus.INTERNAL_SERVER_ERROR), False),
        ("not_an_image", lambda _: picture(b"<html>please log in</html>"), True),
        ("not_an_image", lambda _: picture(b""), True),
        ("truncated", lambda _: picture(cut), True),
        ("connection", lambda _: hang_up(), False),
        # These come to a good end.
        ("", lambda times: None if times else refused(HTTPStatus.SERVICE_UNAVAILABLE), False),
        ("", lambda times: None if times > 1 else hang_up(), False),
    ]
    if api == "open":  # the pages tell no sum
        moods.append(("md5", lambda _: picture(png(7)), True))
    troubled = {drawn.posts[i]["md5"]: mood for i, mood in zip(foxes, moods, strict=False)}

    with Moody(drawn.folder, api) as board:
        board.mood = lambda md5, times: troubled[md5][1](times) if md5 in troubled else None
        assert run(board, storage, "--limit", "15").code == 0
    dataset, rows = check(storage)
    assert counts(rows) == {"positive": 15, "negative": 15}
    lost = {i: mood for i, mood in zip(foxes, moods, strict=False) if mood[0]}
    taken = [post_id for post_id in foxes if post_id not in lost][:15]
    assert {row.post_id for row in rows if row.label == "positive"} == set(taken)
    recorded = failures(storage)
    assert {i: (f.reason, f.permanent) for i, f in recorded.items()} == {
        i: (mood[0], mood[2]) for i, mood in lost.items()
    }
    for post_id, failure in recorded.items():
        assert failure.label == "positive"
        assert failure.page_url.endswith(f"id={post_id}")
        assert failure.detail
    assert dataset.failures == Counter(mood[0] for mood in lost.values())


@pytest.mark.usefixtures("quick_retries")
def test_failures_that_may_pass_are_tried_again_and_others_are_not(
    drawn: Drawn, board: Moody, storage: Storage
) -> None:
    foxes = drawn.ids("fox")
    gone, busy = (drawn.posts[post_id]["md5"] for post_id in foxes[:2])
    statuses = {gone: HTTPStatus.NOT_FOUND, busy: HTTPStatus.BAD_GATEWAY}
    board.mood = lambda md5, _: refused(statuses[md5]) if md5 in statuses else None
    run(board, storage, "--limit", "5")
    assert check(storage)[0].failures == {"http_404": 1, "http_502": 1}
    board.mood = lambda _md5, _times: None
    board.asked.clear()
    assert run(board, storage, "--limit", "6").code == 0
    assert busy in board.asked
    assert gone not in board.asked
    dataset, rows = check(storage)
    assert busy in {row.md5 for row in rows}
    assert dataset.failures == {"http_404": 1}, "the one that was had later counts as failed"


def test_another_page_in_the_place_of_a_post_is_tried_again_by_the_next_run(
    drawn: Drawn, storage: Storage
) -> None:
    blocked = drawn.ids("fox")[0]

    class Wary(Moody):
        captcha = True

        def answer(self, request: Request) -> Answer:
            if self.captcha and request.params.get("id") == str(blocked):
                page = b"<html><title>Prove that you are human</title></html>"
                return Answer(HTTPStatus.OK, "text/html", page)
            return super().answer(request)

    with Wary(drawn.folder, "closed") as board:
        assert run(board, storage, "--limit", "5").code == 0
        (failure,) = failures(storage).values()
        assert (failure.post_id, failure.reason, failure.permanent) == (blocked, "page", False)
        assert "Prove that you are human" in failure.detail
        board.captcha = False
        assert run(board, storage, "--limit", "6").code == 0
    dataset, rows = check(storage)
    assert blocked in {row.post_id for row in rows}
    assert dataset.failures == {}


@pytest.mark.usefixtures("quick_retries")
def test_pictures_that_are_all_gone_or_all_late(
    drawn: Drawn, board: Moody, storage: Storage
) -> None:
    assert 5 <= len(drawn.ids("hills")) < 20
    board.mood = lambda _md5, _times: refused(HTTPStatus.SERVICE_UNAVAILABLE)
    ended = run(board, storage, tags="hills")
    assert ended.code == 75
    assert "gives no picture for now (http_503 " in ended.errors[0]
    board.mood = lambda _md5, _times: refused(HTTPStatus.NOT_FOUND)
    ended = run(board, storage, tags="hills")
    assert ended.code == 3
    assert "no usable post with the tag 'hills' (left out: http_404 " in ended.errors[0]
    assert storage.stat("hills/dataset.json") is None


# --- A board that goes down -------------------------------------------------------------------


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("what", ["the board", "the pictures", "a ban"])
@pytest.mark.parametrize("after", [3, 30])
def test_an_outage_is_told_and_a_rerun_completes(
    board: Moody, storage: Storage, tmp_path: Path, what: str, after: int
) -> None:
    undisturbed = open_storage(str(tmp_path / "undisturbed"))
    run(board, undisturbed, "--limit", "28")
    board.asked.clear()

    def mood(_md5: str, _times: int) -> Answer | None:
        if len(board.asked) <= after:
            return None
        if what == "the board":
            board.down = True
        return refused(HTTPStatus.FORBIDDEN) if what == "a ban" else hang_up()

    board.mood = mood
    # Few at once: what was given before the outage must not be stored so late that too few posts
    # are left to fail in a row after it.
    ended = run(board, storage, "--limit", "28", "--concurrency", "2")
    assert ended.code == 75
    (line,) = ended.errors
    assert board.url in line
    assert storage.stat("fox/dataset.json") is None
    board.down, board.mood = False, lambda _md5, _times: None
    assert run(board, storage, "--limit", "28").code == 0
    assert images(storage) == images(undisturbed)
    assert check(storage)[0].fingerprint == dataset_of(undisturbed)[0].fingerprint


# --- Killed at any instant --------------------------------------------------------------------


class Gate:
    """Lets so many pictures through, then none until it is opened; they hang meanwhile."""

    def __init__(self, board: Moody, pictures: int) -> None:
        self._left = pictures
        self._lock = threading.Lock()
        self._opened = threading.Event()
        self.reached = threading.Event()
        board.mood = self._mood

    def open(self) -> None:
        self._opened.set()

    def _mood(self, _md5: str, _times: int) -> Answer | None:
        with self._lock:
            self._left -= 1
            if self._left >= 0:
                return None
        self.reached.set()
        assert self._opened.wait(1000)
        return hang_up()


@pytest.mark.parametrize(
    ("pictures", "api"), [(0, "open"), (3, "open"), (22, "open"), (39, "open"), (22, "closed")]
)
def test_a_kill_costs_only_what_was_under_way(
    drawn: Drawn, tmp_path: Path, pictures: int, api: Literal["open", "closed"]
) -> None:
    storage, undisturbed = (
        open_storage(str(tmp_path / name)) for name in ("killed", "undisturbed")
    )
    with Moody(drawn.folder, api) as board:
        run(board, undisturbed, "--limit", "20")
        kill(board, storage, pictures, signal.SIGKILL)
        stored = {parse_image(key).md5 for key in image_keys(storage)}
        assert len(stored) == pictures
        assert not part_keys(storage, Layout("fox"), "part"), "no kill before rows are written"
        assert run(board, storage, "--limit", "20").code == 0
        assert not stored & set(board.asked), "what was stored is fetched again"
        assert len(board.asked) == 40 - len(stored)
    assert images(storage) == images(undisturbed)
    assert check(storage)[0].fingerprint == dataset_of(undisturbed)[0].fingerprint
    assert run(board, storage, "--limit", "20").code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_rows_and_a_rerun_goes_on(
    number: signal.Signals, code: int, drawn: Drawn, board: Moody, tmp_path: Path
) -> None:
    storage, undisturbed = (
        open_storage(str(tmp_path / name)) for name in ("killed", "undisturbed")
    )
    run(board, undisturbed, "--limit", "20")
    ended = kill(board, storage, 8, number)
    assert ended.code == code
    assert ended.lines[-1]["exit_code"] == code
    said = "; 8 images are stored and recorded; run it again to go on"
    assert ended.lines[-1]["event"].endswith(said)
    assert not ended.errors
    layout = Layout("fox")
    rows = list(read_parts(storage, part_keys(storage, layout, "part"), Row))
    assert len(rows) == 8, "rows of stored images are lost"
    assert {layout.image(r.split, r.label, r.md5, r.ext) for r in rows} == set(image_keys(storage))
    # Now it goes on, and is killed without a warning: some images have a row, others do not.
    kill(board, storage, 9, signal.SIGKILL)
    stored = {parse_image(key).md5 for key in image_keys(storage)}
    assert len(stored) == 17
    assert run(board, storage, "--limit", "20").code == 0
    assert not stored & set(board.asked)
    assert images(storage) == images(undisturbed)
    assert check(storage)[0].fingerprint == dataset_of(undisturbed)[0].fingerprint


def kill(board: Moody, storage: Storage, pictures: int, how: signal.Signals) -> Ended:
    """Kill a run when so many pictures were given; the board keeps the next ones until it ends."""
    gate = Gate(board, pictures)
    wanted = len(image_keys(storage)) + pictures
    job = start(board, storage, "--limit", "20")
    try:
        assert gate.reached.wait(200)
        while len(image_keys(storage)) < wanted:
            assert job.poll() is None
            time.sleep(0.02)
        os.kill(job.pid, how)
        job.wait(200)
    finally:
        job.kill()
        gate.open()
    board.mood = lambda _md5, _times: None
    ended = end(job)
    time.sleep(0.3)  # for what it had sent, and the board has not read yet
    board.asked.clear()
    return ended


def test_a_kill_before_the_marker_costs_no_picture(board: Moody, storage: Storage) -> None:
    run(board, storage, "--limit", "10")
    dataset, _ = check(storage)
    board.asked.clear()
    for marker in (None, b"", b'{"version": 1, "tag"', b"[" * 10_000):
        storage.delete("fox/dataset.json")
        if marker is not None:
            storage.write("fox/dataset.json", marker)
        assert run(board, storage, "--limit", "10").code == 0
        assert check(storage)[0].fingerprint == dataset.fingerprint
    assert board.asked == []


def test_images_that_another_run_took_away_are_fetched_again(
    board: Moody, storage: Storage
) -> None:
    def mood(_md5: str, _times: int) -> None:
        if len(board.asked) == 15:  # another run of the tag completes, and tidies up
            storage.delete(image_keys(storage)[0])

    board.mood = mood
    ended = run(board, storage, "--limit", "10", "--concurrency", "1")
    assert ended.code == 75
    assert "1 images below" in ended.errors[0]
    assert storage.stat("fox/dataset.json") is None
    board.asked.clear()
    assert run(board, storage, "--limit", "10").code == 0
    assert len(board.asked) == 1
    _, rows = check(storage)
    assert counts(rows) == {"positive": 10, "negative": 10}


def test_damaged_pictures_of_a_killed_run_are_not_trusted(
    drawn: Drawn, board: Moody, tmp_path: Path
) -> None:
    storage, undisturbed = (
        open_storage(str(tmp_path / name)) for name in ("killed", "undisturbed")
    )
    run(board, undisturbed, "--limit", "5")
    for key, data in list(images(undisturbed).items())[:4]:
        storage.write(key, data[:-1])
    assert run(board, storage, "--limit", "5").code == 0
    assert images(storage) == images(undisturbed)


def test_what_a_killed_run_stored_and_this_one_does_not_select_is_gone(
    board: Moody, storage: Storage
) -> None:
    run(board, storage, "--limit", "20")
    for entry in list(storage.list("fox/manifest/")):  # as if killed before it wrote any row
        storage.delete(entry.key)
    storage.delete("fox/dataset.json")
    storage.write("fox/train/fox/notes.txt", b"somebody else's")
    assert run(board, storage, "--limit", "4").code == 0
    assert storage.read("fox/train/fox/notes.txt") == b"somebody else's"
    storage.delete("fox/train/fox/notes.txt")
    _, rows = check(storage)
    assert counts(rows) == {"positive": 4, "negative": 4}


def test_an_older_copy_of_a_recorded_image_in_the_other_split_is_gone(
    board: Moody, storage: Storage
) -> None:
    run(board, storage, "--limit", "10")
    _, rows = check(storage)
    # As if a run had been killed before its rows were written, then the next, which found the
    # post in another family and so in another split, before its marker was.
    for row in rows[:3]:
        other: Split = "train" if row.split == "test" else "test"
        data = storage.read(Layout("fox").image(row.split, row.label, row.md5, row.ext))
        storage.write(Layout("fox").image(other, row.label, row.md5, row.ext), data)
    storage.delete("fox/dataset.json")
    assert run(board, storage, "--limit", "10").code == 0
    check(storage)


# --- S3 ---------------------------------------------------------------------------------------


def test_a_bucket_holds_the_same_as_a_folder(
    board: Moody, storage: Storage, s3_settings: None
) -> None:
    boto3.Session().client("s3").create_bucket(Bucket="bucket")
    bucket = open_storage("s3://bucket/some/prefix")
    run(board, storage, "--limit", "6")
    for _ in range(2):
        board.asked.clear()
        assert end(start(board, bucket, "--limit", "6")).code == 0
    assert board.asked == []
    assert images(bucket) == images(storage)
    assert check(bucket)[0].fingerprint == dataset_of(storage)[0].fingerprint


def test_a_bucket_tells_what_is_under_way_and_a_plan_how_fast_it_was(
    board: Moody, s3_settings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    boto3.Session().client("s3").create_bucket(Bucket="watched")
    bucket = open_storage("s3://watched/here")
    overview = Overview(bucket)
    go_on = threading.Event()

    def wait(_md5: str, _times: int) -> None:
        go_on.wait(60)

    board.mood = wait
    job = start(board, bucket, "--limit", "20")
    try:
        while not list(bucket.list(".status/")):
            assert job.poll() is None
            time.sleep(0.1)
        [fox] = overview.read()
        assert fox.stages["scrape"].state == "running"
        assert (fox.stages["scrape"].done, fox.stages["scrape"].total) == (0, 20)
    finally:
        go_on.set()
    assert end(job).code == 0
    [fox] = overview.read()
    assert fox.stages["scrape"].state == "complete"
    assert fox.stages["scrape"].result == "20+20"
    options = ["--board", f"gelbooru02+{board.url}", "--allow-private-hosts", "--json"]
    options += ["--storage", bucket.url, "--tags", "fox,owl", "--limit", "20", "--max-rate", "1000"]
    before = sum(board.requests.values())
    assert plan_job.main(options) == 0
    assert sum(board.requests.values()) - before <= 5  # of the owl alone
    planned = json.loads(capsys.readouterr().out)
    assert [tag["done"] for tag in planned["tags"]] == [["scrape"], []]
    assert planned["rates"]["requests_per_image"]["origin"] == "measured"
    assert planned["rates"]["bytes_per_image"]["value"] == pytest.approx(
        dataset_of(bucket)[0].bytes / 40
    )
