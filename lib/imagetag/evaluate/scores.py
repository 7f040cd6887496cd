"""What a run says of pictures, and where they are: by its model, or by its head on features."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from imagetag.dataset import Row, Sample
from imagetag.errors import InputError
from imagetag.evaluate.gradcam import GradCam
from imagetag.evaluate.shown import ShownPictures
from imagetag.features import ExtractorRecord, SharedFeatures, load_network
from imagetag.imaging import BadImage
from imagetag.log import Progress, get_logger, working
from imagetag.models import Input, Score, Scorer, classifier_on, network_of, set_head
from imagetag.runs import Run, load_head, load_model
from imagetag.storage import Storage

Fetch = Callable[[Sequence[Row]], Sequence[Sample]]
"""Returns the files of those of some pictures that can be had."""

_SEED = 0  # of projections
_WIDEST = 1024  # features a picture that are kept


class Scores(Protocol):
    """What a run says of pictures."""

    def of(self, rows: Sequence[Row]) -> dict[str, Score]:
        """Return what is said of each picture that can be decoded, by md5."""

    def camera(self) -> GradCam:
        """Return what shows where the run looks.

        Raises:
            InputError: if nothing can.

        """

    @property
    def shown(self) -> ShownPictures:
        """What pages show of pictures that the camera's model sees."""


class OfModel:
    """What a whole model says of pictures, each of which is read.

    Args:
        storage: has the model and the pictures.
        run: whose model.
        fetch: returns the files of pictures.
        batch_size: pictures the model takes at once.
        features: whether a score has them.

    Raises:
        InputError: if the model is missing or damaged.

    """

    def __init__(
        self, storage: Storage, run: Run, fetch: Fetch, batch_size: int, *, features: bool
    ) -> None:
        wanted = Input(run.image_size, run.resize)  # which may be none that this version knows
        keras.utils.clear_session()  # of the tag before
        with working("loading the model"):
            with tempfile.TemporaryDirectory(prefix="imagetag-evaluate-") as scratch:
                self._model = load_model(storage, run, Path(scratch))
            network = network_of(self._model, wanted, batch_size, features=features)
        self._scorer = Scorer([network], batch_size)
        self._fetch, self._resize = fetch, run.resize

    def of(self, rows: Sequence[Row]) -> dict[str, Score]:
        """Return what the model says of each picture that can be decoded, by md5."""
        samples = self._fetch(rows)
        scores: dict[str, Score] = {}
        with Progress("score", total=len(samples)) as progress:
            for sample, score in self._scorer.score(samples, lambda sample: sample.path):
                progress.advance()
                if isinstance(score, BadImage):
                    get_logger().warning("left out", file=str(sample.path), detail=str(score))
                else:
                    scores[sample.row.md5] = Score(score.logits, _narrowed(score.features))
        return scores

    def camera(self) -> GradCam:
        """Return what shows where the model looks."""
        return GradCam(self._model)

    @property
    def shown(self) -> ShownPictures:
        """What pages show of pictures; of no other model's."""
        return ShownPictures(self._resize)


class OfHead:
    """What a head says of pictures by their stored features: no picture is read.

    Args:
        storage: has the head.
        run: whose head.
        shared: has the features.

    Raises:
        InputError: if the head or its extractor is missing or damaged.

    """

    def __init__(self, storage: Storage, run: Run, shared: SharedFeatures) -> None:
        self._storage, self._run, self._shared = storage, run, shared
        self._head, self._record = load_head(storage, run)

    def of(self, rows: Sequence[Row]) -> dict[str, Score]:
        """Return what the head says of each picture that could be decoded, by md5.

        Raises:
            InputError: if some have no features.

        """
        stored = self._shared.of(self._record)
        readable, found = stored.readable([row.md5 for row in rows], self._run.tag)
        features = found.astype(np.float32)
        logits = self._head.logits(features).astype(np.float32)[:, None]
        kept = (row for row, there in zip(rows, readable, strict=True) if there)
        return {
            row.md5: Score(logit, _narrowed(mean))
            for row, logit, mean in zip(kept, logits, features.mean(axis=1), strict=True)
        }

    def camera(self) -> GradCam:
        """Return what shows where the extractor and the head look, in the picture as it is."""
        found = _camera_on(self._storage, self._record)
        if isinstance(found, InputError):
            raise found
        model, camera = found
        set_head(model, self._head.weights, self._head.bias)
        return camera

    @property
    def shown(self) -> ShownPictures:
        """What pages show of pictures that the extractor sees, whichever tag they are of."""
        return _shown_by(self._record)


@lru_cache(maxsize=1)  # to load and to trace it takes longer than all that follows
def _camera_on(
    storage: Storage, record: ExtractorRecord
) -> tuple[keras.Model, GradCam] | InputError:
    """Return a model on one view of an extractor, for any head, and its camera; or why none."""
    try:
        with tempfile.TemporaryDirectory(prefix="imagetag-evaluate-") as scratch:
            network = load_network(storage, record, Path(scratch))
        no_weights = np.zeros(record.channels)
        model = classifier_on(network, record.image_size, 1, no_weights, 0.0)
        return model, GradCam(model)
    except InputError as error:
        return error


@lru_cache(maxsize=1)
def _shown_by(record: ExtractorRecord) -> ShownPictures:
    return ShownPictures(record.resize, record.fill)


def _narrowed(features: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """Return features as they are, or at random projected to 1,024 if they are many.

    Distances stay about the same (Johnson and Lindenstrauss), and 100,000 pictures fit in memory.
    """
    if features is None or features.size <= _WIDEST:
        return features
    return (features @ _projection(features.size)).astype(np.float32)


@cache
def _projection(channels: int) -> NDArray[np.float32]:
    random = np.random.default_rng(_SEED)
    drawn = random.standard_normal((channels, _WIDEST), np.float32)
    return drawn / np.float32(np.sqrt(_WIDEST))
