"""How many near-duplicates are found, and how many pictures are called that wrongly.

    python -m tests.benchmarks.near_duplicates [FOLDER] [--sheet pairs.png]

A changed copy of each picture is planted among the pictures of FOLDER (any depth; without one,
600 drawn scenes), one change after the other. A copy is found if it is called a twin of its
original. Twins among the originals, as they are, are counted and can be drawn side by side:
someone has to look which of them are different pictures.

What is looked up, where pictures are too many to compare all pairs, is told beside all pairs: on
the same pictures, and on 5,000 to 100,000 layouts in clusters, with memory and how time grows.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the matching has it

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imagetag.demo.scenes import draw_posts
from imagetag.imaging import layouts, similarity, twins
from imagetag.imaging.images import BadImage, load_rgb

_SIZES = {"all pairs": (5_000, 10_000), "looked up": (5_000, 10_000, 20_000, 50_000, 100_000)}

Change = Callable[[Image.Image, random.Random], Image.Image]


def crop(share: float, *, proportional: bool = True) -> Change:
    """Cut off a share of the width and of the height (or up to it, of each), anywhere."""

    def change(image: Image.Image, rng: random.Random) -> Image.Image:
        shares = (share, share) if proportional else (rng.uniform(0, share), rng.uniform(0, share))
        width, height = (
            round(side * (1 - part)) for side, part in zip(image.size, shares, strict=True)
        )
        x, y = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        return image.crop((x, y, x + width, y + height))

    return change


def scale(factor: float) -> Change:
    return lambda image, _: image.resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor))),
        Image.Resampling.BICUBIC,
    )


def border(image: Image.Image, rng: random.Random) -> Image.Image:
    widths = (round(image.width * 0.04), round(image.height * 0.04))
    return ImageOps.expand(image, widths, rng.choice(("black", "white")))


def several(image: Image.Image, rng: random.Random) -> Image.Image:
    image = ImageOps.mirror(crop(rng.uniform(0.05, 0.2))(image, rng))
    return scale(rng.uniform(0.4, 1.2))(image, rng)


def same(image: Image.Image, _rng: random.Random) -> Image.Image:
    return image


def brighter(factor: float) -> Change:
    return lambda image, _: ImageEnhance.Brightness(image).enhance(factor)


# What is done, and how the copy is saved: JPEG of a quality, or PNG.
CHANGES: dict[str, tuple[Change, int | None]] = {
    "crop 5 %": (crop(0.05), 90),
    "crop 10 %": (crop(0.1), 90),
    "crop 15 %": (crop(0.15), 90),
    "crop 20 %": (crop(0.2), 90),
    "crop 0-20 %, sides apart": (crop(0.2, proportional=False), 90),
    "rescale 30 %": (scale(0.3), 90),
    "rescale 60 %": (scale(0.6), 90),
    "rescale 200 %": (scale(2), 90),
    "JPEG quality 30": (same, 30),
    "JPEG quality 60": (same, 60),
    "JPEG quality 90": (same, 90),
    "PNG": (same, None),
    "mirror": (lambda image, _: ImageOps.mirror(image), 90),
    "brightness 0.75": (brighter(0.75), 90),
    "brightness 1.25": (brighter(1.25), 90),
    "border 4 %": (border, 90),
    "crop, mirror, rescale, q 60": (several, 60),
}
# Beyond what is promised.
OTHERS = {"brightness 0.75", "brightness 1.25", "border 4 %"}


def changed(image: Image.Image, name: str, seed: object) -> bytes:
    """Return a changed copy of a picture, encoded."""
    change, quality = CHANGES[name]
    buffer = io.BytesIO()
    copy = change(image, random.Random(f"{name} {seed}"))
    if quality is None:
        copy.save(buffer, "PNG", compress_level=1)
    else:
        copy.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


Looked = tuple[bytes, bytes]  # a layout and a thumbnail


def look(path: Path, name: str) -> tuple[Looked, Looked] | None:
    """Return the layout and thumbnail of a picture, and of its copy, changed as `name` says."""
    try:
        image = load_rgb(path)
    except BadImage:
        return None
    return _looked(path.read_bytes()), _looked(changed(image, name, path.name))


def _looked(data: bytes) -> Looked:
    thumbnail = layouts.thumbnail(data)
    cells = layouts.layout_cells(layouts.hashes_of(thumbnail))
    assert cells
    return cells, thumbnail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--threshold", type=int, default=layouts.THRESHOLD)
    parser.add_argument("--growth", action="store_true", help="only how time and memory grow")
    parser.add_argument("--sheet", type=Path, help="draw the twins among the originals here")
    options = parser.parse_args()
    if options.growth:
        growth()
        return
    with tempfile.TemporaryDirectory() as scratch:
        if options.folder is None:
            options.folder = Path(scratch)
            draw_posts(options.folder, 600, seed=77)
        measure(options)
    time_hashing()
    growth()


def measure(options: argparse.Namespace) -> None:
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in endings)
    names = [list(CHANGES)[number % len(CHANGES)] for number in range(len(paths))]
    with ProcessPoolExecutor() as pool:
        looked = list(pool.map(look, paths, names, chunksize=8))
    originals = [number for number, both in enumerate(looked) if both]
    copies = [(number, names[number]) for number in originals]
    seen, planted = [both[0] for both in looked if both], [both[1] for both in looked if both]
    everything = seen + planted
    kinds = range(len(everything))
    cells = b"".join(looked[0] for looked in everything)
    began = time.process_time()
    pairs = similarity.alike(cells, kinds, all_pairs=len(kinds))
    print(f"{len(everything)} pictures, {len(pairs)} pairs to look at closely", end=", ")
    print(f"found in {time.process_time() - began:.1f} s of the processor", end="; ")
    began = time.process_time()
    judged = _twins(pairs, everything, options.threshold)
    each = 1000 * (time.process_time() - began) / max(1, len(pairs))
    print(f"looked at in {each:.2f} ms each")
    began = time.process_time()
    known = {_both(pair) for pair in similarity.alike(cells, kinds, all_pairs=0)}
    kept = sum(pair in known for pair in judged)
    print(
        f"looked up instead: {len(known)} pairs in {time.process_time() - began:.1f} s, with "
        f"{kept} of the {len(judged)} pairs of twins, {100 * kept / max(1, len(judged)):.1f} %\n"
    )

    found: set[int] = set()
    among: list[tuple[int, int]] = []
    strangers: list[tuple[int, int]] = []
    for low, high in judged:
        pair = (originals[low % len(seen)], originals[high % len(seen)])
        if high < len(seen):
            among.append(pair)
        elif pair[0] == pair[1]:
            found.add(high - len(seen))
        else:
            strangers.append(pair)
    _table(copies, found)
    related = {frozenset(pair) for pair in among}
    new = {frozenset(pair) for pair in strangers} - related
    print(
        f"\n{len(among)} pairs of twins among the {len(originals)} originals, "
        f"of {len({number for pair in among for number in pair})} pictures; "
        f"copies make {len(new)} more pairs of different originals twins, "
        f"of {len({number for pair in new for number in pair})} pictures"
    )
    if options.sheet:
        _draw([*among, *(tuple(sorted(pair)) for pair in new)], paths, options.sheet)


def _twins(
    pairs: list[similarity.Pair], pictures: list[Looked], threshold: int
) -> list[tuple[int, int]]:
    thumbnails = {number: looked[1] for number, looked in enumerate(pictures)}
    told = twins.are_twins(thumbnails, pairs, threshold)
    return [_both(pair) for pair, are in zip(pairs, told, strict=True) if are]


def _both(pair: similarity.Pair) -> tuple[int, int]:
    return min(pair.outer, pair.inner), max(pair.outer, pair.inner)


def _table(copies: list[tuple[int, str]], found: set[int]) -> None:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for number, (_, name) in enumerate(copies):
        for key in (name, "others" if name in OTHERS else "crops, rescales, recompressions"):
            counts[key][0] += number in found
            counts[key][1] += 1
    for name in (*CHANGES, "crops, rescales, recompressions", "others"):
        hits, total = counts[name]
        print(f"{name:34} {hits:5} of {total:5} found  {100 * hits / max(total, 1):5.1f} %")


def _draw(pairs: list[tuple[int, ...]], paths: list[Path], sheet: Path) -> None:
    side, columns = 120, 8
    canvas = Image.new(
        "RGB", (columns * (2 * side + 8), max(1, -(-len(pairs) // columns)) * (side + 12)), "grey"
    )
    draw = ImageDraw.Draw(canvas)
    for number, pair in enumerate(pairs):
        x, y = number % columns * (2 * side + 8), number // columns * (side + 12)
        for place, index in enumerate(pair):
            image = load_rgb(paths[index], at_least=(side, side))
            image.thumbnail((side - 4, side - 4))
            canvas.paste(image, (x + place * side, y + 11))
        draw.text((x, y), " ".join(map(str, pair)), fill="yellow")
    canvas.save(sheet)


def time_hashing() -> None:
    """Print what a hash costs: a JPEG of 1000 x 1500 pixels, one thread."""
    noise = Image.effect_noise((250, 375), 80).resize((1000, 1500), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    noise.convert("RGB").save(buffer, "JPEG", quality=88)
    began, count = time.perf_counter(), 40
    for _ in range(count):
        layouts.perceptual_hashes(buffer.getvalue())
    rate = count / (time.perf_counter() - began)
    print(f"\nhashing: {rate:.0f} images/s in one thread (JPEG, {len(buffer.getvalue())} bytes)")


# --- Growth -----------------------------------------------------------------------------------


def growth() -> None:
    """Print time and memory of many layouts, looked up and by all pairs, and how they grow."""
    print("\n| layouts | how | pairs | planted | processor | memory |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for name, sizes in _SIZES.items():
        seconds = []
        for count in sizes:
            every = count if name == "all pairs" else 0
            # Each in a process of its own, whose memory is then its own too.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                pairs, found, taken, memory = pool.submit(matched, count, every).result()
            seconds.append(taken)
            print(
                f"| {count:,} | {name} | {pairs:,} | {100 * found:.1f} % found | {taken:.1f} s "
                f"| {memory:.0f} MB |",
                flush=True,
            )
        exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        print(f"\n{name}: time grows as the number to the power of {exponent:.2f}\n")


def matched(count: int, all_pairs: int) -> tuple[int, float, float, float]:
    """Match so many layouts.

    Returns how many pairs there are, the share of the planted among them, seconds of the
    processor, and the most megabytes that the process had.
    """
    cells, planted = clusters(count)
    similarity.alike(cells[: 2 * layouts.LAYOUT_BYTES], range(2))  # what is made once
    began = time.process_time()
    pairs = {_both(pair) for pair in similarity.alike(cells, range(count), all_pairs)}
    taken = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    there = [couple for couple in planted if _alone(cells, couple)]
    return len(pairs), sum(couple in pairs for couple in there) / len(there), taken, memory


def _alone(cells: bytes, couple: tuple[int, int]) -> bool:
    """Tell whether two are a pair where there are no others."""
    size = layouts.LAYOUT_BYTES
    both = b"".join(cells[number * size : (number + 1) * size] for number in couple)
    return bool(similarity.alike(both, range(2)))


def clusters(count: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return layouts as many pictures have them, and the numbers of 500 planted twins.

    They are sums of waves, the coarser the stronger, and each has more or less of one of 40 styles,
    of which some are much more common than others: a tenth are more style than anything else, and
    alike at first sight. A tenth are crops of others, half of those mirrored; 2 % are flat, and 1 %
    have the very same layout.
    """
    rng = np.random.default_rng(count)
    waves = 200 / (1 + np.add.outer(np.arange(8), np.arange(8))) ** 1.5
    waves = np.stack([waves, waves / 3, waves / 3])
    waves[0, 0, 0] = 0
    styles = rng.normal(size=(40, 3, 8, 8))
    common = 1 / np.arange(1, 41)
    cells = np.empty((count, layouts.LAYOUT_BYTES), np.uint8)
    crops = count // 10
    own = np.empty((crops, 3, 8, 8), np.float32)
    for start in range(0, count, 1000):
        stop = min(start + 1000, count)
        size = stop - start
        of = rng.choice(40, size, p=common / common.sum())
        share = rng.beta(2, 2, (size, 1, 1, 1))
        mixed = np.sqrt(share) * styles[of] + np.sqrt(1 - share) * rng.normal(size=(size, 3, 8, 8))
        windows = np.tile([0.0, 0.0, 1.0, 1.0], (size, 1))
        if start < crops:
            own[start:stop] = mixed[: crops - start]
        late = np.arange(start, stop) - (count - crops)  # the crops come last
        parts = late >= 0
        mixed[parts] = own[late[parts]]
        corners = rng.uniform(0, 0.1, (parts.sum(), 4)) * [1, 1, -1, -1]
        windows[parts] += corners
        windows[parts & (late % 2 == 1)] = windows[parts & (late % 2 == 1)][:, [2, 1, 0, 3]]
        cells[start:stop] = _layouts(mixed * waves, windows)
        kind = np.where(parts | (np.arange(start, stop) < crops), 1.0, rng.random(size))
        cells[start:stop][kind < 0.02] = rng.integers(0, 256, ((kind < 0.02).sum(), 1))
        cells[start:stop][(kind >= 0.02) & (kind < 0.03)] = cells[0]
    chosen = np.linspace(0, crops - 1, 500).astype(int).tolist()
    return cells.tobytes(), [(number, count - crops + number) for number in chosen]


def _layouts(waves: npt.NDArray[Any], windows: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the layouts of windows of sums of waves; of one from right to left, mirrored."""
    left, top, right, bottom = windows.T
    across, down = _means(left, right), _means(top, bottom)
    planes = down[:, None] @ waves @ across[:, None].swapaxes(2, 3) + 128
    planes = planes.clip(0, 255)
    small = planes[:, 1:].reshape(-1, 2, layouts.CHROMA, 2, layouts.CHROMA, 2).mean((3, 5))
    flat = [planes[:, 0].reshape(len(waves), -1), small.reshape(len(waves), -1)]
    return np.concatenate(flat, axis=1).astype(np.uint8)


def _means(start: npt.NDArray[Any], stop: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the mean of 8 waves in each of the cells of a stretch: `(stretches, cells, 8)`."""
    edges = start[:, None] + (stop - start)[:, None] * np.linspace(0, 1, layouts.LUMA + 1)
    turns = np.pi * np.arange(1, 8)
    rises = np.diff(np.sin(edges[:, :, None] * turns), axis=1) / turns
    rises /= np.diff(edges, axis=1)[:, :, None]
    return np.concatenate([np.ones((len(start), layouts.LUMA, 1)), rises], axis=2)


if __name__ == "__main__":
    main()
