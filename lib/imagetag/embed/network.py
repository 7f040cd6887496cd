"""Which network is to make the features: what is asked for, and what storage has of it already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from imagetag import layout
from imagetag.checks import LEAST_SIDES, checked_size, is_alexnet, parse_size
from imagetag.dataset import Resize
from imagetag.errors import UsageError
from imagetag.features import (
    Asked,
    ChannelOrder,
    ExtractorRecord,
    Padding,
    PixelRange,
    find_asked,
    find_extractor,
    kind_of,
)
from imagetag.job import option_name
from imagetag.storage import Storage

# Fields whose names, and values, are those of an extractor's record.
_RECORDED = ("resize", "padding", "views", "pixel_range", "channel_order", "signature")


class Network(BaseModel):
    """A network, and how it is to take pictures.

    The options of `imagetag embed` of the same names say what each is, and have the same bounds.
    What is set must be so of an extractor that is in storage; what is left out may be otherwise.

    Raises:
        ValueError: if there is no such field, or it is none of its values.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor: str = "vgg19"
    weights: str = "imagenet"
    image_size: Annotated[str, AfterValidator(checked_size)] = "auto"
    resize: Resize = "letterbox"
    padding: Padding = "grey"
    views: int = Field(2, ge=1, le=2)
    pixel_range: PixelRange = "byte"
    channel_order: ChannelOrder = "rgb"
    signature: str = ""
    output_name: str = ""

    @property
    def needs_imagenet(self) -> bool:
        """Whether it is a backbone by its name, with ImageNet's weights."""
        return self.extractor in LEAST_SIDES and self.weights in ("auto", "imagenet")

    def asked(self, weights: Literal["imagenet"] | Path) -> Asked:
        """Return how an extractor is asked for, with weights that are on this machine."""
        return Asked(
            image_size=parse_size(self.image_size),
            weights=weights,
            output=self.output_name,
            **self.model_dump(include=set(_RECORDED)),
        )


def network_of(settings: BaseModel) -> Network:
    """Return the network that the settings of `imagetag embed` ask for."""
    fields = set(Network.model_fields)
    return Network(**settings.model_dump(include=fields, exclude_unset=True))


def stored_extractor(storage: Storage, network: Network) -> ExtractorRecord | None:
    """Return the record of an extractor that is in storage, None if there is none yet.

    No network is loaded, nor TensorFlow.

    Raises:
        UsageError: if what is asked for is no network, or one in storage has other settings.
        InputError: if it should be in storage, and is not, or cannot be read.

    """
    what, weights = network.extractor, network.weights
    if what in LEAST_SIDES and weights == "none":
        raise UsageError(
            "--weights none: features of random weights tell nothing; take imagenet or a file"
        )
    size, least = parse_size(network.image_size), LEAST_SIDES.get(what, 0)
    if size is not None and min(size) < least:
        raise UsageError(f"--image-size {network.image_size}: {what} needs {least} pixels a side")
    if network.needs_imagenet and is_alexnet(what):
        raise UsageError(f"--extractor {what}: there are no ImageNet weights of it; give --weights")
    if what in LEAST_SIDES or (what != "latest" and Path(what).exists()):
        if what not in LEAST_SIDES:
            kind_of(Path(what))
        elif "://" in weights:
            return None  # nothing tells what is there before it is fetched
        asked = network.asked("imagenet" if network.needs_imagenet else Path(weights))
        return find_asked(storage, asked.digest(what))
    if what != "latest" and ("/" in what or storage.stat(_marker(what)) is None):
        kind_of(Path(what))  # which tells what there can be
    record = find_extractor(storage, what, "--extractor")
    _check_same(network, record)
    return record


def _marker(name: str) -> str:
    return layout.features(layout.checked_run(name, "--extractor"), "extractor.json")


def _check_same(network: Network, record: ExtractorRecord) -> None:
    """Check that what is said of an extractor is so of the one in storage.

    Raises:
        UsageError: if it is not.

    """
    given = network.model_dump(include=set(_RECORDED)) | {
        "image_size": parse_size(network.image_size) or record.image_size,
        "output_name": network.output_name,
    }
    stored = record.model_dump() | {"output_name": record.output}
    for name, value in given.items():
        if name in network.model_fields_set and value != stored[name]:
            raise UsageError(
                f"{option_name(name)} {getattr(network, name)}: the extractor {record.name!r} "
                f"has {stored[name]}; leave it out, or name the network itself"
            )
