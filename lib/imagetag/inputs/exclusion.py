"""Which suspect labels a training leaves out: the negatives that look like the tag."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from dataclasses import dataclass
from typing import Protocol

from imagetag.errors import InputError, UsageError
from imagetag.layout import Label, Layout, checked_run, parse_run
from imagetag.log import get_logger
from imagetag.runs import Run, load_run, load_suspects
from imagetag.storage import Storage

_OPTION = "--exclude-suspects"
_DIGITS = 12  # of the digest


class Labelled(Protocol):
    """A picture with a label, such as a manifest's row."""

    @property
    def md5(self) -> str:
        """The digest of its content."""

    @property
    def label(self) -> Label:
        """Whether it has the tag."""


@dataclass(frozen=True)
class Exclusion:
    """Pictures that are not trained on.

    `name` is `no`, or RUN@DIGEST: the run whose model found them, and a digest of which they are.
    """

    name: str = "no"
    md5s: frozenset[str] = frozenset()

    def covers(self, row: Labelled) -> bool:
        """Tell whether a picture of the training part is left out; a positive never is."""
        return row.label == "negative" and row.md5 in self.md5s

    def tell(self, left_out: int) -> None:
        """Say in the log how many pictures were left out."""
        if self.name != "no":
            get_logger().info("suspects excluded", images=left_out, by=self.name)


def find_exclusion(storage: Storage, tag: str, choice: str) -> Exclusion:
    """Return what is to be left out of a tag's training part.

    Args:
        storage: has the runs and what was found with them.
        tag: whose.
        choice: `no`; a run's name, or RUN@DIGEST as an earlier training has it; or `latest`: the
            newest evaluated run that was trained without leaving out any itself, so that the same
            command is the same training also when that is complete.

    Raises:
        InputError: if no suspects were looked for, or what is stored of them cannot be read.
        UsageError: if `choice` is none of these, or the digest is of another list.

    """
    if choice == "no":
        return Exclusion()
    run, _, digest = choice.partition("@")
    run = _latest(storage, tag) if choice == "latest" else checked_run(run, _OPTION)
    suspects = load_suspects(storage, tag, run)
    if suspects.reason:
        get_logger().warning("no suspects to exclude", run=run, reason=suspects.reason)
    md5s = frozenset(
        suspect.md5 for suspect in suspects.of_label("negative") if suspect.split == "train"
    )
    found = hashlib.sha256("".join(sorted(md5s)).encode()).hexdigest()[:_DIGITS]
    if "@" in choice and digest != found:
        raise UsageError(
            f"{_OPTION} {choice[:120]!r}: the suspects of {tag!r} by this run are others now; "
            f"{run}@{found} or {run} takes these"
        )
    return Exclusion(f"{run}@{found}", md5s)


def _latest(storage: Storage, tag: str) -> str:
    """Return the newest run that was evaluated, and trained on suspects too."""
    runs: list[Run] = []
    for key in sorted(_lists(storage, tag)):
        try:
            run = load_run(storage, tag, parse_run(key).run)
        except (InputError, ValueError) as error:
            get_logger().warning("run passed over", key=key, reason=str(error))
            continue
        if run.settings.get("exclude_suspects", "no") == "no":  # older runs lack it
            runs.append(run)
    if not runs:
        raise InputError(
            f"{_OPTION} latest: no run of the tag {tag!r} that was trained on all images was "
            f"evaluated; run imagetag evaluate --tags {shlex.quote(tag)} first"
        )
    return max(runs, key=lambda run: (run.created, run.run)).run


def _lists(storage: Storage, tag: str) -> set[str]:
    """Return the keys of the lists of suspects."""
    layout = Layout(tag)
    found = {entry.key for entry in storage.list(layout.models)}
    lists = {key for key in found if key.endswith("/suspects.json")}
    # A late listing may lack what was written a moment ago: that is of the newest run, if of any.
    with contextlib.suppress(InputError, UsageError):
        newest = layout.run(load_run(storage, tag, "latest").run, "suspects.json")
        if newest in lists or storage.stat(newest) is not None:
            lists.add(newest)
    return lists
