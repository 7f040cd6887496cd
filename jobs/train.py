"""The train job: a classifier for each tag, from its dataset in storage."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from imagetag.checks import (
    LEAST_SIDES,
    SETTINGS_OF_HEADS,
    VERDICTS,
    ThresholdFrom,
    check_micro_batch,
    check_threshold_from,
    check_together,
    checked_model,
    checked_size,
    checked_verdicts,
    checked_weights,
)
from imagetag.dataset import check_dataset, check_pack, check_run
from imagetag.errors import (
    EXIT_DONE,
    ImagetagError,
    InputError,
    UsageError,
    one_line,
)
from imagetag.job import (
    CommaList,
    FilePlace,
    FolderPath,
    Heartbeats,
    TagSettings,
    Takes,
    cache_folder_field,
    check_mlflow,
    for_each_tag,
    image_size_field,
    judge_tags,
    leave,
    mlflow_field,
    option_name,
    pod_index_field,
    resize_field,
    run_job,
    tell_next,
    threshold_fraction_field,
    threshold_from_field,
    validation_fraction_field,
)
from imagetag.layout import checked_run
from imagetag.log import get_logger
from imagetag.storage import Storage, open_storage

if TYPE_CHECKING:
    import tensorflow as tf

# What the project that this one grew from did: batches of 16, early stopping on the validation
# loss, pictures of 1000 x 1500 pixels (width x height) whose aspect is not kept, and a shear that
# is next to nothing, as it was given in radians and taken in degrees.
_ORIGINAL: dict[str, Any] = {
    "batch_size": 16,
    "class_weights": "none",
    "freeze_backbone": "auto",
    "head": "trained",
    "mirror": "no",
    "fine_tune_blocks": 0,
    "image_size": "1500x1000",
    "micro_batch": 4,
    "resize": "stretch",
    "schedule": "constant",
    "shear": 0.1,
}
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "original-alexnet": {"model": "alexnet", **_ORIGINAL},
    "original-vgg19": {"model": "vgg19", **_ORIGINAL},
}


class TrainSettings(TagSettings):
    """Options of `imagetag train`."""

    headings: ClassVar = {
        "Images": (
            "resize",
            "augment",
            "shear",
            "mirror",
            "validation_fraction",
            "threshold_fraction",
            "threshold_from",
            "exclude_suspects",
            "verdicts",
            "packed",
        ),
        "Fine-tuning": (
            "freeze_backbone",
            "head",
            "fine_tune_blocks",
            "fine_tune_epochs",
            "fine_tune_rate",
        ),
        "Optimization": (
            "optimizer",
            "learning_rate",
            "schedule",
            "warmup_epochs",
            "weight_decay",
            "clip_norm",
            "label_smoothing",
            "class_weights",
            "dropout",
            "seed",
        ),
        "Devices": ("micro_batch", "mixed_precision", "jit", "strategy", "cpu_devices"),
        "Several workers": ("workers", "worker_index", "worker_addresses", "rendezvous_timeout"),
        "Checkpoints and exports": ("resume", "checkpoint_seconds", "export", "mlflow"),
        "Caches and downloads": ("cache_folder", "cache_memory", "cache_bytes", "concurrency"),
    }

    preset: Literal["none", "original-alexnet", "original-vgg19"] = Field(
        "none",
        description="other defaults: original-alexnet and original-vgg19 repeat the project that "
        "this one grew from; options that are given win",
    )
    features: str = Field(
        "no",
        description="train a head alone, in less than a second on a CPU, on features that imagetag "
        "embed has stored: latest, or an extractor's name",
    )
    model: Annotated[str, AfterValidator(checked_model), Takes(words=tuple(LEAST_SIDES))] = Field(
        "vgg19",
        description="alexnet (the paper's), alexnet-bn (batch normalization), alexnet-small "
        "(a quarter as wide), or any backbone of keras.applications, such as vgg19 or mobilenet",
    )
    weights: Annotated[FilePlace, AfterValidator(checked_weights)] = Field(
        "auto",
        description="to start from: imagenet, none, a file or a storage URL; auto is imagenet for "
        "a backbone and none for AlexNet",
    )
    freeze_backbone: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="train the head alone, before --fine-tune-blocks; auto does where weights are "
        "given",
    )
    head: Literal["auto", "fitted", "trained"] = Field(
        "auto",
        description="of a frozen backbone: fitted to features that are computed once, by logistic "
        "regression, or trained step by step; auto is fitted, and with --packed trained",
    )
    fine_tune_blocks: int = Field(
        1,
        ge=0,
        description="blocks of a frozen backbone that train after the head, from the top; what "
        "works at one resolution is a block",
    )
    fine_tune_epochs: int = Field(20, ge=1, description="epochs of that at the most")
    fine_tune_rate: float | None = Field(
        None, gt=0, description="its learning rate; by default 3 % of the head's"
    )
    image_size: Annotated[str, AfterValidator(checked_size)] = image_size_field()
    resize: Literal["letterbox", "crop", "stretch"] = resize_field("grey bars")
    packed: str = Field(
        "no",
        description="stream images from what imagetag pack has stored: latest, or a pack's name; "
        "for sets larger than this machine's disk",
    )
    exclude_suspects: str = Field(
        "no",
        description="do not train on negatives that look like the tag, as imagetag evaluate found "
        "them: latest, or the name of the run whose model it was",
    )
    verdicts: Annotated[str, AfterValidator(checked_verdicts), Takes(words=VERDICTS)] = Field(
        "use",
        description="what people said of images that are trained or validated on: use it, which "
        "turns labels, and leaves out images of which none can tell; or ignore it",
    )
    batch_size: int = Field(16, ge=1, description="images a step on each replica (each GPU)")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="images a replica takes at once, where its memory is too small for "
        "--batch-size; the step is the same",
    )
    epochs: int = Field(50, ge=1, description="passes over the images at the most")
    patience: int = Field(
        5, ge=1, description="epochs without a better validation loss before training stops"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        "adam", description="adam, adamw, or sgd with a Nesterov momentum of 0.9"
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="by default 0.001, and 0.0001 for alexnet and where given weights are trained",
    )
    schedule: Literal["plateau", "cosine", "constant"] = Field(
        "plateau",
        description="of the learning rate: plateau halves it after half of --patience, cosine "
        "falls to zero at --epochs",
    )
    warmup_epochs: float = Field(
        0.0, ge=0, description="epochs over which the learning rate rises to its value"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of the optimizer")
    clip_norm: float | None = Field(
        None, gt=0, description="greatest norm of all gradients together"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="how much of the labels' certainty is given up in training"
    )
    class_weights: Literal["balanced", "none"] = Field(
        "balanced", description="let both labels count alike however many images they have, or not"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="of the head; by default the model's own, 0.2 or 0.5"
    )
    augment: bool = Field(
        True, description="turn, shift, shear, zoom and mirror the images at random"
    )
    shear: float = Field(
        5.73, ge=0, lt=90, description="degrees of shear at the most; 5.73 is a tenth of a radian"
    )
    mirror: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="let the model see each picture's mirror image too, and go by the mean; auto "
        "does where the head is fitted",
    )
    validation_fraction: float = validation_fraction_field()
    threshold_fraction: float = threshold_fraction_field()
    threshold_from: ThresholdFrom = threshold_from_field()
    seed: int = Field(1, ge=0, lt=2**31, description="of everything random")
    mixed_precision: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="compute in 16 bits: auto does on GPUs that have units for it (bfloat16 from "
        "compute capability 8.0 on, float16 from 7.0)",
    )
    jit: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="compile the model with XLA, on one device; auto compiles augmentation alone, "
        "on CPUs",
    )
    run: str | None = Field(
        None, description="the run's name; by default made from the settings and the images"
    )
    resume: Literal["auto", "never"] = Field(
        "auto", description="go on from the run's last checkpoint, or begin anew"
    )
    checkpoint_seconds: float = Field(
        300.0, ge=0, description="between two checkpoints; SIGTERM and Ctrl-C make one at once"
    )
    export: bool = Field(
        True, description="store a SavedModel for TF Serving with the run, also with an older one"
    )
    strategy: Literal["auto", "none", "mirrored", "multi-worker"] = Field(
        "auto",
        description="tf.distribute: auto is multi-worker with several workers, mirrored with "
        "several GPUs",
    )
    workers: int = Field(
        1, ge=1, le=1024, description="how many processes train each model together"
    )
    worker_index: int = pod_index_field("which of them this one is")
    worker_addresses: CommaList = Field(
        (),
        description="HOST:PORT of each, by index; or one with {index} in it, such as "
        "train-{index}.train:8470",
    )
    rendezvous_timeout: float = Field(
        600.0, gt=0, description="seconds to wait until all workers are there"
    )
    cpu_devices: int = Field(
        1, ge=1, le=64, description="logical CPU devices to train on where there is no GPU"
    )
    mlflow: str = mlflow_field()
    cache_folder: FolderPath = cache_folder_field()
    cache_memory: int = Field(
        2 << 30, ge=0, description="bytes of decoded images that may be kept in memory"
    )
    cache_bytes: int = Field(
        32 << 30,
        ge=0,
        description="bytes of decoded images that may be kept in all: on disk, in the cache "
        "folder, where memory is too small",
    )
    concurrency: int = Field(16, ge=1, le=256, description="downloads under way at once")

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSettings:
        check_threshold_from(self.threshold_from, self.features, self.exclude_suspects)
        if self.features != "no":
            self._check_features()
            return self
        settings = self.with_preset()
        check_together(
            model=settings.model,
            weights=settings.weights,
            image_size=settings.image_size,
            freeze_backbone=settings.freeze_backbone,
            head=settings.head,
            mirror=settings.mirror,
            packed=settings.packed,
        )
        check_micro_batch(settings.batch_size, settings.micro_batch)
        if settings.strategy == "multi-worker" and settings.workers == 1:
            raise UsageError("--strategy multi-worker: give --workers and --worker-addresses")
        if settings.strategy in ("none", "mirrored") and settings.workers > 1:
            raise UsageError(
                f"--strategy {settings.strategy}: with {settings.workers} workers it is "
                "multi-worker"
            )
        if settings.run is not None:
            checked_run(settings.run)
        return self

    def _check_features(self) -> None:
        """See to it that nothing is asked for that a head has no use for."""
        for_jobs = {*TagSettings.model_fields, "run", "mlflow", "cache_folder", "concurrency"}
        # What embed takes too, as one file or one set of variables may be for both, must agree.
        of_extractors = {"model", "weights", "image_size", "resize"}
        other = self.model_fields_set - SETTINGS_OF_HEADS - for_jobs - of_extractors
        if other:
            raise UsageError(
                f"{option_name(min(other))} does not go with --features: a head alone is trained, "
                "and all else is the extractor's"
            )
        unused = self.model_fields_set & {"validation_fraction", "threshold_fraction"}
        if self.threshold_from == "out-of-fold" and unused:
            raise UsageError(
                f"{option_name(min(unused))} does not go with --threshold-from out-of-fold: "
                "nothing is held back"
            )
        if self.features != "latest":
            checked_run(self.features, option="--features")
        if self.run is not None:
            checked_run(self.run)

    def with_extractor(self, storage: Storage) -> TrainSettings:
        """Return the settings with the extractor's own name: another may be the latest later on.

        Raises:
            InputError: if there is none.
            UsageError: if it is other than the settings say, where they say anything.

        """
        from imagetag.features import find_extractor  # NumPy: not for --help

        found = find_extractor(storage, self.features)
        height, width = found.image_size
        theirs = {"model": found.model, "image_size": f"{height}x{width}", "resize": found.resize}
        for name, value in theirs.items():
            given = getattr(self, name)
            if name in self.model_fields_set and given not in (value, "auto"):
                raise UsageError(
                    f"{option_name(name)} {given}: the extractor {found.name!r} has {value}; leave "
                    "the option out, or run imagetag embed with it"
                )
        return self.model_copy(update={"features": found.name})

    def with_preset(self) -> TrainSettings:
        """Return the settings with the preset's values where none is given."""
        values = PRESETS[self.preset]
        given = self.model_fields_set
        return self.model_copy(
            update={name: value for name, value in values.items() if name not in given}
        )

    def addresses(self) -> list[str]:
        """Return HOST:PORT of each worker, by index.

        Raises:
            UsageError: if they are not as many as there are workers.

        """
        found = list(self.worker_addresses)
        if self.workers > 1 and len(found) == 1 and "{index}" in found[0]:
            found = [found[0].replace("{index}", str(index)) for index in range(self.workers)]
        if len(found) != self.workers and (found or self.workers > 1):
            raise UsageError(
                f"--worker-addresses has {len(found)} and --workers is {self.workers}: give "
                "HOST:PORT of each, or one with {index} in it"
            )
        return found


def work(settings: TrainSettings) -> None:
    """Train each tag of this shard."""
    settings = settings.with_preset()
    addresses = settings.addresses()
    several = len(addresses) > 1
    if several:
        # The index of the pod is the worker's: all of them train all tags together.
        if settings.shard_count > 1:
            raise UsageError("--shard-count: several workers train each tag together; use 1")
        settings = settings.model_copy(update={"shard_index": 0})
    tags = settings.my_tags()
    check_mlflow(settings.mlflow)
    storage = open_storage(settings.storage, settings.concurrency, existing=True)
    if settings.features != "no":
        settings = settings.with_extractor(storage)

    def check(tag: str) -> None:
        check_dataset(storage, tag)
        if settings.features != "no":
            pass  # they have the size
        elif settings.packed != "no":
            check_pack(storage, tag, settings.packed)
        elif settings.image_size == "auto":
            from imagetag.explore import input_size  # NumPy: not for --help

            input_size(storage, tag, "auto", LEAST_SIDES[settings.model])
        if settings.exclude_suspects not in ("no", "latest"):
            check_run(storage, tag, settings.exclude_suspects.partition("@")[0])

    # Several workers must find the same of each tag, and so judge it when it is its turn.
    failures = None if several else judge_tags(settings, check)
    # NumPy: not for --help. TensorFlow comes with the first tag that needs it.
    from imagetag.features import SharedFeatures
    from imagetag.train import (
        Cluster,
        Means,
        Training,
        choose_precision,
        is_trained,
        join_workers,
        log_training,
        train_tag,
    )

    values = settings.model_dump(include=set(Training.model_fields) - {"mixed_precision"})
    on_features = settings.features != "no"
    precision = "float32" if on_features else choose_precision(settings.mixed_precision)
    training = Training(**values, mixed_precision=precision)
    if several and all(is_trained(storage, tag, training, settings.run) for tag in tags):
        get_logger().info("already trained, all of them", tags=len(tags))
        return  # the other workers may have gone long ago
    worker, workers = (settings.worker_index, len(addresses)) if several else (0, 1)
    cluster = Cluster(lambda: _devices(settings, addresses, worker), worker, workers)
    if several:
        # What they find of each tag is compared when it is that tag's turn.
        same = [training.model_dump(), tags, settings.run, settings.resume]
        join_workers(cluster, addresses, same, timeout=settings.rendezvous_timeout)
    means = Means(
        jit=settings.jit == "yes",
        resume=settings.resume == "auto",
        **settings.model_dump(include=set(Means.model_fields) - {"jit", "resume"}),
    )

    shared = SharedFeatures(storage, tags, settings.cache_folder)

    def train(tag: str) -> None:
        try:
            run = train_tag(storage, tag, training, cluster, means, run=settings.run, shared=shared)
        except ImagetagError as error:
            if not several or (isinstance(error, InputError) and not error.alone):
                raise  # on all workers alike: the next tag may fare better
            # At once, as the others wait for this one.
            get_logger().error(one_line(error, None), exit_code=error.exit_code)
            heartbeats.fail(error)
            leave(error.exit_code)
        if settings.mlflow and cluster.is_chief:
            log_training(settings.mlflow, run)

    heartbeats = Heartbeats(storage, "train", worker=worker)
    for_each_tag(settings, train, heartbeats, failures)
    tell_next("evaluate", settings, same=("run",))


def _devices(
    settings: TrainSettings, addresses: Sequence[str], worker: int
) -> tf.distribute.Strategy:
    from imagetag.models import choose_devices  # TensorFlow, which is loaded by now

    strategy = choose_devices(
        settings.strategy, cpu_devices=settings.cpu_devices, addresses=addresses, worker=worker
    )
    if settings.jit == "yes" and strategy.num_replicas_in_sync > 1:
        raise UsageError("--jit yes: works on one device, and there are several")
    return strategy


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "the last checkpoint, if there was one yet, is kept; run it again to go on"
    code = run_job("train", str(__doc__), TrainSettings, work, argv, kept=kept)
    if code != EXIT_DONE and "TF_CONFIG" in os.environ:
        # Not by the ordinary way out: there TensorFlow would wait for the other workers.
        leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
