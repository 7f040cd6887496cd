"""How far to trust numbers of a dataset's models, told wherever such numbers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from imagetag.dataset import THRESHOLD_FRACTION, VALIDATION_FRACTION, Dataset, Mark
from imagetag.errors import InputError
from imagetag.explore.exploration import load_shortcuts
from imagetag.explore.shortcuts import Shortcuts
from imagetag.layout import Label, PartName
from imagetag.storage import Storage

_LEAST_TO_VALIDATE = 20  # images of a label, below which an epoch is chosen by chance as much


class Training(Protocol):
    """A run, as its `metrics.json` tells of it."""

    @property
    def run(self) -> str:
        """Its name."""

    @property
    def images(self) -> Mapping[PartName, Mapping[Label, int]]:
        """How many there are of each part and label."""


@dataclass(frozen=True)
class HeldOut:
    """How many pictures of each label a training keeps of the train split, and what for.

    `validation` tells when to stop, empty where nothing has to, and on `threshold` it is chosen;
    `run` is the training, empty where these are the numbers of the default settings.
    `min_precision` is to be promised, with `confidence`; None where no promise was asked for.
    """

    validation: Mapping[Label, int]
    threshold: Mapping[Label, int]
    run: str = ""
    min_precision: float | None = 0.95
    confidence: float = 0.95

    @classmethod
    def by_default(cls, images: Mapping[Label, int]) -> HeldOut:
        """Return what a training with default settings keeps of a train split, about."""
        return cls(
            {label: round(VALIDATION_FRACTION * count) for label, count in images.items()},
            {label: round(THRESHOLD_FRACTION * count) for label, count in images.items()},
        )

    @classmethod
    def by(cls, run: Training) -> HeldOut | None:
        """Return what a run has kept, None if it is of a version that does not tell."""
        if "threshold" not in run.images:
            return None
        return cls(run.images.get("validation", {}), run.images["threshold"], run.run)

    def for_promise(self, min_precision: float | None, confidence: float = 0.95) -> HeldOut:
        """Return the same for another promise, or for none."""
        return replace(self, min_precision=min_precision, confidence=confidence)

    @property
    def few_to_validate(self) -> str:
        """What it means that there are few to validate on, a sentence; empty if there are not."""
        count = min(self.validation.values(), default=_LEAST_TO_VALIDATE)
        if count >= _LEAST_TO_VALIDATE:
            return ""
        return (
            f"{self._keeps(count, 'pictures of a label')} to validate on: of fewer than "
            f"{_LEAST_TO_VALIDATE}, chance decides as well which epoch is the best"
        )

    @property
    def few_to_promise(self) -> str:
        """What it means that there are few for the threshold, a sentence; empty if there are not.

        What is missing is counted by the number of pictures that there are.
        """
        if self.min_precision is None:
            return ""
        from imagetag.stats import positives_needed  # SciPy: not for --help

        count, pictures = self.threshold.get("positive", 0), sum(self.threshold.values())
        needed = positives_needed(
            count, pictures, min_precision=self.min_precision, confidence=self.confidence
        )
        if needed is None:
            return ""
        return (
            f"{self._keeps(count, 'positives')} to choose the threshold on: to prove a precision "
            f"of {self.min_precision:g} takes {needed:,} at the least, all of them right"
        )

    def _keeps(self, count: int, what: str) -> str:
        if self.run:
            return f"The run {self.run} has {count:,} {what}"
        return f"By default about {count:,} {what} of the train split are kept"


def cautions(
    marked_by: Sequence[Mark],
    shortcuts: Shortcuts | None,
    held_out: HeldOut | None = None,
) -> tuple[str, ...]:
    """Return what to be cautious of, a sentence each.

    Args:
        marked_by: tags that mark the negatives.
        shortcuts: those that were found, if they were sought.
        held_out: of the train split for validation and the threshold; None says nothing of it.

    """
    found = shortcuts.found if shortcuts else ()
    few = (held_out.few_to_validate, held_out.few_to_promise) if held_out else ()
    return (
        *(mark.caution for mark in marked_by),
        *(check.caution for check in found),
        *(f"{sentence}." for sentence in few if sentence),
    )


def read_cautions(
    storage: Storage, dataset: Dataset, held_out: HeldOut | None = None
) -> tuple[str, ...]:
    """Return the sentences of `cautions`, with the shortcuts that `explore` stored, if it did.

    Args:
        storage: has the dataset.
        dataset: of which they are.
        held_out: by the run that they are told of; by default what one with default settings keeps.

    """
    try:
        shortcuts = load_shortcuts(storage, dataset.tag)
    except InputError:  # not explored, or by another version
        shortcuts = None
    held_out = held_out or HeldOut.by_default(dataset.images.get("train", {}))
    return cautions(dataset.negatives_marked_by, shortcuts, held_out)
