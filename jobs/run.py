"""The run job: all jobs for the tags on this machine, one after the other."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TextIO

from pydantic import Field

from imagetag.boards import check_board
from imagetag.checks import LEAST_SIDES, is_alexnet, shown_url
from imagetag.errors import ImagetagError, InputError, UsageError
from imagetag.job import (
    SHORT_OF,
    FilePath,
    FilePlace,
    FolderPath,
    FolderPlace,
    JobSettings,
    OptionsOf,
    Settings,
    StorageSettings,
    TagSettings,
    TagsSettings,
    Takes,
    arguments,
    env_name,
    make_settings,
    nested,
    option_name,
    run_job,
)
from imagetag.log import get_logger
from imagetag.run import (
    Pipeline,
    Stage,
    check_imagenet,
    check_reachable,
    is_json,
    open_view,
    read_file,
    renamed,
)
from imagetag.sentences import counted
from imagetag.storage import open_storage
from jobs.embed import EmbedSettings
from jobs.evaluate import EvaluateSettings
from jobs.explore import ExploreSettings
from jobs.predict import PredictSettings
from jobs.report import ReportSettings
from jobs.scrape import ScrapeSettings
from jobs.train import TrainSettings

if TYPE_CHECKING:
    from imagetag.report import TagEntry

_OURS = frozenset(TagSettings.model_fields)
# What each process of a stage is given by itself.
_OF_A_PROCESS = frozenset({"tag", "tags", "tags_file"})
_AT_ONCE = 16  # tags that are read for the index page
NO_KEYS = frozenset({"file", *JobSettings.model_fields})  # what a file has no key for


def _options(settings_class: type[StorageSettings], *without: str) -> OptionsOf:
    """Return what takes a job's options, without those that all have in common."""
    return OptionsOf(settings_class, without=_OURS | set(without))


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


class RunSettings(TagsSettings):
    """Options of `imagetag run`.

    What the jobs have in common is an option once; those of one job have its name before them.
    """

    headings: ClassVar = {
        "Options of the jobs, such as --train.model mobilenet; imagetag JOB --help lists them": (
            "scrape",
            "explore",
            "embed",
            "train",
            "evaluate",
            "report",
            "predict",
        )
    }

    file: FilePath | None = Field(
        None,
        description="a TOML file of settings, as imagetag init writes it",
        json_schema_extra={"positional": True},
    )
    board: str = Field(
        "safebooru",
        description="where the images come from, as scrape takes it: a board by its name; "
        "ENGINE+URL; folder+PATH, a folder with a sub-folder a tag; or links+FILE",
    )
    features: Annotated[FilePlace, Takes(words=("no", "latest", *LEAST_SIDES))] = Field(
        "no",
        description="embed each distinct picture once, for all tags, and train small heads on "
        "these features, no whole models: the network, as embed --extractor takes it, such as "
        "mobilenet, a file, or latest",
    )
    input: FilePlace = Field(
        "",
        description="new images to predict with the classifiers: a folder, a storage URL, or a "
        "list of URLs; none are predicted by default",
    )
    output: FolderPath = Field(
        Path("imagetag-output"),
        description="the folder on this machine for predictions, logs, and storage by default",
    )
    storage: FolderPlace = Field(
        "",
        description="where data lives: s3://bucket/prefix or a local folder",
        json_schema_extra={"default": "storage in --output"},
    )
    scrape: Annotated[dict[str, Any], _options(ScrapeSettings, "board", "retry_failed")] = Field(
        {}, description="of imagetag scrape"
    )
    explore: Annotated[dict[str, Any], _options(ExploreSettings)] = Field(
        {}, description="of imagetag explore"
    )
    embed: Annotated[dict[str, Any], _options(EmbedSettings, "extractor")] = Field(
        {}, description="of imagetag embed, with --features"
    )
    train: Annotated[dict[str, Any], _options(TrainSettings, "features")] = Field(
        {}, description="of imagetag train"
    )
    evaluate: Annotated[dict[str, Any], _options(EvaluateSettings)] = Field(
        {}, description="of imagetag evaluate"
    )
    report: Annotated[dict[str, Any], _options(ReportSettings, "output")] = Field(
        {}, description="of imagetag report"
    )
    predict: Annotated[
        dict[str, Any],
        _options(PredictSettings, "tag", "input", "output", "layout", "board", "query", "limit"),
    ] = Field({}, description="of imagetag predict")

    @property
    def on_features(self) -> bool:
        """Whether heads are trained on features, and no whole models."""
        return self.features != "no"

    @property
    def where(self) -> str:
        """The storage."""
        return self.storage or str(self.output / "storage")

    @property
    def predictions(self) -> Path:
        """The file of predictions."""
        return self.output / "predictions.csv"


@dataclass(frozen=True)
class Outcome:
    """What came out: what there is of each tag, the index page, and the error if any failed."""

    entries: Sequence[TagEntry]
    index: str
    error: ImagetagError | None


def with_file(settings: RunSettings) -> RunSettings:
    """Return the settings with what their file has, where neither option nor variable says else.

    Raises:
        UsageError: if the file is wrong.

    """
    if settings.file is None:
        return settings
    found = read_file(settings.file, RunSettings, NO_KEYS)
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    for job in nested(RunSettings):
        # A variable of the job itself, such as IMAGETAG_EPOCHS, wins too.
        table = {
            name: value
            for name, value in found.pop(job, {}).items()
            if not os.environ.get(env_name(name), "").strip()
        }
        given[job] = {**table, **getattr(settings, job)}
    try:
        return make_settings(RunSettings, given, file=found)
    except UsageError as error:  # all else was judged when it was read
        raise UsageError(f"{settings.file}: {error}") from error


def run_all(settings: RunSettings, *, serve: str = "") -> Outcome:
    """Run all jobs, show how it goes, and make the index page.

    Args:
        settings: with what a file says.
        serve: the command that serves the board, where it is one of this machine.

    Raises:
        UsageError: if a setting of any stage is wrong: before the first starts.
        TransientError: if training starts from weights that cannot be fetched: likewise.

    """
    tags = settings.all_tags()
    with tempfile.TemporaryDirectory(prefix="imagetag-run-") as scratch:
        planned = stages(settings, tags, Path(scratch))
        with _open_log(settings.output) as log, open_view(settings.log_format) as view:
            path = Path(log.name)
            check_network(settings)
            pipeline = Pipeline(view, log)
            pipeline.run(planned, tags)

    from imagetag.report import make_index, read_entry, read_predictions, tags_of_leaderboard

    storage = open_storage(settings.where)
    failed = {tag: f"{why.job} failed: {why.reason}" for tag, why in pipeline.failed.items()}
    ours = set(tags)
    others = [tag for tag in tags_of_leaderboard(storage) if tag not in ours]

    predicted = read_predictions(settings.predictions)

    def read(tag: str) -> TagEntry:
        return read_entry(storage, tag, predictions=predicted.get(tag), failed=failed.get(tag, ""))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="index") as pool:
        entries = list(pool.map(read, (*tags, *others)))
    # Not Path.is_dir, which fails of a URL that is too long for a file's name.
    pictures = Path(settings.input) if os.path.isdir(settings.input) else None  # noqa: PTH112
    index = make_index(
        storage,
        entries,
        pictures=pictures,
        serve=serve,
    )
    storage.tidy()
    return Outcome(entries[: len(tags)], index, _error(pipeline, tags, path))


def _open_log(output: Path) -> TextIO:
    logs = output / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / f"{datetime.now().astimezone():%Y-%m-%dT%H%M%S}.jsonl"
        return path.open("a", encoding="utf-8")
    except OSError as error:
        if error.errno in SHORT_OF:
            raise
        raise UsageError(f"--output {output} cannot be written: {error}") from error


def tell(outcome: Outcome, settings: RunSettings) -> None:
    """Show what came out: a table for people, lines of the log for programs."""
    if is_json(settings.log_format):
        for entry in outcome.entries:
            get_logger().info("result", **_fields(entry, settings))
        get_logger().info("finished", index=outcome.index)
        return
    rows = [("tag", "images", "promise", "precision", "recall", "page")]
    for entry in outcome.entries:
        fields = _fields(entry, settings)
        precision, recall = (_number(fields[name]) for name in ("precision", "recall"))
        page = fields["page"] or entry.note
        if entry.failed:
            page = f"failed, see above{'; before: ' + page if fields['page'] else ''}"
        promise = entry.promise or "-"
        rows.append((entry.tag, _number(entry.images), promise, precision, recall, page))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    _say("")
    for row in rows:
        cells = [f"{row[0]:{widths[0]}}", f"{row[1]:>{widths[1]}}", f"{row[2]:{widths[2]}}"]
        cells += [f"{row[column]:>{widths[column]}}" for column in (3, 4)]
        _say("  ".join([*cells, row[5]]))
    # Those of an earlier run are told by the page alone.
    entries = outcome.entries if settings.input else ()
    predicted = [(entry.tag, entry.predictions) for entry in entries if entry.predictions]
    if predicted:
        _say("")
    for tag, found in predicted:
        _say(f"{tag}: in {found.positives:,} of {found.rows:,} new pictures; rows: {found.path}")
    _say(f"\nAll pages: {outcome.index}")


def work(settings: RunSettings) -> None:
    """Run the pipeline.

    Raises:
        ImagetagError: at the end, if a tag failed.

    """
    settings = with_file(settings)
    check_input(settings)
    check_board(settings.board)
    outcome = run_all(settings)
    try:
        tell(outcome, settings)
    finally:  # nobody may read to the end
        if outcome.error is not None:
            raise outcome.error


def check_input(settings: RunSettings) -> None:
    """Check what is to be predicted now: no job looks at it before all tags are trained.

    Raises:
        UsageError: if a path is not there.

    """
    if Path(settings.input).exists():  # there may be a comma in its name
        return
    for text in settings.input.split(","):
        if "://" not in text and not Path(text).expanduser().exists():
            raise UsageError(f"--input {shown_url(text)}: there is no such file or folder")


def check_network(settings: RunSettings) -> None:
    """Check the network that all tags are trained on: scrape may take an hour before they are.

    Raises:
        UsageError: if a setting of it is wrong.
        TransientError: if its weights are not here, and cannot be fetched.
        InputError: if it should be in storage, and is not.

    """
    tags = settings.all_tags()
    storage = open_storage(settings.where)
    try:
        if settings.on_features:
            from imagetag.embed import network_of, stored_extractor  # NumPy

            network = network_of(
                _of_job("embed", EmbedSettings, settings, tags, extractor=settings.features)
            )
            known = stored_extractor(storage, network)
            if known is None and network.needs_imagenet:
                check_reachable(network.extractor)
        else:
            train = _of_job("train", TrainSettings, settings, tags).with_preset()
            if train.weights in ("auto", "imagenet") and not is_alexnet(train.model):
                check_imagenet(train.model, storage, tags)
    except ImagetagError as error:
        called = _called("embed" if settings.on_features else "train", settings)
        error.args = (renamed(str(error), called),)
        raise


def _of_job(
    job: str,
    settings_class: type[Settings],
    settings: RunSettings,
    tags: Sequence[str],
    **ours: Any,
) -> Settings:
    """Return the settings of a job: what is said of it, and what is ours for all of them."""
    of_all: dict[str, Any] = {"storage": settings.where, "tags": tuple(tags), "tags_file": None}
    of_all |= {"shard_index": 0, "shard_count": 1, "log_level": "info"}
    given = {**getattr(settings, job), **of_all, **ours}
    try:
        return make_settings(settings_class, given, prefix=f"{job}.")
    except UsageError as error:
        text = str(error).replace("--train.features", "--features")
        raise UsageError(text.replace("--embed.extractor", "--features")) from error


def stages(settings: RunSettings, tags: Sequence[str], scratch: Path) -> list[Stage]:
    """Return the stages, whose settings are judged now."""

    def listed(tags: Sequence[str]) -> list[str]:
        """Put the tags into a file: there may be many, and a comma in one."""
        path = scratch / "tags.txt"
        path.write_text("".join(f"{tag}\n" for tag in tags), encoding="utf-8")
        return [f"--tags-file={path}"]

    def stage(
        job: str,
        settings_class: type[JobSettings],
        *,
        at_once: bool = False,
        for_all: bool = False,
        **ours: Any,
    ) -> Stage:
        checked = _of_job(job, settings_class, settings, tags, **ours)
        argv, secrets = arguments(checked, _OF_A_PROCESS)
        called = _called(job, settings)
        return Stage(job, argv, listed, secrets, at_once=at_once, for_all=for_all, called=called)

    found = [
        stage("scrape", ScrapeSettings, board=settings.board),
        stage("explore", ExploreSettings),
    ]
    if settings.on_features:
        _check_heads(settings)
        found.append(stage("embed", EmbedSettings, at_once=True, extractor=settings.features))
    # Embed has made its extractor the latest.
    found.append(stage("train", TrainSettings, features="latest" if settings.on_features else "no"))
    found.append(stage("evaluate", EvaluateSettings))
    if settings.input:
        ours: dict[str, Any] = {
            "tag": "",
            "input": settings.input,
            "board": "",
            "query": "",
            "limit": None,
        }
        ours |= {"output": str(settings.predictions), "layout": "long"}
        found.append(stage("predict", PredictSettings, for_all=True, **ours))
    report = _of_job("report", ReportSettings, settings, tags, output=None)
    argv, secrets = arguments(report, _OF_A_PROCESS)
    # Of all tags in storage: what earlier runs have made there is compared too.
    found.append(Stage("report", argv, lambda _: [], secrets, for_all=True))
    return found


def _check_heads(settings: RunSettings) -> None:
    """Check that nothing is said to train that embed decides.

    Raises:
        UsageError: if something is.

    """
    for name, embed in _DECIDED.items():
        if name in settings.train:
            raise UsageError(
                f"{option_name(f'train.{name}')} does not go with --features: {embed} says it of "
                "the network that all tags share"
            )


def _called(job: str, settings: RunSettings) -> dict[str, str]:
    """Return what the options are called here that a job's advice names: its own come first."""
    of_jobs = nested(RunSettings)
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


def _error(pipeline: Pipeline, tags: Sequence[str], log: Path) -> ImagetagError | None:
    """Return the error of the exit code with which this run ends, None if all is well."""
    if not (code := pipeline.exit_code):
        return None
    wrong = [f"{tag} ({failed.job})" for tag, failed in pipeline.failed.items()]
    more = ", ..." if len(wrong) > 10 else ""
    what = f"{len(wrong)} of {counted(len(tags), 'tag')} failed: {', '.join(wrong[:10])}{more}"
    if not wrong:
        what = f"{pipeline.wrong[0].job} failed: {pipeline.wrong[0].reason}"
    error = InputError(f"{what}; all that was logged: {log}")
    error.exit_code = code
    return error


def _fields(entry: TagEntry, settings: RunSettings) -> dict[str, Any]:
    chosen = entry.evaluation and entry.evaluation.metrics.chosen
    return {
        "tag": entry.tag,
        "images": entry.images,
        "promise": entry.promise or None,
        "precision": chosen and chosen.precision.value,
        "recall": chosen and chosen.recall.value,
        "page": f"{settings.where}/{entry.page()}" if chosen else None,
        "failed": entry.failed or None,
    }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it is what this was run for


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "what is stored is kept; run it again to go on"
    return run_job("run", str(__doc__), RunSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
