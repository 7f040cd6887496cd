"""The page of an evaluation: what a classifier gets right, what it gets wrong, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from imagetag.evaluate.breakdown import marked, worst
from imagetag.evaluate.charts import (
    best_epoch,
    learning_curves,
    precision_recall,
    probability_histogram,
    reliability,
    roc,
)
from imagetag.evaluate.galleries import Scored
from imagetag.layout import Layout
from imagetag.pages import (
    Chart,
    Figure,
    data_uri,
    environment,
    picture_link,
    script,
    way,
)
from imagetag.runs import Evaluation, GalleryName, Shown

# What all pictures of a page may take as base64: charts and text need the rest.
_PICTURE_BUDGET = 3_000_000
_VEILED = frozenset({"questionable", "explicit"})
_STEPS = 400  # of the slider, at the most


@dataclass(frozen=True)
class Pictures:
    """JPEG bytes by md5: thumbnails, and those with what the model looked at laid over them.

    Where one is missing, or would make the page too large, the page goes without it.
    """

    thumbnails: Mapping[str, bytes] = field(default_factory=dict)
    overlays: Mapping[str, bytes] = field(default_factory=dict)


def evaluation_page(
    evaluation: Evaluation, predictions: Sequence[Scored], pictures: Pictures
) -> str:
    """Return the page of an evaluation, of less than 5 MB.

    Args:
        evaluation: the numbers, and what led to them.
        predictions: every picture of the test split.
        pictures: of those in its galleries.

    """
    layout = Layout(evaluation.tag)
    cards = _Cards(evaluation, pictures)
    galleries = {name: cards.of(items) for name, items in evaluation.galleries.items()}
    cards.lay_over(galleries)
    return (
        environment()
        .get_template("evaluate.html")
        .render(
            script=script("evaluate.js"),
            evaluation=evaluation,
            tag_page=way(layout.run(evaluation.run, "report.html"), layout.index),
            decision=evaluation.decision,
            promise=evaluation.decision.promise,
            out_of_fold=evaluation.settings.get("threshold_from") == "out-of-fold",
            metrics=evaluation.metrics,
            chosen=evaluation.metrics.chosen,
            dataset=evaluation.dataset,
            headline=_Headline(evaluation),
            steps=json.dumps(_steps(predictions, evaluation.decision.threshold)),
            figures=_evaluation_figures(evaluation, predictions),
            training=_training_figure(evaluation.history),
            worst=worst(evaluation.slices),
            marked=marked(evaluation.slices),
            calibrated=evaluation.decision.calibration.method != "none",
            galleries=galleries,
            overlaid=any(card.overlay for gallery in galleries.values() for card in gallery),
            veiled=any(card.veiled for gallery in galleries.values() for card in gallery),
        )
    )


class _Headline:
    """The numbers of the headline, as words need them."""

    def __init__(self, evaluation: Evaluation) -> None:
        confusion = evaluation.metrics.chosen.confusion
        self.called = confusion.tp + confusion.fp
        self.right = confusion.tp
        self.existing = evaluation.metrics.positives


def _steps(predictions: Sequence[Scored], in_use: float) -> dict[str, object]:
    """Return what the slider moves over: thresholds, with the true and false positives of each.

    A step a picture, or every few of them; pictures of the same logit are called together. `start`
    is the step of the decisions that were made.
    """
    ranked = sorted(predictions, key=lambda item: -item.logit)
    logits = np.array([item.logit for item in ranked])
    positive = np.array([item.positive for item in ranked])
    right, wrong = np.cumsum(positive), np.cumsum(~positive)
    ends = np.flatnonzero(np.append(logits[1:] != logits[:-1], True))
    called = sum(item.called for item in ranked)
    kept = set(ends[np.unique(np.linspace(0, len(ends) - 1, _STEPS).round().astype(int))].tolist())
    if called:
        kept.add(called - 1)
    shown = sorted(kept)
    thresholds = [1.0, *(round(ranked[index].probability, 6) for index in shown)]
    start = 1 + shown.index(called - 1) if called else 0
    thresholds[start] = round(in_use, 6)
    return {
        "threshold": thresholds,
        "tp": [0, *(int(right[index]) for index in shown)],
        "fp": [0, *(int(wrong[index]) for index in shown)],
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "start": start,
    }


_Charts = list[Chart]


def _evaluation_figures(
    evaluation: Evaluation, predictions: Sequence[Scored]
) -> list[Figure[_Charts]]:
    metrics, threshold = evaluation.metrics, evaluation.metrics.chosen.threshold
    labels = np.array([item.positive for item in predictions])
    probabilities = np.array([item.probability for item in predictions], dtype=np.float64)
    logits = np.array([item.logit for item in predictions], dtype=np.float64)
    called = np.array([item.called for item in predictions])
    precision, area = metrics.average_precision.value or 0.0, metrics.roc_auc.value or 0.0
    raw, calibrated = evaluation.reliability["raw"], evaluation.reliability["calibrated"]
    method = evaluation.decision.calibration.method
    return [
        Figure(
            "Probability by label",
            f"Histogram of the probabilities the model gives to pictures of either label, with "
            f"the threshold at {threshold:.3g}.",
            "Right of the dashed line is called positive: orange there are the false positives.",
            [probability_histogram(labels, probabilities, threshold)],
        ),
        Figure(
            "Precision and recall",
            f"Precision over recall at every threshold; the average precision is {precision:.3f}.",
            f"Average precision {precision:.3f}.",
            [precision_recall(labels, logits, called)],
        ),
        Figure(
            "ROC curve",
            f"True positive rate over false positive rate at every threshold; the area under the "
            f"curve is {area:.3f}.",
            f"Area under the curve {area:.3f}.",
            [roc(labels, logits, called)],
        ),
        Figure(
            "Reliability",
            "Share of pictures with the tag over the raw probability they are given, in "
            f"{len(raw.bins)} bins. The mean distance between the two is {raw.error:.3f}."
            if method == "none"
            else "Share of pictures with the tag over the probability they are given, in "
            f"{len(calibrated.bins)} bins. The mean distance between the two is "
            f"{calibrated.error:.3f}, and {raw.error:.3f} without calibration.",
            f"Expected calibration error {raw.error:.3f} of the raw probabilities: nothing was "
            f"adjusted, as {_UNTOUCHED[evaluation.request.calibration == 'none']}."
            if method == "none"
            else f"Expected calibration error {calibrated.error:.3f}; {raw.error:.3f} without "
            f"calibration. Chosen on the threshold's pictures: {_METHODS[method]}.",
            [reliability(raw.bins, None if method == "none" else calibrated.bins)],
        ),
    ]


_METHODS = {"temperature": "a temperature", "isotonic": "isotonic regression"}
_UNTOUCHED = {
    True: "that was asked for",
    False: "on the threshold's pictures nothing made them better",
}


def _training_figure(history: Sequence[Mapping[str, float]]) -> Figure[_Charts] | None:
    if not history:
        return None
    best = best_epoch(history)
    shown = [
        name for name in ("loss", "accuracy", "val_loss", "val_accuracy") if name in history[-1]
    ]
    last = ", ".join(f"{name} {history[-1][name]:.3f}" for name in shown)
    return Figure(
        "Learning curves",
        f"Loss and accuracy of train and validation over {len(history)} epochs. "
        f"Last epoch: {last}.",
        f"{len(history)} epochs"
        + ("." if best is None else f"; the lowest validation loss was in epoch {best}."),
        learning_curves(history),
    )


@dataclass
class _Card:
    """A picture of a gallery as the template needs it."""

    picture: Shown
    link: str | None
    image: str | None
    veiled: bool
    overlay: str | None = None


class _Cards:
    """Makes cards, with pictures until a page's share of bytes is used up."""

    def __init__(self, evaluation: Evaluation, pictures: Pictures) -> None:
        self._layout = Layout(evaluation.tag)
        self._page = self._layout.run(evaluation.run, "report.html")
        self._pictures = pictures
        self._left = _PICTURE_BUDGET

    def of(self, gallery: Iterable[Shown]) -> list[_Card]:
        """Return the cards of a gallery."""
        return [
            _Card(
                picture=picture,
                link=picture_link(self._page, picture, self._stored(picture)),
                image=self._image(self._pictures.thumbnails, picture.md5),
                veiled=picture.rating in _VEILED,
            )
            for picture in gallery
        ]

    def _stored(self, picture: Shown) -> str | None:
        if picture.split is None:
            return None
        label = picture.stored_label or picture.label
        return self._layout.image(picture.split, label, picture.md5, picture.ext)

    def lay_over(self, galleries: Mapping[GalleryName, Sequence[_Card]]) -> None:
        """Add what the model looked at, where there is room once all thumbnails have theirs."""
        for cards in galleries.values():
            for card in cards:
                if card.image:
                    card.overlay = self._image(self._pictures.overlays, card.picture.md5)

    def _image(self, images: Mapping[str, bytes], md5: str) -> str | None:
        data = images.get(md5)
        if data is None or len(data) * 4 // 3 > self._left:
            return None
        uri = data_uri(data, "image/jpeg")
        self._left -= len(uri)
        return uri
