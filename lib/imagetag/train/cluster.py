"""The workers that train together; TensorFlow is loaded when they begin to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imagetag.errors import TransientError, one_line

if TYPE_CHECKING:
    import tensorflow as tf

_GATHERED = 8


@dataclass(frozen=True)
class Cluster:
    """The workers that train together, and this one's replicas.

    `start` sets the devices up, once and before TensorFlow runs anything: when they are first
    needed. `worker` is this one's index and `workers` their count; the chief, worker 0, is who
    stores.
    """

    start: Callable[[], tf.distribute.Strategy]
    worker: int = 0
    workers: int = 1

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """What distributes the work over the devices."""
        return self.start()

    def connect(self) -> None:
        """See to it that the devices are set up, and the other workers connected."""
        _ = self.strategy

    @property
    def is_chief(self) -> bool:
        """Whether this worker stores what all have made."""
        return self.worker == 0

    @property
    def replicas(self) -> int:
        """How many replicas this worker has."""
        return int(self.strategy.num_replicas_in_sync) // self.workers

    def gather(self, values: Sequence[int]) -> list[list[int]]:
        """Return every worker's values, eight of 31 bits at most; waits until all have come.

        Raises:
            TransientError: if a worker is lost.

        """
        if self.workers == 1:
            return [list(values)]
        import tensorflow as tf  # one worker alone has nothing to compute here

        table = np.zeros((self.workers, _GATHERED), np.int32)  # of one shape, to be compiled once
        table[self.worker, : len(values)] = values

        def sums(context: Any) -> Any:
            # One replica of each worker brings its values, the others nothing.
            mine = context.replica_id_in_sync_group % self.replicas == 0
            return tf.constant(table if mine else np.zeros_like(table))

        with self.lost_workers():
            parts = self.strategy.experimental_distribute_values_from_function(sums)
            whole = self.strategy.experimental_local_results(self._sum(parts))[0].numpy()
        return [[int(value) for value in row[: len(values)]] for row in whole]

    @functools.cached_property
    def _sum(self) -> Any:
        import tensorflow as tf

        def add(part: Any) -> Any:
            context = tf.distribute.get_replica_context()
            part = tf.identity(part)  # on the replica's own device
            return context.all_reduce(tf.distribute.ReduceOp.SUM, part)

        return tf.function(lambda parts: self.strategy.run(add, (parts,)), autograph=False)

    def agree(self, what: str, digest: str) -> None:
        """Compare a hexadecimal digest with the other workers'.

        Raises:
            TransientError: if they differ, or a worker is lost.

        """
        parts = [int(digest[i : i + 7], 16) for i in range(0, 28, 7)]
        rows = self.gather(parts)
        if any(row != rows[0] for row in rows):
            differ = [index for index, row in enumerate(rows) if row != rows[0]]
            raise TransientError(
                f"workers {differ} have {what} that is not worker 0's: start all workers again"
            )

    @contextlib.contextmanager
    def lost_workers(self) -> Iterator[None]:
        """Turn what TensorFlow raises when a worker is gone into a passing failure.

        Raises:
            TransientError: as no worker can join again, and all have to start together.

        """
        import tensorflow as tf

        try:
            yield
        except (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
            tf.errors.InternalError,
            tf.errors.FailedPreconditionError,
        ) as error:
            if self.workers == 1:
                raise
            raise TransientError(
                "another worker is gone, and none can join again; start all of them again: they "
                f"go on from the last checkpoint ({one_line(error, 160)})"
            ) from error
