"""What the tests take for a job's log: JSON, and between it what TensorFlow alone writes."""

from __future__ import annotations

import json

import pytest

from tests.ended import log_lines

LINE = '{"event": "done"}\n'
CHATTER = (
    "E0000 00:00:1795794846.630808   25928 meta_optimizer.cc:967] layout failed: INVALID_ARGUMENT\n"
    "I1127 15:54:06.630808   25928 some/where.h:96] ready\n"
    "2026-11-27 15:54:06.630808: W tensorflow/core/framework/local.cc:404] out of range\n"
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "/job:worker/replica:0/task:1\n"
    "The tasks have crashed. Check the task logs for an earlier error\n"
    "The error could be from a previous operation. Restart your program to reset. [type]\n"
)


def test_lines_of_tensorflow_are_passed_over_where_they_may_be() -> None:
    text = LINE + CHATTER + LINE + '{"event": "cut o'
    assert [line["event"] for line in log_lines(text, chatter=True)] == ["done", "done"]
    with pytest.raises(json.JSONDecodeError):
        log_lines(LINE + CHATTER)


@pytest.mark.parametrize(
    "strange",
    [
        "Traceback (most recent call last):\n",
        '  File "job.py", line 1, in work\n',
        "warning: something\n",
        "done",
        "\n",
        '{"event": "cut o\n',
        "Error in meta_optimizer.cc:967] layout failed\n",
    ],
)
def test_another_line_that_is_no_json_fails(strange: str) -> None:
    for text in (strange, LINE + strange, LINE + strange + LINE):
        with pytest.raises(json.JSONDecodeError):
            log_lines(text, chatter=True)
