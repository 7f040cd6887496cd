"""How the runs of a tag stand beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
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
from imagetag.verdicts import AuditResult, audits_of, load_audits

MAX_RUNS = 50  # of a tag that are compared
_MAX_TABLES = 512 << 20  # bytes of all tables of a tag: they are held at once
_THREADS = 8  # files read at once
_COMMON = 0.5  # of the pictures that most runs have: with fewer, a run is not compared
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
    runs have. Where that is only a part of its own, `partial` is True. `audit` is the newest of the
    run's predictions that came to an end, or the newest of all.
    """

    training: Training
    evaluation: Evaluation
    value: Span | None
    behind: Span | None
    place: Place | None
    partial: bool = False
    reason: str = ""
    audit: AuditResult | None = None

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
class TagRanking:
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


def rank_runs(storage: Storage, tag: str, runs: Runs, metric: Metric) -> TagRanking:
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
    audits = load_audits(storage, tag) if entries else []
    return TagRanking(
        tag,
        [_with_audit(entry, audits) for entry in entries],
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


def _with_audit(entry: Entry, audits: Sequence[AuditResult]) -> Entry:
    training = entry.training
    found = audits_of(audits, training.run, training.created)
    return replace(entry, audit=found[0]) if found else entry


def verdict(ranking: TagRanking) -> tuple[str, str]:
    """Return what came out for a tag, as a kind (clear, noise, single) and in words."""
    compared, first = ranking.compared, ranking.first
    models = list(dict.fromkeys(entry.training.model for entry in first))
    if not ranking.entries:
        return "single", "no run is evaluated"
    if len(compared) < 2:
        return "single", (
            f"one run to look at: {compared[0].training.model}"
            if compared
            else "no run can be compared"
        )
    if ranking.winner and len(first) == 1:
        return "clear", f"{ranking.winner} is best"
    if ranking.winner:
        return "clear", f"{ranking.winner} is best; {len(first)} of its runs cannot be told apart"
    if len(models) > 1:
        return "noise", f"{_listed(models)} cannot be told apart"
    if len(first) == 1:
        return "clear", f"{first[0].training.run} is the best run of {models[0]}"
    return "noise", f"{len(first)} runs of {models[0]} cannot be told apart"


def _listed(names: Sequence[str]) -> str:
    """Return names in words, four at the most."""
    shown = list(names) if len(names) <= 4 else [*names[:3], f"{len(names) - 3} others"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]])


def _cautions(storage: Storage, tag: str, held_out: HeldOut | None) -> tuple[str, ...]:
    try:
        return read_cautions(storage, load_dataset(storage, tag), held_out)
    except InputError as error:  # its runs may outlive it
        get_logger().debug("no dataset to be cautious of", tag=tag, reason=str(error))
        return ()


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
    told = all(_is_told(found[name], metric, tables[name], exam) for name in answers)
    compared = compare(exam, list(answers.values()), metric, seed=_SEED, intervals=not told)
    standings = dict(zip(answers, compared, strict=True))
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
    if found is None or not _is_told(result, metric, table, exam):
        return found
    assert told.low is not None  # noqa: S101 - as it is told
    assert told.high is not None  # noqa: S101
    return Span(found.value, min(told.low, found.value), max(told.high, found.value))


def _is_told(result: Result, metric: Metric, table: Table, exam: Exam) -> bool:
    """Tell whether a run's own report has the interval of its value, of the same pictures."""
    told = _evaluation(result).metrics.estimate(metric)
    known = told.low is not None and told.high is not None
    return known and metric in RESAMPLED and exam.labels.size == table.pictures.size


def _outside(result: Result, metric: Metric, reason: str) -> Entry:
    """Return the entry of a run that is not compared."""
    evaluation = _evaluation(result)
    told = evaluation.metrics.estimate(metric)
    value = None if told.value is None else Span(told.value, told.low, told.high)
    return Entry(result.training, evaluation, value, None, None, reason=reason)
