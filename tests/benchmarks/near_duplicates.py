"""How many near-duplicates are found, and how many pictures are called that wrongly.

    python -m tests.benchmarks.near_duplicates [FOLDER] [--sheet pairs.png]

A changed copy of each picture is planted among the pictures of FOLDER (any depth; without one,
600 drawn scenes), one change after the other. A copy is found if it is called a twin of its
original. Twins among the originals, as they are, are counted and can be drawn side by side:
someone has to look which of them are different pictures.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imagetag.demo.scenes import draw_posts
from imagetag.imaging import layouts, similarity
from imagetag.imaging.images import BadImage, load_rgb

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


Looked = tuple[bytes, Any]  # a layout and a thumbnail


def look(path: Path, name: str) -> tuple[Looked, Looked] | None:
    """Return the layout and thumbnail of a picture, and of its copy, changed as `name` says."""
    try:
        image = load_rgb(path)
    except BadImage:
        return None
    return _looked(path.read_bytes()), _looked(changed(image, name, path.name))


def _looked(data: bytes) -> Looked:
    cells = layouts.layout_cells(layouts.perceptual_hashes(data))
    assert cells
    return cells, similarity.thumbnail(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--threshold", type=int, default=layouts.THRESHOLD)
    parser.add_argument("--many", type=int, default=20_000, help="layouts to time the matching on")
    parser.add_argument("--sheet", type=Path, help="draw the twins among the originals here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.folder is None:
            options.folder = Path(scratch)
            draw_posts(options.folder, 600, seed=77)
        measure(options)
    time_hashing()
    time_matching(options.many)


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
    began = time.perf_counter()
    pairs = similarity.alike(b"".join(looked[0] for looked in everything), kinds)
    print(f"{len(everything)} pictures, {len(pairs)} pairs to look at closely", end=", ")
    print(f"found in {time.perf_counter() - began:.0f} s", end="; ")
    began = time.perf_counter()
    twins = list(_twins(pairs, everything, options.threshold))
    print(f"looked at in {time.perf_counter() - began:.0f} s\n")

    found: set[int] = set()
    among: list[tuple[int, int]] = []
    strangers: list[tuple[int, int]] = []
    for one, other in twins:
        low, high = sorted((one, other))
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
) -> Iterator[tuple[int, int]]:
    for pair in pairs:
        if similarity.are_twins(pictures[pair.outer][1], pictures[pair.inner][1], pair, threshold):
            yield pair.outer, pair.inner


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


def time_matching(count: int) -> None:
    """Print how long `count` layouts take: clouds of colour, no two of them alike."""
    rng = random.Random(0)
    cells = bytearray()
    for _ in range(count):
        cloud = Image.frombytes("RGB", (6, 6), rng.randbytes(108))
        image = cloud.resize((64, 64), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        cells += layouts.layout_cells(layouts.perceptual_hashes(buffer.getvalue())) or b""
    began = time.perf_counter()
    pairs = similarity.alike(cells, range(count))
    seconds = time.perf_counter() - began
    print(
        f"matching: {count} layouts in {seconds:.1f} s ({len(pairs)} pairs); 100,000 would take "
        f"{seconds * (100_000 / count) ** 2:.0f} s, as time grows with the square"
    )


if __name__ == "__main__":
    main()
