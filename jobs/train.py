"""The train job: a classifier for each tag, from its dataset in storage."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from imagetag.job import for_each_tag, run_job
from imagetag.quiet import quiet_imports
from imagetag.settings import TagSettings, cache_folder_field
from imagetag.storage import open_storage


class TrainSettings(TagSettings):
    """Options of `imagetag train`."""

    model: str = Field(
        "vgg19",
        description="alexnet (the paper's), alexnet-bn (batch normalization), alexnet-small "
        "(a quarter as wide), or any backbone of keras.applications, such as vgg19 or mobilenet",
    )
    weights: str = Field(
        "auto",
        description="to start from: imagenet, none, a file or a storage URL; auto is imagenet for "
        "a backbone and none for AlexNet",
    )
    freeze_backbone: Literal["auto", "yes", "no"] = Field(
        "auto", description="train the head alone; auto does where weights are given"
    )
    image_size: str = Field(
        "auto", description="input size, HEIGHTxWIDTH in pixels; auto is what explore recommended"
    )
    batch_size: int = Field(16, ge=1, description="images a step on each replica (each GPU)")
    epochs: int = Field(50, ge=1, description="passes over the images at the most")
    patience: int = Field(
        5,
        ge=1,
        description="epochs without a better validation loss before training stops; after half as "
        "many the learning rate is halved",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="of Adam; by default 0.001, and 0.0001 for alexnet and to fine-tune weights",
    )
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the train split that is held out for validation"
    )
    augment: bool = Field(
        True, description="turn, shift, shear, zoom and mirror the images at random"
    )
    seed: int = Field(1, ge=0, lt=2**31, description="of everything random")
    run: str | None = Field(
        None, description="the run's name; by default made from the settings and the images"
    )
    export: bool = Field(
        True, description="store a SavedModel for TF Serving with the run, also with an older one"
    )
    strategy: Literal["auto", "none", "mirrored"] = Field(
        "auto", description="tf.distribute: auto mirrors the model over all GPUs of this machine"
    )
    cpu_devices: int = Field(
        1, ge=1, le=64, description="logical CPU devices to train on where there is no GPU"
    )
    cache_folder: Path = cache_folder_field()
    cache_bytes: int = Field(
        2 << 30, ge=0, description="decoded images are kept in memory up to this, else on disk"
    )
    concurrency: int = Field(16, ge=1, le=256, description="downloads under way at once")


def work(settings: TrainSettings) -> None:
    """Train each tag of this shard."""
    settings.my_tags()  # wrong tags are known before TensorFlow has started
    storage = open_storage(settings.storage, settings.concurrency)

    with quiet_imports():  # TensorFlow: not for --help
        from imagetag.distribute import choose_strategy
        from imagetag.train import Training, train_tag

    training = Training(**settings.model_dump(include=set(Training.model_fields)))
    strategy = choose_strategy(settings.strategy, settings.cpu_devices)
    for_each_tag(
        settings,
        lambda tag: train_tag(
            storage,
            tag,
            training,
            strategy,
            run=settings.run,
            cache_folder=settings.cache_folder,
            cache_bytes=settings.cache_bytes,
            concurrency=settings.concurrency,
            export=settings.export,
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    return run_job("train", str(__doc__), TrainSettings, work, argv)


if __name__ == "__main__":
    sys.exit(main())
