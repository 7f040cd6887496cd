"""The leaderboard as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from imagetag import __version__
from imagetag.layout import Layout
from imagetag.report.model_ranking import ModelTally, Summary
from imagetag.report.tag_ranking import Entry, TagRanking, verdict
from imagetag.stats import Metric


class LeaderboardJson:
    """Writes the leaderboard as JSON, a line a tag."""

    def __init__(self, stream: TextIO, metric: Metric) -> None:
        self._stream = stream
        self._first = True
        stream.write(f'{{"version": 1, "metric": {json.dumps(metric)}, "tags": [\n')

    def add(self, ranking: TagRanking) -> None:
        """Write a tag's runs."""
        self._stream.write(("" if self._first else ",\n") + _dumps(_tag_json(ranking)))
        self._first = False

    def end(self, summary: Summary, models: Sequence[ModelTally], headline: str) -> None:
        """Write what there is over all tags."""
        rest = {
            "models": [_model_json(tally) for tally in models],
            "compared": summary.compared,
            "undecided": summary.undecided,
            "headline": headline,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "software": f"imagetag {__version__}",
        }
        self._stream.write("\n], " + _dumps(rest)[1:] + "\n")


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _tag_json(ranking: TagRanking) -> dict[str, Any]:
    return {
        "tag": ranking.tag,
        "verdict": verdict(ranking)[1],
        "winner": ranking.winner,
        "cautions": ranking.cautions,
        "pictures": {
            "positives": ranking.positives,
            "negatives": ranking.negatives,
            "groups": ranking.groups,
        },
        "runs": [_entry_json(entry) for entry in ranking.entries],
        "not_evaluated": [vars(missing) for missing in ranking.not_evaluated],
        "damaged": [vars(missing) for missing in ranking.damaged],
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    training, evaluation = entry.training, entry.evaluation
    metrics, promise = evaluation.metrics, evaluation.decision.promise
    chosen = metrics.chosen
    return {
        "run": training.run,
        "model": training.model,
        "place": entry.place,
        "value": entry.value and vars(entry.value),
        "behind": entry.behind and vars(entry.behind),
        "common_pictures_only": entry.partial,
        "not_compared": entry.reason or None,
        "pictures": metrics.positives + metrics.negatives,
        "precision": chosen.precision.model_dump(),
        "recall": chosen.recall.model_dump(),
        "f1": chosen.f1.model_dump(),
        "accuracy": chosen.accuracy.model_dump(),
        "average_precision": metrics.average_precision.model_dump(),
        "roc_auc": metrics.roc_auc.model_dump(),
        "brier": metrics.brier.model_dump(),
        "threshold": chosen.threshold,
        "promise": promise and {**promise.model_dump(), "outcome": entry.kept},
        "audit": entry.audit and entry.audit.model_dump(mode="json"),
        "seconds": training.seconds,
        "parameters": training.parameters,
        "image_size": training.image_size,
        "trained": training.created,
        "evaluated": evaluation.created,
        "report": Layout(training.tag).run(training.run, "report.html"),
    }


def _model_json(tally: ModelTally) -> dict[str, Any]:
    return {
        "model": tally.model,
        "tags": tally.tags,
        "best": tally.best,
        "tied": tally.tied,
        "behind": tally.behind,
        "mean_rank": tally.mean_rank,
        "mean": tally.mean,
        "behind_the_first": tally.loss and vars(tally.loss),
    }
