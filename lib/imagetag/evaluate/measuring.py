"""What a model's answers on the test split are worth: an evaluation, and a table of the answers."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from imagetag import __version__
from imagetag.checks import SETTINGS_OF_HEADS
from imagetag.csv_cells import quoted
from imagetag.dataset import Dataset
from imagetag.evaluate.breakdown import breakdown
from imagetag.evaluate.galleries import Scored, pick_galleries, shown
from imagetag.job import option_name
from imagetag.layout import LABELS, Label
from imagetag.runs import ByVerdicts, Decision, Evaluation, Request, Shown, Since
from imagetag.stats import Calibration, Predictions, at_prevalence, binary_metrics, reliability

_SUSPECTS = 24  # pictures of a gallery
_PREVALENCES = (0.1, 0.01, 0.001)
_SEED = 0  # of resamples


def evaluated(
    *,
    tag: str,
    run: str,
    request: Request,
    settings: Mapping[str, Any],
    command: str,
    dataset: Dataset,
    decision: Decision,
    learned: Mapping[Label, int] | None = None,
    chosen_on: Sequence[Scored],
    since: Since,
    test: Sequence[Scored],
    suspects: Sequence[Shown] | None,
    unjudged: str | None = None,
    left_out: int = 0,
    history: Sequence[dict[str, float]] = (),
    cautions: Sequence[str] = (),
    verdicts: ByVerdicts | None = None,
) -> Evaluation:
    """Measure a model's answers on the test split.

    Args:
        tag: what it recognises.
        run: the run's name.
        request: what was asked for.
        settings: what it was trained with.
        command: repeats the training.
        dataset: what it was trained and tested on.
        decision: by which the answers were made.
        learned: how many pictures of each label it was trained on, if that is known.
        chosen_on: the pictures that the decision was chosen on.
        since: what has changed since the training.
        test: those of the test split.
        suspects: negatives that look like the tag, the most suspect first; None if not looked for.
        unjudged: why no label could be judged.
        left_out: pictures that are missing or cannot be decoded.
        history: a row an epoch.
        cautions: what makes the numbers better than they are, a sentence each.
        verdicts: what people's verdicts have to do with it.

    Raises:
        InputError: if the test pictures are of one label.

    """
    answers = Predictions(
        labels=np.array([item.positive for item in test], bool),
        scores=np.array([item.logit for item in test], np.float64),
        probabilities=np.array([item.probability for item in test], np.float64),
        called=np.array([item.called for item in test], bool),
        groups=[item.row.group for item in test],
    )
    metrics = binary_metrics(answers, decision.threshold, seed=_SEED)
    asked = () if request.prevalence is None else (request.prevalence,)
    prevalences = sorted({*_PREVALENCES, *asked}, reverse=True)
    galleries = pick_galleries(test)
    return Evaluation(
        tag=tag,
        run=run,
        request=request,
        settings=dict(settings),
        command=command,
        dataset=dataset,
        decision=decision,
        learned=dict(learned or {}),
        chosen_on={label: sum(item.row.label == label for item in chosen_on) for label in LABELS},
        since=since,
        metrics=metrics,
        prevalences=tuple(at_prevalence(answers, rate) for rate in prevalences),
        reliability={
            "raw": reliability(
                answers.labels, Calibration().probabilities(answers.scores), answers.groups
            ),
            "calibrated": reliability(answers.labels, answers.probabilities, answers.groups),
        },
        slices=tuple(breakdown([item.row for item in test], [item.called for item in test])),
        galleries={
            "false_positives": shown(galleries.false_positives),
            "false_negatives": shown(galleries.false_negatives),
            "hits": shown(galleries.hits),
            "suspects": list(suspects or ())[:_SUSPECTS],
        },
        suspects=None if suspects is None else len(suspects),
        unjudged=unjudged,
        left_out=left_out,
        history=list(history),
        cautions=tuple(cautions),
        verdicts=verdicts or ByVerdicts(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=f"imagetag {__version__}",
    )


def predictions_table(scored: Iterable[Scored]) -> bytes:
    """Return pictures as CSV, the most probable first."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["md5", "page_url", "label", "group", "logit", "probability", "decision"])
    for item in sorted(scored, key=lambda item: (-item.logit, item.row.md5)):
        row = item.row
        texts = [row.md5, quoted(row.page_url), row.label, quoted(row.group)]
        numbers = [f"{item.logit:.6f}", f"{item.probability:.6f}"]
        writer.writerow([*texts, *numbers, str(item.called).lower()])
    return table.getvalue().encode()


def train_command(tag: str, settings: Mapping[str, Any], image_size: tuple[int, int]) -> str:
    """Return the command that trains the same model again, for a shell, an option a line.

    Args:
        tag: of what.
        settings: of the training, as the run has them.
        image_size: (height, width) in pixels.

    """
    values = dict(settings) | {"image_size": f"{image_size[0]}x{image_size[1]}"}
    if settings.get("features", "no") != "no":  # what else there is was found, or the extractor's
        values = {name: value for name, value in settings.items() if name in SETTINGS_OF_HEADS}
    if "mixed_precision" in values:  # which of them, the machine decides
        values["mixed_precision"] = "no" if values["mixed_precision"] == "float32" else "yes"
    lines = [f"imagetag train --tags {shlex.quote(tag)}"]
    for name, value in values.items():
        option = option_name(name)
        if isinstance(value, bool):
            lines.append(option if value else option.replace("--", "--no-", 1))
        elif value is not None:
            lines.append(f"{option} {shlex.quote(str(value))}")
    return " \\\n  ".join(lines)
