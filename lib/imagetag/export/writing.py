"""The models of runs as one file: loaded, joined, with what evaluate has decided, and written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np

from imagetag.export.contents import Contents
from imagetag.export.formats import write
from imagetag.export.joined import joined, with_decisions
from imagetag.layout import encode
from imagetag.log import Progress
from imagetag.models import Heads, core_of, split_model
from imagetag.runs import Run, load_head, load_model
from imagetag.storage import Storage


def write_models(
    storage: Storage, runs: Sequence[Run], contents: Contents, path: Path, scratch: Path
) -> int:
    """Write the models of some runs as one file or folder; return how many networks are in it.

    Args:
        storage: has the runs.
        runs: in the order of the outputs.
        contents: what the file tells of itself.
        path: where it is written.
        scratch: gets the files of the models.

    Raises:
        InputError: if a model cannot be loaded, or the format has no place for one.

    """
    model, extractors = joined(_parts(storage, runs, scratch), contents.input.image_size)
    write(with_decisions(model, contents.tags), path, contents)
    return extractors


def _parts(
    storage: Storage, runs: Sequence[Run], scratch: Path
) -> Iterator[tuple[keras.Model, Heads]]:
    """Yield each run's model up to its features, and its head; an extractor is loaded once."""
    extractors: dict[str, keras.Model] = {}
    with Progress("export", unit="tags") as progress:
        for run in runs:
            if run.extractor in extractors:
                head, _ = load_head(storage, run)
                heads = Heads(head.weights[:, np.newaxis], np.array([head.bias]))
                yield extractors[run.extractor], heads
            else:
                with TemporaryDirectory(prefix="model-", dir=scratch) as folder:
                    model = load_model(storage, run, Path(folder) / encode(run.tag))
                body, heads = split_model(core_of(model), run.image_size)
                if run.extractor:
                    extractors[run.extractor] = body
                yield body, heads
            progress.advance()
