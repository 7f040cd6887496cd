"""The local board over real HTTP, and a known crawler of such boards against it."""

from __future__ import annotations

import hashlib
import html
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus
from xml.etree import ElementTree as ET

import pytest
import requests
from bs4 import BeautifulSoup
from PIL import Image

from imagetag.demo.scenes import draw_posts
from imagetag.demo.server import BoardServer
from imagetag.errors import InputError, UsageError
from jobs import board as board_job
from tests.boardserver.closed import ClosedGelbooru02
from tests.builders.pictures import plain

COUNT = 130  # two pages of the crawler, four of the HTML
ODD_TAGS = [
    "fate/stay_night",
    "re:zero",
    '"quoted"',
    "it's",
    "<script>alert(1)</script>",
    "a&b",
    "&amp;",
    "1+1=2",
    "100%",
    "..",
    "ラーメン",
    "#hash?",
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_posts(folder, COUNT, seed=1)
    return folder


@pytest.fixture(scope="module")
def posts(drawn: Path) -> dict[int, dict[str, Any]]:
    lines = (drawn / "posts.jsonl").read_text().splitlines()
    return {post["id"]: post for post in map(json.loads, lines)}


@pytest.fixture
def board(drawn: Path) -> Iterator[BoardServer]:
    with BoardServer(drawn) as server:
        yield server


def write_post(folder: Path, post_id: int, size: tuple[int, int] = (40, 30), **fields: Any) -> None:
    """Add a picture and its line, of which `fields` overrides parts, to a folder."""
    data = plain(*size, (post_id % 256, 90, 60))
    line = {
        "id": post_id,
        "file": f"{post_id}.png",
        "tags": ["tag"],
        "rating": "general",
        "width": size[0],
        "height": size[1],
        "md5": hashlib.md5(data).hexdigest(),
        "ext": "png",
    }
    (folder / f"{post_id}.png").write_bytes(data)
    with (folder / "posts.jsonl").open("a", encoding="utf-8") as listing:
        listing.write(json.dumps(line | fields) + "\n")


def ask(board: BoardServer, **params: Any) -> requests.Response:
    return requests.get(f"{board.url}/index.php", params, timeout=20, allow_redirects=False)


def ask_api(board: BoardServer, **params: Any) -> requests.Response:
    return ask(board, page="dapi", s="post", q="index", **params)


def ask_xml(board: BoardServer, **params: Any) -> ET.Element:
    return ET.fromstring(ask_api(board, **params).content)


def ask_list(board: BoardServer, **params: Any) -> BeautifulSoup:
    return BeautifulSoup(ask(board, page="post", s="list", **params).text, "html.parser")


def ask_view(board: BoardServer, post_id: int) -> BeautifulSoup:
    return BeautifulSoup(ask(board, page="post", s="view", id=post_id).text, "html.parser")


def thumb_ids(page: BeautifulSoup) -> list[int]:
    return [int(str(span["id"])[1:]) for span in page.select("span.thumb")]


# --- What it lists ----------------------------------------------------------------------------


def test_api_and_pages_agree_on_what_a_tag_has(
    board: BoardServer, posts: dict[int, dict[str, Any]]
) -> None:
    wanted = sorted((i for i, post in posts.items() if "robot" in post["tags"]), reverse=True)
    assert 42 < len(wanted) < 84
    as_xml = [int(post.attrib["id"]) for post in ask_xml(board, tags="robot")]
    as_json = [post["id"] for post in ask_api(board, tags="robot", json=1).json()]
    as_html = thumb_ids(ask_list(board, tags="robot")) + thumb_ids(
        ask_list(board, tags="robot", pid=42)
    )
    assert as_xml == as_json == as_html == wanted


def test_api_pages_are_counted_in_pages(
    board: BoardServer, posts: dict[int, dict[str, Any]]
) -> None:
    seen = []
    for pid in range(4):
        root = ask_xml(board, tags="", limit=40, pid=pid)
        assert root.attrib == {"count": str(COUNT), "offset": str(40 * pid)}
        seen += [int(post.attrib["id"]) for post in root]
        as_json = ask_api(board, tags="", limit=40, pid=pid, json=1).json()
        assert [post["id"] for post in as_json] == seen[40 * pid :]
    assert seen == sorted(posts, reverse=True)
    assert len(ask_xml(board, limit=40, pid=4)) == 0


def test_pages_are_counted_in_posts_and_linked(
    board: BoardServer, posts: dict[int, dict[str, Any]]
) -> None:
    target, seen = f"{board.url}/index.php?page=post&s=list&tags=all", []
    for _ in range(4):
        page = BeautifulSoup(requests.get(target, timeout=20).text, "html.parser")
        seen += thumb_ids(page)
        following = page.select_one('#paginator a[alt="next"]')
        target = f"{board.url}/{following['href']}" if following else ""
    assert seen == sorted(posts, reverse=True)
    assert target == ""


def test_limits(board: BoardServer) -> None:
    assert len(ask_xml(board)) == 100
    assert len(ask_xml(board, limit=5)) == 5
    assert len(ask_xml(board, limit=100_000)) == COUNT
    nothing_but_the_count = ask_xml(board, limit=0)
    assert (len(nothing_but_the_count), nothing_but_the_count.attrib["count"]) == (0, str(COUNT))
    assert len(ask_xml(board, limit="many", pid="-3")) == 100


def test_no_more_than_a_thousand_at_once(tmp_path: Path) -> None:
    write_post(tmp_path, 1)
    line = (tmp_path / "posts.jsonl").read_text()
    lines = [line.replace('"id": 1,', f'"id": {post_id},') for post_id in range(1, 1202)]
    (tmp_path / "posts.jsonl").write_text("".join(lines))
    with BoardServer(tmp_path) as board:
        assert len(ask_xml(board, limit=5000)) == 1000
        assert len(ask_xml(board, limit=5000, pid=1)) == 201


def test_nothing_found(board: BoardServer) -> None:
    answer = ask_api(board, tags="no_such_tag")
    assert answer.status_code == 200
    assert answer.text.endswith('<posts count="0" offset="0"/>')
    answer = ask_api(board, tags="no_such_tag", json=1)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "Nobody here but us chickens!" in ask_list(board, tags="no_such_tag").get_text()


def test_one_post_by_id(board: BoardServer, posts: dict[int, dict[str, Any]]) -> None:
    post_id = next(iter(posts))
    assert [post.attrib["id"] for post in ask_xml(board, id=post_id)] == [str(post_id)]
    assert len(ask_xml(board, id=post_id + 10**6)) == 0


def test_fields_are_those_of_the_engine(
    board: BoardServer, posts: dict[int, dict[str, Any]]
) -> None:
    variant = next(post for post in posts.values() if "parent_id" in post)
    element = ask_xml(board, id=variant["id"])[0].attrib
    assert element["tags"] == f" {' '.join(variant['tags'])} "
    assert element["md5"] == variant["md5"]
    assert element["parent_id"] == str(variant["parent_id"])
    assert element["has_children"] == "false"
    assert re.fullmatch(r"\w{3} \w{3} \d\d \d\d:\d\d:\d\d \+0000 2024", element["created_at"])
    fields = ask_api(board, id=variant["id"], json=1).json()[0]
    assert fields["hash"] == variant["md5"]
    assert fields["parent_id"] == variant["parent_id"]
    assert fields["rating"] == variant["rating"]
    assert fields["file_url"] == element["file_url"]
    assert element["file_url"].endswith(f"/images/{fields['directory']}/{fields['image']}")
    parent = ask_xml(board, id=variant["parent_id"])[0].attrib
    assert (parent["parent_id"], parent["has_children"]) == ("", "true")
    assert ask_api(board, id=variant["parent_id"], json=1).json()[0]["parent_id"] == 0


def test_page_of_a_post(board: BoardServer, posts: dict[int, dict[str, Any]]) -> None:
    variant = next(post for post in posts.values() if "parent_id" in post)
    page = ask_view(board, variant["id"])
    statistics = page.select_one("#stats")
    assert statistics is not None
    assert f"Size: {variant['width']}x{variant['height']}" in statistics.text
    assert f"Rating: {variant['rating'].capitalize()}" in statistics.text
    original = page.find("a", string="Original image")
    assert original is not None
    data = requests.get(str(original["href"]), timeout=20).content
    assert hashlib.md5(data).hexdigest() == variant["md5"]
    image = page.select_one("img#image")
    assert image is not None
    assert str(image["alt"]).split() == variant["tags"]
    notice = page.select_one(".status-notice a")
    assert notice is not None
    assert str(notice["href"]).endswith(quote_plus(f"parent:{variant['parent_id']}"))
    assert len(page.select("#tag-sidebar .tag-type-general a")) == len(variant["tags"])


def test_a_post_that_is_gone_leads_to_the_list(board: BoardServer) -> None:
    answer = ask(board, page="post", s="view", id=1)
    assert answer.status_code == 302
    assert "s=list" in answer.headers["Location"]


def test_closed_api_refuses_in_xml_and_the_pages_work(drawn: Path) -> None:
    with BoardServer(drawn, protocol=ClosedGelbooru02) as board:
        for params in ({}, {"json": 1}):
            answer = ask_api(board, tags="robot", **params)
            assert answer.status_code == 200
            root = ET.fromstring(answer.content)
            assert (root.tag, root.attrib["success"]) == ("response", "false")
        assert len(thumb_ids(ask_list(board, tags="robot"))) == 42


def test_odd_tags_are_escaped_and_found(tmp_path: Path) -> None:
    write_post(tmp_path, 7, tags=ODD_TAGS, author="<b>", source='javascript:"')
    write_post(tmp_path, 8)
    with BoardServer(tmp_path) as board:
        for tag in ODD_TAGS:
            assert ask_xml(board, tags=tag).attrib["count"] == "1", tag
            page = ask(board, page="post", s="list", tags=tag).text
            assert thumb_ids(BeautifulSoup(page, "html.parser")) == [7], tag
            assert "<script>" not in page
        assert ask_xml(board, id=7)[0].attrib["tags"].split() == ODD_TAGS
        fields = ask_api(board, id=7, json=1).json()[0]
        assert html.unescape(fields["tags"]).split() == ODD_TAGS
        page = ask(board, page="post", s="view", id=7).text
        assert "<script>" not in page
        assert "<b>" not in page
        image = BeautifulSoup(page, "html.parser").select_one("#image")
        assert image is not None
        assert str(image["alt"]).split() == ODD_TAGS
        assert "<script>" not in ask(board, page="<script>", s="list").text


# --- Pictures and HTTP ------------------------------------------------------------------------


def test_pictures_are_the_files(
    board: BoardServer, drawn: Path, posts: dict[int, dict[str, Any]]
) -> None:
    types = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
    for ext, media_type in types.items():
        post = next(post for post in posts.values() if post["ext"] == ext)
        target = ask_xml(board, id=post["id"])[0].attrib["file_url"]
        head = requests.head(target, timeout=20)
        answer = requests.get(target, timeout=20)
        assert answer.headers["Content-Type"] == head.headers["Content-Type"] == media_type
        assert head.headers["Content-Length"] == str(post["size"])
        assert head.content == b""
        assert answer.content == (drawn / post["file"]).read_bytes()


def test_thumbnails_and_samples_are_small_jpegs(tmp_path: Path) -> None:
    write_post(tmp_path, 1, size=(1200, 800))
    write_post(tmp_path, 2, size=(30, 40))
    with BoardServer(tmp_path) as board:
        for post_id, thumb, sample in ((1, (150, 100), (850, 567)), (2, (30, 40), (30, 40))):
            fields = ask_xml(board, id=post_id)[0].attrib
            for name, size in (("preview", thumb), ("sample", sample)):
                data = requests.get(fields[f"{name}_url"], timeout=20).content
                with Image.open(io.BytesIO(data)) as picture:
                    assert picture.size == size
            assert (fields["sample_width"], fields["preview_width"]) == (
                str(sample[0]),
                str(thumb[0]),
            )
        assert ask_api(board, id=1, json=1).json()[0]["sample"] is True
        assert ask_api(board, id=2, json=1).json()[0]["sample"] is False


def test_one_connection_serves_many_requests(board: BoardServer) -> None:
    host = board.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.connect()
    line = connection.sock
    for method, path, status in (
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/images/1/none.png", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", "/index.php?page=dapi&s=comment&q=index", 404),
        ("GET", "/index.php?" + "&".join(f"a{i}=1" for i in range(60)), 400),
        ("GET", "/index.php?page=dapi&s=post&q=index", 200),
    ):
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert connection.sock is line
    connection.close()


def test_requests_are_counted_by_kind(board: BoardServer) -> None:
    ask_api(board, tags="robot", json=1)
    ask_list(board)
    ask_list(board, tags="fox")
    fields = ask_xml(board, limit=1)[0].attrib
    ask_view(board, int(fields["id"]))
    requests.get(fields["file_url"], timeout=20)
    requests.get(fields["preview_url"], timeout=20)
    requests.get(f"{board.url}/robots.txt", timeout=20)
    assert board.requests == {"api": 2, "list": 2, "view": 1, "image": 1, "preview": 1, "other": 1}


def test_urls_have_the_name_the_client_used(board: BoardServer) -> None:
    port = board.url.rpartition(":")[2]
    for host, root in (
        (f"localhost:{port}", f"http://localhost:{port}"),
        ("board.example:80", "http://board.example:80"),
        ('"><script>', board.url),
    ):
        answer = requests.get(
            f"{board.url}/index.php?page=dapi&s=post&q=index&limit=1",
            headers={"Host": host},
            timeout=20,
        )
        assert ET.fromstring(answer.content)[0].attrib["file_url"].startswith(f"{root}/images/")


def test_nothing_outside_the_folder_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_post(tmp_path, 1)  # a good picture that is no business of the board
    (folder / "link.png").symlink_to(tmp_path / "1.png")
    for post_id, file in enumerate(("../1.png", str(tmp_path / "1.png"), "link.png", "a\0.png"), 2):
        write_post(folder, post_id, file=file)
    write_post(folder, 9)
    with BoardServer(folder) as board:
        assert [post.attrib["id"] for post in ask_xml(board)] == ["9"]
        connection = http.client.HTTPConnection(board.url.removeprefix("http://"), timeout=20)
        for path in (
            "/images/../../1.png",
            "/images/%2e%2e/%2e%2e/1.png",
            "/images/1/..%2f..%2fposts.jsonl",
            "/thumbnails/1/..%2fposts.jsonl",
            "/posts.jsonl",
            "//etc/passwd",
            "/images/" + str(tmp_path / "1.png"),
        ):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 404, path
        connection.close()


def test_bad_lines_are_left_out(tmp_path: Path) -> None:
    write_post(tmp_path, 1)
    bad: list[dict[str, Any]] = [
        {"id": 1},  # there already
        {"md5": "x"},
        {"tags": ["two words"]},
        {"tags": ["\x00"]},
        {"tags": ["\ud800"]},
        {"rating": "?"},
        {"file": "missing.png"},
        {"width": 0},
        {"ext": "svg"},
    ]
    for post_id, fields in enumerate(bad, 2):
        write_post(tmp_path, post_id, **fields)
    with (tmp_path / "posts.jsonl").open("ab") as listing:
        listing.write(b'[1]\n{\n\xff\xfe\n\n"' + b"[" * 100_000)
    with BoardServer(tmp_path) as board:
        assert [post.id for post in board.posts] == [1]


def test_a_picture_that_vanished_or_broke_is_not_found(tmp_path: Path) -> None:
    write_post(tmp_path, 1)
    write_post(tmp_path, 2)
    with BoardServer(tmp_path) as board:
        (tmp_path / "1.png").unlink()
        (tmp_path / "2.png").write_bytes(b"no picture")
        gone, broken = (ask_xml(board, id=post_id)[0].attrib for post_id in (1, 2))
        assert requests.get(gone["file_url"], timeout=20).status_code == 404
        assert requests.get(gone["preview_url"], timeout=20).status_code == 404
        assert requests.get(broken["preview_url"], timeout=20).status_code == 404


def test_it_hangs_up_when_it_ends(drawn: Path) -> None:
    session = requests.Session()
    with BoardServer(drawn) as board:
        assert session.get(board.url, timeout=20).status_code == 200
    with pytest.raises(requests.ConnectionError):
        session.get(board.url, timeout=20)


def test_what_cannot_be_served(tmp_path: Path, drawn: Path) -> None:
    with pytest.raises(InputError, match=r"posts\.jsonl"):
        BoardServer(tmp_path)
    with BoardServer(drawn) as board, pytest.raises(UsageError, match="--port"):
        BoardServer(drawn, port=int(board.url.rpartition(":")[2]))


# --- A crawler, and the job -------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["fox", "no_humans"])
def test_gallery_dl_downloads_exactly_the_posts_of_a_tag(
    tmp_path: Path, board: BoardServer, posts: dict[int, dict[str, Any]], tag: str
) -> None:
    site = {"root": board.url, "pattern": re.escape(board.url.removeprefix("http://"))}
    config = {"extractor": {"gelbooru_v02": {"ours": site}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    subprocess.run(
        [
            *(sys.executable, "-m", "gallery_dl", "--config-ignore"),
            *("--config", str(tmp_path / "config.json"), "--write-metadata"),
            *("--option", "tags=true"),  # which it reads in the posts' pages
            *("--directory", str(tmp_path / "files")),
            f"gelbooru_v02:{board.url}/index.php?page=post&s=list&tags={tag}",
        ],
        check=True,
        timeout=400,
        capture_output=True,
    )
    files = list((tmp_path / "files").iterdir())
    pictures = [file for file in files if file.suffix != ".json"]
    wanted = {post["md5"]: post for post in posts.values() if tag in post["tags"]}
    assert {hashlib.md5(file.read_bytes()).hexdigest() for file in pictures} == set(wanted)
    assert len(pictures) == len(wanted)
    for file in files:
        if file.suffix == ".json":
            told = json.loads(file.read_text())
            assert told["tags"].split() == wanted[told["md5"]]["tags"]
            assert told["tags_general"].split() == wanted[told["md5"]]["tags"]
            assert told["date"].startswith("2024-01-")


def test_the_job_serves_until_it_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    job = subprocess.Popen(
        [sys.executable, "-m", "jobs.board", "--posts", "3", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        assert job.stdout is not None
        url = job.stdout.readline().strip()
        listing = f"{url}/index.php?page=dapi&s=post&q=index"
        assert ET.fromstring(requests.get(listing, timeout=20).content).attrib["count"] == "3"
        assert list(tmp_path.iterdir())
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=200) == 143
        assert job.stdout.read() == ""
        assert not list(tmp_path.iterdir())
    finally:
        job.kill()
        job.wait()


def test_the_job_says_in_one_line_what_is_wrong(
    tmp_path: Path, board: BoardServer, drawn: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert board_job.main(["--folder", str(tmp_path)]) == 3
    port = board.url.rpartition(":")[2]
    assert board_job.main(["--folder", str(drawn), "--port", port]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    complaints = [line for line in err.splitlines() if "error" in line]
    assert len(complaints) == len(err.splitlines()) == 2
    assert "posts.jsonl" in complaints[0]
    assert port in complaints[1]
