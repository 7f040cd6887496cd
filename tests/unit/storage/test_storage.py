"""Storage: the contract on a folder and on a bucket, and how each of the two fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from structlog.testing import capture_logs

from imagetag import log
from imagetag.checks import shown_url
from imagetag.errors import ImagetagError, InputError, TransientError, UsageError
from imagetag.layout import Layout
from imagetag.predict.named_pictures import Named
from imagetag.scrape.reuse import SharedImage, find, offer
from imagetag.storage.base import (
    AccessDenied,
    BucketNotFound,
    EndpointUnreachable,
    ObjectNotFound,
    Storage,
)
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from imagetag.storage.s3 import S3Storage
from tests.ended import log_lines
from tests.scripted import RawServer, Reply, Request, serving
from tests.secret_urls import SECRET, told_of
from tests.storage_contract import StorageContract
from tests.storages import Counting, InMemory
from tests.unit.scrape.test_selection import post


@pytest.fixture
def bucket(s3_settings: None) -> str:
    name = f"bucket-{secrets.token_hex(4)}"
    backend().create_bucket(name, "us-east-1")
    return name


def backend() -> Any:
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


class TestLocalContract(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return open_storage(str(tmp_path / "data"))


class TestInMemoryContract(StorageContract):
    """The storage of tests and simulations, with another that counts around it."""

    @pytest.fixture
    def storage(self) -> Storage:
        return Counting(InMemory())


class TestS3Contract(StorageContract):
    @pytest.fixture
    def storage(self, bucket: str) -> Storage:
        # What lies beside the prefix is not ours.
        for key in ("other", "some/prefix2/x", "some/prefi", "some/prefix"):
            backend().put_object(bucket, key, b"not ours")
        return open_storage(f"s3://{bucket}/some/prefix/")

    @staticmethod
    def fill(storage: Storage, keys: Iterable[str]) -> None:
        for key in keys:  # some hundred times faster than through the server
            put(storage, key, b"x")

    def test_a_large_object_goes_up_in_parts(self, storage: S3Storage, tmp_path: Path) -> None:
        storage._transfer = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
        data = os.urandom(12 << 20)
        (tmp_path / "file").write_bytes(data)
        writes: list[Any] = [
            lambda: storage.write("large.bin", data),
            lambda: storage.upload(tmp_path / "file", "large.bin"),
        ]
        for write in writes:
            write()
            assert storage.read("large.bin") == data
            etag = get(storage, "large.bin").etag.strip('"')
            assert etag.endswith("-3"), "it went up in one piece"
            storage.delete("large.bin")

    def test_an_object_has_the_media_type_of_its_ending(self, storage: S3Storage) -> None:
        types = {
            "a.jpg": "image/jpeg",
            "a.webp": "image/webp",
            "report.html": "text/html",
            "part.jsonl": "application/x-ndjson",
            "model.keras": "application/octet-stream",
            "LATEST": "text/plain",
        }
        for key, media_type in types.items():
            storage.write(key, b"x")
            assert get(storage, key).metadata["Content-Type"] == media_type

    def test_the_marks_that_consoles_leave_for_folders_are_passed_over(
        self, storage: S3Storage
    ) -> None:
        for key in ("", "a/", "a//b", "../c"):
            put(storage, key, b"")
        storage.write("a/b", b"x")
        assert [entry.key for entry in storage.list()] == ["a/b"]
        assert [entry.key for entry in storage.list("a/")] == ["a/b"]

    def test_objects_whose_names_are_no_keys_are_named(self, storage: S3Storage) -> None:
        strange = ["../c.jpg", "a//b.jpg", "a/\t.jpg"]
        for key in ("a/", *strange):
            put(storage, key, b"x" * (not key.endswith("/")))
        storage.write("a/b", b"x")
        with capture_logs() as logs:
            assert [entry.key for entry in storage.list()] == ["a/b"]
        [told] = logs
        assert (told["event"], told["files"]) == ("left out", len(strange))
        assert sorted(told["first"]) == sorted(strange)

    def test_a_listing_tells_ages_by_the_clock_of_the_server(self, storage: S3Storage) -> None:
        day = 86400
        for key in ("new", "old"):
            storage.write(key, b"x")
        get(storage, "old").last_modified -= timedelta(days=1)
        new, old = (entry.age for entry in storage.list())
        assert new is not None
        assert old is not None
        assert 0 <= new < day <= old

    @pytest.mark.parametrize("date", [None, "", "yesterday"])
    def test_a_server_that_tells_no_time_has_no_clock(
        self, storage: S3Storage, date: str | None
    ) -> None:
        def tell(parsed: dict[str, Any], **_: object) -> None:
            headers = parsed["ResponseMetadata"]["HTTPHeaders"]
            headers.pop("date")
            if date is not None:
                headers["date"] = date

        storage.write("a", b"x")
        storage._client.meta.events.register("after-call.s3.ListObjectsV2", tell)
        [found] = storage.list()
        assert (found.key, found.age) == ("a", None)


def put(storage: Storage, key: str, data: bytes) -> None:
    bucket, prefix = storage.url.removeprefix("s3://").split("/", 1)
    backend().put_object(bucket, f"{prefix}/{key}", data)


def get(storage: Storage, key: str) -> Any:
    bucket, prefix = storage.url.removeprefix("s3://").split("/", 1)
    return backend().get_object(bucket, f"{prefix}/{key}")


# Where storage is.


def test_a_bucket_without_a_prefix(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}")
    storage.write("a/b", b"x")
    assert storage.url == f"s3://{bucket}"
    assert [entry.key for entry in storage.list()] == ["a/b"]
    assert open_storage(f"S3://{bucket}/").read("a/b") == b"x"
    assert open_storage(f"s3://{bucket}/a").read("b") == b"x"


def test_a_folder_by_path_or_url(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    open_storage(str(folder)).write("a", b"x")
    assert open_storage(folder.as_uri()).read("a") == b"x"
    assert open_storage(f"file://localhost{folder}".replace(" ", "%20")).read("a") == b"x"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://",
        "s3:///prefix",
        "s3:/bucket/prefix",
        "s3:bucket",
        "s3://bucket/a?b=c",
        "s3://bucket/a#b",
        "http://127.0.0.1/bucket",
        "gs://bucket",
        "file://folder/below",
    ],
)
def test_any_other_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="--storage") as error:
        open_storage(url)
    assert repr(shown_url(url)) in str(error.value)
    assert "s3://bucket/prefix" in str(error.value)


# How a folder fails.


def test_a_file_is_no_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BucketNotFound, match="not a folder"):
        open_storage(str(tmp_path / "file"))


def test_a_key_cannot_be_below_or_in_place_of_another(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a/b", b"x")
    for key in ("a", "a/b/c"):
        with pytest.raises(BucketNotFound, match="where a folder must be"):
            storage.write(key, b"y")
    assert [entry.key for entry in storage.list()] == ["a/b"]
    assert list((tmp_path / ".partial").iterdir()) == []


def test_copies_share_a_file_where_that_can_be_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a", b"data")
    for _ in range(2):
        storage.copy("a", "b/c")
    assert (tmp_path / "b/c").samefile(tmp_path / "a")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    storage.copy("a", "d")
    assert not (tmp_path / "d").samefile(tmp_path / "a")
    assert storage.read("d") == b"data"
    assert list((tmp_path / ".partial").iterdir()) == []


def test_a_folder_of_someone_else_is_access_denied(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "data")
    storage.write("a", b"x")
    (tmp_path / "data").chmod(0o000)
    nobody = 65534
    if os.geteuid() == 0:
        os.seteuid(nobody)
    try:
        uses: list[Any] = [storage.read, storage.stat, storage.delete]
        uses += [lambda key: storage.write(key, b"y"), lambda _key: list(storage.list())]
        for use in uses:
            with pytest.raises(AccessDenied, match="permission denied"):
                use("a")
    finally:
        os.seteuid(os.getuid())
        (tmp_path / "data").chmod(0o700)
    assert storage.read("a") == b"x"


def test_a_failed_write_leaves_the_old_object_and_nothing_else(tmp_path: Path) -> None:
    class Broken:
        def read(self, _size: int) -> bytes:
            raise ConnectionResetError

    storage = LocalStorage(tmp_path)
    storage.write("a", b"old")
    with pytest.raises(ConnectionResetError):
        storage.write("a", Broken())  # type: ignore[arg-type]
    assert storage.read("a") == b"old"
    assert list((tmp_path / ".partial").iterdir()) == []


def test_a_listing_goes_on_where_a_file_is_removed_meanwhile(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for number in range(5):
        storage.write(f"a/{number}", b"x")
    listing = storage.list()
    next(listing)
    storage.delete("a/1")
    storage.delete("a/3")
    assert [entry.key for entry in listing] == ["a/2", "a/4"]


def test_names_that_are_no_keys_are_not_listed(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a", b"x")
    for name in (b"new\nline", b"\xff\xfe"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert [entry.key for entry in storage.list()] == ["a"]


def test_links_that_lead_round_and_round_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("json")
    root, beside = tmp_path / "root", tmp_path / "beside"
    storage = LocalStorage(root)
    for key in ("a/b/1", "c/2"):
        storage.write(key, b"x")
    beside.mkdir()
    (beside / "3").write_bytes(b"x")
    (root / "a" / "b" / "up").symlink_to(root)
    (root / "a" / "b" / "here").symlink_to(".")
    (root / "c" / "self").symlink_to("self")
    (root / "c" / "there").symlink_to("back")
    (root / "c" / "back").symlink_to("there")
    (beside / "home").symlink_to(root)
    (root / "elsewhere").symlink_to(beside)  # no loop: it is listed as ever
    (root / "twice").symlink_to(beside)
    keys = ["a/b/1", "c/2", "elsewhere/3", "twice/3"]
    assert [entry.key for entry in storage.list()] == keys
    told = {line["file"] for line in log_lines(capsys.readouterr().err)}
    loops = {"a/b/up/", "a/b/here/", "elsewhere/home/", "twice/home/"}
    assert told == loops | {"c/self", "c/there", "c/back"}
    assert storage.stat("c/self") is None
    for use in (lambda: storage.read("c/self"), lambda: list(LocalStorage(root / "c/self").list())):
        with pytest.raises(UsageError, match="symbolic links"):
            use()


def test_a_write_is_on_the_disk_before_it_has_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        happened.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink()}")
        sync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        new = replace(path, target)
        happened.append(f"name {target}")
        return new

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    storage = LocalStorage(tmp_path)
    for data in (b"data", io.BytesIO(b"data")):
        happened.clear()
        storage.write("a/b", data)
        synced, named, folder = happened
        assert synced.startswith(f"sync {tmp_path}/.partial/")
        assert (named, folder) == (f"name {tmp_path}/a/b", f"sync {tmp_path}/a")
    happened.clear()
    storage.copy("a/b", "c")
    assert happened[-2:] == [f"name {tmp_path}/c", f"sync {tmp_path}"]


def test_a_hint_waits_for_no_disk_and_means_nothing_where_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    storage = LocalStorage(tmp_path)
    md5 = "0" * 32
    key = Layout("fox").image("train", "positive", md5, "jpg")
    image = SharedImage(key=key, md5=md5, ext="jpg", bytes=9, width=3, height=3)
    offer(storage, post(md5=md5), image)
    assert not synced
    assert find(storage, post(md5=md5)) == image
    [note] = storage.list(".shared/")
    storage.write(note.key, b"")
    assert synced
    assert find(storage, post(md5=md5)) is None


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.ENOSPC, True)])
def test_a_file_system_that_cannot_sync_is_used_and_one_that_fails_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    storage = LocalStorage(tmp_path)
    full = rf"space.*{tmp_path}/a"  # it says where
    with pytest.raises(OSError, match=full) if fails else contextlib.nullcontext():
        storage.write("a", b"x")
    assert (storage.stat("a") is None) is fails


def test_a_write_that_the_system_takes_only_in_part_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:1000])

    def opened(path: Path, mode: str, **_: Any) -> io.FileIO:
        return Slow(path, mode)

    data = secrets.token_bytes(2500)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        storage = LocalStorage(tmp_path)
        storage.write("a/whole", data)
        storage.write("a/stream", io.BytesIO(data))
    assert storage.read("a/whole") == storage.read("a/stream") == data


def test_a_reader_never_sees_half_a_file_nor_a_listing_a_stray(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    one, two = b"1" * 3_000_000, b"2" * 1_000_000
    storage.write("a/x", one)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            storage.write("a/x", two)
            storage.write("a/x", one)

    writer = threading.Thread(target=write)
    writer.start()
    until = time.monotonic() + 0.5
    try:
        while time.monotonic() < until:
            assert storage.read("a/x") in (one, two)
            assert [entry.key for entry in storage.list()] == ["a/x"]
            assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    finally:
        stop.set()
        writer.join()


def test_a_killed_writer_leaves_no_stray_among_the_data(tmp_path: Path) -> None:
    script = """
import itertools, sys
from pathlib import Path
from imagetag.storage.local import LocalStorage
storage = LocalStorage(Path(sys.argv[1]))
for number in itertools.count():
    storage.write(f"tag/train/tag/{number}", b"x" * 2_000_000)
    print(number, flush=True)
"""
    for attempt in range(4):
        command = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.003 * attempt)
            process.send_signal(signal.SIGKILL)
            written = 1 + len(process.stdout.readlines())
        # The last may be in place and not yet told.
        folder = tmp_path / "tag" / "train" / "tag"
        names = sorted((path.name for path in folder.iterdir()), key=int)
        assert names[:written] == [str(number) for number in range(written)]
        storage = LocalStorage(tmp_path)
        assert {entry.size for entry in storage.list()} == {2_000_000}
        assert {path.name for path in tmp_path.iterdir()} <= {"tag", ".partial"}
        for name in names:
            storage.delete(f"tag/train/tag/{name}")


# How a bucket fails: four classes, and what to do in one line.


def failure(url: str, **variables: str) -> ImagetagError:
    os.environ.update(variables)
    with pytest.raises(ImagetagError) as error:
        open_storage(url)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    return error.value


def test_no_such_object(bucket: str) -> None:
    with pytest.raises(ObjectNotFound, match=f"s3://{bucket}/p/a/b: there is no such object"):
        open_storage(f"s3://{bucket}/p").read("a/b")
    assert issubclass(ObjectNotFound, InputError)


def test_no_such_bucket(s3_settings: None) -> None:
    error = failure("s3://no-such-bucket/prefix")
    assert type(error) is BucketNotFound
    assert isinstance(error, UsageError)
    assert "'no-such-bucket'; create it first" in str(error)


def test_no_credentials(s3_settings: None) -> None:
    del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    error = failure("s3://bucket")
    assert type(error) is AccessDenied
    assert isinstance(error, UsageError)
    assert "AWS_ACCESS_KEY_ID" in str(error)


def test_half_the_credentials(s3_settings: None) -> None:
    del os.environ["AWS_SECRET_ACCESS_KEY"]
    assert type(failure("s3://bucket")) is AccessDenied


def test_other_wrong_settings_are_usage_errors(s3_settings: None) -> None:
    assert "AWS settings" in str(failure("s3://bucket", AWS_ENDPOINT_URL_S3="127.0.0.1:1"))
    del os.environ["AWS_ENDPOINT_URL_S3"]
    assert type(failure("s3://bucket", AWS_PROFILE="nobody")) is UsageError


@pytest.mark.parametrize("name", ["Upper", "x", "under_score", "a..b", "x" * 64])
def test_a_bucket_that_cannot_be_is_a_usage_error(s3_settings: None, name: str) -> None:
    assert isinstance(failure(f"s3://{name}"), UsageError)


def test_an_endpoint_that_nobody_listens_on(
    s3_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = failure("s3://bucket", AWS_ENDPOINT_URL_S3=endpoint)
    assert sum(pauses) < 5
    assert type(error) is EndpointUnreachable
    assert isinstance(error, TransientError)
    assert endpoint in str(error)
    assert "AWS_ENDPOINT_URL_S3" in str(error)


@pytest.mark.parametrize("rest", ["me:hunterhushed@127.0.0.1:1", *SECRET])
def test_no_password_of_an_endpoint_is_told(
    s3_settings: None, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 1)
    for scheme in ("http://", ""):
        error = failure("s3://bucket", AWS_ENDPOINT_URL_S3=scheme + rest.replace("bucket.", "127."))
        assert not told_of(str(error))


def test_a_server_that_speaks_no_tls(
    s3_settings: None, moto_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 1)
    error = failure("s3://bucket", AWS_ENDPOINT_URL_S3=moto_server.replace("http:", "https:"))
    assert type(error) is UsageError
    assert "TLS" in str(error)


@pytest.fixture
def serve() -> Iterator[Any]:
    servers = []

    def serve(
        status: str, body: bytes = b"", length: int | None = None, port: int = 0
    ) -> RawServer:
        head = f'HTTP/1.1 {status}\r\nETag: "1"\r\nContent-Length: {length or len(body)}\r\n\r\n'
        servers.append(RawServer(head.encode() + body, port))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("503 Slow Down", "SlowDown", TransientError),
        ("500 Internal", "InternalError", TransientError),
        ("504 Gateway Timeout", "504", TransientError),
        ("429 Too Many", "TooManyRequests", TransientError),
        ("429 Too Many", "429", TransientError),
        ("400 Bad Request", "RequestTimeout", TransientError),
        ("403 Forbidden", "SignatureDoesNotMatch", AccessDenied),
        ("403 Forbidden", "RequestTimeTooSkewed", AccessDenied),
        ("404 Not Found", "NoSuchBucket", BucketNotFound),
        ("400 Bad Request", "InvalidArgument", UsageError),
    ],
)
def test_each_answer_of_a_server_has_its_class(
    s3_settings: None,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    code: str,
    kind: type[ImagetagError],
) -> None:
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 1)
    server = serve(status, f"<Error><Code>{code}</Code><Message>a\nb</Message></Error>".encode())
    error = failure("s3://bucket", AWS_ENDPOINT_URL_S3=server.url)
    assert type(error) is kind
    assert code in str(error) or kind is BucketNotFound


def test_a_passing_failure_is_tried_again(
    s3_settings: None, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 2)
    server = serve("503 Slow Down", b"<Error><Code>SlowDown</Code></Error>")
    assert type(failure("s3://bucket", AWS_ENDPOINT_URL_S3=server.url)) is TransientError
    assert server.asked == 2


def test_work_outlasts_a_restart_of_the_server(
    s3_settings: None, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("200 OK", b"<ListBucketResult></ListBucketResult>")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    storage = open_storage("s3://bucket")
    server.close()
    slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        before, slept = slept, slept + seconds
        if before < 7 <= slept:  # seconds of an outage
            serve("200 OK", port=server.port)

    monkeypatch.setattr(time, "sleep", sleep)
    storage.write("a", b"x")
    assert slept >= 7


def test_an_answer_that_breaks_off_is_a_passing_failure(
    bucket: str, serve: Any, tmp_path: Path
) -> None:
    storage = open_storage(f"s3://{bucket}")
    server = serve("200 OK", b"x" * 100, length=1000)
    storage._client = boto3.Session().client(  # type: ignore[attr-defined]
        "s3", endpoint_url=server.url
    )
    with pytest.raises(TransientError):
        storage.read("a")
    with pytest.raises(TransientError):
        storage.download("a", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("knows_parts", [True, False])
def test_a_stream_that_breaks_off_is_gone_on_with_where_it_was(
    s3_settings: None, monkeypatch: pytest.MonkeyPatch, knows_parts: bool
) -> None:
    data = bytes(range(200))
    monkeypatch.setattr("imagetag.storage.s3._PAUSES", ())

    def answer(request: Request) -> Reply:
        if request.path == "/bucket":
            return Reply(b"<ListBucketResult></ListBucketResult>")
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        assert start == 0 or request.headers["if-match"] == '"1"'
        part = data[start:] if knows_parts else data
        status = 206 if start and knows_parts else 200
        return Reply(part[:90], status, {"ETag": '"1"'}, length=len(part))

    with serving(answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        storage = open_storage("s3://bucket")
        if knows_parts:
            assert storage.read("a") == data
        else:
            with pytest.raises(TransientError):
                storage.read("a")


DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


@pytest.mark.parametrize("algorithm", ["", *DIGESTS])
@pytest.mark.parametrize("told_of_parts", [False, True])
@pytest.mark.parametrize("breaks", [0, 90, 180])
@pytest.mark.parametrize("damaged", [False, True])
def test_what_came_in_parts_is_compared_with_the_checksum_of_the_whole(
    s3_settings: None,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    told_of_parts: bool,
    breaks: int,
    damaged: bool,
) -> None:
    data = bytes(range(200))
    came = bytearray(data)
    came[190] ^= damaged
    digest = DIGESTS[algorithm](data) if algorithm else b""

    def answer(request: Request) -> Reply:
        if request.path == "/bucket":
            return Reply(b"<ListBucketResult></ListBucketResult>")
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        part = bytes(came[start:])
        # Servers are to tell it of the whole alone, and some tell it of parts too.
        told = algorithm and (told_of_parts or not start)
        headers = {f"x-amz-checksum-{algorithm}": b64encode(digest).decode()} if told else {}
        sent = part[:90] if start < breaks else part
        if request.number == 1 and not breaks:
            sent = b""
        return Reply(sent, 206 if start else 200, {"ETag": '"1"', **headers}, length=len(part))

    with serving(answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        storage = open_storage("s3://bucket")
        if damaged and algorithm:
            with pytest.raises(TransientError, match="damaged"):
                storage.read("a")
        else:
            assert storage.read("a") == bytes(came)


def test_a_rest_that_is_not_as_long_as_it_must_be_is_none(
    s3_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/bucket":
            return Reply(b"<ListBucketResult></ListBucketResult>")
        if "range" in request.headers:
            return Reply(bytes(109), 206, {"ETag": '"1"'})
        return Reply(bytes(90), 200, {"ETag": '"1"'}, length=200)

    with serving(answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        with pytest.raises(TransientError):
            open_storage("s3://bucket").read("a")


def test_what_killed_writers_left_is_swept_after_a_day(tmp_path: Path) -> None:
    open_storage(str(tmp_path)).write("a", b"x")
    old, new = tmp_path / ".partial" / "old", tmp_path / ".partial" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 90_000))
    open_storage(str(tmp_path))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_file_whose_name_is_no_key_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("json")
    for name in (b"good.png", b"line\nfeed.png", b"latin-\xe9.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    assert [entry.key for entry in open_storage(str(tmp_path)).list()] == ["good.png"]
    told = [line["file"] for line in log_lines(capsys.readouterr().err)]
    assert sorted(told) == ["latin-\\udce9.png", "line\nfeed.png"]


def test_the_folder_for_what_is_being_written_goes_when_it_is_empty(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("a", b"1")
    storage.tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    storage.write("b", b"2")
    (tmp_path / ".partial" / "of another").write_bytes(b"")
    storage.tidy()
    assert (tmp_path / ".partial" / "of another").exists()


def test_a_complaint_names_the_option_that_has_the_url(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--copy-to 'ftp://x': use"):
        open_storage("ftp://x", option="--copy-to")
    with pytest.raises(UsageError, match=r"^--input .*: there is no such folder"):
        open_storage(str(tmp_path / "gone"), existing=True, option="--input")


def test_pictures_of_many_prefixes_take_one_client(bucket: str) -> None:
    names = tuple(f"s3://{bucket}/{key}" for key in ("a/1.png", "b/c/2.png", "3.png"))
    for name in names:
        backend().put_object(bucket, name.removeprefix(f"s3://{bucket}/"), name.encode())
    source = Named(names, None)
    pictures = list(source.pictures())
    assert [source.read(picture) for picture in pictures] == [name.encode() for name in names]
    homes = [home for picture in pictures if (home := source.home(picture))]
    assert [f"{storage.url}/{key}" for storage, key in homes] == list(names)
    assert len({id(storage._client) for storage, _ in homes}) == 1  # type: ignore[attr-defined]
