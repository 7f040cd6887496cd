"""What a person reads on a terminal: sentences, and bars that nothing else is written on."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from imagetag.console import BarLine, Bars, line
from imagetag.sentences import duration, sentence, size
from tests.terminal import on_terminal, plain, screen

ROOT = Path(__file__).parents[3]
EPOCH: dict[str, Any] = {
    "event": "epoch", "level": "info", "tag": "fox", "phase": "all", "epoch": 3, "epochs": 50,
    "loss": 0.2134, "accuracy": 0.9, "val_loss": 0.2512, "val_accuracy": 0.88, "seconds": 1.2,
    "best_epoch": 2, "best_val_loss": 0.2401, "seconds_left": 61.3, "learning_rate": 0.001,
}  # fmt: skip
LOG = "import os, sys, time\nfrom imagetag import log\nlog.configure()\ntell = log.get_logger()\n"


def test_an_epoch_is_a_line_and_epochs_stand_in_columns() -> None:
    assert sentence(EPOCH) == (
        "epoch  3/50 · loss 0.213 · val 0.251 (best 0.240, epoch  2) · 1 min left"
    )
    later = sentence({**EPOCH, "epoch": 12, "best_epoch": 11})
    assert [m.start() for m in re.finditer("·", later)] == [
        m.start() for m in re.finditer("·", sentence(EPOCH))
    ]


def test_an_epoch_of_another_version_is_told_too() -> None:
    older = {name: EPOCH[name] for name in ("event", "level", "epoch", "loss")}
    assert sentence(older) == "epoch (epoch 3; loss 0.2134)"


def test_what_says_nothing_is_left_out() -> None:
    assert sentence({"event": "counted", "reasons": {}, "first": None, "rows": 0}) == (
        "counted (rows 0)"
    )
    assert sentence({"event": "left", "exit_code": 2, "timestamp": "x", "level": "info"}) == "left"


def test_a_line_has_its_level_and_tag_and_the_time_where_there_is_room() -> None:
    event = {"event": "gone", "level": "warning", "tag": "fox", "timestamp": "2026-11-26T10:00:00Z"}
    assert line(event).plain == "warning: fox: gone"
    assert line(event, width=80).plain == "warning: fox: gone"
    assert re.fullmatch(r"\d\d:\d\d:00 warning: fox: gone", line(event, width=120).plain)
    assert line({**event, "level": "info"}).plain == "fox: gone"


@pytest.mark.parametrize("width", [39, 80])
def test_a_line_is_broken_at_blanks_alone(width: int) -> None:
    path = "/tmp/" + "x" * 100 + "/report.html"
    text = line({"event": "初音ミク " * 10 + "is at " + path, "level": "info"}, width=width)
    lines = text.plain.split("\n")
    assert f"    {path}" in lines
    rest = [one for one in text.split("\n") if path not in one.plain]
    assert all(one.cell_len <= width for one in rest)
    assert all(one.plain.startswith("    ") for one in rest[1:])


def test_what_others_wrote_commands_no_terminal() -> None:
    text = line({"event": "left\nout\x1b[2J", "level": "info", "tag": "a\x9bb", "file": "\u202e"})
    assert text.plain == "a b: left out [2J (file  )"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            {"event": "phase", "phase": "head", "epoch": 1, "step": 0},
            "the head, fitted to features",
        ),
        (
            {"event": "fitted", "images": 384, "strength": 0.01},
            "head fitted to 384 images, with a C of 0.01",
        ),
        (
            {
                "event": "fine-tuning is no better: the head is kept",
                "gain": -0.02,
                "standard_error": 0.013,
            },
            "fine-tuning is no better, and the head is kept: the validation loss is higher by "
            "0.0200, with a standard error of 0.0130",
        ),
    ],
)
def test_what_becomes_of_a_fitted_head_is_told(event: dict[str, Any], text: str) -> None:
    assert line(event | {"level": "info"}, width=300).plain.strip() == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.2, "59 s"),
        (59.9, "1 min"),
        (61, "1 min"),
        (3599, "1 h"),
        (4800, "1 h 20 min"),
        (300_000, "3 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 bytes"), (1200, "1.2 kB"), (64e6, "64 MB"), (3e12, "3.0 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


# --- On a terminal


BARS = """
with log.Progress("sync", total=4) as progress:
    for number in range(4):
        progress.advance(failed=number)
        time.sleep(0.01)
        tell.info("note", number=number)
print("end", file=sys.stderr)
"""


@pytest.mark.parametrize("columns", [20, 39, 80, 200])
def test_lines_stand_above_a_bar_and_it_leaves_nothing_behind(columns: int) -> None:
    text = on_terminal(LOG + BARS, columns=columns)
    shown = screen(text, columns)
    notes = [re.sub(r"^[\d:]{8} ", "", note) for note in shown]
    assert notes == [*(f"note (number {number})" for number in range(4)), "end"]
    drawn = [
        part for part in re.split(r"[\r\n]", re.sub(r"\x1b\[2K", "", plain(text))) if "/4" in part
    ]
    assert drawn
    assert max(map(len, drawn)) < columns


def drawn_bar(width: int, total: int | None = 1200, unit: str = "images") -> str:
    """Draw the bar of a work that has done 300 in 30 seconds."""
    clock = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    column = BarLine(console)
    progress = Progress(column, console=console, get_time=lambda: clock[0], auto_refresh=False)
    bar = progress.add_task("fetching images", total=total, unit=unit, more={})
    for _ in range(30):
        clock[0] += 1
        progress.update(bar, advance=10, more={"failed": 7, "skipped": 0})
    return column.render(progress.tasks[0]).plain


def test_a_bar_has_what_there_is_room_for() -> None:
    told = "fetching images 300/1,200 images"
    assert drawn_bar(100) == f"━━━━━{' ' * 15} {told} · 2 min left · 10/s · 7 failed"
    assert drawn_bar(80) == f"{told} · 2 min left · 10/s · 7 failed"
    assert drawn_bar(39) == told
    assert drawn_bar(26) == "fetchin… 300/1,200 images"
    assert drawn_bar(80, None)[2:] == "fetching images 300 images · 10/s · 7 failed"
    assert drawn_bar(80, None, "")[2:] == "fetching images 30 s · 7 failed"


def test_works_at_once_have_a_bar_each() -> None:
    script = """
with log.Progress("sync", total=9) as one, log.Progress("predict") as two:
    one.advance(3)
    two.advance(5)
    tell.info("two")
    with log.Progress("store", unit=""):
        tell.info("three")
tell.info("done")
"""
    text = plain(on_terminal(LOG + script))
    assert re.search(r"fetching images \d/9 images.*\n.*predicting \d images", text)
    assert re.search(r"predicting \d images.*\n.*store 0 s", text)
    assert screen(text) == ["two", "three", "done"]


def test_work_that_goes_on_behind_its_bar_disturbs_no_other() -> None:
    bars = Bars(Console(file=io.StringIO(), force_terminal=True))
    one, _ = (bars.add(work, {}, 9, "images") for work in ("sync", "predict"))
    bars.remove(one)
    bars.advance(one, 1, {})
    bars.end()
    bars.advance(one, 1, {})


def test_the_cursor_is_there_whatever_ends_the_process() -> None:
    script = LOG + "log.Progress('sync', total=4)\ntell.info('x')\nos._exit(0)"
    text = on_terminal(script)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_dumb_terminal_gets_lines() -> None:
    script = "with log.Progress('sync', total=4, every=0) as it: it.advance(2)"
    text = on_terminal(LOG + script, TERM="dumb")
    assert "\x1b" not in text
    assert re.match(r"fetching images: 2 of 4 images · .* left · .*/s\r\n", text)


def test_no_color_is_obeyed() -> None:
    text = on_terminal(LOG + "tell.warning('x')\ntell.error('y')" + BARS, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3\dm", text)
    assert screen(text)[:2] == ["warning: x", "error: y"]


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_pipe_gets_no_escape_sequences(variable: str) -> None:
    script = LOG.replace("()", "('console')", 1) + "tell.error('x ' * 99)" + BARS
    told = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, variable: "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stderr.splitlines()[0] == "error: " + "x " * 99
    assert "\x1b" not in told.stderr
    assert "\r" not in told.stderr


def test_a_bar_is_drawn_while_standard_error_goes_elsewhere() -> None:
    script = """
with log.Progress("start", unit=""):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    tell.info("x")
"""
    assert "start" in on_terminal(LOG + script)


# --- All that is logged


def events() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the fields of all that the code logs under a name that is written down."""
    for path in [*(ROOT / "lib").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(
                    func=ast.Attribute(attr="info" | "warning" | "error"),
                    args=[ast.Constant(value=str(name))],
                ):
                    fields = {word.arg: 3 for word in call.keywords if word.arg}
                    yield name, fields


def test_every_event_reads_as_text() -> None:
    found = list(events())
    assert len(found) > 60
    for name, fields in found:
        text = sentence({"event": name, "level": "info", **fields})
        assert not re.search(r"\w_\w|=|[{}]|None", text), text


def test_what_was_predicted_of_one_tag_and_of_several() -> None:
    one = {"images": 40, "positives": 12, "errors": 2, "reasons": {"truncated": 2}, "output": "-"}
    assert sentence({"event": "predicted", "tag": "fox", **one}) == (
        "predicted 40 images: 12 have the tag; 2 could not be read (truncated 2)"
    )
    two = {"tags": 2, "images": 40, "rows": 80, "positives": 12, "output": "out.csv"}
    assert sentence({"event": "already predicted", **two}) == (
        "already predicted 40 images: 12 times an image has one of the tags; out.csv"
    )
