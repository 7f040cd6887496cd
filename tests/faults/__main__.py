"""`python -m tests.faults --seed 1 --kills 50`: kill the whole pipeline so often, and compare.

It prints a ledger of what was done and what became of it; the exit code is 1 where something is
not as it is in quiet. The seed decides all but what the machine's speed does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from tests.faults.campaign import Campaign
from tests.integration.ceph import Ceph, missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--storage",
        choices=["folder", "s3", "both"],
        default="both",
        help="s3 is Ceph's radosgw on this machine; both have half of the kills each",
    )
    options = parser.parse_args()
    kinds = ["folder", "s3"] if options.storage == "both" else [options.storage]
    if "s3" in kinds and (why := missing()):
        parser.error(why)
    right = True
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="faults-") as name, _place(kind, name) as bucket:
            campaign = Campaign(Path(name), options.seed, bucket, say=_tell)
            ledger = campaign.run(-(-options.kills // len(kinds)))
        _tell(f"\nStorage: {kind}, seed {options.seed}\n{ledger}\n")
        right &= not ledger.wrong
    return 0 if right else 1


@contextmanager
def _place(kind: str, folder: str) -> Iterator[str]:
    """Give a bucket on a server of its own, and the AWS settings that reach it; "" is a folder."""
    if kind == "folder":
        yield ""
        return
    server = Ceph(Path(folder) / "ceph")
    try:
        server.start()
        os.environ |= {
            "AWS_ENDPOINT_URL_S3": server.endpoint,
            "AWS_ACCESS_KEY_ID": server.key,
            "AWS_SECRET_ACCESS_KEY": server.secret,
        }
        boto3.Session().client("s3").create_bucket(Bucket="faults")
        yield "s3://faults"
    finally:
        server.stop()


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
