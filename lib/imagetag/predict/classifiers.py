"""Score pictures in bulk with trained models: what each says of a picture, in the input's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from imagetag.arguments import Concurrency, Count, Probability, check_numbers
from imagetag.errors import one_line
from imagetag.imaging import BadImage
from imagetag.log import get_logger
from imagetag.models import Score, Scorer
from imagetag.predict.judge import DIGITS, RAW_THRESHOLD, Judge, judge_of
from imagetag.predict.networks import Networks
from imagetag.predict.sources import Picture, Source, StoredPictures
from imagetag.predict.writers import Answers, Prediction
from imagetag.runs import Decision, Run, load_decision, load_run
from imagetag.storage import Place, opened

_MAX_ERROR = 500  # characters


@check_numbers
def predict_tag(
    storage: Place,
    tag: str,
    pictures: Place,
    run: str = "latest",
    *,
    threshold: Probability | None = None,
    batch_size: Count = 32,
    concurrency: Concurrency = 16,
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
        ValueError: if a number is out of its option's bounds.
        InputError: if there is no model, or no picture.

    """
    storage = opened(storage)
    source = StoredPictures(opened(pictures, concurrency, option="pictures"))
    found = load_run(storage, tag, run)
    decision = load_decision(storage, found.tag, found.run, found.created)
    judge = decided(found, decision, threshold)
    threads = None if source.local else concurrency
    with TemporaryDirectory(prefix="imagetag-predict-") as scratch:
        networks = Networks(storage, [found], Path(scratch), batch_size, threads=threads)
    asked = Classifiers([judge], networks.scorer, networks.places)
    answers = predict(asked, source, source.pictures(), batch_size)
    return (row for _, one in answers for row in one.predictions([tag]))


def decided(run: Run, decision: Decision | None, threshold: float | None = None) -> Judge:
    """Return how to go by what evaluate has decided of a run; the log has what that is worth.

    Args:
        run: which.
        decision: of it; None if it was not evaluated.
        threshold: as `judge_of` takes it.

    """
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


@dataclass(frozen=True)
class Classifiers:
    """What answers for tags.

    Attributes:
        judges: one of each tag.
        scorer: gives the logits.
        places: of each tag, which of them is its.

    """

    judges: Sequence[Judge]
    scorer: Scorer
    places: Sequence[int] | NDArray[np.intp]


def predict(
    classifiers: Classifiers, source: Source, pictures: Iterator[Picture], batch_size: int
) -> Iterator[tuple[Picture, Answers]]:
    """Yield each picture with what the classifiers say of it, in order.

    One that cannot be read is told of by its error.

    Args:
        classifiers: what is asked.
        source: has the pictures' files, each of which is read once.
        pictures: of the source; they are taken as they are needed.
        batch_size: pictures that are judged at once.

    """
    scored = classifiers.scorer.score(pictures, source.read)
    while some := list(islice(scored, batch_size)):
        found = [score.logits for _, score in some if isinstance(score, Score)]
        judged = iter(_judged(classifiers, found))
        for picture, score in some:
            # Reading it may have told where it is.
            file = picture.file.encode(errors="replace").decode()
            if isinstance(score, BadImage):
                error = one_line(f"{score.reason}: {score}", _MAX_ERROR)
                yield picture, Answers(file, picture.page_url, error)
            else:
                yield picture, Answers(file, picture.page_url, None, *next(judged))


def _judged(
    classifiers: Classifiers, scores: Sequence[NDArray[np.float32]]
) -> Iterator[tuple[list[float | None], list[bool | None]]]:
    """Yield the probabilities and decisions of all tags, of each picture."""
    if not scores:
        return
    # In 64 bits, as thresholds are.
    logits = np.stack(scores).astype(np.float64)[:, classifiers.places]
    columns = list(zip(classifiers.judges, logits.T, strict=True))
    probabilities = np.stack([judge.probability(column) for judge, column in columns], axis=1)
    decisions = np.stack([judge.positive(column) for judge, column in columns], axis=1)
    broken = np.isnan(logits)
    for row, called, none in zip(
        probabilities.round(DIGITS).tolist(), decisions.tolist(), broken, strict=True
    ):
        for place in np.flatnonzero(none):
            row[place] = called[place] = None
        yield row, called
