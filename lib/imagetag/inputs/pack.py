"""Pack a tag's train split into shards of resized images, for sets larger than a node's disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from imagetag import __version__
from imagetag.dataset import (
    THRESHOLD_FRACTION,
    VALIDATION_FRACTION,
    Dataset,
    Resize,
    Row,
    frame_of,
    load_dataset,
    repair_latest,
)
from imagetag.errors import InputError, UsageError
from imagetag.explore import input_size
from imagetag.imaging import BadImage, Frame, Size, load_resized
from imagetag.inputs.cleaning import IGNORE, Cleaning, find_cleaning
from imagetag.inputs.pack_index import Packed, Shard, load_packed
from imagetag.inputs.partition import find_partition, train_rows
from imagetag.layout import LABELS, Label, Layout, PartName
from imagetag.log import Progress, get_logger
from imagetag.parallel import map_ahead
from imagetag.quiet import quiet_imports
from imagetag.storage import ObjectNotFound, Storage

_PARTS: tuple[PartName, ...] = ("train", "validation")
_MAX_SIDE = 65_500  # pixels, of a JPEG
_MAX_NOTE = 1 << 20  # bytes of what is noted of a shard, which has some hundreds
# Measured on photographs and drawings at 224 x 224 pixels: a JPEG's quality, and bytes a pixel.
_QUALITIES, _BYTES_A_PIXEL = (1, 75, 95, 100), (0.05, 0.25, 0.55, 1.1)
_MORE_BYTES = 700  # of an image's headers and its record


class Packing(BaseModel):
    """What decides the content of a pack. The options of `imagetag pack` say what each is."""

    model_config = ConfigDict(frozen=True)

    image_size: str = "auto"
    resize: Resize = "letterbox"
    validation_fraction: float = VALIDATION_FRACTION
    threshold_fraction: float = THRESHOLD_FRACTION
    jpeg_quality: int = 95
    shard_bytes: int = 64 << 20
    exclude_suspects: str = "no"
    verdicts: str = "use"
    seed: int = 1


def pack_tag(storage: Storage, tag: str, packing: Packing, *, concurrency: int = 16) -> Packed:
    """Write a tag's train split as shards, and after them the index that makes them a pack.

    What is packed already is left as it is; of a pack that was stopped, or has lost shards, only
    the missing ones are written. A shard's content does not depend on how it came to be.

    Args:
        storage: has the dataset, and gets the pack.
        tag: whose.
        packing: how.
        concurrency: images read and resized at once; twice as many are in memory at the most.

    Raises:
        InputError: if there is no dataset, no recommended size, no list of suspects, or a part of
            it has no image that can be read.
        UsageError: if the size cannot be packed.

    """
    dataset = load_dataset(storage, tag)
    size = input_size(storage, tag, packing.image_size)
    fractions = packing.validation_fraction, packing.threshold_fraction
    cleaning = find_cleaning(
        storage, dataset, packing.exclude_suspects, packing.verdicts, fractions
    )
    update = {"exclude_suspects": cleaning.suspects, "verdicts": cleaning.verdicts}
    packing = packing.model_copy(update=update)
    if max(size) > _MAX_SIDE:
        raise UsageError(
            f"--image-size {packing.image_size!r}: packed images have {_MAX_SIDE} pixels a side "
            "at the most"
        )
    name = _name(packing, size, dataset)
    layout = Layout(tag)
    sizes = _Sizes(storage, layout.packed(name))
    done = _complete(storage, tag, name)
    if done and all(
        sizes.of(shard.key) == shard.bytes for part in done.parts.values() for shard in part
    ):
        repair_latest(
            *(storage, layout.latest_packed, name, done.created),
            newest=lambda: load_packed(storage, tag).created,
        )
        get_logger().info("already packed", name=name)
        return done

    images = _images(storage, dataset, packing, size, cleaning)
    parts = _Packer(storage, layout, name, packing, size, sizes, concurrency).pack(images)
    packed = Packed(
        tag=tag,
        name=name,
        fingerprint=dataset.fingerprint,
        image_size=size,
        parts=parts,
        software=f"imagetag {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **packing.model_dump(exclude={"image_size"}),
    )
    for part, shards in parts.items():
        if not any(shard.images for shard in shards):
            raise InputError(
                f"none of the {part} images of {tag!r} can be read; see why, delete "
                f"{storage.url}/{layout.packed(name)} and pack again"
            )
    marker = packed.model_dump_json(indent=2).encode() + b"\n"
    storage.write(layout.packed(name, "index.json"), marker)
    storage.write(layout.latest_packed, name.encode() + b"\n")
    written = [shard for shards in parts.values() for shard in shards]
    get_logger().info(
        "packed",
        name=name,
        shards=len(written),
        bytes=sum(shard.bytes for shard in written),
        images={part: packed.images(part) for part in parts},
        left_out=dict(sum((Counter(shard.left_out) for shard in written), Counter())),
    )
    return packed


def _name(packing: Packing, size: Size, dataset: Dataset) -> str:
    """Return a name that stands for the settings and the data: what is the same has the same."""
    settings = packing.model_dump(exclude={"image_size"})
    for name, without in (("exclude_suspects", "no"), ("verdicts", IGNORE)):
        if settings[name] == without:
            del settings[name]  # packs from before there was a choice
    identity = [
        2,  # the version of this format
        settings,
        size,
        dataset.fingerprint,
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{size[0]}x{size[1]}-{digest[:16]}"


class _Sizes:
    """The sizes of a pack's objects; of what a late listing lacks, each is asked for."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._listed = {entry.key: entry.size for entry in storage.list(folder)}

    def of(self, key: str) -> int | None:
        """Return an object's bytes, None if there is none."""
        if key in self._listed:
            return self._listed[key]
        found = self._storage.stat(key)
        return None if found is None else found.size


def _complete(storage: Storage, tag: str, name: str) -> Packed | None:
    try:
        return load_packed(storage, tag, name)
    except InputError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            get_logger().warning("packing again", name=name, reason=str(error))
        return None


class _Image(NamedTuple):
    """What is kept of a row; `pixels` are those of the stored JPEG, `folder` is of the picture."""

    md5: bytes
    ext: str
    label: Label
    folder: Label
    bytes: int
    pixels: int


def _images(
    storage: Storage, dataset: Dataset, packing: Packing, size: Size, cleaning: Cleaning
) -> dict[PartName, list[_Image]]:
    """Return the images of each part, in a random order that the seed decides.

    Those that the threshold is chosen on are not packed: evaluate reads them as they are.

    Raises:
        InputError: if a part has none.

    """
    fractions = packing.validation_fraction, packing.threshold_fraction
    partition = find_partition(storage, dataset, *fractions, cleaning)
    images: dict[PartName, list[_Image]] = {part: [] for part in _PARTS}
    for row in train_rows(storage, dataset):
        use = partition.use_of(row)
        if use in _PARTS:
            row = row.labelled(partition.label_of(row))
            images[use].append(_image(row, size, packing.resize))
    prefix = f"{packing.seed} ".encode()
    for part, found in images.items():
        if not found:
            raise InputError(
                f"the tag {dataset.tag!r} has no images for {part}: scrape more, by a "
                "higher --limit or of a fuller folder, or change --validation-fraction"
            )
        found.sort(key=lambda image: hashlib.sha256(prefix + image.md5).digest())
    return images


def _image(row: Row, size: Size, resize: Resize) -> _Image:
    height, width = _stored_frame((row.height, row.width), size, resize).size
    digest, pixels = bytes.fromhex(row.md5), height * width
    return _Image(digest, row.ext, row.label, row.folder_label, row.bytes, pixels)


def _stored_frame(shape: Size, size: Size, resize: Resize) -> Frame:
    """Say what to store of a picture of a (height, width): fitted, or as it is if that is less.

    Either is fitted again when it is read, and that changes nothing of what is fitted already.
    """
    fitted = frame_of(shape, size, resize)
    smaller = math.prod(shape) < math.prod(fitted.size) and max(shape) <= _MAX_SIDE
    return Frame(shape) if smaller else fitted


def encode_jpeg(data: bytes, size: Size, resize: Resize, quality: int) -> bytes:
    """Return a JPEG of which `load_pixels` makes what it makes of a file, but for JPEG's loss.

    It is the picture as `resize` fits it, without bars; or the whole picture, where that has fewer
    pixels. Colours have the resolution of the rest (4:4:4).

    Raises:
        BadImage: if the file cannot be decoded.

    """
    picture = load_resized(data, lambda shape: _stored_frame(shape, size, resize))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


@dataclass
class _Packer:
    storage: Storage
    layout: Layout
    name: str
    packing: Packing
    size: Size
    sizes: _Sizes
    concurrency: int

    def pack(self, images: dict[PartName, list[_Image]]) -> dict[PartName, tuple[Shard, ...]]:
        """Write the shards that are not there, and return all of them."""
        plan = {
            (part, index, count): share
            for part, found in images.items()
            for count in [self._count(found)]
            for index, share in enumerate(_shares(found, count))
        }
        shards = {place: self._known(*place) for place in plan}
        missing = [place for place, shard in shards.items() if shard is None]
        if len(missing) < len(plan):
            get_logger().info("going on", shards=len(plan), missing=len(missing))
        total = sum(len(plan[place]) for place in missing)
        # One row of images over all shards: no thread waits for a shard's end.
        jpegs = map_ahead(
            self._jpeg,
            (image for place in missing for image in plan[place]),
            threads=self.concurrency,
            ahead=2 * self.concurrency,
        )
        with (
            contextlib.closing(jpegs),
            tempfile.TemporaryDirectory(prefix="imagetag-pack-") as scratch,
            Progress("pack", total=total) as progress,
        ):
            for place in missing:
                results = islice(jpegs, len(plan[place]))
                shards[place] = self._write(place, results, Path(scratch), progress)
        return {
            part: tuple(shard for place, shard in shards.items() if shard and place[0] == part)
            for part in images
        }

    def _count(self, images: Sequence[_Image]) -> int:
        """Return into how many shards some images go."""
        rate = float(np.interp(self.packing.jpeg_quality, _QUALITIES, _BYTES_A_PIXEL))
        total = sum(image.pixels * rate + _MORE_BYTES for image in images)
        return min(len(images), math.ceil(total / self.packing.shard_bytes))

    def _known(self, part: PartName, index: int, count: int) -> Shard | None:
        """Return what is noted of a shard that is complete in storage."""
        key, note = (
            self.layout.shard(self.name, part, index, count, ext) for ext in ("tfrecord", "json")
        )
        try:
            with self.storage.open(note) as stream:
                shard = Shard.model_validate_json(stream.read(_MAX_NOTE))
        except (ObjectNotFound, ValidationError):
            return None
        return shard if (shard.key, shard.bytes) == (key, self.sizes.of(key)) else None

    def _write(
        self,
        place: tuple[PartName, int, int],
        results: Iterable[tuple[_Image, bytes | BadImage]],
        scratch: Path,
        progress: Progress,
    ) -> Shard:
        with quiet_imports():  # TensorFlow: not where all is packed
            import tensorflow as tf

            from imagetag.inputs.tfrecord import make_example
        labels: dict[Label, int] = dict.fromkeys(LABELS, 0)
        left_out: Counter[str] = Counter()
        path = scratch / "shard.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for image, jpeg in results:
                if isinstance(jpeg, BadImage):
                    left_out[jpeg.reason] += 1
                    get_logger().warning(
                        "left out", md5=image.md5.hex(), reason=jpeg.reason, detail=str(jpeg)
                    )
                else:
                    labels[image.label] += 1
                    target = int(image.label == "positive")
                    writer.write(make_example(jpeg, target, image.md5.hex()))
                progress.advance()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        key, note = (self.layout.shard(self.name, *place, ext) for ext in ("tfrecord", "json"))
        shard = Shard(
            key=key,
            bytes=path.stat().st_size,
            sha256=digest,
            labels=labels,
            left_out=dict(sorted(left_out.items())),
        )
        self.storage.upload(path, key)
        path.unlink()
        self.storage.write(note, shard.model_dump_json().encode() + b"\n")
        return shard

    def _jpeg(self, image: _Image) -> bytes | BadImage:
        """Return what is stored of an image, or why it is left out. Runs in the pool."""
        key = self.layout.image("train", image.folder, image.md5.hex(), image.ext)
        try:
            with self.storage.open(key) as stream:
                data = stream.read(image.bytes + 1)
        except ObjectNotFound:
            return BadImage("missing", "it is not in storage")
        if len(data) != image.bytes:
            return BadImage("truncated", f"it has not the {image.bytes} bytes that it had")
        try:
            return encode_jpeg(data, self.size, self.packing.resize, self.packing.jpeg_quality)
        except BadImage as error:
            return error


def _shares(images: Sequence[_Image], count: int) -> Iterator[Sequence[_Image]]:
    """Yield `count` runs of images, as long as each other but for one."""
    ends = [number * len(images) // count for number in range(count + 1)]
    return (images[start:end] for start, end in pairwise(ends))
