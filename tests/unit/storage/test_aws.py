"""Credentials come from a third party: what fails there is told as that one's, not as S3's."""

from __future__ import annotations

import json
import os
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imagetag import log
from imagetag.errors import ImagetagError, TransientError, UsageError
from imagetag.storage.base import AccessDenied
from imagetag.storage.opening import open_storage
from tests.certificates import certified
from tests.ended import log_lines
from tests.scripted import RawServer, Reply, Request, Server, serving

LISTING = (
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
    b"<IsTruncated>false</IsTruncated></ListBucketResult>"
)
SECRET = "a-secret-that-nobody-may-see"
Answer = Callable[[Request], Reply]


def credentials(expiration: str = "2099-01-01T00:00:00Z", **fields: Any) -> Reply:
    told = {"AccessKeyId": "key", "SecretAccessKey": SECRET, "Token": "token"}
    return Reply(json.dumps(told | {"Expiration": expiration} | fields).encode())


def sts_error(status: int, code: str, message: str = "told") -> Reply:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(f"<ErrorResponse>{error}</ErrorResponse>".encode(), status)


@pytest.fixture(autouse=True)
def _s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let boto3 use an S3 server that is in order, and no credentials yet."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with serving(lambda _: Reply(LISTING, headers={"ETag": '"1"'})) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        yield


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    """Let a function answer in the place of the pod's agent."""
    yield from _instead(monkeypatch, "AWS_CONTAINER_CREDENTIALS_FULL_URI")


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Answer], Server]]:
    """Let a function answer in the place of STS, to which the pod's token goes."""
    (tmp_path / "token").write_text("the-token-of-a-pod")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/jobs")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    yield from _instead(monkeypatch, "AWS_ENDPOINT_URL_STS")


def _instead(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> Iterator[Callable[[Answer], Server]]:
    running = []

    def start(answer: Answer) -> Server:
        running.append(serving(answer))
        server = running[-1].__enter__()
        monkeypatch.setenv(variable, server.url)
        return server

    yield start
    for server in running:
        server.__exit__(None, None, None)


def nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def failure() -> ImagetagError:
    with pytest.raises(ImagetagError) as error:
        open_storage("s3://bucket/p")
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    assert SECRET not in text
    assert os.environ["AWS_ENDPOINT_URL_S3"] not in text, "the S3 server is in order"
    return error.value


# The agent of the pod or of the container.


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_an_agent_that_is_busy_passes(agent: Any, status: int) -> None:
    server = agent(lambda _: Reply(b"busy", status))
    error = failure()
    assert isinstance(error, TransientError)
    assert server.url in str(error)
    assert str(status) in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_agent_that_breaks_off_passes(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    server = RawServer(b"")
    url = server.url.replace("http", scheme)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    error = failure()
    server.close()
    assert isinstance(error, TransientError)
    assert url in str(error)


def test_an_agent_that_is_not_there_yet_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url := nobody())
    error = failure()
    assert isinstance(error, TransientError)
    assert url in str(error)


def test_an_agent_whose_credentials_have_expired_passes(agent: Any) -> None:
    agent(lambda _: credentials("2001-01-01T00:00:00Z"))
    error = failure()
    assert isinstance(error, TransientError)
    assert "expired" in str(error)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"no association of this service account", 403),
        Reply(b"not found", 404),
        Reply(b"<html>a console</html>"),
        Reply(b"[]"),
        Reply(b"{}"),
        Reply(b"\xff\xfe"),
        credentials(Expiration="some day"),
    ],
)
def test_an_agent_that_refuses_or_is_none_is_a_setting(agent: Any, reply: Reply) -> None:
    server = agent(lambda _: reply)
    error = failure()
    assert isinstance(error, UsageError)
    assert server.url in str(error)


@pytest.mark.parametrize("name", ["there is none", "a folder", "empty", "blank", "line break"])
def test_an_agents_token_file_that_cannot_be_used_is_named(
    agent: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    agent(
        lambda request: credentials() if request.headers.get("authorization") else Reply(b"", 401)
    )
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(make(tmp_path, name)))
    error = failure()
    assert isinstance(error, UsageError)
    assert str(tmp_path / name) in str(error)
    assert "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" in str(error)


def make(folder: Path, name: str) -> Path:
    contents = {"empty": "", "blank": " \n", "line break": f"{SECRET}\n"}
    if name == "a folder":
        (folder / name).mkdir()
    elif name in contents:
        (folder / name).write_text(contents[name])
    return folder / name


@pytest.mark.parametrize(
    "variable", ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"]
)
def test_the_token_file_of_another_user_is_named(
    agent: Any, sts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    if variable.startswith("AWS_CONTAINER"):
        monkeypatch.delenv("AWS_WEB_IDENTITY_TOKEN_FILE")
        agent(lambda _: credentials())
    else:
        sts(lambda _: sts_error(400, "InvalidIdentityToken"))
    path = tmp_path / "theirs"
    path.write_text(SECRET)
    path.chmod(0o600)
    monkeypatch.setenv(variable, str(path))
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.is_relative_to("/tmp") and folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        path.chmod(0)
    try:
        error = failure()
    finally:
        os.seteuid(os.getuid())
    assert isinstance(error, UsageError)
    assert f"{path} ({variable}): Permission denied" in str(error)


def test_work_outlasts_an_agent_that_is_busy(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetag.storage.s3._PAUSES", (0.01,) * 5)
    soon = datetime.now(UTC) + timedelta(minutes=2)  # so that each operation wants new ones
    busy = range(6, 15)

    def answer(request: Request) -> Reply:
        return Reply(b"busy", 500) if request.number in busy else credentials(soon.isoformat())

    server = agent(answer)
    storage = open_storage("s3://bucket/p")
    for number in range(10):
        storage.write(f"{number}", b"x")
    assert len(server.requests) > busy.stop


def test_an_agent_that_refuses_in_the_middle_of_the_work_is_a_setting(agent: Any) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=2)
    agent(lambda request: credentials(soon.isoformat()) if request.number < 2 else Reply(b"", 403))
    storage = open_storage("s3://bucket/p")
    with pytest.raises(UsageError, match="403"):
        storage.write("a", b"x")


def test_credentials_that_are_refused_before_their_time_are_asked_for_anew_once(
    agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = agent(lambda request: credentials(AccessKeyId=f"key{min(request.number, 1)}"))
    refused = {"key0"}

    def answer(request: Request) -> Reply:
        if refused & set(re.findall("Credential=([^/]+)", request.headers["authorization"])):
            return Reply(b"<Error><Code>ExpiredToken</Code></Error>", 400)
        return Reply(LISTING, headers={"ETag": '"1"'})

    with serving(answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        storage = open_storage("s3://bucket/p")
        assert len(given.requests) == 2
        storage.write("a", b"x")
        assert len(given.requests) == 2
        refused.add("key1")
        with pytest.raises(AccessDenied, match="have expired: renew them"):
            storage.write("a", b"x")
        assert len(given.requests) == 3, "the same ones were tried again"


# STS.


@pytest.mark.parametrize(
    "reply",
    [
        sts_error(400, "IDPCommunicationError"),
        sts_error(400, "Throttling"),
        sts_error(400, "InvalidIdentityToken", "Couldn't retrieve verification key from your IdP"),
        sts_error(500, "InternalFailure"),
        Reply(b"<html>", 503),
        Reply(b"", 429),
    ],
)
def test_sts_that_fails_for_now_passes(sts: Any, reply: Reply) -> None:
    server = sts(lambda _: reply)
    error = failure()
    assert isinstance(error, TransientError)
    assert server.url in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_sts_that_breaks_off_or_is_not_there_passes(
    sts: Any, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    server = RawServer(b"")
    for url in (server.url.replace("http", scheme), nobody()):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        error = failure()
        assert isinstance(error, TransientError)
        assert url in str(error)
    server.close()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (sts_error(403, "AccessDenied", "Not authorized to perform"), AccessDenied),
        (sts_error(400, "ExpiredTokenException"), UsageError),
        (sts_error(400, "InvalidIdentityToken", "No OpenIDConnect provider found"), UsageError),
        (Reply(b"<html><title>a console</title></html>", 404), UsageError),
        (Reply(b"<html>"), UsageError),
        (Reply(f"<a><SecretAccessKey>{SECRET}</SecretAccessKey>".encode()), UsageError),
        (Reply(b"<a><b>x</b></a>"), UsageError),
    ],
)
def test_sts_that_refuses_or_is_none_is_a_setting(
    sts: Any, reply: Reply, kind: type[UsageError]
) -> None:
    server = sts(lambda _: reply)
    error = failure()
    assert type(error) is kind
    assert server.url in str(error)


def test_a_certificate_of_sts_that_nobody_trusts_is_a_setting(
    sts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, context = certified(tmp_path)
    with serving(lambda _: Reply(), context) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        error = failure()
    assert type(error) is UsageError
    assert "certificate" in str(error)
    assert server.url in str(error)


@pytest.mark.parametrize("name", ["there is none", "a folder", "empty", "blank"])
def test_a_token_file_for_sts_that_cannot_be_used_is_named(
    sts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    sts(lambda _: sts_error(400, "InvalidIdentityToken"))
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(make(tmp_path, name)))
    error = failure()
    assert isinstance(error, UsageError)
    assert str(tmp_path / name) in str(error)
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" in str(error)


# The metadata service of the machine.


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_metadata_service_that_is_busy_passes(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    for healthy in range(3):  # the token, the role, its credentials
        with serving(
            lambda request, healthy=healthy: (
                Reply(b"role", 200)  # type: ignore[misc]
                if request.number % 3 < healthy
                else Reply(b"", status)
            )
        ) as server:
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
            error = failure()
        assert isinstance(error, TransientError)
        assert server.url in str(error)
    assert isinstance(failure(), TransientError), "that it is there is a setting"


def test_a_machine_without_a_role_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    with serving(lambda _: Reply(b"", 404)) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        with pytest.raises(AccessDenied, match="no S3 credentials"):
            open_storage("s3://bucket")


# Files and commands.


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("[default]\ncredential_process = /bin/false\n", "credential_process"),
        ("[default]\ncredential_process = /no/such/command\n", "/no/such/command"),
        ("[default]\ncredential_process = /bin/echo junk\n", "credential_process"),
        ("[default]\ncredential_process = /bin/echo []\n", "credential_process"),
        ("[default]\ncredential_process = '\n", "credential_process"),
        ("[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = none\n", '"none"'),
        (
            "[default]\nsso_start_url = https://x.example\nsso_region = us-east-1\n"
            "sso_account_id = 1\nsso_role_name = r\n",
            "SSO",
        ),
        ("junk [", "config"),
        ("\udcff\udcfe", "config"),
    ],
)
def test_files_of_settings_that_are_wrong_are_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str, told: str
) -> None:
    (tmp_path / "config").write_bytes(os.fsencode(config))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    error = failure()
    assert isinstance(error, UsageError)
    assert told in str(error)


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_file_of_settings_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    error = failure()
    assert isinstance(error, UsageError)
    assert str(tmp_path) in str(error)


# Blanks and line breaks, as `echo` and editors leave them.


def test_blanks_and_line_breaks_at_the_ends_of_settings_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("json")
    settings = {
        "AWS_ACCESS_KEY_ID": "key\n",
        "AWS_SECRET_ACCESS_KEY": f" {SECRET}\r\n",
        "AWS_SESSION_TOKEN": "token\t",
        "AWS_DEFAULT_REGION": "us-east-1\n",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with serving(lambda _: Reply(LISTING)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"{server.url}\n")
        open_storage("s3://bucket")
    [request] = server.requests
    assert "Credential=key/" in request.headers["authorization"]
    assert request.headers["x-amz-security-token"] == "token"
    told = capsys.readouterr().err
    assert {line["setting"] for line in log_lines(told)} == {*settings, "AWS_ENDPOINT_URL_S3"}
    assert SECRET not in told


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
def test_a_line_break_in_the_middle_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv(name, f"{SECRET}\nx")
    with pytest.raises(UsageError, match="line break") as error:
        open_storage("s3://bucket")
    assert SECRET not in str(error.value)


def test_no_traceback_has_a_secret_in_it(
    sts: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("json", "debug")
    sts(lambda _: Reply(f"<a><SecretAccessKey>{SECRET}</SecretAccessKey>".encode()))
    told = traceback.format_exception(failure())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{SECRET}\nx")
    with pytest.raises(UsageError) as error:
        open_storage("s3://bucket")
    told += traceback.format_exception(error.value)
    assert SECRET not in "".join(told) + capsys.readouterr().err
