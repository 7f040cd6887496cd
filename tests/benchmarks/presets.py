"""Steps of the presets at the 1000 x 1500 pixels of the original: time and peak memory.

    python -m tests.benchmarks presets

The backbone has random weights, which take as long as ImageNet's. Each preset has a process of its
own, so that its peak memory is its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from imagetag.inputs.augment import RandomAffine
from imagetag.inputs.batch_plan import NOISE
from imagetag.models.architectures import build_model, logits_of, set_trainable
from imagetag.train.step import Objective, Stepper
from jobs.train import PRESETS

_STEPS = 2


def _measure(name: str) -> None:
    preset = PRESETS[name]
    height, width = map(int, preset["image_size"].split("x"))
    batch = preset["batch_size"]
    model = build_model(preset["model"], (height, width), weights=None)
    set_trainable(model, 0)
    logits = logits_of(model)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(logits.trainable_variables)
    stepper = Stepper(
        logits,
        optimizer,
        tf.distribute.get_strategy(),
        Objective(),
        augment=RandomAffine(shear=preset["shear"]),
        micro_batch=preset["micro_batch"],
    )
    random = np.random.default_rng(0)
    inputs = tf.constant(random.integers(0, 256, (batch, height, width, 3), dtype=np.uint8))
    targets = tf.constant(np.arange(batch) % 2, tf.float32)
    noise = tf.constant(random.random((batch, NOISE)), tf.float32)
    seconds = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        loss = float(stepper.train((inputs, targets, tf.ones(batch), noise))[0]) / batch
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name:18} {height} x {width}, batch {batch} in parts of {preset['micro_batch']}: "
        f"{min(seconds):6.1f} s a step, peak {peak:4.1f} GB, loss {loss:.3f}",
        flush=True,
    )


def main() -> None:
    """Measure the presets that are named, or each in its own process."""
    if names := sys.argv[1:]:
        for name in names:
            _measure(name)
        return
    for name in sorted(PRESETS.keys() - {"none"}):
        subprocess.run([sys.executable, "-m", "tests.benchmarks.presets", name], check=True)


if __name__ == "__main__":
    main()
