"""Score pictures in bulk with trained models: a row a picture and tag, in the input's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from imagetag.errors import one_line
from imagetag.imaging import BadImage
from imagetag.log import get_logger, working
from imagetag.models import Scorer
from imagetag.predict.sources import Picture, Source, StoredPictures
from imagetag.predict.writers import Prediction
from imagetag.runs import Decision, Run, load_decision, load_model, load_run, sigmoid
from imagetag.storage import Place, Storage, opened

RAW_THRESHOLD = 0.5  # where nothing was decided
_DIGITS = 6
_MAX_ERROR = 500  # characters
_NO_NUMBER = "no_number"


@dataclass(frozen=True)
class Judge:
    """From a logit to what is told of a picture.

    Attributes:
        probability: returns the probability that the tag is in it.
        positive: tells whether that is enough.

    """

    probability: Callable[[float], float]
    positive: Callable[[float], bool]


def judge_of(decision: Decision | None, threshold: float | None = None) -> Judge:
    """Return how to go by what evaluate has decided, or without it by raw probabilities.

    Args:
        decision: of the run; None if it was not evaluated.
        threshold: the least probability of a positive; None for what was decided, or 0.5.

    """
    probability = sigmoid if decision is None else decision.probability
    if decision is not None and threshold is None:
        return Judge(probability, decision.positive)
    least = RAW_THRESHOLD if threshold is None else threshold
    return Judge(probability, lambda logit: probability(logit) >= least)


@dataclass(frozen=True)
class Classifier:
    """What answers for a tag.

    Attributes:
        tag: which.
        scorer: has its model.
        judge: goes by the model's logits.

    """

    tag: str
    scorer: Scorer
    judge: Judge


def predict_tag(
    storage: Place,
    tag: str,
    pictures: Place,
    run: str = "latest",
    *,
    threshold: float | None = None,
    batch_size: int = 32,
    concurrency: int = 16,
) -> Iterator[Prediction]:
    """Yield what a tag's classifier says of each picture of a folder, and of all below.

    Args:
        storage: has the model; open, or a folder or URL.
        tag: whose classifier.
        pictures: the folder, or a storage's URL.
        run: the run's name, or `latest`.
        threshold: the least probability of a positive; None for what evaluate has decided, or 0.5.
        batch_size: pictures the model takes at once.
        concurrency: pictures that are fetched at once, where they are not on this machine.

    Raises:
        InputError: if there is no model, or no picture.

    """
    storage = opened(storage)
    source = StoredPictures(opened(pictures, concurrency, option="pictures"))
    classifier = load_classifier(
        storage,
        load_run(storage, tag, run),
        threshold,
        batch_size=batch_size,
        threads=None if source.local else concurrency,
    )
    for _, [row] in predict([classifier], source, source.pictures(), batch_size):
        yield row


def load_classifier(
    storage: Storage,
    run: Run,
    threshold: float | None = None,
    *,
    batch_size: int,
    threads: int | None = None,
) -> Classifier:
    """Load a run's model, and say in the log what its probabilities are worth.

    Args:
        storage: has the model.
        run: which.
        threshold: as `judge_of` takes it.
        batch_size: pictures the model takes at once.
        threads: pictures read and decoded at once; by default as the processors can.

    Raises:
        InputError: if the model cannot be loaded.

    """
    decision = load_decision(storage, run.tag, run.run, run.created)
    promise = decision and decision.promise
    if decision is None:
        get_logger().warning(
            "not evaluated: probabilities are the model's own; run imagetag evaluate",
            tag=run.tag,
            run=run.run,
            threshold=threshold or RAW_THRESHOLD,
        )
    elif promise and not promise.met and threshold is None:
        get_logger().warning(
            "evaluate could promise no precision at this threshold",
            tag=run.tag,
            run=run.run,
            min_precision=promise.min_precision,
            bound=round(promise.bound, 4),
        )
    resize = run.resize  # which may be none that this version knows
    with working("loading the model"), TemporaryDirectory(prefix="imagetag-predict-") as scratch:
        model = load_model(storage, run, Path(scratch))
    scorer = Scorer(model, run.image_size, resize, batch_size, threads=threads)
    return Classifier(run.tag, scorer, judge_of(decision, threshold))


def predict(
    classifiers: Sequence[Classifier], source: Source, pictures: Iterator[Picture], chunk: int
) -> Iterator[tuple[Picture, list[Prediction]]]:
    """Yield each picture with what each classifier says of it, in their orders.

    One that cannot be read is told of by its error.

    Args:
        classifiers: one or more. Of several each reads a picture for itself, a chunk at a time.
        source: has the pictures' files.
        pictures: of the source; they are taken as they are needed.
        chunk: pictures.

    """
    if len(classifiers) == 1:
        for picture, row in _told(classifiers[0], source, pictures):
            yield picture, [row]
        return
    while some := list(islice(pictures, chunk)):
        rows: list[list[Prediction]] = [[] for _ in some]
        readable = list(range(len(some)))
        for place, classifier in enumerate(classifiers):
            answers = _told(classifier, source, [some[index] for index in readable])
            for index, (_, row) in zip(list(readable), answers, strict=True):
                rows[index].append(row)
            if place == 0:  # what is no picture to the first is none to the others
                readable = [index for index in readable if not _unreadable(rows[index][0])]
        for picture, found in zip(some, rows, strict=True):
            missing = classifiers[len(found) :]
            yield picture, found + [replace(found[0], tag=other.tag) for other in missing]


def _unreadable(row: Prediction) -> bool:
    return row.error is not None and not row.error.startswith(_NO_NUMBER)


def _told(
    classifier: Classifier, source: Source, pictures: Iterable[Picture]
) -> Iterator[tuple[Picture, Prediction]]:
    for picture, found in classifier.scorer.score(pictures, source.read):
        probability = decision = error = None
        if isinstance(found, BadImage):
            error = one_line(f"{found.reason}: {found}", _MAX_ERROR)
        elif math.isnan(found.logit):
            error = f"{_NO_NUMBER}: the model gives none for this picture"
        else:
            probability = round(classifier.judge.probability(found.logit), _DIGITS)
            decision = classifier.judge.positive(found.logit)
        # Reading it may have told where it is.
        file = picture.file.encode(errors="replace").decode()
        row = Prediction(file, picture.page_url, probability, decision, error, classifier.tag)
        yield picture, row
