"""One run of the job: the rows of all pictures and tags, to the terminal or to a file."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imagetag.layout import Layout
from imagetag.log import Progress, get_logger
from imagetag.parallel import map_ahead
from imagetag.predict.copies import Copies
from imagetag.predict.resumable import Parts, Tally
from imagetag.predict.sidecars import Sidecars
from imagetag.predict.sources import Picture, Source, place_of
from imagetag.predict.writers import Answers, CsvWriter, Kind, Shape, Table
from imagetag.quiet import quiet_imports
from imagetag.storage import ObjectNotFound, Storage

if TYPE_CHECKING:
    from imagetag.predict.advice import Advisor
    from imagetag.predict.classifiers import Classifiers
    from imagetag.runs import Decision, Run

AdviceAsked = Literal["auto", "no", "yes"]
MOST_ADVISED = 20  # tags that are told of without being asked for

_AT_ONCE = {"threads": 16, "ahead": 32}  # runs that are read, of which there may be a thousand


class PredictionRun:
    """Predicts a shard's pictures with the models of some runs.

    Args:
        storage: has the models.
        runs: one of each tag.
        source: of the pictures.
        copies: gets the positives, if anything does.
        sidecars: names their tags, if anything does.
        scratch: gets the files of models.
        shape: of the rows: one a picture and tag, or one a picture.
        threshold: the least probability of a positive; None for what evaluate has decided, or 0.5.
        batch_size: pictures the model takes at once.
        concurrency: pictures that are fetched at once, where they are not on this machine.
        shard: which share of the pictures this is, from 0, and of how many.
        advice: whether to tell what the pictures have of each tag.

    """

    def __init__(
        self,
        storage: Storage,
        runs: Sequence[Run],
        source: Source,
        copies: Copies | None,
        sidecars: Sidecars | None,
        scratch: Path,
        *,
        shape: Shape,
        threshold: float | None,
        batch_size: int,
        concurrency: int,
        shard: tuple[int, int],
        advice: AdviceAsked,
    ) -> None:
        self._storage, self._runs = storage, runs
        self._source, self._copies, self._sidecars = source, copies, sidecars
        self._threshold, self._batch_size = threshold, batch_size
        # Files that are here are decoded as the processors can; on others, one waits.
        self._threads = None if source.local else concurrency
        self._shard = shard
        self._scratch = scratch
        self._table = Table(shape, [run.tag for run in runs])
        self._shape: Shape = shape
        self._advisor: Advisor | None = None
        if advice == "yes" or (advice == "auto" and len(runs) <= MOST_ADVISED):
            from imagetag.predict.advice import Advisor

            self._advisor = Advisor(storage, runs, threshold)

    def to_terminal(self) -> None:
        """Write rows as they come."""
        tally = Tally()
        writer = CsvWriter(sys.stdout, self._table)
        pictures = filter(self._is_mine, self._source.pictures())
        try:
            found = (a for _, a in self._answers(pictures, bar=not sys.stdout.isatty()))
            for answers in found if self._advisor is None else self._advisor.watch(found):
                writer.write(answers)
                tally.count(answers)
        except BaseException as error:
            error.add_note("rows on the terminal are not kept; run it again to have all of them")
            raise
        if self._copies is not None:
            self._copies.wait()
        self._tell(tally, "-")
        if self._advisor is not None:
            _tell_advice(self._advisor.advice())

    def to_file(self, output: Storage, name: str, kind: Kind) -> None:
        """Write rows to a file, in parts first, or go on with those that are there."""
        parts = Parts(
            output,
            name,
            self._request(kind),
            self._table,
            batch=self._batch_size,
            ready=lambda: self._copies.wait() if self._copies else None,
        )
        parts.check_place()
        if about := parts.done(self._source, self._is_mine):
            get_logger().info(
                "already predicted",
                tags=len(self._runs),
                rows=about.rows,
                images=about.images,
                positives=about.positives,
                output=f"{output.url}/{name}",
            )
            _tell_advice(about.advice)
            return
        try:
            for picture, answers in self._answers(parts.remaining(self._source, self._is_mine)):
                parts.add(picture, answers)
        except BaseException as error:
            kept = parts.save_at_last()
            error.add_note(f"{kept} images are done; run it again to go on")
            raise
        about = parts.finish(kind, self._advisor)
        self._tell(parts.tally, f"{output.url}/{name}", reused=parts.reused)
        _tell_advice(about.advice)

    def _answers(
        self, pictures: Iterator[Picture], *, bar: bool = True
    ) -> Iterator[tuple[Picture, Answers]]:
        first = next(pictures, None)  # where there is none, it may say so
        if first is None:
            return
        pictures = chain([first], pictures)
        with quiet_imports():  # TensorFlow: not where there is nothing to do
            from imagetag.predict.classifiers import predict

        asked, size = self._classifiers(), self._batch_size
        with Progress("predict", bar=bar) as progress:
            for picture, answers in predict(asked, self._source, pictures, size):
                decisions = zip(self._table.tags, answers.decisions, strict=False)
                tags = [tag for tag, decision in decisions if decision]
                if tags and self._sidecars is not None:
                    self._sidecars.add(picture, tags)
                if tags and self._copies is not None:
                    self._copies.add(picture)
                else:
                    self._source.forget(picture)
                yield picture, answers
                progress.advance()

    def _classifiers(self) -> Classifiers:
        from imagetag.predict.classifiers import Classifiers, decided
        from imagetag.predict.networks import Networks
        from imagetag.runs import load_decision

        def load(run: Run) -> Decision | None:
            return load_decision(self._storage, run.tag, run.run, run.created)

        judges = [
            decided(run, decision, self._threshold)
            for run, decision in map_ahead(load, self._runs, **_AT_ONCE)
        ]
        networks = Networks(
            self._storage, self._runs, self._scratch, self._batch_size, threads=self._threads
        )
        return Classifiers(judges, networks.scorer, networks.places)

    def _is_mine(self, picture: Picture) -> bool:
        """Tell whether a picture is this shard's: by its name, whatever else is there."""
        index, count = self._shard
        if count == 1:
            return True
        digest = hashlib.sha256(picture.name.encode(errors="replace")).digest()
        return int.from_bytes(digest[:8], "big") % count == index

    def _request(self, kind: Kind) -> dict[str, Any]:
        """Return what decides the rows, and where they and their pictures go."""

        def digest(run: Run) -> str | None:
            return _digest_of_decision(self._storage, run)

        request: dict[str, Any] = {
            "models": [
                [run.tag, run.run, run.created, decision]
                for run, decision in map_ahead(digest, self._runs, **_AT_ONCE)
            ],
            "threshold": self._threshold,
            "input": dict(self._source.identity),
            "shard": list(self._shard),
            "copy_to": self._copies and place_of(self._copies.target),
            "kind": kind,
        }
        if self._sidecars is not None:
            request["sidecars"] = self._sidecars.identity
        if self._shape != "long":
            request["shape"] = self._shape
        return request

    def _tell(self, tally: Tally, output: str, **more: int) -> None:
        one = self._runs[0]
        told = (
            {"tag": one.tag, "run": one.run} if len(self._runs) == 1 else {"tags": len(self._runs)}
        )
        get_logger().info(
            "predicted",
            **told,
            images=tally.images,
            positives=tally.positives,
            errors=tally.errors.total(),
            output=output,
            **({"reasons": dict(tally.errors)} if tally.errors else {}),
            **more,
        )


def _digest_of_decision(storage: Storage, run: Run) -> str | None:
    """Return what stands for a run's decision, without understanding it."""
    try:
        return hashlib.sha256(
            storage.read(Layout(run.tag).run(run.run, "decision.json"))
        ).hexdigest()
    except ObjectNotFound:
        return None


def _tell_advice(advice: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell what is estimated of tags, now or in an earlier run."""
    for tag, shift in advice.items():
        log = get_logger()
        say = log.info if shift.get("advice") in (None, "keep") else log.warning
        say("estimated", tag=tag, **{name: value for name, value in shift.items() if name != "tag"})
