"""One look at a tag in storage: at its markers, and at what was told of it since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import AwareDatetime, Field

from imagetag.dataset import Dataset, ShareOfTag, embedded_tag, latest_name, load_dataset
from imagetag.errors import InputError
from imagetag.job import Beat
from imagetag.layout import Layout, Stage, StatusKey
from imagetag.record import Record
from imagetag.sentences import counted
from imagetag.status.tag_status import PromiseStatus, StageStatus, State, TagStatus
from imagetag.storage import ObjectInfo, ObjectNotFound, Storage, load_record
from imagetag.verdicts import audits_of, load_audits

LOST = 180.0  # seconds without a word, after which a work is no longer taken to be under way
_OURS = {"train", "test", "manifest"}

Records = Mapping[StatusKey, ObjectInfo]
"""What was told of a tag."""


class _Explored(Record):
    fingerprint: str
    input_size: dict[str, Any] = Field(default_factory=dict)
    created: AwareDatetime


class _Trained(Record):
    run: str
    model: str
    fingerprint: str = ""
    history: tuple[dict[str, Any], ...] = ()
    created: AwareDatetime


class _Value(Record):
    value: float | None = None


class _Chosen(Record):
    precision: _Value = _Value()
    recall: _Value = _Value()


class _Metrics(Record):
    chosen: _Chosen


class _Decision(Record):
    trained: AwareDatetime
    promise: PromiseStatus | None = None


class _Evaluated(Record):
    decision: _Decision
    metrics: _Metrics
    created: AwareDatetime


_Stored = TypeVar("_Stored", bound=Record)


class Reading:
    """One look at a tag.

    Args:
        storage: has it.
        tag: which.
        records: what was told of it.
        shares: what shares of its pictures were embedded.
        now: when it is looked at.

    """

    def __init__(
        self,
        storage: Storage,
        tag: str,
        records: Records,
        shares: Sequence[ShareOfTag],
        now: datetime,
    ) -> None:
        self._storage, self._tag, self._layout = storage, tag, Layout(tag)
        self._records, self._shares, self._now = records, shares, now
        self._beats = self._newest()

    def read(self) -> TagStatus:
        """Return where it stands."""
        dataset, scraped = self._scraped()
        explored, exploration = self._explored(dataset)
        training, trained = self._trained(dataset)
        evaluation, evaluated = self._evaluated(training)
        pages = {}
        if exploration:
            pages["explore"] = self._layout.explore("report.html")
        if training and evaluation:
            pages["evaluate"] = self._layout.run(training.run, "report.html")
        chosen = evaluation.metrics.chosen if evaluation else _Chosen()
        return TagStatus(
            tag=self._tag,
            stages={
                "scrape": scraped,
                "curate": self._curated(dataset),
                "explore": explored,
                "pack": self._packed(),
                "embed": self._embedded(dataset),
                "train": trained,
                "evaluate": evaluated,
                "predict": self._told("predict"),
                "audit": self._audited(training),
            },
            images=dataset.images if dataset else None,
            bytes=dataset.bytes if dataset else None,
            run=training.run if training else "",
            model=training.model if training else "",
            promise=evaluation.decision.promise if evaluation else None,
            precision=chosen.precision.value,
            recall=chosen.recall.value,
            pages={job: f"{self._storage.url}/{key}" for job, key in pages.items()},
        )

    # --- Each stage: its marker, if there is one, and what was told of it since ----------------

    def _scraped(self) -> tuple[Dataset | None, StageStatus]:
        try:
            dataset = load_dataset(self._storage, self._tag)
        except InputError as error:
            if not isinstance(error.__cause__, ObjectNotFound):
                return None, StageStatus(state="incomplete", reason=str(error))
            found = self._told("scrape")
            if found.state == "none" and _OURS & set(self._storage.folders(self._layout.root)):
                found = StageStatus(state="incomplete", reason="begun, and nobody is at it")
            return None, found
        images = dataset.images
        result = "+".join(
            str(sum(images[split][label] for split in images)) for label in images["train"]
        )
        return dataset, self._told("scrape", _moment(dataset.created), result)

    def _curated(self, dataset: Dataset | None) -> StageStatus:
        if dataset is None or dataset.curation is None:
            return self._told("curate")
        return self._told("curate", _moment(dataset.created), f"{dataset.curation.dropped} dropped")

    def _packed(self) -> StageStatus:
        done = any((key.stage, key.state) == ("pack", "done") for key in self._records)
        found = self._told("pack")
        return StageStatus(state="complete") if done and found.state == "none" else found

    def _embedded(self, dataset: Dataset | None) -> StageStatus:
        """Return what the shares of the pictures tell together: no pod has all of a tag's."""
        found = embedded_tag(self._shares, dataset.fingerprint if dataset else None)
        if found is None:
            return self._told("embed")
        old = found.done < found.told
        reason = "the dataset has changed since" if old else ""
        told = self._told("embed", found.moment, found.extractor, outdated=reason)
        if old or told.state != "complete" or found.done == found.count:
            return told
        progress = {"done": found.done, "total": found.count, "unit": "shares"}
        return told.model_copy(update={"state": "incomplete", **progress})

    def _explored(self, dataset: Dataset | None) -> tuple[StageStatus, _Explored | None]:
        key = self._layout.explore("explore.json")
        marker = self._marker(key, _Explored)
        if not isinstance(marker, _Explored):
            return self._told("explore", damaged=marker), None
        size = marker.input_size
        result = f"{size.get('height')}x{size.get('width')}" if size else ""
        old = dataset is not None and marker.fingerprint != dataset.fingerprint
        reason = "the dataset has changed since" if old else ""
        return self._told("explore", marker.created, result, outdated=reason), marker

    def _trained(self, dataset: Dataset | None) -> tuple[_Trained | None, StageStatus]:
        try:
            run = latest_name(self._storage, self._layout.latest, "run", "train again")
        except ObjectNotFound:
            return None, self._told("train")
        except InputError as error:
            return None, self._told("train", damaged=str(error))
        marker = self._marker(self._layout.run(run, "metrics.json"), _Trained)
        if not isinstance(marker, _Trained):
            return None, self._told("train", damaged=marker or f"the run {run} is gone")
        epochs = f" {counted(len(marker.history), 'epoch')}" if marker.history else ""
        old = dataset is not None and marker.fingerprint not in ("", dataset.fingerprint)
        reason = "the dataset has changed since" if old else ""
        result = f"{marker.model}{epochs}"
        return marker, self._told("train", marker.created, result, outdated=reason)

    def _evaluated(self, training: _Trained | None) -> tuple[_Evaluated | None, StageStatus]:
        if training is None:
            return None, self._told("evaluate")
        marker = self._marker(self._layout.run(training.run, "evaluation.json"), _Evaluated)
        if not isinstance(marker, _Evaluated):
            return None, self._told("evaluate", damaged=marker)
        old = marker.decision.trained != training.created
        reason = "trained again since" if old else ""
        return marker, self._told("evaluate", marker.created, "", outdated=reason)

    def _audited(self, training: _Trained | None) -> StageStatus:
        """Return what the first audit of the run has proven; nothing is read where none was."""
        if training is None or not any(key.stage == "audit" for key in self._records):
            return self._told("audit")
        created = training.created.isoformat(timespec="seconds")
        found = audits_of(load_audits(self._storage, self._tag), training.run, created)
        if not found:
            return self._told("audit")
        first = found[0]
        return self._told("audit", first.updated, f"{first.short}, {first.judged} judged")

    def _told(
        self,
        stage: Stage,
        made: datetime | None = None,
        result: str = "",
        *,
        outdated: str = "",
        damaged: str | None = None,
    ) -> StageStatus:
        """Return what a marker made at a time says, unless a later record says otherwise."""
        beat, silent = self._beats.get(stage, (None, 0.0))
        # A marker has whole seconds.
        if beat is None or (made is not None and made >= beat.updated.replace(microsecond=0)):
            if damaged:
                return StageStatus(state="incomplete", reason=damaged)
            if made is None:
                return StageStatus()
            state: State = "outdated" if outdated else "complete"
            seconds = self._since(made)
            return StageStatus(state=state, result=result, reason=outdated, seconds=seconds)
        common: dict[str, Any] = {
            "result": result,
            "doing": beat.doing,
            "done": beat.done,
            "total": beat.total,
            "unit": beat.unit,
            "seconds": silent,
            "host": beat.host,
        }
        if beat.state == "failed":
            state = "stopped" if beat.stopped else "failed"
            return StageStatus(state=state, reason=beat.reason, exit_code=beat.exit_code, **common)
        if silent <= LOST:
            return StageStatus(state="running", **common)
        if made is not None and made >= beat.started:  # it was done, and could not say so
            return StageStatus(state="complete", result=result, seconds=self._since(made))
        host = f" on {beat.host}" if beat.host else ""
        reason = f"no word of it{host}: it was killed, or cannot write; run it again to go on"
        return StageStatus(state="lost", reason=reason, **common)

    def _newest(self) -> dict[Stage, tuple[Beat, float]]:
        """Return the newest record of each stage that tells of no success, and its age in seconds.

        The age is by the clock of the storage, if it has one: that of whoever looks may be wrong.
        """
        newest: dict[Stage, tuple[Beat, float]] = {}
        for key, entry in self._records.items():
            if key.state == "done":
                continue
            try:
                beat = load_record(self._storage, entry.key, Beat)
            except InputError:  # it ended meanwhile; or is damaged, and markers say enough
                continue
            age = self._since(beat.updated) if entry.age is None else round(entry.age, 1)
            known, _ = newest.get(key.stage, (None, 0.0))
            # Of workers that share a tag, the one that failed says more than one that was lost.
            if known is None or (beat.updated, beat.state) > (known.updated, known.state):
                newest[key.stage] = beat, age
        return newest

    def _marker(self, key: str, record: type[_Stored]) -> _Stored | str | None:
        """Return a marker; None if there is none, or what is wrong with it."""
        try:
            return load_record(self._storage, key, record)
        except ObjectNotFound:
            return None
        except InputError as error:
            return str(error)

    def _since(self, moment: datetime) -> float:
        return max(0.0, round((self._now - moment).total_seconds(), 1))


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
