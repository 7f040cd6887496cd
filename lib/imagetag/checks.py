"""What can be said of a setting's value before anything slow: models, sizes, weights, paths."""

from __future__ import annotations

import os
import re
import unicodedata
import zipfile
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from imagetag.errors import UsageError
from imagetag.layout import checked_run
from imagetag.suggest import did_you_mean, nearest

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_HEAD = 48  # bytes, of either version

# Every model, and the least pixels a side that it takes. Keras is asked by a test: importing it
# takes seconds. A backbone that is not of keras.applications is a module of `models` of its name.
_ALEXNETS = dict.fromkeys(("alexnet", "alexnet-bn", "alexnet-small"), 67)
BACKBONES: dict[str, int] = dict.fromkeys(
    (
        *(f"convnext{size}" for size in ("base", "large", "small", "tiny", "xlarge")),
        *(f"densenet{depth}" for depth in (121, 169, 201)),
        *(f"efficientnetb{scale}" for scale in range(8)),
        *(f"efficientnetv2{scale}" for scale in ("b0", "b1", "b2", "b3", "l", "m", "s")),
        *("mobilenet", "mobilenetv2", "mobilenetv3large", "mobilenetv3small"),
        *("nasnetlarge", "nasnetmobile"),
        *(f"resnet{depth}{version}" for depth in (50, 101, 152) for version in ("", "v2")),
        *("vgg16", "vgg19"),
    ),
    32,
) | {"inceptionresnetv2": 75, "inceptionv3": 75, "xception": 71}
LEAST_SIDES: dict[str, int] = _ALEXNETS | dict(sorted(BACKBONES.items()))

SETTINGS_OF_HEADS = frozenset(
    {
        "features",
        "resize",
        "exclude_suspects",
        "verdicts",
        "class_weights",
        "validation_fraction",
        "threshold_fraction",
        "threshold_from",
        "seed",
    }
)
"""What decides the result of a training on features; all else is the extractor's."""


VERDICTS = ("use", "ignore")
"""What can be made of what people have said of pictures."""

ThresholdFrom = Literal["held-out", "out-of-fold"]
"""Whose scores choose the threshold: of pictures that are held back, or of all, out of fold."""


class Wrong(ValueError):
    """A value is wrong; the text says how, with the value in it."""


def checked_model(name: str) -> str:
    """Return the name of a model.

    Raises:
        Wrong: if there is none of that name.

    """
    if name not in LEAST_SIDES:
        there_are = did_you_mean(name, LEAST_SIDES) or f"; there are {', '.join(LEAST_SIDES)}"
        raise Wrong(f"there is no model {name[:100]!r}{there_are}")
    return name


def is_alexnet(name: str) -> bool:
    """Tell whether a model is an AlexNet: there are no ImageNet weights of it."""
    return name in _ALEXNETS


def parse_size(text: str) -> tuple[int, int] | None:
    """Return the (height, width) in pixels that `--image-size` says, None for auto.

    Raises:
        Wrong: if it is neither.

    """
    if text == "auto":
        return None
    sides = text.lower().split("x")
    if len(sides) == 2 and all(
        side.isascii() and side.isdigit() and len(side) < 6 and side[0] != "0" for side in sides
    ):
        return int(sides[0]), int(sides[1])
    square = f"{text}x{text}" if text.isascii() and text.isdigit() and len(text) < 6 else "224x224"
    raise Wrong(f"{text[:100]!r} is no size: write HEIGHTxWIDTH in pixels, such as {square}")


def checked_size(text: str) -> str:
    """Return what `--image-size` says.

    Raises:
        Wrong: as `parse_size`.

    """
    size = parse_size(text)
    return text if size is None else f"{size[0]}x{size[1]}"


def checked_weights(text: str) -> str:
    """Return what `--weights` says; a local file is looked at, what is in a storage is not.

    Raises:
        Wrong: if there is no such file, or it is none that Keras saves weights in, or not whole.

    """
    if text in ("auto", "imagenet", "none") or "://" in text:
        return text
    path = Path(text)
    if not os.path.exists(path):  # noqa: PTH110 - of a name too long it says no
        near = did_you_mean(text, ("auto", "imagenet", "none")) or "; or take imagenet or none"
        raise Wrong(f"there is no file {shown_url(text)[:300]!r}{near}")
    if problem := weights_problem(path):
        raise Wrong(f"{text[:300]!r} {problem}")
    return text


def check_threshold_from(choice: ThresholdFrom, features: str, exclude_suspects: str) -> None:
    """Check that what chooses the threshold goes with the rest of a training.

    Raises:
        UsageError: if it does not.

    """
    if choice == "held-out":
        return
    if features == "no":
        raise UsageError(
            f"--threshold-from {choice}: goes with --features alone, as a head is fitted again for "
            "each fold"
        )
    if exclude_suspects != "no":
        raise UsageError(
            f"--threshold-from {choice}: not with --exclude-suspects, as each label that the "
            "threshold is chosen on would have a say in what is left out"
        )


def check_together(
    *,
    model: str,
    weights: str,
    image_size: str,
    freeze_backbone: str,
    head: str,
    mirror: str,
    packed: str,
) -> None:
    """Check that the settings of a training go together, as far as they tell by themselves.

    Raises:
        UsageError: if they do not.

    """
    size, least = parse_size(image_size), LEAST_SIDES[model]
    if size is not None and min(size) < least:
        raise UsageError(f"--image-size {image_size}: {model} needs {least} pixels a side")
    if is_alexnet(model):
        if weights == "imagenet":
            raise UsageError(f"--model {model}: there are no ImageNet weights of it to build on")
        if freeze_backbone == "yes":
            raise UsageError(f"--freeze-backbone yes: {model} has no backbone to freeze")
        if head == "fitted":
            raise UsageError(f"--head fitted: {model} has no backbone to freeze")
        if mirror == "yes":
            raise UsageError(f"--mirror yes: {model} has no backbone that could see both")
    if packed != "no" and head == "fitted":
        raise UsageError("--head fitted: not with --packed, as shards do not tell the groups")


def check_micro_batch(batch_size: int, micro_batch: int | None) -> None:
    """Check that a batch is some whole micro-batches.

    Raises:
        UsageError: if it is not.

    """
    if micro_batch is not None and batch_size % micro_batch:
        raise UsageError(f"--micro-batch {micro_batch} must divide --batch-size {batch_size}")


FOLDER_VARIABLE = "IMAGETAG_IMAGENET_FOLDER"
"""The variable that names a folder with ImageNet weights, such as an image has."""


def keras_cache() -> Path:
    """Return the folder that Keras keeps the weights in that it has fetched."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"


def may_have_imagenet(model: str) -> bool:
    """Tell whether ImageNet weights of a backbone may be on this machine, by the names of files.

    Which file it is Keras knows, which takes seconds to ask.
    """
    given = os.environ.get(FOLDER_VARIABLE, "").strip()
    # The last one is Keras's own where it cannot write into the first.
    folders = [keras_cache(), *([Path(given)] if given else []), Path("/tmp/.keras/models")]  # noqa: S108
    try:
        files = [file.name for folder in folders for file in folder.glob("*.h5")]
    except OSError:
        return True  # who knows
    return any(model in re.sub(r"[^a-z0-9]", "", name.lower()) for name in files)


def no_imagenet(model: str, reason: str) -> str:
    """Return what to say where the ImageNet weights of a backbone cannot be fetched."""
    return (
        f"the ImageNet weights of {model} cannot be fetched ({reason}); give --weights FILE, or "
        "put them into $KERAS_HOME/models beforehand, or take --model alexnet-small, which needs "
        "none"
    )


def weights_problem(path: Path) -> str:
    """Return why a file has no weights that Keras can read, as the end of a sentence; empty if not.

    Keras reads HDF5 files whose names end in `.weights.h5`, `.h5` or `.hdf5`, and its own archives,
    which end in `.keras`.
    """
    if not path.is_file():
        return "is no file"
    suffix = path.suffix.lower()
    if suffix not in (".h5", ".hdf5", ".keras"):
        return "is no weights file: Keras reads .weights.h5, .h5 and .keras"
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if suffix == ".keras":
        whole = head.startswith(b"PK") and zipfile.is_zipfile(path)
        return "" if whole else "is no .keras archive, or not all of one"
    if not head.startswith(_HDF5):
        return "is no HDF5 file"
    if len(head) < _HDF5_HEAD:
        return f"is cut off: it has {len(head)} bytes"
    # Where an HDF5 file ends is told at its beginning, in two versions of that.
    start = 40 if head[8] < 2 else 28
    end = int.from_bytes(head[start : start + 8], "little")
    size = path.stat().st_size
    return f"is cut off: it has {size:,} of {end:,} bytes" if size < end else ""


def checked_run_name(name: str) -> str:
    """Return a run's name, or `latest`.

    Raises:
        UsageError: if it cannot be one.

    """
    return name if name == "latest" else checked_run(name)


def checked_verdicts(choice: str) -> str:
    """Return what is made of verdicts: `use`, `ignore`, or the digest that a run's settings have.

    Raises:
        Wrong: if it is none of these.

    """
    if choice not in VERDICTS and not re.fullmatch("[0-9a-f]{12}", choice):
        raise Wrong(f"{choice[:100]!r}: take {' or '.join(VERDICTS)}")
    return choice


def expanded(path: str) -> str:
    """Return a path with its `~` expanded, as a shell does that sees it alone."""
    return os.path.expanduser(path)  # noqa: PTH111 - it fails on a user that there is not


def expanded_board(spec: str) -> str:
    """Return a board with the `~` of a path in it expanded: of `folder+~/pictures`."""
    engine, plus, path = spec.partition("+")
    return engine + plus + expanded(path) if plus else spec


# What is before the rest of a URL, or of what was meant as one, with a board's engine before it.
_SCHEME = re.compile(r"(?i)(?:[^/@:]*://|//|(?:[\w.-]*\+)*(?:file|ftp|gs|https?|s3):)/*")
_USER = re.compile(r"[^/]*:[^/]*@|[^/]*[@:][^/]*://")  # and maybe a password, and no scheme before
_HOST = re.compile(r"(?:[^:%\\]*|\[[0-9a-fA-F:.]+\])(?::\d*)?|arn:[\w:.-]+")


def shown_url(url: str) -> str:
    """Return a URL as it may be told, its scheme alone if there may be a password or a key in it.

    That is in a query, a fragment, or what has an `@` behind it. As all that is written like a URL
    and is none is taken for one, it need not be checked before; a path is returned as it is.
    """
    # Without what a parser passes over, and as it reads letters that look alike.
    text = unicodedata.normalize("NFKC", re.sub(r"^[\0- ]+|[\t\r\n]", "", url))
    if text.lower().startswith("file:///"):
        return url
    found = _SCHEME.match(text)
    if found is None:
        return "***" if _USER.match(text) else url
    rest = text[found.end() :]
    host, _, path = rest.partition("/")
    hidden = not _HOST.fullmatch(host) or "@" in host or "?" in rest or "#" in rest
    # Half a password before the first slash looks like a port.
    if hidden or (":" in host and "@" in unquote(path)):
        return f"{found[0]}***"
    return url


def missing_folder(path: Path) -> str:
    """Return what to say of a folder that is not there."""
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        beside = []
    near = [path.with_name(name) for name in nearest(path.name, beside)]
    return "there is no such folder" + "".join(f"; did you mean {found}?" for found in near)
