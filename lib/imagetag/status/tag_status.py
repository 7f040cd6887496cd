"""Where a tag stands, as it is told: of each job, and of what came out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from imagetag.layout import STAGES, Label, Split, Stage
from imagetag.record import Record

State = Literal[
    "none", "incomplete", "running", "lost", "stopped", "failed", "outdated", "complete"
]


class StageStatus(Record):
    """What is known of a job's work on a tag.

    `none` was not begun; `incomplete` was begun and has no marker, and nobody says that they are at
    it; `lost` said so, and has been silent for minutes; `stopped` was told to; `outdated` is
    complete, of what has changed since. `result` is what came out, in a word or two, `reason` what
    there is to say otherwise, `seconds` how long ago that was told, `done` of `total` how far it
    is.
    """

    state: State = "none"
    result: str = ""
    reason: str = ""
    exit_code: int | None = None
    doing: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    seconds: float | None = None
    host: str = ""


class PromiseStatus(Record):
    """The precision that was to be promised, whether it can be, and what bound there is."""

    min_precision: float
    confidence: float = 0.0
    met: bool
    bound: float | None = None
    needed: int | None = None


class TagStatus(Record):
    """Where a tag stands; `precision` and `recall` are of its test pictures.

    `pages` are URLs, by the job that made them.
    """

    tag: str
    stages: dict[Stage, StageStatus]
    images: dict[Split, dict[Label, int]] | None = None
    bytes: int | None = None
    run: str = ""
    model: str = ""
    promise: PromiseStatus | None = None
    precision: float | None = None
    recall: float | None = None
    pages: dict[str, str] = Field(default_factory=dict)

    @property
    def furthest(self) -> str:
        """Where it stands, in a word or two, for a sum over many tags."""
        for state in ("running", "lost", "failed", "stopped"):
            for stage, found in self.stages.items():
                if found.state == state:
                    return f"{stage} {state}"
        for stage in ("evaluate", "train", "embed", "explore", "scrape"):
            if self.stages[stage].state == "complete":
                return _PAST[stage]
        return "not complete"

    def after(self, seconds: float) -> TagStatus:
        """Return the same as it is told so much later."""
        stages = {
            stage: found
            if found.seconds is None
            else found.model_copy(update={"seconds": found.seconds + seconds})
            for stage, found in self.stages.items()
        }
        return self.model_copy(update={"stages": stages})


_PAST: dict[Stage, str] = {
    "evaluate": "evaluated",
    "train": "trained",
    "embed": "embedded",
    "explore": "explored",
    "scrape": "scraped",
}


def stages_shown(tags: Iterable[TagStatus]) -> list[Stage]:
    """Return the stages that a table shows: those of each tag, and others where they say much."""
    found = list(tags)
    optional: dict[Stage, set[State]] = {
        "curate": {"none", "complete"},
        "pack": {"none"},
        "embed": {"none"},
        "predict": {"none"},
        "audit": {"none"},
    }
    return [
        stage
        for stage in STAGES
        if stage not in optional
        or any(tag.stages[stage].state not in optional[stage] for tag in found)
    ]
