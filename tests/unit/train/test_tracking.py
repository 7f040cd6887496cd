"""Runs in MLflow, in a real store: each once, with what its training and its test said."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from imagetag import evaluate as evaluate_module
from imagetag import train as train_module
from imagetag.layout import Layout
from imagetag.storage.local import LocalStorage
from imagetag.train import tracking
from imagetag.train.tracking import log_evaluation, log_training
from jobs import evaluate as evaluate_job
from jobs import train as train_job
from tests.builders.evaluations import make_evaluation
from tests.builders.runs import make_run
from tests.secret_urls import SECRET, told_of

HISTORY = [{"epoch": float(epoch), "loss": 1 / epoch, "val_loss": 0.5} for epoch in (1, 2, 3)]
RUN = make_run(history=HISTORY)
EVALUATION = make_evaluation(tag=RUN.tag, run=RUN.run)


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in tracking._DEFAULTS.items():
        monkeypatch.setenv(name, value)  # and away again
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return str(tmp_path / "mlruns")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "data")
    storage.write(Layout(RUN.tag).run(RUN.run, "report.html"), b"<title>page</title>")
    return storage


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri: str) -> list[Any]:
    found = client(uri).get_experiment_by_name("imagetag")
    return list(client(uri).search_runs([found.experiment_id])) if found else []


def test_a_training_is_one_run_however_often_it_is_logged(uri: str) -> None:
    for _ in range(2):
        log_training(uri, RUN)
    [found] = runs(uri)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == f"{RUN.tag} {RUN.run}"
    assert found.data.tags["tag"] == RUN.tag
    assert found.data.params["epochs"] == "30"
    assert found.data.params["image_size"] == "224x160"
    assert found.data.metrics["best_epoch"] == 2
    assert found.data.metrics["best_val_precision"] == 0.98765
    losses = client(uri).get_metric_history(found.info.run_id, "loss")
    assert sorted((item.step, item.value) for item in losses) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    # The same name, trained anew, is another.
    log_training(uri, make_run(history=HISTORY, created="2026-02-02T00:00:00+00:00"))
    assert len(runs(uri)) == 2


def test_one_that_was_cut_off_is_completed(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise ConnectionError("cut off")

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(tracking._Tracked, "_parameters", cut)
        log_training(uri, RUN)
    assert [line["log_level"] for line in logs] == ["warning"]
    log_training(uri, RUN)
    [found] = runs(uri)
    assert found.data.params["epochs"] == "30"


def test_an_evaluation_goes_to_the_run_of_its_training(uri: str, storage: LocalStorage) -> None:
    log_training(uri, RUN)
    for _ in range(2):
        log_evaluation(uri, storage, RUN, EVALUATION)
    [found] = runs(uri)
    assert found.data.metrics["test_precision"] == EVALUATION.metrics.chosen.precision.value
    assert found.data.metrics["threshold"] == 0.5
    assert len(client(uri).get_metric_history(found.info.run_id, "test_precision")) == 1
    [page] = client(uri).list_artifacts(found.info.run_id)
    assert page.path == "report.html"


def test_an_evaluation_of_a_run_that_was_not_logged_logs_it_too(
    uri: str, storage: LocalStorage
) -> None:
    log_evaluation(uri, storage, RUN, EVALUATION)
    [found] = runs(uri)
    assert {"test_precision", "loss"} <= found.data.metrics.keys()


def test_a_server_that_does_not_answer_is_one_warning(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        with capture_logs() as logs:
            for _ in range(2):  # the next tag does not wait for its retries
                log_training(f"http://127.0.0.1:{closed.getsockname()[1]}", RUN)
    [line] = logs
    assert (line["event"], line["log_level"]) == ("not logged to MLflow", "warning")
    assert "\n" not in line["reason"]


@pytest.mark.parametrize("rest", ["me:hunterhushed@127.0.0.1:9", *SECRET])
def test_no_password_of_a_server_is_told(
    uri: str, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with capture_logs() as logs:
        log_training(f"http://{rest}".replace("bucket.", "127."), RUN)
    assert [line["event"] for line in logs] == ["not logged to MLflow"]
    assert not told_of(str(logs))


def test_the_jobs_log_what_they_have_made(
    uri: str, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "train_tag", lambda *_, **__: RUN)
    monkeypatch.setattr(evaluate_module, "evaluate_tag", lambda *_, **__: EVALUATION)
    layout = Layout(RUN.tag)
    storage.write(layout.dataset, b"{}")  # what the jobs ask for before they begin
    storage.write(layout.run(RUN.run, "metrics.json"), RUN.model_dump_json().encode())
    storage.write(layout.latest, RUN.run.encode())
    options = ["--storage", storage.url, "--tags", RUN.tag, "--mlflow", uri]
    assert train_job.main([*options, "--image-size", "224x224"]) == 0
    [found] = runs(uri)
    assert "loss" in found.data.metrics
    assert "test_precision" not in found.data.metrics
    assert evaluate_job.main(options) == 0
    [found] = runs(uri)
    assert "test_precision" in found.data.metrics


@pytest.mark.parametrize("job", [train_job, evaluate_job])
def test_without_the_library_it_is_one_line_before_all_else(
    job: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "mlflow" else real(name, *a)
    )
    options = ["--storage", "data", "--tags", "fox", "--log-format", "json"]
    assert job.main([*options, "--mlflow", "http://mlflow.example"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "image-tag-classification[mlflow]" in line
