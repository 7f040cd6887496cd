"""The precision at which a training computes: 32 bits, or 16 where a GPU has units for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from imagetag.quiet import may_have_gpu, quiet_imports

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


def choose_precision(name: Literal["auto", "yes", "no"]) -> Precision:
    """Return the precision to compute at; variables are float32 in any case.

    `auto` computes in 16 bits where a GPU has units for it: bfloat16 from compute capability 8.0
    (A100) on, float16 from 7.0 (V100, T4) on; never on a CPU, where it is slower. TensorFlow is
    asked only where that is not known without it.
    """
    if name == "no" or (name == "auto" and not may_have_gpu()):
        return "float32"
    with quiet_imports():
        import tensorflow as tf

    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if name == "auto" and (not capabilities or min(capabilities) < (7, 0)):
        return "float32"
    if capabilities and min(capabilities) < (8, 0):
        return "mixed_float16"
    return "mixed_bfloat16"


@contextlib.contextmanager
def precision(name: Precision) -> Iterator[None]:
    """Let layers that are made inside compute at a precision."""
    import keras  # not to choose one

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
