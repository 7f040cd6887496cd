"""The whole pipeline ends as in quiet, whatever befalls it; `make faults` kills it more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import Campaign

pytestmark = pytest.mark.timeout(1800)


def test_five_kills_and_much_that_goes_wrong_change_nothing(tmp_path: Path) -> None:
    ledger = Campaign(tmp_path, seed=1, whole=False).run(kills=5)
    assert not ledger.wrong, str(ledger)
    assert ledger.kills.total() >= 5
    assert ledger.mishaps
