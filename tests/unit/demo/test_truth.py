"""What the demo says of its predictions."""

from __future__ import annotations

from pathlib import Path

from imagetag.demo.truth import score


def test_pictures_that_an_earlier_demo_drew_are_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(
        "file,decision,tag\na.png,true,fox\na.png,false,owl\nb.png,true,fox\n"
        "earlier.png,true,fox\nc.png,false,fox\n"
    )
    told = score("fox", path, {"a.png": ["fox"], "b.png": ["owl"], "c.png": []})
    assert told == (
        "fox: right about 2 of 3 new pictures: found in 1 of the 1 that have it, and in 1 of the "
        "2 that do not"
    )
