"""What evaluate finds out about a run, as `evaluation.json` stores it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol, TypeVar

from pydantic import Field

from imagetag.arguments import Arguments
from imagetag.dataset import Captioned, Dataset, Rating
from imagetag.layout import Label, Split
from imagetag.record import Record
from imagetag.runs.decision import Decision
from imagetag.runs.runs import Turned
from imagetag.runs.slices import Slice
from imagetag.sentences import counted
from imagetag.stats import AtPrevalence, BinaryMetrics, Reliability

GalleryName = Literal["false_positives", "false_negatives", "hits", "suspects"]


class Request(Arguments):
    """What an evaluation was asked for.

    The options of `imagetag evaluate` say what each is, and have the same bounds.

    Raises:
        ValueError: if there is no such field, or it is none of its values.

    """

    min_precision: float = Field(0.95, gt=0, lt=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    threshold: float | None = Field(None, gt=0, lt=1)
    calibration: Literal["auto", "none", "temperature", "isotonic"] = "auto"
    prevalence: float | None = Field(None, gt=0, lt=1)
    suspects: bool = True
    verdicts: Literal["use", "ignore"] = "use"


class Grouped(Protocol):
    """A picture by its content, and what it belongs to."""

    @property
    def md5(self) -> str:
        """The digest of its content."""

    @property
    def group(self) -> str:
        """What must stay in one split with it."""


_Picture = TypeVar("_Picture", bound=Grouped)


class Shown(Captioned, Record):
    """A picture of a gallery.

    `name` is what the page calls it, `split` and `ext` say where it is stored; an older version
    recorded none of them. `stored_label` does where a person has turned the label.
    """

    md5: str
    post_id: int
    board: str
    page_url: str
    label: Label
    rating: Rating
    probability: float
    name: str = ""
    split: Split | None = None
    ext: str = ""
    stored_label: Label | None = None


class Since(Record):
    """How the dataset differs from what a run was trained on, in pictures of the train split.

    `relabelled` are of the pictures that are still there. `tied` were kept for the threshold, or
    scored out of fold for it, and are left out of it: by now they are in one group with what was
    trained or validated on, or was in another fold.
    """

    added: int = 0
    gone: int = 0
    relabelled: int = 0
    tied: int = 0

    @property
    def anything(self) -> bool:
        """Whether anything has changed."""
        return any((self.added, self.gone, self.relabelled, self.tied))


class Judged(Record):
    """What came of people's verdicts on the pictures that a figure is of.

    Args:
        pictures: there are; of those kept for the threshold, one of each group.
        judged: have a verdict.
        counted: have a person's label: all, or of those kept for the threshold the highest scores.
        needed: must be judged before any verdict counts, and
        left: of those are not.
        turned: labels that are others by it.
        unclear: of those that are counted, none can tell: on the test split each is decided
            wrongly, and for the threshold it has no tag.

    """

    pictures: int
    judged: int = 0
    counted: int = 0
    needed: int = 0
    left: int = 0
    turned: Turned = Turned()
    unclear: int = 0


class ByVerdicts(Record):
    """What people's verdicts have to do with an evaluation.

    Args:
        digest: of all that stand; empty where none do, or they are ignored.
        learned: what they changed of what the run has learned from.
        unlearned: pictures of that which have another label by now, or of which none can tell; and
            those that were left out, of which somebody can.
        threshold: what came of those on pictures kept for the threshold.
        test: what came of those on pictures of the test split.

    """

    digest: str = ""
    learned: Turned = Turned()
    unlearned: int = 0
    threshold: Judged | None = None
    test: Judged | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is to be said of them."""
        found: list[str] = []
        if self.learned.anything:
            found.append(
                f"Verdicts of people turned {_labels(self.learned)} of what was learned from, and "
                f"{counted(self.learned.left_out, 'picture')} of which none can tell were left "
                "out."
            )
        if self.unlearned:
            found.append(
                f"Other verdicts since then are on {counted(self.unlearned, 'picture')} that it "
                "has learned from or left out: train again."
            )
        if self.threshold is not None and self.threshold.judged:
            found.append(_of_threshold(self.threshold))
        if self.test is not None and self.test.judged:
            found.append(_of_test(self.test))
        return tuple(found)


def _of_threshold(part: Judged) -> str:
    if not part.counted:
        return (
            f"{counted(part.judged, 'verdict')} on what the threshold is chosen on did not count, "
            "as corrections of chosen pictures flatter: they do when the "
            f"{counted(part.needed, 'picture')} of the highest scores, one of each group, are "
            f"judged, of which {part.left:,} are left."
        )
    which = "all" if part.counted == part.pictures else f"the {part.counted:,} highest scores"
    return (
        f"Of the {counted(part.pictures, 'picture')} that the threshold is chosen on, one of each "
        f"group, {which} have their label by people, who turned {_labels(part.turned)}."
        + _unclear(part, "count as without the tag")
    )


def _of_test(part: Judged) -> str:
    if not part.counted:
        return (
            f"{counted(part.judged, 'verdict')} on test pictures did not count, as corrections of "
            f"chosen pictures flatter: they do when all {part.pictures:,} are judged, of which "
            f"{part.left:,} are left."
        )
    return (
        f"All {counted(part.pictures, 'test picture')} have their label by people, who turned "
        f"{_labels(part.turned)}." + _unclear(part, "count as decided wrongly")
    )


def _unclear(part: Judged, how: str) -> str:
    return f" Those of which none can tell {how}: {part.unclear:,}." if part.unclear else ""


def _labels(turned: Turned) -> str:
    positive = counted(turned.to_positive, "label")
    return f"{positive} to positive and {turned.to_negative:,} to negative"


class Evaluation(Record):
    """A run's results on the test split, with what led to them.

    `settings` is what the run was trained with, as names and values; `reliability` is of the test
    split, with and without calibration; `chosen_on` counts the pictures the threshold was chosen
    on; `since` is what has changed in the dataset since the training; `command` repeats the
    training; `history` is a row an epoch.
    """

    version: Literal[3] = 3
    tag: str
    run: str
    request: Request
    settings: dict[str, Any]
    command: str
    dataset: Dataset
    decision: Decision
    learned: dict[Label, int] = Field({}, description="pictures that the run was trained on")
    chosen_on: dict[Label, int]
    since: Since
    metrics: BinaryMetrics
    prevalences: tuple[AtPrevalence, ...]
    reliability: dict[Literal["raw", "calibrated"], Reliability]
    slices: tuple[Slice, ...]
    galleries: dict[GalleryName, list[Shown]]
    suspects: int | None
    unjudged: str | None = Field(None, description="why no label was judged, where none was")
    left_out: int = Field(0, description="pictures that are missing or cannot be decoded")
    history: list[dict[str, float]]
    cautions: tuple[str, ...] = ()
    verdicts: ByVerdicts = ByVerdicts()
    created: str
    software: str

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Yield what a notebook shows: all of it is some hundred lines, which `model_dump` has."""
        promise = self.decision.promise
        yield "tag", self.tag
        yield "run", self.run
        yield "threshold", self.decision.threshold
        yield "promised", promise.min_precision if promise and promise.met else None
        yield "worth", self.worth

    @property
    def worth(self) -> str:
        """What the run is worth, in a sentence without its full stop."""
        found, promise = self.metrics.average_precision, self.decision.promise
        text = f"on {counted(self.metrics.positives, 'positive test picture')} "
        if self.learned:  # an older version did not tell
            text = f"learned from {counted(self.learned['positive'], 'positive')}; {text}"
        text += f"the average precision is {found.value:.2f}"
        if found.interval:
            text += ", and lies between {:.2f} and {:.2f}".format(*found.interval)
        if promise is not None and promise.too_few:
            text += f": too few to promise a precision of {promise.min_precision:g}"
        return text


def one_of_each_group(pictures: Iterable[_Picture]) -> list[_Picture]:
    """Return one picture a group, whichever comes first by its md5, in the order of their md5.

    Those of a group are no independent trials: a parent and its child often succeed together.
    """
    first: dict[str, _Picture] = {}
    for item in sorted(pictures, key=lambda item: item.md5):
        first.setdefault(item.group, item)
    return list(first.values())
