"""Pictures through an extractor, in any number: what is stored and what is computed anew agree."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imagetag.features.extractor import Extractor
from imagetag.features.feature_store import rounded
from imagetag.imaging import BadImage
from imagetag.models import run_in_batches

Item = TypeVar("Item")


def extract(
    extractor: Extractor,
    items: Iterable[Item],
    read: Callable[[Item], bytes | Path],
    *,
    threads: int | None = None,
) -> Generator[tuple[Item, NDArray[np.float16] | BadImage]]:
    """Yield each item with the features of its picture, as they are stored, `(views, channels)`.

    Pictures are read and decoded ahead of the network, in parallel.

    Args:
        extractor: makes the features.
        items: in any number; they are taken as they are needed.
        read: returns an item's file, as bytes or as a path; may raise BadImage. It is called in
            threads.
        threads: pictures read and decoded at once; by default as the processors can.

    """

    def decode(item: Item) -> NDArray[np.uint8]:
        return extractor.record.pixels_of(read(item))

    def run(pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float16]]:
        return list(rounded(extractor.features(np.stack(pictures))))

    return run_in_batches(items, decode, run, batch_size=extractor.batch_size, threads=threads)
