"""S3 storage on a real server: the contract, credentials that are checked, and a kill."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pytest
from boto3.s3.transfer import TransferConfig

from imagetag.errors import TransientError
from imagetag.storage.base import AccessDenied, BucketNotFound, Storage
from imagetag.storage.opening import open_storage
from imagetag.storage.s3 import S3Storage
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
