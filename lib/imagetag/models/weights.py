"""ImageNet weights that are fetched once, into an image, so that pods need no outside access.

`python -m imagetag.models.weights vgg19,mobilenet --into FOLDER` is what building the train image
runs. Which file a backbone takes, from where and with which checksum, is asked of Keras itself.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import keras
import requests

from imagetag.checks import (
    BACKBONES,
    FOLDER_VARIABLE,
    keras_cache,
    shown_url,
    weights_problem,
)
from imagetag.errors import ImagetagError, TransientError, UsageError, one_line
from imagetag.storage import ObjectNotFound, open_storage

# The MD5 of what Keras takes without a checksum.
_CHECKSUMS = {"mobilenet_1_0_224_tf_no_top.h5": "725ccbd03d61d7ced5b5c4cd17e7d527"}
_ALGORITHMS = {32: "md5", 64: "sha256"}  # by the length of their digests
_MAX_BYTES = 4 << 30
_PIECE = 1 << 20
_SECONDS = 60.0  # without a byte, before the server is given up


class Source(NamedTuple):
    """Where the weights of a backbone come from; the checksum is MD5, SHA-256, or missing."""

    file: str
    url: str
    checksum: str | None


class _Asked(Exception):
    """Keras has said which file it wants."""


@functools.cache
def backbones() -> dict[str, Callable[..., Any]]:
    """Return the builders of backbones by name: of keras.applications, in lower case, and of ours.

    Ours are functions of modules of this package, named as those are.
    """
    found: dict[str, Callable[..., Any]] = {}
    for title, value in vars(keras.applications).items():
        if inspect.isfunction(value) and title[0].isupper():
            found[title.lower()] = value
    for name in BACKBONES.keys() - found.keys():
        found[name] = getattr(importlib.import_module(f"imagetag.models.{name}"), name)
    return dict(sorted(found.items()))


def source_of(name: str) -> Source:
    """Return what Keras would download for a backbone without its top, at its usual input size.

    Raises:
        UsageError: if there is no such backbone, or no ImageNet weights of it.

    """
    builder = backbones().get(name)
    if builder is None:
        raise UsageError(f"no weights of {name!r}: there are those of {', '.join(backbones())}")
    files = sys.modules[keras.applications.VGG19.__module__].file_utils  # that of all of Keras
    original, asked = files.get_file, []

    def note(fname: str, origin: str, file_hash: str | None = None, **_: Any) -> NoReturn:
        asked.append(Source(fname, origin, file_hash or _CHECKSUMS.get(fname)))
        raise _Asked

    files.get_file = note
    try:
        with contextlib.suppress(_Asked):
            builder(include_top=False, weights="imagenet")
    finally:
        files.get_file = original
    return Source(*asked[0])


def fetch(wanted: str, folder: Path, mirror: str = "") -> Path:
    """Put a backbone's weights into a folder, under the name that Keras knows them by.

    Args:
        wanted: a name such as `vgg19`, or NAME=CHECKSUM where none is known.
        folder: made if it is not there.
        mirror: a URL under which the files are, instead of where Keras has them.

    Returns:
        the file; nothing else is left in the folder.

    Raises:
        UsageError: if there is no such backbone, or no checksum to compare with.
        TransientError: if the file cannot be fetched, or is not the right one.

    """
    name, _, given = wanted.partition("=")
    source = source_of(name)
    checksum = (given or source.checksum or "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", checksum):
        raise UsageError(
            f"no checksum of {source.file} is known: give its SHA-256 or MD5 as {name}=CHECKSUM"
        )
    url = f"{mirror.rstrip('/')}/{source.file}" if mirror else source.url
    folder.mkdir(parents=True, exist_ok=True)
    part, target = folder / f".{source.file}.part", folder / source.file
    try:
        found = _download(url, part, _ALGORITHMS[len(checksum)])
        if found != checksum:
            raise TransientError(f"{url} has the checksum {found} instead of {checksum}")
        part.chmod(0o644)
        return part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _download(url: str, target: Path, algorithm: str) -> str:
    digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        with (
            requests.get(url, stream=True, timeout=_SECONDS) as answer,
            target.open("wb") as file,
        ):
            answer.raise_for_status()
            for piece in answer.iter_content(_PIECE):
                size += len(piece)
                if size > _MAX_BYTES:
                    raise TransientError(f"{url} is larger than {_MAX_BYTES >> 30} GiB")
                digest.update(piece)
                file.write(piece)
    except requests.RequestException as error:
        raise TransientError(f"{url} cannot be fetched: {one_line(error)}") from error
    return digest.hexdigest()


def find_weights(text: str, folder: Path) -> Literal["imagenet"] | Path | None:
    """Return the weights that `--weights` names, as `build_model` takes them.

    Args:
        text: imagenet, none, a file or a storage URL.
        folder: gets what is fetched.

    Raises:
        UsageError: if a URL has none.

    """
    if text == "none":
        return None
    if text == "imagenet":
        return "imagenet"
    if "://" not in text:
        return Path(text)  # which was looked at before
    return stored_weights(text, folder)


@functools.cache
def stored_weights(url: str, folder: Path) -> Path:
    """Fetch weights from storage: once a process, as nothing tells whether an old copy is right."""
    parent, _, name = url.rpartition("/")
    path = folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    try:
        open_storage(parent, option="--weights").download(name, path)
    except (ObjectNotFound, UsageError) as error:
        raise UsageError(f"--weights {shown_url(url)!r}: {error}") from error
    if problem := weights_problem(path):
        raise UsageError(f"--weights {shown_url(url)!r} {problem}")
    return path


def link_into_cache() -> None:
    """Let Keras find the weights of the image where it looks for those it has downloaded.

    Its cache must be a folder that can be written, else it takes another one; so it can't be the
    image's own.

    Raises:
        UsageError: if the links cannot be made.

    """
    given = os.environ.get(FOLDER_VARIABLE, "").strip()
    if not given or not Path(given).is_dir():
        return
    cache = keras_cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(given).glob("*.h5")):
            with contextlib.suppress(FileExistsError):
                (cache / file.name).symlink_to(file)
    except OSError as error:
        raise UsageError(
            f"{cache} cannot be written ({one_line(error)}): set KERAS_HOME to a folder that can"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the weights that the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(
        "imagetag.models.weights", description="fetch ImageNet weights"
    )
    parser.add_argument("names", help="such as vgg19,mobilenet, or NAME=CHECKSUM; empty is none")
    parser.add_argument("--into", type=Path, required=True, help="the folder that gets them")
    parser.add_argument("--mirror", default="", help="a URL that has the files")
    arguments = parser.parse_args(argv)
    try:
        arguments.into.mkdir(parents=True, exist_ok=True)
        for wanted in filter(None, map(str.strip, arguments.names.split(","))):
            file = fetch(wanted, arguments.into, arguments.mirror)
            print(f"{file.name}: {file.stat().st_size:,} bytes")  # noqa: T201
    except ImagetagError as error:
        print(f"imagetag.models.weights: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
