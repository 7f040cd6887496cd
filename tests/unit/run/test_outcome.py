"""What is told at the end of a pipeline."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagetag.report import TagEntry
from imagetag.report.index import Predictions
from imagetag.run.outcome import Outcome, tell


@pytest.mark.parametrize(("errors", "told"), [(0, ""), (1, ", of which 1 could not be read")])
def test_pictures_that_could_not_be_read_are_told(
    errors: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Predictions(Path("rows.csv"), rows=31, positives=19, errors=errors, best=())
    outcome = Outcome((TagEntry("fox", predictions=found),), "index.html", None)
    settings: Any = SimpleNamespace(log_format="console", input=("new",), where="out")
    tell(outcome, settings)
    assert f"fox: in 19 of 31 new pictures{told}; rows: rows.csv\n" in capsys.readouterr().out
