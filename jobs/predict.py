"""The predict job: score new images in bulk with a tag's trained classifier."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SecretStr

from imagetag.boards import Login, open_board
from imagetag.boards.linkfile import kind_of as list_kind
from imagetag.copies import Copies
from imagetag.errors import UsageError
from imagetag.fetched import FoundPosts, ListedUrls, read_query
from imagetag.http import Client
from imagetag.job import run_job
from imagetag.log import Progress, get_logger, working
from imagetag.outputs import CsvWriter, Kind, kind_of, shard_name
from imagetag.parts import Parts, Tally
from imagetag.quiet import quiet_imports
from imagetag.settings import (
    Contact,
    StorageSettings,
    allow_private_hosts_field,
    board_key_field,
    board_user_field,
    checked_tag,
    completion_index,
    concurrency_field,
    contact_field,
    ignore_robots_field,
    max_rate_field,
)
from imagetag.sources import Picture, Source, StoredPictures, place_of
from imagetag.storage import Storage, open_storage

if TYPE_CHECKING:
    from imagetag.decision import Decision
    from imagetag.runs import Run


class PredictSettings(StorageSettings):
    """Options of `imagetag predict`."""

    headings: ClassVar = {
        "Boards and downloads": (
            "board_user",
            "board_key",
            "max_rate",
            "concurrency",
            "contact",
            "ignore_robots",
            "allow_private_hosts",
        ),
        "Share of the images": ("shard_index", "shard_count"),
    }

    tag: str = Field(description="whose classifier")
    run: str = Field("latest", description="which run's model: its name, or latest")
    input: str = Field(
        "",
        description="the images: a folder or a storage URL, subfolders too; or a list of URLs "
        "(FILE.txt, or CSV, TSV, JSON lines, Parquet with a column url)",
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
    output: str = Field(
        "-",
        description="FILE.csv, FILE.jsonl or FILE.parquet, local or a storage URL; - is CSV to "
        "the terminal",
    )
    copy_to: str = Field(
        "", description="a folder or storage URL that gets a copy of each positive image"
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="from which probability on the decision is true; by default as evaluate chose",
    )
    batch_size: int = Field(32, ge=1, description="images the model takes at once")
    shard_index: int = Field(
        default_factory=lambda: completion_index(),
        ge=0,
        description="which share of the images is this pod's, from 0",
        json_schema_extra={"default": "JOB_COMPLETION_INDEX or 0"},
    )
    shard_count: int = Field(1, ge=1, description="how many pods share the images")
    max_rate: float = max_rate_field()
    concurrency: int = concurrency_field()
    contact: Contact = contact_field()
    ignore_robots: bool = ignore_robots_field()
    allow_private_hosts: bool = allow_private_hosts_field()


def work(settings: PredictSettings) -> None:
    """Predict this shard's images."""
    tag = checked_tag(settings.tag)
    _check(settings)
    kind = kind_of(settings.output)
    storage = open_storage(settings.storage)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(_scratch()))
        source = stack.enter_context(_source(settings, scratch))
        target = _opened("--copy-to", settings.copy_to) if settings.copy_to else None
        copies = stack.enter_context(Copies(source, target)) if target else None

        with quiet_imports():  # TensorFlow: not for --help
            from imagetag.decision import load_decision
            from imagetag.runs import load_run

        run = load_run(storage, tag, settings.run)
        decision = load_decision(storage, tag, run.run, run.created)
        predicting = _Predicting(settings, storage, run, decision, source, copies)
        if settings.output == "-":
            predicting.to_terminal()
            return
        parent, _, name = shard_name(
            settings.output, settings.shard_index, settings.shard_count
        ).rpartition("/")
        above = "/" if settings.output.startswith("/") else "."
        output = _opened("--output", parent or above)
        predicting.to_file(output, name, kind, target)


class _Predicting:
    """One run of the job, once all that it needs is open."""

    def __init__(
        self,
        settings: PredictSettings,
        storage: Storage,
        run: Run,
        decision: Decision | None,
        source: Source,
        copies: Copies | None,
    ) -> None:
        self._settings, self._storage, self._run = settings, storage, run
        self._decision, self._source, self._copies = decision, source, copies

    def to_terminal(self) -> None:
        """Write rows as they come."""
        tally = Tally()
        writer = CsvWriter(sys.stdout)
        pictures = filter(self._is_mine, self._source.pictures())
        try:
            for _, row in self._rows(pictures):
                writer.write(row)
                tally.count(row)
        except BaseException as error:
            error.add_note("rows on the terminal are not kept; run it again to have all of them")
            raise
        if self._copies is not None:
            self._copies.wait()
        self._tell(tally, "-")

    def to_file(self, output: Storage, name: str, kind: Kind, copied_to: Storage | None) -> None:
        """Write rows in parts, or go on with those that are there, and join them."""
        parts = Parts(
            output,
            name,
            self._request(kind, copied_to),
            batch=self._settings.batch_size,
            ready=lambda: self._copies.wait() if self._copies else None,
        )
        if about := parts.done(self._source, self._is_mine):
            get_logger().info(
                "already predicted",
                images=about.rows,
                positives=about.positives,
                output=f"{output.url}/{name}",
            )
            return
        try:
            for picture, row in self._rows(parts.remaining(self._source, self._is_mine)):
                parts.add(picture, row)
        except BaseException as error:
            rows = parts.save_at_last()
            error.add_note(f"{rows} rows are kept; run it again to go on")
            raise
        parts.finish(kind)
        self._tell(parts.tally, f"{output.url}/{name}", reused=parts.reused)

    def _rows(self, pictures: Iterator[Picture]) -> Iterator[tuple[Picture, Any]]:
        from imagetag.predict import RAW_THRESHOLD, judge_of, predict
        from imagetag.runs import load_model
        from imagetag.scoring import Scorer

        settings, run = self._settings, self._run
        threshold, promise = settings.threshold, self._decision and self._decision.promise
        if self._decision is None:
            get_logger().warning(
                "not evaluated: probabilities are the model's own; run imagetag evaluate",
                run=run.run,
                threshold=threshold or RAW_THRESHOLD,
            )
        elif promise and not promise.met and threshold is None:
            get_logger().warning(
                "evaluate could promise no precision at this threshold",
                run=run.run,
                min_precision=promise.min_precision,
                bound=round(promise.bound, 4),
            )
        resize = run.resize  # which may be none that this version knows
        with working("loading the model"), _scratch() as scratch:
            model = load_model(self._storage, run, Path(scratch))
        # Files that are here are decoded as the processors can; on others, one waits.
        threads = None if self._source.local else settings.concurrency
        scorer = Scorer(model, run.image_size, resize, settings.batch_size, threads=threads)
        judge = judge_of(self._decision, threshold)
        with Progress("predict", bar=not self._shows_rows()) as progress:
            for picture, row in predict(scorer, judge, self._source, pictures):
                if row.decision and self._copies is not None:
                    self._copies.add(picture)
                else:
                    self._source.forget(picture)
                yield picture, row
                progress.advance()

    def _shows_rows(self) -> bool:
        return self._settings.output == "-" and sys.stdout.isatty()

    def _is_mine(self, picture: Picture) -> bool:
        """Tell whether a picture is this shard's: by its name, whatever else is there."""
        count = self._settings.shard_count
        if count == 1:
            return True
        digest = hashlib.sha256(picture.name.encode(errors="replace")).digest()
        return int.from_bytes(digest[:8], "big") % count == self._settings.shard_index

    def _request(self, kind: Kind, copied_to: Storage | None) -> dict[str, Any]:
        """Return what decides the rows, and where they and their pictures go."""
        decided = None if self._decision is None else self._decision.model_dump_json()
        return {
            "tag": self._run.tag,
            "run": self._run.run,
            "trained": self._run.created,
            "decision": decided and hashlib.sha256(decided.encode()).hexdigest(),
            "threshold": self._settings.threshold,
            "input": dict(self._source.identity),
            "shard": [self._settings.shard_index, self._settings.shard_count],
            "copy_to": copied_to and place_of(copied_to),
            "kind": kind,
        }

    def _tell(self, tally: Tally, output: str, **more: int) -> None:
        get_logger().info(
            "predicted",
            tag=self._run.tag,
            run=self._run.run,
            images=tally.rows,
            positives=tally.positives,
            errors=tally.errors.total(),
            output=output,
            **({"reasons": dict(tally.errors)} if tally.errors else {}),
            **more,
        )


def _check(settings: PredictSettings) -> None:
    if settings.shard_index >= settings.shard_count:
        raise UsageError(
            f"--shard-index {settings.shard_index} (or JOB_COMPLETION_INDEX) must be below "
            f"--shard-count {settings.shard_count} (IMAGETAG_SHARD_COUNT)"
        )
    if bool(settings.input) == bool(settings.board):
        what = "not both" if settings.input else "and one is needed"
        raise UsageError(
            f"take images from --input {settings.input!r} or from --board {settings.board!r}, "
            f"{what} (IMAGETAG_INPUT, IMAGETAG_BOARD)"
        )
    if settings.input and (settings.query or settings.limit):
        raise UsageError(
            f"--query {settings.query!r} and --limit {settings.limit} are of a --board's search, "
            "and images come from --input: leave them out (IMAGETAG_QUERY, IMAGETAG_LIMIT)"
        )
    if settings.board and not (settings.query or settings.limit):
        raise UsageError(
            f"--board {settings.board}: say --query TAGS, or --limit N for the newest of all posts"
        )


@contextlib.contextmanager
def _source(settings: PredictSettings, scratch: Path) -> Iterator[Source]:
    """Give the pictures, and leave nothing running of what fetches them."""
    is_list = list_kind(settings.input) is not None and not Path(settings.input).is_dir()
    if settings.input and not is_list:
        yield StoredPictures(_opened("--input", settings.input, settings.concurrency))
        return
    keep = scratch if settings.copy_to else None
    client = Client(
        rate=settings.max_rate,
        shard_index=settings.shard_index,
        shard_count=settings.shard_count,
        concurrency=settings.concurrency + 1,  # the downloads, and the listing
        contact=settings.contact,
        allow_private_hosts=settings.allow_private_hosts,
        obey_robots=not settings.ignore_robots,
    )
    try:
        if settings.input:
            yield ListedUrls(settings.input, client, keep)
        else:
            query = read_query(settings.query)
            login = Login(settings.board_user, settings.board_key.get_secret_value())
            board = open_board(settings.board, client, login)
            yield FoundPosts(board, query, settings.limit, keep)
    finally:
        client.stop()


def _opened(option: str, url: str, concurrency: int = 16) -> Storage:
    try:
        return open_storage(url, concurrency)
    except UsageError as error:  # it takes what it is given for --storage
        raise UsageError(str(error).replace("--storage", option, 1)) from error


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="imagetag-predict-")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "rows in OUTPUT.parts are kept; run it again to go on"
    return run_job("predict", str(__doc__), PredictSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
