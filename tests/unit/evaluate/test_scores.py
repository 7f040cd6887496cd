"""What a run says of pictures, and where it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imagetag.errors import InputError
from imagetag.evaluate import scores
from imagetag.features.shared import SharedFeatures
from imagetag.runs.runs import load_run
from imagetag.storage.local import LocalStorage
from tests.predicting import make_model, store_heads


def test_an_extractor_that_cannot_show_where_it_looks_is_loaded_once_for_all_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = ("fox", "cat", "owl")
    storage = LocalStorage(tmp_path / "storage")
    store_heads(storage.url, make_model(), tags, tmp_path)
    loads: list[str] = []

    def load(_storage: Any, record: Any, _folder: Path) -> Any:
        loads.append(record.name)
        raise InputError("no feature map")

    monkeypatch.setattr(scores, "load_network", load)
    for tag in tags:
        run = load_run(storage, tag, "latest")
        head = scores.OfHead(storage, run, SharedFeatures(storage, tags, tmp_path))
        with pytest.raises(InputError, match="no feature map"):
            head.camera()
    assert len(loads) == 1
