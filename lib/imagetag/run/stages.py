"""The stages of a pipeline, made of its settings: which jobs, with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagetag.errors import UsageError
from imagetag.job import arguments, make_settings, nested, option_name
from imagetag.run.pipeline import Stage
from imagetag.run.settings import PipelineSettings

# What each process of a stage is given by itself.
_OF_A_PROCESS = frozenset({"tag", "tags", "tags_file"})
# What embed decides of heads on features, and its option.
_DECIDED = {
    "model": "--features",
    "weights": "--embed.weights",
    "image_size": "--embed.image-size",
    "resize": "--embed.resize",
}
_COMMON = frozenset(
    {"--board", "--features", "--input", "--output", "--storage", "--tags", "--tags-file"}
)


def stages(settings: PipelineSettings, tags: Sequence[str], scratch: Path) -> list[Stage]:
    """Return the stages, whose settings are judged now.

    Args:
        settings: of all.
        tags: that the first stage is for.
        scratch: a folder for the tags that each is for.

    Raises:
        UsageError: if a setting of any stage is wrong.

    """

    def listed(tags: Sequence[str]) -> list[str]:
        """Put the tags into a file: there may be many, and a comma in one."""
        path = scratch / "tags.txt"
        path.write_text("".join(f"{tag}\n" for tag in tags), encoding="utf-8")
        return [f"--tags-file={path}"]

    def stage(job: str, *, at_once: bool = False, for_all: bool = False, **ours: Any) -> Stage:
        checked = of_job(settings, job, tags, **ours)
        argv, secrets = arguments(checked, _OF_A_PROCESS)
        called = called_here(settings, job)
        return Stage(job, argv, listed, secrets, at_once=at_once, for_all=for_all, called=called)

    found = [stage("scrape", board=settings.board), stage("explore")]
    if settings.on_features:
        _check_heads(settings)
        found.append(stage("embed", at_once=True, extractor=settings.features))
    # Embed has made its extractor the latest.
    found.append(stage("train", features="latest" if settings.on_features else "no"))
    found.append(stage("evaluate"))
    if settings.input:
        ours: dict[str, Any] = {"tag": "", "board": "", "query": "", "limit": None}
        ours |= {"input": settings.input, "output": str(settings.predictions), "layout": "long"}
        found.append(stage("predict", for_all=True, **ours))
    report = of_job(settings, "report", tags, output=None)
    argv, secrets = arguments(report, _OF_A_PROCESS)
    # Of all tags in storage: what earlier runs have made there is compared too.
    found.append(Stage("report", argv, lambda _: [], secrets, for_all=True))
    return found


def of_job(settings: PipelineSettings, job: str, tags: Sequence[str], **ours: Any) -> Any:
    """Return the settings of a job, of its own class: what is said of it, and what all have.

    Raises:
        UsageError: if one is wrong; it is called as in the command that runs the pipeline.

    """
    settings_class = nested(type(settings))[job].settings_class
    of_all: dict[str, Any] = {"storage": settings.where, "tags": tuple(tags), "tags_file": None}
    of_all |= {"shard_index": 0, "shard_count": 1, "log_level": "info"}
    given = {**_given(settings, job), **of_all, **ours}
    try:
        return make_settings(settings_class, given, prefix=f"{job}.")
    except UsageError as error:
        text = str(error).replace("--train.features", "--features")
        raise UsageError(text.replace("--embed.extractor", "--features")) from error


def _given(settings: PipelineSettings, job: str) -> Mapping[str, Any]:
    """Return what is said of a job alone."""
    found: Mapping[str, Any] = getattr(settings, job)
    return found


def called_here(settings: PipelineSettings, job: str) -> dict[str, str]:
    """Return what the options are called here that a job's advice names: its own come first."""
    of_jobs = nested(type(settings))
    if not settings.on_features:
        del of_jobs["embed"]
    order = [job, *(other for other in of_jobs if other != job)]
    found: dict[str, str] = {}
    for owner in order:
        for name in of_jobs[owner].fields():
            found.setdefault(option_name(name), option_name(f"{owner}.{name}"))
    called = {option: name for option, name in found.items() if option not in _COMMON}
    if settings.on_features:
        called |= {option_name(name): of_embed for name, of_embed in _DECIDED.items()}
    return called | {"--extractor": "--features"}


def _check_heads(settings: PipelineSettings) -> None:
    """Check that nothing is said to train that embed decides.

    Raises:
        UsageError: if something is.

    """
    given = _given(settings, "train")
    for name, embed in _DECIDED.items():
        if name in given:
            raise UsageError(
                f"{option_name(f'train.{name}')} does not go with --features: {embed} says it of "
                "the network that all tags share"
            )
