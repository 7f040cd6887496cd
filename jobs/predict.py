"""The predict job: score new images in bulk with a tag's trained classifier."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from imagetag.boards import Login, open_board
from imagetag.checks import checked_run_name, shown_url
from imagetag.errors import InputError, UsageError
from imagetag.job import (
    BatchSettings,
    Contact,
    FilePlace,
    FolderPlace,
    Heartbeats,
    Places,
    TagsSettings,
    allow_private_hosts_field,
    board_key_field,
    board_user_field,
    check_share,
    checked_tag,
    concurrency_field,
    contact_field,
    ignore_robots_field,
    max_rate_field,
    option_name,
    pod_index_field,
    run_job,
)
from imagetag.predict import (
    MOST_ADVISED,
    AdviceAsked,
    Copies,
    FoundPosts,
    PredictionRun,
    Shape,
    Sidecars,
    Source,
    is_fetched,
    kind_of,
    may_be_fetched,
    open_inputs,
    read_query,
    shard_name,
)
from imagetag.storage import open_storage
from imagetag.web import Client


class PredictSettings(TagsSettings, BatchSettings):
    """Options of `imagetag predict`."""

    headings: ClassVar = {
        "Decisions, and what they are worth": ("threshold", "advice"),
        "Boards and downloads": (
            "board_user",
            "board_key",
            "max_rate",
            "concurrency",
            "contact",
            "ignore_robots",
            "allow_private_hosts",
        ),
        "Copies and sidecars of positives": ("copy_to", "sidecars", "sidecars_folder"),
        "Speed and shares": ("batch_size", "shard_index", "shard_count"),
    }

    tag: str = Field(
        "", description="one tag, whose classifier alone is asked: it wins over the others"
    )
    run: Annotated[str, AfterValidator(checked_run_name)] = Field(
        "latest", description="which run's model: its name, or latest"
    )
    input: Places = Field(
        (),
        description="the images: files, folders and storage URLs, subfolders too; URLs; lists of "
        "URLs (FILE.txt, or CSV, TSV, JSON lines, Parquet with a column url); - is a list of paths "
        "and URLs on standard input; several by commas, or by the option again",
    )
    board: str = Field(
        "",
        description="search a board instead, by its name or ENGINE+URL, as scrape takes it",
    )
    query: str = Field(
        "",
        description="tags of the posts to search for; -tag and rating:NAME work too",
    )
    limit: int | None = Field(
        None, ge=1, description="how many of the newest posts; by default all that are found"
    )
    board_user: str = board_user_field()
    board_key: SecretStr = board_key_field()
    output: FilePlace = Field(
        "-",
        description="FILE.csv, FILE.jsonl or FILE.parquet, local or a storage URL; - is CSV to "
        "the terminal",
    )
    layout: Shape = Field(
        "long",
        description="long is a row an image and tag; wide a row an image, with two columns a tag, "
        "probability:TAG and decision:TAG",
    )
    copy_to: FolderPlace = Field(
        "", description="a folder or storage URL that gets a copy of each positive image"
    )
    sidecars: Literal["none", "hydrus", "kohya"] = Field(
        "none",
        description="write the tags that an image has beside it, adding to what is there: as "
        "hydrus reads them (a.png.txt, a tag a line), or kohya (a.txt, a line with commas)",
    )
    sidecars_folder: FolderPlace = Field(
        "", description="a folder or storage URL that gets them instead: for images of servers"
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="from which probability on the decision is true; by default as evaluate chose",
    )
    advice: AdviceAsked = Field(
        "auto",
        description="estimate how many of the images have each tag, and whether the threshold "
        f"keeps the promised precision among them; auto does it for up to {MOST_ADVISED} tags",
    )
    batch_size: int = Field(32, ge=1, description="images the model takes at once")
    shard_index: int = pod_index_field("which share of the images is this pod's")
    shard_count: int = Field(1, ge=1, description="how many pods share the images")
    max_rate: float = max_rate_field()
    concurrency: int = concurrency_field()
    contact: Contact = contact_field()
    ignore_robots: bool = ignore_robots_field()
    allow_private_hosts: bool = allow_private_hosts_field()

    def __init__(self, **given: Any) -> None:
        # What is given wins over variables, also over that of the other option.
        several = [name for name in ("tags", "tags_file") if given.get(name)]
        if several and given.get("tag"):
            raise UsageError(
                f"--tag {given['tag']} and {option_name(several[0])} {given[several[0]]}: give one"
            )
        none: dict[str, Any] = {"tag": ""} if several else {}
        super().__init__(**{**none, **given})

    def all_tags(self) -> list[str]:
        """Return every tag asked for, in order and once each, as the base class says."""
        return [checked_tag(self.tag)] if self.tag else super().all_tags()


def work(settings: PredictSettings) -> None:
    """Predict this shard's images."""
    from imagetag.runs import find_runs  # numpy: not for --help

    tags = settings.all_tags()
    _check(settings, tags)
    kind = kind_of(settings.output)
    storage = open_storage(settings.storage, existing=True)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="imagetag-predict-")))
        source = stack.enter_context(_source(settings, scratch))
        copies = sidecars = None
        if settings.copy_to:
            target = open_storage(settings.copy_to, option="--copy-to")
            stack.callback(target.tidy)
            copies = stack.enter_context(Copies(source, target))
        if settings.sidecars != "none":
            folder = settings.sidecars_folder
            beside = open_storage(folder, option="--sidecars-folder") if folder else None
            sidecars = Sidecars(settings.sidecars, source, beside)
        runs, failed = find_runs(storage, tags, settings.run)
        predicting = PredictionRun(
            storage,
            runs,
            source,
            copies,
            sidecars,
            scratch,
            shape=settings.layout,
            threshold=settings.threshold,
            batch_size=settings.batch_size,
            concurrency=settings.concurrency,
            shard=(settings.shard_index, settings.shard_count),
            advice=settings.advice,
        )
        if settings.output == "-":
            predict = predicting.to_terminal
        else:
            parent, _, name = shard_name(
                settings.output, settings.shard_index, settings.shard_count
            ).rpartition("/")
            above = "/" if settings.output.startswith("/") else "."
            output = open_storage(parent or above, option="--output")
            predict = functools.partial(predicting.to_file, output, name, kind)
        heartbeats = Heartbeats(storage, "predict", worker=settings.shard_index)
        with heartbeats, heartbeats.of(*(run.tag for run in runs)):
            predict()
    if failed:
        names = ", ".join(failed[:10]) + (", ..." if len(failed) > 10 else "")
        raise InputError(f"{len(failed)} of {len(tags)} tags have no row: {names}")


def _check(settings: PredictSettings, tags: Sequence[str]) -> None:
    check_share(settings.shard_index, settings.shard_count)
    shown, board = ",".join(map(shown_url, settings.input))[:200], shown_url(settings.board)
    if not (settings.input or settings.board):
        raise UsageError(
            "images from where? Give --input or --board (IMAGETAG_INPUT, IMAGETAG_BOARD)"
        )
    if settings.input and settings.board:
        raise UsageError(
            f"take images from --input {shown!r} or from --board {board!r}, "
            "not both (IMAGETAG_INPUT, IMAGETAG_BOARD)"
        )
    if settings.input and (settings.query or settings.limit):
        raise UsageError(
            f"--query {settings.query!r} and --limit {settings.limit} are of a --board's search, "
            "and images come from --input: leave them out (IMAGETAG_QUERY, IMAGETAG_LIMIT)"
        )
    if settings.board and not (settings.query or settings.limit):
        raise UsageError(
            f"--board {board}: say --query TAGS, or --limit N for the newest of all posts"
        )
    if settings.input.count("-") > 1:
        raise UsageError("--input -: standard input can be read once")
    _check_sidecars(settings, tags)


def _check_sidecars(settings: PredictSettings, tags: Sequence[str]) -> None:
    if settings.sidecars == "none":
        if settings.sidecars_folder:
            raise UsageError(
                f"--sidecars-folder {settings.sidecars_folder}: say --sidecars hydrus or kohya too"
            )
        return
    if settings.sidecars == "kohya" and (bad := [tag for tag in tags if "," in tag]):
        raise UsageError(
            f"--sidecars kohya separates tags by commas, and {bad[0]!r} has one: take hydrus"
        )
    fetched = list(filter(is_fetched, settings.input))
    if not settings.sidecars_folder and (settings.board or fetched):
        of = shown_url(settings.board or fetched[0])
        raise UsageError(
            f"--sidecars {settings.sidecars}: the images of {of!r} are "
            "on others' servers; say with --sidecars-folder where their sidecars go"
        )


@contextlib.contextmanager
def _source(settings: PredictSettings, scratch: Path) -> Iterator[Source]:
    """Give the pictures, and leave nothing of what fetches them.

    Args:
        settings: which pictures.
        scratch: gets files that are fetched, where they are needed once more.

    """
    with contextlib.ExitStack() as stack:
        where = scratch if settings.copy_to else None
        client = None
        if settings.board or any(map(may_be_fetched, settings.input)):
            client = Client(
                rate=settings.max_rate,
                shard_index=settings.shard_index,
                shard_count=settings.shard_count,
                concurrency=settings.concurrency + 1,  # the downloads, and the listing
                contact=settings.contact,
                allow_private_hosts=settings.allow_private_hosts,
                obey_robots=not settings.ignore_robots,
            )
            stack.enter_context(client)
        if settings.board and client:
            query = read_query(settings.query)
            login = Login(settings.board_user, settings.board_key.get_secret_value())
            board = open_board(settings.board, client, login)
            yield FoundPosts(board, query, settings.limit, where)
            return
        concurrency = settings.concurrency
        yield open_inputs(settings.input, client, scratch, keep=where, concurrency=concurrency)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "rows in OUTPUT.parts are kept; run it again to go on"
    return run_job("predict", str(__doc__), PredictSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
