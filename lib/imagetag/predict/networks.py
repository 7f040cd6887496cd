"""The networks that some runs are of: those that say the same of pictures are one, with many heads.

Runs on features of one extractor have one network, and so have runs whose models are the same up to
their features, as those of a frozen backbone: a picture goes through it once for all of them.
"""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from imagetag import layout
from imagetag.features import ExtractorRecord, load_extractor, rounded, weights_digest
from imagetag.layout import encode
from imagetag.log import working
from imagetag.models import (
    Heads,
    Input,
    Network,
    Scorer,
    core_of,
    join_heads,
    network_of,
    split_model,
)
from imagetag.parallel import map_ahead
from imagetag.predict.turns import ROOM, InTurn, in_groups, pictures_a_turn
from imagetag.runs import Run, load_head, load_model
from imagetag.stats import LinearHead
from imagetag.storage import LocalStorage, Storage

_PARAMETER = 4  # bytes
_BESIDE = 32 << 20  # bytes of a model beside its parameters: measured were 5 to 50 million


@dataclass
class _Shared:
    """A network of one or more runs.

    Attributes:
        run: one of them, whose model has it.
        bytes: how much memory it takes, but for the heads.
        extractor: what it is, where the runs are on features.
        heads: of all of them, and
        places: where they are among all runs.

    """

    run: Run
    bytes: int
    extractor: ExtractorRecord | None = None
    heads: list[Heads] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    @cached_property
    def input(self) -> Input:
        """What it takes; how pictures are fitted may be none that this version knows."""
        if (record := self.extractor) is not None:
            return Input(record.image_size, record.resize, record.fill)
        return Input(self.run.image_size, self.run.resize)


class Networks:
    """The networks of some runs, and what asks them.

    Args:
        storage: has the runs.
        runs: one or more.
        scratch: gets the files of models.
        batch_size: pictures that a network takes at once.
        threads: pictures read and decoded at once; by default as the processors can.

    Attributes:
        scorer: asks all of them.
        places: of each run, which of the scorer's logits is its.

    Raises:
        InputError: if a model cannot be loaded.

    """

    def __init__(
        self,
        storage: Storage,
        runs: Sequence[Run],
        scratch: Path,
        batch_size: int,
        *,
        threads: int | None = None,
    ) -> None:
        self._storage, self._scratch, self._batch_size = storage, scratch, batch_size
        self._models: dict[str, keras.Model] = {}  # by their runs' tags, to be taken once
        self._shared = self._find(runs)
        groups = in_groups([shared.bytes for shared in self._shared])
        inputs = {shared.input for shared in self._shared}
        pixels = sum(3 * wanted.size[0] * wanted.size[1] for wanted in inputs)
        turn = pictures_a_turn(len(groups), len(runs), pixels, batch_size)
        loaded = InTurn(groups, self._load)

        def network(number: int) -> Network:
            shared = self._shared[number]
            return Network(
                shared.input,
                len(shared.places),
                lambda pixels: loaded[number].forward(pixels),
            )

        networks = [network(number) for number in range(len(self._shared))]
        self.scorer = Scorer(networks, batch_size, threads=threads, turn=turn)
        found = [place for shared in self._shared for place in shared.places]
        self.places = np.argsort(found)

    def _find(self, runs: Sequence[Run]) -> list[_Shared]:
        """Return the networks, with all heads."""
        found: dict[Hashable, _Shared] = {}
        whole = [(place, run) for place, run in enumerate(runs) if not run.extractor]
        with working("loading the models" if len(runs) > 1 else "loading the model"):
            self._find_extractors(runs, found)
            self._find_models(whole, found)
        return list(found.values())

    def _find_extractors(self, runs: Sequence[Run], found: dict[Hashable, _Shared]) -> None:
        """Read the heads of runs on features: no network is loaded for that."""

        def load(one: tuple[int, Run]) -> tuple[LinearHead, ExtractorRecord]:
            return load_head(self._storage, one[1])

        ours = [(place, run) for place, run in enumerate(runs) if run.extractor]
        for (place, run), (head, record) in map_ahead(load, ours, threads=16, ahead=32):
            if record.name not in found:
                found[record.name] = _Shared(run, self._bytes(record), record)
            weights, bias = head.weights[:, np.newaxis], np.array([head.bias])
            found[record.name].heads.append(Heads(weights, bias))
            found[record.name].places.append(place)

    def _find_models(self, runs: Sequence[tuple[int, Run]], found: dict[Hashable, _Shared]) -> None:
        """Load each model once, and keep as many as memory has room for."""
        makings = Counter(_making(run) for _, run in runs)
        taken = sum(shared.bytes for shared in found.values())
        for place, run in runs:
            model = self._fetch(run)
            body, head = split_model(core_of(model), run.image_size)
            making = _making(run)
            # What nobody else can share needs no digest.
            key = making, weights_digest(body) if makings[making] > 1 else ""
            if key not in found:
                found[key] = _Shared(run, _PARAMETER * run.parameters + _BESIDE)
                taken += found[key].bytes
                if taken <= ROOM:
                    self._models[run.tag] = model
            found[key].heads.append(head)
            found[key].places.append(place)
            if run is not found[key].run or run.tag in self._models:
                self._forget(run)
            if run.tag not in self._models:
                del model, body
                gc.collect()  # models refer to themselves

    def _bytes(self, record: ExtractorRecord) -> int:
        """Return how much memory an extractor takes: its files have little but weights."""
        root = layout.features(record.name, record.file)
        entry = self._storage.stat(root)
        size = entry.size if entry else sum(file.size for file in self._storage.list(f"{root}/"))
        return size + _BESIDE

    def _load(self, number: int) -> Network:
        shared = self._shared[number]
        heads = join_heads(shared.heads)
        if shared.extractor is not None:
            folder = self._scratch / "extractors" / shared.extractor.name
            extractor = load_extractor(
                self._storage, shared.extractor, folder, batch_size=self._batch_size
            )

            def forward(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
                # As they are stored, so that a picture is told what evaluate was told of it.
                features = rounded(extractor.features(pixels))
                return {"logits": heads.logits(features.mean(axis=1, dtype=np.float64))}

            return Network(shared.input, len(shared.places), forward)
        model = self._models.pop(shared.run.tag, None) or self._fetch(shared.run)
        return network_of(model, shared.input, self._batch_size, heads=heads)

    def _fetch(self, run: Run) -> keras.Model:
        model = load_model(self._storage, run, self._folder(run))
        if isinstance(self._storage, LocalStorage):  # it is but a copy
            self._forget(run)
        return model

    def _forget(self, run: Run) -> None:
        shutil.rmtree(self._folder(run), ignore_errors=True)

    def _folder(self, run: Run) -> Path:
        """Return what has the file of a run's model, while that is loaded again and again."""
        return self._scratch / "models" / encode(run.tag)


def _making(run: Run) -> tuple[Hashable, ...]:
    """Return what decides, but for the weights, what a run's network says of a picture."""
    mirrored = str(run.settings.get("mirror"))
    return run.model, run.image_size, run.resize, mirrored, run.versions.get("keras")
