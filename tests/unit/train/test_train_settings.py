"""The train job's settings: presets, and the addresses of workers."""

from __future__ import annotations

from typing import Any

import pytest

from imagetag.errors import UsageError
from imagetag.job.command_line import parse_settings
from jobs.train import PRESETS, TrainSettings


def settings(*argv: str) -> TrainSettings:
    common = ["--storage", "data", "--tags", "fox"]
    return parse_settings(TrainSettings, [*common, *argv], command="train", summary="")


@pytest.mark.parametrize("name", ["original-alexnet", "original-vgg19"])
def test_a_preset_is_what_the_original_did(name: str) -> None:
    found = settings("--preset", name).with_preset()
    assert found.model == name.removeprefix("original-")
    assert (found.batch_size, found.image_size, found.resize) == (16, "1500x1000", "stretch")
    assert found.shear == 0.1  # degrees, where a tenth of a radian was meant
    assert (found.fine_tune_blocks, found.class_weights) == (0, "none")
    for field, value in PRESETS[name].items():
        assert getattr(found, field) == value


def test_what_is_given_wins_over_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGETAG_SHEAR", "5.73")  # as by default, but said
    found = settings("--preset", "original-vgg19", "--image-size", "auto").with_preset()
    assert (found.image_size, found.shear, found.resize) == ("auto", 5.73, "stretch")


def test_without_a_preset_nothing_changes() -> None:
    assert settings().with_preset() == settings()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], []),
        (["--workers", "2", "--worker-addresses", "a:1,b:2"], ["a:1", "b:2"]),
        (
            ["--workers", "3", "--worker-addresses", "train-{index}.train:8470"],
            ["train-0.train:8470", "train-1.train:8470", "train-2.train:8470"],
        ),
    ],
)
def test_workers_have_an_address_each(argv: list[str], expected: list[str]) -> None:
    assert settings(*argv).addresses() == expected


@pytest.mark.parametrize(
    "argv",
    [
        ["--workers", "2"],
        ["--workers", "2", "--worker-addresses", "a:1"],
        ["--workers", "2", "--worker-addresses", "a:1,b:2,c:3"],
        ["--worker-addresses", "a:1,b:2"],
    ],
)
def test_too_few_or_too_many_addresses_are_one_line(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="--worker-addresses has"):
        settings(*argv).addresses()


def test_the_index_of_the_pod_is_that_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    options: list[Any] = ["--workers", "2", "--worker-addresses", "a:1,b:2"]
    assert settings(*options).worker_index == 1


def test_suspects_are_trained_on_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().exclude_suspects == "no"
    monkeypatch.setenv("IMAGETAG_EXCLUDE_SUSPECTS", "latest")
    assert settings().exclude_suspects == "latest"
    assert settings("--exclude-suspects", "some-run").exclude_suspects == "some-run"
