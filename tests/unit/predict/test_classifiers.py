"""Predicting: a row a picture, in order, with what cannot be read as an error among them."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from structlog.testing import capture_logs

from imagetag.errors import InputError, UsageError
from imagetag.imaging.images import BadImage
from imagetag.job.command_line import parse_settings
from imagetag.models.scoring import Score, Scorer
from imagetag.predict import sources
from imagetag.predict.classifiers import Classifiers, predict, predict_tag
from imagetag.predict.judge import Judge, judge_of
from imagetag.predict.sources import Cursor, Picture, Source, StoredPictures
from imagetag.predict.writers import Answers, Prediction
from imagetag.runs.decision import sigmoid
from imagetag.storage.base import ObjectInfo
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from jobs.predict import PredictSettings, _check, _source
from tests.predicting import TAG, alone, decide, make_model, noise, scorer_of, write


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return make_model()


@pytest.fixture(scope="module")
def scorer(model: keras.Model) -> Scorer:
    return scorer_of(model)


RAW = judge_of(None)


def rows(scorer: Scorer, folder: Path | LocalStorage, judge: Judge = RAW) -> list[Prediction]:
    storage = LocalStorage(folder) if isinstance(folder, Path) else folder
    source = StoredPictures(storage)
    found = predict(Classifiers([judge], scorer, [0]), source, source.pictures(), 4)
    return [row for _, answers in found for row in answers.predictions([TAG])]


def test_a_tag_without_a_model_is_told_before_the_first_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained model of the tag 'fox'"):
        predict_tag(tmp_path, "fox", tmp_path)


# ---- files


def test_pictures_of_all_folders_are_predicted_and_other_files_counted(
    model: keras.Model, scorer: Scorer, tmp_path: Path
) -> None:
    # By name, and where that says nothing by content.
    names = ["a.png", "b/c/d.JPG", "b/c/png", "b/e.webp", "b/f.jpg~", "b/g (1).orig", "z.jpeg"]
    for number, name in enumerate(names):
        write(tmp_path, name, noise(number))
    others = [".a.png", ".trash/a.png", "README.txt", "b/.c/d.png", "b/Makefile", "b/a.mp4"]
    for name in others:
        write(tmp_path, name, b"CC = gcc" if name.endswith("file") else noise(1))
    write(tmp_path, "b/empty", b"")

    with capture_logs() as logs:
        found = rows(scorer, tmp_path)

    assert [row.file for row in found] == names
    for number, row in enumerate(found):
        assert row.probability == pytest.approx(alone(model, noise(number)), abs=1e-5)
        assert (row.page_url, row.error) == ("", None)
        assert row.probability == round(row.probability or 0, 6)
    [line] = [line for line in logs if "passed over" in line["event"]]
    assert (line["files"], line["names"]) == (7, [*others, "b/empty"])


def test_what_no_storage_can_have_is_told(tmp_path: Path) -> None:
    for name in ("a.png", "b\nc.png", "\x7f"):
        write(tmp_path, name, noise(1))
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "nothing")
    with capture_logs() as logs:
        found = [picture.file for picture in StoredPictures(LocalStorage(tmp_path)).pictures()]
    assert found == ["a.png"]
    told = {line["file"]: line["reason"] for line in logs if line["event"] == "left out"}
    assert told.keys() == {"b\nc.png", "\x7f", "nowhere.png"}
    assert told["nowhere.png"] == "a symbolic link leads nowhere"


def test_all_files_that_are_passed_over_are_named_however_many(tmp_path: Path) -> None:
    names = {f"{number}.txt" for number in range(250)}
    for name in names:
        write(tmp_path, name, b"a tag")
    write(tmp_path, "a.png", noise(0))
    with capture_logs() as logs:
        assert len([*StoredPictures(LocalStorage(tmp_path)).pictures()]) == 1
    lines = [line for line in logs if "passed over" in line["event"]]
    assert {name for line in lines for name in line["names"]} == names
    assert max(len(line["names"]) for line in lines) == 100


ENDINGS = [
    *("jfif", "jpe", "pjpeg", "JPG", "avif", "AVIF", "tif", "tiff", "dib", "apng", "heic", "heif"),
    *("jxl", "jp2", "svg", "ico"),
]


def test_whatever_is_named_like_a_picture_has_a_row(scorer: Scorer, tmp_path: Path) -> None:
    good = {f"a.{ending}": noise(1) for ending in ENDINGS}
    bad = {f"b.{ending}": b"\0\0\0\x18ftypheic....." for ending in ENDINGS}
    for name, data in (good | bad).items():
        write(tmp_path, name, data)
    found = {row.file: row.error for row in rows(scorer, tmp_path)}
    assert found == dict.fromkeys(good) | dict.fromkeys(
        bad, "not_an_image: neither JPEG, PNG, WEBP, GIF, BMP, AVIF, TIFF"
    )


def test_a_bucket_is_asked_only_for_files_whose_names_say_nothing(tmp_path: Path) -> None:
    asked = []

    class Bucket(LocalStorage):
        def open(self, key: str) -> Any:
            asked.append(key)
            return super().open(key)

    for name in ("a.png", "b.txt", "c.mp4", "d.json", "e", "f.jpg_large", "g.zip"):
        write(tmp_path, name, noise(1))
    source = StoredPictures(Bucket(tmp_path))
    source._folder = None
    assert [picture.file for picture in source.pictures()] == ["a.png", "e", "f.jpg_large"]
    assert asked == ["e", "f.jpg_large"]


def test_links_that_lead_round_and_round_are_named_and_nothing_is_predicted_twice(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a.png", noise(0))
    (tmp_path / "b").symlink_to(".")
    (tmp_path / "c.png").symlink_to("c.png")
    with capture_logs() as logs:
        found = [picture.file for picture in StoredPictures(LocalStorage(tmp_path)).pictures()]
    assert found == ["a.png"]
    assert {line["file"] for line in logs} == {"b/", "c.png"}
    with pytest.raises(UsageError, match="symbolic links"):
        list(StoredPictures(LocalStorage(tmp_path / "c.png")).pictures())


def test_a_file_that_cannot_be_read_is_a_row_with_its_error(scorer: Scorer, tmp_path: Path) -> None:
    write(tmp_path, "1-cut.png", noise(0)[:200])
    write(tmp_path, "3-good.png", noise(0))
    write(tmp_path, "4-text.jpg", b"<html>404</html>")
    write(tmp_path, "5-empty.gif", b"")
    os.mkfifo(tmp_path / "6-pipe.png")  # which would be waited for
    (tmp_path / "7-nowhere.png").symlink_to(tmp_path / "nothing")

    class Losing(LocalStorage):
        def list(self, folder: str = "") -> Iterator[Any]:
            lost = write(tmp_path, "2-gone.png", noise(0))
            entries = [*super().list(folder)]
            lost.unlink()  # as another process may, after the listing
            yield from entries

    found = rows(scorer, Losing(tmp_path))

    assert [row.file[:1] for row in found] == ["1", "2", "3", "4", "5", "6"]
    reasons = [row.error and row.error.split(":")[0] for row in found]
    assert reasons == ["truncated", "missing", None, "not_an_image", "not_an_image", "no_file"]
    for row in found:
        told_nothing = row.probability is None and row.decision is None
        assert told_nothing == (row.error is not None)


def test_a_file_too_large_to_be_a_picture_is_not_read(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(300_000_000)
    [found] = rows(scorer, tmp_path)
    assert found.error == "too_large: 300000000 bytes"

    class Remote(StoredPictures):
        """Files that are not on this machine, one of which has grown."""

        def __init__(self) -> None:
            super().__init__(LocalStorage(tmp_path))
            self._folder = None

    source = Remote()
    write(tmp_path, "huge.png", noise(0))
    [picture] = source.pictures()
    assert source.read(picture) == noise(0)
    monkeypatch.setattr(sources, "_MAX_BYTES", 1000)
    picture.origin = ObjectInfo("huge.png", 10)
    write(tmp_path, "huge.png", b"x" * 1001)
    with pytest.raises(BadImage, match="more than 1000 bytes"):
        source.read(picture)
    (tmp_path / "huge.png").unlink()
    with pytest.raises(BadImage, match="gone since it was listed"):
        source.read(picture)


def test_a_file_that_changes_has_another_version(tmp_path: Path) -> None:
    def versions() -> set[str]:
        return {picture.version for picture in StoredPictures(LocalStorage(tmp_path)).pictures()}

    path = write(tmp_path, "a.png", b"one")
    before = versions()
    assert versions() == before
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert versions() != before


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_folder_without_pictures_is_an_input_error(
    names: list[str], scorer: Scorer, tmp_path: Path
) -> None:
    for name in names:
        write(tmp_path, name, b"text")
    with pytest.raises(InputError, match="no image there, by name or by content") as caught:
        rows(scorer, tmp_path)
    assert caught.value.exit_code == 3
    assert str(tmp_path) in str(caught.value)


# ---- decisions


class Fixed(Scorer):
    """Reads what it is given, and says what it is told to: some logits of each picture."""

    def __init__(self, *logits: Sequence[float]) -> None:
        self.logits = logits

    def score(self, items: Any, read: Any) -> Iterator[Any]:
        for item, logits in zip(items, self.logits, strict=False):
            try:
                read(item)
                yield item, Score(np.array(logits, np.float32))
            except BadImage as error:
                yield item, error


class Any_(Source):  # noqa: N801 - it stands for any
    identity: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it

    def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:
        while True:
            yield Picture("a \ud800", "a", "", page_url="https://board.example/1")

    def read(self, picture: Picture) -> bytes:
        return b""

    def save(self, picture: Picture, path: Path) -> None:
        raise NotImplementedError

    def forget(self, picture: Picture) -> None:
        raise NotImplementedError


def judged(judge: Judge, *logits: float) -> list[Prediction]:
    source = Any_()
    asked = Classifiers([judge], Fixed(*([logit] for logit in logits)), [0])
    found = predict(asked, source, source.pictures(), 8)
    return [row for _, answers in found for row in answers.predictions([TAG])]


def test_what_evaluate_decided_is_gone_by(tmp_path: Path) -> None:
    decision = decide(str(tmp_path), temperature=2.0, threshold=0.7)
    least = decision.logit_threshold
    below, at, above = judged(judge_of(decision), least - 1e-6, least + 1e-6, 3.0)
    assert (below.decision, at.decision, above.decision) == (False, True, True)
    assert above.probability == round(sigmoid(3.0 / 2.0), 6)
    assert at.probability == 0.7


def test_a_threshold_that_is_given_is_one_of_calibrated_probabilities(tmp_path: Path) -> None:
    decision = decide(str(tmp_path), temperature=2.0, threshold=0.7)
    logits = [2 * math.log(p / (1 - p)) for p in (0.39, 0.41, 0.69, 0.71)]
    found = judged(judge_of(decision, 0.4), *logits)
    assert [row.decision for row in found] == [False, True, True, True]
    assert [row.probability for row in found] == pytest.approx([0.39, 0.41, 0.69, 0.71])


@pytest.mark.parametrize(("threshold", "expected"), [(None, [False, True]), (0.8, [False, False])])
def test_without_a_decision_probabilities_are_the_models_own(
    threshold: float | None, expected: list[bool]
) -> None:
    found = judged(judge_of(None, threshold), -0.01, 0.01)
    assert [row.decision for row in found] == expected
    assert found[0].probability == round(sigmoid(-0.01), 6)


def test_numbers_that_are_none_are_errors_and_huge_ones_are_sure() -> None:
    nothing, sure, sure_not = judged(judge_of(None), math.nan, math.inf, -1e30)
    assert (nothing.probability, nothing.decision) == (None, None)
    assert nothing.error == "no_number: the model gives none for this picture"
    assert (sure.probability, sure.decision) == (1.0, True)
    assert (sure_not.probability, sure_not.decision) == (0.0, False)
    assert sure.file == "a ?"
    assert sure.page_url == "https://board.example/1"


# ---- several tags


def test_each_tag_is_told_of_each_picture_by_its_own_judge() -> None:
    class Some(Any_):
        def pictures(self, after: Cursor | None = None) -> Iterator[Picture]:
            yield from (Picture(name, name, "") for name in "abcde")

        def read(self, picture: Picture) -> bytes:
            if picture.name == "c":
                raise BadImage("missing", "gone")
            return b""

    source = Some()
    scorer = Fixed(*[[math.nan, 2.0, -2.0]] * 4, [0.0, 0.0, 0.0])
    judges = [RAW, judge_of(None, 0.1), RAW]
    found = list(predict(Classifiers(judges, scorer, [1, 2, 0]), source, source.pictures(), 2))
    assert [picture.name for picture, _ in found] == [*"abcde"]
    for picture, answers in found:
        assert answers.file == picture.name
        if picture.name == "c":
            assert answers == Answers("c", "", "missing: gone")
        elif picture.name == "e":
            assert answers == Answers("e", "", None, [0.5, 0.5, 0.5], [True, True, True])
        else:
            assert answers.probabilities == [0.880797, 0.119203, None]
            assert answers.decisions == [True, True, None]


# ---- settings


def parsed(*arguments: str) -> PredictSettings:
    return parse_settings(
        PredictSettings, ["--storage", "data", *arguments], command="predict", summary=""
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "a"], ("a",)),
        (["--input", "a, b/c", "--input=d"], ("a", "b/c", "d")),
        (["a,b.png", "c.png"], ("a,b.png", "c.png")),
        (["a", "--batch-size", "4", "b"], ("a", "b")),
        (["--batch-size", "4", "-"], ("-",)),
        (["--input", "https://example.org/?a=1,2"], ("https://example.org/?a=1,2",)),
        (["--input", "s3://a/b.png,/c,here, too.png"], ("s3://a/b.png,/c,here, too.png",)),
        (["--input", "s3://a/b.png,/c,~/d"], ("s3://a/b.png", "/c", str(Path("~/d").expanduser()))),
        (["--input", "s3://a/b.png,s3://a/c"], ("s3://a/b.png", "s3://a/c")),
        (["--input", "here, too.png"], ("here, too.png",)),
        ([], ()),
    ],
)
def test_inputs_are_given_in_any_number(
    arguments: list[str],
    expected: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "here, too.png", b"")
    assert parsed("--tag", "fox", *arguments).input == expected


def test_inputs_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGETAG_INPUT", "a,b")
    assert parsed("--tag", "fox").input == ("a", "b")
    assert parsed("--tag", "fox", "c").input == ("c",)


def test_an_unknown_option_is_told_beside_inputs() -> None:
    with pytest.raises(UsageError, match=r"there is no --tga; did you mean --tag\?"):
        parsed("--tga", "fox", "a.png")


def test_tags_are_one_or_several_and_what_is_given_wins_over_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write(tmp_path, "tags.txt", b"owl\nfox\n")
    assert parsed("--tag", "a,b").all_tags() == ["a,b"]
    assert parsed("--tags", "fox,bat", "--tags-file", str(names)).all_tags() == [
        *("fox", "bat", "owl")
    ]
    # As in pods, where all share a list of tags.
    monkeypatch.setenv("IMAGETAG_TAGS_FILE", str(names))
    assert parsed().all_tags() == ["owl", "fox"]
    assert parsed("--tag", "bat").all_tags() == ["bat"]
    monkeypatch.setenv("IMAGETAG_TAG", "cat")
    assert parsed().all_tags() == ["cat"]
    assert parsed("--tags", "bat").all_tags() == ["bat", "owl", "fox"]
    with pytest.raises(UsageError, match="--tag fox and --tags bat: give one"):
        parsed("--tag", "fox", "--tags", "bat")
    monkeypatch.delenv("IMAGETAG_TAG")
    monkeypatch.delenv("IMAGETAG_TAGS_FILE")
    with pytest.raises(UsageError, match="no tags given"):
        parsed().all_tags()


def settings(**given: Any) -> PredictSettings:
    return PredictSettings(**{"storage": "data", "tag": "fox", "input": "in"} | given)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"input": ""}, "^images from where\\? Give --input or --board "),
        ({"board": "safebooru", "query": "fox"}, r"--input 'in' or from --board .*, not both"),
        ({"query": "fox"}, r"--query 'fox' and --limit None are of a --board's search"),
        ({"limit": 5}, r"--query '' and --limit 5 are of a --board's search"),
        ({"input": "", "board": "safebooru"}, r"--board safebooru: say --query TAGS, or --limit N"),
        ({"input": "-,-"}, "standard input can be read once"),
        ({"sidecars_folder": "x"}, "say --sidecars hydrus or kohya too"),
        ({"sidecars": "kohya", "tag": "a,b"}, "'a,b' has one: take hydrus"),
        ({"sidecars": "kohya", "input": "a.txt"}, "'a.txt' are on others' servers"),
        ({"sidecars": "hydrus", "input": "", "board": "safebooru", "limit": 5}, "of 'safebooru'"),
        ({"shard_index": 4, "shard_count": 4}, r"--shard-index 4 .* must be below --shard-count 4"),
    ],
)
def test_what_does_not_go_together_is_one_line(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        _check(settings(**given), [given.get("tag", "fox")])


def test_what_goes_together_passes() -> None:
    _check(settings(), ["fox"])
    _check(settings(input="", board="safebooru", query="fox"), ["fox"])
    _check(settings(input="", board="safebooru", limit=5), ["fox"])
    _check(settings(shard_index=3, shard_count=4), ["fox"])


def test_the_share_comes_from_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    monkeypatch.setenv("IMAGETAG_SHARD_COUNT", "5")
    assert (settings().shard_index, settings().shard_count) == (2, 5)


def test_an_input_is_a_folder_or_a_list_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png\n")))

    def kind(path: Path | str) -> str:
        with _source(settings(input=str(path)), tmp_path) as source:
            return type(source).__name__

    (tmp_path / "folder.csv").mkdir()
    assert kind(tmp_path) == kind(tmp_path / "folder.csv") == "StoredPictures"
    for name in ("a.txt", "a.CSV", "a.jsonl.gz", "a.parquet", "s3://bucket/a.tsv"):
        assert kind(tmp_path / name if "://" not in name else name) == "ListedUrls"
    write(tmp_path, "a.png", b"data")
    write(tmp_path, "b,c", b"data")
    assert kind(tmp_path / "a.png") == kind(tmp_path / "b,c") == kind("-") == "Named"
    assert kind("https://example.org/a?b=1,2") == kind("s3://bucket/a,b.png") == "Named"
    assert kind(f"{tmp_path},{tmp_path / 'a.png'}") == "Several"
    with pytest.raises(UsageError, match=r"--input .*nothing\.png: there is no such file"):
        kind(tmp_path / "nothing.png")
    with pytest.raises(UsageError, match=r"--input 'ftp://example\.org/a'"):
        kind("ftp://example.org/a")
    assert open_storage(str(tmp_path)).stat("a.png") is not None
