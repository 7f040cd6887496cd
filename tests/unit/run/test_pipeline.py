"""A pipeline of jobs: which tags go on, what is logged, how it is stopped and what it ends with."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from imagetag.job.stopping import PARENT
from imagetag.run import child
from imagetag.run.pipeline import Failed, Pipeline, Stage
from imagetag.run.view import LiveView, PlainView
from imagetag.sentences import Event
from tests.ended import log_lines

# A job that does to each tag what its name says, and logs as jobs do.
FAKE = """
import json, os, sys
job, given = sys.argv[1], [text for text in sys.argv if text.startswith("--tags=")]
tags = given[0][7:].split(",")
def log(event, **fields):
    print(json.dumps({"event": event, "level": "info", **fields}), file=sys.stderr, flush=True)
codes = {}
print("a library says something", flush=True)
for tag in tags:
    what = tag.partition("_")[2] if tag.startswith(job) else ""
    log("working", tag=tag, variables=sorted(name for name in os.environ if "IMAGETAG" in name))
    if what == "dies":
        os.abort()
    if what == "usage":
        log("--option is wrong", level="error", exit_code=2)
        sys.exit(2)
    if what.isdigit():
        codes[tag] = int(what)
        if len(tags) > 1:
            log("no such tag", level="error", tag=tag, exit_code=codes[tag])
    elif len(tags) > 1:
        log("tag done", tag=tag)
if codes:
    code = 75 if 75 in codes.values() else 3
    text = f"{len(codes)} tags failed" if len(tags) > 1 else "no such tag"
    log(text, level="error", exit_code=code)
    sys.exit(code)
"""


class Seen:
    """A view that notes what it is shown."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def begin(self, job: str, tags: Sequence[str]) -> None:
        self.calls.append(("begin", job, *tags))

    def event(self, job: str, tag: str | None, event: Event) -> None:
        self.calls.append(("event", job, tag, event["event"]))

    def done(self, job: str, tag: str | None, seconds: float) -> None:
        self.calls.append(("done", job, tag))

    def failed(self, job: str, tag: str | None, reason: str) -> None:
        self.calls.append(("failed", job, tag, reason))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == kind]


@pytest.fixture(autouse=True)
def _fake_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "command", lambda job: [sys.executable, "-c", FAKE, job])


def a_stage(job: str, **how: Any) -> Stage:
    return Stage(job, [], lambda tags: [f"--tags={','.join(tags)}"], **how)


def run(tags: Sequence[str], *stages: Stage) -> tuple[Pipeline, Seen, list[str], str]:
    view, log = Seen(), io.StringIO()
    pipeline = Pipeline(view, log)
    left = pipeline.run(stages, tags)
    return pipeline, view, left, log.getvalue()


def test_every_tag_goes_through_every_stage() -> None:
    pipeline, view, left, _ = run(["fox", "owl"], a_stage("scrape"), a_stage("train"))
    assert left == ["fox", "owl"]
    assert view.of("done") == [
        ("scrape", "fox"), ("scrape", "owl"), ("train", "fox"), ("train", "owl")
    ]  # fmt: skip
    assert (pipeline.failed, pipeline.exit_code) == ({}, 0)


@pytest.mark.parametrize("tags", [["scrape_3", "fox"], ["fox", "scrape_3"]])
def test_a_tag_that_fails_has_no_part_in_the_next_stage_and_stops_no_other(tags: list[str]) -> None:
    pipeline, view, left, _ = run(tags, a_stage("scrape"), a_stage("train"))
    assert left == ["fox"]
    assert view.of("begin") == [("scrape", *tags), ("train", "fox")]
    assert pipeline.failed == {"scrape_3": Failed("scrape", "no such tag", 3)}
    assert pipeline.exit_code == 3


def test_a_tag_alone_that_fails_ends_the_pipeline_with_its_reason() -> None:
    _, view, left, _ = run(["scrape_3"], a_stage("scrape"), a_stage("train"))
    assert (left, view.of("begin")) == ([], [("scrape", "scrape_3")])
    assert view.of("failed") == [("scrape", "scrape_3", "no such tag")]


@pytest.mark.parametrize(
    ("tags", "code"),
    [(["scrape_3", "scrape_75"], 75), (["scrape_3", "train_usage", "fox"], 2), (["fox"], 0)],
)
def test_the_exit_code_is_of_what_must_be_mended_first(tags: list[str], code: int) -> None:
    assert run(tags, a_stage("scrape"), a_stage("train"))[0].exit_code == code


def test_wrong_usage_fails_all_tags_that_are_not_through_yet() -> None:
    pipeline, view, left, _ = run(["owl", "train_usage", "fox"], a_stage("train"))
    assert left == ["owl"]
    assert view.of("failed") == [("train", None, "2 tags: --option is wrong")]
    assert pipeline.failed.keys() == {"train_usage", "fox"}
    assert pipeline.failed["fox"].reason == "--option is wrong"


def test_a_process_that_dies_takes_one_tag_along_and_the_rest_have_another() -> None:
    pipeline, view, left, _ = run(["owl", "train_dies", "fox"], a_stage("train"))
    assert left == ["owl", "fox"]
    assert "ended by SIGABRT" in pipeline.failed["train_dies"].reason
    assert pipeline.exit_code == 1
    assert [call for call in view.of("event") if call[2] == "working"] == [
        ("train", "owl", "working"), ("train", "train_dies", "working"), ("train", "fox", "working")
    ]  # fmt: skip


def test_a_stage_for_all_tags_at_once_is_told_once_and_each_that_fails() -> None:
    stages = a_stage("embed", at_once=True), a_stage("train")
    pipeline, view, left, _ = run(["owl", "embed_3", "fox"], *stages)
    assert left == ["owl", "fox"]
    assert view.of("begin") == [("embed",), ("train", "owl", "fox")]
    assert view.of("failed") == [("embed", "embed_3", "no such tag")]
    assert view.of("done") == [("embed", None), ("train", "owl"), ("train", "fox")]
    assert pipeline.exit_code == 3
    pipeline, view, left, _ = run(["embed_3"], *stages)
    assert (left, view.of("done")) == ([], [])
    assert view.of("failed") == [("embed", "embed_3", "no such tag")]
    _, view, left, _ = run(["fox"], *stages)
    assert (left, view.of("done")) == (["fox"], [("embed", None), ("train", "fox")])


def test_where_it_dies_of_all_tags_at_once_none_is_tried_again() -> None:
    _, view, left, _ = run(["owl", "embed_dies", "fox"], a_stage("embed", at_once=True))
    assert left == ["owl"], "of which it had told that it is done"
    [failed] = view.of("failed")
    assert failed[:2] == ("embed", None)
    assert failed[2].startswith("2 tags: imagetag embed was ended by SIGABRT")


def test_a_stage_may_be_for_all_tags() -> None:
    stages = a_stage("evaluate"), a_stage("report", for_all=True)
    pipeline, view, left, log = run(["evaluate_3", "fox", "report_3"], *stages)
    assert left == ["fox", "report_3"]
    assert view.of("failed") == [
        ("evaluate", "evaluate_3", "no such tag"), ("report", None, "1 tags failed")
    ]  # fmt: skip
    assert pipeline.exit_code == 3
    assert log.count("a library says something") == 2


def test_all_that_is_written_is_in_the_log_with_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGETAG_MODEL", "vgg19")
    secret = a_stage("scrape", secrets={"IMAGETAG_BOARD_KEY": "k"})
    lines = log_lines(run(["fox"], secret)[3])
    assert [(line["job"], line["event"]) for line in lines] == [
        ("scrape", "a library says something"),
        ("scrape", "working"),
    ]
    # Our own variables have been read: a job gets what they came to as options.
    assert lines[1]["variables"] == ["IMAGETAG_BOARD_KEY", PARENT]


def test_a_stopped_pipeline_waits_for_its_job_and_tells_what_that_has_kept(tmp_path: Path) -> None:
    """Ctrl-C of a terminal reaches both; here the signal reaches the pipeline alone."""
    script = textwrap.dedent(
        """
        import os, sys
        from imagetag.run import child
        from imagetag.job.job import run_job
        from imagetag.run.pipeline import Pipeline, Stage
        from imagetag.job.settings import JobSettings
        from imagetag.run.view import JsonView
        INNER = '''
        import sys, threading
        from imagetag.job.job import run_job
        from imagetag.log import get_logger
        from imagetag.job.settings import JobSettings
        def work(settings):
            try:
                get_logger().info("at work", tag="fox")
                threading.Event().wait()
            except BaseException as error:
                error.add_note("the checkpoint of epoch 3 is kept")
                raise
        sys.exit(run_job("train", "x", JobSettings, work, sys.argv[1:]))
        '''
        child.command = lambda job: [sys.executable, "-c", INNER]
        def work(settings):
            with open(sys.argv[1], "w") as log:
                Pipeline(JsonView(), log).run([Stage("train", [], lambda tags: [])], ["fox"])
        sys.exit(run_job("run", "x", JobSettings, work, ["--log-format", "json"], kept="nothing"))
        """
    ).replace("\n    '''", "\n'''")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        log = tmp_path / f"{code}.jsonl"
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(log)], stderr=subprocess.PIPE, text=True
        )
        guard = threading.Timer(60, process.kill)
        guard.start()
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "at work":
                process.send_signal(number)
        guard.cancel()
        assert process.wait() == code
        assert lines[-1]["event"].endswith("; the checkpoint of epoch 3 is kept")
        assert lines[-1]["exit_code"] == code
        assert json.loads(log.read_text().splitlines()[-1])["exit_code"] == 143


def shown(view_class: type[PlainView | LiveView], *, terminal: bool) -> tuple[str, Console, Any]:
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=90, color_system=None, record=True
    )
    view = view_class(console)
    view.begin("train", ["fox", "red_panda"])
    view.event("train", "fox", {"event": "devices", "level": "info", "devices": ["CPU:0"]})
    view.event("train", "fox", {"event": "few images", "level": "warning", "tag": "fox"})
    progress = {"event": "train", "level": "info", "done": 64, "total": 128, "unit": "images"}
    view.event("train", "fox", {**progress, "per_second": 32.0, "tag": "fox"})
    trained = {"epochs": 5, "best_epoch": 3, "validation_accuracy": 0.91, "level": "info"}
    view.event("train", "fox", {"event": "trained", **trained})
    view.done("train", "fox", 130)
    view.event("train", "red_panda", {**progress, "per_second": 32.0, "tag": "red_panda"})
    return console.export_text(clear=False), console, view


def test_a_line_tells_what_came_out_of_a_tag_and_a_live_one_what_is_under_way() -> None:
    text, console, view = shown(LiveView, terminal=True)
    assert text.splitlines() == [
        "! train    fox        warning: few images",
        "✓ train    fox        5 epochs, the best is 3; validation accuracy 0.910 · 2 min",
    ]
    with console.capture() as capture:
        console.print(view)
    live = capture.get()
    assert live.count("\n") == 1
    assert "red_panda  training: 64 of 128 images · 2 s left · 32/s" in live
    assert "tag 2 of 2" in live


def test_what_is_under_way_for_all_tags_is_shown_when_one_has_failed() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=90, color_system=None)
    view = LiveView(console)
    view.begin("embed", ())
    view.failed("embed", "owl", "no dataset")
    progress = {"event": "embed", "level": "info", "done": 64, "total": 128, "unit": "images"}
    view.event("embed", None, {**progress, "per_second": 32.0})
    with console.capture() as capture:
        console.print(view)
    assert "embedding: 64 of 128 images" in capture.get()
    told = {"images": 120, "already": 8, "tags": 2, "extractor": "tiny-24x32-0a1b2c3d"}
    view.event("embed", None, {"event": "embedded", "level": "info", **told})
    with console.capture() as capture:
        view.done("embed", None, 130)
        console.print(view)
    line = "120 images embedded, 8 had features before; extractor tiny-24x32-0a1b2c3d · 2 min"
    assert line in " ".join(capture.get().split())
    assert capture.get().count("\n") == 2


def test_a_file_has_a_line_for_each_thing_that_is_said() -> None:
    text, _, _ = shown(PlainView, terminal=False)
    assert "  train    fox        training: 64 of 128 images · 2 s left · 32/s\n" in text
    assert "✓ train    fox        5 epochs, the best is 3; validation accuracy 0.910" in text


def test_a_failure_is_told_at_once_in_full() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, record=True)
    view = LiveView(console)
    view.begin("scrape", ["fox"])
    view.failed("scrape", "fox", "a reason " * 12)
    text = " ".join(console.export_text().split())
    assert text == "✗ scrape fox " + " ".join(["a reason"] * 12)


@pytest.mark.parametrize("kind", [PlainView, LiveView])
def test_what_others_wrote_commands_no_terminal(kind: type[PlainView | LiveView]) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=kind is LiveView, color_system=None)
    view = kind(console)
    view.begin("scrape", ["a\x9b2Jb"])
    view.event("scrape", "a\x9b2Jb", {"event": "\x1b[2Jgone", "level": "info"})
    console.print(view) if kind is LiveView else None
    view.failed("scrape", "a\x9b2Jb", "the board says \x1b]0;x\x07")
    assert "the board says  ]0;x" in file.getvalue()
    assert not {"\x1b", "\x9b", "\x07"} & set(file.getvalue())


def test_the_child_of_an_unknown_job_is_told_by_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        child, "command", lambda job: [sys.executable, "-c", "import no_such_module"]
    )
    pipeline, _, _, _ = run(["fox", "owl"], a_stage("train"))
    assert "No module named 'no_such_module'" in pipeline.failed["fox"].reason
    assert pipeline.failed.keys() == {"fox", "owl"}


def test_a_warning_of_a_job_that_works_on_all_tags_names_the_tag() -> None:
    file = io.StringIO()
    view = PlainView(Console(file=file, width=200))
    view.begin("predict", ["fox", "owl"])
    view.event("predict", None, {"level": "warning", "event": "not promised", "tag": "owl"})
    assert "owl" in file.getvalue()
