"""The model of a run: fetched, or made of an extractor and a head, and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imagetag.errors import InputError, one_line
from imagetag.layout import Layout
from imagetag.runs.heads import load_head
from imagetag.runs.runs import Run
from imagetag.storage import ObjectNotFound, Storage

if TYPE_CHECKING:
    import keras


def load_model(storage: Storage, run: Run, folder: Path) -> keras.Model:
    """Fetch a run's model into a folder, if it is not there yet, and load it.

    That of a run on features is made of its extractor and its head.

    Raises:
        InputError: if a file is missing or damaged.

    """
    import keras  # not to know a run: that takes no TensorFlow

    from imagetag.models import CUSTOM_LAYERS

    if run.extractor:
        return _composed(storage, run, folder)

    layout = Layout(run.tag)
    key, marker = (layout.run(run.run, name) for name in ("model.keras", "metrics.json"))
    advice = f"delete {storage.url}/{marker} and train the run again"
    path = folder / "model.keras"
    try:
        if not path.exists():
            storage.download(key, path)
    except ObjectNotFound as error:
        raise InputError(f"{storage.url}/{key} is missing; {advice}") from error
    try:
        return keras.models.load_model(path, custom_objects=CUSTOM_LAYERS, compile=False)
    except Exception as error:  # a damaged archive raises whatever its reader does
        raise InputError(
            f"{storage.url}/{key} cannot be loaded ({one_line(error, 200)}); {advice}"
        ) from error


def _composed(storage: Storage, run: Run, folder: Path) -> keras.Model:
    """Return a run's head on its extractor, as one model.

    Args:
        storage: has both.
        run: on features.
        folder: gets the extractor's network, if it is not there yet.

    Raises:
        InputError: if a file is missing or damaged, or the extractor is none that Keras runs.

    """
    from imagetag.features import load_network
    from imagetag.models import classifier_on, with_resizing

    head, record = load_head(storage, run)
    network = load_network(storage, record, folder)
    core = classifier_on(network, record.image_size, record.views, head.weights, head.bias)
    return with_resizing(core, record.image_size, record.resize, record.fill)
