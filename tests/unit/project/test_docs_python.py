"""What docs/python.md shows runs, block after block, as in one notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest

from tests.builders.drawn import PICTURES
from tests.docs import code, pages


@pytest.mark.usefixtures("quick_plots")
def test_the_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, picture in enumerate(PICTURES[:64]):
        label = "fox" if picture.row.target else "cat"
        for folder in ("pictures", *(["new"] if number < 4 else [])):
            path = tmp_path / folder / label / f"{number}.{picture.row.ext}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.data)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks, _ = code(pages()["docs/python.md"])
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(blocks) == 3
    assert names["batches"].epoch == 2
    assert isinstance(names["batches"], keras.utils.PyDataset)
    assert len(names["run"].history) == 2
    assert names["evaluation"].run == names["run"].run
    told = capsys.readouterr().out
    assert all(f"{number}." in told for number in range(4))
