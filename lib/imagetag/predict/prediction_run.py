"""One run of the job: the rows of all pictures and tags, to the terminal or to a file."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagetag.dataset import check_run
from imagetag.errors import InputError, one_line
from imagetag.layout import Layout, encode
from imagetag.log import Progress, get_logger
from imagetag.predict.copies import Copies
from imagetag.predict.resumable import Parts, Tally
from imagetag.predict.sidecars import Sidecars
from imagetag.predict.sources import Picture, Source, place_of
from imagetag.predict.turns import InTurn, in_groups, pictures_a_turn
from imagetag.predict.writers import CsvWriter, Kind, Prediction
from imagetag.quiet import quiet_imports
from imagetag.storage import LocalStorage, ObjectNotFound, Storage

if TYPE_CHECKING:
    from imagetag.predict.classifiers import Classifier
    from imagetag.runs import Run


def find_runs(storage: Storage, tags: Sequence[str], name: str) -> tuple[list[Run], list[str]]:
    """Return a run of each tag, and the tags that have none: they do not stop the others.

    Raises:
        InputError: if none has one.

    """
    from imagetag.runs import load_run  # without TensorFlow, and not for --help

    runs: list[Run] = []
    failed: list[str] = []
    for tag in tags:
        try:
            check_run(storage, tag, name)  # it names what there is
            runs.append(load_run(storage, tag, name))
        except InputError as error:
            if len(tags) == 1:
                raise
            get_logger().error(one_line(error, None), tag=tag, exit_code=error.exit_code)
            failed.append(tag)
    if not runs:
        raise InputError(f"none of the {len(tags)} tags has a trained model in {storage.url}")
    return runs, failed


class PredictionRun:
    """Predicts a shard's pictures with the models of some runs.

    Args:
        storage: has the models.
        runs: one of each tag.
        source: of the pictures.
        copies: gets the positives, if anything does.
        sidecars: names their tags, if anything does.
        scratch: gets the files of models.
        threshold: the least probability of a positive; None for what evaluate has decided, or 0.5.
        batch_size: pictures the model takes at once.
        concurrency: pictures that are fetched at once, where they are not on this machine.
        shard: which share of the pictures this is, from 0, and of how many.

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
        threshold: float | None,
        batch_size: int,
        concurrency: int,
        shard: tuple[int, int],
    ) -> None:
        self._storage, self._runs = storage, runs
        self._source, self._copies, self._sidecars = source, copies, sidecars
        self._threshold, self._batch_size = threshold, batch_size
        # Files that are here are decoded as the processors can; on others, one waits.
        self._threads = None if source.local else concurrency
        self._shard = shard
        self._scratch = scratch
        self._groups = in_groups(runs)
        self._chunk = pictures_a_turn(self._groups, batch_size)

    def to_terminal(self) -> None:
        """Write rows as they come."""
        tally = Tally()
        writer = CsvWriter(sys.stdout)
        pictures = filter(self._is_mine, self._source.pictures())
        try:
            for _, rows in self._rows(pictures, bar=not sys.stdout.isatty()):
                for row in rows:
                    writer.write(row)
                    tally.count(row)
        except BaseException as error:
            error.add_note("rows on the terminal are not kept; run it again to have all of them")
            raise
        if self._copies is not None:
            self._copies.wait()
        self._tell(tally, "-")

    def to_file(self, output: Storage, name: str, kind: Kind) -> None:
        """Write rows to a file, in parts first, or go on with those that are there."""
        parts = Parts(
            output,
            name,
            self._request(kind),
            batch=self._chunk * len(self._runs),
            each=len(self._runs),
            ready=lambda: self._copies.wait() if self._copies else None,
        )
        parts.check_place()
        if about := parts.done(self._source, self._is_mine):
            get_logger().info(
                "already predicted",
                rows=about.rows,
                images=about.rows // len(self._runs),
                positives=about.positives,
                output=f"{output.url}/{name}",
            )
            return
        try:
            for picture, rows in self._rows(parts.remaining(self._source, self._is_mine)):
                for row in rows:
                    parts.add(picture, row)
        except BaseException as error:
            kept = parts.save_at_last()
            error.add_note(f"{kept} rows are kept; run it again to go on")
            raise
        parts.finish(kind)
        self._tell(parts.tally, f"{output.url}/{name}", reused=parts.reused)

    def _rows(
        self, pictures: Iterator[Picture], *, bar: bool = True
    ) -> Iterator[tuple[Picture, list[Prediction]]]:
        first = next(pictures, None)  # where there is none, it may say so
        if first is None:
            return
        pictures = chain([first], pictures)
        with quiet_imports():  # TensorFlow: not where there is nothing to do
            from imagetag.predict.classifiers import predict

        classifiers = self._classifiers()
        with Progress("predict", bar=bar) as progress:
            for picture, rows in predict(classifiers, self._source, pictures, self._chunk):
                tags = [row.tag for row in rows if row.decision]
                if tags and self._sidecars is not None:
                    self._sidecars.add(picture, tags)
                if tags and self._copies is not None:
                    self._copies.add(picture)
                else:
                    self._source.forget(picture)
                yield picture, rows
                progress.advance()

    def _classifiers(self) -> InTurn[Classifier]:
        from imagetag.predict.classifiers import decided, load_classifier

        storage = self._storage
        judges = {run.tag: decided(storage, run, self._threshold) for run in self._runs}
        # What is loaded again and again is fetched once.
        keep = len(self._groups) > 1 and not isinstance(storage, LocalStorage)

        def load(run: Run) -> Classifier:
            folder = self._scratch / "models" / encode(run.tag)
            found = load_classifier(
                storage,
                run,
                judges[run.tag],
                folder,
                batch_size=self._batch_size,
                threads=self._threads,
            )
            if not keep:
                shutil.rmtree(folder)
            return found

        return InTurn(self._groups, load)

    def _is_mine(self, picture: Picture) -> bool:
        """Tell whether a picture is this shard's: by its name, whatever else is there."""
        index, count = self._shard
        if count == 1:
            return True
        digest = hashlib.sha256(picture.name.encode(errors="replace")).digest()
        return int.from_bytes(digest[:8], "big") % count == index

    def _request(self, kind: Kind) -> dict[str, Any]:
        """Return what decides the rows, and where they and their pictures go."""
        request: dict[str, Any] = {
            "models": [
                [run.tag, run.run, run.created, _digest_of_decision(self._storage, run)]
                for run in self._runs
            ],
            "threshold": self._threshold,
            "input": dict(self._source.identity),
            "shard": list(self._shard),
            "copy_to": self._copies and place_of(self._copies.target),
            "kind": kind,
        }
        if self._sidecars is not None:
            request["sidecars"] = self._sidecars.identity
        return request

    def _tell(self, tally: Tally, output: str, **more: int) -> None:
        one = self._runs[0]
        told = (
            {"tag": one.tag, "run": one.run} if len(self._runs) == 1 else {"tags": len(self._runs)}
        )
        get_logger().info(
            "predicted",
            **told,
            images=tally.rows // len(self._runs),
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
