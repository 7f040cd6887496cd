"""Embed the pictures of tags, of a pod's share, and tell of each tag what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from imagetag.dataset import tell_share
from imagetag.embed.network import Network, stored_extractor
from imagetag.embed.pictures import Pictures, count_of_tags, find_pictures
from imagetag.errors import InputError
from imagetag.features import ExtractorRecord, FeatureStore, mark_latest
from imagetag.job import LEAST_MEASURED, Heartbeats, measured
from imagetag.log import get_logger, working
from imagetag.quiet import quiet_imports
from imagetag.storage import Storage


@dataclass(frozen=True)
class Means:
    """What pictures are embedded with. It decides how long it takes, not what comes out.

    Args:
        cache_folder: a local copy of weights.
        batch_size: pictures at once on each device.
        cpu_devices: logical ones, where there is no GPU.
        concurrency: pictures that are fetched and decoded at once, and manifests that are read.

    """

    cache_folder: Path
    batch_size: int = 32
    cpu_devices: int = 1
    concurrency: int = 16


def embed_tags(
    storage: Storage,
    tags: Sequence[str],
    network: Network,
    means: Means,
    *,
    index: int = 0,
    count: int = 1,
) -> None:
    """Embed each distinct picture of some tags that has no features of a network yet.

    Args:
        storage: has the datasets, and gets the network and its features.
        tags: whose pictures.
        network: makes the features.
        means: what it is done with.
        index: which share of the pictures, from 0.
        count: how many there are.

    Raises:
        UsageError, InputError: as `stored_extractor`, at once.
        InputError: at the end, if a tag has no complete dataset, or a picture of it is gone.

    """
    known = stored_extractor(storage, network)
    # All pods work for all tags; each tells of its share of them, so that each tag is told of once.
    mine = tags[index::count]
    failed: dict[str, InputError] = {}

    def note(tag: str, error: InputError) -> None:
        failed[tag] = error
        if len(tags) > 1:
            get_logger().error(str(error), tag=tag, exit_code=error.exit_code)

    with Heartbeats(storage, "embed", worker=index) as heartbeats:
        with heartbeats.of(*mine):
            pictures = find_pictures(
                storage, tags, index=index, count=count, threads=means.concurrency, failed=note
            )
            if len(failed) < len(tags):
                record = _embed(storage, network, means, known, pictures, note)
                found = pictures.fingerprints.items()
                done = {tag: fingerprint for tag, fingerprint in found if tag not in failed}
                if done:
                    tell_share(storage, record.name, index, count, done)
                    mark_latest(storage, record)
        for tag in mine:
            if tag in failed:
                with contextlib.suppress(InputError), heartbeats.of(tag):
                    raise failed[tag]
    if failed and len(tags) == 1:
        raise failed[tags[0]]
    if len(tags) > 1 and count == 1:  # else no tag is done by this pod alone
        for number, tag in enumerate(tags, start=1):
            if tag not in failed:
                get_logger().info("tag done", tag=tag, number=number, of=len(tags))
    if failed:
        names = ", ".join(list(failed)[:10]) + (", ..." if len(failed) > 10 else "")
        raise InputError(f"{len(failed)} of {len(tags)} tags failed: {names}")


def _embed(
    storage: Storage,
    network: Network,
    means: Means,
    known: ExtractorRecord | None,
    pictures: Pictures,
    failed: Callable[[str, InputError], None],
) -> ExtractorRecord:
    """Embed pictures, and return what did; a tag with a picture that is gone fails."""
    if known is not None and not FeatureStore(storage, known).missing(pictures):
        # Which takes no TensorFlow.
        _tell(known, len(pictures.fingerprints), already=len(pictures))
        return known
    record, missing = _embed_by_network(storage, network, means, known, pictures)
    if missing:
        for tag, count in count_of_tags(storage, pictures.fingerprints, missing).items():
            text = (
                f"{count} pictures are in the manifest of the tag {tag!r} and not in "
                f"{storage.url}: scrape it again, then run imagetag embed again; features "
                "that are stored are kept"
            )
            failed(tag, InputError(text))
    return record


def _embed_by_network(
    storage: Storage,
    network: Network,
    means: Means,
    known: ExtractorRecord | None,
    pictures: Pictures,
) -> tuple[ExtractorRecord, frozenset[str]]:
    """Embed pictures; return what did, and the md5 of those that are not in storage."""
    with quiet_imports():  # TensorFlow
        from imagetag.embed.embed import embed_pictures
        from imagetag.features import load_extractor, prepare_extractor, store_extractor
        from imagetag.models import choose_devices, device_names, find_weights

    strategy = choose_devices("auto", cpu_devices=means.cpu_devices)
    with TemporaryDirectory(prefix="imagetag-embed-") as scratch, working("loading the network"):
        folder = Path(scratch)
        record = known
        if record is None:
            text = "imagenet" if network.weights == "auto" else network.weights
            weights = find_weights(text, means.cache_folder / "weights") or "imagenet"
            asked = network.asked(weights)
            record, path = prepare_extractor(network.extractor, asked, folder / "made")
            record = store_extractor(storage, record, path)
        extractor = load_extractor(
            storage, record, folder, batch_size=means.batch_size, strategy=strategy
        )
    started = time.monotonic()
    found = embed_pictures(storage, extractor, pictures, concurrency=means.concurrency)
    if found.done >= LEAST_MEASURED:  # else what was measured before tells more
        measured(
            extractor=record.name,
            images=found.done,
            pictures=len(pictures),
            places=pictures.places,
            devices=strategy.num_replicas_in_sync,
            gpus=sum("GPU" in device for device in device_names()),
            embedding_seconds=round(time.monotonic() - started, 3),
        )
    tags = len(pictures.fingerprints)
    _tell(record, tags, found.done, found.already, found.unreadable, len(found.missing))
    return record, found.missing


def _tell(
    record: ExtractorRecord,
    tags: int,
    done: int = 0,
    already: int = 0,
    unreadable: int = 0,
    missing: int = 0,
) -> None:
    get_logger().info(
        "embedded",
        extractor=record.name,
        images=done,
        already=already,
        unreadable=unreadable,
        missing=missing,
        tags=tags,
    )
