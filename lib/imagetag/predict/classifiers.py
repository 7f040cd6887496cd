"""Score pictures in bulk with trained models: a row a picture and tag, in the input's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
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
    """Return what a tag's classifier says of each picture of a folder, and of all below.

    What is wrong is told at once; pictures are read as the rows are taken.

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
    found = load_run(storage, tag, run)
    judge = decided(storage, found, threshold)
    threads = None if source.local else concurrency
    with TemporaryDirectory(prefix="imagetag-predict-") as scratch:
        classifier = load_classifier(
            storage, found, judge, Path(scratch), batch_size=batch_size, threads=threads
        )
    rows = predict([classifier], source, source.pictures(), batch_size)
    return (row for _, [row] in rows)


def decided(storage: Storage, run: Run, threshold: float | None = None) -> Judge:
    """Return how to go by what evaluate has decided of a run; the log has what that is worth.

    Args:
        storage: has the decision.
        run: which.
        threshold: as `judge_of` takes it.

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
    return judge_of(decision, threshold)


def load_classifier(
    storage: Storage,
    run: Run,
    judge: Judge,
    folder: Path,
    *,
    batch_size: int,
    threads: int | None = None,
) -> Classifier:
    """Load a run's model.

    Args:
        storage: has the model.
        run: which.
        judge: goes by what it says.
        folder: gets the model's file, or has it already.
        batch_size: pictures the model takes at once.
        threads: pictures read and decoded at once; by default as the processors can.

    Raises:
        InputError: if the model cannot be loaded.

    """
    resize = run.resize  # which may be none that this version knows
    with working("loading the model"):
        model = load_model(storage, run, folder)
    scorer = Scorer(model, run.image_size, resize, batch_size, threads=threads)
    return Classifier(run.tag, scorer, judge)


def predict(
    classifiers: Collection[Classifier], source: Source, pictures: Iterator[Picture], chunk: int
) -> Iterator[tuple[Picture, list[Prediction]]]:
    """Yield each picture with what each classifier says of it, in their orders.

    One that cannot be read is told of by its error.

    Args:
        classifiers: one or more, which are gone through once a chunk. Of several each reads a
            picture for itself.
        source: has the pictures' files.
        pictures: of the source; they are taken as they are needed.
        chunk: pictures.

    """
    if len(classifiers) == 1:
        [classifier] = classifiers
        for picture, row in _told(classifier, source, pictures):
            yield picture, [row]
        return
    while some := list(islice(pictures, chunk)):
        rows: list[list[Prediction]] = [[] for _ in some]
        readable = list(range(len(some)))
        unreadable: list[int] = []
        for place, classifier in enumerate(classifiers):
            answers = _told(classifier, source, [some[index] for index in readable])
            for index, (_, row) in zip(readable, answers, strict=True):
                rows[index].append(row)
            for index in unreadable:
                rows[index].append(replace(rows[index][0], tag=classifier.tag))
            if place == 0:  # what is no picture to the first is none to the others
                unreadable = [index for index in readable if _unreadable(rows[index][0])]
                readable = [index for index in readable if not _unreadable(rows[index][0])]
        yield from zip(some, rows, strict=True)


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
