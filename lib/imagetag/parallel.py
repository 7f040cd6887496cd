"""A function of many items, computed in threads and in order, a bounded number of them ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[tuple[Item, Result]]:
    """Yield each item with the function's result, in the order of the items.

    Close it where it may not be read to its end: what is under way then ends by itself.

    Args:
        function: is called in the threads.
        items: in any number; they are taken as they are needed.
        threads: how many calls there are at once.
        ahead: the most results that are waiting to be taken or under way.

    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        # After an error nobody waits for those under way.
        pool.shutdown(wait=False, cancel_futures=True)
