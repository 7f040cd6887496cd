"""Find near-duplicates in a dataset, so that no test or validation image was seen in training.

An image of the test split whose twin is in train is dropped. Train images that are twins get one
group, so validation, which is split off by group, takes both or neither. Twins of different labels
in train stay, and are counted: one of the labels is probably wrong. Where posts of one file differ
in the label, it is counted too, and dropped if it is a negative: someone has seen the tag on it.

The verdicts are a part of the manifest. It is written first, then the marker that names it, and
only then are dropped images deleted: killed anywhere, the next run ends the same. Of two runs at
once, one that finds the other's marker in the place of its own stops; what either dropped stays
dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeVar

from annotated_types import Ge, Le

from imagetag.arguments import Concurrency, check_numbers
from imagetag.curate.seen import Seen
from imagetag.dataset import (
    Curated,
    Curation,
    Dataset,
    Repeat,
    Row,
    changes_of,
    curated,
    distinct,
    is_dropped,
    load_dataset,
    part_keys,
    read_changes,
    read_parts,
    summarize,
    write_dataset,
    write_part,
)
from imagetag.errors import TransientError
from imagetag.imaging import (
    BLANK,
    METHOD,
    THRESHOLD,
    BadImage,
    Pair,
    alike,
    layout_cells,
    perceptual_hashes,
    thumbnail,
)
from imagetag.layout import LABELS, SPLITS, Label, Layout, Split, parse_image
from imagetag.log import Progress, get_logger
from imagetag.storage import ObjectNotFound, Place, Storage, opened

_BATCH = 256  # images that wait for the pool of threads
_PAIRS = 64  # looked at before what they tell is reckoned with
_MAX_FILE = 200 << 20  # bytes; more than any scraped image has

Made = TypeVar("Made")


@check_numbers
def curate_tag(
    storage: Place,
    tag: str,
    *,
    threshold: Annotated[int, Ge(0), Le(100)] = THRESHOLD,
    concurrency: Concurrency = 16,
    seen: Seen | None = None,
) -> Dataset:
    """Find near-duplicates over the whole of a tag's dataset; return what remains of it.

    What is curated already, with the same threshold and method, is left as it is. What was dropped
    once stays dropped.

    Args:
        storage: where the dataset is; open, or a folder or URL.
        tag: its tag.
        threshold: in how many of 256 bits the PDQ hashes of twins may differ.
        concurrency: how many images are read at once.
        seen: what other tags' pictures have shown: those they share are not looked at again.

    Raises:
        ValueError: if a number is out of its option's bounds.
        InputError: if there is no complete dataset, or its manifest cannot be read.
        TransientError: if another run has written the dataset meanwhile.

    """
    storage, layout = opened(storage, concurrency), Layout(tag)
    dataset = load_dataset(storage, tag)
    looked_at = sorted(dataset.parts + dataset.repeats)
    covers = hashlib.sha256("\n".join(looked_at).encode()).hexdigest()
    known = dataset.curation
    if known and (known.method, known.threshold, known.covers) == (
        METHOD,
        threshold,
        covers,
    ):
        _, others = _clean(storage, layout, known)
        if not others:
            get_logger().info("already curated", **_counts(known), images=dataset.images)
            return dataset

    named = known.parts if known else ()
    earlier = _drops(read_parts(storage, named, Curated))
    # Of a run that was killed, or that was at work at the same time: its images may be gone.
    listed = [key for key in part_keys(storage, layout, "curated") if key not in named]
    elsewhere = _drops(read_parts(storage, listed, Curated, strict=False))
    seen = seen or Seen()
    with _threads(concurrency) as pool:
        gallery = _Gallery(storage, layout, pool, seen)
        rows = distinct(read_parts(storage, dataset.parts, Row))
        gallery.read(row for row in rows if row.md5 not in earlier)
        repeats = read_parts(storage, dataset.repeats, Repeat)
        said = {(record.md5, record.label) for record in repeats}
        findings = _Findings(gallery.images, said)
        _compare(gallery, findings, threshold)
    found = {verdict.md5: verdict for verdict in findings.verdicts()}
    for md5, verdict in (elsewhere | earlier).items():
        if md5 not in found or not found[md5].dropped:
            found[md5] = verdict  # what was dropped once stays dropped
    verdicts = [verdict for _, verdict in sorted(found.items())]
    unreadable = {
        number: why
        for number, why in gallery.unreadable.items()
        if gallery.images[number].md5 not in elsewhere
    }
    curation = Curation(
        parts=(write_part(storage, layout, "curated", verdicts),) if verdicts else (),
        method=METHOD,
        threshold=threshold,
        covers=covers,
        dropped=sum(verdict.dropped for verdict in verdicts),
        groups=findings.merged,
        conflicting=sum(verdict.conflicting for verdict in verdicts),
        unreadable=len(unreadable),
    )
    left = curated(distinct(read_parts(storage, dataset.parts, Row)), changes_of(verdicts))
    images, size, fingerprint = summarize(left)
    if load_dataset(storage, tag) != dataset:
        raise _interrupted(storage, layout)
    dataset = dataset.model_copy(
        update={
            "images": images,
            "bytes": size,
            "fingerprint": fingerprint,
            "curation": curation,
        }
    )
    write_dataset(storage, dataset)
    # Nothing is deleted that another run's marker names, or does not know to be dropped.
    if load_dataset(storage, tag) != dataset:
        raise _interrupted(storage, layout)
    # Before the marker named it, another run may have taken the part for an old one.
    if any(storage.stat(key) is None for key in curation.parts):
        write_part(storage, layout, "curated", verdicts)
    deleted, others = _clean(storage, layout, curation)
    for number, image in enumerate(gallery.images):  # a late listing may lack some
        if image.md5 in found and found[image.md5].dropped and image.md5 not in deleted:
            storage.delete(gallery.key(number))
    if others:  # their images may be gone: what another run has dropped is dropped here too
        return curate_tag(storage, tag, threshold=threshold, concurrency=concurrency, seen=seen)
    _report(gallery, unreadable, dataset, curation)
    return dataset


def _drops(verdicts: Iterable[Curated]) -> dict[str, Curated]:
    return {verdict.md5: verdict for verdict in verdicts if verdict.dropped}


def _interrupted(storage: Storage, layout: Layout) -> TransientError:
    return TransientError(
        f"another run has changed {storage.url}/{layout.root} while it was curated: run this "
        "again, one at a time"
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(count, thread_name_prefix="curate")
    done = False
    try:
        yield pool
        done = True
    finally:
        # After an error nobody waits for a storage that may have stalled.
        pool.shutdown(wait=done, cancel_futures=True)


def _report(
    gallery: _Gallery, unreadable: dict[int, str], dataset: Dataset, curation: Curation
) -> None:
    log = get_logger()
    if unreadable:
        number, why = next(iter(unreadable.items()))
        log.warning(
            "passed over, as they cannot be read: scrape into another storage to have them again",
            images=len(unreadable),
            first=gallery.key(number),
            detail=why,
        )
    log.info("curated", **_counts(curation), images=dataset.images)
    empty = [label for label in LABELS if not dataset.images["test"][label]]
    if curation.dropped and empty:
        log.warning("nothing is left to test with", labels=empty)


def _counts(curation: Curation) -> dict[str, int]:
    return {
        "dropped": curation.dropped,
        "groups": curation.groups,
        "conflicting": curation.conflicting,
    }


def _clean(storage: Storage, layout: Layout, curation: Curation) -> tuple[set[str], list[str]]:
    """Delete dropped images that are still there, and the parts of earlier curations.

    Returns:
        The md5s of the images that were deleted; and the parts that stay, of another run that has
        dropped images which this curation has not.

    """
    changes = read_changes(storage, curation)
    deleted = set()
    if None in changes.values():
        for folder in (layout.images(split, label) for split in SPLITS for label in LABELS):
            for entry in storage.list(folder):
                try:
                    image = parse_image(entry.key)
                except ValueError:  # not ours
                    continue
                if is_dropped(image.md5, changes):
                    storage.delete(entry.key)
                    deleted.add(image.md5)
    others = []
    for key in part_keys(storage, layout, "curated"):
        if key in curation.parts:
            continue
        drops = _drops(read_parts(storage, [key], Curated, strict=False))
        if all(is_dropped(md5, changes) for md5 in drops):
            storage.delete(key)
        else:
            others.append(key)
    return deleted, others


@dataclass(frozen=True, slots=True)
class _Image:
    """What is needed of a row here."""

    md5: str
    ext: str
    split: Split
    label: Label
    group: str
    name: str  # what its children's group is called


class _Gallery:
    """The images of a dataset: their layouts in memory, their thumbnails as they are needed."""

    def __init__(
        self, storage: Storage, layout: Layout, pool: ThreadPoolExecutor, seen: Seen
    ) -> None:
        self._storage, self._layout, self._pool, self._seen = storage, layout, pool, seen
        self.images: list[_Image] = []
        self.cells: list[bytes | None] = []
        self.unreadable: dict[int, str] = {}

    def read(self, rows: Iterator[Row]) -> None:
        """Take what the rows say; images without a hash are read, and hashed."""
        found = [
            (
                _Image(
                    *(row.md5, row.ext, row.split, row.label, row.group),
                    name=f"{row.board}:{row.post_id}",
                ),
                layout_cells(row.phashes),
            )
            for row in rows
        ]
        found.sort(key=lambda item: item[0].md5)  # whatever the order of scraping was
        self.images = [image for image, _ in found]
        self.cells = [cells for _, cells in found]
        missing = [number for number, cells in enumerate(self.cells) if cells is None]
        with Progress("hashing", total=len(missing)) as progress:
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                made = self._pool.map(partial(self._made, _cells_of), batch)
                for number, cells in zip(batch, made, strict=True):
                    self.cells[number] = cells
                    progress.advance()

    def key(self, number: int) -> str:
        image = self.images[number]
        return self._layout.image(image.split, image.label, image.md5, image.ext)

    def twins(self, pairs: Sequence[Pair], threshold: int) -> list[bool]:
        """Tell of pairs of images whether they are twins; of what cannot be read none is."""
        thumbnails = self._thumbnails({number for pair in pairs for number in _both(pair)})
        there = [pair for pair in pairs if thumbnails.keys() >= set(_both(pair))]
        names = {number: self.images[number].md5 for number in thumbnails}
        told = dict(zip(there, self._seen.twins(thumbnails, names, there, threshold), strict=True))
        return [told.get(pair, False) for pair in pairs]

    def _thumbnails(self, numbers: set[int]) -> dict[int, bytes]:
        """Return thumbnails, as `thumbnail` makes them, of those that can be read."""
        kept = self._seen.thumbnails
        found = {number: kept.get(self.images[number].md5) for number in numbers}
        wanted = sorted(number for number, pixels in found.items() if pixels is None)
        wanted = [number for number in wanted if number not in self.unreadable]
        made = self._pool.map(partial(self._made, thumbnail), wanted)
        for number, pixels in zip(wanted, made, strict=True):
            found[number] = pixels
            if pixels is not None:
                kept.keep(self.images[number].md5, pixels)
        return {number: pixels for number, pixels in found.items() if pixels is not None}

    def _made(self, make: Callable[[bytes], Made], number: int) -> Made | None:
        """Return what is made of an image's bytes, None if it cannot be read."""
        try:
            with self._storage.open(self.key(number)) as stream:
                data = stream.read(_MAX_FILE + 1)
            if len(data) <= _MAX_FILE:
                return make(data)
            self.unreadable[number] = f"more than {_MAX_FILE} bytes"
        except ObjectNotFound:
            self.unreadable[number] = "it is not there"
        except BadImage as error:
            self.unreadable[number] = str(error)
        return None


def _cells_of(data: bytes) -> bytes | None:
    return layout_cells(perceptual_hashes(data))


class _Findings:
    """What twins mean for a dataset."""

    def __init__(self, images: Sequence[_Image], said: set[tuple[str, Label]]) -> None:
        self._images = images
        self._disputed = {
            number
            for number, image in enumerate(images)
            if (image.md5, "negative" if image.label == "positive" else "positive") in said
        }
        self._parents: dict[str, str] = {}
        self._twins: dict[int, int] = {}
        self._conflicting = set(self._disputed)
        self._relate()

    def _relate(self) -> None:
        """Join families of several generations: a post only says who its parent is.

        Those in test that are of a family in train count as twins of one of it.
        """
        named = {image.group for image in self._images}
        for image in self._images:
            if image.name in named:
                self._join(image.name, image.group)
        if not self._parents:
            return
        trained: dict[str, int] = {}
        for number, image in enumerate(self._images):
            if image.split == "train":
                trained.setdefault(self._root(image.group), number)
        for number, image in enumerate(self._images):
            kin = trained.get(self._root(image.group))
            if image.split == "test" and kin is not None:
                self._twins[number] = kin

    def matters(self, one: int, other: int) -> bool:
        """Tell whether it would change anything if the two were twins."""
        first, second = self._images[one], self._images[other]
        if first.split == second.split == "train":
            return first.label != second.label or self._root(first.group) != self._root(
                second.group
            )
        if first.split == second.split:
            return False
        return (one if first.split == "test" else other) not in self._twins

    def add(self, one: int, other: int) -> None:
        """Take two images for twins; at least one of them is of the train split."""
        first, second = self._images[one], self._images[other]
        if first.split == "test":
            self._twins.setdefault(one, other)
        elif second.split == "test":
            self._twins.setdefault(other, one)
        else:
            self._twins.setdefault(one, other)
            self._twins.setdefault(other, one)
            # A group goes as a whole: the parents and children of either stay with it.
            self._join(first.group, second.group)
            if first.label != second.label:
                self._conflicting |= {one, other}

    def _join(self, one: str, other: str) -> None:
        # The least name stands for all, whichever pair is found first.
        low, high = sorted((self._root(one), self._root(other)))
        if low != high:
            self._parents[high] = low

    @property
    def merged(self) -> int:
        """How many groups were made of several."""
        return len({self._root(group) for group in self._parents})

    def verdicts(self) -> Iterator[Curated]:
        """Yield a verdict for each image that is dropped, has a twin, or has a new group."""
        for number, image in enumerate(self._images):
            twin = self._twins.get(number)
            root = self._root(image.group)
            if image.split == "test" and twin is None:
                root = image.group
            dropped = (image.split == "test" and twin is not None) or (
                number in self._disputed and image.label == "negative"
            )
            if twin is None and root == image.group and number not in self._disputed:
                continue
            yield Curated(
                md5=image.md5,
                twin=None if twin is None else self._images[twin].md5,
                dropped=dropped,
                group=None if dropped else root,
                conflicting=number in self._conflicting,
            )

    def _root(self, group: str) -> str:
        while (parent := self._parents.get(group)) is not None:
            group = parent
        return group


def _compare(gallery: _Gallery, findings: _Findings, threshold: int) -> None:
    """Find the twins among the images, of the pairs that matter."""
    kinds: dict[tuple[str, str], int] = {}
    of_kind = []
    for image in gallery.images:
        # All that is in test is one kind: what is not compared there costs nothing.
        kind = ("", "") if image.split == "test" else (image.group, image.label)
        of_kind.append(kinds.setdefault(kind, len(kinds)))
    pairs = alike(b"".join(cells or BLANK for cells in gallery.cells), of_kind)
    with Progress("comparing", total=len(pairs), unit="pairs") as progress:
        for start in range(0, len(pairs), _PAIRS):
            batch = pairs[start : start + _PAIRS]
            wanted = [pair for pair in batch if findings.matters(*_both(pair))]
            for pair, are_twins in zip(wanted, gallery.twins(wanted, threshold), strict=True):
                if are_twins and findings.matters(*_both(pair)):
                    findings.add(*_both(pair))
            progress.advance(len(batch))


def _both(pair: Pair) -> tuple[int, int]:
    return pair.outer, pair.inner
