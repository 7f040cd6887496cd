"""Tags with a trained and evaluated run, whose pictures people may be asked about."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from imagetag.dataset import Row
from imagetag.evaluate.measuring import predictions_table
from imagetag.layout import Layout
from imagetag.runs import Suspect, Suspects, store_suspects
from imagetag.storage import Storage
from tests.builders.datasets import store_dataset
from tests.builders.evaluations import decide, promise, scored
from tests.builders.pictures import plain
from tests.builders.rows import row_of
from tests.builders.runs import make_run, store_run

TAG = "robot"


def store_reviewable(
    storage: Storage, count: int = 20, *, tag: str = TAG, files: Sequence[bytes] = (), **row: Any
) -> list[Row]:
    """Store a dataset and an evaluated run of it; returns the rows.

    Odd rows are positive and every fifth is of the test. The rest is for the threshold. The model
    gives 0.9 to positives and 0.1 to negatives, but the first and the second row the other way
    round; those two are the suspects.
    """
    pictures = files or [picture_of(number) for number in range(1, count + 1)]
    rows = [row_of(number, data, **row) for number, data in enumerate(pictures, 1)]
    store_dataset(storage, tag, rows, pictures)
    run = store_run(storage, make_run(tag=tag, created="2026-01-01T12:00:00+00:00"))
    layout = Layout(tag)
    storage.write(layout.latest, run.run.encode())
    answers = [
        scored(row, 0.9 - row.post_id / 1e4 if (row.target == 1) != (number < 2) else 0.1)
        for number, row in enumerate(rows)
    ]
    for part, split in (("threshold", "train"), ("test", "test")):
        table = predictions_table(one for one in answers if one.row.split == split)
        storage.write(layout.run(run.run, f"{part}_predictions.csv"), table)
    decision = decide(tag, run.run, promise=promise(200, 20))
    storage.write(layout.run(run.run, "decision.json"), decision.model_dump_json().encode())
    found = tuple(
        Suspect(
            md5=item.row.md5,
            part="train",
            label=item.row.label,
            post_id=item.row.post_id,
            board=item.row.board,
            page_url=item.row.page_url,
            probability=item.probability,
            said=item.probability,
            rank=1,
        )
        for item in answers[:2]
    )
    store_suspects(storage, tag, run.run, suspects_of(found))
    return rows


def suspects_of(found: Sequence[Suspect]) -> Suspects:
    """Return what evaluate says of labels of which some are probably wrong."""
    return Suspects(
        method="a method",
        seed=0,
        looked_at={},
        unjudged=0,
        auc=0.9,
        reason=None,
        fingerprint="0" * 64,
        found=tuple(found),
    )


def picture_of(number: int) -> bytes:
    """Return a small picture's file, another for each number."""
    digest = hashlib.md5(str(number).encode()).digest()
    return plain(48, 32, (digest[0], digest[1], digest[2]))
