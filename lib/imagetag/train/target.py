"""The run that a training is to make: its name, settled settings, size and data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from imagetag.checks import LEAST_SIDES
from imagetag.dataset import Dataset, load_dataset
from imagetag.errors import InputError, UsageError
from imagetag.explore import input_size
from imagetag.features import ExtractorRecord, find_extractor
from imagetag.imaging import Size
from imagetag.inputs import (
    IGNORE,
    Cleaning,
    Partition,
    find_cleaning,
    find_partition,
    load_packed,
    load_partition,
)
from imagetag.layout import checked_run
from imagetag.log import get_logger
from imagetag.runs import Run, load_run
from imagetag.storage import ObjectNotFound, Storage
from imagetag.train.settings import Training, deciding, settled


@dataclass(frozen=True)
class Target:
    """A run that is to be made: its name, settled settings, size in pixels, and data.

    `cleaning` is what it does not learn from as the board has it; `extractor` made the features
    that it is trained on, None for a whole model.
    """

    storage: Storage
    run: str
    training: Training
    size: Size
    dataset: Dataset
    cleaning: Cleaning = field(default_factory=Cleaning)
    extractor: ExtractorRecord | None = None

    @property
    def digest(self) -> str:
        """A digest that stands for the run, its settings and its data."""
        identity = [deciding(self.training), self.size, self.dataset.fingerprint]
        return digest_of_values([self.dataset.tag, self.run, *identity])

    def partition(self) -> Partition:
        """Divide the train split, as the dataset and the settings say.

        Raises:
            InputError: if the manifest cannot be read.

        """
        return find_partition(self.storage, self.dataset, *self.training.fractions, self.cleaning)

    def completed(self) -> Run | None:
        """Return the run if it is complete already, with its scores where it has some.

        Raises:
            UsageError: if it is, of other settings or images.

        """
        tag = self.dataset.tag
        try:
            run = load_run(self.storage, tag, self.run)
        except InputError as error:
            if not isinstance(error.__cause__, ObjectNotFound):
                get_logger().warning("training again", run=self.run, reason=str(error))
            return None
        theirs = (deciding(run.settings), run.image_size, run.fingerprint)
        if theirs != (deciding(self.training), self.size, self.dataset.fingerprint):
            raise UsageError(
                f"--run {self.run!r} of {tag!r} is complete, with other settings or other images; "
                "choose another name"
            )
        if run.out_of_fold:
            try:
                load_partition(self.storage, run)
            except InputError as error:  # scores are not made anew without the head
                get_logger().warning("training again", run=self.run, reason=str(error))
                return None
        return run


def find_target(storage: Storage, tag: str, training: Training, run: str | None) -> Target:
    """Settle what is to be trained, from what is in storage.

    Raises:
        InputError: if there is no dataset, no recommended size, no extractor, no list of suspects,
            or verdicts cannot be read.
        UsageError: if a setting is wrong.

    """
    dataset = load_dataset(storage, tag)
    cleaning = find_cleaning(
        storage, dataset, training.exclude_suspects, training.verdicts, training.fractions
    )
    if training.threshold_from == "out-of-fold" and cleaning.verdicts != IGNORE:
        raise InputError(
            f"--threshold-from out-of-fold: people have judged images of the train split of "
            f"{tag!r}, and which they were shown hangs on labels that the threshold is chosen on; "
            "add --verdicts ignore, by which nothing is learned from them, or leave it out"
        )
    update = {"exclude_suspects": cleaning.suspects, "verdicts": cleaning.verdicts}
    training = settled(training).model_copy(update=update)
    extractor = None
    if training.features != "no":
        extractor = find_extractor(storage, training.features)
        update = {
            "features": extractor.name,
            "model": extractor.model,
            "resize": extractor.resize,
        }
        training, size = training.model_copy(update=update), extractor.image_size
    elif training.packed == "no":
        size = input_size(storage, tag, training.image_size, LEAST_SIDES[training.model])
    else:
        packed = load_packed(storage, tag, training.packed)
        training = training.model_copy(update={"packed": packed.name})
        auto = training.image_size == "auto"
        size = packed.image_size if auto else input_size(storage, tag, training.image_size)
        packed.check_fits(
            dataset,
            size,
            training.resize,
            training.validation_fraction,
            training.threshold_fraction,
            cleaning,
        )
    name = checked_run(run) if run else _run_name(training, size, dataset)
    return Target(storage, name, training, size, dataset, cleaning, extractor)


def digest_of_values(values: object) -> str:
    """Return a digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()


def _run_name(training: Training, size: Size, dataset: Dataset) -> str:
    identity = [deciding(training), size, dataset.fingerprint]
    made_of = training.model if training.features == "no" else training.features
    return f"{made_of}-{digest_of_values(identity)[:8]}"
