"""Pictures for the demo and for tests, drawn by code: cartoon characters in busy scenes.

The things around the characters share their colours, so a classifier has to learn shapes.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from imagetag.log import Progress

Colour = tuple[int, int, int]
Point = tuple[float, float]

_SCALE = 2  # drawn so many times larger than saved, which smooths the edges
_INK: Colour = (46, 40, 56)
_WHITE: Colour = (250, 247, 240)
_COLOURS: dict[str, Colour] = {
    "orange": (238, 138, 52),
    "rust": (198, 88, 52),
    "red": (216, 74, 74),
    "yellow": (244, 200, 72),
    "green": (112, 180, 88),
    "teal": (66, 164, 160),
    "blue": (92, 140, 214),
    "purple": (150, 114, 200),
    "pink": (238, 152, 174),
    "brown": (152, 108, 78),
    "grey": (156, 166, 180),
    "white": (240, 236, 228),
}
_FIRST_ID = 1001
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


def draw_posts(folder: Path, count: int, seed: int) -> None:
    """Draw pictures into `folder/images`, and describe them in `folder/posts.jsonl`.

    A line of it has `id`, `file`, `tags`, `rating`, `width` and `height` in pixels, `md5`, `ext`,
    `size` in bytes, `score`, `created_at`, and `parent_id` where the picture is a variant of an
    earlier one. The same seed gives the same bytes, and a smaller count the first of them.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    gaps = _rng(seed, "ids")
    ids: list[int] = []
    with (
        (folder / "posts.jsonl").open("w", encoding="utf-8") as listing,
        Progress("drawing", total=count) as progress,
    ):
        for number in range(count):
            ids.append((ids[-1] if ids else _FIRST_ID) + gaps.randint(1, 4))
            post = {"id": ids[number]} | _draw_post(folder, number, seed)
            if (original := _original(number, seed)) != number:
                post["parent_id"] = ids[original]
            listing.write(json.dumps(post) + "\n")
            progress.advance()


def _draw_post(folder: Path, number: int, seed: int) -> dict[str, Any]:
    scene = _scene(number, seed)
    rng = _rng(seed, number, "file")
    data, ext = _encoded(_drawn(scene), rng)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    (folder / "images" / f"{md5}.{ext}").write_bytes(data)
    return {
        "file": f"images/{md5}.{ext}",
        "tags": _tags(scene),
        "rating": _rating(_original(number, seed), seed),
        "width": scene.width,
        "height": scene.height,
        "md5": md5,
        "ext": ext,
        "size": len(data),
        "score": max(0, rng.randint(-10, 30)),
        "created_at": (_EPOCH + timedelta(minutes=47 * number)).isoformat(),
    }


def _encoded(image: Image.Image, rng: Random) -> tuple[bytes, str]:
    ext = rng.choices(("jpg", "png", "webp"), (56, 38, 6))[0]
    buffer = io.BytesIO()
    if ext == "png":
        image.save(buffer, "PNG", compress_level=4)
    elif ext == "jpg":
        image.save(buffer, "JPEG", quality=rng.choice((80, 88, 94)))
    else:
        image.save(buffer, "WEBP", quality=85, method=2)
    return buffer.getvalue(), ext


def _rating(original: int, seed: int) -> str:
    # All the drawings are harmless: it is only the word that varies.
    ratings = ("general", "sensitive", "questionable", "explicit")
    return _rng(seed, original, "rating").choices(ratings, (82, 9, 5, 4))[0]


def _rng(*parts: object) -> Random:
    """Return the dice for one purpose: no throw for one thing shifts those for another."""
    return Random("/".join(map(str, parts)))  # noqa: S311


# --- What is where ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thing:
    """Something in a picture: centre and diameter in pixels, turned by `angle` radians."""

    name: str
    x: float
    y: float
    size: float
    angle: float
    colour: Colour
    seed: str


@dataclass(frozen=True)
class _Scene:
    """A picture before it is drawn; sizes in pixels."""

    width: int
    height: int
    background: str
    seed: str
    things: tuple[_Thing, ...]  # from back to front
    mirrored: bool = False


def _original(number: int, seed: int) -> int:
    """Return which picture this one is a variant of; itself where it is none."""
    rng = _rng(seed, number, "variant")
    if number == 0 or rng.random() > 0.09:
        return number
    return _original(rng.randrange(max(0, number - 30), number), seed)


def _scene(number: int, seed: int) -> _Scene:
    original = _original(number, seed)
    scene = _new_scene(f"{seed}/{original}")
    if original == number:
        return scene
    if _rng(seed, number, "change").random() < 0.5:
        return replace(scene, mirrored=True)
    others = [name for name in _BACKGROUNDS if name != scene.background]
    name = _rng(seed, number, "other background").choice(others)
    return replace(scene, background=name, seed=f"{seed}/{number}")


def _new_scene(seed: str) -> _Scene:
    rng = _rng(seed)
    side = math.exp(rng.uniform(math.log(296), math.log(730)))
    aspect = math.exp(rng.uniform(math.log(2 / 3), math.log(3 / 2)))
    width, height = round(side * math.sqrt(aspect)), round(side / math.sqrt(aspect))
    cast = [name for name in _CHARACTERS if rng.random() < 0.4]
    rng.shuffle(cast)
    characters = _placed_characters(cast, width, height, rng)
    props = _placed_props(rng.randint(3, 9), characters, width, height, rng)
    background = rng.choice(list(_BACKGROUNDS))
    return _Scene(width, height, background, seed, (*props, *characters))


def _placed_characters(cast: Sequence[str], width: int, height: int, rng: Random) -> list[_Thing]:
    """Place characters so that none covers another or leaves the picture."""
    largest = (0.75, 0.75, 0.58, 0.48, 0.42, 0.4)[len(cast)]
    shrink = 1.0
    while True:
        placed: list[_Thing] = []
        for name in cast:
            size = min(width, height) * rng.uniform(0.37, largest) * shrink
            spot = _free_spot(size / 2, placed, width, height, rng)
            if spot is None:
                break
            colour = _COLOURS[rng.choice(_CHARACTERS[name][1])]
            placed.append(_thing(name, spot, size, 25, colour, rng))
        else:
            return placed
        shrink *= 0.97  # a crowded picture: try again, a little smaller


def _placed_props(
    count: int, characters: Sequence[_Thing], width: int, height: int, rng: Random
) -> list[_Thing]:
    placed: list[_Thing] = []
    for _ in range(count):
        size = min(width, height) * rng.uniform(0.15, 0.34)
        # With half its radius: it may be cut off or partly hidden, and is still what its tag says.
        spot = _free_spot(size / 4, [*characters, *placed], width, height, rng)
        if spot is not None:
            colour = _COLOURS[rng.choice(list(_COLOURS))]
            placed.append(_thing(rng.choice(list(_PROPS)), spot, size, 18, colour, rng))
    return placed


def _free_spot(
    radius: float, placed: Sequence[_Thing], width: int, height: int, rng: Random
) -> Point | None:
    for _ in range(40):
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if all(math.dist((x, y), (it.x, it.y)) > radius + it.size / 2 for it in placed):
            return x, y
    return None


def _thing(
    name: str, spot: Point, size: float, degrees: float, colour: Colour, rng: Random
) -> _Thing:
    angle = math.radians(rng.uniform(-degrees, degrees))
    return _Thing(name, *spot, size, angle, _jittered(colour, rng), str(rng.random()))


def _tags(scene: _Scene) -> list[str]:
    names = {thing.name for thing in scene.things}
    cast = sum(name in _CHARACTERS for name in names)
    tags = names | {scene.background, "no_humans"} | ({"solo"} if cast == 1 else set())
    if max(scene.width, scene.height) >= 750:
        tags.add("highres")
    if max(scene.width, scene.height) < 400:
        tags.add("lowres")
    ratio = scene.width / scene.height
    tags.add("landscape" if ratio > 1.1 else "portrait" if ratio < 0.9 else "square")
    return sorted(tags)


# --- Drawing ----------------------------------------------------------------------------------


def _drawn(scene: _Scene) -> Image.Image:
    size = (scene.width * _SCALE, scene.height * _SCALE)
    image = _BACKGROUNDS[scene.background](size, _rng(scene.seed, "background"))
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        paint = _PROPS[thing.name] if thing.name in _PROPS else _CHARACTERS[thing.name][0]
        paint(_Pen(draw, thing), thing.colour, _rng(thing.seed))
    image = image.reduce(_SCALE)
    return ImageOps.mirror(image) if scene.mirrored else image


class _Pen:
    """Draws one thing in its own coordinates: a circle of radius 1 around (0, 0), y downwards."""

    def __init__(self, draw: ImageDraw.ImageDraw, thing: _Thing) -> None:
        self._draw = draw
        self._x, self._y = thing.x * _SCALE, thing.y * _SCALE
        self._radius = thing.size * _SCALE / 2
        self._cos, self._sin = math.cos(thing.angle), math.sin(thing.angle)

    def polygon(self, points: Sequence[Point], fill: Colour, *, ink: bool = True) -> None:
        """Fill a shape; `ink` draws its outline."""
        placed = [self._placed(point) for point in points]
        self._draw.polygon(placed, fill=fill)
        if ink:  # over its first corner again, for that corner's joint
            self._draw.line(
                [*placed, *placed[:2]], fill=_INK, width=self._width(0.05), joint="curve"
            )

    def blob(self, points: Sequence[Point], fill: Colour, *, ink: bool = True) -> None:
        """Fill the smooth shape through these points."""
        self.polygon(_smooth(points, closed=True), fill, ink=ink)

    def both(self, points: Sequence[Point], fill: Colour, *, ink: bool = True) -> None:
        """Fill the smooth symmetric shape whose right half, from the top down, is this."""
        left = [(-x, y) for x, y in reversed(points) if x]
        self.blob([*points, *left], fill, ink=ink)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, *, ink: bool = True
    ) -> None:
        """Fill an ellipse."""
        self.polygon(_arc(x, y, rx, ry, 0, 345, 15), fill, ink=ink)

    def box(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Fill a rectangle with round corners."""
        corner = min(rx, ry) * 0.35
        points = [
            point
            for cx, cy, start in ((1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270))
            for point in _arc(
                x + cx * (rx - corner),
                y + cy * (ry - corner),
                corner,
                corner,
                start,
                start + 90,
                30,
            )
        ]
        self.polygon(points, fill)

    def stroke(self, points: Sequence[Point], width: float, fill: Colour = _INK) -> None:
        """Draw the smooth line through these points, with round ends."""
        placed = [self._placed(point) for point in _smooth(points, closed=False)]
        pixels = self._width(width)
        self._draw.line(placed, fill=fill, width=pixels, joint="curve")
        for x, y in (placed[0], placed[-1]):
            half = pixels / 2
            self._draw.ellipse((x - half, y - half, x + half, y + half), fill=fill)

    def eye(self, x: float, y: float, radius: float, look: Point) -> None:
        """Draw a white eye that looks to one side."""
        self.ellipse(x, y, radius, radius, _WHITE)
        x, y = x + look[0] * radius * 0.35, y + look[1] * radius * 0.35
        self.dot(x, y, radius * 0.6, _INK)
        self.dot(x - radius * 0.2, y - radius * 0.25, radius * 0.2, _WHITE)

    def dot(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Fill a circle without an outline."""
        (px, py), pixels = self._placed((x, y)), radius * self._radius
        self._draw.ellipse((px - pixels, py - pixels, px + pixels, py + pixels), fill=fill)

    def _placed(self, point: Point) -> Point:
        x, y = point[0] * self._radius, point[1] * self._radius
        return (
            self._x + x * self._cos - y * self._sin,
            self._y + x * self._sin + y * self._cos,
        )

    def _width(self, width: float) -> int:
        return max(2, round(width * self._radius))


def _arc(
    x: float, y: float, rx: float, ry: float, start: int, stop: int, step: int = 15
) -> list[Point]:
    """Return points along an ellipse: degrees, clockwise from the right, both ends included."""
    angles = [math.radians(angle) for angle in range(start, stop + 1, step)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def _smooth(points: Sequence[Point], *, closed: bool) -> list[Point]:
    """Return points along the Catmull-Rom spline through these."""
    count = len(points)
    around = [points[-1], *points, *points[:2]] if closed else [points[0], *points, points[-1]]
    curve = []
    for i in range(count if closed else count - 1):
        a, b, c, d = around[i : i + 4]
        for step in range(6):
            t = step / 6
            curve.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return curve if closed else [*curve, points[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _jittered(colour: Colour, rng: Random) -> Colour:
    shift = rng.randint(-14, 14)
    return _colour(value + shift + rng.randint(-8, 8) for value in colour)


def _shade(colour: Colour, factor: float) -> Colour:
    """Return the colour darker (below 1) or lighter (above 1)."""
    if factor <= 1:
        return _colour(value * factor for value in colour)
    return _colour(255 - (255 - value) / factor for value in colour)


def _colour(values: Any) -> Colour:
    red, green, blue = (min(255, max(0, round(value))) for value in values)
    return red, green, blue


# --- Characters -------------------------------------------------------------------------------


def _robot(pen: _Pen, colour: Colour, rng: Random) -> None:
    dark, pale = _shade(colour, 0.78), _shade(colour, 1.8)
    glow = rng.choice(((140, 240, 220), (255, 226, 130), (255, 160, 150)))
    for side in (-1, 1):
        wave = rng.choice((0.05, 0.5, 0.75))
        pen.box(side * 0.24, 0.86, 0.15, 0.12, dark)
        pen.stroke([(side * 0.4, 0.4), (side * 0.66, 0.48), (side * 0.82, wave)], 0.2)
        pen.stroke([(side * 0.4, 0.4), (side * 0.66, 0.48), (side * 0.82, wave)], 0.11, dark)
        pen.ellipse(side * 0.82, wave, 0.12, 0.12, pale)
        pen.box(side * 0.72, -0.3, 0.1, 0.17, dark)
    pen.stroke([(0, -0.6), (0, -0.85)], 0.08)
    pen.ellipse(0, -0.89, 0.1, 0.1, glow)
    pen.box(0, 0.48, 0.44, 0.34, colour)
    pen.box(0, 0.47, 0.27, 0.19, pale)
    for x, name in ((-0.14, "red"), (0, "yellow"), (0.14, "teal")):
        pen.dot(x, 0.42, 0.05, _COLOURS[name])
    pen.stroke([(-0.15, 0.55), (0.15, 0.55)], 0.04, dark)
    pen.box(0, -0.28, 0.66, 0.42, colour)
    pen.box(0, -0.36, 0.52, 0.23, _INK)
    for x in (-0.23, 0.23):
        pen.dot(x, -0.36, 0.17, glow)
        pen.dot(x, -0.36, 0.06, _INK)
    pen.box(0, -0.01, 0.3, 0.08, _WHITE)
    for x in (-0.15, 0, 0.15):
        pen.stroke([(x, -0.08), (x, 0.06)], 0.03)


def _fox(pen: _Pen, colour: Colour, rng: Random) -> None:
    dark = _shade(colour, 0.55)
    side = rng.choice((-1, 1))
    tail = [(0.2, 0.8), (0.7, 0.86), (0.98, 0.5), (0.86, 0.06), (0.68, 0.3), (0.4, 0.5)]
    pen.blob([(side * x, y) for x, y in tail], colour)
    tip = [(0.95, 0.4), (0.86, 0.06), (0.7, 0.28), (0.82, 0.34)]
    pen.polygon([(side * x, y) for x, y in tip], _WHITE)
    pen.both([(0, 0.1), (0.34, 0.3), (0.44, 0.75), (0.3, 0.95), (0, 0.95)], colour)
    pen.both([(0, 0.3), (0.2, 0.4), (0.22, 0.7), (0, 0.86)], _WHITE, ink=False)
    for x in (-0.2, 0.2):
        pen.ellipse(x, 0.92, 0.15, 0.09, dark)
    for s in (-1, 1):
        pen.polygon([(s * 0.08, -0.5), (s * 0.54, -1.0), (s * 0.62, -0.32)], colour)
        pen.polygon([(s * 0.28, -0.5), (s * 0.5, -0.84), (s * 0.54, -0.4)], dark, ink=False)
    face = [(0, -0.62), (0.4, -0.56), (0.64, -0.3), (0.86, 0.06), (0.42, 0.2), (0, 0.4)]
    pen.both(face, colour)
    cheek = [(0.06, 0.05), (0.3, -0.16), (0.56, -0.1), (0.78, 0.05), (0.4, 0.17), (0.1, 0.33)]
    for s in (-1, 1):
        pen.blob([(s * x, y) for x, y in cheek], _WHITE, ink=False)
    pen.both([(0, 0.1), (0.16, 0.12), (0.2, 0.28), (0, 0.36)], _WHITE, ink=False)
    for s in (-1, 1):
        pen.ellipse(s * 0.29, -0.22, 0.09, 0.12, _INK, ink=False)
        pen.dot(s * 0.29 - 0.03, -0.26, 0.035, _WHITE)
    pen.both([(0, 0.12), (0.12, 0.13), (0.06, 0.24), (0, 0.27)], _INK, ink=False)
    pen.stroke([(-0.14, 0.28), (-0.06, 0.33), (0, 0.27), (0.06, 0.33), (0.14, 0.28)], 0.035)


def _owl(pen: _Pen, colour: Colour, rng: Random) -> None:
    dark, pale = _shade(colour, 0.72), _shade(colour, 2.2)
    look = (rng.uniform(-1, 1), rng.uniform(-0.7, 0.7))
    for x in (-0.22, 0.22):
        for toe in (-0.1, 0, 0.1):
            pen.ellipse(x + toe, 0.93, 0.06, 0.07, _COLOURS["orange"])
    head = [(0, -0.72), (0.35, -0.78), (0.66, -0.98), (0.68, -0.45)]
    pen.both([*head, (0.74, 0.2), (0.52, 0.82), (0, 0.92)], colour)
    pen.both([(0, 0.06), (0.4, 0.14), (0.46, 0.5), (0.3, 0.78), (0, 0.85)], pale, ink=False)
    for y, xs in ((0.3, (-0.2, 0, 0.2)), (0.47, (-0.28, -0.1, 0.1, 0.28)), (0.64, (-0.2, 0, 0.2))):
        for x in xs:
            pen.stroke(_arc(x, y, 0.08, 0.07, 0, 180, 45), 0.035, dark)
    for s in (-1, 1):
        wing = [(0.62, -0.1), (0.86, 0.2), (0.84, 0.6), (0.62, 0.76), (0.5, 0.4)]
        pen.blob([(s * x, y) for x, y in wing], dark)
        pen.ellipse(s * 0.31, -0.34, 0.34, 0.34, pale)
        pen.eye(s * 0.29, -0.34, 0.23, look)
    pen.polygon([(-0.11, -0.16), (0.11, -0.16), (0, 0.1)], _COLOURS["orange"])


def _ghost(pen: _Pen, colour: Colour, rng: Random) -> None:
    pale = _shade(colour, 2.0)
    hem = [(0.72 - i * 0.24, 0.86 if i % 2 else 0.66) for i in range(7)]
    side = [(0.66, 0.2), (0.72, 0.66)]
    top = _arc(0, -0.3, 0.62, 0.66, 180, 360, 20)
    for s in (-1, 1):
        up = rng.choice((-0.22, 0.16))
        pen.blob([(s * 0.5, -0.02), (s * 0.92, up), (s * 0.9, up + 0.2), (s * 0.56, 0.28)], pale)
    pen.blob([*top, *side, *hem[1:], (-0.66, 0.2)], pale)
    for x in (-0.24, 0.24):
        pen.ellipse(x, -0.32, 0.12, 0.18, _INK, ink=False)
        pen.dot(x + 0.03, -0.4, 0.05, _WHITE)
        pen.ellipse(x * 1.75, -0.06, 0.11, 0.06, _COLOURS["pink"], ink=False)
    pen.ellipse(0, 0.06, 0.12, rng.choice((0.09, 0.17)), _INK, ink=False)


def _frog(pen: _Pen, colour: Colour, rng: Random) -> None:
    dark, pale = _shade(colour, 0.72), _shade(colour, 2.4)
    look = (rng.uniform(-1, 1), rng.uniform(-0.7, 0.7))
    for s in (-1, 1):
        leg = [(0.3, 0.55), (0.66, 0.22), (0.96, 0.5), (0.9, 0.82), (0.4, 0.86)]
        pen.blob([(s * x, y) for x, y in leg], dark)
        for toe in (0.62, 0.8, 0.96):
            pen.ellipse(s * toe, 0.86, 0.09, 0.08, dark)
    pen.both([(0, 0.0), (0.44, 0.1), (0.58, 0.5), (0.42, 0.88), (0, 0.92)], colour)
    pen.both([(0, 0.3), (0.3, 0.36), (0.38, 0.62), (0, 0.86)], pale, ink=False)
    for s in (-1, 1):
        pen.ellipse(s * 0.2, 0.9, 0.14, 0.08, colour)
        pen.ellipse(s * 0.46, -0.56, 0.29, 0.29, colour)
    pen.both([(0, -0.48), (0.5, -0.5), (0.84, -0.1), (0.6, 0.26), (0, 0.34)], colour)
    for s in (-1, 1):
        pen.eye(s * 0.46, -0.58, 0.2, look)
        pen.dot(s * 0.1, -0.2, 0.03, _INK)
        pen.ellipse(s * 0.6, -0.02, 0.1, 0.06, _COLOURS["pink"], ink=False)
    pen.stroke(_arc(0, -0.12, 0.5, 0.28, 15, 165), 0.05)


# --- Things around them -----------------------------------------------------------------------


def _tree(pen: _Pen, colour: Colour, _rng: Random) -> None:
    pen.box(0, 0.7, 0.14, 0.28, _COLOURS["brown"])
    for top, wide in ((-0.1, 0.7), (-0.5, 0.56), (-0.95, 0.42)):
        pen.polygon([(0, top), (wide, top + 0.68), (-wide, top + 0.68)], colour)


def _house(pen: _Pen, colour: Colour, rng: Random) -> None:
    pen.box(0, 0.4, 0.62, 0.5, colour)
    pen.polygon([(-0.85, 0), (0, -0.8), (0.85, 0)], _COLOURS[rng.choice(("rust", "blue", "grey"))])
    pen.box(-0.22, 0.6, 0.15, 0.3, _shade(colour, 0.6))
    pen.box(0.28, 0.36, 0.17, 0.17, _WHITE)
    pen.stroke([(0.28, 0.2), (0.28, 0.52)], 0.04)
    pen.stroke([(0.12, 0.36), (0.44, 0.36)], 0.04)


def _cloud(pen: _Pen, colour: Colour, _rng: Random) -> None:
    edge = [(-0.9, 0.3), (-0.95, 0.0), (-0.6, -0.12), (-0.42, -0.45), (0.02, -0.5), (0.3, -0.22)]
    pen.blob([*edge, (0.65, -0.3), (0.95, 0.05), (0.8, 0.35), (0, 0.4)], _shade(colour, 1.8))


def _ball(pen: _Pen, colour: Colour, rng: Random) -> None:
    pen.ellipse(0, 0, 0.8, 0.8, colour)
    band = _COLOURS[rng.choice(("white", "yellow", "red"))]
    pen.polygon([*_arc(0, 0, 0.8, 0.8, -20, 20, 10), *_arc(0, 0, 0.8, 0.8, 160, 200, 10)], band)
    pen.dot(0, 0, 0.2, _INK)


def _star(pen: _Pen, colour: Colour, _rng: Random) -> None:
    corners = []
    for i in range(10):
        radius, angle = (0.95, 0.45)[i % 2], math.radians(36 * i - 90)
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    pen.polygon(corners, colour)


def _flower(pen: _Pen, colour: Colour, rng: Random) -> None:
    pen.stroke([(0, 0), (0.08, 0.5), (0, 0.98)], 0.1, _COLOURS["green"])
    for i in range(petals := rng.choice((5, 6, 7))):
        angle = 2 * math.pi * i / petals
        pen.ellipse(0.42 * math.cos(angle), 0.42 * math.sin(angle) - 0.2, 0.28, 0.28, colour)
    pen.ellipse(0, -0.2, 0.25, 0.25, _COLOURS["yellow"])


def _mushroom(pen: _Pen, colour: Colour, _rng: Random) -> None:
    pen.both([(0, -0.1), (0.25, 0.0), (0.3, 0.8), (0, 0.86)], _WHITE)
    pen.polygon([*_arc(0, 0.05, 0.9, 0.85, 180, 360), (0.9, 0.1), (-0.9, 0.1)], colour)
    for x, y, radius in ((-0.45, -0.25, 0.15), (0.1, -0.5, 0.18), (0.5, -0.15, 0.13)):
        pen.dot(x, y, radius, _WHITE)


def _balloon(pen: _Pen, colour: Colour, _rng: Random) -> None:
    pen.stroke([(0, 0.4), (0.1, 0.65), (-0.05, 0.98)], 0.05)
    pen.both([(0, -0.95), (0.58, -0.6), (0.5, 0.0), (0.1, 0.42), (0, 0.44)], colour)
    pen.dot(-0.25, -0.5, 0.11, _WHITE)


def _crate(pen: _Pen, colour: Colour, _rng: Random) -> None:
    pen.box(0, 0, 0.75, 0.75, colour)
    pen.box(0, 0, 0.52, 0.52, _shade(colour, 0.75))
    pen.stroke([(-0.48, -0.48), (0.48, 0.48)], 0.16)
    pen.stroke([(-0.48, -0.48), (0.48, 0.48)], 0.09, colour)


# --- Backgrounds ------------------------------------------------------------------------------


def _plain(size: tuple[int, int], rng: Random) -> Image.Image:
    return Image.new("RGB", size, _pastel(rng))


def _gradient(size: tuple[int, int], rng: Random) -> Image.Image:
    return _blend(size, [_pastel(rng) for _ in range(4)])


def _striped(size: tuple[int, int], rng: Random) -> Image.Image:
    image = Image.new("RGB", size, _pastel(rng))
    draw = ImageDraw.Draw(image)
    colour, step = _pastel(rng), min(size) / rng.randint(5, 12)
    lean = rng.choice((-1.0, -0.5, 0.0, 0.5, 1.0)) * size[1]
    x = -size[1]
    while x < size[0] + size[1]:
        band = [(x, 0), (x + step / 2, 0), (x + step / 2 + lean, size[1]), (x + lean, size[1])]
        draw.polygon(band, fill=colour)
        x += round(step)
    return image


def _dotted(size: tuple[int, int], rng: Random) -> Image.Image:
    image = Image.new("RGB", size, _pastel(rng))
    draw = ImageDraw.Draw(image)
    colour, step = _pastel(rng), min(size) // rng.randint(6, 11)
    for row, y in enumerate(range(0, size[1] + step, step)):
        for x in range(-(row % 2) * step // 2, size[0] + step, step):
            draw.ellipse((x, y, x + step * 0.45, y + step * 0.45), fill=colour)
    return image


def _checkered(size: tuple[int, int], rng: Random) -> Image.Image:
    columns = rng.randint(4, 12)
    rows = max(1, round(columns * size[1] / size[0]))
    colours = [_pastel(rng), _pastel(rng)]
    board = Image.new("RGB", (columns, rows))
    for x in range(columns):
        for y in range(rows):
            board.putpixel((x, y), colours[(x + y) % 2])
    return board.resize(size, Image.Resampling.NEAREST)


def _hills(size: tuple[int, int], rng: Random) -> Image.Image:
    image = _blend(size, [_pastel(rng)] * 2 + [_WHITE] * 2)
    draw = ImageDraw.Draw(image)
    for level in (0.55, 0.75):
        colour = _jittered(_shade(_COLOURS["green"], rng.uniform(0.7, 1.3)), rng)
        phase, waves = rng.uniform(0, 6), rng.uniform(3, 7)
        ridge = [
            (x, size[1] * (level + 0.07 * math.sin(phase + waves * x / size[0])))
            for x in range(0, size[0] + 40, 40)
        ]
        draw.polygon([*ridge, (size[0] + 40, size[1]), (0, size[1])], fill=colour)
    return image


def _night(size: tuple[int, int], rng: Random) -> Image.Image:
    dark = (rng.randint(24, 50), rng.randint(26, 50), rng.randint(70, 110))
    image = _blend(size, [dark] * 2 + [_shade(dark, 1.6)] * 2)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, radius = rng.randrange(size[0]), rng.randrange(size[1]), rng.randint(1, 5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_WHITE)
    return image


def _sunset(size: tuple[int, int], rng: Random) -> Image.Image:
    top = _jittered((120, 90, 160), rng)
    low = _jittered((250, 170, 100), rng)
    image = _blend(size, [top, top, low, low])
    x, y, radius = rng.uniform(0, size[0]), size[1] * rng.uniform(0.55, 0.9), min(size) * 0.2
    disc = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(image).ellipse(disc, fill=(255, 224, 150))
    return image


def _blend(size: tuple[int, int], corners: Sequence[Colour]) -> Image.Image:
    """Blend four corners: top left and right, bottom left and right."""
    image = Image.new("RGB", (2, 2))
    for i, colour in enumerate(corners):
        image.putpixel((i % 2, i // 2), colour)
    return image.resize(size, Image.Resampling.BILINEAR)


def _pastel(rng: Random) -> Colour:
    hue, saturation, value = rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.55, 1.0)
    return _colour(255 * part for part in colorsys.hsv_to_rgb(hue, saturation, value))


_Paint = Callable[[_Pen, Colour, Random], None]

_CHARACTERS: dict[str, tuple[_Paint, tuple[str, ...]]] = {
    "robot": (_robot, ("grey", "teal", "red")),
    "fox": (_fox, ("orange", "rust", "grey")),
    "owl": (_owl, ("brown", "purple", "blue")),
    "ghost": (_ghost, ("white", "pink", "teal")),
    "frog": (_frog, ("green", "teal", "yellow")),
}
_PROPS: dict[str, _Paint] = {
    "tree": _tree,
    "house": _house,
    "cloud": _cloud,
    "ball": _ball,
    "star": _star,
    "flower": _flower,
    "mushroom": _mushroom,
    "balloon": _balloon,
    "crate": _crate,
}
_BACKGROUNDS: dict[str, Callable[[tuple[int, int], Random], Image.Image]] = {
    "simple_background": _plain,
    "gradient_background": _gradient,
    "striped_background": _striped,
    "polka_dot_background": _dotted,
    "checkered_background": _checkered,
    "hills": _hills,
    "night": _night,
    "sunset": _sunset,
}
