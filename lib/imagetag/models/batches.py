"""Many pictures through a network: decoded in threads ahead of it, in batches, in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from imagetag.imaging import BadImage
from imagetag.parallel import map_ahead

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")
Answer = TypeVar("Answer")


def run_in_batches(
    items: Iterable[Item],
    decode: Callable[[Item], Decoded],
    run: Callable[[Sequence[Decoded]], Sequence[Answer]],
    *,
    batch_size: int,
    threads: int | None = None,
) -> Generator[tuple[Item, Answer | BadImage]]:
    """Yield each item with what a network says of its picture, or with why that cannot be decoded.

    Args:
        items: in any number; they are taken as they are needed.
        decode: returns an item's picture; may raise BadImage. It is called in threads.
        run: returns what the network says of pictures, 1 to `batch_size` of them. It is called in
            a thread of its own, while the next batch is made.
        batch_size: pictures at once.
        threads: pictures read and decoded at once; by default as the processors can.

    """
    threads = threads or min(32, 4 + len(os.sched_getaffinity(0)))

    def decoded(item: Item) -> Decoded | BadImage:
        try:
            return decode(item)
        except BadImage as error:
            return error
        except FileNotFoundError:
            return BadImage("missing", "its file is gone")

    ahead = threads + 2 * batch_size
    pictures = map_ahead(decoded, items, threads=threads, ahead=ahead)

    def batches() -> Iterator[list[tuple[Item, Decoded | BadImage]]]:
        while chunk := list(islice(pictures, batch_size)):
            yield chunk

    def answers(
        chunk: list[tuple[Item, Decoded | BadImage]],
    ) -> list[tuple[Item, Answer | BadImage]]:
        good = [one for _, one in chunk if not isinstance(one, BadImage)]
        found = iter(run(good) if good else ())
        return [(item, one if isinstance(one, BadImage) else next(found)) for item, one in chunk]

    answered = map_ahead(answers, batches(), threads=1, ahead=2)
    with contextlib.closing(pictures), contextlib.closing(answered):
        for _, of_batch in answered:
            yield from of_batch
