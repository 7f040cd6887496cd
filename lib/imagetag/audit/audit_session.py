"""Pictures that were called a tag, drawn at random and judged until a precision is proven.

The order of the draw is a function of the pictures and the run alone: who begins anew draws the
same again, and finds no luckier draw. Verdicts count in that order, up to the first picture that
has none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Final

from imagetag.audit.called import Called, Predictions, read_predictions
from imagetag.dataset import load_dataset
from imagetag.errors import InputError, UsageError
from imagetag.imaging import BadImage
from imagetag.layout import Layout
from imagetag.pages import web_link
from imagetag.predict import Named, Picture
from imagetag.review import About, Facts, Given, NoPicture, Pictures, Progress, Session
from imagetag.runs import Evaluation, load_run, store_card
from imagetag.sentences import counted
from imagetag.stats import Audited, audit, more_to_prove
from imagetag.storage import ObjectNotFound, Storage, is_key, load_record
from imagetag.verdicts import (
    AuditResult,
    Judgement,
    load_judgements,
    merge_judgements,
    store_audit,
    store_judgements,
)
from imagetag.web import Client

_MAX_FILE = 100 << 20  # bytes; larger ones are not looked at
_LOOKED_FOR = 20  # pictures, of which one must be there
_NEVER = datetime.min.replace(tzinfo=UTC)
_TRUTHS: Final[Mapping[str, bool | None]] = {"yes": True, "no": False, "unclear": None}


class AuditSession(Session):
    """The pictures of an audit, in the order of the draw.

    Args:
        storage: gets what is said of them, and what that proves.
        tag: what they were called.
        predictions: which pictures, and by which run.
        target: the precision to prove, in (0, 1].
        confidence: in (0, 1).
        by: the judge's name, empty if none is given.
        read: returns a picture's file, as bytes or a path.

    """

    def __init__(
        self,
        storage: Storage,
        tag: str,
        predictions: Predictions,
        *,
        target: float,
        confidence: float,
        by: str,
        read: Callable[[Called], bytes | Path],
    ) -> None:
        self._storage, self._tag, self._by = storage, tag, by
        self._predictions = predictions
        self._target, self._confidence = target, confidence
        self._read_file = read
        self._updated: datetime = _NEVER
        self._pictures = Pictures(self._read)
        name, self._drawn = drawn(tag, predictions)
        self.name = name
        self._tidy()  # of sessions that were killed
        super().__init__(
            About(
                key=name,
                tag=tag,
                title=f"pictures that were called {tag}, drawn at random",
                sweep=False,
            ),
            tuple(self._drawn),
            self._load(),
        )
        self._audited = self._audit()
        if self._audited.judged:
            self._took()

    @property
    def result(self) -> AuditResult:
        """What is proven so far."""
        found = self._audited
        return AuditResult(
            tag=self._tag,
            name=self.name,
            run=self._predictions.run,
            trained=self._predictions.trained,
            predictions=self._predictions.places,
            updated=self._updated,
            **found.model_dump(),
        )

    def finish(self) -> AuditResult:
        """Store what is proven by all verdicts, those of others who judge at this time among them.

        Raises:
            ImagetagError: if storage does not answer.

        """
        with self._storing:
            self._hear(self._load().items())
            self._took()
            self._tell_card()
        return self.result

    def first(self, count: int) -> list[Called]:
        """Return the first pictures of the draw."""
        return [self._drawn[item] for item in self.items[:count]]

    def facts(self, item: str) -> Facts:
        """Return what is told of a picture: not what the model says, lest that sway the judge."""
        called = self._drawn[item]
        return Facts(caption=called.file, link=web_link(called.page_url))

    def picture(self, item: str, side: int) -> bytes:
        """Return a picture as a JPEG."""
        if not self.has(item):
            raise KeyError(item)
        return self._pictures.get(item, side)

    def progress(self) -> Progress:
        """Return how far it has come, and what is proven."""
        found = self._audited
        ended = "" if found.outcome == "open" else self.result.sentence
        low, high = math.floor(1000 * found.low) / 1000, math.ceil(1000 * found.high) / 1000
        outlook = f"precision among all {found.called:,}: {low:g} to {high:g}"
        more = more_to_prove(found)
        if more is None:
            outlook += f"; {found.target:g} can no longer be proven"
        elif not ended:
            verdicts = counted(more, "more verdict")
            outlook += f"; {verdicts} would prove {found.target:g}, if each is a yes"
        return super().progress().model_copy(update={"outlook": outlook, "ended": ended})

    def _store(self, given: Sequence[Given]) -> None:
        told = [
            Judgement(
                item=one.item,
                file=self._drawn[one.item].file,
                answer=one.answer,
                at=one.at,
                by=self._by,
                id=one.id,
            )
            for one in given
        ]
        store_judgements(self._storage, self._tag, self.name, told)
        self._updated = max(self._updated, *(one.at for one in told))

    def _tidy(self) -> None:
        merge_judgements(self._storage, self._tag, self.name)

    def _took(self) -> None:
        self._audited = self._audit()
        store_audit(self._storage, self.result)

    def _tell_card(self) -> None:
        """Let the run's model card tell what is proven, if it tells of an evaluation."""
        wanted = self._predictions
        try:
            run = load_run(self._storage, self._tag, wanted.run)
            dataset = load_dataset(self._storage, self._tag)
            key = Layout(self._tag).run(run.run, "evaluation.json")
            evaluation = load_record(self._storage, key, Evaluation)
        except (ObjectNotFound, InputError):  # predictions may be audited where the run is not
            return
        if evaluation.decision.trained == run.created == wanted.trained:
            store_card(self._storage, run, dataset, evaluation)

    def _audit(self) -> Audited:
        answers = self.answers
        judged = takewhile(lambda answer: answer is not None, map(answers.get, self.items))
        return audit(
            [_TRUTHS[answer] for answer in judged if answer is not None],
            len(self.items),
            target=self._target,
            confidence=self._confidence,
        )

    def _load(self) -> dict[str, Judgement]:
        found = load_judgements(self._storage, self._tag, self.name)
        self._updated = max((one.at for one in found.values()), default=_NEVER)
        return found

    def _read(self, item: str) -> bytes:
        try:
            found = self._read_file(self._drawn[item])
            if isinstance(found, Path):
                if found.stat().st_size > _MAX_FILE:
                    raise NoPicture(f"its file is larger than {_MAX_FILE >> 20} MiB")
                found = found.read_bytes()
        except BadImage as error:
            raise NoPicture(f"its file cannot be had ({error.reason})") from error
        except OSError as error:
            raise NoPicture(f"its file cannot be read ({error.strerror})") from error
        return found


def drawn(tag: str, predictions: Predictions) -> tuple[str, dict[str, Called]]:
    """Return an audit's name, and its pictures in the order of the draw, by what stands for each.

    The order depends on the tag, the run and the names of the pictures alone, however those are
    given. The name is of the folder or URL that they are below too: what was said of pictures says
    nothing of others that are called the same elsewhere.
    """
    files = sorted(called.file for called in predictions.called)
    whole = json.dumps([tag, predictions.run, predictions.trained, files])
    seed = _digest(whole)

    def place(called: Called) -> str:
        return _digest(f"{seed}\n{called.file}")

    order = sorted(predictions.called, key=place)
    name = _digest(f"{seed}\n{predictions.base}")[:12]
    return name, {_digest(called.file)[:24]: called for called in order}


def open_audit(
    storage: Storage,
    tag: str,
    places: Sequence[str],
    *,
    target: float = 0.95,
    confidence: float = 0.95,
    run: str = "",
    base: str = "",
    by: str = "",
    client: Callable[[], Client] | None = None,
) -> AuditSession:
    """Open the audit of some predictions, or go on with it.

    Args:
        storage: has the run, and gets what is said and proven.
        tag: whose decisions are audited.
        places: files of `predict`, such as those of all shards.
        target: the precision to prove.
        confidence: how sure that must be.
        run: the name of the run that they are of, where no `about.json` beside them tells.
        base: the folder or URL that the pictures' names are below, where that is not where they
            were predicted.
        by: the judge's name.
        client: returns what fetches pictures of servers; it is asked for where there are some.

    Raises:
        UsageError, InputError: if they cannot be read, are of an unknown or another run, or their
            pictures are not there.

    """
    found = read_predictions(places, tag)
    if run and found.run and run != found.run:
        raise UsageError(
            f"--run {run}: the predictions are of the run {found.run!r}, as the about.json beside "
            "them says: leave it out"
        )
    if not (run or found.run):
        raise UsageError(
            f"--predictions {','.join(places)[:300]}: no about.json beside it says which run it is "
            "of: say --run NAME"
        )
    if not found.run:
        made = load_run(storage, tag, run)
        found = Predictions(found.places, found.called, made.run, made.created, found.base)
    given = base if "://" in base or not base else os.path.realpath(base)
    found = replace(found, base=found.base or given)
    base = base or found.base
    _check_inside(found, base)

    def name(called: Called) -> str:
        return f"{base.rstrip('/')}/{called.file}" if base else called.file

    fetched = any(_is_url(name(called)) for called in found.called)
    source = Named((), client() if client is not None and fetched else None)
    session = AuditSession(
        storage,
        tag,
        found,
        target=target,
        confidence=confidence,
        by=by,
        read=lambda called: source.read(Picture(name(called), name(called), "")),
    )
    _check_pictures([name(called) for called in session.first(_LOOKED_FOR)])
    return session


def _check_inside(predictions: Predictions, base: str) -> None:
    """Check that all pictures are below a folder or URL, if there is one: rows are anybody's.

    Raises:
        InputError: if one is not.

    """
    for called in predictions.called if base else ():
        if not is_key(called.file):
            raise InputError(
                f"--predictions {','.join(predictions.places)[:300]}: {called.file[:300]!r} is not "
                f"the name of a picture in {base}: names in the rows of a folder are below it"
            )


def _check_pictures(names: Iterable[str]) -> None:
    """Check that of the first pictures one is there, if they are on this machine.

    Raises:
        InputError: if none is.

    """
    local = [name for name in names if "://" not in name]
    if local and not any(Path(name).expanduser().exists() for name in local):
        raise InputError(
            f"{local[0]} and {len(local) - 1} more pictures that were drawn are not there: say "
            "with --input in which folder they are"
        )


def _is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
