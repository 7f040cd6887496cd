"""How fast and how large work is: as earlier work in a storage was, as given, or as assumed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

from imagetag.errors import InputError, UsageError
from imagetag.job import LEAST_MEASURED, Beat
from imagetag.layout import STATUS, StatusKey, parse_status, status
from imagetag.sentences import counted
from imagetag.storage import Storage, load_record
from imagetag.suggest import did_you_mean

RateName = Literal[
    "requests_per_image",
    "bytes_per_image",
    "scrape_processor_seconds_per_image",
    "explore_processor_seconds_per_image",
    "train_epochs",
    "train_images_per_second",
    "evaluate_images_per_second",
    "distinct_share",
    "embed_images_per_second",
    "head_seconds_per_tag",
]
RATES: tuple[RateName, ...] = get_args(RateName)
Origin = Literal["measured", "assumed", "given"]

# Round numbers, none of which has been seen on your machines.
_ASSUMED: dict[RateName, tuple[float, str]] = {
    "requests_per_image": (1.1, "one for each image, and a tenth for lists and what fails"),
    "bytes_per_image": (500_000, "of a picture as boards have it"),
    "scrape_processor_seconds_per_image": (0.1, "to decode and hash a picture"),
    "explore_processor_seconds_per_image": (0.01, "to read its row, and draw"),
    "train_epochs": (25, "early stopping ends most trainings long before --epochs"),
    "train_images_per_second": (200, "through VGG19 on one GPU: none was seen"),
    "evaluate_images_per_second": (10, "through VGG19 on two processors"),
    "distinct_share": (1, "of the pictures of all tags, as if tags shared none"),
    "embed_images_per_second": (200, "and their mirror images, through VGG19 on one GPU"),
    "head_seconds_per_tag": (3, "to read features, fit a head and store it"),
}
_SCORES = (100.0, "from features: what takes time is the page")
# What only whole models take, and what only features do.
_OF_MODELS: frozenset[RateName] = frozenset({"train_epochs", "train_images_per_second"})
_OF_FEATURES: frozenset[RateName] = frozenset(
    {"distinct_share", "embed_images_per_second", "head_seconds_per_tag"}
)
_RECORDS = 40  # of each job that are read, evenly over the tags


@dataclass(frozen=True)
class Rate:
    """A number, where it comes from, and what there is to say of that."""

    value: float
    origin: Origin
    why: str


@dataclass(frozen=True)
class Rates:
    """What work takes; `gpu` says whether networks are on GPUs, in training or embedding."""

    of: Mapping[RateName, Rate]
    gpu: bool = True

    def __getitem__(self, name: RateName) -> float:
        return self.of[name].value


def read_given(texts: Sequence[str]) -> dict[RateName, float]:
    """Return the rates that are given as `name=value`.

    Raises:
        UsageError: if one is not.

    """
    given: dict[RateName, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        known = next((rate for rate in RATES if rate == name.strip().replace("-", "_")), None)
        if known is None or not equals:
            hint = did_you_mean(name, RATES) or f"; take {', '.join(RATES)}"
            raise UsageError(f"--rates: {text!r} is not NAME=VALUE of a rate{hint}")
        try:
            given[known] = float(value)
        except ValueError:
            given[known] = 0.0
        if not 0 < given[known] < 1e15:
            raise UsageError(f"--rates: {text!r}: take a number over 0")
    return given


def find_rates(
    storage: Storage | None,
    model: str,
    given: Mapping[RateName, float],
    *,
    features: bool = False,
    extractor: str = "",
) -> Rates:
    """Return what work takes: as given, else as it did in a storage, else as assumed.

    Args:
        storage: has the records of earlier work; None for none.
        model: how training, or embedding, goes with another says nothing.
        given: values that win.
        features: whether features are embedded and heads trained on them, no whole models.
        extractor: how embedding goes with another of the same model says nothing; empty where it is
            not known which there will be.

    """
    beats = _beats(storage) if storage is not None else []
    found: dict[RateName, Rate] = {
        name: Rate(value, "assumed", why)
        for name, (value, why) in _ASSUMED.items()
        if name not in (_OF_MODELS if features else _OF_FEATURES)
    }
    if features:
        value, why = _SCORES
        found["evaluate_images_per_second"] = Rate(value, "assumed", why)
    of = {
        stage: [beat for beat in beats if beat.stage == stage]
        for stage in ("scrape", "explore", "embed", "train", "evaluate")
    }
    trained = [
        beat
        for beat in of["train"]
        if beat.measured.get("model") == model and _on_features(beat) == features
    ]
    embedded = [
        beat
        for beat in of["embed"]
        if is_of(str(beat.measured.get("extractor", "")), model, extractor)
    ]
    through = embedded if features else trained  # the network
    on_gpus = [beat for beat in through if _number(beat, "gpus")]
    through = on_gpus or through
    evaluated = [
        beat
        for beat in of["evaluate"]
        if beat.measured.get("model") in (model, None) and _on_features(beat) == features
    ]
    fetched = [beat for beat in of["scrape"] if not _number(beat, "copied")] or of["scrape"]
    sums: dict[RateName, tuple[list[Beat], Callable[[Beat], float], Callable[[Beat], float]]] = {
        "requests_per_image": (fetched, _of("requests"), _of("images")),
        "bytes_per_image": (of["scrape"], _bytes, _of("images")),
        "scrape_processor_seconds_per_image": (of["scrape"], _processor, _of("images")),
        "explore_processor_seconds_per_image": (of["explore"], _processor, _of("images")),
        "train_epochs": (through, _of("epochs"), lambda _: 1.0),
        "train_images_per_second": (through, _passed, _device_seconds),
        "evaluate_images_per_second": (evaluated, _of("images"), lambda beat: beat.seconds),
        "distinct_share": (of["embed"], _of("pictures"), _of("places")),
        "embed_images_per_second": (through, _of("images"), _embed_seconds),
        "head_seconds_per_tag": (trained, lambda beat: beat.seconds, lambda _: 1.0),
    }
    for name, (records, above, below) in sums.items():
        total, divisor = sum(map(above, records)), sum(map(below, records))
        if name in found and total > 0 and divisor > 0:
            tags = len({beat.tag for beat in records})
            found[name] = Rate(total / divisor, "measured", f"here, over {counted(tags, 'tag')}")
    for name, value in given.items():
        found[name] = Rate(value, "given", "by --rates")
    return Rates(found, gpu=bool(on_gpus) or not through)


def is_of(name: str, model: str, extractor: str = "") -> bool:
    """Tell whether an extractor's name is that of another, or where none is known of a model's."""
    return name == extractor if extractor else name.startswith(f"{model}-")


def _beats(storage: Storage) -> list[Beat]:
    """Return what some of the successful works have measured."""
    keys: dict[str, list[StatusKey]] = {}
    for entry in storage.list(STATUS):
        try:
            key = parse_status(entry.key)
        except ValueError:
            continue
        # Pods that embed have no tag in common.
        if key.state == "done" and (key.worker == 0 or key.stage == "embed"):
            keys.setdefault(key.stage, []).append(key)
    chosen = itertools.chain.from_iterable(
        some[:: -(-len(some) // _RECORDS)] for some in keys.values()
    )

    def load(key: StatusKey) -> Beat | None:
        try:
            return load_record(storage, status(key), Beat)
        except InputError:  # gone, or damaged
            return None

    with ThreadPoolExecutor(16, thread_name_prefix="records") as pool:
        found = list(pool.map(load, chosen))
    return [
        beat
        for beat in found
        if beat is not None and _number(beat, "images") >= LEAST_MEASURED and beat.seconds > 0
    ]


def _number(beat: Beat, name: str) -> float:
    value = beat.measured.get(name, 0.0)
    return value if isinstance(value, float | int) and value >= 0 else 0.0


def _of(name: str) -> Callable[[Beat], float]:
    return lambda beat: _number(beat, name)


def _bytes(beat: Beat) -> float:
    return _number(beat, "bytes_per_image") * _number(beat, "images")


def _processor(beat: Beat) -> float:
    return beat.processor_seconds


def _passed(beat: Beat) -> float:
    """Return how many images went through a training, an epoch after the other."""
    return _number(beat, "images") * _number(beat, "epochs")


def _embed_seconds(beat: Beat) -> float:
    return _number(beat, "embedding_seconds") * max(1.0, _number(beat, "devices"))


def _on_features(beat: Beat) -> bool:
    return bool(beat.measured.get("extractor"))


def _device_seconds(beat: Beat) -> float:
    return _number(beat, "training_seconds") * max(1.0, _number(beat, "devices"))
