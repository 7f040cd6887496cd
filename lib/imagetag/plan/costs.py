"""What a pipeline will take: requests, time, bytes, operations on storage, processors and GPUs.

All of it follows from how many images of each tag there will be, and from rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from imagetag.plan.counts import Asked, EstimatedStage
from imagetag.plan.rates import Rates
from imagetag.proof import least_right

_MARGIN = 1.05  # that `pace` leaves between two requests, beyond what the rate asks for
# Seconds of each tag in a training beyond its epochs: to fetch, build, compile and store.
_TRAIN_OVERHEAD = 60.0
# Objects: of each image it and a note for other tags, before which the note is looked for; and of
# each tag markers, lists and pages, which are few.
_PUTS_AN_IMAGE, _GETS_AN_IMAGE = 2, 1
_PART_ROWS = 200
_THUMBNAILS = 4 * 24  # that explore shows of a tag
_SHOWN = 100  # pictures on the page of an evaluation, about
_FEATURES = 4096  # pictures in a part of them, and bytes that a picture's take
_EMBED_OVERHEAD = 60.0  # seconds of each pod: to load the network and compile
# Bytes of a row of a manifest with its layout, and seconds to read it: each pod reads all rows.
_ROW_BYTES, _ROW_SECONDS = 1400, 1e-5
_OF_A_TAG = {"scrape": (6, 12), "explore": (12, 8), "train": (25, 8), "evaluate": (6, 8)}


@dataclass(frozen=True)
class Settings:
    """What of the settings decides how much there is to do.

    Attributes:
        limit: positives of a tag, at the most.
        negative_ratio: negatives for each.
        test_fraction: share of the images that no training reads, and
        threshold_fraction: share of the others that the threshold is chosen on; heads may learn
            from it too.
        max_rate: requests a second of the whole job.
        scrape_pods: that share the tags, and
        train_pods: that train, each its own tags, on one device each.
        embed_pods: that share the pictures, on one device each, where
        features: are embedded, and heads trained on them, on CPUs.
        network: what embeds them, and why that one is gone by, as texts say it.
        min_precision: that is to be promised,
        confidence: how surely.
        interval: seconds between two requests for lists that the board's rules ask for.
        asks_nobody: whether images come from a folder, without requests.
        source: what they come from, as texts call it, and
        posts_called: what it has.

    """

    limit: int
    negative_ratio: float
    test_fraction: float
    threshold_fraction: float
    max_rate: float
    scrape_pods: int
    train_pods: int
    min_precision: float
    confidence: float
    embed_pods: int = 1
    features: bool = False
    network: str = ""
    interval: float = 0.0
    asks_nobody: bool = False
    source: str = "the board"
    posts_called: str = "posts"


@dataclass(frozen=True)
class Prices:
    """Prices, in whatever currency; None where none is given.

    `gb_out` is of a GB that is read out of storage, `put` and `get` of a thousand operations.
    """

    gpu_hour: float | None = None
    cpu_hour: float | None = None
    gb_month: float | None = None
    gb_out: float | None = None
    put: float | None = None
    get: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What a stage takes over all tags.

    `seconds` is how long it lasts with its pods, `processor_hours` what it computes. `received` and
    `read` are bytes, from the board and from storage. `money` leaves out what no price is given of,
    and is None without any price.
    """

    stage: EstimatedStage
    images: int
    requests: int = 0
    seconds: float
    received: int = 0
    read: int = 0
    stored: int = 0
    puts: int
    gets: int
    processor_hours: float
    gpu_hours: float = 0.0
    money: float | None = None


@dataclass(frozen=True)
class TagEstimate:
    """How many images of a tag there will be, at the most where the board does not say.

    `promise` is how many positives there will be to choose a threshold on, `enough` whether they
    are as many as it takes at the least; `done` are the stages that are, `trouble` is what the
    board cannot give, in words.
    """

    asked: Asked
    positives: int
    negatives: int
    promise: int
    enough: bool
    done: tuple[EstimatedStage, ...]
    trouble: str

    @property
    def images(self) -> int:
        """Images of both labels."""
        return self.positives + self.negatives


@dataclass(frozen=True)
class Estimate:
    """What all of it takes; with fewer than `needed` positives no promise can be made.

    `needed_images` are as many of a tag that the threshold is chosen on so many of them. `month` is
    what a month of storage costs, None without its price.
    """

    tags: tuple[TagEstimate, ...]
    stages: tuple[StageEstimate, ...]
    needed: int
    needed_images: int
    stored: int
    month: float | None


def estimate(
    asked: Sequence[Asked],
    settings: Settings,
    rates: Rates,
    prices: Prices,
    done: Mapping[str, tuple[EstimatedStage, ...]] | None = None,
) -> Estimate:
    """Return what tags will take.

    Args:
        asked: what the board says of each.
        settings: what is wanted.
        rates: what work takes.
        prices: of what.
        done: the stages that are done of each tag, where any is: they take nothing more.

    """
    needed = least_right(settings.min_precision, settings.confidence)
    kept = (1 - settings.test_fraction) * settings.threshold_fraction
    tags = tuple(
        _tag(each, settings, needed, kept, (done or {}).get(each.tag, ())) for each in asked
    )
    usable = [tag for tag in tags if tag.images]
    left: dict[EstimatedStage, list[TagEstimate]] = {
        stage: [tag for tag in usable if stage not in tag.done]
        for stage in get_args(EstimatedStage)
    }
    stages = (
        _scrape(left["scrape"], settings, rates),
        _explore(left["explore"], settings, rates),
        *([_embed(left["embed"], settings, rates)] if settings.features else []),
        _train(left["train"], settings, rates),
        _evaluate(left["evaluate"], settings, rates),
    )
    stored = sum(stage.stored for stage in stages)
    return Estimate(
        tags=tags,
        stages=tuple(_priced(stage, prices) for stage in stages),
        needed=needed,
        needed_images=math.ceil(needed / kept),
        stored=stored,
        month=None if prices.gb_month is None else stored / 1e9 * prices.gb_month,
    )


def _tag(
    asked: Asked,
    settings: Settings,
    needed: int,
    kept: float,
    done: tuple[EstimatedStage, ...],
) -> TagEstimate:
    found = asked.positives(settings.limit)
    positives = settings.limit if found is None else found
    negatives = math.ceil(positives * settings.negative_ratio - 1e-9)
    promise = math.floor(positives * kept)
    return TagEstimate(
        asked=asked,
        positives=positives,
        negatives=negatives,
        promise=promise,
        enough=promise >= needed,
        done=done,
        trouble="" if "scrape" in done else _trouble(asked, positives, settings),
    )


def _trouble(asked: Asked, positives: int, settings: Settings) -> str:
    """Return what a board cannot give of a tag, in a sentence; empty if it can."""
    if asked.alias_of:
        return f"no post carries it: it is probably an alias; all have {', '.join(asked.alias_of)}"
    if asked.posts == 0:
        meant = f"; did you mean {', '.join(asked.similar)}?" if asked.similar else ""
        return f"there are no {settings.posts_called} of it{meant}"
    if asked.problem:
        return f"{settings.source} does not say: {asked.problem}"
    if asked.posts is None:
        return (
            f"{settings.source} does not count: up to --limit {settings.limit:,} is reckoned with"
        )
    if positives < settings.limit:
        few = f"fewer than --limit {settings.limit:,}"
        return few if positives == asked.posts else f"{few}: some do not fit the settings"
    return ""


def _scrape(tags: Sequence[TagEstimate], settings: Settings, rates: Rates) -> StageEstimate:
    images = sum(tag.images for tag in tags)
    requests = 0 if settings.asks_nobody else round(images * rates["requests_per_image"])
    processor = images * rates["scrape_processor_seconds_per_image"]
    lists = max(0, requests - images)
    waiting = max(requests * _MARGIN / settings.max_rate, lists * settings.interval)
    size = round(images * rates["bytes_per_image"])
    puts, gets = _OF_A_TAG["scrape"]
    pods = min(settings.scrape_pods, max(1, len(tags)))
    return StageEstimate(
        stage="scrape",
        images=images,
        requests=requests,
        seconds=max(waiting, processor / pods),
        received=size,
        stored=size,
        puts=images * _PUTS_AN_IMAGE + _parts(tags) + len(tags) * puts,
        gets=images * _GETS_AN_IMAGE + 2 * _parts(tags) + len(tags) * gets,
        processor_hours=processor / 3600,
    )


def _explore(tags: Sequence[TagEstimate], settings: Settings, rates: Rates) -> StageEstimate:
    images = sum(tag.images for tag in tags)
    processor = images * rates["explore_processor_seconds_per_image"]
    shown = sum(min(tag.images, _THUMBNAILS) for tag in tags)
    puts, gets = _OF_A_TAG["explore"]
    return StageEstimate(
        stage="explore",
        images=images,
        seconds=processor / min(settings.scrape_pods, max(1, len(tags))),
        read=round(shown * rates["bytes_per_image"]),
        puts=len(tags) * puts,
        gets=shown + 2 * _parts(tags) + len(tags) * gets,
        processor_hours=processor / 3600,
    )


def _embed(tags: Sequence[TagEstimate], settings: Settings, rates: Rates) -> StageEstimate:
    """Every pod reads the manifests of all tags, and takes its share of the distinct pictures."""
    images = round(sum(tag.images for tag in tags) * rates["distinct_share"])
    pods = settings.embed_pods if images else 0
    rows = pods * sum(tag.images for tag in tags)
    seconds = images / rates["embed_images_per_second"]
    seconds += pods * _EMBED_OVERHEAD + rows * _ROW_SECONDS
    return StageEstimate(
        stage="embed",
        images=images,
        seconds=seconds / settings.embed_pods,
        read=round(images * rates["bytes_per_image"]) + rows * _ROW_BYTES,
        stored=images * _FEATURES,
        puts=2 * math.ceil(images / _FEATURES) + 3 * pods + len(tags),
        gets=images + pods * (_parts(tags) + 2 * len(tags)),
        processor_hours=0.0 if rates.gpu else seconds / 3600,
        gpu_hours=seconds / 3600 if rates.gpu else 0.0,
    )


def _train(tags: Sequence[TagEstimate], settings: Settings, rates: Rates) -> StageEstimate:
    if settings.features:
        return _heads(tags, settings, rates)
    share = (1 - settings.test_fraction) * (1 - settings.threshold_fraction)
    images = round(sum(tag.images for tag in tags) * share)
    seconds = images * rates["train_epochs"] / rates["train_images_per_second"]
    seconds += len(tags) * _TRAIN_OVERHEAD
    puts, gets = _OF_A_TAG["train"]
    return StageEstimate(
        stage="train",
        images=images,
        seconds=seconds / min(settings.train_pods, max(1, len(tags))),
        read=round(images * rates["bytes_per_image"]),
        puts=len(tags) * puts,
        gets=images + 2 * _parts(tags) + len(tags) * gets,
        processor_hours=0.0 if rates.gpu else seconds / 3600,
        gpu_hours=seconds / 3600 if rates.gpu else 0.0,
    )


def _heads(tags: Sequence[TagEstimate], settings: Settings, rates: Rates) -> StageEstimate:
    images = sum(tag.images for tag in tags)
    seconds = len(tags) * rates["head_seconds_per_tag"]
    puts, gets = _OF_A_TAG["train"]
    pods = min(settings.train_pods, max(1, len(tags)))
    read = round(images * rates["distinct_share"])
    return StageEstimate(
        stage="train",
        images=images,
        seconds=seconds / pods,
        read=read * _FEATURES,
        puts=len(tags) * puts,
        gets=2 * pods * math.ceil(read / _FEATURES) + 2 * _parts(tags) + len(tags) * gets,
        processor_hours=seconds / 3600,
    )


def _evaluate(tags: Sequence[TagEstimate], settings: Settings, rates: Rates) -> StageEstimate:
    images = sum(tag.images for tag in tags)
    fetched = sum(min(tag.images, _SHOWN) for tag in tags) if settings.features else images
    seconds = images / rates["evaluate_images_per_second"]
    puts, gets = _OF_A_TAG["evaluate"]
    return StageEstimate(
        stage="evaluate",
        images=images,
        seconds=seconds / min(settings.train_pods, max(1, len(tags))),
        read=round(fetched * rates["bytes_per_image"]),
        puts=len(tags) * puts,
        gets=fetched + _parts(tags) + len(tags) * gets,
        processor_hours=seconds / 3600,
    )


def _parts(tags: Sequence[TagEstimate]) -> int:
    """Return how many parts the manifests have."""
    counts = [count for tag in tags for count in (tag.positives, tag.negatives)]
    return sum(math.ceil(count / _PART_ROWS) for count in counts)


def _priced(stage: StageEstimate, prices: Prices) -> StageEstimate:
    if not prices.any:
        return stage
    costs = (
        (prices.gpu_hour, stage.gpu_hours),
        (prices.cpu_hour, stage.processor_hours),
        (prices.gb_out, stage.read / 1e9),
        (prices.put, stage.puts / 1000),
        (prices.get, stage.gets / 1000),
    )
    money = sum(price * amount for price, amount in costs if price is not None)
    return replace(stage, money=money)
