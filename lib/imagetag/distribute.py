"""Which devices a training run uses, on this machine or on several, and at which precision."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from imagetag.errors import TransientError, UsageError, one_line
from imagetag.log import get_logger

StrategyName = Literal["auto", "none", "mirrored", "multi-worker"]
_GATHERED = 8
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclass(frozen=True)
class Cluster:
    """The workers that train together, and this one's replicas.

    `worker` is this one's index and `workers` their count; the chief, worker 0, is who stores.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def kind(self) -> StrategyName:
        """The strategy, by its name as a setting."""
        if self.workers > 1:
            return "multi-worker"
        return "mirrored" if isinstance(self.strategy, tf.distribute.MirroredStrategy) else "none"

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


def choose_devices(
    name: StrategyName, *, cpu_devices: int = 1, addresses: Sequence[str] = (), worker: int = 0
) -> Cluster:
    """Return what to train on: all GPUs of this machine, or as many logical CPU devices.

    Must be called before TensorFlow runs anything. `auto` takes several workers where addresses
    are given, mirrors over several devices, and does nothing special for one.

    Args:
        name: of the strategy.
        cpu_devices: logical devices where there is no GPU.
        addresses: HOST:PORT of each worker by index, for several of them; all must be there
            already, as TensorFlow waits for them without end.
        worker: the index of this one.

    Raises:
        UsageError: if the devices were set up differently before, or the strategy wants several
            workers and there is one.

    """
    gpus = tf.config.list_physical_devices("GPU")
    several = len(addresses) > 1
    if (name == "multi-worker") > several:
        raise UsageError("--strategy multi-worker: give --workers and --worker-addresses")
    if several and name in ("none", "mirrored"):
        raise UsageError(f"--strategy {name}: with {len(addresses)} workers it is multi-worker")
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not gpus and cpu_devices > 1:
            cpu = tf.config.list_physical_devices("CPU")[0]
            logical = [tf.config.LogicalDeviceConfiguration()] * cpu_devices
            tf.config.set_logical_device_configuration(cpu, logical)
    except RuntimeError as error:
        raise UsageError(f"--cpu-devices {cpu_devices}: {error}") from error
    if several:
        cluster = _join(addresses, worker, 0 if gpus else cpu_devices)
    else:
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        if name == "none" or (name == "auto" and len(devices) == 1):
            cluster = Cluster(tf.distribute.get_strategy())
        else:
            names = [device.name for device in devices]
            cluster = Cluster(tf.distribute.MirroredStrategy(names))
    get_logger().info(
        "devices",
        devices=device_names(),
        strategy=cluster.kind,
        replicas=cluster.replicas,
        worker=cluster.worker,
        workers=cluster.workers,
    )
    return cluster


def device_names() -> list[str]:
    """Return the names of this process's devices that models run on, such as `GPU:0`."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name.rpartition("device:")[2] for device in devices]


def _join(addresses: Sequence[str], worker: int, cpu_devices: int) -> Cluster:
    cluster = {"worker": list(addresses)}
    task = {"type": "worker", "index": worker}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    with _cpu_replicas(cpu_devices):
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow's coordination service has put a handler of its own in the place of ours, which
    # tells nobody but itself: the worker would go on until it is killed, and store nothing.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return Cluster(strategy, worker, len(addresses))


@contextlib.contextmanager
def _cpu_replicas(count: int) -> Iterator[None]:
    """Let a worker without GPUs have several replicas; the strategy itself gives it one.

    They are there to try out what several GPUs will do, so this may stand on a private method.
    """
    if count <= 1:
        yield
        return
    from tensorflow.python.distribute import collective_all_reduce_strategy

    kind = collective_all_reduce_strategy.CollectiveAllReduceExtended
    original = kind._initialize_local_devices

    def several(_self: Any, _resolver: Any, worker_device: str) -> tuple[tuple[str, ...], str]:
        return tuple(f"{worker_device}/device:CPU:{i}" for i in range(count)), "CPU"

    kind._initialize_local_devices = several
    try:
        yield
    finally:
        kind._initialize_local_devices = original


def choose_precision(name: Literal["auto", "yes", "no"]) -> Precision:
    """Return the precision to compute at; variables are float32 in any case.

    `auto` computes in 16 bits where a GPU has units for it: bfloat16 from compute capability 8.0
    (A100) on, float16 from 7.0 (V100, T4) on; never on a CPU, where it is slower.
    """
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if name == "no" or (name == "auto" and (not capabilities or min(capabilities) < (7, 0))):
        return "float32"
    if capabilities and min(capabilities) < (8, 0):
        return "mixed_float16"
    return "mixed_bfloat16"


@contextlib.contextmanager
def precision(name: Precision) -> Iterator[None]:
    """Let layers that are made inside compute at a precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
