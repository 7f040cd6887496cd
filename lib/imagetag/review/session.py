"""What a person is asked, and what becomes of the answers: what the page and its server stand on.

A session is a sequence of pictures with one question for all of them. The page shows them in their
order and sends answers, each with an id of its own: told twice, it is one answer.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Protocol

from pydantic import AwareDatetime, StringConstraints

from imagetag.record import Record
from imagetag.verdicts import Answer, Told, stands

ItemName = Annotated[str, StringConstraints(pattern=r"^[0-9a-z]{1,64}$")]


_TIDY_AFTER = 256  # parts


class Given(Record):
    """An answer that a person has given; `id` is its own, `at` is when."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,32}$")]
    item: ItemName
    answer: Answer
    at: AwareDatetime


class About(Record):
    """What the page says of a session.

    `key` tells sessions apart in a browser: what it could not send in one is sent in the next of
    the same key. `sweep` lets many pictures be judged at once, and in any order. `neighbours` tells
    whether the session knows pictures that are like one.
    """

    key: str
    tag: str
    title: str
    sweep: bool = True
    neighbours: bool = False


class Facts(Record):
    """What the page tells of a picture: each of `notes` is a name and a text.

    All of it is text from anywhere. `link` is an address in the web, None where there is none.
    """

    caption: str
    link: str | None = None
    notes: tuple[tuple[str, str], ...] = ()
    tags: tuple[str, ...] = ()


class Neighbour(Record):
    """A picture that is like another, and what is said of it in a word or two."""

    item: str
    caption: str
    note: str


class Progress(Record):
    """How far a session has come.

    `done` of `total` pictures have an answer. `outlook` is a sentence on what is still to come, and
    `ended` one on why no more is asked; each empty where there is nothing to say.
    """

    done: int
    total: int
    outlook: str = ""
    ended: str = ""


class NoPicture(Exception):
    """A picture cannot be shown; the text says why."""


class Said(Told, Protocol):
    """What was said of a picture."""

    @property
    def answer(self) -> Answer:
        """What that is."""


class Session(ABC):
    """Pictures that a person is asked about. All of it may be called from many threads at once.

    Args:
        about: what the page says of it.
        items: the names of the pictures, in the order in which they are shown: of lower-case
            letters and digits, 64 at most.
        told: what was said of some of them before.

    """

    def __init__(
        self, about: About, items: Sequence[str], told: Mapping[str, Said] | None = None
    ) -> None:
        self.about, self.items = about, tuple(items)
        self._among = frozenset(self.items)
        self._standing = {item: one for item, one in (told or {}).items() if self.has(item)}
        self._taken: set[str] = set()
        self._changes: list[tuple[str, Answer]] = []
        self._storing, self._changing = threading.Lock(), threading.Lock()
        self._tidying, self._parts = threading.Lock(), 0

    def has(self, item: str) -> bool:
        """Tell whether an answer about a picture is taken."""
        return item in self._among

    @property
    def answers(self) -> dict[str, Answer]:
        """What stands of each picture that has an answer."""
        with self._changing:
            found = {item: one.answer for item, one in self._standing.items()}
        return {item: answer for item, answer in found.items() if answer != "withdrawn"}

    def changes(self, seen: int) -> tuple[int, list[tuple[str, Answer]]]:
        """Return how often an answer has changed, and the changes behind the first `seen`."""
        with self._changing:
            return len(self._changes), self._changes[max(0, seen) :]

    def take(self, given: Iterable[Given], now: datetime | None = None) -> None:
        """Take answers; once it returns, they are stored.

        Those that were taken before are passed over. Of two about one picture the newer counts.

        Args:
            given: the answers.
            now: the time by the clock that they have theirs from. What stands from later than that
                is of a clock that goes otherwise, or was set back since: they are put behind it.

        Raises:
            KeyError: if one is about a picture that is not the session's; none is taken then.
            ImagetagError: if they cannot be stored; none is taken then, and they may be sent again.

        """
        with self._storing:
            new = {one.id: one for one in given if one.id not in self._taken}
            for one in new.values():
                if not self.has(one.item):
                    raise KeyError(one.item)
            if not new:
                return
            timed = tuple(self._timed(new.values(), now))
            self._store(timed)
            self._hear((one.item, one) for one in timed)
            self._taken.update(new)
            self._took()
            self._parts += 1
            if self._parts % _TIDY_AFTER == 0:  # else the end of a long session would take long
                threading.Thread(target=self.tidy, name="tidy", daemon=True).start()

    def _timed(self, given: Iterable[Given], now: datetime | None) -> Iterator[Given]:
        latest: dict[str, Said] = {}
        for one in given:
            last = latest.get(one.item) or self._standing.get(one.item)
            if now is None or last is None or last.at <= now:
                yield one
                continue
            moved = one.model_copy(update={"at": last.at + timedelta(microseconds=1)})
            latest[one.item] = moved
            yield moved

    def _hear(self, told: Iterable[tuple[str, Said]]) -> None:
        """Let what was said of the session's pictures stand where nothing newer does."""
        with self._changing:
            for item, one in told:
                if self.has(item) and stands(one, self._standing.get(item)):
                    self._standing[item] = one
                    self._changes.append((item, one.answer))

    def progress(self) -> Progress:
        """Return how far it has come."""
        answers = self.answers
        return Progress(done=sum(item in answers for item in self.items), total=len(self.items))

    def neighbours(self, item: str) -> Sequence[Neighbour]:  # noqa: ARG002 - here it knows none
        """Return pictures that are like one, the most alike first; their names can be shown."""
        return ()

    @abstractmethod
    def facts(self, item: str) -> Facts:
        """Return what is told of a picture.

        Raises:
            KeyError: if it is not the session's.

        """

    @abstractmethod
    def picture(self, item: str, side: int) -> bytes:
        """Return a picture as a JPEG of up to `side` pixels a side.

        Raises:
            KeyError: if it is neither the session's nor a neighbour.
            NoPicture: if it cannot be shown.
            ImagetagError: if storage does not answer.

        """

    @abstractmethod
    def _store(self, given: Sequence[Given]) -> None:
        """Store answers, none of which was stored by this session; one call at a time.

        Raises:
            ImagetagError: if that cannot be done.

        """

    def tidy(self) -> None:
        """Let what is stored be in few parts: at the end, and now and then before."""
        with self._tidying:
            self._tidy()

    def _tidy(self) -> None:  # noqa: B027 - nothing is to be done by default
        """Let what is stored be in few parts, while others may be stored; one call at a time."""

    def _took(self) -> None:  # noqa: B027 - nothing is to be done by default
        """Do what is to be done when answers stand that did not; one call at a time."""
