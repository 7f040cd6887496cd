"""The plan job: what tags will take, before anything is fetched: images, time, storage, money."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from imagetag.boards import Login, open_board
from imagetag.checks import ThresholdFrom, check_threshold_from, checked_model
from imagetag.errors import InputError, TransientError, UsageError
from imagetag.job import (
    CommaList,
    FolderPlace,
    run_job,
    threshold_fraction_field,
    threshold_from_field,
)
from imagetag.log import get_logger
from imagetag.plan import (
    Network,
    Prices,
    Settings,
    ask_board,
    estimate,
    find_complete,
    find_done,
    find_network,
    find_rates,
    read_given,
)
from imagetag.storage import Storage, open_storage
from jobs.scrape import ScrapeSettings, open_client, selection_of

# Of pydantic's own `json`, which is deprecated and which no settings use.
warnings.filterwarnings("ignore", 'Field name "json" in "PlanSettings"', UserWarning)

_ATTEMPTS = 2  # at a request: nobody waits for a plan as for a scrape


def _price_field(of: str) -> float | None:
    price: float | None = Field(None, ge=0, description=f"price of {of}")
    return price


class PlanSettings(ScrapeSettings):
    """Options of `imagetag plan`."""

    headings: ClassVar = {
        "The promise": (
            "min_precision",
            "confidence",
            "threshold_fraction",
            "threshold_from",
        ),
        "Training, and how fast work is": (
            "model",
            "features",
            "embed_pods",
            "train_pods",
            "rates",
        ),
        "Prices": (
            *("price_gpu_hour", "price_cpu_hour", "price_gb_month", "price_gb_out"),
            *("price_1000_put", "price_1000_get"),
        ),
    }

    storage: FolderPlace = Field(
        "",
        description="where what is complete, and how fast earlier work was, is looked for; without "
        "it all rates are assumed",
    )
    model: Annotated[str, AfterValidator(checked_model)] = Field(
        "vgg19", description="what will be trained: another's speed says nothing"
    )
    train_pods: int = Field(
        1, ge=1, description="how many pods share the tags of train and of evaluate, a GPU each"
    )
    features: str = Field(
        "no",
        description="heads on features, as train --features takes them, latest or an extractor's "
        "name: embed on GPUs before train, and train on CPUs; of --model where that is given, or "
        "no extractor is in storage yet",
    )
    embed_pods: int = Field(
        1, ge=1, description="how many pods share the pictures of embed, a GPU each"
    )
    threshold_fraction: float = threshold_fraction_field()
    threshold_from: ThresholdFrom = threshold_from_field()
    min_precision: float = Field(0.95, gt=0, lt=1, description="the precision to promise")
    confidence: float = Field(0.95, gt=0, lt=1, description="how sure that must be")
    rates: CommaList = Field(
        (), description="NAME=VALUE of rates that you know better, named as the plan prints them"
    )
    json: bool = Field(  # type: ignore[assignment] # pydantic's own method of that name is gone
        False, description="print JSON, with all that is known"
    )
    price_gpu_hour: float | None = _price_field("an hour of a GPU")
    price_cpu_hour: float | None = _price_field("an hour of a processor")
    price_gb_month: float | None = _price_field("a GB in storage for a month")
    price_gb_out: float | None = _price_field("a GB that is read out of storage")
    price_1000_put: float | None = _price_field("1,000 writes and lists (PUT, LIST)")
    price_1000_get: float | None = _price_field("1,000 reads (GET)")

    @model_validator(mode="after")
    def _threshold_from(self) -> PlanSettings:
        check_threshold_from(self.threshold_from, self.features, "no")
        return self

    @property
    def share_for_threshold(self) -> float:
        """The share of the train split that the threshold will be chosen on."""
        return 1.0 if self.threshold_from == "out-of-fold" else self.threshold_fraction


def work(settings: PlanSettings) -> None:
    """Print what the tags will take."""
    tags = settings.all_tags()
    given = read_given(settings.rates)
    storage = _storage(settings.storage)
    login = Login(settings.board_user, settings.board_key.get_secret_value())
    alone = settings.model_copy(update={"shard_index": 0, "shard_count": 1})
    with open_client(alone, _ATTEMPTS) as client:
        board = open_board(settings.board, client, login)
        selection = selection_of(settings, board.root)
        complete = find_complete(storage, selection, tags) if storage else {}
        wanted = [tag for tag in tags if tag not in complete]
        asked = complete | {found.tag: found for found in ask_board(board, selection, wanted)}
    promise = settings.min_precision, settings.confidence
    features = settings.features != "no"
    network = Network(settings.model)
    if features:
        is_given = "model" in settings.model_fields_set
        network = find_network(storage, settings.features, settings.model, is_given=is_given)
    done = find_done(storage, complete, network, *promise) if storage else {}
    rates = find_rates(
        storage, network.model, given, features=features, extractor=network.extractor
    )
    of = Settings(
        limit=settings.limit,
        negative_ratio=settings.negative_ratio,
        test_fraction=settings.test_fraction,
        threshold_fraction=settings.share_for_threshold,
        max_rate=settings.max_rate,
        scrape_pods=settings.shard_count,
        train_pods=settings.train_pods,
        embed_pods=settings.embed_pods,
        features=features,
        network=network.told,
        min_precision=settings.min_precision,
        confidence=settings.confidence,
        interval=board.site.interval,
        asks_nobody=board.site.engine == "folder",
        source=board.called,
        posts_called=board.posts_called,
    )
    prices = Prices(
        gpu_hour=settings.price_gpu_hour,
        cpu_hour=settings.price_cpu_hour,
        gb_month=settings.price_gb_month,
        gb_out=settings.price_gb_out,
        put=settings.price_1000_put,
        get=settings.price_1000_get,
    )
    made = estimate([asked[tag] for tag in tags], of, rates, prices, done)

    from imagetag.plan import show  # rich: not for --help

    show(made, of, rates, board=board.site.name, sent=client.sent, as_json=settings.json)
    if not any(tag.images for tag in made.tags):
        raise InputError(f"no image of any tag is to be had from {board.site.name}")


def _storage(url: str) -> Storage | None:
    """Open the storage, if there is one to be had: a plan can do without."""
    if not url:
        return None
    try:
        return open_storage(url)
    except (UsageError, TransientError) as error:
        get_logger().warning("what was measured there is not known", error=str(error))
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "nothing was changed by planning"
    return run_job("plan", str(__doc__), PlanSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
