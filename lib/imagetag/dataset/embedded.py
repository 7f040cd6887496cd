"""Whose pictures an extractor has gone through, as each share of them tells: no feature is read.

Pods share the pictures of all tags, so that no pod has all of one: a tag is through when each share
tells of the same dataset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime

from imagetag import layout
from imagetag.errors import InputError, UsageError
from imagetag.record import Record
from imagetag.storage import Storage, load_record


class Told(Record):
    """The fingerprint of a dataset that an extractor has gone through a share of, and when."""

    fingerprint: str
    moment: AwareDatetime


class Share(Record):
    """What a share of the pictures tells of tags: it is the `index`-th of `count`, from 0."""

    version: Literal[1] = 1
    index: int
    count: int
    tags: dict[str, Told]


@dataclass(frozen=True)
class ShareOfTag:
    """What a share of the pictures tells of a tag."""

    extractor: str
    index: int
    count: int
    told: Told


@dataclass(frozen=True)
class EmbeddedTag:
    """What all shares together tell of a tag.

    Attributes:
        extractor: whose features they are.
        done: how many shares have gone through the dataset, as it is,
        count: of how many.
        told: how many tell of it at all, as it is or as it was.
        moment: when that was told last.

    """

    extractor: str
    done: int
    count: int
    told: int
    moment: datetime


def tell_share(
    storage: Storage, extractor: str, index: int, count: int, fingerprints: Mapping[str, str]
) -> None:
    """Store that an extractor has gone through a share of the pictures of some tags.

    What the same share told before is kept: both are stored as one, and only what is in it is
    removed, so that of two that write at once neither is lost.

    Args:
        storage: gets it.
        extractor: its name.
        index: which share, from 0,
        count: of how many.
        fingerprints: those of the datasets, by tag.

    """
    now = datetime.now(UTC)
    before = [
        (key, share)
        for key, share in _shares(storage, extractor, {})
        if (share.index, share.count) == (index, count)
    ]
    tags: dict[str, Told] = {}
    for _, share in before:
        for tag, told in share.tags.items():
            if tag not in tags or told.moment > tags[tag].moment:
                tags[tag] = told
    new = {
        tag: Told(fingerprint=fingerprint, moment=now)
        for tag, fingerprint in fingerprints.items()
        if tag not in tags or tags[tag].fingerprint != fingerprint
    }
    if not new and len(before) <= 1:
        return
    share = Share(index=index, count=count, tags=dict(sorted((tags | new).items())))
    data = share.model_dump_json().encode() + b"\n"
    digest = hashlib.sha256(data).hexdigest()[:24]
    written = layout.feature_share(extractor, index, count, digest)
    storage.write(written, data)
    for key, _ in before:
        if key != written:
            storage.delete(key)


@dataclass
class EmbeddedTags:
    """Reads what all shares tell, time and again: a listing an extractor, and what is new.

    Args:
        storage: has it.

    """

    storage: Storage
    _known: dict[str, Share] = field(default_factory=dict)

    def read(self) -> dict[str, list[ShareOfTag]]:
        """Return what the shares tell of each tag that any tells of."""
        known: dict[str, Share] = {}
        found: dict[str, list[ShareOfTag]] = {}
        for extractor in self.storage.folders(layout.FEATURES):
            for key, share in _shares(self.storage, extractor, self._known):
                known[key] = share
                for tag, told in share.tags.items():
                    of_tag = ShareOfTag(extractor, share.index, share.count, told)
                    found.setdefault(tag, []).append(of_tag)
        self._known = known
        return found


def embedded_tag(shares: Iterable[ShareOfTag], fingerprint: str | None) -> EmbeddedTag | None:
    """Return what the shares together tell of a tag, None if none does.

    Of several extractors it is the one that was told of last, and of several ways to share the
    pictures the one that is through.

    Args:
        shares: what they tell of it.
        fingerprint: of its dataset; None if there is none.

    """
    ways: dict[tuple[str, int], list[ShareOfTag]] = {}
    for share in shares:
        ways.setdefault((share.extractor, share.count), []).append(share)
    found = [
        EmbeddedTag(
            extractor,
            done=len({each.index for each in way if each.told.fingerprint == fingerprint}),
            count=count,
            told=len({each.index for each in way}),
            moment=max(each.told.moment for each in way),
        )
        for (extractor, count), way in ways.items()
    ]
    if not found:
        return None
    latest = max(found, key=lambda each: each.moment).extractor
    of_latest = [each for each in found if each.extractor == latest]
    return max(of_latest, key=lambda each: (each.done == each.count, each.moment))


def _shares(
    storage: Storage, extractor: str, known: Mapping[str, Share]
) -> Iterator[tuple[str, Share]]:
    try:
        folder = layout.feature_shares(extractor)
    except UsageError:  # no folder of ours
        return
    for entry in storage.list(folder):
        try:
            share = known.get(entry.key) or load_record(storage, entry.key, Share)
        except InputError:  # gone, as it is in another by now; or damaged, and told again
            continue
        yield entry.key, share
