"""What tags take of storage, counted as `python -m tests.benchmarks.scale` does of very many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from imagetag.embed import find_pictures
from tests.benchmarks import scale
from tests.builders.many import Many
from tests.storages import Counting, InMemory, MadeUp


def many(tags: int) -> Many:
    return Many(tags, limit=20, pool=10 * tags)


@pytest.mark.parametrize(
    ("work", "of_a_tag"),
    [
        (scale.scrape_again, {"LIST": 1, "GET": 1}),
        (scale.scrape_on, {"LIST": 8, "GET": 3}),
        (partial(scale.embed_share, count=2), {"GET": 3}),
        (scale.status, {"GET": 5}),
        (scale.plan, {"GET": 6}),
        (partial(scale.report, tested=10), {"LIST": 4, "GET": 5, "HEAD": 2, "PUT": 1}),
    ],
)
def test_a_tag_more_takes_the_same_requests(
    work: Callable[[Many], scale.Counted], of_a_tag: dict[str, int]
) -> None:
    few, more = work(many(3)), work(many(20))
    grown = Counter(more.requests)
    grown.subtract(few.requests)
    assert {kind: count / 17 for kind, count in grown.items() if count} == of_a_tag


def test_made_up_manifests_are_what_they_say() -> None:
    of = many(3)
    storage = MadeUp()
    of.store(storage)
    found = find_pictures(storage, of.names)
    assert (len(found), found.places) == (of.distinct, of.rows)
    assert len(of.digests(0, of.distinct)) == 16 * of.distinct
    assert {bytes.fromhex(md5) for md5 in found} == {
        of.digests(number, number + 1) for number in range(of.distinct)
    }


def test_requests_are_counted_as_pages_and_reads() -> None:
    storage = Counting(InMemory())
    for number in range(2001):
        storage.write(f"tag/train/{number:04}", b"12")
    assert storage.requests == {"PUT": 2001}
    storage.reset()
    assert len(list(storage.list("tag/"))) == 2001
    assert list(storage.folders("")) == ["tag"]
    assert storage.read("tag/train/0000") == b"12"
    assert storage.requests == {"LIST": 4, "GET": 1}
    assert (storage.read_bytes, storage.written) == (2, 0)
