"""A training history as event files, which TensorBoard draws curves of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

# TensorBoard asks for `tfevents` in the name; what usually follows are the time and the host.
FILE_NAME = "events.out.tfevents.history"


def write_events(
    history: Sequence[Mapping[str, float]], folder: Path, started: float
) -> list[Path]:
    """Write the numbers of each epoch as the scalars that Keras's own callback would write.

    `loss` is `epoch_loss` in `train/`, `val_loss` is `epoch_loss` in `validation/`: two runs to
    TensorBoard, which lays them over each other. Each file is written anew from the whole history,
    as objects cannot be appended to; a longer history makes a file that begins with the shorter's.

    Args:
        history: a row an epoch; `epoch` counts from 1 and is the step, `seconds` is how long the
            epoch took.
        folder: is created.
        started: when the first epoch began, in seconds since 1970.

    Returns:
        The files, one for each part that has numbers.

    """
    head = tf.compat.v1.Event(wall_time=started, file_version="brain.Event:2")
    events = {"train": [head], "validation": [head]}
    moment = started
    for row in history:
        moment += row.get("seconds", 0.0)
        for name, number in row.items():
            if name == "epoch":
                continue
            part = "validation" if name.startswith("val_") else "train"
            tag = f"epoch_{name.removeprefix('val_')}"
            scalar = tf.compat.v1.Summary.Value(tag=tag, simple_value=number)
            summary = tf.compat.v1.Summary(value=[scalar])
            event = tf.compat.v1.Event(wall_time=moment, step=int(row["epoch"]), summary=summary)
            events[part].append(event)
    return [_write(folder / part, found) for part, found in events.items() if len(found) > 1]


def _write(folder: Path, events: list[tf.compat.v1.Event]) -> Path:
    # By hand: `tf.summary.scalar` wants the package tensorboard, and names files by host and time.
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    with tf.io.TFRecordWriter(str(path)) as writer:
        for event in events:
            writer.write(event.SerializeToString())
    return path
