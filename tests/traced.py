"""The memory that Python code takes, traced in a process of its own.

In the process of the tests, tracing would end it now and then: older releases of CPython can crash
where another thread allocates while tracing stops (python/cpython#128679), and TensorFlow has many.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.forked import run_forked

_SCRIPT = """
import json, sys, tracemalloc

def peak(measured):
    tracemalloc.start()  # and never stopped
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    found = measured()
    del found
    return tracemalloc.get_traced_memory()[1] - before

"""


def traced(script: str, arguments: Sequence[str] = ()) -> Any:
    """Run a script and return what it gives to `tell`, which has to be JSON.

    In it `peak(function)` calls a function and returns the bytes that Python's objects took while
    it ran, at the most, beyond those that there were before.
    """
    told = "def tell(value): print(json.dumps(value))\n"
    return json.loads(run_forked(_SCRIPT + told + script, arguments).splitlines()[-1])
