"""Which network a plan is for where heads are trained on features: as it is stored, or assumed."""

from __future__ import annotations

from dataclasses import dataclass

from imagetag import layout
from imagetag.dataset import latest_name
from imagetag.errors import InputError
from imagetag.record import Record
from imagetag.storage import Storage, load_record


@dataclass(frozen=True)
class Network:
    """A network, by its model, and where it is stored by its extractor's name.

    `told` says which it is, and why that one.
    """

    model: str
    extractor: str = ""
    told: str = ""


class _Extractor(Record):
    model: str


def find_network(
    storage: Storage | None, features: str, model: str, *, is_given: bool = False
) -> Network:
    """Return the network of an extractor that is stored, else the model.

    Args:
        storage: has it; None for none.
        features: the extractor's name, or latest.
        model: what is gone by where there is none, or where it is given.
        is_given: whether somebody has said which model, of features that are embedded yet.

    """
    if is_given:
        return Network(model, told=f"{model}, as --model says")
    if storage is None:
        why = "without --storage it is not known; --model names another"
        return Network(model, told=f"{model}, which is assumed: {why}")
    try:
        name = features
        if features == "latest":
            name = latest_name(storage, layout.LATEST_FEATURES, "extractor", "")
        found = load_record(storage, layout.features(name, "extractor.json"), _Extractor)
    except InputError:  # there is none, or it cannot be read, which train tells
        what = "no extractor" if features == "latest" else f"no extractor {features!r}"
        why = f"there is {what} in {storage.url} yet; --model names another"
        return Network(model, told=f"{model}, which is assumed: {why}")
    return Network(found.model, name, told=f"{name}, as it is in {storage.url}")
