"""What a training is asked for: what decides its result, and what it is done with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from imagetag.arguments import Arguments
from imagetag.checks import (
    SETTINGS_OF_HEADS,
    ThresholdFrom,
    check_threshold_from,
    check_together,
    checked_model,
    checked_size,
    checked_verdicts,
    is_alexnet,
)
from imagetag.dataset import (
    CACHE_BYTES,
    CACHE_MEMORY,
    THRESHOLD_FRACTION,
    VALIDATION_FRACTION,
    Resize,
)
from imagetag.errors import UsageError
from imagetag.job import FolderPath
from imagetag.storage import CACHE_FOLDER
from imagetag.train.precision import Precision
from imagetag.train.schedule import OptimizerName, ScheduleName


def _written(size: Any) -> Any:
    """Return a size as `--image-size` takes it, also of (height, width)."""
    if isinstance(size, tuple | list) and len(size) == 2:
        return "x".join(map(str, size))
    return size


class Training(Arguments):
    """What decides the result. What `auto` stands for is settled before the run and stored with it.

    The options of `imagetag train` of the same names say what each is, and have the same bounds.
    `image_size` is (height, width) too: (96, 64) is "96x64", which is 96 pixels high.

    Raises:
        ValueError: if there is no such field, or it is none of its values.

    """

    features: str = "no"
    model: Annotated[str, AfterValidator(checked_model)] = "vgg19"
    weights: str = "auto"
    freeze_backbone: Literal["auto", "yes", "no"] = "auto"
    head: Literal["auto", "fitted", "trained"] = "auto"
    mirror: Literal["auto", "yes", "no"] = "auto"
    fine_tune_blocks: int = Field(1, ge=0)
    fine_tune_epochs: int = Field(20, ge=1)
    fine_tune_rate: float | None = Field(None, gt=0)
    image_size: Annotated[str, BeforeValidator(_written), AfterValidator(checked_size)] = "auto"
    resize: Resize = "letterbox"
    packed: str = "no"
    exclude_suspects: str = "no"
    verdicts: Annotated[str, AfterValidator(checked_verdicts)] = "use"
    batch_size: int = Field(16, ge=1)
    epochs: int = Field(50, ge=1)
    patience: int = Field(5, ge=1)
    optimizer: OptimizerName = "adam"
    learning_rate: float | None = Field(None, gt=0)
    schedule: ScheduleName = "plateau"
    warmup_epochs: float = Field(0.0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["balanced", "none"] = "balanced"
    dropout: float | None = Field(None, ge=0, lt=1)
    augment: bool = True
    shear: float = Field(5.73, ge=0, lt=90)
    validation_fraction: float = Field(VALIDATION_FRACTION, gt=0, lt=1)
    threshold_fraction: float = Field(THRESHOLD_FRACTION, gt=0, lt=1)
    threshold_from: ThresholdFrom = "held-out"
    mixed_precision: Precision = "float32"
    seed: int = Field(1, ge=0, lt=2**31)

    @property
    def fractions(self) -> tuple[float, float]:
        """The shares of the train split for validation and for the threshold alone."""
        if self.threshold_from == "out-of-fold":
            return 0.0, 0.0
        return self.validation_fraction, self.threshold_fraction


class Means(Arguments):
    """What a training is done with. It decides how long it takes, not what comes out.

    Args:
        cache_folder: local copies of images, weights and checkpoints.
        cache_memory: bytes of decoded images that may be kept in memory.
        cache_bytes: bytes of decoded images that may be kept in all, on disk where need be.
        concurrency: downloads under way at once.
        micro_batch: images a replica takes at once, None for its whole batch.
        jit: compile the model with XLA.
        checkpoint_seconds: between two checkpoints, at least.
        resume: go on from a checkpoint if there is one.
        export: store a SavedModel with the run, also with one that was trained without.

    Raises:
        ValueError: if there is no such field, or it is none of its values.

    """

    cache_folder: FolderPath = CACHE_FOLDER
    cache_memory: int = Field(CACHE_MEMORY, ge=0)
    cache_bytes: int = Field(CACHE_BYTES, ge=0)
    concurrency: int = Field(16, ge=1, le=256)
    micro_batch: int | None = Field(None, ge=1)
    jit: bool = False
    checkpoint_seconds: float = Field(300.0, ge=0)
    resume: bool = True
    export: bool = True


def settled(training: Training) -> Training:
    """Return the settings with every `auto` replaced by what it stands for.

    Raises:
        UsageError: if they do not go together.

    """
    check_threshold_from(training.threshold_from, training.features, training.exclude_suspects)
    if training.features != "no":
        return training
    check_together(
        model=training.model,
        weights=training.weights,
        image_size=training.image_size,
        freeze_backbone=training.freeze_backbone,
        head=training.head,
        mirror=training.mirror,
        packed=training.packed,
    )
    weights, pretrained = training.weights, not is_alexnet(training.model)
    if weights == "auto":
        weights = "imagenet" if pretrained else "none"
    freeze = training.freeze_backbone
    if freeze == "auto":
        freeze = "yes" if pretrained and weights != "none" else "no"
    head, mirror = training.head, training.mirror
    if head == "auto":
        # Shards do not tell which pictures belong together.
        head = "fitted" if freeze == "yes" and training.packed == "no" else "trained"
    if head == "fitted" and freeze == "no":
        raise UsageError(f"--head fitted: {training.model} is not frozen; --freeze-backbone yes")
    if mirror == "auto":
        mirror = "yes" if head == "fitted" else "no"
    rate = training.learning_rate
    if rate is None:
        # A new head alone bears a high rate; a pretrained backbone is spoilt by one, and the
        # AlexNet of the paper, without batch normalization, diverges.
        fine = weights != "none" or training.model == "alexnet"
        rate = 1e-3 if freeze == "yes" or not fine else 1e-4
    return training.model_copy(
        update={
            "weights": weights,
            "freeze_backbone": freeze,
            "head": head,
            "mirror": mirror,
            "learning_rate": rate,
        }
    )


def deciding(training: Training | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which two trainings are told apart.

    `image_size` may be `auto` in one and the same in pixels in the other. Older runs do not say
    that they did without what they did not know of.
    """
    found = training.model_dump() if isinstance(training, Training) else dict(training)
    if found.get("features", "no") != "no":
        found = {name: value for name, value in found.items() if name in SETTINGS_OF_HEADS}
    found.pop("image_size", None)
    if found.get("threshold_from") == "out-of-fold":  # nothing is held back
        found.pop("validation_fraction", None)
        found.pop("threshold_fraction", None)
    unused = {
        "exclude_suspects": "no",
        "verdicts": "ignore",
        "features": "no",
        "head": "trained",
        "mirror": "no",
        "threshold_from": "held-out",
    }
    for name, without in unused.items():
        if found.get(name) == without:
            del found[name]
    return found
