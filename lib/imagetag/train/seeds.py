"""What a model begins with: of its seed alone, whatever else the process does."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let layers that are made inside, by this thread, draw their seeds from one seed.

    Keras draws them by `random.randint` from the generator that all of the process shares, and a
    request that is retried draws how long it waits: after `keras.utils.set_random_seed` alone, a
    model's first weights would depend on whether storage answers.
    """
    import keras  # not to choose a seed

    keras.utils.set_random_seed(seed)
    own, here, shared = random.Random(seed), threading.get_ident(), random.randint  # noqa: S311

    def randint(a: int, b: int) -> int:
        return (own.randint if threading.get_ident() == here else shared)(a, b)

    random.randint = randint
    try:
        yield
    finally:
        random.randint = shared
