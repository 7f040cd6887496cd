"""Runs in MLflow, for `--mlflow`: what a training was of and how it went, and what its test said.

Each trained model is one MLflow run, which is found again by a tag of its own: whatever is logged
once more, by a job that was repeated or by evaluate after train, goes to the same run, or is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import requests

from imagetag.checks import shown_url
from imagetag.errors import one_line
from imagetag.layout import Layout
from imagetag.log import get_logger
from imagetag.runs import Evaluation, Run
from imagetag.storage import Storage

_EXPERIMENT = "imagetag"
_MODEL = "imagetag.model"  # the tag that stands for a trained model
_TRAINED, _EVALUATED = "imagetag.trained", "imagetag.evaluated"  # set when all of it is logged
_MAX_VALUE = 500  # characters of a parameter
_BATCH = 100  # numbers or parameters a request
_DEFAULTS = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder of one's own is a good place
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What does not answer is given up soon: a GPU waits.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


def log_training(uri: str, run: Run) -> None:
    """Log a complete run to MLflow, if it is not there yet.

    A server that cannot be reached or refuses is one warning: nothing that is trained is lost.
    """
    _try(uri, lambda tracked: tracked.train(run))


def log_evaluation(uri: str, storage: Storage, run: Run, evaluation: Evaluation) -> None:
    """Log an evaluation with its page to MLflow, and the run itself if it is not there yet.

    What goes wrong is one warning, as of `log_training`.
    """
    page = Layout(run.tag).run(run.run, "report.html")
    _try(uri, lambda tracked: tracked.evaluate(run, evaluation, storage, page))


_silent: set[str] = set()  # servers that did not answer: their retries would hold up each tag


def _try(uri: str, work: Callable[[_Tracked], object]) -> None:
    if uri in _silent:
        return
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        work(_Tracked(uri))
    except Exception as error:  # whatever its client and the server raise
        more = {}
        if _no_answer(error):
            _silent.add(uri)
            more = {"advice": "nor is what follows in this job; evaluate logs it, run again"}
        shown = shown_url(uri)
        # The texts of its client have the URL in them, or pieces of it.
        reason = one_line(error, 300) if shown == uri else type(error).__name__
        get_logger().warning("not logged to MLflow", uri=shown, reason=reason, **more)


def _no_answer(error: BaseException | None) -> bool:
    """Tell whether an error is of a server that cannot be reached."""
    while error is not None:
        if isinstance(error, requests.ConnectionError | requests.Timeout):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Tracked:
    """A tracking server, or a folder that stands for one."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient  # seconds to import: only for those who log

        self._uri, self._client = uri, MlflowClient(tracking_uri=uri)

    def train(self, run: Run) -> str:
        """Log a run; returns its id in MLflow."""
        found = self._run(run)
        run_id = str(found.info.run_id)
        if _TRAINED in found.data.tags:
            return run_id
        when = _milliseconds(run.created)
        self._numbers(run_id, _epochs(run), when)
        best = ((f"best_{name}", value, 0) for name, value in _best(run).items())
        self._numbers(run_id, best, when)
        self._parameters(run_id, {**run.settings, **_facts(run)})
        self._client.set_tag(run_id, _TRAINED, run.created)
        get_logger().info("logged to MLflow", uri=shown_url(self._uri), mlflow_run=run_id)
        return run_id

    def evaluate(self, run: Run, evaluation: Evaluation, storage: Storage, page: str) -> None:
        """Log an evaluation."""
        run_id = self.train(run)
        if self._run(run).data.tags.get(_EVALUATED) == evaluation.created:
            return
        tested = ((name, value, 0) for name, value in _tested(evaluation).items())
        self._numbers(run_id, tested, _milliseconds(evaluation.created))
        self._client.log_text(run_id, storage.read(page).decode(), "report.html")
        self._client.set_tag(run_id, _EVALUATED, evaluation.created)
        get_logger().info(
            "evaluation logged to MLflow", uri=shown_url(self._uri), mlflow_run=run_id
        )

    def _run(self, run: Run) -> Any:
        """Return the MLflow run of a trained model; made, if there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        model = hashlib.sha256(json.dumps([run.tag, run.run, run.created]).encode()).hexdigest()
        found = self._client.search_runs([number], f"tags.`{_MODEL}` = '{model}'", max_results=1)
        if found:
            return found[0]
        tags = {_MODEL: model, "tag": run.tag, "run": run.run}
        made = self._client.create_run(number, tags=tags, run_name=f"{run.tag} {run.run}")
        self._client.set_terminated(made.info.run_id)
        return self._client.get_run(made.info.run_id)

    def _numbers(self, run_id: str, numbers: Iterator[tuple[str, float, int]], when: int) -> None:
        """Log numbers with their steps; at one moment, so that again they are the same."""
        from mlflow.entities import Metric

        some = [Metric(name, value, when, step) for name, value, step in numbers]
        for first in range(0, len(some), _BATCH):
            self._client.log_batch(run_id, metrics=some[first : first + _BATCH])

    def _parameters(self, run_id: str, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        some = [Param(name, str(value)[:_MAX_VALUE]) for name, value in values.items()]
        for first in range(0, len(some), _BATCH):
            self._client.log_batch(run_id, params=some[first : first + _BATCH])


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _epochs(run: Run) -> Iterator[tuple[str, float, int]]:
    for row in run.history:
        for name, value in row.items():
            if name != "epoch":
                yield name, value, int(row["epoch"])


def _best(run: Run) -> dict[str, float]:
    """Return the best epoch, and its metrics of the validation images."""
    best = {f"val_{name}": value for name, value in run.validation.items()}
    return {"epoch": run.best_epoch, **best}


def _facts(run: Run) -> dict[str, object]:
    height, width = run.image_size
    return {
        "image_size": f"{height}x{width}",
        "seed": run.seed,
        "fingerprint": run.fingerprint,
        "parameters": run.parameters,
        "global_batch": run.global_batch,
        "replicas": run.replicas,
        "seconds": run.seconds,
        **{f"version_{name}": version for name, version in run.versions.items()},
    }


def _tested(evaluation: Evaluation) -> dict[str, float]:
    """Return what the test split says, where it says something."""
    metrics, chosen = evaluation.metrics, evaluation.metrics.chosen
    estimates = {
        "precision": chosen.precision,
        "recall": chosen.recall,
        "f1": chosen.f1,
        "accuracy": chosen.accuracy,
        "average_precision": metrics.average_precision,
        "roc_auc": metrics.roc_auc,
        "brier": metrics.brier,
    }
    found = {
        f"test_{name}": value
        for name, value in ((name, item.value) for name, item in estimates.items())
        if value is not None
    }
    return {**found, "threshold": chosen.threshold}
