"""What code costs, by the processor: how long it takes is the business of who else is busy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def processor_seconds(most: float) -> Iterator[None]:
    """Check that a block takes no more of them, in all threads of this process.

    The bound is to be many times what it takes on a quiet machine, and a small part of what the
    defect that it guards against would take.
    """
    begun = time.process_time()
    yield
    assert time.process_time() - begun < most
