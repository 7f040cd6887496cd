"""What stands in the place of an S3 answer: told as a setting, or as what passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from imagetag.errors import ImagetagError, TransientError, UsageError
from imagetag.storage.base import AccessDenied, EndpointUnreachable, ObjectNotFound
from imagetag.storage.opening import open_storage
from imagetag.storage.s3 import S3Storage
from tests.certificates import certified
from tests.scripted import RawServer, Reply, Request, serving

CONSOLE = "<html><head><title>S3 Console</title></head><body><h1>Log in</h1></body></html>"


def http(status: str, body: str | bytes = "", **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "\r\n"]).encode() + data


def told(code: str, *fields: str) -> str:
    return f"<Error><Code>{code}</Code><Message>so it is</Message>{''.join(fields)}</Error>"


def page(*keys: str, goes_on: str | None = None, size: str = "1") -> str:
    found = "".join(f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>" for key in keys)
    more = "" if goes_on is None else f"<NextContinuationToken>{goes_on}</NextContinuationToken>"
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>bucket</Name><IsTruncated>{'false' if goes_on is None else 'true'}</IsTruncated>"
        f"{found}{more}</ListBucketResult>"
    )


class Changed:
    """A storage whose server was one at first, and then answers something else."""

    def __init__(self, server: RawServer, storage: S3Storage) -> None:
        self.server, self.storage = server, storage

    def failure(self, answer: bytes, use: Callable[[S3Storage], Any] | None = None) -> str:
        """Return what is told, with the exit code, of a use; by default of a listing."""
        self.server.answer = answer
        self.server.asked = 0
        with pytest.raises(ImagetagError) as error:
            (use or (lambda storage: list(storage.list())))(self.storage)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500
        assert self.server.asked <= 3, "it was asked over and over"
        return f"{error.value.exit_code} {error.value}"


@pytest.fixture(scope="module")
def changed() -> Iterator[Changed]:
    server = RawServer(http("200 OK", page()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setattr("imagetag.storage.s3._ATTEMPTS", 1)
        patch.setattr("imagetag.storage.s3._PAUSES", ())
        storage = open_storage("s3://bucket/p")
        assert isinstance(storage, S3Storage)
        storage._transfer = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
        yield Changed(server, storage)
    server.close()


USES: dict[str, Callable[[S3Storage], Any]] = {
    "list": lambda storage: list(storage.list()),
    "write": lambda storage: storage.write("a", b"x"),
    "write in parts": lambda storage: storage.write("a", b"x" * (7 << 20)),
    "stat": lambda storage: storage.stat("a"),
    "read": lambda storage: storage.read("a"),
    "copy": lambda storage: storage.copy("a", "b"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (http("200 OK", CONSOLE, Content_Type="text/html"), "200 (OK)"),
        (http("200 OK", "<!doctype html><meta charset=utf-8><br>"), "200 (OK)"),
        (http("200 OK", '{"ok": true}'), "200 (OK)"),
        (http("200 OK"), "200 (OK)"),
        (http("204 No Content"), "204 (No Content)"),
        (http("301 Moved", CONSOLE, Location="https://console.example/"), "console.example"),
        (http("302 Found", Location="/login"), "(/login)"),
        (http("307 Temporary", told("TemporaryRedirect"), Location="http://b.example/"), "b.exam"),
        (http("300 Several"), "300"),
        (http("405 Method Not Allowed", CONSOLE), "405 (Method Not Allowed)"),
        (http("501 Not Implemented", told("NotImplemented")), "AWS_REQUEST_CHECKSUM_CALCULATION=w"),
        (http("501 Not Implemented", CONSOLE), "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
        (http("413 Too Large", CONSOLE), "larger uploads"),
        (http("400 Bad Request", "<fault><why>none</why></fault>"), "400 (Bad Request)"),
        (http("400 Bad Request", told("IllegalLocation")), "400 (Bad Request)"),
        (http("999 Odd"), "999"),
    ],
)
def test_what_is_no_s3_answer_is_a_setting_with_its_status(
    changed: Changed, use: str, answer: bytes, status: str
) -> None:
    text = changed.failure(answer, USES[use])
    assert text.startswith("2 s3://bucket/p/")
    assert status in text


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("status", ["408 T", "425 E", "429 S", "500 I", "502 B", "503 S", "504 G"])
def test_what_says_later_passes_whatever_it_says_it_with(
    changed: Changed, use: str, status: str
) -> None:
    assert changed.failure(http(status, CONSOLE), USES[use]).startswith("75 ")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 500\r\n\r\n<ListBucketResult><Na",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 500\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<List",
        http("200 OK", told("InternalError")),
        http("200 OK", page("a", "b")[:-40]),
        http("200 OK", page("a", "b").replace("<Key>", "<\0ey>")),
    ],
)
def test_what_breaks_off_passes(changed: Changed, answer: bytes) -> None:
    assert changed.failure(answer).startswith("75 ")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"-ERR unknown command\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 many OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n"
        + b"".join(b"x-%d: 1\r\n" % number for number in range(200))
        + b"\r\n",
    ],
)
def test_what_speaks_another_protocol_is_a_setting(changed: Changed, answer: bytes) -> None:
    text = changed.failure(answer)
    assert text.startswith("2 ")
    assert "speaks no HTTP" in text
    assert "AWS_ENDPOINT_URL_S3" in text


@pytest.mark.parametrize(
    "body",
    [
        page("a", size="many"),
        page("a", size=""),
        "<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        Random(1).randbytes(500),
    ],
)
def test_garbage_is_no_defect_of_ours(changed: Changed, body: str | bytes) -> None:
    assert changed.failure(http("200 OK", body)).startswith("2 ")


def test_lengths_and_dates_that_are_none(changed: Changed) -> None:
    for header in ("Content-Length: many", "Last-Modified: never"):
        answer = f'HTTP/1.1 200 OK\r\nConnection: close\r\nETag: "1"\r\n{header}\r\n\r\n'.encode()
        for use in ("stat", "read"):
            assert changed.failure(answer, USES[use]).startswith("2 ")
    chunked = b'HTTP/1.1 200 OK\r\nConnection: close\r\nETag: "1"\r\nTransfer-Encoding: chunked'
    assert changed.failure(chunked + b"\r\n\r\n", USES["stat"]).startswith("2 ")


def test_the_right_region_and_endpoint_are_named_where_they_are_told(changed: Changed) -> None:
    redirect = told("PermanentRedirect", "<Endpoint>bucket.s3.eu-west-1.example</Endpoint>")
    text = changed.failure(http("301 Moved", redirect, x_amz_bucket_region="eu-west-1"))
    assert "AWS_DEFAULT_REGION=eu-west-1 " in text
    assert "bucket.s3.eu-west-1.example" in text
    wrong = told("AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>")
    text = changed.failure(http("400 Bad Request", wrong))
    assert text.startswith("2 ")
    assert "set AWS_DEFAULT_REGION=eu-central-1" in text


def test_a_skewed_clock_is_told_by_how_much(changed: Changed) -> None:
    then = "Mon, 01 Jan 2001 00:00:00 GMT"
    for code in ("RequestTimeTooSkewed", "AccessDenied"):
        text = changed.failure(http("403 Forbidden", told(code), Date=then))
        assert text.startswith("2 ")
        assert "this machine's clock is" in text
        assert "minutes ahead of the server's" in text
    assert "clock" in changed.failure(http("403 Forbidden", told("RequestTimeTooSkewed")))
    assert "clock" not in changed.failure(http("403 Forbidden", told("AccessDenied")))


def test_what_a_page_repeats_of_a_request_is_not_shown(changed: Changed) -> None:
    text = changed.failure(http("400 Bad Request", "you sent " + "secret-token " * 30))
    assert "secret-token" not in text


def test_404_is_a_missing_object_where_one_was_asked_for(changed: Changed) -> None:
    changed.server.answer = http("404 Not Found")
    assert changed.storage.stat("a") is None
    with pytest.raises(ObjectNotFound):
        changed.storage.read("a")
    changed.storage.delete("a")
    assert changed.failure(http("404 Not Found")).startswith("2 ")
    assert changed.failure(http("404 Not Found", CONSOLE), USES["read"]).startswith("2 ")


# Listings that come to no end.


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Returns the keys of a listing whose pages a function gives, and how often it was asked."""
    monkeypatch.setattr("imagetag.storage.s3._PAUSES", ())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def listed(answer: Callable[[int], str], most: int) -> list[str]:
        def reply(request: Request) -> Reply:
            return Reply(answer(request.number - 1).encode() if request.number else page().encode())

        with serving(reply) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
            try:
                return [entry.key for entry in open_storage("s3://bucket").list()]
            finally:
                assert len(server.requests) <= most + 1

    return listed


def test_pages_without_keys_are_gone_past(listed: Callable[..., list[str]]) -> None:
    pages = [page("a", goes_on="1"), page(goes_on="2"), page(goes_on="3"), page("b")]
    assert listed(pages.__getitem__, most=4) == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        pytest.param(lambda _: page("a", goes_on=""), 1, id="no token"),
        pytest.param(lambda n: page(f"a{n}", goes_on="same"), 3, id="the same token"),
        pytest.param(lambda n: page(f"a{n}", goes_on=f"{n % 3}"), 5, id="tokens in a circle"),
        pytest.param(lambda n: page("a", "b", goes_on=f"{n}"), 3, id="the same page"),
        pytest.param(lambda n: page(f"a{n % 3}", goes_on=f"{n}"), 5, id="pages in a circle"),
        pytest.param(lambda n: page(goes_on=f"{n}"), 8, id="nothing for ever"),
    ],
)
def test_a_listing_that_comes_no_further_ends_as_a_setting(
    listed: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[int], str],
    most: int,
) -> None:
    monkeypatch.setattr("imagetag.storage.s3._EMPTY_PAGES", 6)
    with pytest.raises(UsageError, match="a listing that goes on and"):
        listed(answer, most=most)


# TLS.


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ImagetagError]:
    """Returns how the opening of a storage with an https endpoint fails."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 1)

    def failure(url: str) -> ImagetagError:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url.replace("http:", "https:"))
        with pytest.raises(ImagetagError) as error:
            open_storage("s3://bucket")
        return error.value

    return failure


def test_a_handshake_that_is_cut_short_passes(tls: Callable[[str], ImagetagError]) -> None:
    server = RawServer(b"")
    error = tls(server.url)
    server.close()
    assert type(error) is EndpointUnreachable
    assert isinstance(error, TransientError)


def test_a_certificate_that_nobody_trusts_is_a_setting(
    tls: Callable[[str], ImagetagError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, context = certified(tmp_path)
    with serving(lambda _: Reply(page().encode()), context) as server:
        error = tls(server.url)
        assert type(error) is UsageError
        assert "certificate" in str(error)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        assert list(open_storage("s3://bucket").list()) == []
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none"))
        assert "AWS_CA_BUNDLE" in str(error := tls(server.url))
        assert type(error) is UsageError


def test_a_proxy_is_named_without_its_password(
    tls: Callable[[str], ImagetagError], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = RawServer(http("407 Proxy Authentication Required"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:hidden@"))
    error = tls("https://s3.example")
    assert type(error) is UsageError
    assert f"127.0.0.1:{proxy.port}" in str(error)
    assert "407" in str(error)
    proxy.close()
    error = tls("https://s3.example")
    assert type(error) is EndpointUnreachable
    assert "HTTPS_PROXY" in str(error)
    assert "hidden" not in str(error)


def test_a_bare_refusal_is_access_denied(changed: Changed) -> None:
    for status in ("401 Unauthorized", "403 Forbidden"):
        changed.server.answer = http(status)
        with pytest.raises(AccessDenied):
            list(changed.storage.list())
