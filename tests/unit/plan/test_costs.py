"""What a pipeline will take, and on which rates that stands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagetag.errors import UsageError
from imagetag.plan.costs import Estimate, Prices, estimate
from imagetag.plan.counts import Asked, EstimatedStage
from imagetag.plan.network import find_network
from imagetag.plan.rates import RATES, Rates, find_rates, read_given
from imagetag.plan.table import sentences
from imagetag.storage.local import LocalStorage
from jobs import plan as plan_job
from jobs import scrape as scrape_job
from tests.builders.extractors import make_record
from tests.builders.plans import SETTINGS
from tests.builders.statuses import ago, write_beat
from tests.storages import Wrapped

MANY = Asked("fox", 100_000, fit=1.0)


def rates(**values: float) -> Rates:
    base = {
        "requests_per_image": 1.1,
        "bytes_per_image": 1e6,
        "train_epochs": 10,
        "scrape_processor_seconds_per_image": 0.1,
        "explore_processor_seconds_per_image": 0.01,
        "train_images_per_second": 100,
        "evaluate_images_per_second": 10,
    }
    given = [f"{name}={value}" for name, value in (base | values).items()]
    return find_rates(None, "vgg19", read_given(given))


def made(*asked: Asked, prices: Prices | None = None, **changes: Any) -> Estimate:
    return estimate(asked, replace(SETTINGS, **changes), rates(), prices or Prices())


# --- How many images ---------------------------------------------------------------------------


def test_positives_and_negatives_of_what_the_board_has() -> None:
    found = made(MANY, Asked("owl", 120, fit=0.5), Asked("elk"), negative_ratio=1.5)
    assert [(tag.positives, tag.negatives) for tag in found.tags] == [
        *((500, 750), (60, 90), (500, 750))
    ]
    assert (found.needed, found.needed_images) == (59, 369)
    assert [(tag.promise, tag.enough) for tag in found.tags] == [(80, True), (9, False), (80, True)]
    told = sentences(found, SETTINGS, board="b", sent=3)[0]
    assert "1 of 3 tags have fewer" in told
    assert "of 1 of 3 tags is not known: --limit is reckoned with" in told


def test_of_what_the_board_does_not_say_nobody_hears_that_it_is_enough() -> None:
    told = sentences(made(MANY), SETTINGS, board="b", sent=3)[0]
    assert "all tags have as many" in told
    told = sentences(made(MANY, Asked("owl", 0)), SETTINGS, board="b", sent=3)[0]
    assert "all of the 1 that have images have as many" in told
    told = sentences(made(MANY, Asked("elk")), SETTINGS, board="b", sent=3)[0]
    assert "have as many" not in told
    assert "of 1 of 2 tags is not known" in told


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (MANY, ""),
        (Asked("fox", 12, exact=True, fit=1.0), "fewer than --limit 500"),
        (Asked("fox", 12, fit=0.5), "fewer than --limit 500: some do not fit the settings"),
        (Asked("fox", 0, alias_of=("red_fox", "animal")), "alias; all have red_fox, animal"),
        (Asked("fox", 0, similar=("red_fox",)), "there are no posts of it; did you mean red_fox?"),
        (Asked("fox", 0), "there are no posts of it"),
        (Asked("fox", fit=1.0), "the board does not count: up to --limit 500 is reckoned with"),
        (Asked("fox", problem="it is down"), "the board does not say: it is down"),
    ],
)
def test_what_the_board_cannot_give_is_told(asked: Asked, said: str) -> None:
    [tag] = made(asked).tags
    assert tag.trouble.endswith(said)
    assert bool(tag.trouble) == bool(said)


# --- What it takes -----------------------------------------------------------------------------


def test_scraping_lasts_as_long_as_the_rate_wants() -> None:
    scrape = made(MANY, MANY).stages[0]
    assert (scrape.images, scrape.requests) == (2000, 2200)
    assert scrape.seconds == pytest.approx(2200 * 1.05 / 5)
    assert scrape.received == scrape.stored == 2_000_000_000
    assert scrape.processor_hours == pytest.approx(200 / 3600)
    slow = made(MANY, MANY, interval=10.0).stages[0]
    assert slow.seconds == 200 * 10.0  # the lists alone
    busy = made(MANY, MANY, max_rate=1e6).stages[0]
    assert busy.seconds == pytest.approx(200 / 2)  # two pods have something to do
    assert made(MANY, asks_nobody=True).stages[0].requests == 0


def test_training_goes_through_its_part_of_the_images_on_each_device() -> None:
    train = made(MANY, MANY, MANY).stages[2]
    assert train.images == round(3000 * 0.8 * 0.8)
    assert train.gpu_hours == pytest.approx((1920 * 10 / 100 + 3 * 60) / 3600)
    assert train.seconds == pytest.approx(train.gpu_hours * 3600 / 2)
    assert train.processor_hours == 0
    on_cpus = estimate([MANY], SETTINGS, replace(rates(), gpu=False), Prices()).stages[2]
    assert on_cpus.gpu_hours == 0
    assert on_cpus.processor_hours > 0


def test_features_are_embedded_once_by_pods_that_share_the_pictures() -> None:
    settings = replace(SETTINGS, features=True, embed_pods=4)
    given: dict[Any, float] = {
        "distinct_share": 0.25,
        "embed_images_per_second": 50.0,
        "head_seconds_per_tag": 2.0,
    }
    fast = find_rates(None, "vgg19", given, features=True)
    tags = [MANY, replace(MANY, tag="owl"), replace(MANY, tag="elk")]
    found = estimate(tags, settings, fast, Prices(gpu_hour=2.0))
    assert [stage.stage for stage in found.stages] == [
        *("scrape", "explore", "embed", "train", "evaluate")
    ]
    embed, train, evaluate = found.stages[2:]
    assert embed.images == 750
    rows = 3000 * 1e-5  # that each pod reads
    assert embed.seconds == pytest.approx(750 / 50 / 4 + 60 + rows)
    assert embed.gpu_hours == pytest.approx((750 / 50 + 4 * (60 + rows)) / 3600)
    assert embed.read == 750 * fast["bytes_per_image"] + 4 * 3000 * 1400
    assert embed.money == pytest.approx(embed.gpu_hours * 2)
    assert train.gpu_hours == 0
    assert train.processor_hours == pytest.approx(6 / 3600)
    assert evaluate.gets < 3 * 1000, "pictures are read for pages alone"
    done: dict[str, tuple[EstimatedStage, ...]] = {tag.tag: ("scrape", "embed") for tag in tags}
    rest = estimate(tags, settings, fast, Prices(), done)
    assert (rest.stages[2].images, rest.stages[2].seconds, rest.stored) == (0, 0, 0)


def test_tags_that_are_scraped_or_have_nothing_are_not_scraped() -> None:
    done: dict[str, tuple[EstimatedStage, ...]] = {"fox": ("scrape",)}
    found = estimate([MANY, Asked("owl", 0)], SETTINGS, rates(), Prices(), done)
    assert [stage.images for stage in found.stages] == [0, 1000, 640, 1000]
    assert found.stored == 0
    assert found.tags[0].trouble == ""


def test_stages_that_are_done_of_a_tag_take_nothing_more() -> None:
    tags = [MANY, replace(MANY, tag="owl"), replace(MANY, tag="elk")]
    done: dict[str, tuple[EstimatedStage, ...]] = {
        "fox": ("scrape", "explore", "train", "evaluate"),
        "owl": ("scrape", "train"),
    }
    found = estimate(tags, SETTINGS, rates(), Prices(), done)
    assert [stage.images for stage in found.stages] == [1000, 2000, 640, 2000]
    told = sentences(found, SETTINGS, board="a board", sent=6)
    assert (
        "Of 3 tags 2 scraped, 1 explored, 2 trained, 1 evaluated already: that is taken off."
    ) in told


def test_money_is_told_of_prices_that_are_given_alone() -> None:
    assert [stage.money for stage in made(MANY).stages] == [None] * 4
    assert made(MANY).month is None
    prices = Prices(gpu_hour=2.0, gb_month=0.5, put=0.005)
    found = made(MANY, prices=prices)
    scrape, _, train, evaluate = found.stages
    assert scrape.money == pytest.approx(scrape.puts / 1000 * 0.005)
    assert train.money == pytest.approx(train.gpu_hours * 2 + train.puts / 1000 * 0.005)
    assert evaluate.money == pytest.approx(evaluate.puts / 1000 * 0.005)
    assert found.month == pytest.approx(1000 * 1e6 / 1e9 * 0.5)
    rest = made(MANY, prices=Prices(cpu_hour=3.0, gb_out=0.1, get=0.0004)).stages[3]
    expected = rest.processor_hours * 3 + rest.read / 1e9 * 0.1 + rest.gets / 1000 * 0.0004
    assert rest.money == pytest.approx(expected)


def test_a_scrape_takes_as_many_operations_on_storage_as_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tag, shade in (("fox", 0), ("owl", 128)):
        (tmp_path / "in" / tag).mkdir(parents=True)
        for number in range(60):
            picture = Image.effect_noise((80, 80), 50 + number + shade).convert("RGB")
            picture.save(tmp_path / "in" / tag / f"{number}.png")
    storage = Wrapped(LocalStorage(tmp_path / "out"))
    monkeypatch.setattr(scrape_job, "open_storage", lambda *_: storage)
    options = ["--storage", "x", "--tags", "fox", "--board", f"folder+{tmp_path / 'in'}"]
    options += ["--rating", "general,sensitive,questionable,explicit", "--log-level", "error"]
    assert scrape_job.main([*options, "--no-curate"]) == 0
    images = sum(1 for entry in storage.inner.list() if entry.key.endswith(".png"))
    told = made(Asked("fox", 60, fit=1.0), asks_nobody=True).stages[0]
    assert told.images == images == 120
    writes = storage.asked["change"] + storage.asked["list"]
    assert told.puts == pytest.approx(writes, rel=0.1)
    assert told.gets == pytest.approx(storage.asked["open"] + storage.asked["stat"], rel=0.25)


# --- Rates -------------------------------------------------------------------------------------


def test_without_earlier_work_all_rates_are_assumed() -> None:
    found = find_rates(None, "vgg19", {})
    on_features = find_rates(None, "vgg19", {}, features=True)
    assert set(found.of) | set(on_features.of) == set(RATES)
    assert "train_epochs" not in on_features.of
    assert "head_seconds_per_tag" not in found.of
    for each in (found, on_features):
        assert {rate.origin for rate in each.of.values()} == {"assumed"}
        assert each.gpu


def test_rates_of_features_are_those_of_earlier_embeds_and_heads(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    name = "mobilenet-160x160-0a1b2c3d"
    for worker, tag in enumerate(["fox", "owl"]):
        numbers: dict[str, Any] = {"images": 600, "pictures": 900, "places": 3600, "gpus": 2}
        write_beat(
            *(storage, tag, "embed", "done"),
            worker=worker,
            updated=ago(60),
            seconds=60.0,
            measured={**numbers, "devices": 2, "extractor": name, "embedding_seconds": 3.0},
        )
        head = {"images": 400, "model": "mobilenet", "extractor": name, "training_seconds": 0.5}
        write_beat(storage, tag, "train", "done", updated=ago(50), seconds=2.0, measured=head)
        scored = {"images": 500, "model": "mobilenet", "extractor": name}
        write_beat(storage, tag, "evaluate", "done", updated=ago(40), seconds=5.0, measured=scored)
    found = find_rates(storage, "mobilenet", {}, features=True)
    assert found["embed_images_per_second"] == pytest.approx(600 / (3 * 2))
    assert found["distinct_share"] == pytest.approx(0.25)
    assert found["head_seconds_per_tag"] == pytest.approx(2.0)
    assert found["evaluate_images_per_second"] == pytest.approx(100)
    assert found.of["embed_images_per_second"].origin == "measured"
    whole = find_rates(storage, "mobilenet", {})
    origins = {name: rate.origin for name, rate in whole.of.items()}
    assert set(origins.values()) == {"assumed"}, "of a head, which is no whole model"
    larger = "mobilenet-224x224-0a1b2c3d"
    exact = find_rates(storage, "mobilenet", {}, features=True, extractor=larger)
    assert exact.of["embed_images_per_second"].origin == "assumed", "of pictures of another size"
    other = find_rates(storage, "vgg19", {}, features=True)
    assert other.of["embed_images_per_second"].origin == "assumed"


def test_rates_are_those_of_earlier_work_in_this_storage(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    train = {"images": 400, "epochs": 20, "training_seconds": 100.0, "devices": 2, "gpus": 2}
    for tag, images in (("fox", 100), ("owl", 300)):
        numbers = {"images": images, "requests": images * 1.3, "bytes_per_image": 2e5, "copied": 0}
        write_beat(
            *(storage, tag, "scrape", "done"),
            updated=ago(60),
            seconds=90.0,
            processor_seconds=images * 0.05,
            measured=numbers,
        )
        write_beat(
            *(storage, tag, "train", "done"),
            updated=ago(60),
            seconds=130.0,
            measured=train | {"model": "vgg19"},
        )
    few = {"images": 3, "requests": 90, "bytes_per_image": 1}
    write_beat(storage, "elk", "scrape", "done", updated=ago(9), seconds=5.0, measured=few)
    storage.write(".status/bad/scrape-0.done.json", b"{")
    counted = Wrapped(storage)
    found = find_rates(counted, "vgg19", {"train_epochs": 7.0})
    assert found["requests_per_image"] == pytest.approx(1.3)
    assert found["bytes_per_image"] == pytest.approx(2e5)
    assert found["scrape_processor_seconds_per_image"] == pytest.approx(0.05)
    assert found["train_images_per_second"] == pytest.approx(400 * 20 / (100 * 2))
    assert (found.of["train_epochs"].origin, found["train_epochs"]) == ("given", 7.0)
    assert found.of["requests_per_image"].why == "here, over 2 tags"
    assert found.of["evaluate_images_per_second"].origin == "assumed"
    assert (found.gpu, counted.asked["list"], counted.asked["open"]) == (True, 1, 6)
    assert find_rates(storage, "mobilenet", {}).of["train_epochs"].origin == "assumed"


def test_of_many_tags_some_are_read(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for number in range(100):
        measured = {"images": 100, "bytes_per_image": 5e5}
        write_beat(
            *(storage, f"tag_{number}", "scrape", "done"),
            updated=ago(9),
            seconds=5.0,
            measured=measured,
        )
    counted = Wrapped(storage)
    assert find_rates(counted, "vgg19", {})["bytes_per_image"] == 5e5
    assert counted.asked["open"] <= 40


@pytest.mark.parametrize("text", ["epochs=3", "train_epochs", "train_epochs=0", "train_epochs=x"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--rates"):
        read_given([text])


# --- The command -------------------------------------------------------------------------------


def text(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_plan_of_features_is_of_the_network_in_storage_or_says_what_it_assumes(
    tmp_path: Path,
) -> None:
    storage = LocalStorage(tmp_path)
    found = find_network(storage, "latest", "vgg19")
    assert (found.model, found.extractor) == ("vgg19", "")
    assert found.told.startswith("vgg19, which is assumed: there is no extractor in ")
    record = make_record(model="mobilenet", image_size=(160, 160))
    storage.write(f".features/{record.name}/extractor.json", record.model_dump_json().encode())
    storage.write(".features/LATEST", record.name.encode())
    for name in ("latest", record.name):
        found = find_network(storage, name, "vgg19")
        assert (found.model, found.extractor) == ("mobilenet", record.name)
        assert found.told == f"{record.name}, as it is in {storage.url}"
    assert find_network(storage, "resnet50-1", "vgg19").told.startswith(
        "vgg19, which is assumed: there is no extractor 'resnet50-1' in "
    )
    given = find_network(storage, "latest", "xception", is_given=True)
    assert (given.model, given.extractor) == ("xception", "")
    storage.write(".features/LATEST", b"no/name")
    assert "which is assumed" in find_network(storage, "latest", "vgg19").told


def test_the_command_plans_for_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tag in ("fox", "owl"):
        (tmp_path / tag).mkdir()
        Image.new("RGB", (100, 100), (9, len(tag), ord(tag[0]))).save(tmp_path / tag / "a.png")
        (tmp_path / tag / "a.json").write_text('{"rating": "general"}')
    options = ["--tags", "fox,fxo", "--board", f"folder+{tmp_path}"]
    assert plan_job.main(options) == 0
    printed = capsys.readouterr().out
    assert "there are no pictures of it; did you mean fox?" in printed
    assert f"folder:{tmp_path.name} took no request. Negatives are other pictures of it." in printed
    assert "the board" not in printed
    assert "post" not in printed
    assert "assumed: " in printed
    assert "money" not in printed  # no price is invented
    assert plan_job.main([*options, "--json", "--price-gpu-hour", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [tag["positives"] for tag in found["tags"]] == [1, 0]
    assert found["stages"][2]["money"] > 0
    assert found["requests_made"] == 0
    assert plan_job.main(["--tags", "fxo", "--board", f"folder+{tmp_path}"]) == 3
    capsys.readouterr()
    assert plan_job.main([*options, "--features", "latest"]) == 0
    assert "features: of vgg19, which is assumed: without --storage it is" in text(capsys)
    assert plan_job.main([*options, "--storage", "s3://"]) == 0  # without what was measured
    assert "what was measured there is not known" in capsys.readouterr().err


def test_out_of_fold_the_threshold_is_chosen_on_the_whole_train_split() -> None:
    given: dict[str, Any] = {"tags": ("fox",), "threshold_fraction": 0.3}
    assert plan_job.PlanSettings(**given).share_for_threshold == 0.3
    given["threshold_from"] = "out-of-fold"
    assert plan_job.PlanSettings(**given, features="latest").share_for_threshold == 1.0
    with pytest.raises(UsageError, match="goes with --features alone"):
        plan_job.PlanSettings(**given)
