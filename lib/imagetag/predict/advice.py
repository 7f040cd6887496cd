"""What the pictures that were predicted tell of tags: how many have them, and what calls are worth.

No labels are needed for it: `stats.shift` tells it from the probabilities, beside those of the
pictures that evaluate has stored with the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagetag.errors import ImagetagError, one_line
from imagetag.log import get_logger
from imagetag.parallel import map_ahead
from imagetag.predict.judge import DIGITS, judge_of
from imagetag.predict.writers import Answers
from imagetag.runs import Run, load_decision, load_scores
from imagetag.stats import Shift, Tried, estimate_shift
from imagetag.storage import Storage

LEAST_PICTURES = 100
_MOST_PICTURES = 20_000  # that are kept to tell it from; of more, a random sample
_MOST_NUMBERS = 2_000_000  # of all tags together
_AT_ONCE = {"threads": 8, "ahead": 16}


class Advisor:
    """Keeps a sample of what was told of pictures, and gives advice on their tags.

    Args:
        storage: has the runs.
        runs: one of each tag.
        threshold: the least probability of a positive; None for what evaluate has decided.

    """

    def __init__(self, storage: Storage, runs: Sequence[Run], threshold: float | None) -> None:
        self._storage, self._runs, self._threshold = storage, runs, threshold
        self._most = min(_MOST_PICTURES, max(LEAST_PICTURES, _MOST_NUMBERS // len(runs)))
        self._random = np.random.default_rng(0)
        self._seen = 0
        self._kept: list[NDArray[np.float64]] = []

    def watch(self, pictures: Iterator[Answers]) -> Iterator[Answers]:
        """Yield the same again, and look at each; those that could not be read tell nothing."""
        for answers in pictures:
            if answers.error is None:
                self._look(answers)
            yield answers

    def _look(self, answers: Answers) -> None:
        self._seen += 1
        place = len(self._kept)
        if place == self._most:  # Algorithm R: each picture so far is kept with the same chance
            place = int(self._random.integers(self._seen))
            if place >= self._most:
                return
        else:
            self._kept.append(np.empty(0))
        self._kept[place] = np.array(answers.probabilities, np.float64)  # None is no number

    def advice(self) -> dict[str, dict[str, Any]]:
        """Return what is estimated of each tag, as `Shift` has it.

        It is nothing of few pictures, and of a tag without a decision. What evaluate has stored may
        be damaged, or gone: that is told, and no error.
        """
        if self._seen < LEAST_PICTURES:
            get_logger().debug("too few images to estimate more", images=self._seen)
            return {}
        columns = dict(zip((run.tag for run in self._runs), np.stack(self._kept).T, strict=True))

        def tried(run: Run) -> tuple[Tried, float | None] | ImagetagError | None:
            try:
                return self._tried(run)
            except ImagetagError as error:
                return error

        found = {}
        for run, known in map_ahead(tried, self._runs, **_AT_ONCE):
            try:
                if isinstance(known, ImagetagError):
                    raise known
                shift = known and self._shift(columns[run.tag], *known)
            except (ImagetagError, ValueError) as error:
                get_logger().warning(
                    "no advice on what these images have", tag=run.tag, reason=one_line(error)
                )
            else:
                if shift:
                    found[run.tag] = shift.model_dump()
        return found

    def _tried(self, run: Run) -> tuple[Tried, float | None] | None:
        """Return the pictures that evaluate has judged a run by, and the precision it was for."""
        decision = load_decision(self._storage, run.tag, run.run, run.created)
        if decision is None:
            return None
        scores = [
            score
            for part in ("threshold", "test")
            for score in load_scores(self._storage, run.tag, run.run, part)
        ]
        judge = judge_of(decision, self._threshold)
        logits = np.array([score.logit for score in scores], np.float64)
        tried = Tried(
            labels=np.array([score.label == "positive" for score in scores], np.bool_),
            scores=judge.probability(logits).round(DIGITS),
            called=judge.positive(logits),
            groups=[score.group for score in scores],
            chose=np.array([score.part == "threshold" for score in scores], np.bool_),
        )
        return tried, decision.promise.min_precision if decision.promise else None

    def _shift(
        self, column: NDArray[np.float64], tried: Tried, wanted: float | None
    ) -> Shift | None:
        column = column[~np.isnan(column)]
        if column.size < LEAST_PICTURES:
            return None
        shift = estimate_shift(tried, column, wanted)
        # The sample stands for all of them.
        images = self._seen if len(self._kept) < self._seen else column.size
        return shift.model_copy(update={"images": images})
