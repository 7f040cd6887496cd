"""A small dataset in tests: is there a red disc, or a blue square?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from imagetag.dataset.manifest import Row
from imagetag.dataset.split import parts_of_groups, split_of
from imagetag.layout import Layout, PartName
from imagetag.storage.opening import open_storage
from tests.builders.datasets import store_dataset
from tests.builders.pictures import encoded
from tests.builders.rows import row_of

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
    data = encoded(image, "PNG" if number % 3 else "JPEG")
    group = f"group {number // 3}"
    row = row_of(
        number,
        data,
        board="drawn",
        tags=(TAG,) if positive else (),
        split=split_of(group, 0.25),
        label="positive" if positive else "negative",
        group=group,
    )
    return Picture(row, data)


def store(folder: Path, pictures: Iterable[Picture]) -> None:
    pictures = list(pictures)
    rows, files = [each.row for each in pictures], [each.data for each in pictures]
    store_dataset(open_storage(str(folder)), TAG, rows, files, board="drawn")


PICTURES = [draw(number) for number in range(120)]
ROWS = [picture.row for picture in PICTURES]


PARTS = parts_of_groups(((row.group, row.label) for row in ROWS if row.split == "train"), 0.15, 0.2)


def md5s(part: PartName) -> set[str]:
    """The images of a part of the train split."""
    return {row.md5 for row in ROWS if row.split == "train" and PARTS[row.group] == part}
