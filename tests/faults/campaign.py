"""A pipeline in quiet, and again while all goes wrong and its jobs are killed: are both equal?"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from imagetag.demo.scenes import draw_posts
from imagetag.demo.server import BoardServer
from imagetag.storage.opening import open_storage
from tests.faults.ends import End, differences, end_of
from tests.faults.harm import SCRIPT, Harm
from tests.faults.mishaps import LAG, Weather, of_a_board, of_a_late_s3
from tests.faults.proxy import Answer, Asked, Mishap, proxied
from tests.forked import Forked, run_forked

TAGS = ("fox", "robot")
SHARE = 0.08  # of all requests go wrong
_NETWORK = """
import sys
from tests.predicting import make_model
make_model().save(sys.argv[1])
"""
# What a job may end with that is to be run again, and how the ledger calls it.
_AGAIN = {-signal.SIGKILL: "killed", -signal.SIGTERM: "stopped", 143: "stopped, 143", 75: "75"}
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, 143}
_ATTEMPTS = 80  # of one job, until it must have come to its end
_SECONDS = 900.0  # that one may take on a busy machine


@dataclass(frozen=True)
class Step:
    """A job of the pipeline with its options; the same job may come twice."""

    name: str
    job: str
    options: tuple[object, ...]


@dataclass(frozen=True)
class Measure:
    """What a step takes in quiet: requests, writes to files, and seconds."""

    requests: int
    writes: int
    seconds: float


@dataclass
class Ledger:
    """What was done to the pipeline, and what became of it."""

    kills: Counter[str] = field(default_factory=Counter)  # by step and way
    ends: Counter[str] = field(default_factory=Counter)  # of attempts, by step
    mishaps: Counter[str] = field(default_factory=Counter)
    rounds: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = []
        for title, counts in (
            ("killed or stopped", self.kills),
            ("how attempts ended", self.ends),
            ("what went wrong besides", self.mishaps),
        ):
            told += [f"{title}: {counts.total()}"]
            told += [f"  {what:50} {count:4}" for what, count in sorted(counts.items())]
        return "\n".join([*told, *self.rounds, *self.wrong])


class Watch:
    """Counts a process's requests to board and storage, and lets one of them be its last.

    Args:
        at: which one, from 1; 0 is none.
        late: it has arrived and is done by then.
        number: the signal.

    """

    def __init__(self, at: int = 0, *, late: bool = False, number: int = signal.SIGKILL) -> None:
        self.count = 0
        self.victim: Forked | None = None
        self._at, self._late, self._number = at, late, signal.Signals(number)
        self._lock = threading.Lock()

    def judge(self, asked: Asked, weather: Weather | None) -> Mishap | None:
        with self._lock:
            self.count += 1
            last = self.count == self._at
        return self._end if last else weather(asked) if weather else None

    def _end(self, _: Asked, pass_on: Callable[[], Answer]) -> Answer | None:
        answer = pass_on() if self._late else None
        while self.victim is None:
            time.sleep(0.001)
        self.victim.send_signal(self._number)
        return answer or (pass_on() if self._number != signal.SIGKILL else None)


class Campaign:
    """Runs the pipeline, in rounds that each begin with an empty storage.

    Args:
        folder: where all of it is.
        seed: decides what goes wrong.
        bucket: where storage is, such as `s3://bucket`, by the AWS settings of the environment: on
            the way there things go wrong; by default it is a folder.
        whole: train and evaluate a network too, and not only heads on features.
        say: is told what happens.

    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        bucket: str = "",
        *,
        whole: bool = True,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.ledger = Ledger()
        self._folder, self._bucket, self._whole, self._say = folder, bucket, whole, say
        self._seed, self._dice = seed, Random(seed)
        self._watch = Watch()
        self._weather: tuple[Weather | None, Weather | None] = (None, None)
        self._measures: dict[str, Measure] = {}
        self._round = "calm"
        self._environment: dict[str, str] = {}
        draw_posts(folder / "board", 120, seed=5)
        run_forked(_NETWORK, [str(folder / "network.keras")])

    def run(self, kills: int) -> Ledger:
        """Run it in quiet, and then until so many kills are done; compare each end."""
        with self._served():
            for step in self._steps():
                self._measures[step.name] = self._in_quiet(step)
            quiet = self._end()
            number = 0
            while self.ledger.kills.total() < kills and not self.ledger.wrong:
                number += 1
                self._disturbed_round(number, kills - self.ledger.kills.total(), quiet)
        return self.ledger

    @contextmanager
    def _served(self) -> Iterator[None]:
        with ExitStack() as stack:
            board = stack.enter_context(BoardServer(self._folder / "board"))
            board_proxy = stack.enter_context(
                proxied(board.url, lambda asked: self._watch.judge(asked, self._weather[0]))
            )
            # By a name of its own: groups, and so splits, are of the board's address.
            self._environment = dict(os.environ) | {
                "HTTP_PROXY": board_proxy.url,
                "NO_PROXY": "127.0.0.1",
                "TMPDIR": str(self._folder),
            }
            if self._bucket:
                storage = stack.enter_context(
                    proxied(
                        os.environ["AWS_ENDPOINT_URL_S3"],
                        lambda asked: self._watch.judge(asked, self._weather[1]),
                    )
                )
                self._environment["AWS_ENDPOINT_URL_S3"] = storage.url
            yield

    def _place(self) -> str:
        return f"{self._bucket or self._folder}/{self._round}"

    def _steps(self) -> list[Step]:
        board = ("--board", "gelbooru02+http://board.test", "--max-rate", 1000)
        cache = ("--cache-folder", self._folder / f"cache-{self._round}")
        tiny = (
            *("--model", "alexnet-small", "--image-size", "72x72", "--epochs", 3),
            *("--checkpoint-seconds", 0, "--no-export"),
        )
        judged = ("--min-precision", "0.6", "--no-suspects", *cache)
        output = ("--output", f"{self._place()}/predictions.csv")
        steps = [
            Step("scrape", "scrape", (*board, "--limit", 24)),
            Step("explore", "explore", ("--max-pixels", 16384, "--samples", 2)),
            Step("embed", "embed", ("--extractor", self._folder / "network.keras", *cache)),
            Step("train a head", "train", ("--features", "latest", "--run", "head", *cache)),
            Step("train a network", "train", (*tiny, "--run", "network", *cache)),
            Step("evaluate the head", "evaluate", ("--run", "head", *judged)),
            Step("evaluate the network", "evaluate", ("--run", "network", *judged)),
            Step("report", "report", ()),
            Step("predict", "predict", (*board, "--query", "fox", "--limit", 30, *output)),
        ]
        return [step for step in steps if self._whole or "network" not in step.name]

    def _start(self, step: Step, harm: Harm) -> Forked:
        options = ("--storage", self._place(), "--tags", ",".join(TAGS), *step.options)
        arguments = [str(harm), step.job, *map(str, options), "--log-format", "json"]
        self._watch.victim = process = Forked(SCRIPT, arguments, env=self._environment)
        return process

    def _harm(self, **what: object) -> Harm:
        return Harm(str(self._folder / "writes"), **what)  # type: ignore[arg-type]

    def _in_quiet(self, step: Step) -> Measure:
        self._watch = Watch()
        begun = time.monotonic()
        process = self._start(step, self._harm())
        assert process.wait(_SECONDS) == 0, process.log
        seconds = time.monotonic() - begun
        writes = int((self._folder / "writes").read_text())
        measure = Measure(self._watch.count, writes, seconds)
        self._say(f"in quiet: {step.name}: {measure}")
        return measure

    def _disturbed_round(self, number: int, kills: int, quiet: End) -> None:
        self._round = f"round-{number}"
        seed = self._seed * 1000 + number
        weathers = (Weather(seed, SHARE, of_a_board), Weather(seed, SHARE, of_a_late_s3))
        steps, before = self._steps(), self.ledger.kills.total()
        # Not more than a few of one step, where many are left: there are more rounds.
        wanted = Counter(self._dice.choices([step.name for step in steps], k=min(kills, 25)))
        for step in steps:
            self._weather = weathers
            try:
                self._in_a_storm(step, wanted[step.name])
            finally:
                self._weather = (None, None)
            if self.ledger.wrong:
                return
            if self._bucket:  # the next job's pod takes as long to begin
                time.sleep(LAG)
        for where, weather in zip(("board", "storage"), weathers, strict=True):
            for name, count in weather.ledger.items():
                self.ledger.mishaps[f"{where}: {name}"] += count
        found = list(differences(quiet, self._end()))
        self.ledger.wrong += [f"round {number}: {line}" for line in found[:20]]
        done = self.ledger.kills.total() - before
        verdict = f"{len(found)} DIFFERENCES" if found else f"all {len(quiet)} values equal"
        self.ledger.rounds.append(f"round {number}, {done} kills: {verdict}")
        self._say(self.ledger.rounds[-1])

    def _in_a_storm(self, step: Step, kills: int) -> None:
        """Run a step until it ends well, with so many kills on the way if they come in time."""
        for _ in range(_ATTEMPTS):
            code, way = self._attempt(step, kill=kills > 0)
            if code in _KILLED:
                kills -= 1
                self.ledger.kills[f"{step.name}: {way}"] += 1
            self.ledger.ends[f"{step.name}: {_AGAIN.get(code, str(code))}"] += 1
            if code not in _AGAIN:
                return
        self.ledger.wrong.append(f"{step.name} comes to no end")

    def _attempt(self, step: Step, *, kill: bool) -> tuple[int, str]:
        """Run a step once; return its exit code, and in which way it was to be killed."""
        dice, measure = self._dice, self._measures[step.name]
        number = dice.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
        ways = ["instant"] + ["request"] * 2 * (measure.requests > 0)
        ways += ["write"] * 2 * (measure.writes > 0)
        way = dice.choice(ways) if kill else ""
        self._watch, harm, told, until = Watch(), {}, f"{number.name} at an {way}", _SECONDS
        if way == "request":
            at, late = dice.randint(1, measure.requests), dice.random() < 0.5
            self._watch = Watch(at, late=late, number=number)
            told = f"{number.name} {'behind' if late else 'before'} a request"
        elif way == "write":
            what = "kill" if number == signal.SIGKILL else "term"
            harm = {"write": dice.randint(1, measure.writes), "what": what}
            told = f"{number.name} in the midst of a write"
        elif way == "instant":
            until = dice.uniform(0, measure.seconds)
        elif measure.writes and dice.random() < 0.3:
            harm = {"write": dice.randint(1, measure.writes), "what": "full"}
            self.ledger.mishaps["disk: full from some write on"] += 1
        if dice.random() < 0.3:
            jump = dice.choice([-7200.0, 7200.0])
            harm |= {"jump": jump, "jump_at": dice.randint(1, 20)}
            self.ledger.mishaps[f"clock: jumps {jump / 3600:+.0f} h"] += 1
        process = self._start(step, self._harm(**harm))
        try:
            code = process.wait(until)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            code = process.wait(_SECONDS)
        self._say(f"{step.name}: {told if way else harm or 'to its end'}: {code}")
        if code != 0 and code not in _AGAIN:
            last = "\n".join(process.log.splitlines()[-5:])
            self.ledger.wrong.append(f"{step.name} ended with {code}:\n{last}")
        return code, told

    def _end(self) -> End:
        return end_of(open_storage(self._place()), TAGS)
