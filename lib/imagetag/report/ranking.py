"""How the runs of a tag stand, and how models stand over many tags."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from typing import Literal, TypeVar

import numpy as np

from imagetag.dataset import load_dataset, run_files, tags_in
from imagetag.errors import InputError
from imagetag.explore import HeldOut, read_cautions
from imagetag.layout import RunKey
from imagetag.log import get_logger
from imagetag.report.results import Evaluation, Result, Table, Training, load_result, load_table
from imagetag.stats import RESAMPLED, Answers, Exam, Ints, Metric, Span, Standing, compare
from imagetag.storage import Storage

MAX_RUNS = 50  # of a tag that are compared
_MAX_TABLES = 512 << 20  # bytes of all tables of a tag: they are held at once
_MAX_MODELS = 50  # that are compared over all tags
_THREADS = 8  # files read at once
_COMMON = 0.5  # of the pictures that most runs have: with fewer, a run is not compared
_LEVEL = 0.05
_SEED = 0

Place = Literal["best", "tied", "behind"]
Kept = Literal["kept", "unclear", "broken", "unmet"]
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Entry:
    """An evaluated run of a tag.

    `place` is `best`, `tied` where the difference from the best may be noise, or `behind`; None
    where it is not compared, and `reason` says why. `value` is on the pictures that all compared
    runs have. Where that is only a part of its own, `partial` is True.
    """

    training: Training
    evaluation: Evaluation
    value: Span | None
    behind: Span | None
    place: Place | None
    partial: bool = False
    reason: str = ""

    @property
    def kept(self) -> Kept | None:
        """Whether the promised precision holds on the test pictures, None if none was promised.

        `unmet`: no threshold was found to promise it of; `unclear`: the precision is lower, but
        its interval reaches what was promised.
        """
        promise, found = self.evaluation.decision.promise, self.evaluation.metrics.chosen.precision
        if promise is None:
            return None
        if not promise.met:
            return "unmet"
        if found.value is not None and found.value >= promise.min_precision:
            return "kept"
        return "unclear" if found.high is None or found.high >= promise.min_precision else "broken"


@dataclass(frozen=True)
class Missing:
    """A run that is not in the table, and why."""

    run: str
    model: str | None
    reason: str


@dataclass(frozen=True)
class Board:
    """The runs of a tag, the best first; `pictures` are those that all compared runs have.

    `not_evaluated` are complete, `damaged` cannot be read; `cautions` are of the
    dataset, and of what the best run has kept of it.
    """

    tag: str
    entries: Sequence[Entry]
    not_evaluated: Sequence[Missing]
    damaged: Sequence[Missing]
    positives: int = 0
    negatives: int = 0
    groups: int = 0
    cautions: Sequence[str] = ()

    @property
    def compared(self) -> list[Entry]:
        """The runs that have a place."""
        return [entry for entry in self.entries if entry.place is not None]

    @property
    def first(self) -> list[Entry]:
        """The best run, and those that cannot be told apart from it."""
        return [entry for entry in self.compared if entry.place != "behind"]

    @property
    def winner(self) -> str | None:
        """The model that all first runs are of, None if there are several or nothing to beat."""
        models = {entry.training.model for entry in self.first}
        others = {entry.training.model for entry in self.compared} - models
        return models.pop() if len(models) == 1 and others else None

    @property
    def models(self) -> list[str]:
        """The models that are compared, that of the best run first."""
        return list(dict.fromkeys(entry.training.model for entry in self.compared))


Runs = Mapping[str, int]  # by name; the bytes of its table of predictions


def find_runs(storage: Storage, tags: Sequence[str] | None) -> Iterator[tuple[str, Runs]]:
    """Yield each tag with its complete runs; of no tags given, those in storage that have any."""
    for tag in tags_in(storage) if tags is None else tags:
        runs = _complete(run_files(storage, tag))
        if runs or tags is not None:
            yield tag, runs


def load_board(storage: Storage, tag: str, runs: Runs, metric: Metric) -> Board:
    """Compare the runs of a tag.

    Args:
        storage: has them.
        tag: whose.
        runs: which, as `find_runs` tells.
        metric: by which.

    """
    found: dict[str, Result] = {}
    damaged: dict[str, str] = {}
    for run, result in _each(list(runs), lambda run: load_result(storage, tag, run)):
        if isinstance(result, InputError):
            damaged[run] = str(result)
        else:
            found[run] = result
    evaluated = sorted(
        (name for name, result in found.items() if result.evaluation is not None),
        key=lambda name: (_order(found[name], metric), name),
    )
    affordable = _affordable(evaluated, runs)
    tables: dict[str, Table] = {}
    for run, table in _each(affordable, lambda run: load_table(storage, _evaluation(found[run]))):
        if isinstance(table, InputError):
            damaged[run] = f"{table}; run imagetag evaluate --run {run} again"
        else:
            tables[run] = table
    for run, detail in damaged.items():
        get_logger().warning("left out", tag=tag, run=run, reason=detail)
    entries, exam = _entries(found, tables, metric)
    entries += [
        _outside(found[run], metric, f"only {len(affordable)} runs of a tag are compared")
        for run in evaluated[len(affordable) :]
    ]
    return Board(
        tag,
        entries,
        [
            Missing(name, result.training.model, result.reason)
            for name, result in found.items()
            if result.evaluation is None
        ],
        [
            Missing(name, found[name].training.model if name in found else None, detail)
            for name, detail in damaged.items()
        ],
        positives=int(exam.labels.sum()) if exam else 0,
        negatives=int((~exam.labels).sum()) if exam else 0,
        groups=len(np.unique(exam.groups)) if exam else 0,
        cautions=_cautions(
            storage, tag, found[entries[0].training.run].held_out if entries else None
        ),
    )


def _cautions(storage: Storage, tag: str, held_out: HeldOut | None) -> tuple[str, ...]:
    try:
        return read_cautions(storage, load_dataset(storage, tag), held_out)
    except InputError as error:  # its runs may outlive it
        get_logger().debug("no dataset to be cautious of", tag=tag, reason=str(error))
        return ()


@dataclass
class ModelTally:
    """How one model stands over tags.

    `best` counts the tags on which it is ahead of all others, `tied` those where it may be the best
    but others may be too, `behind` the rest. A tag's tied models share the mean of their ranks.
    `mean` is of its values, `loss` by how much it is behind the first model on the tags that both
    have: the mean, with an interval that holds together with all others.
    """

    model: str
    best: int = 0
    tied: int = 0
    behind: int = 0
    ranks: list[float] = field(default_factory=list)
    values: dict[int, float] = field(default_factory=dict)
    loss: Span | None = None

    @property
    def tags(self) -> int:
        """On how many tags it is compared."""
        return len(self.ranks)

    @property
    def mean_rank(self) -> float:
        """The mean of its ranks."""
        return math.fsum(self.ranks) / len(self.ranks)

    @property
    def mean(self) -> float:
        """The mean of its values."""
        return math.fsum(self.values.values()) / len(self.values)


@dataclass
class Summary:
    """How models stand over all tags, each by its best run of a tag."""

    metric: Metric
    tags: int = 0
    runs: int = 0
    evaluated: int = 0
    compared: int = 0  # tags that have evaluated runs of two models or more
    undecided: int = 0  # of them, those without a winner
    repeated: int = 0  # tags on which runs of one model alone are compared
    ahead: int = 0  # of them, those on which one run is better than the others
    models: dict[str, ModelTally] = field(default_factory=dict)

    def add(self, board: Board) -> None:
        """Count a tag's runs."""
        self.tags += 1
        self.evaluated += len(board.entries)
        self.runs += len(board.entries) + len(board.not_evaluated) + len(board.damaged)
        if len(board.models) < 2:
            self.repeated += len(board.compared) > 1
            self.ahead += len(board.compared) > 1 and len(board.first) == 1
            return
        self.compared += 1
        winner = board.winner
        self.undecided += winner is None
        first = {entry.training.model for entry in board.first}
        values: dict[str, float] = {}
        for entry in board.compared:
            if entry.value is not None:
                values.setdefault(entry.training.model, entry.value.value)
        sign = -1 if self.metric == "brier" else 1
        goodness = {model: sign * value for model, value in values.items()}
        for model, rank in _ranks(goodness, first).items():
            tally = self.models.setdefault(model, ModelTally(model))
            tally.ranks.append(rank)
            tally.values[self.compared] = values[model]
            if model == winner:
                tally.best += 1
            elif model in first:
                tally.tied += 1
            else:
                tally.behind += 1

    def ranking(self) -> list[ModelTally]:
        """Return the models by their mean rank, the best first, 50 at the most.

        Those on less than half of the tags come last: they may have had the easy ones.
        """
        ordered = sorted(
            self.models.values(),
            key=lambda tally: (2 * tally.tags < self.compared, tally.mean_rank, tally.model),
        )[:_MAX_MODELS]
        pairs = len(ordered) * (len(ordered) - 1) / 2
        sign = -1 if self.metric == "brier" else 1
        for tally in ordered[1:]:
            ours, theirs = ordered[0].values, tally.values
            losses = [sign * (ours[tag] - theirs[tag]) for tag in sorted(ours.keys() & theirs)]
            tally.loss = _mean_span(losses, _LEVEL / pairs)
        return ordered

    def _of_one_model(self) -> str:
        """Return the summary where no tag has runs of two models."""
        if not self.repeated:
            return "No tag has two evaluated runs that can be compared yet."
        tags = "1 tag" if self.repeated == 1 else f"{self.repeated:,} tags"
        undecided = self.repeated - self.ahead
        found = [f"on {self.ahead:,} one run is best"] if self.ahead else []
        found += [f"on {undecided:,} the difference may be noise"] if undecided else []
        return (
            f"No tag has evaluated runs of two models; runs of one model are compared on {tags}: "
            f"{', '.join(found)}."
        )

    def headline(self) -> str:
        """Return the summary in words."""
        ranking = self.ranking()
        if not self.compared:
            return self._of_one_model()
        winners = sorted((tally for tally in ranking if tally.best), key=lambda tally: -tally.best)
        text = _wins(winners, self.compared, self.undecided)
        second = next((tally for tally in ranking[1:] if tally.loss is not None), None)
        if second is None or second.loss is None:
            return text
        loss, (ahead, other) = second.loss, (ranking[0].model, second.model)
        if loss.low is None or loss.high is None:
            return text
        tags = len(ranking[0].values.keys() & second.values)
        low, value, high = loss.low, loss.value, loss.high
        if value < 0:  # the first by rank is not the first by the mean
            low, value, high, ahead, other = -high, -value, -low, other, ahead
        return (
            f"{text} Over {tags} tags {ahead} is ahead of {other} by {value:.3f} on average "
            f"({signed(low)} to {signed(high)}){'.' if low > 0 else ', which may be noise.'}"
        )


def signed(value: float) -> str:
    """Return a number with three decimals, and with a real minus sign."""
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _complete(keys: Iterable[tuple[RunKey, int]]) -> Runs:
    complete, tables = set(), {}
    for key, size in keys:
        if key.name == "metrics.json":
            complete.add(key.run)
        elif key.name == "test_predictions.csv":
            tables[key.run] = size
    return {run: tables.get(run, 0) for run in sorted(complete)}


def _each(
    items: Sequence[Item], work: Callable[[Item], Outcome]
) -> list[tuple[Item, Outcome | InputError]]:
    """Return what the work on each item gives, or why its input is none."""

    def attempt(item: Item) -> Outcome | InputError:
        try:
            return work(item)
        except InputError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(zip(items, pool.map(attempt, items), strict=True))


def _order(result: Result, metric: Metric) -> float:
    """Return what to sort a run by, before its table is read: less is better."""
    value = _evaluation(result).metrics.estimate(metric).value
    if value is None:
        return math.inf
    return value if metric == "brier" else -value


def _evaluation(result: Result) -> Evaluation:
    if result.evaluation is None:
        raise ValueError(f"{result.training.run} is not evaluated")
    return result.evaluation


def _affordable(evaluated: Sequence[str], runs: Runs) -> list[str]:
    """Return as many runs as are compared, from the first on."""
    total = 0
    for count, run in enumerate(evaluated):
        total += runs[run]
        if count == MAX_RUNS or (count and total > _MAX_TABLES):
            return list(evaluated[:count])
    return list(evaluated)


def _entries(
    found: Mapping[str, Result], tables: Mapping[str, Table], metric: Metric
) -> tuple[list[Entry], Exam | None]:
    """Return the entries of the runs that have tables, the best first, and what they share."""
    if not tables:
        return [], None
    exam, answers = _shared(tables)
    standings = dict(
        zip(answers, compare(exam, list(answers.values()), metric, seed=_SEED), strict=True)
    )
    ordered = sorted(
        (name for name in answers if standings[name].value is not None),
        key=lambda name: (_loss(standings[name]), name),
    )
    entries = []
    for number, name in enumerate(ordered):
        standing = standings[name]
        entries.append(
            Entry(
                found[name].training,
                _evaluation(found[name]),
                _value(standing, found[name], metric, tables[name], exam),
                standing.behind,
                "best" if number == 0 else "behind" if standing.apart else "tied",
                partial=exam.labels.size < tables[name].pictures.size,
            )
        )
    for name in sorted(tables.keys() - set(ordered)):
        few = "tested on other pictures: run imagetag evaluate again"
        reason = "nothing was called positive" if name in answers else few
        entries.append(_outside(found[name], metric, reason))
    return entries, exam


def _shared(tables: Mapping[str, Table]) -> tuple[Exam, dict[str, Answers]]:
    """Return the pictures that runs have in common, and what each of those runs says of them.

    Where not all have the same, it is what is left of the pictures that most runs have. A run that
    would leave less than half of them is not among the answers.
    """
    same: dict[bytes, list[str]] = {}
    for name, table in sorted(tables.items()):
        key = table.pictures.tobytes() + table.exam.labels.tobytes()
        same.setdefault(sha256(key).digest(), []).append(name)
    names = max(same.values(), key=lambda names: (len(names), tables[names[0]].pictures.size))
    base = tables[names[0]]
    size = base.pictures.size
    places: dict[str, Ints] = {}  # of each picture of the base in a run's table, -1 if nowhere
    for name, table in tables.items():
        _, ours, theirs = np.intersect1d(
            base.pictures, table.pictures, assume_unique=True, return_indices=True
        )
        # A label that was changed in between makes another question of the picture.
        agreed = base.exam.labels[ours] == table.exam.labels[theirs]
        places[name] = np.full(size, -1)
        places[name][ours[agreed]] = theirs[agreed]
    common = np.ones(size, np.bool_)
    chosen = []
    for name in sorted(places, key=lambda name: (-int((places[name] >= 0).sum()), name)):
        left = common & (places[name] >= 0)
        labels = base.exam.labels[left]
        if left.sum() >= _COMMON * size and labels.any() and not labels.all():
            common = left
            chosen.append(name)
    wanted = np.flatnonzero(common)
    return base.only(wanted).exam, {
        name: tables[name].only(places[name][wanted]).answers for name in sorted(chosen)
    }


def _loss(standing: Standing) -> float:
    return standing.behind.value if standing.behind else math.inf


def _value(
    standing: Standing, result: Result, metric: Metric, table: Table, exam: Exam
) -> Span | None:
    """Return a run's value; the interval is that of its own report if both are drawn at random.

    So it is the same on both pages, if they are of the same pictures.
    """
    found, told = standing.value, _evaluation(result).metrics.estimate(metric)
    if found is None or told.low is None or told.high is None:
        return found
    if metric not in RESAMPLED or exam.labels.size < table.pictures.size:
        return found
    return Span(found.value, min(told.low, found.value), max(told.high, found.value))


def _outside(result: Result, metric: Metric, reason: str) -> Entry:
    """Return the entry of a run that is not compared."""
    evaluation = _evaluation(result)
    told = evaluation.metrics.estimate(metric)
    value = None if told.value is None else Span(told.value, told.low, told.high)
    return Entry(result.training, evaluation, value, None, None, reason=reason)


def _ranks(values: Mapping[str, float], first: Collection[str]) -> dict[str, float]:
    """Return each model's rank: those that may be the best share the mean of theirs, equals too.

    Args:
        values: of each model, the greater the better.
        first: which of them may be the best.

    """
    rest = sorted(values.keys() - set(first), key=lambda model: -values[model])
    ties = [list(first)] + [list(equal) for _, equal in groupby(rest, key=values.__getitem__)]
    ranks: dict[str, float] = {}
    for equal in ties:
        before = len(ranks)
        ranks |= dict.fromkeys(equal, before + (len(equal) + 1) / 2)
    return ranks


def _mean_span(values: Sequence[float], level: float) -> Span | None:
    """Return the mean of some tags' values, and its interval by Student's t."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return Span(mean, None, None)
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    from scipy import special  # slow, and one run alone is not compared

    width = spread * float(special.stdtrit(len(values) - 1, 1 - level / 2))
    return Span(mean, max(-1.0, mean - width), min(1.0, mean + width))


def _wins(winners: Sequence[ModelTally], compared: int, undecided: int) -> str:
    """Return in words which models are best on how many of the compared tags."""
    if compared == 1:
        return (
            f"On the only tag that can be compared {winners[0].model} is best."
            if winners
            else "On the only tag that can be compared the difference may be noise."
        )
    if not winners:
        return f"On none of {compared} tags is one model best: the differences may be noise."
    text = f"On {winners[0].best} of {compared} tags {winners[0].model} is best"
    others = [f"on {tally.best} {tally.model}" for tally in winners[1:3]]
    more = sum(tally.best for tally in winners[3:])
    others += [f"on {more} others"] if more else []
    text = ", ".join([text, *others])
    return text + (f"; on {undecided} the difference may be noise." if undecided else ".")
