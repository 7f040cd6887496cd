"""The workers that train together; TensorFlow is loaded when they begin to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imagetag.arguments import AnyWhole, Count, check_number
from imagetag.errors import TransientError, one_line

if TYPE_CHECKING:
    import tensorflow as tf

_GATHERED = 8
_PIECE = 1 << 20  # numbers that are summed at once


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

    def __post_init__(self) -> None:
        if not callable(self.start):
            raise ValueError(
                f"start={self.start!r}: take a function that sets the devices up, such as "
                'lambda: imagetag.choose_devices("mirrored")'
            )
        check_number("workers", self.workers, Count)
        check_number("worker", self.worker, AnyWhole)

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
        table = np.zeros((self.workers, _GATHERED), np.int32)  # of one shape, to be compiled once
        table[self.worker, : len(values)] = values
        with self.lost_workers():
            whole = self._summed(table)
        return [[int(value) for value in row[: len(values)]] for row in whole]

    def sum(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sum over all workers of arrays of the same shape; waits until all have come.

        Raises:
            TransientError: if a worker is lost.

        """
        if self.workers == 1:
            return values
        pieces = np.zeros((-(-values.size // _PIECE), _PIECE), np.float32)
        pieces.reshape(-1)[: values.size] = values.reshape(-1)
        with self.lost_workers():
            for piece in pieces:  # of one shape, to be compiled once
                piece[:] = self._summed(piece)
        return pieces.reshape(-1)[: values.size].reshape(values.shape)

    def _summed(self, values: NDArray[Any]) -> NDArray[Any]:
        import tensorflow as tf  # one worker alone has nothing to compute here

        def mine(context: Any) -> Any:
            # One replica of each worker brings its values, the others nothing.
            first = context.replica_id_in_sync_group % self.replicas == 0
            return tf.constant(values if first else np.zeros_like(values))

        parts = self.strategy.experimental_distribute_values_from_function(mine)
        found: NDArray[Any] = self.strategy.experimental_local_results(self._sum(parts))[0].numpy()
        return found

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
