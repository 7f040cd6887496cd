"""Where each tag in storage stands: what is complete, under way, failed and why.

Read are markers and small records alone: two listings for all tags together and one for each
extractor, what its shares tell, and of each tag its markers (three, or five of a trained one) and
the records of what is under way or has failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from imagetag.dataset import EmbeddedTags, ShareOfTag, tags_in
from imagetag.errors import InputError
from imagetag.job import JobRecord
from imagetag.layout import JOB_RECORDS, STATUS, StatusKey, parse_status
from imagetag.status.reading import Reading, Records
from imagetag.status.tag_status import TagStatus
from imagetag.storage import ObjectInfo, Storage, load_record

_SHOWN_JOBS = 100  # records of jobs that are told


@dataclass
class Overview:
    """Reads where tags stand, time and again.

    Args:
        storage: has them.
        tags: which; None for all that there are.
        threads: that read at once.

    """

    storage: Storage
    tags: Sequence[str] | None = None
    threads: int = 16
    _before: dict[str, tuple[object, datetime, TagStatus]] = field(default_factory=dict)
    _embedded: EmbeddedTags = field(init=False)

    def __post_init__(self) -> None:
        self._embedded = EmbeddedTags(self.storage)

    def read(self, now: datetime | None = None) -> list[TagStatus]:
        """Return where each tag stands, in the order given, or of their names.

        What was read before is not read again while its records are the same, and none of them is
        of work under way.

        Raises:
            InputError: if all tags are asked for and there is none.

        """
        now = now or datetime.now(UTC)
        records, embedded = self._records(), self._embedded.read()
        tags = self.tags
        if tags is None:
            tags = sorted({*tags_in(self.storage), *records})
        with ThreadPoolExecutor(self.threads, thread_name_prefix="status") as pool:
            found = pool.map(
                lambda tag: self._one(tag, records.get(tag, {}), embedded.get(tag, ()), now), tags
            )
            known = [tag for tag in found if tag is not None]
        if not known:
            raise InputError(
                f"there is nothing of any tag in {self.storage.url}: run imagetag scrape first, "
                "or check --storage"
            )
        return known

    def jobs(self) -> tuple[list[JobRecord], int]:
        """Return how the last 100 runs of jobs ended, the last first, and how many are left out.

        There are as many records as jobs and pods. Where the listing tells their ages, only the
        newest are read; else all. What cannot be read is passed over.
        """
        listed = list(self.storage.list(JOB_RECORDS))
        entries = listed
        if all(entry.age is not None for entry in listed):
            entries = sorted(listed, key=lambda entry: entry.age or 0.0)[:_SHOWN_JOBS]

        def load(entry: ObjectInfo) -> JobRecord | None:
            try:
                return load_record(self.storage, entry.key, JobRecord)
            except InputError:
                return None

        with ThreadPoolExecutor(self.threads, thread_name_prefix="status") as pool:
            found = [record for record in pool.map(load, entries) if record is not None]
        found.sort(key=lambda record: record.ended, reverse=True)
        unread = len(entries) - len(found)
        shown = found[:_SHOWN_JOBS]
        return shown, len(listed) - unread - len(shown)

    def _records(self) -> dict[str, dict[StatusKey, ObjectInfo]]:
        records: dict[str, dict[StatusKey, ObjectInfo]] = {}
        for entry in self.storage.list(STATUS):
            try:
                key = parse_status(entry.key)
            except ValueError:
                continue
            records.setdefault(key.tag, {})[key] = entry
        return records

    def _one(
        self, tag: str, records: Records, shares: Sequence[ShareOfTag], now: datetime
    ) -> TagStatus | None:
        known, then, before = self._before.get(tag, (None, now, None))
        same = known == (records, shares)
        if before and same and not any(key.state == "running" for key in records):
            return before.after((now - then).total_seconds())
        found = Reading(self.storage, tag, records, shares, now).read()
        if self.tags is None and all(stage.state == "none" for stage in found.stages.values()):
            return None
        self._before[tag] = (records, shares), now, found
        return found
