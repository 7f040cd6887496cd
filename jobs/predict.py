"""The predict job: score new images in bulk with a tag's trained classifier."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from imagetag.boards import Login, open_board
from imagetag.boards import kind_of as list_kind
from imagetag.checks import checked_run_name
from imagetag.dataset import check_run
from imagetag.errors import InputError, UsageError, one_line
from imagetag.job import (
    Contact,
    FilePlace,
    FolderPlace,
    Heartbeats,
    Places,
    StorageSettings,
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
from imagetag.layout import Layout, encode
from imagetag.log import Progress, get_logger
from imagetag.predict import (
    Copies,
    CsvWriter,
    FoundPosts,
    InTurn,
    Kind,
    ListedUrls,
    Named,
    Parts,
    Picture,
    Prediction,
    Several,
    Sidecars,
    Source,
    StoredPictures,
    Tally,
    grouped,
    in_groups,
    kind_of,
    named_like_a_picture,
    pictures_a_turn,
    place_of,
    read_query,
    shard_name,
    spooled,
)
from imagetag.quiet import quiet_imports
from imagetag.storage import LocalStorage, ObjectNotFound, Storage, open_storage
from imagetag.web import Client

if TYPE_CHECKING:
    from imagetag.predict import Classifier
    from imagetag.runs import Run

_WEB = ("http://", "https://")


class PredictSettings(TagsSettings, StorageSettings):
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
        "Copies and sidecars of positives": ("copy_to", "sidecars", "sidecars_folder"),
        "Share of the images": ("shard_index", "shard_count"),
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
    tags = settings.all_tags()
    _check(settings, tags)
    kind = kind_of(settings.output)
    storage = open_storage(settings.storage, existing=True)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(_scratch()))
        source = stack.enter_context(_source(settings, scratch, keep=len(tags) > 1))
        target = None
        if settings.copy_to:
            target = open_storage(settings.copy_to, option="--copy-to")
        copies = stack.enter_context(Copies(source, target)) if target else None
        sidecars = None
        if settings.sidecars != "none":
            folder = settings.sidecars_folder
            beside = open_storage(folder, option="--sidecars-folder") if folder else None
            sidecars = Sidecars(settings.sidecars, source, beside)
        runs, failed = _runs(storage, tags, settings.run)
        predicting = _Predicting(settings, storage, runs, source, copies, sidecars, scratch)
        if settings.output == "-":
            predict = predicting.to_terminal
        else:
            parent, _, name = shard_name(
                settings.output, settings.shard_index, settings.shard_count
            ).rpartition("/")
            above = "/" if settings.output.startswith("/") else "."
            output = open_storage(parent or above, option="--output")
            predict = functools.partial(predicting.to_file, output, name, kind, target)
        heartbeats = Heartbeats(storage, "predict", worker=settings.shard_index)
        with heartbeats, heartbeats.of(*(run.tag for run in runs)):
            predict()
    if failed:
        names = ", ".join(failed[:10]) + (", ..." if len(failed) > 10 else "")
        raise InputError(f"{len(failed)} of {len(tags)} tags have no row: {names}")


def _runs(storage: Storage, tags: Sequence[str], name: str) -> tuple[list[Run], list[str]]:
    """Return a run of each tag, and the tags that have none: they do not stop the others.

    Raises:
        InputError: if none has one.

    """
    from imagetag.runs import load_run  # without TensorFlow, and not for --help

    runs: list[Run] = []
    failed: list[str] = []
    for tag in tags:
        try:
            check_run(storage, tag, name)  # it names what there is
            runs.append(load_run(storage, tag, name))
        except InputError as error:
            if len(tags) == 1:
                raise
            get_logger().error(one_line(error, None), tag=tag, exit_code=error.exit_code)
            failed.append(tag)
    if not runs:
        raise InputError(f"none of the {len(tags)} tags has a trained model in {storage.url}")
    return runs, failed


class _Predicting:
    """One run of the job, once all that it needs is open."""

    def __init__(
        self,
        settings: PredictSettings,
        storage: Storage,
        runs: Sequence[Run],
        source: Source,
        copies: Copies | None,
        sidecars: Sidecars | None,
        scratch: Path,
    ) -> None:
        self._settings, self._storage, self._runs = settings, storage, runs
        self._source, self._copies, self._sidecars = source, copies, sidecars
        self._groups = in_groups(runs)
        self._chunk = pictures_a_turn(self._groups, settings.batch_size)
        self._scratch = scratch

    def to_terminal(self) -> None:
        """Write rows as they come."""
        tally = Tally()
        writer = CsvWriter(sys.stdout)
        pictures = filter(self._is_mine, self._source.pictures())
        try:
            for _, rows in self._rows(pictures):
                for row in rows:
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
            batch=self._chunk * len(self._runs),
            each=len(self._runs),
            ready=lambda: self._copies.wait() if self._copies else None,
        )
        parts.check_place()
        if about := parts.done(self._source, self._is_mine):
            get_logger().info(
                "already predicted",
                rows=about.rows,
                images=about.rows // len(self._runs),
                positives=about.positives,
                output=f"{output.url}/{name}",
            )
            return
        try:
            for picture, rows in self._rows(parts.remaining(self._source, self._is_mine)):
                for row in rows:
                    parts.add(picture, row)
        except BaseException as error:
            kept = parts.save_at_last()
            error.add_note(f"{kept} rows are kept; run it again to go on")
            raise
        parts.finish(kind)
        self._tell(parts.tally, f"{output.url}/{name}", reused=parts.reused)

    def _rows(self, pictures: Iterator[Picture]) -> Iterator[tuple[Picture, list[Prediction]]]:
        first = next(pictures, None)  # where there is none, it may say so
        if first is None:
            return
        pictures = chain([first], pictures)
        with quiet_imports():  # TensorFlow: not where there is nothing to do
            from imagetag.predict import predict

        classifiers = self._classifiers()
        with Progress("predict", bar=not self._shows_rows()) as progress:
            for picture, rows in predict(classifiers, self._source, pictures, self._chunk):
                tags = [row.tag for row in rows if row.decision]
                if tags and self._sidecars is not None:
                    self._sidecars.add(picture, tags)
                if tags and self._copies is not None:
                    self._copies.add(picture)
                else:
                    self._source.forget(picture)
                yield picture, rows
                progress.advance()

    def _classifiers(self) -> InTurn[Classifier]:
        from imagetag.predict import decided, load_classifier

        storage, settings = self._storage, self._settings
        judges = {run.tag: decided(storage, run, settings.threshold) for run in self._runs}
        # What is loaded again and again is fetched once.
        keep = len(self._groups) > 1 and not isinstance(storage, LocalStorage)

        def load(run: Run) -> Classifier:
            folder = self._scratch / "models" / encode(run.tag)
            found = load_classifier(
                storage,
                run,
                judges[run.tag],
                folder,
                batch_size=settings.batch_size,
                # Files that are here are decoded as the processors can; on others, one waits.
                threads=None if self._source.local else settings.concurrency,
            )
            if not keep:
                shutil.rmtree(folder)
            return found

        return InTurn(self._groups, load)

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
        request: dict[str, Any] = {
            "models": [
                [run.tag, run.run, run.created, _digest_of_decision(self._storage, run)]
                for run in self._runs
            ],
            "threshold": self._settings.threshold,
            "input": dict(self._source.identity),
            "shard": [self._settings.shard_index, self._settings.shard_count],
            "copy_to": copied_to and place_of(copied_to),
            "kind": kind,
        }
        if self._sidecars is not None:
            request["sidecars"] = [self._settings.sidecars, self._settings.sidecars_folder]
        return request

    def _tell(self, tally: Tally, output: str, **more: int) -> None:
        one = self._runs[0]
        told = (
            {"tag": one.tag, "run": one.run} if len(self._runs) == 1 else {"tags": len(self._runs)}
        )
        get_logger().info(
            "predicted",
            **told,
            images=tally.rows // len(self._runs),
            positives=tally.positives,
            errors=tally.errors.total(),
            output=output,
            **({"reasons": dict(tally.errors)} if tally.errors else {}),
            **more,
        )


def _digest_of_decision(storage: Storage, run: Run) -> str | None:
    """Return what stands for a run's decision, without understanding it."""
    try:
        return hashlib.sha256(
            storage.read(Layout(run.tag).run(run.run, "decision.json"))
        ).hexdigest()
    except ObjectNotFound:
        return None


def _check(settings: PredictSettings, tags: Sequence[str]) -> None:
    check_share(settings.shard_index, settings.shard_count)
    shown = ",".join(settings.input)[:200]
    if bool(settings.input) == bool(settings.board):
        what = "not both" if settings.input else "and one is needed"
        raise UsageError(
            f"take images from --input {shown!r} or from --board {settings.board!r}, "
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
    fetched = [text for text in settings.input if _is_list(text) or text.startswith(_WEB)]
    if not settings.sidecars_folder and (settings.board or fetched):
        raise UsageError(
            f"--sidecars {settings.sidecars}: the images of {settings.board or fetched[0]!r} are "
            "on others' servers; say with --sidecars-folder where their sidecars go"
        )


@contextlib.contextmanager
def _source(settings: PredictSettings, scratch: Path, *, keep: bool = False) -> Iterator[Source]:
    """Give the pictures, and leave nothing running of what fetches them.

    Args:
        settings: which pictures.
        scratch: gets files that are fetched, where they are needed once more.
        keep: whether they are needed by several models.

    """
    where = scratch if settings.copy_to or keep else None
    client = None
    if settings.board or any(map(_may_be_fetched, settings.input)):
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
        if settings.board and client:
            query = read_query(settings.query)
            login = Login(settings.board_user, settings.board_key.get_secret_value())
            board = open_board(settings.board, client, login)
            yield FoundPosts(board, query, settings.limit, where)
            return
        sources: list[tuple[str, Source]] = []
        for is_one, names in grouped([(text, _is_one(text)) for text in settings.input]):
            text = names[0]
            if is_one:
                sources.append(("", Named(names, client, where)))
            elif text == "-":
                listed = spooled(sys.stdin.buffer, scratch / "names")
                sources.append(("", Named(listed, client, where)))
            elif client and _is_list(text):
                sources.append(("", ListedUrls(text, client, where)))
            else:
                storage = open_storage(text, settings.concurrency, existing=True, option="--input")
                sources.append((text.rstrip("/") + "/", StoredPictures(storage)))
        yield sources[0][1] if len(sources) == 1 else Several(sources)
    finally:
        if client is not None:
            client.stop()


def _is_list(text: str) -> bool:
    return (
        list_kind(text) is not None
        and not text.lower().startswith(_WEB)
        and not os.path.isdir(text)  # noqa: PTH112 - of a name too long it says no
    )


def _is_one(text: str) -> bool:
    """Tell whether an input names one picture.

    Raises:
        UsageError: if it should be one by its name, and is not there.

    """
    if text == "-" or _is_list(text):
        return False
    if "://" in text:
        is_web = text.lower().startswith(_WEB)
        return is_web or (text.startswith("s3://") and named_like_a_picture(text))
    exists = os.path.exists(text)  # noqa: PTH110 - of a name too long it says no
    if not exists and named_like_a_picture(text):
        raise UsageError(f"--input {text}: there is no such file")
    return exists and not os.path.isdir(text)  # noqa: PTH112


def _may_be_fetched(text: str) -> bool:
    return text == "-" or _is_list(text) or text.lower().startswith(_WEB)


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="imagetag-predict-")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "rows in OUTPUT.parts are kept; run it again to go on"
    return run_job("predict", str(__doc__), PredictSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
