"""What the page's server answers, and to whom."""

from __future__ import annotations

import errno
import json
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from imagetag import log
from imagetag.errors import TransientError, UsageError
from imagetag.review import Given, ReviewServer, TagSession, open_tag_session
from imagetag.review.server import MAX_AT_ONCE, make_app
from imagetag.storage import LocalStorage
from imagetag.verdicts import load_verdicts
from tests.builders.reviews import TAG, store_reviewable
from tests.pages import HOSTILE, Page

TOKEN = "a-token"
HERE = {"Origin": "http://localhost"}


@pytest.fixture
def session(tmp_path: Path) -> TagSession:
    storage = LocalStorage(tmp_path)
    store_reviewable(storage, tags=tuple(HOSTILE))
    return open_tag_session(storage, TAG, "suspects")


@pytest.fixture
def client(session: TagSession) -> FlaskClient:
    app = make_app(session, TOKEN)
    app.testing = False  # an error is an answer, as it is outside tests
    return app.test_client()


def sent(number: int, item: str, answer: str = "yes", ago: float = 0) -> dict[str, Any]:
    return {"id": f"{number:016x}", "item": item, "answer": answer, "ago": ago}


def post(client: FlaskClient, *answers: Any, headers: dict[str, str] = HERE) -> Any:
    return client.post(f"/{TOKEN}/answers", json={"answers": answers}, headers=headers)


@pytest.mark.parametrize(
    "path", ["/", "/state", "/a-toke/state", "/a-token2/", "/page.js", "/static/page.js"]
)
def test_who_does_not_know_the_token_gets_nothing(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code in (404, 308)
    assert client.get(f"/{TOKEN}/state").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", ""]
)
@pytest.mark.parametrize("path", ["", "state", "page.js"])
def test_a_name_that_leads_here_from_elsewhere_is_refused(
    client: FlaskClient, host: str, path: str
) -> None:
    answer = client.get(f"/{TOKEN}/{path}", headers={"Host": host})
    assert answer.status_code == 400
    assert b"robot" not in answer.data


@pytest.mark.parametrize("host", ["127.0.0.1:8123", "localhost:9", "localhost"])
def test_this_machine_is_served_also_through_a_forwarded_port(
    client: FlaskClient, host: str
) -> None:
    assert client.get(f"/{TOKEN}/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "https://localhost", "http://localhost:8124"],
)
def test_answers_of_another_page_are_refused(
    client: FlaskClient, session: TagSession, origin: str | None
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert post(client, sent(1, session.items[0]), headers=headers).status_code == 403
    assert session.answers == {}


def test_what_is_sent_by_a_form_is_refused(client: FlaskClient, session: TagSession) -> None:
    text = json.dumps({"answers": [sent(1, session.items[0])]})
    answer = client.post(f"/{TOKEN}/answers", data=text, headers=HERE, content_type="text/plain")
    assert answer.status_code == 415
    assert session.answers == {}


@pytest.mark.parametrize("path", ["", "page.css", "page.js", "state", "items/{0}", "strange"])
def test_every_answer_forbids_what_a_page_could_do(
    client: FlaskClient, session: TagSession, path: str
) -> None:
    headers = client.get(f"/{TOKEN}/{path}".format(session.items[0])).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in headers


def test_the_page_loads_nothing_from_elsewhere_and_holds_nothing_of_the_tag(
    client: FlaskClient,
) -> None:
    text = client.get(f"/{TOKEN}/").text
    page = Page(text.removeprefix("<!doctype html>"))
    for tag, attribute in (("script", "src"), ("link", "href"), ("img", "src"), ("a", "href")):
        assert {item.get(attribute, "") for item in page.all(tag)} <= {
            *("page.js", "page.css", "data:,", "")
        }
    assert "robot" not in text


def test_names_of_strangers_are_json_and_nothing_else(
    client: FlaskClient, session: TagSession
) -> None:
    answer = client.get(f"/{TOKEN}/items/{session.items[0]}")
    assert answer.content_type == "application/json"
    assert answer.get_json()["tags"][:2] == HOSTILE[:2]


def test_pictures_are_jpegs_that_a_browser_keeps(client: FlaskClient, session: TagSession) -> None:
    for size in ("large", "small"):
        answer = client.get(f"/{TOKEN}/pictures/{size}/{session.items[0]}")
        assert answer.content_type == "image/jpeg"
        assert answer.data.startswith(b"\xff\xd8")
        assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    ["pictures/large/{}", "items/{}", "pictures/huge/0", "pictures/large/../../../etc/passwd"],
)
def test_what_is_not_in_the_session_is_not_there(client: FlaskClient, path: str) -> None:
    assert client.get(f"/{TOKEN}/{path.format('0' * 32)}").status_code == 404


def test_answers_are_stored_when_they_are_called_saved(
    client: FlaskClient, session: TagSession, tmp_path: Path
) -> None:
    first, second = session.items
    answer = post(client, sent(1, first), sent(2, second, "no"))
    assert answer.get_json() == {
        "saved": [f"{1:016x}", f"{2:016x}"],
        "unknown": [],
        "seen": 2,
        "changes": [[first, "yes"], [second, "no"]],
        "progress": {
            "done": 2,
            "total": 2,
            "outlook": answer.get_json()["progress"]["outlook"],
            "ended": "",
        },
    }
    standing = load_verdicts(LocalStorage(tmp_path), TAG).standing
    assert {md5: found.answer for md5, found in standing.items()} == {first: "yes", second: "no"}


def test_what_is_sent_again_is_saved_and_stored_once(
    client: FlaskClient, session: TagSession, tmp_path: Path
) -> None:
    for _ in range(3):
        assert post(client, sent(1, session.items[0])).get_json()["saved"] == [f"{1:016x}"]
    assert len(list((tmp_path / TAG / "verdicts").iterdir())) == 1


def test_an_answer_that_waited_is_of_when_it_was_given(
    client: FlaskClient, session: TagSession, tmp_path: Path
) -> None:
    item = session.items[0]
    before = datetime.now(UTC)
    post(client, sent(1, item, "no"))
    post(client, sent(2, item, "yes", ago=60_000))  # of a window that was offline
    assert session.answers[item] == "no"
    verdict = load_verdicts(LocalStorage(tmp_path), TAG).standing[item]
    assert verdict.answer == "no"
    assert verdict.at >= before


def test_another_window_hears_of_what_was_answered(
    client: FlaskClient, session: TagSession
) -> None:
    state = client.get(f"/{TOKEN}/state").get_json()
    assert (state["seen"], state["answers"], state["items"]) == (0, {}, list(session.items))
    post(client, sent(1, session.items[0]))
    news = client.get(f"/{TOKEN}/news?seen=0").get_json()
    assert news["changes"] == [[session.items[0], "yes"]]
    assert client.get(f"/{TOKEN}/news?seen={news['seen']}").get_json()["changes"] == []
    assert client.get(f"/{TOKEN}/state").get_json()["answers"] == {session.items[0]: "yes"}


def test_an_answer_about_no_picture_of_the_dataset_is_named_and_the_others_are_saved(
    client: FlaskClient, session: TagSession
) -> None:
    answer = post(client, sent(1, "0" * 32), sent(2, session.items[0]))
    assert answer.get_json()["unknown"] == [f"{1:016x}"]
    assert answer.get_json()["saved"] == [f"{2:016x}"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "1"},
        {"item": "../x"},
        {"answer": "maybe"},
        {"ago": -1},
        {"ago": 1e300},
        {"at": "2000-01-01"},
    ],
)
def test_what_is_no_answer_is_refused_with_all_that_came_with_it(
    client: FlaskClient, session: TagSession, wrong: dict[str, Any]
) -> None:
    good = sent(1, session.items[0])
    answer = post(client, good, {**sent(2, session.items[1]), **wrong})
    assert answer.status_code == 422
    assert "answers.1" in answer.get_json()["error"]
    assert session.answers == {}


def test_too_much_at_once_is_refused(client: FlaskClient, session: TagSession) -> None:
    many = [sent(number, session.items[0]) for number in range(MAX_AT_ONCE + 1)]
    assert post(client, *many).status_code == 422
    body = b'{"answers": "' + b"x" * (1 << 20) + b'"}'
    url = f"/{TOKEN}/answers"
    answer = client.post(url, data=body, headers=HERE, content_type="application/json")
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (TransientError("storage does not answer"), 503, "storage does not answer"),
        (OSError(errno.ENOSPC, "No space left on device"), 503, "[Errno 28] No space left"),
        (ZeroDivisionError("a defect"), 500, "unexpected ZeroDivisionError: a defect"),
    ],
    ids=["storage", "disk", "defect"],
)
def test_what_could_not_be_stored_is_not_called_saved_and_the_page_is_told_why(
    client: FlaskClient,
    session: TagSession,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    told: str,
) -> None:
    def fail(given: Sequence[Given]) -> None:
        raise error

    log.configure("json")
    with monkeypatch.context() as patch:
        patch.setattr(session, "_store", fail)
        answer = post(client, sent(1, session.items[0]))
    assert answer.status_code == status
    assert answer.get_json()["error"].startswith(told)
    [line] = capfd.readouterr().err.splitlines()  # and no traceback
    assert told in line
    assert post(client, sent(1, session.items[0])).get_json()["saved"] == [f"{1:016x}"]


def test_a_real_server_is_on_this_machine_alone_and_ends(session: TagSession) -> None:
    with ReviewServer(session) as server:
        assert server.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(server.url + "state") as answer:
            assert json.load(answer)["about"]["tag"] == TAG
        port = server.url.split(":")[2].split("/")[0]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1"):
            ReviewServer(session, int(port))
        with ReviewServer(session) as other:  # its own port is taken
            assert other.url.split("/")[2] != server.url.split("/")[2]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.url + "state")
    with ReviewServer(session) as again:  # at the same place, under a new token
        assert again.url.split("/")[2] == server.url.split("/")[2]
        assert again.url != server.url
