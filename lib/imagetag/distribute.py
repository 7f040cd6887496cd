"""Which devices a training run uses."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from imagetag.errors import UsageError
from imagetag.log import get_logger

StrategyName = Literal["auto", "none", "mirrored"]


def choose_strategy(name: StrategyName, cpu_devices: int = 1) -> tf.distribute.Strategy:
    """Return the strategy to train with: all GPUs, or this many logical CPU devices.

    Must be called before TensorFlow runs anything. `auto` mirrors over several devices and does
    nothing special for one.

    Raises:
        UsageError: if the devices were set up differently before.

    """
    gpus = tf.config.list_physical_devices("GPU")
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not gpus and cpu_devices > 1:
            cpu = tf.config.list_physical_devices("CPU")[0]
            logical = [tf.config.LogicalDeviceConfiguration()] * cpu_devices
            tf.config.set_logical_device_configuration(cpu, logical)
    except RuntimeError as error:
        raise UsageError(f"--cpu-devices {cpu_devices}: {error}") from error
    devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
    if name == "none" or (name == "auto" and len(devices) == 1):
        strategy = tf.distribute.get_strategy()
    else:
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    get_logger().info(
        "devices",
        devices=[device.name.removeprefix("/device:") for device in devices],
        strategy=type(strategy).__name__,
        replicas=strategy.num_replicas_in_sync,
    )
    return strategy
