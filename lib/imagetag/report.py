"""The pages people read: one HTML file each, with its pictures in it and no request to anywhere."""

from __future__ import annotations

import base64
import heapq
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from imagetag import plots
from imagetag.exploration import Exploration, Measures
from imagetag.manifest import Dataset, Row
from imagetag.metrics import BinaryMetrics, Evaluation, Interval, Scored

MAX_PAGE_BYTES = 5_000_000

_MISTAKES = 24  # pictures a gallery; more are counted, not shown
_HITS = 12
_THUMBNAIL_SIDE = 256  # pixels
_THUMBNAIL_QUALITY = 78
# What all thumbnails of a page may take as base64: plots and text need the rest.
_THUMBNAIL_BUDGET = 3_000_000
_VEILED = frozenset({"questionable", "explicit"})


@dataclass(frozen=True)
class Figure:
    """A plot with its heading, what it shows in words for who cannot see it, and a caption."""

    title: str
    alt: str
    caption: str
    chart: plots.Chart


@dataclass(frozen=True)
class Galleries:
    """Pictures worth looking at, the most telling first."""

    false_positives: list[Scored]
    false_negatives: list[Scored]
    hits: list[Scored]

    def rows(self) -> Iterable[Row]:
        """Yield the rows whose thumbnails the page shows."""
        for scored in (*self.false_positives, *self.false_negatives, *self.hits):
            yield scored.row


def pick_galleries(predictions: Iterable[Scored], threshold: float) -> Galleries:
    """Pick what a page shows of some predictions: 24 mistakes of each kind and 12 hits at most.

    False positives come with the most confident first, false negatives with the least probable
    first, hits with the most confident first. Streams: only what is picked is held.
    """
    false_positives: list[tuple[float, str, Scored]] = []
    false_negatives: list[tuple[float, str, Scored]] = []
    hits: list[tuple[float, str, Scored]] = []
    for scored in predictions:
        called = scored.probability >= threshold
        positive = scored.row.label == "positive"
        if called and positive:
            _keep(hits, _HITS, scored.probability, scored)
        elif called:
            _keep(false_positives, _MISTAKES, scored.probability, scored)
        elif positive:
            _keep(false_negatives, _MISTAKES, -scored.probability, scored)
    return Galleries(*(_best_first(heap) for heap in (false_positives, false_negatives, hits)))


def thumbnail(picture: Image.Image) -> bytes:
    """Return a picture of mode RGB as a small JPEG, at most 256 pixels a side."""
    small = picture.copy()
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return buffer.getvalue()


def exploration_figures(exploration: Exploration, measures: Measures) -> dict[str, Figure]:
    """Draw what the exploration page shows, by the name of its file."""
    width, height, positive = measures.width, measures.height, measures.positive
    percentile = exploration.options.percentile
    typical = float(np.percentile(width, percentile)), float(np.percentile(height, percentile))
    size, ratio = exploration.input_size, exploration.aspect_ratio
    train, test = exploration.images["train"], exploration.images["test"]
    return {
        "dimensions": Figure(
            "Width and height",
            f"Scatter plot of height over width. The median is {exploration.width.median:,.0f} "
            f"wide and {exploration.height.median:,.0f} high; the recommended input is "
            f"{size.width} wide and {size.height} high.",
            "Both axes are logarithmic: the arrow keeps the shape while it scales down.",
            plots.in_both_themes(
                lambda theme: plots.dimensions(
                    width, height, positive, typical, (size.width, size.height), theme
                )
            ),
        ),
        "aspect_ratio": Figure(
            "Aspect ratio",
            f"Histogram of width divided by height. The median is {ratio.median:.2f}; 90 % of the "
            f"pictures are between {ratio.p5:.2f} and {ratio.p95:.2f}.",
            "Each label is its own 100 %. What is beyond 5:1 is counted at the edge.",
            plots.in_both_themes(lambda theme: plots.aspect_ratio(width, height, positive, theme)),
        ),
        "file_size": Figure(
            "File size",
            f"Histogram of file sizes. The median is {_bytes(exploration.bytes.median)}; the "
            f"largest file has {_bytes(exploration.bytes.max)}.",
            "Logarithmic scale, files as they are stored.",
            plots.in_both_themes(lambda theme: plots.file_size(measures.bytes, positive, theme)),
        ),
        "class_balance": Figure(
            "Class balance",
            f"Bar chart. Train has {train['positive']:,} positive and {train['negative']:,} "
            f"negative pictures, test has {test['positive']:,} and {test['negative']:,}.",
            "Pictures of each label in each split.",
            plots.in_both_themes(lambda theme: plots.class_balance(exploration.images, theme)),
        ),
    }


def exploration_page(
    exploration: Exploration, dataset: Dataset, figures: Mapping[str, Figure]
) -> str:
    """Return the page of an exploration."""
    return (
        environment()
        .get_template("explore.html")
        .render(exploration=exploration, dataset=dataset, figures=figures)
    )


def evaluation_page(
    evaluation: Evaluation,
    predictions: Sequence[Scored],
    thumbnails: Mapping[str, bytes],
    history: Sequence[Mapping[str, float]],
) -> str:
    """Return the page of an evaluation, of less than 5 MB.

    Args:
        evaluation: the numbers, and what led to them.
        predictions: every picture of the test split.
        thumbnails: JPEG bytes by md5; `pick_galleries` says of which rows. Where one is missing,
            or would make the page too large, the card says so.
        history: a mapping an epoch, of `loss`, `accuracy`, `val_loss`, `val_accuracy`.

    """
    threshold = evaluation.metrics.threshold
    picked = pick_galleries(predictions, threshold)
    cards = _Cards(thumbnails)
    return (
        environment()
        .get_template("evaluate.html")
        .render(
            evaluation=evaluation,
            metrics=evaluation.metrics,
            dataset=evaluation.dataset,
            headline=_Headline(evaluation.metrics),
            figures=_evaluation_figures(evaluation.metrics, predictions),
            training=_training_figure(history),
            false_positives=cards.of(picked.false_positives),
            false_negatives=cards.of(picked.false_negatives),
            hits=cards.of(picked.hits),
            veiled=any(row.rating in _VEILED for row in picked.rows()),
        )
    )


class _Headline:
    """The numbers of the headline, as words need them."""

    def __init__(self, metrics: BinaryMetrics) -> None:
        confusion = metrics.confusion
        self.called = confusion.tp + confusion.fp
        self.right = confusion.tp
        self.existing = metrics.positives


def _evaluation_figures(metrics: BinaryMetrics, predictions: Sequence[Scored]) -> list[Figure]:
    labels = np.array([scored.row.label == "positive" for scored in predictions])
    probabilities = np.array([scored.probability for scored in predictions], dtype=np.float64)
    counts, threshold = metrics.confusion, metrics.threshold
    return [
        Figure(
            "Confusion matrix",
            f"Confusion matrix: {counts.tp:,} true positives, {counts.fn:,} false negatives, "
            f"{counts.fp:,} false positives, {counts.tn:,} true negatives.",
            "A row is a label and adds up to 100 %.",
            plots.in_both_themes(
                lambda theme: plots.confusion_matrix(
                    counts.tp, counts.fp, counts.fn, counts.tn, theme
                )
            ),
        ),
        Figure(
            "Probability by label",
            f"Histogram of the probabilities the model gives to pictures of either label, with "
            f"the threshold at {threshold:.3g}.",
            "Right of the dashed line is called positive: orange there are the false positives.",
            plots.in_both_themes(
                lambda theme: plots.probability_histogram(labels, probabilities, threshold, theme)
            ),
        ),
        Figure(
            "Precision and recall",
            f"Precision over recall at every threshold; the average precision is "
            f"{metrics.average_precision:.3f}.",
            f"Average precision {metrics.average_precision:.3f}.",
            plots.in_both_themes(
                lambda theme: plots.precision_recall(labels, probabilities, threshold, theme)
            ),
        ),
        Figure(
            "ROC curve",
            f"True positive rate over false positive rate at every threshold; the area under the "
            f"curve is {metrics.roc_auc:.3f}.",
            f"Area under the curve {metrics.roc_auc:.3f}.",
            plots.in_both_themes(lambda theme: plots.roc(labels, probabilities, threshold, theme)),
        ),
    ]


def _training_figure(history: Sequence[Mapping[str, float]]) -> Figure | None:
    if not history:
        return None
    best = plots.best_epoch(history)
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
        plots.in_both_themes(lambda theme: plots.learning_curves(history, theme)),
    )


@dataclass(frozen=True)
class _Card:
    """A picture of a gallery as the template needs it."""

    row: Row
    probability: float
    link: str | None
    image: str | None
    veiled: bool


class _Cards:
    """Makes cards, with thumbnails until a page's share of bytes is used up."""

    def __init__(self, thumbnails: Mapping[str, bytes]) -> None:
        self._thumbnails = thumbnails
        self._left = _THUMBNAIL_BUDGET

    def of(self, gallery: Iterable[Scored]) -> list[_Card]:
        """Return the cards of a gallery."""
        return [
            _Card(
                row=scored.row,
                probability=scored.probability,
                link=web_link(scored.row.page_url),
                image=self._image(scored.row.md5),
                veiled=scored.row.rating in _VEILED,
            )
            for scored in gallery
        ]

    def _image(self, md5: str) -> str | None:
        data = self._thumbnails.get(md5)
        if data is None or len(data) * 4 // 3 > self._left:
            return None
        uri = data_uri(data, "image/jpeg")
        self._left -= len(uri)
        return uri


def _keep(heap: list[tuple[float, str, Scored]], limit: int, weight: float, scored: Scored) -> None:
    # Heaps compare the md5 next: the same predictions give the same page in any order.
    entry = (weight, scored.row.md5, scored)
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _best_first(heap: list[tuple[float, str, Scored]]) -> list[Scored]:
    return [scored for *_, scored in sorted(heap, key=lambda entry: entry[:2], reverse=True)]


def web_link(url: str) -> str | None:
    """Return a URL that may be made a link: manifests are from outside, and so may be scripts."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


@cache
def environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("imagetag"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number,
        percent=_percent,
        interval=_interval,
        size=_bytes,
        shown=_shown,
        when=_when,
        png=lambda data: data_uri(data, "image/png"),
    )
    return environment


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value % 1 == 0 else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "\N{EN DASH}" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "nothing was called positive"
    low, high = (100 * share for share in interval)
    return f"95\N{NO-BREAK SPACE}% confidence: {low:.1f} to {high:.1f}\N{NO-BREAK SPACE}%"


def _bytes(value: float) -> str:
    """Return bytes as people read them, by powers of 1,000."""
    power = min(4, int(math.log10(value) // 3)) if value >= 1 else 0
    number = f"{value / 1000**power:.{1 if power else 0}f}"
    return f"{number}\N{NO-BREAK SPACE}{('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _when(moment: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return moment


def _shown(value: Any) -> str:
    """Return a setting's value as people write it."""
    if value is None or value in ("", [], (), {}):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
