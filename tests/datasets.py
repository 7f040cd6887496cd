"""A small dataset in tests: is there a red disc, or a blue square?"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from imagetag.dataset.manifest import Dataset, Row, summarize, write_part
from imagetag.dataset.split import parts_of_groups, split_of
from imagetag.layout import Layout, PartName
from imagetag.storage.opening import open_storage

TAG = "red/disc"
LAYOUT = Layout(TAG)


@dataclass(frozen=True)
class Picture:
    row: Row
    data: bytes


def draw(number: int) -> Picture:
    random = Random(number)
    width, height = random.randint(90, 128), random.randint(96, 130)
    image = Image.new("RGB", (width, height), tuple(random.randint(90, 200) for _ in range(3)))
    side = random.randint(30, 50)
    x, y = random.randint(0, width - side), random.randint(0, height - side)
    positive = number % 2 == 0
    if positive:
        ImageDraw.Draw(image).ellipse((x, y, x + side, y + side), (random.randint(180, 255), 9, 9))
    else:
        ImageDraw.Draw(image).rectangle(
            (x, y, x + side, y + side), (9, 9, random.randint(180, 255))
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if number % 3 else "JPEG")
    group = f"group {number // 3}"
    row = Row(
        post_id=number,
        board="drawn",
        page_url=f"https://board.example/post/{number}",
        md5=hashlib.md5(buffer.getvalue()).hexdigest(),
        ext="png" if number % 3 else "jpg",
        bytes=len(buffer.getvalue()),
        width=width,
        height=height,
        tags=(TAG,) if positive else (),
        rating="general",
        split=split_of(group, 0.25),
        label="positive" if positive else "negative",
        group=group,
    )
    return Picture(row, buffer.getvalue())


def key_of(row: Row) -> str:
    return LAYOUT.image(row.split, row.label, row.md5, row.ext)


def store(folder: Path, pictures: Iterable[Picture]) -> None:
    storage, rows = open_storage(str(folder)), []
    for picture in pictures:
        storage.write(key_of(picture.row), picture.data)
        rows.append(picture.row)
    images, size, fingerprint = summarize(rows)
    dataset = Dataset(
        tag=TAG,
        board="drawn",
        request={},
        images=images,
        bytes=size,
        failures={},
        skipped={},
        parts=(write_part(storage, LAYOUT, "part", rows),),
        fingerprint=fingerprint,
        created="2026-01-01T00:00:00+00:00",
        software="test",
    )
    storage.write(LAYOUT.dataset, dataset.model_dump_json().encode())


PICTURES = [draw(number) for number in range(120)]
ROWS = [picture.row for picture in PICTURES]


PARTS = parts_of_groups(((row.group, row.label) for row in ROWS if row.split == "train"), 0.15, 0.2)


def md5s(part: PartName) -> set[str]:
    """The images of a part of the train split."""
    return {row.md5 for row in ROWS if row.split == "train" and PARTS[row.group] == part}
