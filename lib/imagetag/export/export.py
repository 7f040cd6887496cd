"""Export the models of one or many tags as one file, with what evaluate has decided for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from imagetag.dataset import GREY
from imagetag.errors import InputError
from imagetag.export.contents import Contents, Format, Input, exported_tag
from imagetag.export.target import Target, format_of
from imagetag.log import get_logger
from imagetag.quiet import quiet_imports
from imagetag.runs import Run, find_runs, load_decision, load_head, versions
from imagetag.storage import Place, Storage, opened

_SHOWN = 10  # tags by name


def export_tags(
    storage: Place,
    tags: Sequence[str],
    output: str,
    run: str = "latest",
    *,
    kind: Format | None = None,
    skip_missing: bool = False,
) -> Contents:
    """Write the models of some tags into one file or, as a SavedModel, one folder.

    Where the same export is there already, nothing is done; an older one is replaced.

    Args:
        storage: has the runs; open, or a folder or URL.
        tags: in the order of the outputs.
        output: a path or a storage's URL.
        run: which run's model of each tag: its name, or `latest`.
        kind: the format; None for what the output's name asks for.
        skip_missing: leave out tags without such a run.

    Returns:
        What the file tells of itself.

    Raises:
        InputError: if a tag has no such run, inputs of the models differ, one cannot be loaded, or
            the format has no place for one.
        UsageError: if the output cannot be written, or is somebody else's.

    """
    storage = opened(storage)
    kind = format_of(output, kind)
    runs, missing = find_runs(storage, tags, run)
    if missing and not skip_missing:
        raise InputError(
            f"{len(missing)} of {len(tags)} tags have no run to export: {_names(missing)}; train "
            "them, or leave them out with --skip-missing (IMAGETAG_SKIP_MISSING)"
        )
    target = Target(output, kind)
    contents = Contents(
        format=kind,
        tags=tuple(
            exported_tag(run, load_decision(storage, run.tag, run.run, run.created)) for run in runs
        ),
        input=_input_of(storage, runs),
        versions=versions("tensorflow", "keras"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with TemporaryDirectory(prefix="imagetag-export-") as folder:
        scratch = Path(folder)
        before = target.contents(scratch)
        if before is not None and contents == before.model_copy(
            update={"created": contents.created}
        ):
            get_logger().info("already exported", tags=len(runs), output=target.url)
            return before
        _tell_doubts(contents)
        with quiet_imports():  # TensorFlow: not where there is nothing to do
            from imagetag.export.writing import write_models
        path = scratch / "written" / Path(output).name
        path.parent.mkdir()
        extractors = write_models(storage, runs, contents, path, scratch)
        size = target.store(path)
    get_logger().info(
        "exported", tags=len(runs), extractors=extractors, bytes=size, output=target.url
    )
    return contents


def _input_of(storage: Storage, runs: Sequence[Run]) -> Input:
    """Return what pixels the models take, all of them.

    Raises:
        InputError: if some take others, or an extractor is missing.

    """
    heads = {run.extractor: run for run in runs if run.extractor and run.resize == "letterbox"}
    bars = {name: load_head(storage, run)[1].fill for name, run in heads.items()}
    tags = defaultdict(list)
    for run in runs:
        tags[run.image_size, run.resize, bars.get(run.extractor, GREY)].append(run.tag)
    if len(tags) > 1:
        told = "; ".join(
            f"{height}x{width} {resize}"
            f"{'' if colour == GREY else f', bars of {colour}'}: {_names(some)}"
            for ((height, width), resize, colour), some in tags.items()
        )
        raise InputError(
            "one file has one input, and these models take different ones, "
            "by --image-size and --resize of imagetag train, or --padding of imagetag embed: "
            f"{told}: export them one by one"
        )
    [(size, resize, colour)] = tags
    return Input(image_size=size, resize=resize, bars=colour)


def _tell_doubts(contents: Contents) -> None:
    """Let the log have whose thresholds are worth little, as predict does of each."""
    raw = [tag.tag for tag in contents.tags if not tag.evaluated]
    if raw:
        get_logger().warning(
            "not evaluated: probabilities are the model's own; run imagetag evaluate",
            tags=_names(raw),
        )
    unmet = [tag.tag for tag in contents.tags if tag.promise and not tag.promise.met]
    if unmet:
        get_logger().warning(
            "evaluate could promise no precision at these thresholds", tags=_names(unmet)
        )


def _names(tags: Sequence[str]) -> str:
    return ", ".join(tags[:_SHOWN]) + (", ..." if len(tags) > _SHOWN else "")
