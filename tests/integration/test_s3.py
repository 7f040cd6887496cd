"""S3 storage on a real server: the contract, also where much goes wrong on the way, and a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import pytest
from boto3.s3.transfer import TransferConfig

from imagetag.audit import open_audit
from imagetag.errors import ImagetagError, TransientError
from imagetag.layout import Layout
from imagetag.review import Given, open_tag_session
from imagetag.storage.base import AccessDenied, BucketNotFound, ObjectInfo, Storage
from imagetag.storage.opening import open_storage
from imagetag.storage.s3 import S3Storage
from imagetag.verdicts import load_audits, load_verdicts, store_verdicts
from tests.builders.audits import predicted
from tests.builders.reviews import TAG, picture_of, store_reviewable
from tests.builders.verdicts import new_verdict
from tests.faults.mishaps import (
    Always,
    Once,
    Weather,
    cuts_short,
    dies,
    hangs_up,
    loses,
    of_s3,
    told,
)
from tests.faults.proxy import Asked, Mishap, Proxy, proxied
from tests.integration.ceph import Ceph, missing
from tests.integration.conftest import new_bucket
from tests.storage_contract import StorageContract


class TestContract(StorageContract):
    @pytest.fixture
    def storage(self, s3_bucket: str) -> Storage:
        other = open_storage(s3_bucket)
        for key in ("other", "some/prefix2/x", "some/prefi", "some/prefix"):
            other.write(key, b"not ours")
        return open_storage(f"{s3_bucket}/some/prefix")


# --- With a proxy before it, on whose way things go wrong ---------------------------------------


@pytest.fixture
def faulty(
    s3_server: Ceph, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, S3Storage]]:
    """A proxy before the server, through which a storage goes that loses no time."""
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 1)
    monkeypatch.setattr("imagetag.storage.s3._PAUSES", (0.001,) * 5)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_: True)
    with proxied(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        storage = open_storage(f"{s3_bucket}/some/prefix")
        assert isinstance(storage, S3Storage)
        yield proxy, storage


class TestContractInBadWeather(StorageContract):
    """Every fifth request of the contract goes wrong, and nobody is to notice."""

    weather = Weather(1, 0.2, of_s3)
    # Of an object that was replaced while it came, there is no rest to ask for.
    broken_off = (TransientError,)

    @pytest.fixture
    def storage(
        self,
        faulty: tuple[Proxy, S3Storage],
        s3_server: Ceph,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Storage:
        proxy, storage = faulty
        proxy.judge = self.weather
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
        storage.fair = open_storage(storage.url)  # type: ignore[attr-defined]
        return storage

    @staticmethod
    def fill(storage: Storage, keys: Iterable[str]) -> None:
        StorageContract.fill(storage.fair, keys)  # type: ignore[attr-defined]

    # Of folders by pages, what a listing by pages shows.
    test_folders_have_as_many_pages_as_they_take = None  # type: ignore[assignment]

    def test_what_has_befallen_it(self) -> None:
        assert self.weather.ledger.total() > 40


LARGE = bytes(range(256)) * 8192
PASSING = {
    "500": told(500, "InternalError"),
    "503": told(503, "SlowDown"),
    "reset": hangs_up,
    "answer lost": loses,
    "body dies": dies,
}
ELSEWHERE = "<Endpoint>eu.example</Endpoint>"
LASTING = {
    **{name: (mishap, "75", "") for name, mishap in PASSING.items()},
    "moved": (
        told(301, "PermanentRedirect", ELSEWHERE, x_amz_bucket_region="eu-1"),
        "2",
        "AWS_DEFAULT_REGION=eu-1",
    ),
    "moved, nobody says where": (told(301, "PermanentRedirect"), "2", "AWS_DEFAULT_REGION"),
    "moved for now": (
        told(307, "TemporaryRedirect", ELSEWHERE, Location="http://eu.example/"),
        "2",
        "AWS_ENDPOINT_URL_S3",
    ),
    "another region": (
        told(400, "AuthorizationHeaderMalformed", "<Region>eu-1</Region>"),
        "2",
        "AWS_DEFAULT_REGION=eu-1",
    ),
    "a token that has expired": (told(400, "ExpiredToken"), "2", "renew"),
}
USES: dict[str, tuple[Callable[[S3Storage], Any], Any]] = {  # and what they give
    "read": (lambda storage: storage.read("large"), LARGE),
    "list": (lambda storage: [entry.key for entry in storage.list()], ["copied", "large"]),
    "stat": (lambda storage: storage.stat("large"), ObjectInfo("large", len(LARGE))),
    "write": (lambda storage: storage.write("copied", b"new"), None),
    "copy": (lambda storage: storage.copy("large", "copied"), None),
}


def test_what_goes_wrong_once_is_made_good(faulty: tuple[Proxy, S3Storage]) -> None:
    proxy, storage = faulty
    for key in ("copied", "large"):
        storage.write(key, LARGE)
    for name, mishap in PASSING.items():
        for use, (do, result) in USES.items():
            proxy.judge = once = Once(mishap)
            assert do(storage) == result, (name, use)
            assert once.befell
    assert storage.read("copied") == LARGE
    for use in ("list", "copy"):
        proxy.judge = Once(cuts_short)
        do, result = USES[use]
        assert do(storage) == result, use


def test_what_goes_on_being_wrong_is_one_line_and_leaves_nothing_by_halves(
    faulty: tuple[Proxy, S3Storage], tmp_path: Path
) -> None:
    proxy, storage = faulty
    for key in ("copied", "large"):
        storage.write(key, LARGE)
    uses = {use: do for use, (do, _) in USES.items()}
    uses["download"] = lambda storage: storage.download("large", tmp_path / "x" / "copy")
    for name, (mishap, code, text) in LASTING.items():
        proxy.judge = Always(mishap)
        for use, do in uses.items():
            with pytest.raises(ImagetagError) as error:
                do(storage)
            assert f"{error.value.exit_code}" == code, (name, use, error.value)
            # The answer to a HEAD has no text that could tell.
            told_by = text.partition("=")[0] if use == "stat" else text
            assert told_by in str(error.value), (name, use, error.value)
            assert "\n" not in str(error.value)
    assert list((tmp_path / "x").iterdir()) == []
    proxy.judge = lambda _: None
    assert storage.read("copied") in (LARGE, b"new")
    assert storage.read("large") == LARGE


def test_a_stream_that_dies_goes_on_unless_the_object_is_another_by_then(
    faulty: tuple[Proxy, S3Storage], tmp_path: Path
) -> None:
    proxy, storage = faulty
    storage.write("large", LARGE)
    gets: list[Asked] = []

    def judge(asked: Asked) -> Mishap | None:
        gets.append(asked)
        return dies if len(gets) < 4 else None

    proxy.judge = judge
    storage.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE
    starts = [int(asked.headers.get("range", "bytes=0-")[6:-1]) for asked in gets]
    assert starts == sorted(set(starts)), "the same was fetched twice"
    assert len(starts) == 4
    gets.clear()
    with pytest.raises(TransientError), storage.open("large") as stream:  # noqa: PT012
        assert stream.read(1) == LARGE[:1]
        proxy.judge = lambda _: None
        storage.write("large", LARGE[::-1])
        stream.read()


def test_parts_of_an_upload_go_wrong_and_nobody_sees_half_of_it(
    faulty: tuple[Proxy, S3Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetag.storage.s3._ATTEMPTS", 3)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    proxy, before = faulty
    storage = open_storage(before.url)
    assert isinstance(storage, S3Storage)
    storage._transfer = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
    data = os.urandom(7 << 20)
    steps: dict[str, Callable[[Asked], bool]] = {
        "begin": lambda asked: asked.query.startswith("uploads"),
        "a part": lambda asked: "partNumber=2" in asked.query,
        "end": lambda asked: asked.method == "POST" and "uploadId" in asked.query,
    }
    for number, (step, is_step) in enumerate(steps.items()):
        for name in ("500", "reset", "answer lost"):
            proxy.judge = once = Once(PASSING[name], is_step)
            key = f"{number} {name}"
            storage.write(key, data)
            assert once.befell, (step, name)
            assert storage.read(key) == data, (step, name)
    proxy.judge = Always(hangs_up, steps["a part"])
    with pytest.raises(TransientError):
        storage.write("never", data)
    assert storage.stat("never") is None
    assert "never" not in [entry.key for entry in storage.list()]


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_clock_that_is_wrong_is_told(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    storage = open_storage(s3_bucket)
    now: Callable[[], datetime] = botocore.auth.get_current_datetime

    def wrong() -> datetime:
        return now() + timedelta(minutes=minutes)

    monkeypatch.setattr("botocore.auth.get_current_datetime", wrong)
    for use in (lambda: storage.write("a", b"x"), lambda: list(storage.list())):
        with pytest.raises(AccessDenied, match="clock differs from the server's"):
            use()
    monkeypatch.undo()


def test_credentials_that_expire_in_mid_run_are_asked_for_anew(
    s3_server: Ceph,
    faulty: tuple[Proxy, S3Storage],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    proxy, before = faulty
    s3_server.add_key("tests", "second")
    told_by = tmp_path / "credentials.json"
    command = f"{sys.executable} -S -c \"print(open('{told_by}').read())\""
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    def give(name: str) -> None:
        pair = {"AccessKeyId": f"{name}-key", "SecretAccessKey": f"{name}-secret"}
        expiry = {"Expiration": "2099-01-01T00:00:00Z"}  # as it believes
        told_by.write_text(json.dumps({"Version": 1} | pair | expiry))

    give("tests")
    storage = open_storage(before.url)
    storage.write("a", b"x")
    expired = told(400, "ExpiredToken")
    proxy.judge = Always(expired, lambda asked: "=tests-key/" in asked.headers["authorization"])
    with pytest.raises(AccessDenied, match=r"ExpiredToken.*renew"):
        storage.write("b", b"x")
    give("second")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: storage.write(f"b{number}", b"x"), range(16)))
    assert storage.read("a") == b"x"
    proxy.judge = Always(expired)
    told_by.write_text("")
    with pytest.raises(TransientError, match="credential_process"):
        storage.stat("a")


def test_a_large_file_goes_up_in_parts(s3_bucket: str, tmp_path: Path) -> None:
    storage = open_storage(s3_bucket)
    assert isinstance(storage, S3Storage)
    storage._transfer = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
    data = os.urandom(12 << 20)
    (tmp_path / "file").write_bytes(data)
    storage.upload(tmp_path / "file", "model.keras")
    storage.download("model.keras", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    head = (
        boto3.Session()
        .client("s3")
        .head_object(Bucket=s3_bucket.removeprefix("s3://"), Key="model.keras")
    )
    assert head["ETag"].endswith('-3"'), "it went up in one piece"


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_in_one_line(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(AccessDenied, match="check the credentials") as error:
        open_storage(s3_bucket)
    assert s3_bucket in str(error.value)
    assert "\n" not in str(error.value)


def test_the_bucket_of_someone_else_is_refused(
    s3_server: Ceph, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage(s3_bucket).write("a", b"x")
    s3_server.add_user("stranger")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stranger-secret")
    with pytest.raises(AccessDenied):
        open_storage(s3_bucket)


def test_no_such_bucket(s3_bucket: str) -> None:
    with pytest.raises(BucketNotFound, match="'no-such-bucket'; create it first"):
        open_storage("s3://no-such-bucket/prefix")


def test_a_killed_upload_leaves_nothing(s3_bucket: str, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from imagetag.storage.opening import open_storage
storage = open_storage(sys.argv[1])
print("open", flush=True)
storage.upload(Path(sys.argv[2]), "large")
"""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(400 << 20)
    command = [sys.executable, "-c", script, s3_bucket, str(tmp_path / "large")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the upload was done before it was killed"
    storage = open_storage(s3_bucket)
    assert list(storage.list()) == []
    assert storage.stat("large") is None


def test_a_person_judges_pictures_of_a_bucket(s3_bucket: str, tmp_path: Path) -> None:
    storage = open_storage(s3_bucket)
    store_reviewable(storage)
    sessions = [open_tag_session(storage, TAG, "promise", by=by) for by in ("ann", "bob")]
    items = sessions[0].items
    assert sessions[0].picture(items[0], 100).startswith(b"\xff\xd8")

    def judge(place: int) -> None:
        session = sessions[place % 2]
        session.take([given(place, items[place // 2])])
        session.tidy()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(judge, range(2 * len(items))))
    for _ in range(40):
        store_verdicts(storage, TAG, [new_verdict(items[0], "no", "promise")])
    assert set(load_verdicts(storage, TAG).standing) == set(items)
    sessions[0].tidy()
    assert len(list(storage.list(Layout(TAG).verdicts))) == 1
    assert set(load_verdicts(storage, TAG).standing) == set(items)


def test_predictions_of_a_bucket_are_audited_there(s3_bucket: str, tmp_path: Path) -> None:
    storage = open_storage(s3_bucket)
    names = {f"{number}.png": True for number in range(20)}
    predicted(tmp_path / "a.csv", names, base=f"{s3_bucket}/new")
    for file in ("a.csv", "a.csv.about.json"):
        storage.upload(tmp_path / file, f"out/{file}")
    for name in names:
        storage.write(f"new/{name}", picture_of(1))
    session = open_audit(storage, TAG, [f"{s3_bucket}/out/a.csv"])
    assert session.picture(session.items[0], 100).startswith(b"\xff\xd8")
    session.take([given(number, item) for number, item in enumerate(session.items)])
    [found] = load_audits(storage, TAG)
    assert (found.outcome, found.judged) == ("proven", 20)


def given(number: int, item: str) -> Given:
    return Given(id=f"{number:016x}", item=item, answer="yes", at=datetime(2026, 1, 1, tzinfo=UTC))


def test_what_was_acknowledged_survives_a_kill_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := missing():
        pytest.skip(why)
    monkeypatch.setattr("imagetag.storage.s3._PAUSES", ())
    server = Ceph(tmp_path / "ceph", durable=True)
    try:
        server.start()
        storage = open_storage(new_bucket(server, monkeypatch))
        acknowledged: list[str] = []
        stop = threading.Event()

        def write(writer: int) -> None:
            number = 0
            while not stop.is_set():
                key = f"{writer}/{number}"
                try:
                    storage.write(key, content(key))
                except TransientError:
                    time.sleep(0.1)
                    continue
                acknowledged.append(key)
                number += 1

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        try:
            time.sleep(2)
            server.kill()
            before = len(acknowledged)
            server.start()
            deadline = time.monotonic() + 200
            while len(acknowledged) < before + 8 and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        assert before > 20
        assert len(acknowledged) >= before + 8, "the writers did not go on after the restart"
        found = {entry.key: entry.size for entry in storage.list()}
        for key in acknowledged:
            assert found[key] == len(content(key))
            assert storage.read(key) == content(key)
    finally:
        server.stop()


def content(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest() * 300
