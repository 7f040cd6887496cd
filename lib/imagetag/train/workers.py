"""How the workers of a training come together: they meet, and then TensorFlow connects them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence

from imagetag.errors import EXIT_TRANSIENT
from imagetag.job import leave
from imagetag.log import get_logger
from imagetag.quiet import quiet_imports
from imagetag.train.cluster import Cluster
from imagetag.train.rendezvous import meet


def join_workers(
    cluster: Cluster, addresses: Sequence[str], same: object, *, timeout: float
) -> None:
    """Wait until all workers are there, and connect this one with them.

    Where TensorFlow does not connect them in time, the process ends as one that failed in passing.

    Args:
        cluster: of all, with this one's index.
        addresses: HOST:PORT of each, by index.
        same: what must be the same for all of them, as JSON has it.
        timeout: seconds to wait (`--rendezvous-timeout`) for the others, and then for TensorFlow.

    Raises:
        UsageError, TransientError: as `meet`.

    """
    with quiet_imports():  # before they meet, as no other is to wait for it then
        from imagetag.train.training_run import make_run  # noqa: F401
    identity = hashlib.sha256(json.dumps(same).encode()).hexdigest()
    meet(addresses, cluster.worker, identity=identity, timeout=timeout)
    with _deadline(timeout):
        cluster.connect()


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End the process if this takes longer: TensorFlow waits for a lost worker without end."""

    def give_up() -> None:
        get_logger().error(
            f"TensorFlow has not connected the workers within --rendezvous-timeout {seconds:g} s; "
            "start all of them again",
            exit_code=EXIT_TRANSIENT,
        )
        leave(EXIT_TRANSIENT)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
