"""Near-duplicates: planted copies are found, and different pictures are not called twins."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imagetag.demo.scenes import draw_posts
from imagetag.imaging import layouts, similarity
from imagetag.imaging.images import BadImage, load_rgb
from imagetag.imaging.layouts import thumbnail
from imagetag.imaging.twins import are_twins
from tests.benchmarks.near_duplicates import CHANGES, OTHERS, changed
from tests.builders.pictures import encoded


def cloud(seed: object, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Clouds of colour: no two of them are alike."""
    dice = random.Random(f"cloud {seed}")
    grid = Image.frombytes("RGB", (7, 7), dice.randbytes(147))
    return grid.resize(size, Image.Resampling.BICUBIC)


def layouts_of(files: Iterable[bytes]) -> bytes:
    return b"".join(layouts.layout_cells(layouts.perceptual_hashes(data)) or b"" for data in files)


def both(pair: similarity.Pair) -> tuple[int, int]:
    return min(pair.outer, pair.inner), max(pair.outer, pair.inner)


def twins(
    files: list[bytes], kinds: list[int] | None = None, threshold: int = layouts.THRESHOLD
) -> set[tuple[int, int]]:
    cells = layouts_of(files)
    assert len(cells) == 384 * len(files)
    pairs = similarity.alike(cells, kinds or range(len(files)))
    thumbnails = {
        number: thumbnail(files[number]) for number in {n for pair in pairs for n in both(pair)}
    }
    told = are_twins(thumbnails, pairs, threshold)
    return {both(pair) for pair, are in zip(pairs, told, strict=True) if are}


def test_of_a_planted_set_95_percent_are_found_and_under_1_percent_are_false(
    tmp_path: Path,
) -> None:
    draw_posts(tmp_path, 110, seed=31)
    paths = sorted((tmp_path / "images").iterdir())
    originals = [path.read_bytes() for path in paths]
    names = [name for name in CHANGES if name not in OTHERS]
    copies = [
        changed(load_rgb(path), names[number % len(names)], number)
        for number, path in enumerate(paths)
    ]
    count = len(paths)
    found = twins([*originals, *copies])
    missed = [
        names[number % len(names)]
        for number in range(count)
        if (number, number + count) not in found
    ]
    assert len(missed) <= 0.05 * count, missed
    # The drawings have variants of their own: a scene and its mirror image, alike by intent.
    variants = twins(originals)
    mirrored = {
        (low, high)
        for low, high in variants
        if _difference(load_rgb(paths[low]), ImageOps.mirror(load_rgb(paths[high]))) < 12
        or _difference(load_rgb(paths[low]), load_rgb(paths[high])) < 12
    }
    false = {(low % count, high % count) for low, high in found} - mirrored
    false = {pair for pair in false if pair[0] != pair[1] and pair[::-1] not in mirrored}
    assert len({number for pair in false for number in pair}) < 0.01 * count, false


def _difference(one: Image.Image, other: Image.Image) -> float:
    a, b = (image.resize((48, 48), Image.Resampling.BOX).tobytes() for image in (one, other))
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 40}), ("WEBP", {"quality": 60}), ("BMP", {})],
)
def test_a_format_changes_nothing(kind: str, options: dict[str, Any]) -> None:
    picture = cloud(1)
    files = [encoded(picture), encoded(picture, kind, **options), encoded(cloud(2))]
    assert twins(files) == {(0, 1)}


def test_a_pair_says_where_the_one_lies_in_the_other() -> None:
    whole = cloud(1, (400, 400))
    part = ImageOps.mirror(whole.crop((40, 0, 360, 320)))
    cells = layouts_of(encoded(picture) for picture in (whole, part))
    [pair] = similarity.alike(cells, [0, 1])
    assert (pair.outer, pair.inner, pair.mirrored) == (0, 1, True)
    assert pair.window == pytest.approx((0.1, 0, 0.9, 0.8), abs=0.051)


def test_pictures_of_one_kind_are_not_compared() -> None:
    files = [encoded(cloud(1))] * 3
    assert twins(files, [5, 5, 7]) == {(0, 2), (1, 2)}
    assert twins(files, [5, 5, 5]) == set()


def test_only_what_is_alike_at_first_sight_is_looked_at_closer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[tuple[int, int]] = []
    of = similarity._Windows.of

    def noted(self: Any, cells: similarity.Cells) -> similarity.Floats:
        looked.append((len(self.windows), len(cells)))
        return of(self, cells)

    monkeypatch.setattr(similarity._Windows, "of", noted)
    files = [encoded(cloud(number)) for number in range(40)]
    files += [encoded(cloud(number), "JPEG") for number in (3, 39)]
    found = {both(pair) for pair in similarity.alike(layouts_of(files), range(len(files)))}
    assert {(3, 40), (39, 41)} <= found
    finest = max(windows for windows, _ in looked)
    assert sum(count for windows, count in looked if windows == finest) <= 12


def test_the_order_does_not_matter() -> None:
    files = [encoded(cloud(number // 2), quality=95) for number in range(20)]
    order = random.Random(2).sample(range(20), 20)
    shuffled = twins([files[number] for number in order])
    named = {tuple(sorted((order[low], order[high]))) for low, high in shuffled}
    assert named == twins(files) == {(number, number + 1) for number in range(0, 20, 2)}


def test_a_picture_without_anything_in_it_is_like_no_other() -> None:
    shades = [(255, 255, 255), (0, 0, 0), (250, 250, 250), (9, 80, 200)]
    assert twins([encoded(Image.new("RGB", (100, 100), shade)) for shade in shades]) == set()


def test_pictures_that_differ_in_one_place_are_not_twins() -> None:
    one = cloud(3, (300, 300))
    other = one.copy()
    other.paste((255, 255, 255), (120, 120, 180, 180))
    assert twins([encoded(one), encoded(other)]) == set()


def test_the_threshold_is_how_many_bits_may_differ() -> None:
    files = [encoded(cloud(1)), encoded(Image.blend(cloud(1), cloud(2), 0.16))]
    assert twins(files) == {(0, 1)}
    assert twins(files, threshold=16) == set()


def test_many_copies_of_one_are_one_chain() -> None:
    files = [encoded(cloud(1), "JPEG", quality=40 + number) for number in range(30)]
    linked = {0}
    found = twins(files)
    for _ in range(30):
        linked |= {number for pair in found if linked & set(pair) for number in pair}
    assert linked == set(range(30))


@pytest.mark.parametrize("data", [b"", b"rubbish", b"\xff\xd8\xff", encoded(cloud(1))[:2000]])
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        layouts.perceptual_hashes(data)
    with pytest.raises(BadImage):
        thumbnail(data)


@given(st.lists(st.text() | st.text("layout:AB+/=0").map(lambda text: "layout:" + text)))
def test_a_hash_that_is_none_is_passed_over(hashes: list[str]) -> None:
    good = layouts.perceptual_hashes(encoded(cloud(1)))
    assert layouts.layout_cells(hashes) is None
    assert layouts.layout_cells([*hashes, *good]) == layouts.layout_cells(good) is not None


def test_a_hash_is_the_same_each_time_and_short() -> None:
    data = encoded(cloud(1), "JPEG")
    [text] = layouts.perceptual_hashes(data)
    assert layouts.perceptual_hashes(data) == (text,)
    assert len(text) < 600
    assert text.isascii()


def test_nothing_has_no_pairs() -> None:
    assert similarity.alike(b"", []) == []


def test_of_many_the_nearest_are_looked_up_and_none_of_the_twins_is_lost() -> None:
    rng = random.Random(5)
    pictures = [cloud(number, (60, 45)) for number in range(120)]
    parts = [picture.crop((rng.randint(0, 6), 0, 57, 42)) for picture in pictures[:60]]
    mirrored = [ImageOps.mirror(picture) for picture in pictures[:20]]
    cells = layouts_of(map(encoded, [*pictures, *parts, *mirrored]))
    kinds = range(len(cells) // 384)
    found = similarity.alike(cells, kinds, all_pairs=0)
    assert {(number, number + 120) for number in range(60)} <= set(map(both, found))
    assert found == similarity.alike(cells, kinds)
    assert found == similarity.alike(cells, kinds, all_pairs=0)  # however often it is asked


@pytest.mark.parametrize("all_pairs", [0, 10_000])
def test_of_very_many_that_are_alike_each_is_in_a_few_pairs(all_pairs: int) -> None:
    white, rng = bytearray(layouts_of([encoded(cloud(1))])), random.Random(3)
    cells = bytearray()
    for number in range(400):
        layout = bytearray(white)
        for place in rng.sample(range(384), 40):
            layout[place] = (layout[place] + rng.choice((-1, 1))) % 256
        cells += white if number % 2 else layout  # half of them are the very same
    pairs = similarity.alike(cells, range(400), all_pairs)
    assert len(pairs) <= 400 * 24
    linked = dict(enumerate(range(400)))
    for pair in pairs:  # all of them hang together
        low, high = sorted((_end(linked, pair.outer), _end(linked, pair.inner)))
        linked[high] = low
    assert {_end(linked, number) for number in range(400)} == {0}


def _end(linked: dict[int, int], number: int) -> int:
    while linked[number] != number:
        number = linked[number]
    return number


@pytest.mark.parametrize("count", [2, 3, 50])
def test_what_is_flat_is_in_no_pair_however_many_there_are(count: int) -> None:
    flat = layouts_of(encoded(Image.new("RGB", (64, 64), (n, n, n))) for n in range(count))
    assert similarity.alike(flat, range(count), all_pairs=0) == []
    one = layouts_of([encoded(cloud(1))])
    [pair] = similarity.alike(one + flat + one, range(count + 2), all_pairs=0)
    assert both(pair) == (0, count + 1)


def test_of_one_kind_none_is_looked_up() -> None:
    cells = layouts_of([encoded(cloud(1))]) * 30
    assert similarity.alike(cells, [4] * 30, all_pairs=0) == []
    pairs = similarity.alike(cells, [*[4] * 29, 5], all_pairs=0)
    assert {both(pair)[1] for pair in pairs} == {29}


def test_a_verdict_does_not_depend_on_what_is_judged_beside_it() -> None:
    files = [encoded(cloud(n // 2), "JPEG", quality=50 + n) for n in range(12)]
    files += [encoded(Image.blend(cloud(n), cloud(n + 50), 0.17)) for n in range(6)]
    pairs = similarity.alike(layouts_of(files), range(len(files)))
    thumbnails = dict(enumerate(map(thumbnail, files)))
    together = are_twins(thumbnails, pairs)
    assert set(together) == {False, True}
    assert together == [are_twins(thumbnails, [pair])[0] for pair in pairs]
    assert are_twins({}, []) == []
