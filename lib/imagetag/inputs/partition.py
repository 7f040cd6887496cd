"""What a training uses each picture of the train split for, and the record of it beside the run.

evaluate goes by the record: what was learned from must not choose the threshold, however the
pictures are grouped by then.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from imagetag.dataset import Dataset, Row, parts_of_groups, read_rows
from imagetag.errors import InputError, one_line
from imagetag.inputs.cleaning import Cleaning
from imagetag.layout import LABELS, Label, Layout, PartName
from imagetag.runs import Run, Turned
from imagetag.storage import ObjectNotFound, Storage

Use = Literal["train", "validation", "threshold", "excluded"]

_COLUMNS = ["md5", "label", "use", "turned_from"]
_OUT_OF_FOLD = ["fold", "logit"]
_MAX_BYTES = 1 << 30  # of `parts.csv`, which has some 50 a picture


@dataclass(frozen=True)
class Partition:
    """How the train split is divided for a training.

    Args:
        groups: the part of each group.
        cleaning: what is left out of what is learned from, and which labels are turned.
        images: how many pictures there are of each use and label, as they are turned.
        turned: what verdicts change.
        table: what each picture is used for, as `parts.csv` has it.

    """

    groups: Mapping[str, PartName]
    cleaning: Cleaning
    images: Mapping[Use, Mapping[Label, int]]
    turned: Turned = field(default_factory=Turned)
    table: bytes = b""

    def use_of(self, row: Row | _Picture) -> Use:
        """Return what a picture of the train split is used for."""
        part = self.groups[row.group]
        return "excluded" if self.cleaning.leaves_out(row, part) else part

    def label_of(self, row: Row | _Picture) -> Label:
        """Return the label of a picture of the train split, as the training takes it."""
        return self.cleaning.label_of(row, self.groups[row.group])

    def with_out_of_fold(self, scores: Mapping[str, OutOfFold]) -> Partition:
        """Return the same, with what is said of pictures by md5 where nothing of them was seen."""
        reader = csv.DictReader(io.StringIO(self.table.decode()))
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow([*_COLUMNS, *_OUT_OF_FOLD])
        for row in reader:
            score = scores.get(row["md5"], ("", ""))
            writer.writerow([*(row[column] for column in _COLUMNS), *score])
        return replace(self, table=table.getvalue().encode())


class _Picture(NamedTuple):
    """What of a row decides its use."""

    md5: str
    label: Label
    group: str


class OutOfFold(NamedTuple):
    """The fold of a picture, with all of its group, and its logit by a head without that fold."""

    fold: int
    logit: float


class Used(NamedTuple):
    """What a picture was used for, and the label it had for the training.

    `board` is the one that the dataset had, which verdicts may have turned. `out_of_fold` is there
    where the threshold is chosen on such scores, of pictures that could be read.
    """

    use: Use
    label: Label
    board: Label
    out_of_fold: OutOfFold | None = None


def find_partition(
    storage: Storage,
    dataset: Dataset,
    validation_fraction: float,
    threshold_fraction: float,
    cleaning: Cleaning,
) -> Partition:
    """Divide a dataset's train split; what is left out and turned is told in the log.

    Verdicts decide nothing of what is in which part.

    Raises:
        InputError: if the manifest cannot be read.

    """
    pictures = [_Picture(row.md5, row.label, row.group) for row in train_rows(storage, dataset)]
    groups = parts_of_groups(
        ((picture.group, picture.label) for picture in pictures),
        validation_fraction,
        threshold_fraction,
    )
    images = {use: dict.fromkeys(LABELS, 0) for use in get_args(Use)}
    partition = Partition(groups, cleaning, images)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(_COLUMNS)
    suspects = unclear = 0
    changed = dict.fromkeys(LABELS, 0)
    for picture in pictures:
        use, label = partition.use_of(picture), partition.label_of(picture)
        images[use][label] += 1
        writer.writerow([picture.md5, label, use, picture.label if label != picture.label else ""])
        if use == "excluded":
            suspects += picture.md5 not in cleaning.judged
            unclear += picture.md5 in cleaning.judged
        elif label != picture.label:
            changed[label] += 1
    turned = Turned(
        to_positive=changed["positive"], to_negative=changed["negative"], left_out=unclear
    )
    cleaning.tell(suspects, turned)
    return replace(partition, turned=turned, table=table.getvalue().encode())


def train_rows(storage: Storage, dataset: Dataset) -> Iterable[Row]:
    """Yield the rows of the train split.

    Raises:
        InputError: if the manifest cannot be read.

    """
    return (row for row in read_rows(storage, dataset) if row.split == "train")


def rows_of_parts(
    storage: Storage, dataset: Dataset, partition: Partition, parts: Sequence[PartName]
) -> dict[PartName, list[Row]]:
    """Return the rows of some parts of the train split, with their labels, in the order of md5.

    Raises:
        InputError: if the manifest cannot be read.

    """
    rows: dict[PartName, list[Row]] = {part: [] for part in parts}
    for row in sorted(train_rows(storage, dataset), key=lambda row: row.md5):
        use = partition.use_of(row)
        if use in rows:
            rows[use].append(row.labelled(partition.label_of(row)))
    return rows


def store_partition(storage: Storage, tag: str, run: str, partition: Partition) -> str:
    """Store what a run used each picture for, beside it, and return a digest of that."""
    storage.write(Layout(tag).run(run, "parts.csv"), partition.table)
    return hashlib.sha256(partition.table).hexdigest()


def load_partition(storage: Storage, run: Run) -> dict[str, Used]:
    """Return what a run used each picture for, by md5.

    Raises:
        InputError: if it is not stored, or is not what the run has stored.

    """
    key = Layout(run.tag).run(run.run, "parts.csv")
    if not run.parts:
        raise InputError(
            f"the run {run.run!r} of {run.tag!r} was trained by an older version, which did not "
            "store what it validated on: train it again"
        )
    try:
        with storage.open(key) as stream:
            data = stream.read(_MAX_BYTES)
        if hashlib.sha256(data).hexdigest() != run.parts:
            raise ValueError("it is not what the run has stored")
        reader = csv.DictReader(io.StringIO(data.decode()))
        return {row["md5"]: _used(row) for row in reader}
    except (ObjectNotFound, LookupError, TypeError, ValueError, csv.Error) as error:
        why = "is missing" if isinstance(error, ObjectNotFound) else f"({one_line(error, 200)})"
        raise InputError(f"{storage.url}/{key} {why}: train the run again") from error


def _used(row: Mapping[str, Any]) -> Used:
    if row["use"] not in get_args(Use) or row["label"] not in LABELS:
        raise ValueError(f"{row['use']!r}, {row['label']!r}")
    scored = bool(row.get("fold"))
    score = OutOfFold(int(row["fold"]), float(row["logit"])) if scored else None
    return Used(row["use"], row["label"], row.get("turned_from") or row["label"], score)
