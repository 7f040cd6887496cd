"""What may befall a request to a board or to S3, by name; and when, by a seed."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate

from tests.faults.proxy import Answer, Asked, Mishap

Pass = Callable[[], Answer]


def told(status: int, code: str, *fields: str, **headers: str) -> Mishap:
    """An error as S3 tells it, in place of an answer; nothing is passed on."""
    document = f"<Error><Code>{code}</Code><Message>on purpose</Message>{''.join(fields)}</Error>"
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]

    def tell(asked: Asked, _: Pass) -> Answer:
        # Now: one of some minutes ago would be of a clock that is wrong.
        kind = [("Content-Type", "application/xml"), ("Date", formatdate(usegmt=True))]
        body = b"" if asked.method == "HEAD" else document.encode()
        return Answer(status, (*kind, *named), body)

    return tell


def refuses(status: int, **headers: str) -> Mishap:
    """A board's page in place of an answer."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    answer = Answer(status, (("Content-Type", "text/html"), *named), b"<html>not now</html>")
    return lambda _, __: answer


def hangs_up(_: Asked, __: Pass) -> None:
    """The line is dead before the request has arrived."""


def loses(_: Asked, pass_on: Pass) -> None:
    """The request has arrived and is done; its answer is lost."""
    pass_on()


def dies(_: Asked, pass_on: Pass) -> Answer | None:
    """The line is dead in the middle of the answer."""
    answer = pass_on()
    return replace(answer, sent=len(answer.body) // 2) if answer.body else None


def cuts_short(_: Asked, pass_on: Pass) -> Answer:
    """Half of the body comes as if it were all of it."""
    answer = pass_on()
    return replace(answer, body=answer.body[: len(answer.body) // 2])


def damages(asked: Asked, pass_on: Pass) -> Answer:
    """Some bytes of the body are others."""
    answer = pass_on()
    body, dice = bytearray(answer.body), random.Random(str(asked))
    for _ in range(9 if body else 0):
        body[dice.randrange(len(body))] ^= dice.randrange(1, 256)
    return replace(answer, body=bytes(body))


def stalls(seconds: float) -> Mishap:
    """Nothing comes for some seconds, and then the line is dead."""

    def stall(_: Asked, __: Pass) -> None:
        time.sleep(seconds)

    return stall


class Once:
    """Lets a mishap befall the first request of a kind; `befell` tells whether there was one."""

    def __init__(self, mishap: Mishap, kind: Callable[[Asked], bool] = lambda _: True) -> None:
        self.befell = False
        self._mishap, self._kind = mishap, kind
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Mishap | None:
        with self._lock:
            if self.befell or not self._kind(asked):
                return None
            self.befell = True
            return self._mishap


class Always:
    """Lets a mishap befall each request of a kind."""

    def __init__(self, mishap: Mishap, kind: Callable[[Asked], bool] = lambda _: True) -> None:
        self._mishap, self._kind = mishap, kind

    def __call__(self, asked: Asked) -> Mishap | None:
        return self._mishap if self._kind(asked) else None


class Weather:
    """Says what befalls a request: as often as `share` tells, and never thrice in a row.

    What does depends on the seed, on what is asked, and on how often it was before: not on time.
    An answer that must come in the end comes, so that the end of all is that of calm weather.

    Attributes:
        ledger: how often each mishap befell a request.

    """

    def __init__(
        self, seed: int, share: float, mishaps: Callable[[Asked], Mapping[str, Mishap]]
    ) -> None:
        self.ledger: Counter[str] = Counter()
        self._seed, self._share, self._mishaps = seed, share, mishaps
        self._times: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Mishap | None:
        what = str(asked)
        with self._lock:
            self._times[what] += 1
            dice = random.Random(f"{self._seed} {what} {self._times[what]}")
            mishaps = self._mishaps(asked)
            if not mishaps or dice.random() >= self._share or self._in_a_row[what] == 2:
                self._in_a_row[what] = 0
                return None
            self._in_a_row[what] += 1
            name = dice.choice(sorted(mishaps))
            self.ledger[name] += 1
            return mishaps[name]


LAG = 2
"""Seconds by which a listing may be behind."""


def lags(_: Asked, pass_on: Pass) -> Answer:
    """A listing lacks what was written within the last seconds."""
    answer, now = pass_on(), datetime.now(UTC)

    def keep(entry: re.Match[bytes]) -> bytes:
        written = re.search(rb"<LastModified>([^<]*)Z<", entry[0])
        at = written and datetime.fromisoformat(written[1].decode()).replace(tzinfo=UTC)
        return b"" if at and (now - at).total_seconds() < LAG else entry[0]

    body = re.sub(rb"<Contents>.*?</Contents>", keep, answer.body, flags=re.DOTALL)
    return replace(answer, body=body)


def of_s3(asked: Asked) -> Mapping[str, Mishap]:
    """What befalls requests to S3, which lists at once what was written."""
    mishaps = {
        "500": told(500, "InternalError"),
        "503 SlowDown": told(503, "SlowDown"),
        "reset": hangs_up,
        "answer lost": loses,
    }
    if asked.method == "GET":
        mishaps |= {"body dies": dies}
        if "list-type=2" in asked.query:
            mishaps |= {"listing cut short": cuts_short}
    return mishaps


def of_a_late_s3(asked: Asked) -> Mapping[str, Mishap]:
    """What befalls requests to a server of S3's protocol whose listings may lag behind."""
    mishaps = of_s3(asked)
    return {**mishaps, "listing lags": lags} if "listing cut short" in mishaps else mishaps


def of_a_board(asked: Asked) -> Mapping[str, Mishap]:
    """What befalls requests to a board."""
    mishaps = {
        "429": refuses(429, Retry_After="0"),
        "503": refuses(503),
        "reset": hangs_up,
        "stall": stalls(0.3),
        "body dies": dies,
        "cut short": cuts_short,
    }
    # A listing of which letters are others is one of other posts: nothing but TLS can tell.
    return mishaps | {"damaged": damages} if asked.path.startswith("/images/") else mishaps
