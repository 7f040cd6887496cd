"""Evaluate a trained model: choose its threshold on pictures kept for it, then test it.

The training kept them out of everything, so nothing before has been chosen by them. Or it was
learned from all, and each has the score of a head that has seen nothing of its fold. Nothing before
has looked at the test split, and it decides nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from imagetag.dataset import Dataset, Row, Sample, read_rows, sync
from imagetag.errors import InputError
from imagetag.evaluate.galleries import Scored, shown_row
from imagetag.evaluate.held_out import held_out, standing_verdicts
from imagetag.evaluate.judged import (
    Standing,
    is_unlearned,
    judged_test,
    judged_threshold,
    learned_labels,
)
from imagetag.evaluate.label_errors import Example, find_suspects
from imagetag.evaluate.measuring import evaluated, predictions_table, train_command
from imagetag.evaluate.page import Pictures, evaluation_page
from imagetag.evaluate.scores import Fetch, OfHead, OfModel, Scores
from imagetag.evaluate.threshold import decide, share_of_positives
from imagetag.explore import read_cautions
from imagetag.features import SharedFeatures
from imagetag.inputs import LEARNED, OutOfFold, load_partition
from imagetag.job import measured
from imagetag.layout import LABELS, PARTS, Label, Layout
from imagetag.log import get_logger, working
from imagetag.models import Score
from imagetag.pages import store_tag_pages
from imagetag.runs import (
    ByVerdicts,
    Decision,
    Evaluation,
    Part,
    Request,
    Run,
    Since,
    Suspects,
    store_card,
    store_suspects,
)
from imagetag.storage import Storage

_SEED = 0  # of folds


def evaluate_run(
    storage: Storage,
    run: Run,
    dataset: Dataset,
    request: Request,
    *,
    batch_size: int,
    cache_folder: Path,
    concurrency: int,
    shared: SharedFeatures | None = None,
) -> Evaluation:
    """Choose the threshold of a run's model, test it, and store the numbers and a page.

    Beside the model: `decision.json`, which predict goes by, `suspects.json`,
    `threshold_predictions.csv`, `test_predictions.csv`, `report.html`, the model card anew, with
    the results, and last `evaluation.json`.

    Args:
        storage: has the dataset and the model.
        run: whose model.
        dataset: the tag's, as it is now.
        request: what is wanted.
        batch_size: pictures the model takes at once.
        cache_folder: local copies of images.
        concurrency: downloads under way at once.
        shared: features, where several tags have runs on the same; None for the tag's own.

    Raises:
        InputError: if there is no model, or pictures have no features, it is not known what the run
            was trained on, or a label has no image to choose the threshold on or to test.

    """
    verdicts = standing_verdicts(storage, run.tag, request)
    standing = verdicts.standing
    parts, unseen, since, unlearned = _parts(storage, run, dataset, standing)
    share = share_of_positives(parts["train"])
    if not request.suspects:
        parts["train"], parts["validation"] = [], []
    if since.anything:
        get_logger().warning(
            "the dataset has changed since this run was trained: the threshold is chosen on what "
            f"the run has {'scored out of fold' if unseen else 'kept for it'}, less what is tied "
            "to what it has seen",
            run=run.run,
            **since.model_dump(),
        )
    rows = list({row.md5: row for part in parts.values() for row in part}.values())

    def fetch(some: Sequence[Row]) -> Sequence[Sample]:
        return sync(storage, run.tag, some, cache_folder / "images", concurrency)

    asked: Scores
    if run.extractor:
        asked = OfHead(storage, run, shared or SharedFeatures(storage, [run.tag], cache_folder))
    else:
        asked = OfModel(storage, run, fetch, batch_size, features=request.suspects)
    scores = asked.of(rows)
    left_out = len(rows) - len(scores)
    scored = {
        part: [(row, scores[row.md5]) for row in found if row.md5 in scores]
        for part, found in parts.items()
    }
    if unseen:  # without features, as they are examples already
        scored["threshold"] = [(row, unseen[row.md5]) for row in parts["threshold"]]
    for part in LEARNED:
        scored[part] = learned_labels(scored[part], standing)
    scored["threshold"], of_threshold = judged_threshold(
        scored["threshold"], standing, request, share
    )
    with working("choosing the threshold"):
        decision = decide(
            run, dataset, request, scored["threshold"], share, of_threshold.counted or None
        )
    scored["test"], of_test = judged_test(scored["test"], standing, decision.positive)
    by_verdicts = ByVerdicts(
        digest=verdicts.digest,
        learned=run.turned,
        unlearned=unlearned,
        threshold=of_threshold if standing else None,
        test=of_test if standing else None,
    )
    for sentence in by_verdicts.sentences:
        get_logger().info(sentence)
    with working("looking for wrong labels"):
        suspects = _suspects(scored, standing) if request.suspects else None
    pixels = run.image_size[0] * run.image_size[1]
    measured(images=len(rows), model=run.model, extractor=run.extractor, pixels=pixels)
    judged = {part: _decided(decision, scored[part]) for part in ("threshold", "test")}
    results = _Results(
        storage, run, dataset, request, decision, since, by_verdicts, suspects, rows, fetch, asked
    )
    with working("measuring and drawing the page"):
        return results.store(judged, left_out)


@dataclass(frozen=True)
class _Results:
    """What is found out about a run, on its way into storage."""

    storage: Storage
    run: Run
    dataset: Dataset
    request: Request
    decision: Decision
    since: Since
    by_verdicts: ByVerdicts
    suspects: Suspects | None
    rows: Sequence[Row]
    fetch: Fetch
    asked: Scores

    def store(self, scored: Mapping[str, Sequence[Scored]], left_out: int) -> Evaluation:
        run, rows = self.run, {row.md5: row for row in self.rows}
        suspects = None
        if self.suspects is not None:
            found = self.suspects.of_label("negative")
            suspects = [shown_row(rows[item.md5], item.probability) for item in found]
        evaluation = evaluated(
            tag=run.tag,
            run=run.run,
            request=self.request,
            settings=_settings(run),
            command=train_command(run.tag, run.settings, run.image_size),
            dataset=self.dataset,
            decision=self.decision,
            learned=run.images.get("train"),
            chosen_on=scored["threshold"],
            since=self.since,
            test=scored["test"],
            suspects=suspects,
            unjudged=self.suspects.reason if self.suspects else None,
            left_out=left_out,
            history=run.history,
            cautions=read_cautions(self.storage, self.dataset, held_out(run, self.request)),
            verdicts=self.by_verdicts,
        )
        page = evaluation_page(evaluation, scored["test"], self._pictures(evaluation))
        self._write(evaluation, scored, page)
        return evaluation

    def _pictures(self, evaluation: Evaluation) -> Pictures:
        """Return thumbnails of what the page shows, and what the model looked at in them."""
        wanted = sorted({item.md5 for items in evaluation.galleries.values() for item in items})
        camera = None
        try:
            camera = self.asked.camera()
        except InputError as error:
            get_logger().warning("no heatmaps", reason=str(error))
        shown = self.asked.shown
        missing = set(shown.missing(wanted))
        samples = self.fetch([row for row in self.rows if row.md5 in missing])
        return shown.of(wanted, {sample.row.md5: sample.path for sample in samples}, camera)

    def _write(
        self, evaluation: Evaluation, scored: Mapping[str, Sequence[Scored]], page: str
    ) -> None:
        storage, run, metrics = self.storage, self.run, evaluation.metrics
        layout = Layout(run.tag)
        for part, found in scored.items():
            table = predictions_table(found)
            storage.write(layout.run(run.run, f"{part}_predictions.csv"), table)
        if self.suspects is not None:
            store_suspects(storage, run.tag, run.run, self.suspects)
        decision = self.decision.model_dump_json(indent=2).encode() + b"\n"
        storage.write(layout.run(run.run, "decision.json"), decision)
        storage.write(layout.run(run.run, "report.html"), page.encode())
        store_card(storage, run, self.dataset, evaluation)
        marker = evaluation.model_dump_json(indent=2).encode() + b"\n"
        storage.write(layout.run(run.run, "evaluation.json"), marker)
        store_tag_pages(storage, [run.tag])
        chosen = metrics.chosen
        get_logger().info(
            "evaluated",
            run=run.run,
            images=metrics.positives + metrics.negatives,
            threshold=round(chosen.threshold, 4),
            precision=_rounded(chosen.precision.value),
            recall=_rounded(chosen.recall.value),
            accuracy=_rounded(chosen.accuracy.value),
            average_precision=_rounded(metrics.average_precision.value),
            worth=evaluation.worth,
            suspects=evaluation.suspects,
            report=f"{storage.url}/{layout.run(run.run, 'report.html')}",
        )


def _parts(
    storage: Storage, run: Run, dataset: Dataset, standing: Standing
) -> tuple[dict[Part, list[Row]], dict[str, Score], Since, int]:
    """Return the rows of each part, scores out of fold, and what has changed since the training.

    At last, of how many pictures verdicts say other than it has learned.

    What was used for what is what the run has stored of it. Groups are today's: a picture kept for
    the threshold that turns out to be a near-duplicate of one that was trained on is left out.
    What the threshold and the test do not need is there to find suspect labels alone.

    Scores out of fold, by md5, are there if the threshold is chosen on them: on pictures of the
    part `train`, which are in `threshold` too. Who of a group today was in several folds is left
    out: what scored one of them had seen the others.
    """
    used = load_partition(storage, run)
    parts: dict[Part, list[Row]] = {part: [] for part in get_args(Part)}
    added = relabelled = unlearned = 0
    for row in read_rows(storage, dataset):
        before = used.get(row.md5)
        if row.split == "test":
            if before is None:
                parts["test"].append(row)
            continue
        added += before is None
        relabelled += before is not None and before.board != row.label
        unlearned += is_unlearned(before, row, standing)
        use = "train" if before is None or before.use == "excluded" else before.use
        parts[use].append(row)
    gone = len(used) - sum(len(parts[part]) for part in PARTS) + added
    scored: dict[str, OutOfFold] = {}
    if run.out_of_fold:
        for md5, picture in used.items():
            if picture.out_of_fold is not None:
                scored[md5] = picture.out_of_fold
        parts["threshold"] = [row for row in parts["train"] if row.md5 in scored]
        kept = _of_one_fold(parts["threshold"], scored)
    else:
        seen = {
            row.group
            for row in parts["train"] + parts["validation"]
            if row.md5 in used and used[row.md5].use != "excluded"
        }
        kept = [row for row in parts["threshold"] if row.group not in seen]
    tied = len(parts["threshold"]) - len(kept)
    since = Since(added=added, gone=gone, relabelled=relabelled, tied=tied)
    parts["threshold"] = kept
    needed: tuple[tuple[Part, str], ...] = (
        ("threshold", "to choose the threshold on"),
        ("test", "to test"),
    )
    for part, purpose in needed:
        for label, count in _labels(parts[part]).items():
            if not count:
                raise InputError(
                    f"the tag {run.tag!r} has no {label} image {purpose}: scrape more, "
                    "by a higher --limit or of a fuller folder, and train again"
                )
    unseen = {md5: Score(np.array([score.logit], np.float32)) for md5, score in scored.items()}
    return parts, unseen, since, unlearned


def _of_one_fold(rows: Sequence[Row], scored: Mapping[str, OutOfFold]) -> list[Row]:
    """Return the pictures whose groups, as they are today, are within a fold."""
    folds: dict[str, set[int]] = {}
    for row in rows:
        folds.setdefault(row.group, set()).add(scored[row.md5].fold)
    return [row for row in rows if len(folds[row.group]) == 1]


def _decided(decision: Decision, scored: Sequence[tuple[Row, Score]]) -> list[Scored]:
    return [
        Scored(row, score.logit, decision.probability(score.logit), decision.positive(score.logit))
        for row, score in scored
    ]


def _suspects(scored: Mapping[Part, Sequence[tuple[Row, Score]]], standing: Standing) -> Suspects:
    examples = [
        Example(row, score.features, score.logit, part)
        for part, found in scored.items()
        for row, score in found
        if score.features is not None
    ]
    return find_suspects(examples, seed=_SEED, judged=standing)


def _labels(rows: Sequence[Row]) -> dict[Label, int]:
    return {label: sum(row.label == label for row in rows) for label in LABELS}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _settings(run: Run) -> dict[str, object]:
    size = f"{run.image_size[0]} x {run.image_size[1]} (height x width)"
    counts = {
        f"{part} images": f"{labels['positive']} positive, {labels['negative']} negative"
        for part, labels in run.images.items()
    }
    return {
        **run.settings,
        "image_size": size,
        **counts,
        "parameters": run.parameters,
        **({"best_epoch": run.best_epoch} if run.history else {}),
        "seconds": run.seconds,
        "devices": ", ".join(run.devices),
        "trained": run.created,
        **run.versions,
    }
