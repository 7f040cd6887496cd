"""A model's first weights are of its seed, and of nothing else that happens in the process."""

from __future__ import annotations

import random
import sys
import threading

import keras
import pytest

from imagetag.models.architectures import build_model
from imagetag.train.fit import digest_of
from imagetag.train.seeds import seeded


def first_weights(seed: int) -> str:
    with seeded(seed):
        return digest_of(build_model("alexnet-small", (67, 67), weights=None, dropout=0.5))


def test_weights_are_of_the_seed() -> None:
    first = first_weights(1)
    random.random()  # as a request does that is retried
    assert first_weights(1) == first
    assert first_weights(2) != first
    keras.utils.set_random_seed(1)
    assert digest_of(build_model("alexnet-small", (67, 67), weights=None, dropout=0.5)) == first


def test_another_thread_that_draws_meanwhile_changes_nothing() -> None:
    first, end = first_weights(1), threading.Event()

    def draw() -> None:
        while not end.is_set():
            random.random()
            random.randint(1, 9)

    thread = threading.Thread(target=draw)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        assert [first_weights(1) for _ in range(3)] == [first] * 3
    finally:
        end.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_what_draws_afterwards_draws_as_ever() -> None:
    before = random.randint
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    assert random.randint == before
