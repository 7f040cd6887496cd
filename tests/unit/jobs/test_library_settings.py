"""What a job's options do not take, the library's functions do not either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from annotated_types import BaseMetadata
from pydantic import BaseModel, ValidationError

from imagetag.embed import Network, network_of
from imagetag.errors import UsageError
from imagetag.evaluate import evaluate_tag
from imagetag.explore.exploration import Options
from imagetag.runs import Request
from imagetag.scrape import scrape_tag
from imagetag.scrape.selection import Selection
from imagetag.storage.local import LocalStorage
from imagetag.train import Means, Training, train_tag
from jobs.embed import EmbedSettings
from jobs.evaluate import EvaluateSettings
from jobs.explore import ExploreSettings
from jobs.scrape import ScrapeSettings
from jobs.train import TrainSettings
from tests.builders.drawn import PICTURES, TAG, store


def bounds(model: type[BaseModel], name: str) -> list[Any]:
    return [each for each in model.model_fields[name].metadata if isinstance(each, BaseMetadata)]


@pytest.mark.parametrize(
    ("library", "job", "names"),
    [
        (Training, TrainSettings, Training.model_fields),
        (Network, EmbedSettings, Network.model_fields),
        (Request, EvaluateSettings, Request.model_fields),
        (Options, ExploreSettings, ("percentile", "samples")),
        (
            Selection,
            ScrapeSettings,
            {*Selection.model_fields}
            & {*ScrapeSettings.model_fields} - {"extensions", "max_bytes"},
        ),
        (Means, TrainSettings, Means.model_fields),
    ],
)
def test_the_bounds_are_those_of_the_options(
    library: type[BaseModel], job: type[BaseModel], names: tuple[str, ...]
) -> None:
    assert {name: bounds(library, name) for name in names} == {
        name: bounds(job, name) for name in names
    }


@pytest.mark.parametrize(
    ("settings", "given", "complaint"),
    [
        (Training, {"modl": "vgg19"}, "modl\n  Extra inputs"),
        (Training, {"model": "alexnet-smal"}, "did you mean alexnet-small"),
        (Training, {"image_size": "96"}, "such as 96x96"),
        (Training, {"learning_rate": -1.0}, "greater than 0"),
        (Request, {"minprecision": 0.9}, "minprecision\n  Extra inputs"),
        (Request, {"min_precision": 2.0}, "less than 1"),
    ],
)
def test_what_is_no_setting_is_told(
    settings: type[BaseModel], given: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        settings(**given)


def test_a_network_that_nothing_is_said_of_is_that_of_the_options() -> None:
    settings = EmbedSettings(storage="s")
    assert network_of(settings) == Network()
    assert Network().model_dump() == settings.model_dump(include=set(Network.model_fields))


def test_what_is_no_settings_at_all_is_told(tmp_path: Any) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(ValueError, match="instance of Training"):
        train_tag(storage, "fox", "vgg19")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="instance of Request"):
        evaluate_tag(storage, "fox", "latest", 0.9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_rate=0: take a number above 0"):
        scrape_tag(storage, "fox", max_rate=0)


@pytest.mark.parametrize(
    "given",
    [
        {"image_size": "16x64"},
        {"model": "alexnet", "weights": "imagenet"},
        {"model": "alexnet", "freeze_backbone": "yes"},
        {"model": "alexnet", "head": "fitted"},
        {"model": "alexnet", "mirror": "yes"},
        {"packed": "latest", "head": "fitted"},
        {"micro_batch": 5},
        {"threshold_from": "out-of-fold"},
    ],
)
def test_what_does_not_go_together_is_told_alike(given: dict[str, Any], tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    store(tmp_path, PICTURES[:24])
    with pytest.raises(UsageError) as of_the_job:
        TrainSettings(storage="data", **given)
    means = {name: given.pop(name) for name in ("micro_batch",) if name in given}
    with pytest.raises(UsageError) as of_the_library:
        train_tag(storage, TAG, given, means={"cache_folder": tmp_path / "cache", **means})
    assert str(of_the_library.value) == str(of_the_job.value)
