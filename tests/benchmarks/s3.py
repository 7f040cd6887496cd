"""An S3 server on this machine: Ceph's radosgw, or moto where that is not installed."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tests.integration.ceph import Ceph, missing


@dataclass(frozen=True)
class Server:
    """Its name, and the variables that lead to it."""

    name: str
    settings: dict[str, str]

    def new_bucket(self) -> str:
        """Make a bucket, and return its name."""
        name = f"bench-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self, **options: Any) -> Any:
        """Return boto3's client of it."""
        return boto3.Session().client(
            "s3",
            endpoint_url=self.settings["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=self.settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.settings["AWS_SECRET_ACCESS_KEY"],
            region_name=self.settings["AWS_DEFAULT_REGION"],
            **options,
        )


@contextlib.contextmanager
def served() -> Iterator[Server]:
    """Start a server, and stop it at the end."""
    if missing() is None:
        with tempfile.TemporaryDirectory(prefix="imagetag-ceph-") as scratch:
            ceph = Ceph(Path(scratch))
            try:
                ceph.start()
                yield _server("Ceph radosgw", ceph.endpoint, ceph.key, ceph.secret)
            finally:
                ceph.stop()
        return
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    try:
        yield _server("moto, as there is no radosgw here", f"http://{host}:{port}", "key", "secret")
    finally:
        moto.stop()


def _server(name: str, endpoint: str, key: str, secret: str) -> Server:
    return Server(
        name,
        {
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
        },
    )
