"""A part of the test split, as an evaluation stores it: by size, rating or companion tag."""

from __future__ import annotations

from typing import Literal

from imagetag.record import Record
from imagetag.stats import Confusion, Estimate

Kind = Literal["size", "aspect", "rating", "format", "companion_tag"]
Measure = Literal["precision", "recall", "false_positive_rate"]


class Difference(Record):
    """A measure of a part that differs from that of all other pictures by more than chance.

    `p` is corrected for the number of tests. `worse` tells whether the part is the worse one.
    """

    measure: Measure
    elsewhere: float
    p: float
    worse: bool


class Slice(Record):
    """A part of the test split: how good the decisions in it are, and where that is no chance.

    `name` is one line of printable text, also of a tag. The intervals are those of
    `intervals.share_interval`, each for itself.
    """

    kind: Kind
    name: str
    pictures: int
    positives: int
    confusion: Confusion
    precision: Estimate
    recall: Estimate
    false_positive_rate: Estimate
    accuracy: Estimate
    differences: tuple[Difference, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether anything in it is worse than elsewhere by more than chance."""
        return any(difference.worse for difference in self.differences)

    @property
    def words(self) -> str:
        """What its pictures are, for a sentence: `pictures rated general`."""
        if self.kind == "size":
            return f"pictures of {self.name}"
        if self.kind == "aspect":
            return f"{self.name.partition(' (')[0]} pictures"
        if self.kind == "rating":
            return f"pictures rated {self.name}"
        if self.kind == "format":
            return f"pictures of format {self.name}"
        opened, closed = "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"
        return f"pictures also tagged {opened}{self.name}{closed}"
