"""What evaluate finds out about a run, as it is stored: `evaluation.json`, and tables beside it."""

from __future__ import annotations

import csv
import heapq
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from imagetag import __version__
from imagetag.checks import SETTINGS_OF_HEADS
from imagetag.csv_cells import quoted
from imagetag.dataset import Captioned, Dataset, Rating, Row, caption
from imagetag.job import option_name
from imagetag.layout import LABELS, Label, Split
from imagetag.record import Record
from imagetag.runs.breakdown import Slice, breakdown
from imagetag.runs.decision import Decision
from imagetag.runs.runs import Turned
from imagetag.sentences import counted
from imagetag.stats import (
    AtPrevalence,
    BinaryMetrics,
    Calibration,
    Predictions,
    Reliability,
    at_prevalence,
    binary_metrics,
    reliability,
)

_MISTAKES = 24  # pictures a gallery; more are counted, not shown
_HITS = 12
_SUSPECTS = 24
_PREVALENCES = (0.1, 0.01, 0.001)
_SEED = 0  # of resamples


GalleryName = Literal["false_positives", "false_negatives", "hits", "suspects"]


class Request(BaseModel):
    """What an evaluation was asked for.

    The options of `imagetag evaluate` say what each is, and have the same bounds.

    Raises:
        ValueError: if there is no such field, or it is none of its values.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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


@dataclass(frozen=True)
class Scored:
    """A picture with what the model says of it: a logit, a calibrated probability, a decision."""

    row: Row
    logit: float
    probability: float
    called: bool

    @property
    def md5(self) -> str:
        """The digest of the picture's content."""
        return self.row.md5

    @property
    def group(self) -> str:
        """What must stay in one split with it."""
        return self.row.group

    @property
    def positive(self) -> bool:
        """Whether the picture has the tag, by its label."""
        return self.row.label == "positive"


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


@dataclass(frozen=True)
class Galleries:
    """Pictures worth looking at, the most telling first."""

    false_positives: list[Scored]
    false_negatives: list[Scored]
    hits: list[Scored]

    def all(self) -> Iterable[Scored]:
        """Yield every picture of them."""
        yield from (*self.false_positives, *self.false_negatives, *self.hits)


def evaluated(
    *,
    tag: str,
    run: str,
    request: Request,
    settings: Mapping[str, Any],
    command: str,
    dataset: Dataset,
    decision: Decision,
    learned: Mapping[Label, int] | None = None,
    chosen_on: Sequence[Scored],
    since: Since,
    test: Sequence[Scored],
    suspects: Sequence[Shown] | None,
    unjudged: str | None = None,
    left_out: int = 0,
    history: Sequence[dict[str, float]] = (),
    cautions: Sequence[str] = (),
    verdicts: ByVerdicts | None = None,
) -> Evaluation:
    """Measure a model's answers on the test split.

    Args:
        tag: what it recognises.
        run: the run's name.
        request: what was asked for.
        settings: what it was trained with.
        command: repeats the training.
        dataset: what it was trained and tested on.
        decision: by which the answers were made.
        learned: how many pictures of each label it was trained on, if that is known.
        chosen_on: the pictures that the decision was chosen on.
        since: what has changed since the training.
        test: those of the test split.
        suspects: negatives that look like the tag, the most suspect first; None if not looked for.
        unjudged: why no label could be judged.
        left_out: pictures that are missing or cannot be decoded.
        history: a row an epoch.
        cautions: what makes the numbers better than they are, a sentence each.
        verdicts: what people's verdicts have to do with it.

    Raises:
        InputError: if the test pictures are of one label.

    """
    answers = Predictions(
        labels=np.array([item.positive for item in test], bool),
        scores=np.array([item.logit for item in test], np.float64),
        probabilities=np.array([item.probability for item in test], np.float64),
        called=np.array([item.called for item in test], bool),
        groups=[item.row.group for item in test],
    )
    metrics = binary_metrics(answers, decision.threshold, seed=_SEED)
    asked = () if request.prevalence is None else (request.prevalence,)
    prevalences = sorted({*_PREVALENCES, *asked}, reverse=True)
    galleries = pick_galleries(test)
    return Evaluation(
        tag=tag,
        run=run,
        request=request,
        settings=dict(settings),
        command=command,
        dataset=dataset,
        decision=decision,
        learned=dict(learned or {}),
        chosen_on={label: sum(item.row.label == label for item in chosen_on) for label in LABELS},
        since=since,
        metrics=metrics,
        prevalences=tuple(at_prevalence(answers, rate) for rate in prevalences),
        reliability={
            "raw": reliability(
                answers.labels, Calibration().probabilities(answers.scores), answers.groups
            ),
            "calibrated": reliability(answers.labels, answers.probabilities, answers.groups),
        },
        slices=tuple(breakdown([item.row for item in test], [item.called for item in test])),
        galleries={
            "false_positives": shown(galleries.false_positives),
            "false_negatives": shown(galleries.false_negatives),
            "hits": shown(galleries.hits),
            "suspects": list(suspects or ())[:_SUSPECTS],
        },
        suspects=None if suspects is None else len(suspects),
        unjudged=unjudged,
        left_out=left_out,
        history=list(history),
        cautions=tuple(cautions),
        verdicts=verdicts or ByVerdicts(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=f"imagetag {__version__}",
    )


def pick_galleries(predictions: Iterable[Scored]) -> Galleries:
    """Pick what a page shows of some predictions: 24 mistakes of each kind and 12 hits at most.

    False positives come with the most confident first, false negatives with the least probable
    first, hits with the hardest first. Streams: only what is picked is held.
    """
    false_positives: list[tuple[float, str, Scored]] = []
    false_negatives: list[tuple[float, str, Scored]] = []
    hits: list[tuple[float, str, Scored]] = []
    for scored in predictions:
        if scored.called and scored.positive:
            _keep(hits, _HITS, -scored.logit, scored)
        elif scored.called:
            _keep(false_positives, _MISTAKES, scored.logit, scored)
        elif scored.positive:
            _keep(false_negatives, _MISTAKES, -scored.logit, scored)
    return Galleries(*(_best_first(heap) for heap in (false_positives, false_negatives, hits)))


def predictions_table(scored: Iterable[Scored]) -> bytes:
    """Return pictures as CSV, the most probable first."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["md5", "page_url", "label", "group", "logit", "probability", "decision"])
    for item in sorted(scored, key=lambda item: (-item.logit, item.row.md5)):
        row = item.row
        texts = [row.md5, quoted(row.page_url), row.label, quoted(row.group)]
        numbers = [f"{item.logit:.6f}", f"{item.probability:.6f}"]
        writer.writerow([*texts, *numbers, str(item.called).lower()])
    return table.getvalue().encode()


def one_of_each_group(pictures: Iterable[_Picture]) -> list[_Picture]:
    """Return one picture a group, whichever comes first by its md5, in the order of their md5.

    Those of a group are no independent trials: a parent and its child often succeed together.
    """
    first: dict[str, _Picture] = {}
    for item in sorted(pictures, key=lambda item: item.md5):
        first.setdefault(item.group, item)
    return list(first.values())


def shown(scored: Iterable[Scored]) -> list[Shown]:
    """Return pictures as a gallery has them."""
    return [shown_row(item.row, item.probability) for item in scored]


def shown_row(row: Row, probability: float) -> Shown:
    """Return a picture as a gallery has it, with some probability of the tag."""
    return Shown(
        md5=row.md5,
        post_id=row.post_id,
        board=row.board,
        page_url=row.page_url,
        label=row.label,
        rating=row.rating,
        probability=probability,
        name=caption(row),
        split=row.split,
        ext=row.ext,
        stored_label=row.stored_label,
    )


def train_command(tag: str, settings: Mapping[str, Any], image_size: tuple[int, int]) -> str:
    """Return the command that trains the same model again, for a shell, an option a line.

    Args:
        tag: of what.
        settings: of the training, as the run has them.
        image_size: (height, width) in pixels.

    """
    values = dict(settings) | {"image_size": f"{image_size[0]}x{image_size[1]}"}
    if settings.get("features", "no") != "no":  # what else there is was found, or the extractor's
        values = {name: value for name, value in settings.items() if name in SETTINGS_OF_HEADS}
    if "mixed_precision" in values:  # which of them, the machine decides
        values["mixed_precision"] = "no" if values["mixed_precision"] == "float32" else "yes"
    lines = [f"imagetag train --tags {shlex.quote(tag)}"]
    for name, value in values.items():
        option = option_name(name)
        if isinstance(value, bool):
            lines.append(option if value else option.replace("--", "--no-", 1))
        elif value is not None:
            lines.append(f"{option} {shlex.quote(str(value))}")
    return " \\\n  ".join(lines)


def _keep(heap: list[tuple[float, str, Scored]], limit: int, weight: float, scored: Scored) -> None:
    # Heaps compare the md5 next: the same predictions give the same page in any order.
    entry = (weight, scored.row.md5, scored)
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _best_first(heap: list[tuple[float, str, Scored]]) -> list[Scored]:
    return [scored for *_, scored in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
