"""A tag's train split as shards of resized images: what a pack has, as it is stored.

A training set that is larger than a node's disk is read from these: each worker streams its own
shards, of which no more than two are on its disk at a time.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, StringConstraints, computed_field, model_validator

from imagetag.dataset import Dataset, Resize, latest_name, no_pack
from imagetag.errors import InputError
from imagetag.imaging import Size
from imagetag.inputs.cleaning import IGNORE, Cleaning
from imagetag.layout import LABELS, Label, Layout, PartName
from imagetag.record import Record
from imagetag.storage import ObjectNotFound, Storage, load_record

Count = Annotated[int, Field(ge=0)]


class Shard(Record):
    """A TFRecord file of images.

    `labels` counts the images that are in it; `left_out` by reason those that could not be read.
    """

    key: str
    bytes: Count
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    labels: dict[Label, Count]
    left_out: dict[str, Count]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def images(self) -> int:
        """How many images are in it."""
        return sum(self.labels.values())


class Packed(Record):
    """A complete pack, stored as its `index.json`: the marker, written last.

    `image_size` is (height, width) in pixels; `fingerprint` is the dataset's; `exclude_suspects`
    and `verdicts` name what is not in it or has another label, as `cleaning.Cleaning` does.
    """

    version: Literal[2] = 2
    tag: str
    name: str
    fingerprint: str
    image_size: tuple[PositiveInt, PositiveInt]
    resize: Resize
    validation_fraction: float
    threshold_fraction: float
    jpeg_quality: int
    shard_bytes: int
    exclude_suspects: str = "no"
    verdicts: str = IGNORE
    seed: int
    parts: dict[PartName, tuple[Shard, ...]]
    software: str
    created: str

    @model_validator(mode="after")
    def _check_shards(self) -> Self:
        layout = Layout(self.tag)
        for part in ("train", "validation"):
            shards = self.parts.get(part, ())
            if not shards:
                raise ValueError(f"there are no shards of {part}")
            for number, shard in enumerate(shards):
                if shard.key != layout.shard(self.name, part, number, len(shards)):
                    raise ValueError(f"{shard.key[:100]!r} is no shard of it")
        return self

    def images(self, part: PartName) -> dict[Label, int]:
        """Return how many images of each label a part has."""
        shards = self.parts[part]
        return {label: sum(shard.labels.get(label, 0) for shard in shards) for label in LABELS}

    def check_fits(
        self,
        dataset: Dataset,
        size: Size,
        resize: Resize,
        validation_fraction: float,
        threshold_fraction: float,
        cleaning: Cleaning,
    ) -> None:
        """Make sure that the pack is of a dataset as it is now, and as a training wants it.

        Raises:
            InputError: if the dataset, or its groups, have changed since; if the pack is of another
                size, resize mode or fractions, has other suspects left out, or goes by other
                verdicts: the packs of other tags may fit.

        """
        if self.fingerprint != dataset.fingerprint:
            raise InputError(
                f"the dataset of the tag {self.tag!r} has changed since the pack {self.name!r} "
                f"was made: run imagetag pack --tags {shlex.quote(self.tag)} again"
            )
        wanted = {
            "--image-size": "{}x{}".format(*size),
            "--resize": resize,
            "--validation-fraction": validation_fraction,
            "--threshold-fraction": threshold_fraction,
            "--exclude-suspects": cleaning.suspects,
            "--verdicts": cleaning.verdicts,
        }
        known = {
            "--image-size": "{}x{}".format(*self.image_size),
            "--resize": self.resize,
            "--validation-fraction": self.validation_fraction,
            "--threshold-fraction": self.threshold_fraction,
            "--exclude-suspects": self.exclude_suspects,
            "--verdicts": self.verdicts,
        }
        differ = [
            f"{option} {known[option]} and not {value}"
            for option, value in wanted.items()
            if value != known[option]
        ]
        if differ:
            raise InputError(
                f"the pack {self.name!r} of {self.tag!r} is of {', '.join(differ)}: train with "
                "what it is of, or pack again"
            )


def load_packed(storage: Storage, tag: str, name: str = "latest") -> Packed:
    """Return a complete pack of a tag by its name, or the newest for `latest`.

    Raises:
        InputError: if there is none, or its index cannot be read.
        UsageError: if `name` cannot be a pack's name.

    """
    layout, again = Layout(tag), f"run imagetag pack --tags {shlex.quote(tag)}"
    try:
        if name == "latest":
            name = latest_name(storage, layout.latest_packed, "pack", f"{again} again")
        key = layout.packed(name, "index.json")
        return load_record(storage, key, Packed, f"{again} again", name=name, tag=tag)
    except ObjectNotFound as error:
        raise no_pack(storage, tag, name) from error
