"""The rules and the dashboard, by a real Prometheus on what real jobs tell a real push gateway."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagetag.counters import counters
from imagetag.job import Heartbeats, TagSettings, for_each_tag, run_job
from imagetag.storage import open_storage
from jobs.scrape import main as scrape
from tests.predicting import noise

MONITORING = Path(__file__).parents[2] / "k8s" / "monitoring"
ALERTS = MONITORING / "alerts.yaml"
NAMES = {
    rule["alert"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
}
PROGRAMS = ("prometheus", "promtool", "prometheus-pushgateway")
PATIENCE = 60.0  # seconds

pytestmark = pytest.mark.skipif(
    any(not shutil.which(name) for name in PROGRAMS),
    reason="SKIPPED: no rule is tried, as prometheus or prometheus-pushgateway is not installed",
)


# --- The rules, in a time of their own ---------------------------------------------------------

# What each alert is of: series, and values by the minute ("0+6x60": 60 steps of 6, "_": nothing),
# and when it tells and when it does not.
_JOB = 'command="scrape", shard="1", instance="a"'
_ITEMS = 'imagetag_stage_items_total{{stage="{}", result="{}", unit="images"}}'
_DONE, _FAILED = _ITEMS.format("collect", "done"), _ITEMS.format("collect", "failed")
_CURATED = _ITEMS.format("curate", "done")
STORIES: dict[str, tuple[Mapping[str, str], int, bool]] = {
    "ImagetagJobFailed, of wrong input": ({"imagetag_job_exit_code": "3x10"}, 5, True),
    "ImagetagJobFailed, not of a full disk": ({"imagetag_job_exit_code": "75x10"}, 5, False),
    "ImagetagJobFailed, not of success": ({"imagetag_job_exit_code": "0x10"}, 5, False),
    "ImagetagJobSilent, as it was killed": (
        {"imagetag_job_updated_timestamp_seconds": "0+60x3 180x20"},
        10,
        True,
    ),
    "ImagetagJobSilent, not while it tells": (
        {"imagetag_job_updated_timestamp_seconds": "0+60x30"},
        10,
        False,
    ),
    "ImagetagJobSilent, not when it has ended": (
        {
            "imagetag_job_updated_timestamp_seconds": "0+60x3 180x20",
            "imagetag_job_exit_code": "_ _ _ 0x20",
        },
        10,
        False,
    ),
    "ImagetagJobStuck, in one stage and in the other": (
        {
            "imagetag_job_started_timestamp_seconds": "0x200",
            _DONE: "0+6x20 126x200",
            _CURATED: "9x200",
        },
        120,
        True,
    ),
    "ImagetagJobStuck, not where one stage goes on": (
        {
            "imagetag_job_started_timestamp_seconds": "0x200",
            _DONE: "0+6x200",
            _CURATED: "9x200",
        },
        120,
        False,
    ),
    "ImagetagJobStuck, not when it has ended": (
        {
            "imagetag_job_started_timestamp_seconds": "0x200",
            _DONE: "9x200",
            "imagetag_job_exit_code": "0x200",
        },
        120,
        False,
    ),
    "ImagetagTagsFailed": ({'imagetag_tags_total{result="failed"}': "0 2x9"}, 5, True),
    "ImagetagTagsFailed, not where all are done": (
        {
            'imagetag_tags_total{result="done"}': "9x9",
            'imagetag_tags_total{result="failed"}': "0x9",
        },
        5,
        False,
    ),
    "ImagetagBoardFails": (
        {
            _DONE: "0+10x60",
            _FAILED: "0+2x60",
        },
        30,
        True,
    ),
    "ImagetagBoardFails, not of one in twenty": (
        {
            _DONE: "0+20x60",
            _FAILED: "0+1x60",
        },
        30,
        False,
    ),
}


def told(title: str, series: Mapping[str, str], minute: int, fires: bool) -> dict[str, Any]:
    """Return a test as promtool reads it: the alert is there in that minute, or it is not."""
    name = re.match(r"\w+", title)
    assert name
    labels = (key.rstrip("}").partition("{") for key in series)
    firing = f'ALERTS{{alertname="{name[0]}", alertstate="firing", {_JOB}}}'
    full = [f"{metric}{{{', '.join(filter(None, (_JOB, own)))}}}" for metric, _, own in labels]
    return {
        "name": title,
        "interval": "1m",
        "input_series": [
            {"series": key, "values": values}
            for key, values in zip(full, series.values(), strict=True)
        ],
        "promql_expr_test": [
            {
                "expr": f"count({firing}) or vector(0)",
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": int(fires)}],
            }
        ],
    }


def test_alerts_fire_when_they_are_to_and_else_do_not(tmp_path: Path) -> None:
    fired = {title.split(",")[0] for title, (_, _, fires) in STORIES.items() if fires}
    assert fired == NAMES
    tests = [told(title, *story) for title, story in STORIES.items()]
    file = tmp_path / "tests.yaml"
    content = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- Prometheus, a push gateway, and jobs ------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def answer(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)["data"]


def until_there(url: str) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=10).close()
            return
        assert time.monotonic() < end, url
        time.sleep(0.1)


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    with running("prometheus-pushgateway", f"--web.listen-address={address}"):
        until_there(f"http://{address}/-/ready")
        yield address


@pytest.fixture(scope="module")
def prometheus(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the rules, that looks at the gateway each second; gives its API's URL."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "gateway",
                "honor_labels": True,
                "static_configs": [{"targets": [gateway]}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    options = [
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with running("prometheus", *options):
        until_there(f"{url}/-/ready")
        yield f"{url}/api/v1"


def failing_train(folder: Path, gateway: str) -> int:
    """Run what is like a train job, with a tag that fails."""
    storage = open_storage(str(folder))

    def one(tag: str) -> None:
        counters().request()
        if tag == "bad":
            raise ValueError("no such posts")

    def work(settings: TagSettings) -> None:
        for_each_tag(settings, one, Heartbeats(storage, "train", grace=100))

    options = ["--storage", str(folder), "--tags", "good,bad", "--metrics-push", gateway]
    return run_job("train", "", TagSettings, work, options)


def test_a_running_prometheus_takes_the_rules_and_the_dashboard_s_queries(
    prometheus: str, gateway: str, tmp_path: Path
) -> None:
    for number in range(12):
        path = tmp_path / "set" / ("fox" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(number))
    for number in range(2):
        damaged = tmp_path / "set" / "fox" / f"damaged-{number}.png"
        damaged.write_bytes(b"\x89PNG\r\n\x1a\n")
    push = f"http://{gateway}"
    given = ["--storage", str(tmp_path / "s"), "--tags", "fox", "--metrics-push", push]
    assert scrape([*given, "--board", f"folder+{tmp_path / 'set'}", "--min-side", "1"]) == 0
    assert failing_train(tmp_path / "s", push) != 0

    def states() -> dict[str, str]:
        groups = answer(f"{prometheus}/rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert not [rule for rule in rules if rule["health"] == "err"]
        return {rule["name"]: rule["state"] for rule in rules}

    # The board's failures have to last.
    expected = dict.fromkeys(NAMES, "inactive") | {
        "ImagetagJobFailed": "firing",
        "ImagetagTagsFailed": "firing",
        "ImagetagBoardFails": "pending",
    }
    end = time.monotonic() + PATIENCE
    while (found := states()) != expected and time.monotonic() < end:
        time.sleep(0.5)
    assert found == expected

    board = json.loads((MONITORING / "dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for query in queries:
        asked = urllib.parse.urlencode({"query": re.sub(r"\$\w+", ".*", query)})
        while not (series := answer(f"{prometheus}/query?{asked}")["result"]):
            assert time.monotonic() < end, f"nothing is shown by {query}"
            time.sleep(0.5)
        assert {one["metric"]["command"] for one in series} & {"scrape", "train"}
