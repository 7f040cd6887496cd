"""What a job has done: its last line, its record in storage, and its metrics for Prometheus."""

from __future__ import annotations

import json
import re
import threading
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from imagetag.counters import Counters, counters
from imagetag.errors import InputError
from imagetag.job.heartbeat import Heartbeats
from imagetag.job.job import for_each_tag, run_job
from imagetag.job.job_record import JobRecord
from imagetag.job.metrics import Exporter, told_apart_by
from imagetag.job.settings import TagSettings
from imagetag.log import Progress, working
from imagetag.status import Overview
from imagetag.storage.opening import open_storage
from jobs.scrape import main as scrape
from tests.ended import log_lines
from tests.predicting import noise
from tests.secret_urls import SECRET, told_of

OF_ALL = ("command", "shard", "storage", "board", "namespace")
MONITORING = Path(__file__).parents[3] / "k8s" / "monitoring"
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]


def job(folder: Path, *options: str, tags: str = "a,b") -> int:
    """Run a job that stores 100 bytes for each tag but `bad`, and reads them again."""
    storage = open_storage(str(folder))
    storage.write("there", b"")

    def one(tag: str) -> None:
        with Progress("sync", total=4) as progress:
            progress.skip(1)
            progress.advance(3)
            storage.write("key", bytes(100))
            storage.read("key")
        if tag == "bad":
            raise InputError("no such posts")
        with working("fitting"):
            counters().move("fetched", 7)
            counters().request()

    def work(settings: TagSettings) -> None:
        for_each_tag(settings, one, Heartbeats(storage, "train", grace=100))

    given = ["--storage", str(folder), "--tags", tags, "--log-format", "json", *options]
    return run_job("train", "", TagSettings, work, given)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return what a scrape of metrics has, by name and the values of the labels but job's."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [v for k, v in sorted(sample.labels.items()) if k not in OF_ALL]
            found[sample.name, *labels] = sample.value
    return found


def test_the_last_line_and_the_record_tell_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(tmp_path / "s") == 0
    last = log_lines(capsys.readouterr().err, summary=True)[-1]
    assert (last["event"], last["exit_code"]) == ("ended", 0)
    told = last["summary"]
    assert (told["tags"], told["requests"], told["fetched_bytes"]) == ({"done": 2}, 2, 14)
    sync = told["stages"]["sync"]
    assert (sync["images"], sync["read_bytes"], sync["written_bytes"]) == (6, 200, 200)
    assert told["stages"]["fitting"]["fetched_bytes"] == 14
    assert told["seconds"] >= sync["seconds"] >= 0
    [record], left = Overview(open_storage(str(tmp_path / "s"))).jobs()
    assert left == 0
    assert (record.job, record.shard, record.exit_code) == ("train", 0, 0)
    assert record.summary["stages"] == told["stages"]


def test_what_took_less_than_a_millisecond_has_its_seconds_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    counts = Counters()
    with counts.stage("sync", "images"):
        counts.advance("sync", done=3)
    assert counts.read().summary()["stages"] == {"sync": {"seconds": 0.0, "images": 3}}


def test_a_job_that_fails_tells_it_in_its_last_line_and_another_run_replaces_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(tmp_path / "s", tags="a,bad") == 3
    last = log_lines(capsys.readouterr().err, summary=True)[-1]
    assert last["event"] == "1 of 2 tags failed: bad"
    assert last["summary"]["tags"] == {"done": 1, "failed": 1}
    path = tmp_path / "s" / ".status" / ".jobs" / "train-0.json"
    assert JobRecord.model_validate_json(path.read_text()).exit_code == 3
    assert job(tmp_path / "s") == 0
    assert JobRecord.model_validate_json(path.read_text()).exit_code == 0
    assert len(list(path.parent.iterdir())) == 1


def test_a_file_has_metrics_that_prometheus_reads(tmp_path: Path) -> None:
    file = tmp_path / "imagetag.prom"
    assert job(tmp_path / "s", "--metrics-file", str(file), tags="a,bad") == 3
    found = samples(file.read_text())
    assert found["imagetag_job_exit_code",] == 3
    assert found["imagetag_tags_total", "failed"] == 1
    assert found["imagetag_stage_items_total", "done", "sync", "images"] == 6
    assert found["imagetag_stage_bytes_total", "written", "sync"] == 200
    assert found["imagetag_job_requests_total",] == 1
    assert list(tmp_path.glob("*.prom*")) == [file], "what was half written is left"


def test_a_real_scrape_exports_the_stage_that_the_rules_look_at(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "set" / ("fox" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(number))
    (tmp_path / "set" / "fox" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    file = tmp_path / "imagetag.prom"
    given = ["--storage", str(tmp_path / "s"), "--tags", "fox", "--metrics-file", str(file)]
    assert scrape([*given, "--board", f"folder+{tmp_path / 'set'}", "--min-side", "1"]) == 0
    found = samples(file.read_text())
    assert found["imagetag_stage_items_total", "done", "collect", "images"] == 12
    assert found["imagetag_stage_items_total", "failed", "collect", "images"] == 1
    assert found["imagetag_stage_bytes_total", "written", "collect"] > 1000


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server on loopback: its URL, and the path and body of each request."""
    got: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, body.decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def test_a_push_gateway_gets_them(
    tmp_path: Path, gateway: tuple[str, list[tuple[str, str]]]
) -> None:
    url, got = gateway
    assert (
        job(tmp_path / "s", "--metrics-push", url, "--shard-index", "1", "--shard-count", "2") == 0
    )
    path, body = got[-1]
    assert group_of(path) == {
        "job": "imagetag_train",
        "instance": "1",
        "storage": str(tmp_path / "s"),
    }
    assert samples(body)["imagetag_tags_total", "done"] == 1
    assert samples(body)["imagetag_job_exit_code",] == 0
    # A gateway puts each in the place of all that it had: while a job works it has no exit code.
    assert all(("imagetag_job_exit_code",) not in samples(early) for _, early in got[:-1])
    assert len(got) > 1


def group_of(path: str) -> dict[str, str]:
    """Return the group of a push gateway that a path names."""
    parts = [unquote_plus(part) for part in path.removeprefix("/metrics/").split("/")]
    group = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        coded = name.endswith("@base64")
        group[name.removesuffix("@base64")] = urlsafe_b64decode(value).decode() if coded else value
    return group


def test_jobs_of_a_name_at_other_places_do_not_replace_each_other(
    tmp_path: Path,
    gateway: tuple[str, list[tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, got = gateway
    places = [
        ("ns", "s3://bucket/a", "safebooru"),
        ("other", "s3://bucket/a", "safebooru"),
        ("ns", "s3://bucket/b/", "safebooru"),
        ("ns", "s3://bucket/a", "danbooru+https://board.example/"),
        ("", "data ünd \udcff", ""),
    ]
    monkeypatch.chdir(tmp_path)
    for namespace, storage, board in places * 2:
        monkeypatch.setenv("POD_NAMESPACE", namespace)
        exporter = Exporter("scrape", 2, told_apart_by(storage, board), counters(), "", url)
        exporter.begin()
        exporter.end(0)
    groups = {path: group_of(path) for path, _ in got}
    common = {"job": "imagetag_scrape", "instance": "2"}
    assert list(groups.values()) == [
        common | {"storage": "s3://bucket/a", "board": "safebooru", "namespace": "ns"},
        common | {"storage": "s3://bucket/a", "board": "safebooru", "namespace": "other"},
        common | {"storage": "s3://bucket/b", "board": "safebooru", "namespace": "ns"},
        common
        | {
            "storage": "s3://bucket/a",
            "board": "danbooru+https://board.example",
            "namespace": "ns",
        },
        common | {"storage": f"{tmp_path}/data ünd ?"},
    ]
    for path, body in got:
        (sample,) = next(iter(text_string_to_metric_families(body))).samples
        labels = {
            k: v for k, v in sample.labels.items() if k not in ("command", "shard", "version")
        }
        assert common | labels == groups[path], "a gateway puts the group's in the metrics' place"


@pytest.mark.parametrize(
    "url", [f"{scheme}{rest}" for rest in SECRET for scheme in ("s3://", "S3:")]
)
def test_no_password_is_in_a_label_or_in_the_log(
    tmp_path: Path,
    gateway: tuple[str, list[tuple[str, str]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    push, got = gateway
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "fox").mkdir(parents=True)
    (tmp_path / "set" / "fox" / "1.png").write_bytes(noise(1))
    file = tmp_path / "imagetag.prom"
    metrics = ["--metrics-file", str(file), "--metrics-push", push, "--tags", "fox"]

    def told() -> str:
        groups = "".join(str(group_of(path)) + body for path, body in got)
        return capsys.readouterr().err + file.read_text() + groups

    assert scrape([*metrics, "--storage", url, "--board", "folder+set"]) == 2
    assert not told_of(told())
    https = f"https{url[2:]}"
    for board in (url, https, f"danbooru+{https}", f"folder+{url}", f"links+{url}", f"x+{url}"):
        got.clear()
        assert scrape([*metrics, "--storage", str(tmp_path / "s"), "--board", board]) == 2
        assert not told_of(told())
    assert job(tmp_path / "s", "--metrics-push", https) == 2
    assert not told_of(told())


def test_what_cannot_be_pushed_is_told_once_and_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = "http://127.0.0.1:9"
    file = tmp_path / "none" / "imagetag.prom"
    given = ["--metrics-push", nowhere, "--metrics-file", str(file)]
    assert job(tmp_path / "s", *given) == 0
    events = [line["event"] for line in log_lines(capsys.readouterr().err)]
    assert events.count("metrics are not exported") == 1


def test_without_the_library_or_a_url_it_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job(tmp_path / "s", "--metrics-push", "gateway:9091") == 2
    assert "take a push gateway's" in capsys.readouterr().err
    for url in ("http://[", "http://a:b", "http://"):
        assert job(tmp_path / "s", "--metrics-push", url) == 2
    for url in ("http://me:secret@gateway:9091", "https://me:secret@gateway", "//a:secret@["):
        capsys.readouterr()
        assert job(tmp_path / "s", "--metrics-push", url) == 2
        assert "secret" not in capsys.readouterr().err
    monkeypatch.setattr("imagetag.job.metrics.importlib.util.find_spec", lambda _: None)
    assert job(tmp_path / "s", "--metrics-file", "x.prom") == 2
    assert "install image-tag-classification[metrics]" in capsys.readouterr().err
    assert job(tmp_path / "s") == 0, "it is needed where nobody asks for metrics"


def test_rules_and_the_dashboard_name_what_jobs_export(tmp_path: Path) -> None:
    file = tmp_path / "imagetag.prom"
    assert job(tmp_path / "s", "--metrics-file", str(file)) == 0
    exported = {name for name, *_ in samples(file.read_text())}
    assert all({"alert", "expr", "annotations"} <= rule.keys() for rule in RULES)
    board = json.loads((MONITORING / "dashboard.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    shown += [item["query"] for item in board["templating"]["list"]]
    for expression in [rule["expr"] for rule in RULES] + shown:
        assert set(re.findall(r"imagetag_\w+", expression)) <= exported, expression
        assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_keeps_the_labels_that_tell_jobs_apart(rule: dict[str, Any]) -> None:
    assert not lost_labels(rule["expr"])


@pytest.mark.parametrize(
    ("expression", "lost"),
    [
        ("sum by (command, shard, storage, namespace) (x)", {"board"}),
        ("a unless on (command, shard) b", {"storage", "board", "namespace"}),
        ("sum without (stage, board) (x)", {"board"}),
        ("a > ignoring (result,shard) b", {"shard"}),
        ("max(x)", set(OF_ALL)),
        ("sum without (stage) (rate(x[5m])) > ignoring (result) 2 * y", set()),
    ],
)
def test_labels_that_an_expression_loses_are_seen(expression: str, lost: set[str]) -> None:
    assert lost_labels(expression) == lost


def lost_labels(expression: str) -> set[str]:
    """Return which labels that tell jobs apart an expression adds up over, or does not compare."""
    lost = set(OF_ALL) if re.search(r"\b(?:sum|min|max|avg|count)\s*\(", expression) else set()
    for how, listed in re.findall(r"\b(by|on|without|ignoring)\s*\(([^)]*)\)", expression):
        labels = {label.strip() for label in listed.split(",")}
        lost |= set(OF_ALL) - labels if how in ("by", "on") else set(OF_ALL) & labels
    return lost
