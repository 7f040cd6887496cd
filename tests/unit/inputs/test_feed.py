"""Each image once an epoch with its target and noise, decoded once, wherever a stream begins."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from structlog.testing import capture_logs

from imagetag.dataset.local_copy import Resize, Sample, load_pixels
from imagetag.imaging.images import Size
from imagetag.inputs import feed
from imagetag.inputs.batch_plan import NOISE, Plan
from imagetag.inputs.batches import Batches
from imagetag.inputs.feed import DecodedImages
from tests.builders.arrays import Arrays
from tests.builders.pictures import plain
from tests.builders.rows import row_of

SIZE = (8, 10)
EACH = SIZE[0] * SIZE[1] * 3  # bytes of a decoded image

Samples = list[Sample | None]


def number_of(pixels: Any) -> int:
    return int(pixels[0, 0, 0])


def target_of(number: int) -> int:
    return int(number % 3 == 0)


def targets_of(count: int) -> Any:
    return np.array([target_of(number) for number in range(count)])


@pytest.fixture
def make_samples(tmp_path: Path) -> Callable[[int], Samples]:
    """Make samples of pictures of one colour, by which `number_of` knows them again."""

    def make(count: int) -> Samples:
        samples: Samples = []
        for number in range(count):
            data = plain(SIZE[1], SIZE[0], (number, 50, 77))
            path = tmp_path / f"{number}.png"
            path.write_bytes(data)
            label = "positive" if target_of(number) else "negative"
            row = row_of(number, data, split="train", label=label)
            samples.append(Sample(row, path))
        return samples

    return make


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often each image is decoded."""
    counts: Counter[int] = Counter()
    lock = threading.Lock()

    def counting(source: Path, size: Size, resize: Resize) -> Any:
        with lock:
            counts[int(source.stem)] += 1
        return load_pixels(source, size, resize)

    monkeypatch.setattr(feed, "load_pixels", counting)
    return counts


def images_of(samples: Samples, folder: Path, **options: Any) -> DecodedImages:
    space: dict[str, Any] = {"memory": 1 << 20, "disk": 1 << 20, **options}
    return DecodedImages(samples, SIZE, "letterbox", folder=folder, **space)


def feed_of(samples: Samples, folder: Path, *, batch: int = 4, **options: Any) -> Batches:
    """A feed of one worker, unless told; of what is in memory, unless told."""
    seed, shuffle = options.pop("seed", 5), options.pop("shuffle", True)
    space = {key: options.pop(key) for key in ("memory", "disk") if key in options}
    targets = targets_of(len(samples))
    plan = Plan(targets, batch, seed, shuffle=shuffle)
    return Batches.of(images_of(samples, folder, **space), targets, plan, **options)


def taken(batches: tf.data.Dataset, count: int) -> list[tuple[Any, ...]]:
    return list(batches.take(count).as_numpy_iterator())


def numbers(batches: list[tuple[Any, ...]]) -> list[int]:
    """The numbers of the images that count, in order; each has its target and its own pixels."""
    found = []
    for pixels, targets, weights, _ in batches:
        for image, target, weight in zip(pixels, targets, weights, strict=True):
            if weight:
                number = number_of(image)
                assert target == target_of(number)
                assert (image == (number, 50, 77)).all()
                found.append(number)
    return found


def epochs_of(one: Batches, count: int, *, first: int = 0) -> list[list[int]]:
    found = taken(one.from_step(first, 0), count * one.steps)
    return [numbers(found[i * one.steps : (i + 1) * one.steps]) for i in range(count)]


def assert_same(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> None:
    """Bit for bit, with the noise."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert x.tobytes() == y.tobytes()


# ---- the batches


@pytest.mark.parametrize("replicas", [1, 2])
def test_batches_have_their_shapes_and_kinds(
    replicas: int, make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    one = feed_of(make_samples(10), tmp_path, replicas=replicas)
    each = 4 // replicas
    assert (one.steps, one.each) == (3, each)
    expected = [
        ((each, *SIZE, 3), "uint8"),
        ((each,), "float32"),
        ((each,), "float32"),
        ((each, NOISE), "float32"),
    ]
    for batches in (one.from_step(0, 0), one.one_pass()):
        assert [(tuple(s.shape), s.dtype.name) for s in batches.element_spec] == expected
        [found] = taken(batches, 1)
        assert [(values.shape, values.dtype.name) for values in found] == expected


def test_one_pass_is_an_epoch_in_which_each_image_has_weight_once(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    one = feed_of(make_samples(10), tmp_path, shuffle=False)
    for _ in range(2):  # and again
        batches = list(one.one_pass().as_numpy_iterator())
        assert sorted(numbers(batches)) == list(range(10))
        assert [weights.sum() for _, _, weights, _ in batches] == [4, 4, 2]
        assert not any(noise.any() for _, _, _, noise in batches)


def test_each_epoch_has_every_image_once_in_another_order(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    epochs = epochs_of(feed_of(make_samples(30), tmp_path), 4)
    for found in epochs:
        assert sorted(found) == list(range(30))
    assert len({tuple(found) for found in epochs}) == 4


def test_the_same_seed_gives_the_same_orders_and_another_gives_others(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    def orders(seed: int) -> list[list[int]]:
        tf.random.set_seed(next(unrelated))
        return epochs_of(feed_of(samples, tmp_path, seed=seed), 3)

    samples, unrelated = make_samples(30), iter(range(9))
    first, again, other = orders(5), orders(5), orders(6)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_stream_from_any_step_is_the_tail_of_the_whole_one(
    replicas: int, make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    samples = make_samples(10)
    one = feed_of(samples, tmp_path, replicas=replicas)
    whole = taken(one.from_step(0, 0), 3 * one.steps * replicas)
    for epoch, step in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0)]:
        rest = whole[(epoch * one.steps + step) * replicas :]
        for resumed in (one, feed_of(samples, tmp_path, replicas=replicas)):
            assert_same(taken(resumed.from_step(epoch, step), len(rest)), rest)
    # A step past the last one of an epoch is the first of the next.
    assert_same(taken(one.from_step(0, one.steps), 1), taken(one.from_step(1, 0), 1))


def test_the_parts_of_workers_and_replicas_are_those_of_one_process(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    samples = make_samples(21)
    alone = feed_of(samples, tmp_path, batch=8)
    expected = taken(alone.from_step(1, 1), 2 * alone.steps)
    parts = []
    for worker in (0, 1):
        # A worker has no images but its own.
        plan = Plan(targets_of(21), 8, 5)
        own = set(plan.images_at(slice(worker * 4, worker * 4 + 4)))
        mine = [sample if index in own else None for index, sample in enumerate(samples)]
        assert None in mine
        one = feed_of(mine, tmp_path, batch=8, worker=(worker, 2), replicas=2)
        assert (one.places, one.each) == (slice(worker * 4, worker * 4 + 4), 2)
        found = taken(one.from_step(1, 1), 4 * alone.steps)
        parts.append([found[i : i + 2] for i in range(0, len(found), 2)])
    together = [
        tuple(np.concatenate(values) for values in zip(*first, *second, strict=True))
        for first, second in zip(*parts, strict=True)
    ]
    assert_same(together, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_fewer_images_than_places_count_once_and_fill_up_the_rest(
    count: int, make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    one = feed_of(make_samples(count), tmp_path, batch=8, replicas=4)
    assert one.steps == 1
    found = taken(one.from_step(0, 0), 8)
    assert sorted(numbers(found[:4])) == sorted(numbers(found[4:])) == list(range(count))
    # What fills up is an image as any other, but for its weight.
    assert {number_of(image) for pixels, *_ in found for image in pixels} == set(range(count))


def test_an_image_has_its_own_noise_each_epoch_whether_it_can_be_read_or_not(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    samples = make_samples(12)
    whole = taken(feed_of(samples, tmp_path).from_step(0, 0), 6)
    samples[3] = None
    without = taken(feed_of(samples, tmp_path).from_step(0, 0), 6)
    noises = [noise.tobytes() for _, _, _, noise in whole]
    assert len(set(noises)) == 6
    assert [noise.tobytes() for _, _, _, noise in without] == noises


def test_what_is_beyond_the_look_ahead_is_not_read(
    make_samples: Callable[[int], Samples],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    fed = threading.Condition()

    class Noting(Batches):
        def batch(self, number: int) -> Any:
            with fed:
                made.append(int(number))
                fed.notify_all()
            return super().batch(number)

    def begun(count: int) -> int:
        """Take so many batches; gives how many more are begun once all is still."""
        made.clear()
        iterator = iter(one.from_step(0, 0))
        for _ in range(count):
            next(iterator)
        with fed:
            fed.wait_for(lambda: len(made) > count)
            while fed.wait(0.4):
                pass
        return len(made) - count

    targets = targets_of(40)
    one = Noting.of(images_of(make_samples(40), tmp_path), targets, Plan(targets, 4, 5))
    assert 0 < begun(5) <= 2 * 16
    monkeypatch.setattr(feed, "_AHEAD_BYTES", 4 * 4 * EACH)  # that of four batches
    assert 0 < begun(5) <= 2 * 4
    monkeypatch.setattr(feed, "_AHEAD_BYTES", 1)  # less than one
    assert 0 < begun(5) <= 2 * 2


# ---- where decoded images are kept


SPACES = {
    "in memory": {"memory": 1 << 20, "disk": 1 << 20},
    "on disk": {"memory": 20 * EACH, "disk": 21 * EACH},
    "a part on disk": {"memory": 2 * EACH, "disk": 9 * EACH + 5},
    "nowhere": {"memory": 0, "disk": 0},
}
BATCHES_OF_21 = 3 * 6


@pytest.mark.parametrize("where", ["in memory", "on disk"])
def test_each_image_is_decoded_once(
    where: str, make_samples: Callable[[int], Samples], decoded: Counter[int], tmp_path: Path
) -> None:
    with capture_logs() as logs:
        one = feed_of(make_samples(21), tmp_path, **SPACES[where])
        epochs_of(one, 3)
        epochs_of(one, 1, first=7)
        list(one.one_pass())
    assert decoded == dict.fromkeys(range(21), 1)
    assert logs == []


@pytest.mark.parametrize(("where", "kept"), [("a part on disk", 9), ("nowhere", 0)])
def test_what_is_beyond_the_space_is_decoded_anew_with_one_warning(
    where: str,
    kept: int,
    make_samples: Callable[[int], Samples],
    decoded: Counter[int],
    tmp_path: Path,
) -> None:
    with capture_logs() as logs:
        one = feed_of(make_samples(21), tmp_path, **SPACES[where], batch=1)
        for number in range(3 * 21):
            one.batch(number)
    assert Counter(decoded.values()) == Counter({1: kept, 3: 21 - kept} if kept else {3: 21})
    (line,) = logs
    assert (line["log_level"], line["kept"], line["images"]) == ("warning", kept, 21)
    assert "--cache-bytes" in line["event"]


@pytest.mark.parametrize("where", SPACES)
def test_wherever_they_are_kept_the_batches_are_the_same(
    where: str, make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    samples = make_samples(21)
    samples[4] = None
    expected = taken(feed_of(samples, tmp_path).from_step(0, 0), BATCHES_OF_21)
    with capture_logs():
        one = feed_of(samples, tmp_path, **SPACES[where])
    assert_same(taken(one.from_step(0, 0), BATCHES_OF_21), expected)


def test_nothing_stays_in_the_folder_not_even_of_a_killed_process(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    one = feed_of(make_samples(21), folder, **SPACES["on disk"])
    epochs_of(one, 1)
    assert list(folder.iterdir()) == []
    del one
    gc.collect()
    assert list(folder.iterdir()) == []


def test_in_memory_nothing_is_written_to_the_folder(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    epochs_of(feed_of(make_samples(5), tmp_path / "there is none"), 1)


def test_a_disk_that_is_too_small_says_so_at_once(
    make_samples: Callable[[int], Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, offset: int, count: int) -> None:
        raise OSError(28, f"No space left on device for {offset + count} bytes")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=f"No space left on device for {21 * EACH} bytes"):
        images_of(make_samples(21), tmp_path, **SPACES["on disk"])
    assert not list(tmp_path.glob("decoded-*"))


def test_images_are_fitted_as_asked(tmp_path: Path, make_samples: Callable[[int], Samples]) -> None:
    [sample] = make_samples(1)
    assert sample is not None
    Image.effect_mandelbrot((90, 40), (-2, -1, 1, 1), 9).convert("RGB").save(sample.path)
    for resize in ("letterbox", "crop", "stretch"):
        source = DecodedImages([sample], SIZE, resize, memory=EACH, disk=EACH, folder=tmp_path)
        into = np.zeros(source.shape, source.dtype)
        assert source.read(0, into)
        np.testing.assert_array_equal(into, load_pixels(sample.path, SIZE, resize))


# ---- what cannot be read


@pytest.mark.parametrize("where", SPACES)
def test_what_cannot_be_read_has_no_weight_and_one_warning(
    where: str, make_samples: Callable[[int], Samples], decoded: Counter[int], tmp_path: Path
) -> None:
    samples: Any = make_samples(12)
    samples[2].path.write_bytes(b"no picture")
    samples[7].path.write_bytes(samples[7].path.read_bytes()[:50])
    samples[9].path.unlink()
    paths = [str(samples[number].path) for number in (2, 7, 9)]
    samples[10] = None  # another worker's, or not in storage: that one is logged already
    with capture_logs() as logs:
        epochs = epochs_of(feed_of(samples, tmp_path, **SPACES[where]), 3)
    for found in epochs:
        assert sorted(found) == [0, 1, 3, 4, 5, 6, 8, 11]
    lines = [line for line in logs if line["event"] == "left out"]
    assert sorted((line["log_level"], line["file"]) for line in lines) == [
        ("warning", path) for path in paths
    ]
    assert all(line["detail"] for line in lines)
    # It is not tried again.
    assert [decoded[number] for number in (2, 7, 9, 10)] == [1, 1, 1, 0]


def test_an_image_that_is_lost_while_it_is_decoded_anew_is_not_lost_silently(
    make_samples: Callable[[int], Samples], tmp_path: Path
) -> None:
    samples: Any = make_samples(4)
    with capture_logs():
        one = feed_of(samples, tmp_path, **SPACES["nowhere"])
        assert sorted(numbers([one.batch(0)])) == [0, 1, 2, 3]
    samples[1].path.unlink()
    with capture_logs() as logs:
        for number in (1, 2, 3):
            assert sorted(numbers([one.batch(number)])) == [0, 2, 3]
    assert [(line["event"], line["file"]) for line in logs] == [("left out", str(samples[1].path))]


def test_one_image_asked_for_by_many_threads_is_decoded_once_and_warned_of_once(
    make_samples: Callable[[int], Samples], decoded: Counter[int], tmp_path: Path
) -> None:
    samples: Any = make_samples(2)
    samples[1].path.write_bytes(b"no picture")
    source = images_of(samples, tmp_path)
    results: list[tuple[bool, int, bool]] = []

    def read() -> None:
        together.wait(20)
        good, bad = np.full(source.shape, 9, np.uint8), np.zeros(source.shape, np.uint8)
        results.append((source.read(0, good), number_of(good), source.read(1, bad)))

    together = threading.Barrier(8)
    threads = [threading.Thread(target=read) for _ in range(8)]
    with capture_logs() as logs:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [(True, 0, False)] * 8
    assert decoded == {0: 1, 1: 1}
    assert len(logs) == 1


def test_a_defect_ends_the_stream_rather_than_the_image(
    make_samples: Callable[[int], Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise PermissionError("not yours")

    one = feed_of(make_samples(4), tmp_path)
    monkeypatch.setattr(feed, "load_pixels", broken)
    with pytest.raises(PermissionError, match="not yours"), one.explained():
        taken(one.from_step(0, 0), 1)
    with pytest.raises(ZeroDivisionError), one.explained():  # what is not of the generator
        raise ZeroDivisionError


# ---- inputs that are computed already


def test_arrays_are_fed_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(10, 6)).astype("float32")
    readable = np.ones(10, bool)
    readable[4] = False
    targets = targets_of(10)
    one = Batches.of(Arrays(values, readable), targets, Plan(targets, 4, 5))
    seen = []
    for inputs, labels, weights, _ in taken(one.from_step(0, 0), one.steps):
        assert inputs.dtype == np.float32
        for row, label, weight in zip(inputs, labels, weights, strict=True):
            [number] = np.flatnonzero((values == row).all(axis=1))
            assert label == targets[number]
            seen += [int(number)] * int(weight)
    assert sorted(seen) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
