"""Which devices a network runs on, on this machine or on several."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

import tensorflow as tf
from annotated_types import Ge, Le

from imagetag.arguments import AnyWhole, check_numbers
from imagetag.errors import UsageError
from imagetag.log import get_logger

StrategyName = Literal["auto", "none", "mirrored", "multi-worker"]


@check_numbers
def choose_devices(
    name: StrategyName,
    *,
    cpu_devices: Annotated[int, Ge(1), Le(64)] = 1,
    addresses: Sequence[str] = (),
    worker: AnyWhole = 0,
) -> tf.distribute.Strategy:
    """Return what a network runs on: all GPUs of this machine, or as many logical CPU devices.

    Must be called before TensorFlow runs anything. `auto` takes several workers where addresses
    are given, mirrors over several devices, and does nothing special for one.

    Args:
        name: of the strategy.
        cpu_devices: logical devices where there is no GPU.
        addresses: HOST:PORT of each worker by index, for several of them; all must be there
            already, as TensorFlow waits for them without end.
        worker: the index of this one.

    Raises:
        ValueError: if there is no such strategy, or a number is out of its option's bounds.
        UsageError: if the devices were set up differently before, or the strategy wants several
            workers and there is one.

    """
    if name not in get_args(StrategyName):
        raise ValueError(f"name={name!r}: take {', '.join(get_args(StrategyName))}")
    gpus = tf.config.list_physical_devices("GPU")
    workers = max(1, len(addresses))
    several = workers > 1
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
        strategy, kind = _join(addresses, worker, 0 if gpus else cpu_devices), "multi-worker"
    else:
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        if name == "none" or (name == "auto" and len(devices) == 1):
            strategy, kind = tf.distribute.get_strategy(), "none"
        else:
            names = [device.name for device in devices]
            strategy, kind = tf.distribute.MirroredStrategy(names), "mirrored"
    get_logger().info(
        "devices",
        devices=device_names(),
        strategy=kind,
        replicas=int(strategy.num_replicas_in_sync) // workers,
        worker=worker,
        workers=workers,
    )
    return strategy


def device_names() -> list[str]:
    """Return the names of this process's devices that models run on, such as `GPU:0`."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name.rpartition("device:")[2] for device in devices]


def _join(addresses: Sequence[str], worker: int, cpu_devices: int) -> tf.distribute.Strategy:
    cluster = {"worker": list(addresses)}
    task = {"type": "worker", "index": worker}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    with _cpu_replicas(cpu_devices):
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow's coordination service has put a handler of its own in the place of ours, which
    # tells nobody but itself: the worker would go on until it is killed, and store nothing.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


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
