"""Folders and lists of URLs in the place of a board: walked like one, whatever is in them."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagetag.boards import listed
from imagetag.boards.base import Post, Query, Site
from imagetag.boards.folder import FolderBoard
from imagetag.boards.links import LinksBoard
from imagetag.errors import InputError, TransientError, UsageError
from imagetag.web.client import Client
from imagetag.web.hosts import HttpError

CLIENT = Client(rate=1)


def folder_board(path: Path) -> FolderBoard:
    return FolderBoard(Site(f"folder:{path.name}", "folder", str(path)), CLIENT)


def links_board(path: Path | str) -> LinksBoard:
    name = str(path).rpartition("/")[2]
    return LinksBoard(Site(f"links:{name}", "links", str(path)), CLIENT)


def write(path: Path, content: str | bytes = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def by_name(board: FolderBoard, query: Query | None = None) -> dict[str, Post]:
    """Return all posts by their files' names."""
    posts = list(board.walk(query or Query()))
    assert [post.id for post in posts] == sorted({post.id for post in posts}, reverse=True)
    return {(post.file_url or "").rpartition("/")[2]: post for post in posts}


# --- Folders ------------------------------------------------------------------------------------


def test_folders_and_side_cars_give_the_tags(tmp_path: Path) -> None:
    write(tmp_path / "asuka" / "1.jpg", b"one")
    write(tmp_path / "asuka" / "plug suit" / "2.PNG", b"two")
    write(tmp_path / "asuka" / "plug suit" / "2.txt", "solo, long hair")
    write(tmp_path / "fate%2Fstay_night" / "3.webp", b"three")  # as this project stores a tag
    write(tmp_path / "fate%2Fstay_night" / "3.webp.txt", "1girl\nsaber\n")
    write(tmp_path / "4.jpg", b"four")
    write(
        tmp_path / "4.jpg.json",
        json.dumps(
            {
                "id": 17,
                "tags": ["rei", "solo"],
                "rating": "e",
                "score": 5,
                "md5": "0" * 32,
                "created_at": "2020-01-02T03:04:05Z",
            }
        ),
    )
    write(tmp_path / "5.jpg", b"five")
    write(tmp_path / "5.json", '{"tag_string": "rei", "parent_id": 17}')
    posts = by_name(folder_board(tmp_path))
    assert {name: post.tags for name, post in posts.items()} == {
        "1.jpg": ("asuka",),
        "2.PNG": ("asuka", "plug_suit", "solo", "long_hair"),
        "3.webp": ("fate/stay_night", "1girl", "saber"),
        "4.jpg": ("rei", "solo"),
        "5.jpg": ("rei",),
    }
    assert posts["1.jpg"].board == f"folder:{tmp_path.name}"
    assert posts["1.jpg"].rating == "general"
    four = posts["4.jpg"]
    assert (four.rating, four.score, four.md5) == ("explicit", 5, None)
    assert four.created_at == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert four.group == posts["5.jpg"].group  # parent and child
    assert four.group != posts["1.jpg"].group


def test_what_imagetag_has_stored_in_the_folder_is_no_picture_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = f"part-{'0' * 64}.jsonl"
    storage = tmp_path / "imagetag-output" / "storage"
    write(tmp_path / "star" / "mine.jpg")
    write(tmp_path / "star" / "train" / "steam.jpg")  # a person's own folders, however called
    write(tmp_path / "moon" / "manifest" / "list.jpg")
    for tag in ("star", "re%3Azero"):
        write(storage / tag / "train" / tag / "stored.jpg")
        write(storage / tag / "explore" / "plot.png")
        write(storage / tag / "manifest" / part)
    write(storage / "early" / "test" / "not_early" / "stored.jpg")
    write(storage / ".status" / "early" / "scrape-0.running.json")
    # Where the storage is the folder itself, a tag's folder has both.
    write(tmp_path / "fox" / "own.jpg")
    write(tmp_path / "fox" / "models" / "run" / "plot.png")
    write(tmp_path / "fox" / "manifest" / part)
    assert by_name(folder_board(tmp_path)).keys() == {
        *("mine.jpg", "steam.jpg", "list.jpg"),
        "own.jpg",
    }
    told = capsys.readouterr()
    assert (told.out + told.err).count(f"{storage}") == 1
    assert by_name(folder_board(storage / "star")).keys() == {"stored.jpg", "plot.png"}


def test_what_is_not_known_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a" / "good.jpg")
    write(tmp_path / "untagged.jpg")
    write(tmp_path / "a" / "broken.jpg")
    write(tmp_path / "a" / "broken.json", "[" * 100_000)
    write(tmp_path / "a" / "large.jpg")
    write(tmp_path / "a" / "large.txt", "x " * 1_000_000)
    write(tmp_path / "a" / "binary.jpg")
    write(tmp_path / "a" / "binary.txt", b"\xff\xfe\x00solo")
    write(tmp_path / "a" / "notes.md")
    write(tmp_path / ".hidden" / "1.jpg")
    write(tmp_path / "x\x01y" / "1.jpg")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    write(tmp_path / "a" / os.fsdecode(b"\xfe.jpg"))
    assert set(by_name(folder_board(tmp_path))) == {"good.jpg"}
    logged = "".join(capsys.readouterr()).replace('"', "'")
    for reason in ("untagged", "side_car", "no_picture", "hidden", "name", "tags"):
        assert f"'{reason}'" in logged


def test_files_that_come_or_go_move_no_id(tmp_path: Path) -> None:
    for number in range(50):
        write(tmp_path / "folder" / "tag" / f"{number}.jpg")
    before = {name: post.id for name, post in by_name(folder_board(tmp_path / "folder")).items()}
    for number in range(100, 150):
        write(tmp_path / "folder" / "a" / f"{number}.jpg")
    (tmp_path / "folder" / "tag" / "0.jpg").unlink()
    (tmp_path / "folder").rename(tmp_path / "moved")
    after = {name: post.id for name, post in by_name(folder_board(tmp_path / "moved")).items()}
    assert len(after) == 99
    del before["0.jpg"]
    assert before.items() <= after.items()


def test_files_of_one_hash_get_two_ids_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = listed.stable_id
    monkeypatch.setattr(listed, "stable_id", lambda name, attempt=0: real(name, attempt) % 64 + 1)
    for number in range(40):
        write(tmp_path / "tag" / f"{number}.jpg")
    first = by_name(folder_board(tmp_path))
    assert len(first) == 40  # `by_name` sees to it that all ids differ
    assert by_name(folder_board(tmp_path)) == first


def test_a_picture_is_read_whole_and_no_further_than_allowed(tmp_path: Path) -> None:
    write(tmp_path / "a tag" / "1 #ä?.jpg", b"12345")
    board = folder_board(tmp_path)
    [post] = board.walk(Query(("a_tag",)))
    assert board.fetch(post, 5).content == b"12345"
    assert refusal(board, post, 4) == "too_large"
    (tmp_path / "a tag" / "1 #ä?.jpg").unlink()
    assert refusal(board, post) == "missing"
    os.mkfifo(tmp_path / "a tag" / "1 #ä?.jpg")
    assert refusal(board, post) == "no_file"


def test_files_of_one_size_are_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fox").mkdir()
    for number in range(20):
        (tmp_path / "fox" / f"{number}.bmp").write_bytes(bytes([number // 2]) * 50)
    board = folder_board(tmp_path)
    asked: list[Any] = []
    having = board._index.having

    def counted(column: Any, value: Any) -> Any:
        asked.append((column, value))
        return having(column, value)

    monkeypatch.setattr(board._index, "having", counted)
    for post in board.walk(Query()):
        content = board.fetch(post, 100).content
        [other] = board.copies(post, 50, partial(bytes, content))
        assert other.id != post.id
        assert board.fetch(other, 100).content == content
    assert asked == [("bytes", 50)]


def refusal(board: FolderBoard, post: Post, max_bytes: int = 1000) -> str:
    with pytest.raises(HttpError) as refused:
        board.fetch(post, max_bytes)
    assert refused.value.permanent
    return refused.value.reason


def test_links_that_lead_out_are_refused_when_listed_and_when_read(tmp_path: Path) -> None:
    write(tmp_path / "secret.txt", "root")
    write(tmp_path / "secret" / "1.jpg", "root")
    inside = tmp_path / "inside"
    write(inside / "tag" / "real.jpg", b"real")
    write(inside / "tag" / "later.jpg")
    (inside / "tag" / "link.jpg").symlink_to("real.jpg")
    (inside / "tag" / "out.jpg").symlink_to(tmp_path / "secret.txt")
    (inside / "tag" / "gone.jpg").symlink_to("nowhere")
    (inside / "tag" / "round.jpg").symlink_to("round.jpg")
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "tag" / "loop").symlink_to(inside)
    write(inside / "tag" / "tagged.jpg")
    (inside / "tag" / "tagged.txt").symlink_to(tmp_path / "secret.txt")
    board = folder_board(inside)
    posts = by_name(board)
    assert {"real.jpg", "link.jpg", "later.jpg"} <= set(posts)
    assert not {"out.jpg", "1.jpg", "round.jpg", "tagged.jpg"} & set(posts)
    assert board.fetch(posts["link.jpg"], 10).content == b"real"
    (inside / "tag" / "later.jpg").unlink()
    (inside / "tag" / "later.jpg").symlink_to(tmp_path / "secret.txt")
    assert refusal(board, posts["later.jpg"]) == "leads_outside"


def test_a_folder_without_pictures_and_one_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lists no picture"):
        folder_board(tmp_path)
    write(tmp_path / "file")
    for path in (tmp_path / "missing", tmp_path / "file", Path("a\0b")):
        with pytest.raises(UsageError, match="name a folder"):
            folder_board(path)


# --- Lists --------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"url": "http://example.org/1.jpg", "tags": "asuka solo", "rating": "g", "width": 10},
    {"url": "http://example.org/2.jpg", "tags": "asuka rei", "rating": "e", "width": 20},
    {"url": "http://example.org/3.jpg", "tags": "rei solo", "rating": "g", "width": None},
]


def as_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def as_gzip(path: Path) -> None:
    as_csv(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def as_tsv(path: Path) -> None:
    as_csv(path, "\t")


def as_json_lines(path: Path) -> None:
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")


def as_parquet(path: Path) -> None:
    rows = [row | {"tags": row["tags"].split()} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *(("list.csv", as_csv), ("LIST.TSV", as_tsv), ("list.csv.gz", as_gzip)),
        *(("list.jsonl", as_json_lines), ("list.parquet", as_parquet)),
    ],
)
def test_every_kind_of_list_gives_the_same_posts(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    posts = {post.file_url: post for post in links_board(tmp_path / name).walk(Query())}
    for row in ROWS:
        post = posts.pop(row["url"])
        assert post.id == listed.stable_id(row["url"])
        assert post.tags == tuple(row["tags"].split())
        assert post.rating == {"g": "general", "e": "explicit"}[row["rating"]]
        assert post.width == row["width"]
        assert post.board == f"links:{name}"
    assert posts == {}


def test_a_list_in_storage_is_read(s3_settings: None) -> None:
    client = boto3.Session().client("s3")
    client.create_bucket(Bucket="lists")
    body = b"url,tags\nhttp://example.org/1.jpg,solo\n"
    client.put_object(Bucket="lists", Key="a/b.csv", Body=body)
    [post] = links_board("s3://lists/a/b.csv").walk(Query())
    assert post.board == "links:b.csv"
    with pytest.raises(InputError, match=r"missing\.csv"):
        links_board("s3://lists/a/missing.csv")


def numbered(path: Path, ids: list[Any]) -> list[int]:
    rows = ({"id": i, "url": f"http://a.b/{n}", "tags": "x"} for n, i in enumerate(ids))
    path.write_text("\n".join(map(json.dumps, rows)))
    return [post.id for post in links_board(path).walk(Query())]


def test_ids_of_the_list_are_kept_if_they_tell_the_rows_apart(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    assert numbered(path, [3, "1", 2.0]) == [3, 2, 1]
    hashed = sorted((listed.stable_id(f"http://a.b/{n}") for n in range(3)), reverse=True)
    for ids in ([3, 3, 2], [3, None, 2], [3, -1, 2], ["a", "b", "c"]):
        assert numbered(path, ids) == hashed


def test_children_stay_with_their_parents_also_without_ids(tmp_path: Path) -> None:
    write(
        tmp_path / "list.csv",
        "id,parent_id,url,tags\n7,,http://a.b/1,x\n8,7,http://a.b/2,x\n8,,http://a.b/3,x\n",
    )
    groups = {
        post.file_url: post.group for post in links_board(tmp_path / "list.csv").walk(Query())
    }
    assert groups["http://a.b/1"] == groups["http://a.b/2"] != groups["http://a.b/3"]


def test_a_row_that_comes_again_is_one_post(tmp_path: Path) -> None:
    write(tmp_path / "list.csv", "url,tags\n" + "http://a.b/1,x\nhttp://a.b/2,x\n" * 5)
    assert len(list(links_board(tmp_path / "list.csv").walk(Query()))) == 2


@pytest.mark.parametrize("backwards", [False, True])
def test_all_rows_of_a_url_tell_of_one_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, backwards: bool
) -> None:
    rows = [
        # A tag a row, in any order and with others in between.
        "http://a.b/1,scene,,,2",
        "http://a.b/2,scene,,,2",
        "http://a.b/1,fox,e,,1",
        "http://a.b/1#top,owl,g,,3",
        "http://a.b/1,,s,,",
        # Whose file is it?
        f"http://a.b/3,fox,,{'0' * 32},",
        f"http://a.b/3,owl,,{'1' * 32},",
        # What the second says is not known.
        "http://a.b/4,fox,,,",
        f"http://a.b/4,{'x' * 300},,,",
        # Nothing is known of it, not even what it is no picture of.
        "http://a.b/5,,,,",
    ]
    write(
        tmp_path / "list.csv",
        "\n".join(["url,tags,rating,md5,score", *(reversed(rows) if backwards else rows)]),
    )
    board = links_board(tmp_path / "list.csv")
    posts = {post.file_url: post for post in board.walk(Query())}
    assert set(posts) == {"http://a.b/1", "http://a.b/2"}
    first = posts["http://a.b/1"]
    assert set(first.tags) == {"scene", "fox", "owl"}
    assert (first.rating, first.score) == ("explicit", 1)
    for tag in ("fox", "owl"):
        assert list(board.walk(Query((tag,)))) == [first]
        assert list(board.walk(Query(without=(tag,)))) == [posts["http://a.b/2"]]
    logged = "".join(capsys.readouterr()).replace('"', "'")
    for count in ("'md5_conflict': 1", "'other_rows': 1", "'tags': 1", "'untagged': 2"):
        assert count in logged


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.b/1.jpg", "HTTP://A.B/1.jpg"),
        ("http://a.b/~x/1.jpg", "http://a.b/%7ex/%31.jpg#top"),
        ("http://a.b/%C3%A9.jpg?q=%2F", "http://a.b/é.jpg?q=%2f"),
        ("http://a.b/a%20b.jpg", "http://a.b/a b.jpg"),
        ("http://a.b/1.jpg", "http://a.b:80/2/../1.jpg"),
        ("https://a.b/1.jpg", "https://a.b:443/./1.jpg"),
        ("http://a.b/?1", "http://a.b?1"),
    ],
)
def test_two_spellings_of_a_url_are_one_picture(tmp_path: Path, one: str, other: str) -> None:
    for urls in ((one, other), (other, one)):
        write(tmp_path / "list.csv", "url,tags\n{},fox\n{},owl\n".format(*urls))
        [post] = links_board(tmp_path / "list.csv").walk(Query())
        assert post.file_url == one
        assert set(post.tags) == {"fox", "owl"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a.b/1.jpg", "http://a.b/1.jpg/"),
        ("http://a.b/1.jpg", "http://a.b/1.JPG"),
        ("http://a.b/1.jpg", "https://a.b/1.jpg"),
        ("http://a.b/1.jpg", "http://a.b:443/1.jpg"),
        ("http://a.b/1.jpg", "http://a.b/1.jpg?"),
        ("http://a.b/?a=1&b=2", "http://a.b/?b=2&a=1"),
        ("http://a.b/a/b.jpg", "http://a.b/a%2Fb.jpg"),
    ],
)
def test_urls_that_a_server_may_tell_apart_are_two(tmp_path: Path, one: str, other: str) -> None:
    write(tmp_path / "list.csv", f"url,tags\n{one},fox\n{other},owl\n")
    found = {post.file_url: post.tags for post in links_board(tmp_path / "list.csv").walk(Query())}
    assert found == {one: ("fox",), other: ("owl",)}


def test_a_url_that_no_client_can_ask_for_costs_its_row_alone(tmp_path: Path) -> None:
    write(tmp_path / "list.csv", "url,tags\nhttp://a.b:99999/1,x\nhttp://a.b/2,x\n")
    [post] = links_board(tmp_path / "list.csv").walk(Query())
    assert post.file_url == "http://a.b/2"


def test_a_url_with_several_ids_is_one_post(tmp_path: Path) -> None:
    write(
        tmp_path / "list.csv", "id,url,tags\n7,http://a.b/1,x\n9,http://a.b/2,x\n5,http://a.b/1,y\n"
    )
    found = {post.id: post.tags for post in links_board(tmp_path / "list.csv").walk(Query())}
    assert found == {5: ("x", "y"), 9: ("x",)}


def test_queries_find_what_a_walk_over_everything_finds(tmp_path: Path) -> None:
    tags = ["a", "b", "c", "d"]
    rows = [
        {
            "id": number,
            "url": f"http://a.b/{number}",
            "tags": [tag for place, tag in enumerate(tags) if number % (place + 2) == 0] or ["e"],
            "rating": "gqe"[number % 3],
        }
        for number in range(1, 300)
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    board = links_board(tmp_path / "list.jsonl")
    everything = list(board.walk(Query()))
    assert [post.id for post in everything] == list(range(299, 0, -1))
    wanted: Iterator[tuple[str, ...]] = itertools.chain(
        [(), ("unknown",)], itertools.permutations(tags, 1), itertools.permutations(tags, 2)
    )
    for having in wanted:
        for without in ((), ("a",), ("d", "c"), ("unknown",)):
            for below, above in ((None, None), (200, 50), (10**30, -5), (1, None)):
                query = Query(having, without, ("general",))
                found = board.walk(query, below=below, above=above, limit=7)
                assert [post.id for post in found] == [
                    post.id
                    for post in everything
                    if set(having) <= set(post.tags)
                    and not set(without) & set(post.tags)
                    and post.rating == "general"
                    and (below is None or post.id < below)
                    and (above is None or post.id > above)
                ]


HOSTILE_CSV = b"".join(
    (
        b"\xef\xbb\xbfURL,tags,rating\n",
        b"http://a.b/good1,solo,g\n",
        b"http://a.b/field," + b"x" * 200_000 + b",g\n",
        b"http://a.b/line," + b"x" * 5_000_000 + b",g\n",
        b"http://a.b/nul\0,solo,g\n",
        b"http://a.b/enc\xff,solo,g\n",
        b"http://a.b/tag,sol\xff,g\n",
        b"http://a.b/few,solo\n",
        b"http://a.b/many,solo,g,h\n",
        b"not a url,solo,g\n",
        b"\n",
        b'http://a.b/good2,"solo, long hair",g\n',
        b'http://a.b/open,"solo,g\n',
    )
)


def test_bad_rows_of_a_csv_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "list.csv", HOSTILE_CSV)
    posts = {post.file_url: post.tags for post in links_board(tmp_path / "list.csv").walk(Query())}
    assert posts == {"http://a.b/good1": ("solo",), "http://a.b/good2": ("solo", "long_hair")}
    logged = "".join(capsys.readouterr()).replace('"', "'")  # whatever the format of the log is
    assert logged.count("entries left out") == 1
    for count in ("'syntax': 1", "'too_long': 1", "'url': 2", "'encoding': 2", "'columns': 2"):
        assert count in logged
    assert "'quotes': 1" in logged
    assert "line 3" in logged


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_one_mark_that_is_not_closed_costs_no_other_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, end: str
) -> None:
    mark = "\t" if name == "list.tsv" else ","
    rows = [f"http://a.b/{n}{mark}fox n{n}" for n in range(1, 41)]
    rows[5] = f'http://a.b/6{mark}"owl n6'
    rows[29] += '"'
    write(tmp_path / name, end.join(("url" + mark + "tags", *rows, "")))
    board = links_board(tmp_path / name)
    found = {post.file_url: post.tags for post in board.walk(Query())}
    logged = "".join(capsys.readouterr()).replace('"', "'")
    expected = {f"http://a.b/{n}": ("fox", f"n{n}") for n in range(1, 41)}
    if name == "list.tsv":
        expected |= {"http://a.b/6": ('"owl', "n6"), "http://a.b/30": ("fox", 'n30"')}
        assert "read as text" in logged
        assert "line 7" in logged
    else:
        del expected["http://a.b/6"], expected["http://a.b/30"]
        assert "'quotes': 2" in logged
        assert "line 7" in logged
    assert found == expected


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_captions_of_several_lines_are_read(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / ("list.tsv" if delimiter == "\t" else "list.csv")
    captions = ['fox,\r\nlong "red" hair', "owl\n\nmoon\nhttp://a.b/no", "plain", '"quoted"']
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(("url", "caption"))
        writer.writerows((f"http://a.b/{n}", caption) for n, caption in enumerate(captions))
    found = {post.file_url: post.tags for post in links_board(path).walk(Query())}
    assert found == {
        "http://a.b/0": ("fox", 'long_"red"_hair'),
        "http://a.b/1": ("owl", "moon", "http://a.b/no"),
        "http://a.b/2": ("plain",),
        "http://a.b/3": ('"quoted"',),
    }


def test_bad_lines_of_json_are_left_out(tmp_path: Path) -> None:
    good = b'{"IMAGE_URL": "http://a.b/1", "TEXT": "a cat"}\n'
    bad = (
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[1]", b"5", b'"x"', b"{", b"\xff\xfe\x00"),
        *(b'{"url": "http://a.b/2", "tags": {"a": {"b": 1}}}', b'{"id": ' + b"9" * 9000 + b"}"),
        *(b'{"url": ["http://a.b/3"], "tags": "x"}', b'{"url": "http://a.b/4", "tags": "\\ud800"}'),
        b'{"url": "http://a.b/' + b"x" * 3_000_000 + b'", "tags": "x"}',
    )
    write(tmp_path / "list.jsonl", b"\n".join(bad) + b"\n" + good)
    [post] = links_board(tmp_path / "list.jsonl").walk(Query())
    assert (post.file_url, post.tags) == ("http://a.b/1", ("a", "cat"))


def test_bad_values_of_parquet_are_left_out(tmp_path: Path) -> None:
    urls = pyarrow.array([b"http://a.b/1", b"http://a.b/\xff", None, b"http://a.b/3"])
    table = pyarrow.table(
        {
            "url": pyarrow.Array.from_buffers(pyarrow.string(), 4, urls.buffers()),
            "tags": pyarrow.array([["solo", None], ["solo"], ["solo"], None]),
            "created_at": pyarrow.array([2**62, 0, 0, 0], pyarrow.timestamp("us")),
            "width": pyarrow.array([[1], [2], None, []]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(InputError, match="untagged 1"):
        links_board(tmp_path / "list.parquet")
    table = table.drop_columns(["created_at"])
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    [post] = links_board(tmp_path / "list.parquet").walk(Query())
    assert (post.file_url, post.tags, post.width) == ("http://a.b/1", ("solo",), None)


def test_any_damage_to_parquet_is_one_line(tmp_path: Path) -> None:
    as_parquet(tmp_path / "list.parquet")
    data = (tmp_path / "list.parquet").read_bytes()
    damaged = 0
    for place in range(0, len(data), 199):
        content = bytearray(data)
        content[place] ^= 0xAB
        write(tmp_path / "list.parquet", bytes(content))
        try:
            links_board(tmp_path / "list.parquet")
        except (InputError, UsageError) as error:
            damaged += "\n" not in str(error)
    assert damaged


def test_types_of_parquet_that_are_wrong_give_one_line(tmp_path: Path) -> None:
    table = pyarrow.table({"url": [1, 2], "tags": [[1], [2]]})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(InputError, match=r"\(left out: url 2; first row 1\)"):
        links_board(tmp_path / "list.parquet")


@pytest.mark.parametrize("cut", [0, 3, 100, -200, -9, -1])
def test_a_damaged_parquet_gives_one_line(tmp_path: Path, cut: int) -> None:
    as_parquet(tmp_path / "list.parquet")
    data = (tmp_path / "list.parquet").read_bytes()
    write(tmp_path / "list.parquet", data[:cut])
    with pytest.raises(InputError, match="damaged or no Parquet") as refused:
        links_board(tmp_path / "list.parquet")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "error", "text"),
    [
        ("list.txt", b"", UsageError, "its name must end in one of .csv"),
        ("list.parquet.gz", b"", UsageError, "its name must end in"),
        ("list", b"", UsageError, "its name must end in"),
        ("list.csv", b"", UsageError, "no column of URLs"),
        ("list.csv", b"x" * 200_000 + b",url,tags\n", UsageError, "no column of URLs"),
        ("list.csv", b"url,name\n", UsageError, "no column of tags, .* are 'url, name'"),
        ("list.csv", "url,tags\n".encode("utf-16"), UsageError, "no text in UTF-8"),
        ("list.jsonl", '{"url": 1}\n'.encode("utf-16-le"), UsageError, "no text in UTF-8"),
        ("list.tsv", "url\ttags\n".encode("utf-16"), UsageError, "no text in UTF-8"),
        ("list.csv", b"url,tags\n", InputError, "lists no picture"),
        ("list.jsonl", b"[]\n" * 3, InputError, r"left out: syntax 3; first line 1\)"),
        ("list.csv.gz", b"no gzip", InputError, "damaged"),
        ("list.csv.gz", gzip.compress(b"url,tags\n" * 9999, mtime=0)[:-9], InputError, "damaged"),
        (
            "list.csv.gz",
            gzip.compress(b"url,tags\n", mtime=0)[:12] + b"\xff" * 9,
            InputError,
            "damaged",
        ),
    ],
)
def test_a_list_that_is_none_gives_one_line(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], text: str
) -> None:
    write(tmp_path / name, content)
    with pytest.raises(error, match=text) as refused:
        links_board(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl", "list.csv.gz"])
@given(
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [
                b"\n",
                b'"',
                b",",
                b"\t",
                b"http://a.b/1",
                b"solo",
                b'{"url": "http://a.b/1", "tags": "x"}',
            ]
        )
    ),
)
@settings(
    suppress_health_check=[
        *settings().suppress_health_check,
        HealthCheck.function_scoped_fixture,
    ]
)
def test_any_bytes_are_posts_or_one_line(tmp_path: Path, name: str, parts: list[bytes]) -> None:
    header = b"url\ttags\n" if name.endswith(".tsv") else b"url,tags\n"
    content = header * (".jsonl" not in name) + b"".join(parts)
    write(tmp_path / name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    try:
        posts = list(links_board(tmp_path / name).walk(Query()))
    except (InputError, UsageError):  # no post in it, or no text
        return
    assert posts
    assert all(post.tags and post.file_url for post in posts)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_a_list_that_is_missing_or_a_folder_gives_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="No such file"):
        links_board(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        links_board(tmp_path / name)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_parquet(tmp_path / "list.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"install image-tag-classification\[parquet\]"):
        links_board(tmp_path / "list.parquet")


def test_no_room_for_the_index_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "_MAX_PAGES", 20)
    rows = (f"http://a.b/{number},{number} x\n" for number in range(5000))
    write(tmp_path / "list.csv", "url,tags\n" + "".join(rows))
    with pytest.raises(TransientError, match="set TMPDIR"):
        links_board(tmp_path / "list.csv")
