"""Where a training stands, kept so that it goes on as if nothing had happened.

A checkpoint is one file, on the local disk first and then, in the background, in storage: all of
it is there or nothing, and the newest that can be read is the one that counts.

    <tag>/models/<run>/checkpoint/<phase>-<epoch>-<step>.npz
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from imagetag.errors import ImagetagError, one_line
from imagetag.layout import Layout
from imagetag.log import get_logger
from imagetag.storage import ObjectNotFound, Storage, read_arrays
from imagetag.train.target import digest_of_values

Arrays = list[npt.NDArray[np.generic]]
Place = Literal["storage", "disk"]  # where a checkpoint is: the latter is this machine's

_NAME = re.compile(r"(\d{2})-(\d{5})-(\d{8})\.npz")
_KEPT = 2  # the newest, and the one before in case it cannot be read


class State(BaseModel):
    """How far a training is, and what its early stopping has seen.

    `epoch` counts the phase's complete epochs, `step` the steps after them, `stats` are their sums
    in the order of `losses.STATS`, none before there is a step; `waited` counts epochs without a
    better validation loss, `since_halving` likewise since the learning rate was halved. `seconds`
    are those of all starts together, `durations` of the epochs in `history`.
    """

    model_config = ConfigDict(extra="forbid")

    identity: str
    phase: int = 0
    epoch: int = 0
    step: int = 0
    stats: list[float] = Field(default_factory=list)
    history: list[dict[str, float]] = Field(default_factory=list)
    durations: list[float] = Field(default_factory=list)
    best_loss: float | None = None
    best_epoch: int = 0
    waited: int = 0
    since_halving: int = 0
    halvings: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The name of its checkpoint; names sort as the progress goes."""
        return f"{self.phase:02}-{self.epoch:05}-{self.step:08}.npz"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands, and its numbers.

    `variables` are the model's that any phase may change, `optimizer` those of the optimizer,
    `best` the model's of the best epoch (empty before there is one), in the order of the model;
    `head` what is known of the head that was fitted to features, if one was.
    """

    state: State
    variables: Arrays
    optimizer: Arrays
    best: Arrays
    head: Arrays = field(default_factory=list)

    def digest(self) -> str:
        """Return a hash of all of it: workers compare theirs before the first step."""
        digest = hashlib.sha256(self.state.model_dump_json().encode())
        for name, values in self._named():
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write it to a file, which appears under its name only when it is whole."""
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with partial.open("wb") as stream:
                state = np.frombuffer(self.state.model_dump_json().encode(), np.uint8)
                arrays: dict[str, Any] = {"state": state, **dict(self._named())}
                np.savez(stream, **arrays)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _named(self) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
        for kind in ("variables", "optimizer", "best", "head"):
            for number, values in enumerate(getattr(self, kind)):
                yield f"{kind}-{number:05}", values


def read_checkpoint(data: bytes) -> Checkpoint:
    """Return the checkpoint that a file's bytes are.

    Raises:
        ValueError: if they are none, or damaged.

    """
    try:
        found = read_arrays(data)
        state = State.model_validate_json(found.pop("state").tobytes())
        arrays: dict[str, Arrays] = {"variables": [], "optimizer": [], "best": [], "head": []}
        for name, values in sorted(found.items()):
            arrays[name.partition("-")[0]].append(values)
    except (ValueError, KeyError) as error:
        raise ValueError(one_line(error, 200)) from error
    return Checkpoint(state, **arrays)


def checkpoints_below(
    cache_folder: Path, storage: Storage, tag: str, run: str, *, shared: bool = False
) -> Checkpoints:
    """Return the checkpoints of a run, with a folder of its own below one that many share."""
    name = digest_of_values([storage.url, tag, run])[:16]
    return Checkpoints(storage, tag, run, cache_folder / "checkpoints" / name, shared=shared)


class Checkpoints:
    """The checkpoints of a run, in storage and on the local disk.

    Args:
        storage: keeps them.
        tag: of the run.
        run: its name.
        folder: a local one, of this run alone.
        shared: other workers read the same ones: then what is in storage counts alone.

    """

    def __init__(
        self, storage: Storage, tag: str, run: str, folder: Path, *, shared: bool = False
    ) -> None:
        self._storage, self._shared = storage, shared
        self._layout, self._run, self._folder = Layout(tag), run, folder
        self._pool: ThreadPoolExecutor | None = None
        self._upload: Future[None] | None = None
        self._last: Path | None = None  # of those that were saved
        self._seen: set[str] = set()  # in storage, by a listing or as they were put there
        self._tried: set[str] = set()  # to be put there: they may be

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that can be read, None if there is none."""
        found = [(name, False) for name in self._stored()]
        if not self._shared:
            found += [(path.name, True) for path in self._local()]
        for name, local in sorted(found, reverse=True):  # of one name, the local one first
            try:
                path = self._folder / name
                data = path.read_bytes() if local else self._storage.read(self._key(name))
                return read_checkpoint(data)
            except (ValueError, FileNotFoundError, ObjectNotFound) as error:
                get_logger().warning("checkpoint left out", name=name, reason=one_line(error, 200))
        return None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still on its way."""
        return self._upload is not None and not self._upload.done()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint to the local disk, and to storage in the background.

        One that is still on its way is finished first. What fails is logged and no more: training
        goes on, and the next checkpoint may be luckier.
        """
        self.settle()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last = self._folder / checkpoint.state.name
        self._upload = self._pool.submit(self._save, checkpoint)

    def settle(self) -> Place | None:
        """Wait until what was saved is stored; return where it is to go on from."""
        if self._upload is None:
            return None
        try:
            self._upload.result()
        except (ImagetagError, OSError) as error:
            get_logger().warning("checkpoint not stored", reason=one_line(error))
            local = not self._shared and self._last is not None and self._last.is_file()
            return "disk" if local else None
        finally:
            self._upload = None
        return "storage"

    def clear(self) -> None:
        """Remove all checkpoints: the run is complete, or begins anew.

        Of a run that was killed after it was complete, its next start does so.
        """
        self.settle()
        shutil.rmtree(self._folder, ignore_errors=True)  # with what a kill left half written
        for name in self._tried.union(self._stored()):
            self._remove(name)

    def close(self) -> None:
        """Store what is under way, and end."""
        self.settle()
        if self._pool is not None:
            self._pool.shutdown()

    def _save(self, checkpoint: Checkpoint) -> None:
        name = checkpoint.state.name
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        checkpoint.write(path)
        # Two workers that are both told to stop write one each, a step apart: both stay.
        for old in _superseded(name, [path.name for path in self._local()]):
            (self._folder / old).unlink(missing_ok=True)
        self._tried.add(name)
        self._storage.upload(path, self._key(name))
        self._seen.add(name)
        for old in _superseded(name, self._stored()):
            self._remove(old)
        get_logger().debug("checkpoint stored", name=name)

    def _local(self) -> list[Path]:
        return [path for path in self._folder.glob("*.npz") if _NAME.fullmatch(path.name)]

    def _stored(self) -> list[str]:
        """Return the names of those in storage, also where its listing lags behind."""
        keys = (entry.key for entry in self._storage.list(self._key("")))
        names = (key.rpartition("/")[2] for key in keys)
        self._seen.update(name for name in names if _NAME.fullmatch(name))
        return sorted(self._seen)

    def _remove(self, name: str) -> None:
        self._storage.delete(self._key(name))
        self._seen.discard(name)

    def _key(self, name: str) -> str:
        return self._layout.run(self._run, f"checkpoint/{name}")


def _superseded(name: str, names: list[str]) -> list[str]:
    """Return which to remove now that `name` is there, whatever cannot be read above it."""
    return sorted(set(names) - {name})[: 1 - _KEPT]
