"""Keep TensorFlow's start-up chatter out of the log, which is one JSON object a line."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imagetag.log import get_logger, working

_searched = False  # whether TensorFlow has looked for GPUs in this process


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Turn what libraries write to the process's standard error while imported into debug lines.

    They write past Python, and before any level of theirs is in force. TensorFlow's search for
    GPUs is part of it: where the machine has some, its errors become warnings. If the import
    fails, all of it is shown as it is; nothing is if somebody interrupts it.

    What is imported stays: no garbage is looked for among it, while it comes or later.
    """
    global _searched
    if _searched:  # it has said all that it says
        yield
        return
    # Errors only: its warnings are no JSON, and speak of its own insides.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    log = get_logger()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as chatter:
        real = os.dup(2)
        os.dup2(chatter.fileno(), 2)
        failed = False
        try:
            with working("starting TensorFlow"), _uncollected():
                yield
                if "tensorflow" in sys.modules:
                    sys.modules["tensorflow"].config.list_physical_devices()
                    _searched = True
        except Exception:
            failed = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            chatter.seek(0)
            text = chatter.read().decode(errors="replace")
            if failed:
                sys.stderr.write(text)
        for line in text.splitlines():
            report = log.warning if may_have_gpu() and line.startswith("E") else log.debug
            report("tensorflow starts", text=line)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector away from what is made here, which saves a fifth of the import."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def may_have_gpu() -> bool:
    """Tell whether TensorFlow may find a GPU of NVIDIA's here, without loading it."""
    devices = ("nvidia[0-9]*", "dxg")  # the latter where Linux runs in Windows
    return any(any(Path("/dev").glob(name)) for name in devices)
