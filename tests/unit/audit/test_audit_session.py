"""An audit draws pictures in one order, takes verdicts, and stores what they prove as they come."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from imagetag.audit import AuditSession, open_audit
from imagetag.errors import InputError, UsageError
from imagetag.layout import Layout
from imagetag.review import Given, NoPicture
from imagetag.storage import Storage, open_storage
from imagetag.verdicts import Answer, audits_of, load_audits, load_verdicts
from tests.builders.audits import CREATED, audit_result, predicted
from tests.builders.datasets import store_dataset
from tests.builders.evaluations import make_evaluation
from tests.builders.pictures import encoded
from tests.builders.rows import make_row
from tests.builders.runs import make_run, store_run

START = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "storage"))


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Return a file in which 300 pictures of a folder are called a robot; four are there."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names: Mapping[str, bool] = {f"{number:03}.png": number % 4 != 0 for number in range(400)}
    for name in [name for name, called in names.items() if called]:
        (folder / name).write_bytes(PICTURE)
    return str(predicted(tmp_path / "out" / "robots.csv", names, base=folder))


PICTURE = encoded(Image.new("RGB", (40, 30), "red"), "PNG")


def given(session: AuditSession, answers: str, first: int = 0) -> list[Given]:
    """Return answers such as `yn?` on the pictures of the draw, from one on, a second each."""
    known: Mapping[str, Answer] = {"y": "yes", "n": "no", "?": "unclear", "u": "withdrawn"}
    return [
        Given(
            id=secrets.token_hex(8),
            item=session.items[first + place],
            answer=known[one],
            at=START + timedelta(seconds=first + place),
        )
        for place, one in enumerate(answers)
    ]


def taken(session: AuditSession, answers: str, first: int = 0) -> None:
    session.take(given(session, answers, first))


def test_some_sixty_right_ones_prove_a_precision_and_it_is_stored(
    storage: Storage, output: str
) -> None:
    session = open_audit(storage, "robot", [output])
    assert len(session.items) == 300
    assert session.progress().outlook == (
        "precision among all 300: 0 to 1; 60 more verdicts would prove 0.95, if each is a yes"
    )
    taken(session, "y" * 59)
    assert session.progress().ended == ""
    taken(session, "y", 59)
    assert session.progress().ended == "0.95 proven on your pictures, 2026-12-01, 60 judged"
    [stored] = load_audits(storage, "robot")
    assert [stored] == [session.result] == audits_of([stored], "first", CREATED)
    assert (stored.called, stored.judged, stored.outcome) == (300, 60, "proven")
    assert audits_of([stored], "first", "2027-01-01T00:00:00+00:00") == []
    assert not load_verdicts(storage, "robot").standing, "they are no labels of the dataset"


def test_begun_again_it_goes_on_and_draws_the_same(storage: Storage, output: str) -> None:
    first = open_audit(storage, "robot", [output])
    taken(first, "yyn?y")
    again = open_audit(storage, "robot", [output], target=0.8)
    assert (again.items, again.answers, again.name) == (first.items, first.answers, first.name)
    found = again.result
    assert (found.right, found.wrong, found.unclear, found.target) == (3, 1, 1, 0.8)
    assert found.updated == START + timedelta(seconds=4), "when the last verdict came"
    assert load_audits(storage, "robot") == [found]


def test_the_draw_does_not_follow_the_order_or_the_name(
    storage: Storage, tmp_path: Path, output: str
) -> None:
    names = {f"{number:03}.png": number % 4 != 0 for number in reversed(range(400))}
    base = tmp_path / "pictures"
    turned = str(predicted(tmp_path / "b.jsonl", names, base=base, kind="jsonl"))
    order = [called.file for called in open_audit(storage, "robot", [output]).first(300)]
    assert order == [called.file for called in open_audit(storage, "robot", [turned]).first(300)]
    # Of the first and the last half of the names, both halves of the draw have about as many.
    assert 55 < sum(name < "200.png" for name in order[:150]) < 95
    other = str(predicted(tmp_path / "c.csv", names, base=base, run="second"))
    assert [called.file for called in open_audit(storage, "robot", [other]).first(300)] != order


def test_verdicts_count_in_the_order_of_the_draw(storage: Storage, output: str) -> None:
    session = open_audit(storage, "robot", [output])
    taken(session, "yy")
    taken(session, "nn", 3)
    assert (session.result.right, session.result.wrong) == (2, 0), "the third is missing"
    taken(session, "y", 2)
    assert (session.result.right, session.result.wrong) == (3, 2)
    session.take([given(session, "u")[0].model_copy(update={"at": START + timedelta(days=1)})])
    assert session.result.judged == 0


def test_it_is_refuted_and_says_so(storage: Storage, output: str) -> None:
    session = open_audit(storage, "robot", [output])
    taken(session, "yynnnn")
    progress = session.progress()
    assert progress.ended.startswith("0.95 refuted on your pictures, 2026-12-01, ")
    assert session.result.high < 0.95


def test_two_judges_at_once_lose_nothing(storage: Storage, output: str) -> None:
    one, two = (open_audit(storage, "robot", [output], by=by) for by in ("ann", "bob"))
    taken(one, "yyy")
    taken(two, "nn", 3)
    assert two.result.judged == 0
    found = two.finish()
    assert (found.right, found.wrong) == (3, 2)
    assert load_audits(storage, "robot") == [found]


def test_the_models_card_tells_it(storage: Storage, output: str) -> None:
    run = store_run(storage, make_run(created=CREATED))
    store_dataset(storage, "robot", [make_row(1)])
    evaluation = make_evaluation()
    decision = evaluation.decision.model_copy(update={"trained": CREATED})
    told = evaluation.model_copy(update={"decision": decision})
    storage.write(Layout("robot").run(run.run, "evaluation.json"), told.model_dump_json().encode())
    session = open_audit(storage, "robot", [output])
    taken(session, "y" * 60)
    session.finish()
    card = storage.read(Layout("robot").run(run.run, "README.md")).decode()
    assert "`0.95 proven on your pictures, 2026-12-01, 60 judged`" in card


def test_of_two_judges_the_newer_verdict_counts_whoever_ends_last(
    storage: Storage, output: str
) -> None:
    one, two = (open_audit(storage, "robot", [output], by=by) for by in ("ann", "bob"))
    taken(one, "yyy")
    later = [item.model_copy(update={"at": START + timedelta(days=1)}) for item in given(two, "nu")]
    two.take(later)
    found = one.finish()
    assert (found.right, found.wrong) == (0, 1), "the second is taken back, so the third waits"
    assert open_audit(storage, "robot", [output]).result == found
    assert one.changes(3)[1] == [(one.items[0], "no"), (one.items[1], "withdrawn")]


def test_pictures_of_the_same_names_elsewhere_are_drawn_alike_and_judged_anew(
    storage: Storage, tmp_path: Path, output: str
) -> None:
    first = open_audit(storage, "robot", [output])
    taken(first, "y" * 60)
    names = {f"{number:03}.png": number % 4 != 0 for number in range(400)}
    other = tmp_path / "other"
    (tmp_path / "pictures").rename(other)
    second = open_audit(storage, "robot", [str(predicted(tmp_path / "b.csv", names, base=other))])
    assert second.items == first.items, "no luckier draw"
    assert second.result.judged == 0
    store_run(storage, make_run(run="first"))
    alone = str(predicted(tmp_path / "c.csv", names, about=False))
    third = open_audit(storage, "robot", [alone], run="first", base=str(other))
    assert third.name == second.name, "--input says what about.json would"
    (tmp_path / "pictures").symlink_to(other)
    assert open_audit(storage, "robot", [output]).result.judged == 60


def test_pictures_are_shown_as_jpegs_and_without_what_the_model_says(
    storage: Storage, output: str, tmp_path: Path
) -> None:
    session = open_audit(storage, "robot", [output])
    item = session.items[0]
    assert session.picture(item, 100).startswith(b"\xff\xd8")
    facts = session.facts(item)
    assert facts.link is not None
    assert facts.link.startswith("https://board.example/")
    assert not facts.notes
    [called] = session.first(1)
    (tmp_path / "pictures" / called.file).unlink()
    other = open_audit(storage, "robot", [output])
    with pytest.raises(NoPicture, match="missing"):
        other.picture(item, 100)
    with pytest.raises(KeyError):
        other.picture("0" * 24, 100)


def test_what_is_no_picture_is_not_served(storage: Storage, output: str, tmp_path: Path) -> None:
    session = open_audit(storage, "robot", [output])
    [called] = session.first(1)
    (tmp_path / "pictures" / called.file).write_text("<script>alert(1)</script>")
    with pytest.raises(NoPicture, match="decoded"):
        session.picture(session.items[0], 100)


def test_pictures_that_were_moved_are_asked_for(
    storage: Storage, output: str, tmp_path: Path
) -> None:
    (tmp_path / "pictures").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"19 more pictures .* say with --input"):
        open_audit(storage, "robot", [output])
    session = open_audit(storage, "robot", [output], base=str(tmp_path / "moved"))
    assert session.picture(session.items[0], 50)


def test_the_run_is_known_or_said(storage: Storage, tmp_path: Path, output: str) -> None:
    alone = str(predicted(tmp_path / "a.csv", names_of(tmp_path), about=False))
    with pytest.raises(UsageError, match="say --run"):
        open_audit(storage, "robot", [alone])
    with pytest.raises(UsageError, match="of the run 'first'"):
        open_audit(storage, "robot", [output], run="second")
    store_run(storage, make_run(run="second"))
    session = open_audit(storage, "robot", [alone], run="second")
    assert (session.result.run, session.result.trained) == ("second", CREATED)


def names_of(folder: Path) -> dict[str, bool | None]:
    found: Iterable[Path] = (folder / "pictures").iterdir()
    return {str(path): True for path in found}


def test_a_lower_target_hides_nothing_that_was_proven(storage: Storage, output: str) -> None:
    taken(open_audit(storage, "robot", [output]), "y" * 60)
    open_audit(storage, "robot", [output], target=0.8)
    [found] = load_audits(storage, "robot")
    assert found.sentence == "0.95 proven on your pictures, 2026-12-01, 60 judged"


def test_a_new_audit_of_others_hides_none_that_came_to_an_end() -> None:
    old = audit_result()
    new = audit_result(name="a" * 12, outcome="open", right=3, updated="2026-12-02T00:00:00Z")
    newer = audit_result(name="b" * 12, outcome="refuted", updated="2026-12-03T00:00:00Z")
    unjudged = audit_result(name="c" * 12, outcome="open", right=0)
    assert audits_of([unjudged, old, new], "first", CREATED) == [old, new]
    assert audits_of([old, new, newer], "first", CREATED) == [newer, old, new]


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "a/../../b.png", "s3://b/a.png"])
def test_a_picture_outside_the_folder_is_none_of_an_audit(
    storage: Storage, tmp_path: Path, name: str
) -> None:
    output = str(predicted(tmp_path / "a.csv", {"b.png": True, name: True}, base=tmp_path))
    with pytest.raises(InputError, match=f"'{name}' is not the name of a picture in {tmp_path}"):
        open_audit(storage, "robot", [output])


def test_damaged_judgements_are_told_with_their_line(storage: Storage, output: str) -> None:
    session = open_audit(storage, "robot", [output])
    taken(session, "y")
    [entry] = storage.list("robot/audited/")
    storage.write(f"robot/audited/{session.name}/notes.txt", b"none of ours")
    assert open_audit(storage, "robot", [output]).answers == session.answers
    storage.write(entry.key, storage.read(entry.key) + b"{}\n")
    with pytest.raises(InputError, match=r"\.jsonl line 2: item: Field required; mend"):
        open_audit(storage, "robot", [output])
