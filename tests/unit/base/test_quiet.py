"""What libraries write to standard error while imported becomes debug lines, never a mess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

CHATTER = "I0000 loaded plugin\nE0000 no such device\n"


def imports(body: str, level: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run imports in a process of their own, as the chatter goes past Python."""
    script = f"""
import os, sys
from imagetag import log
from imagetag.quiet import quiet_imports

log.configure("json", {level!r})
with quiet_imports():
    os.write(2, {CHATTER!r}.encode())
    print("by Python too", file=sys.stderr)
{textwrap.indent(textwrap.dedent(body), "    ")}
os.write(2, b"after\\n")
"""
    # Importing JAX, as Keras does where it can, sets this one.
    unset = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", script],
        env=unset | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_chatter_is_no_line_of_the_log() -> None:
    done = imports("import json", "info")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "after\n"


def test_chatter_is_shown_at_debug_level_as_lines_of_the_log() -> None:
    *lines, last = imports("import json", "debug").stderr.splitlines()
    assert last == "after"
    records = [json.loads(line) for line in lines]
    assert [record["text"] for record in records] == [*CHATTER.splitlines(), "by Python too"]
    assert {record["level"] for record in records} == {"debug"}


def test_all_of_it_is_shown_if_the_import_fails() -> None:
    done = imports("import there_is_no_such_module", "info")
    assert done.returncode == 1
    assert done.stderr.startswith(CHATTER + "by Python too\nTraceback")
    assert "there_is_no_such_module" in done.stderr
    assert "after" not in done.stderr


def test_nothing_is_shown_if_it_is_interrupted() -> None:
    done = imports("raise KeyboardInterrupt", "info")
    assert done.stderr.startswith("Traceback")
    assert CHATTER not in done.stderr


def test_more_chatter_than_a_pipe_holds_blocks_nothing() -> None:
    done = imports("os.write(2, b'x' * 300_000)", "info")
    assert (done.returncode, done.stderr) == (0, "after\n")


def test_no_more_is_heard_of_tensorflow_but_errors_unless_asked_for() -> None:
    show = "sys.stdout.write(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    assert imports(show, "info").stdout == "2"
    assert imports(show, "info", TF_CPP_MIN_LOG_LEVEL="0").stdout == "0"


def test_what_was_imported_before_searches_for_gpus_quietly_too() -> None:
    # As in a notebook: the search speaks, not the import.
    script = """
import os, sys, types
from imagetag import log
from imagetag.quiet import quiet_imports

log.configure("json", "info")

def search():
    os.write(2, b"E0000 no such device\\n")

config = types.SimpleNamespace(list_physical_devices=search)
sys.modules["tensorflow"] = types.SimpleNamespace(config=config)
for _ in range(2):
    with quiet_imports():
        os.write(1, b"imported\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "imported\n" * 2
