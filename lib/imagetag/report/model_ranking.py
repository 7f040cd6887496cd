"""How models stand over many tags, each by its best run of a tag."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from imagetag.report.tag_ranking import TagRanking
from imagetag.stats import Metric, Span

_MAX_MODELS = 50  # that are compared over all tags
_LEVEL = 0.05


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

    def add(self, found: TagRanking) -> None:
        """Count a tag's runs."""
        self.tags += 1
        self.evaluated += len(found.entries)
        self.runs += len(found.entries) + len(found.not_evaluated) + len(found.damaged)
        if len(found.models) < 2:
            self.repeated += len(found.compared) > 1
            self.ahead += len(found.compared) > 1 and len(found.first) == 1
            return
        self.compared += 1
        winner = found.winner
        self.undecided += winner is None
        first = {entry.training.model for entry in found.first}
        values: dict[str, float] = {}
        for entry in found.compared:
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
