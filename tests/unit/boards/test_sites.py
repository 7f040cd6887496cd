"""Opening boards: the table of sites, engines by address or path, and who may ask them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from imagetag.boards.base import Login
from imagetag.boards.sites import ENGINES, SITES, check_board, open_board
from imagetag.errors import UsageError
from imagetag.web.client import Client
from tests.secret_urls import SECRET, told_of

BOTH = Login("somebody", "k3y-of-somebody")


@pytest.fixture
def client() -> Client:
    return Client(rate=1)


@pytest.mark.parametrize("name", SITES)
def test_every_site_of_the_table_opens(name: str, client: Client) -> None:
    site = SITES[name]
    board = open_board(name, client, BOTH if site.login == "required" else Login())
    assert (board.site, board.root) == (site, site.root)
    assert urlsplit(site.root).scheme == "https"
    assert 0 < site.page_size <= ENGINES[site.engine].page_size
    assert 0 <= site.interval <= 1


def test_a_site_is_asked_no_faster_than_its_rules_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []
    monkeypatch.setattr(Client, "set_interval", lambda _, *given: told.append(given))
    for name in ("e621", "safebooru"):
        open_board(name, Client(rate=100))
    assert told == [("https://e621.net", 1.0)]


def test_names_and_roots_are_told_apart() -> None:
    assert all(site.name == name for name, site in SITES.items())
    assert len({site.root for site in SITES.values()}) == len(SITES)
    assert {site.engine for site in SITES.values()} <= ENGINES.keys() - {"folder", "links"}


@pytest.mark.parametrize(
    ("spec", "name", "root"),
    [
        ("gelbooru02+https://board.example", "board.example", "https://board.example"),
        ("gelbooru02+http://127.0.0.1:8480/", "127.0.0.1:8480", "http://127.0.0.1:8480"),
        ("gelbooru02+http://[::1]:8480", "[::1]:8480", "http://[::1]:8480"),
        ("gelbooru02+https://a.example/b/", "a.example/b", "https://a.example/b"),
        ("gelbooru02+https://ボード.example", "ボード.example", "https://ボード.example"),
        ("gelbooru+https://board.example", "board.example", "https://board.example"),
        ("danbooru+https://board.example", "board.example", "https://board.example"),
        ("moebooru+https://board.example", "board.example", "https://board.example"),
        ("e621+https://board.example", "board.example", "https://board.example"),
        ("philomena+https://board.example", "board.example", "https://board.example"),
    ],
)
def test_a_board_by_engine_and_address(spec: str, name: str, root: str, client: Client) -> None:
    board = open_board(spec, client)
    assert (board.site.name, board.root) == (name, root)
    assert board.site.page_size == ENGINES[spec.split("+")[0]].page_size


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "there are safebooru, "),
        ("zzz", "there are safebooru, "),
        ("sfebooru", "there is no such board; did you mean safebooru?"),
        ("https://safebooru.org/", "did you mean safebooru?"),
        (
            "https://board.example",
            "say which engine it runs, such as gelbooru02+https://board.example; ",
        ),
        ("gelboru02+https://board.example", "no engine 'gelboru02'; did you mean gelbooru02?"),
        ("nonsense+https://board.example", "no engine 'nonsense'; there are gelbooru02, "),
        ("+https://board.example", "no engine ''"),
        ("folder+", "is not a path"),
        ("folder+a\0b", "is not a path"),
        ("gelbooru02+", "is not an address"),
        ("gelbooru02+board.example", "is not an address"),
        ("gelbooru02+ftp://board.example", "is not an address"),
        ("gelbooru02+file:///etc/passwd", "is not an address"),
        ("gelbooru02+https://", "is not an address"),
        ("gelbooru02+https://[", "is not an address"),
        ("gelbooru02+https://:80", "is not an address"),
        ("gelbooru02+https://board.example:99999", "is not an address"),
        ("gelbooru02+https://board example", "is not an address"),
    ],
)
def test_wrong_boards_are_said_in_one_line(spec: str, says: str, client: Client) -> None:
    with pytest.raises(UsageError) as caught:
        open_board(spec, client)
    line = str(caught.value)
    assert says in line
    assert repr(spec) in line
    assert "\n" not in line


@pytest.mark.parametrize("rest", SECRET)
def test_a_board_with_a_password_in_it_is_refused_and_not_told(rest: str, client: Client) -> None:
    for before in (
        "gelbooru02+https://",
        "danbooru+http://",
        "https://",
        "links+s3://",
        "x+ftp://",
    ):
        with pytest.raises(UsageError) as caught:
            open_board(before + rest, client)
        assert not told_of(str(caught.value))
        with pytest.raises(UsageError):
            check_board(before + rest)


def test_a_folder_or_a_file_of_that_name_is_suggested(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "list.csv").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for spec, meant in (
        ("mine", "folder+mine"),
        ("~/mine", "folder+~/mine"),
        ("list.csv", "links+list.csv"),
    ):
        with pytest.raises(UsageError, match=f"did you mean {re.escape(meant)}"):
            open_board(spec, client)


def test_a_folder_and_a_list_are_boards_too(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures" / "fox"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    listing = tmp_path / "list.csv"
    listing.write_text("url,tags\nhttps://a.example/1.png,fox\n")
    for spec in (
        f"folder+{folder.parent}",
        f"folder+{folder.parent}/",
        "folder+.",
        "folder+fox/..",
    ):
        monkeypatch.chdir(folder.parent)
        assert open_board(spec, client).site.name == "folder:pictures"
    assert open_board(f"links+{listing}", client).site.name == "links:list.csv"


# --- Credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "login", "says"),
    [
        ("gelbooru", Login(), "wants an account's --board-user and --board-key"),
        ("gelbooru", Login("1", ""), "--board-key is missing"),
        ("gelbooru", Login("", "k3y-of-somebody"), "--board-user is missing"),
        ("danbooru", Login("", "k3y-of-somebody"), "--board-user is missing"),
        ("e621", Login("somebody", ""), "--board-key is missing"),
        ("derpibooru", Login("somebody", ""), "--board-key is missing"),
    ],
)
def test_missing_credentials_are_asked_for(
    spec: str, login: Login, says: str, client: Client
) -> None:
    with pytest.raises(UsageError) as caught:
        open_board(spec, client, login)
    line = str(caught.value)
    assert says in line
    assert "IMAGETAG_BOARD_USER" in line
    assert "IMAGETAG_BOARD_KEY" in line
    assert "k3y-of-somebody" not in line


@pytest.mark.parametrize(
    ("spec", "login"),
    [
        ("gelbooru", BOTH),
        ("danbooru", Login()),
        ("danbooru", BOTH),
        ("yandere", BOTH),  # takes none, and is given none
        ("derpibooru", Login("", "k3y-of-somebody")),
        ("gelbooru+https://board.example", Login()),
    ],
)
def test_enough_credentials_open_a_board(spec: str, login: Login, client: Client) -> None:
    assert open_board(spec, client, login).login == login


def test_a_key_is_shown_nowhere(client: Client) -> None:
    board = open_board("gelbooru", client, BOTH)
    assert "k3y" not in repr(board.login) + repr(board) + str(board)


def test_no_engine_is_imported_before_it_is_used() -> None:
    script = (
        "import sys\nfrom imagetag.boards import open_board\n"
        "found = [name for name in sys.modules if name.startswith('imagetag.boards.')]\n"
        "assert sorted(found) == ['imagetag.boards.base', 'imagetag.boards.sites'], found\n"
        "assert not {'bs4', 'defusedxml', 'sqlite3'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
