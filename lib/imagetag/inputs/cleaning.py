"""Which labels a training does not take from the board: suspects, and what people have judged."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from imagetag.dataset import Dataset, parts_of_groups, read_rows
from imagetag.errors import InputError, UsageError
from imagetag.layout import Label, Layout, PartName, checked_run, parse_run
from imagetag.log import get_logger
from imagetag.runs import Run, Turned, load_run, load_suspects
from imagetag.storage import Storage
from imagetag.verdicts import LABELS_BY, Answer, Verdicts, load_verdicts

_OPTION = "--exclude-suspects"
_DIGITS = 12  # of the digest
IGNORE = "ignore"
"""Of verdicts: none are used, or there are none."""
LEARNED: tuple[PartName, ...] = ("train", "validation")
"""The parts of the train split that decide what a model is: the other decides what it promises."""


class Labelled(Protocol):
    """A picture with a label, such as a manifest's row."""

    @property
    def md5(self) -> str:
        """The digest of its content."""

    @property
    def label(self) -> Label:
        """Whether it has the tag."""


@dataclass(frozen=True)
class Cleaning:
    """What a training leaves out of what it learns from, and which labels it turns.

    Args:
        suspects: `no`, or RUN@DIGEST: the run whose model found them, and a digest of which they
            are.
        verdicts: `ignore`, or a digest of the verdicts on pictures that the training learns from.
        suspected: the negatives that are suspects, by md5.
        judged: what people have said of pictures, by md5.

    """

    suspects: str = "no"
    verdicts: str = IGNORE
    suspected: frozenset[str] = frozenset()
    judged: Mapping[str, Answer] = field(default_factory=dict)

    def leaves_out(self, picture: Labelled, part: PartName) -> bool:
        """Tell whether a picture of a part is not learned from.

        Who was asked and cannot tell has said so of pictures of both parts that are learned from.
        Suspects are left out of what is trained on alone, as without what the model takes for the
        tag the other parts would make it look better than it is; of one that was judged that is
        known better. A positive never is a suspect here.
        """
        if part not in LEARNED:
            return False
        answer = self.judged.get(picture.md5)
        if answer is not None:
            return answer == "unclear"
        return part == "train" and picture.label == "negative" and picture.md5 in self.suspected

    def label_of(self, picture: Labelled, part: PartName) -> Label:
        """Return the label of a picture of a part, as a training takes it."""
        answer = self.judged.get(picture.md5) if part in LEARNED else None
        return picture.label if answer is None else LABELS_BY.get(answer, picture.label)

    def tell(self, suspects: int, turned: Turned) -> None:
        """Say in the log how many pictures were left out or turned."""
        if self.suspects != "no":
            get_logger().info("suspects excluded", images=suspects, by=self.suspects)
        if self.verdicts != IGNORE:
            get_logger().info("labels by verdicts", **turned.model_dump())


def find_cleaning(
    storage: Storage,
    dataset: Dataset,
    suspects: str,
    verdicts: str,
    fractions: tuple[float, float],
) -> Cleaning:
    """Return what is not to be learned from as the board has it.

    Args:
        storage: has the runs, what was found with them, and what people have said.
        dataset: the tag's.
        suspects: `no`; a run's name, or RUN@DIGEST as an earlier training has it; or `latest`: the
            newest evaluated run that was trained without leaving out any itself, so that the same
            command is the same training also when that is complete. Runs whose threshold is from
            out-of-fold scores are none of these: labels that the next threshold is chosen on have
            had a say in what they suspect.
        verdicts: `use`, `ignore`, or the digest that an earlier training has.
        fractions: of the train split, for validation and for the threshold.

    Raises:
        InputError: if no suspects were looked for, or what is stored of them, of the verdicts or of
            the dataset cannot be read.
        UsageError: if a choice is none of these, a digest is of another list, or the threshold of
            the suspects' run is from out-of-fold scores.

    """
    name, suspected = _suspected(storage, dataset.tag, suspects)
    judged = _judged(storage, dataset, verdicts, fractions)
    answers = {md5: verdict.answer for md5, verdict in judged.standing.items()}
    return Cleaning(name, judged.digest or IGNORE, suspected, answers)


def _judged(
    storage: Storage, dataset: Dataset, choice: str, fractions: tuple[float, float]
) -> Verdicts:
    """Return what people have said of the pictures that a training learns from.

    What they said of others makes no other training.
    """
    nothing = Verdicts({})
    found = nothing if choice == IGNORE else load_verdicts(storage, dataset.tag)
    if found.standing:
        rows = (row for row in read_rows(storage, dataset) if row.split == "train")
        pictures = [(row.md5, row.group, row.label) for row in rows]
        parts = parts_of_groups(((group, label) for _, group, label in pictures), *fractions)
        learned = (md5 for md5, group, _ in pictures if parts[group] in LEARNED)
        found = Verdicts({md5: found.standing[md5] for md5 in learned if md5 in found.standing})
    if choice not in ("use", IGNORE, found.digest):
        raise UsageError(
            f"--verdicts {choice[:120]!r}: the verdicts on {dataset.tag!r} are others now; "
            f"{found.digest or IGNORE} or use takes these"
        )
    return found


def _suspected(storage: Storage, tag: str, choice: str) -> tuple[str, frozenset[str]]:
    """Return the name of a list of suspects, and those that may be left out, by md5."""
    if choice == "no":
        return choice, frozenset()
    run, _, digest = choice.partition("@")
    run = _latest(storage, tag) if choice == "latest" else checked_run(run, _OPTION)
    suspects = load_suspects(storage, tag, run)
    if load_run(storage, tag, run).out_of_fold:
        raise UsageError(
            f"{_OPTION} {choice[:120]!r}: this run of {tag!r} has its threshold from out-of-fold "
            "scores, and held back no labels from judging the others; name one with "
            "--threshold-from held-out"
        )
    if suspects.reason:
        get_logger().warning("no suspects to exclude", run=run, reason=suspects.reason)
    md5s = frozenset(
        suspect.md5 for suspect in suspects.of_label("negative") if suspect.split == "train"
    )
    found = hashlib.sha256("".join(sorted(md5s)).encode()).hexdigest()[:_DIGITS]
    if "@" in choice and digest != found:
        raise UsageError(
            f"{_OPTION} {choice[:120]!r}: the suspects of {tag!r} by this run are others now; "
            f"{run}@{found} or {run} takes these"
        )
    return f"{run}@{found}", md5s


def _latest(storage: Storage, tag: str) -> str:
    """Return the newest run that was evaluated, trained on suspects too, and held some back."""
    runs: list[Run] = []
    for key in sorted(_lists(storage, tag)):
        try:
            run = load_run(storage, tag, parse_run(key).run)
        except (InputError, ValueError) as error:
            get_logger().warning("run passed over", key=key, reason=str(error))
            continue
        all_images = run.settings.get("exclude_suspects", "no") == "no"  # older runs lack it
        if all_images and not run.out_of_fold:
            runs.append(run)
    if not runs:
        raise InputError(
            f"{_OPTION} latest: no run of the tag {tag!r} that was trained on all images was "
            f"evaluated; run imagetag evaluate --tags {shlex.quote(tag)} first"
        )
    return max(runs, key=lambda run: (run.created, run.run)).run


def _lists(storage: Storage, tag: str) -> set[str]:
    """Return the keys of the lists of suspects."""
    layout = Layout(tag)
    found = {entry.key for entry in storage.list(layout.models)}
    lists = {key for key in found if key.endswith("/suspects.json")}
    # A late listing may lack what was written a moment ago: that is of the newest run, if of any.
    with contextlib.suppress(InputError, UsageError):
        newest = layout.run(load_run(storage, tag, "latest").run, "suspects.json")
        if newest in lists or storage.stat(newest) is not None:
            lists.add(newest)
    return lists
