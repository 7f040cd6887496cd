"""Keys: any tag has one folder of its own, and what `image` builds `parse_image` reads."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagetag.errors import UsageError
from imagetag.layout import (
    LABELS,
    SPLITS,
    STAGES,
    ImageKey,
    Label,
    Layout,
    RunKey,
    Split,
    Stage,
    StatusKey,
    WorkState,
    checked_run,
    decode,
    encode,
    parse_image,
    parse_run,
    parse_status,
    report,
    status,
)
from imagetag.storage.base import checked_key

MD5 = "0123456789abcdef0123456789abcdef"

# Anything that UTF-8 can say, short enough to be a file's name after percent-encoding.
tags = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(tags)
@example("fate/stay_night")
@example("re:zero")
@example("jeanne_d'arc_(fate)")
@example(".")
@example("..")
@example("...")
@example("%2E")
@example(".hidden.")
@example("a/../../etc/passwd")
@example("\0")
@example("~")
@example("con ")
def test_a_tag_is_one_safe_component_and_comes_back(tag: str) -> None:
    component = encode(tag)
    assert decode(component) == tag
    assert component.isascii()
    assert component.isprintable()
    assert not set(component) & set('/\\:*?"<>| ~')
    assert component[0] != "."
    assert component[-1] not in ". "
    assert len("not_" + component) <= 255


@given(tags, tags)
@example("asuka", "not_asuka")
@example("a/b", "a%2Fb")
@example(".", "%2E")
@example("é", "e\u0301")
def test_distinct_tags_have_distinct_folders(one: str, other: str) -> None:
    assert (Layout(one).root == Layout(other).root) == (one == other)


@given(tags)
@example(".")
@example("..")
@example("../a")
@example("a/../b")
def test_nothing_of_a_tag_lies_outside_its_folder(tag: str) -> None:
    layout = Layout(tag)
    keys = [
        layout.manifest,
        layout.dataset,
        layout.latest,
        layout.models,
        layout.explore("report.html"),
        layout.run("r1", "model.keras"),
        layout.part("part", MD5),
        layout.packed("p1"),
        layout.packed("p1", "index.json"),
        layout.shard("p1", "train", 0, 1),
        layout.shard("p1", "train", 0, 1, "json"),
        layout.latest_packed,
    ]
    keys += [layout.images(split, label) for split in SPLITS for label in LABELS]
    for key in keys:
        assert key.startswith(layout.root)
        checked_key(key, folder=key.endswith("/"))
    assert len(set(keys)) == len(keys)


@given(tags, st.sampled_from(SPLITS), st.sampled_from(LABELS), st.sampled_from(["jpg", "webp"]))
@example("not_asuka", "train", "positive", "jpg")
@example("asuka", "train", "negative", "jpg")
def test_parse_image_is_the_inverse_of_image(
    tag: str, split: Split, label: Label, ext: str
) -> None:
    key = Layout(tag).image(split, label, MD5, ext)
    assert parse_image(key) == ImageKey(tag, split, label, MD5, ext)


@given(tags, st.sampled_from(["metrics.json", "saved_model/1/variables/variables.index"]))
def test_parse_run_is_the_inverse_of_run(tag: str, name: str) -> None:
    assert parse_run(Layout(tag).run("r1", name)) == RunKey(tag, "r1", name)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "asuka/models/LATEST",
        "asuka/models/latest/metrics.json",
        "asuka/models/r1",
        "asuka/models/r1/",
        "asuka/models/.r1/metrics.json",
        "asuka/packed/r1/index.json",
        "%zz/models/r1/metrics.json",
        "%FF/models/r1/metrics.json",
        ".shared/models/r1/metrics.json",
        "/models/r1/metrics.json",
        "\ud800/models/r1/metrics.json",
        f"{'x' * 300}/models/r1/metrics.json",
    ],
)
def test_a_key_that_is_no_runs_is_refused(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the class is the promise
        parse_run(key)


@given(tags)
def test_no_tag_has_the_folder_of_reports(tag: str) -> None:
    assert not report("x").startswith(Layout(tag).root)


def test_the_layout_is_the_one_that_is_documented() -> None:
    layout = Layout("fate/stay_night")
    assert layout.image("test", "negative", MD5, "jpg") == (
        f"fate%2Fstay_night/test/not_fate%2Fstay_night/{MD5}.jpg"
    )
    assert layout.image("train", "positive", MD5, "png") == (
        f"fate%2Fstay_night/train/fate%2Fstay_night/{MD5}.png"
    )
    assert layout.dataset == "fate%2Fstay_night/dataset.json"
    assert layout.part("part", "ab" * 12) == f"fate%2Fstay_night/manifest/part-{'ab' * 12}.jsonl"
    assert layout.explore("report.html") == "fate%2Fstay_night/explore/report.html"
    assert layout.run("r1", "model.keras") == "fate%2Fstay_night/models/r1/model.keras"
    assert layout.latest == "fate%2Fstay_night/models/LATEST"
    assert layout.models == "fate%2Fstay_night/models/"
    assert report("leaderboard.html") == ".reports/leaderboard.html"
    packed = "fate%2Fstay_night/packed"
    assert layout.packed("p1", "index.json") == f"{packed}/p1/index.json"
    assert layout.shard("p1", "train", 3, 12) == f"{packed}/p1/train-00003-of-00012.tfrecord"
    note = layout.shard("p1", "validation", 0, 1, "json")
    assert note == f"{packed}/p1/validation-00000-of-00001.json"
    assert layout.latest_packed == f"{packed}/LATEST"


def test_the_label_folders_of_x_and_not_x_never_meet() -> None:
    folders = {
        Layout(tag).images(split, label)
        for tag in ("x", "not_x", "not_not_x")
        for split in SPLITS
        for label in LABELS
    }
    assert len(folders) == 12


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "asuka",
        f"asuka/train/asuka/{MD5}",
        f"asuka/train/asuka/{MD5}.",
        f"asuka/train/asuka/{MD5}.jpg/x",
        f"asuka/train/asuka/{MD5}.JPG",
        f"asuka/train/asuka/{MD5}.jpg\n",
        f"asuka/train/asuka/{MD5.upper()}.jpg",
        f"asuka/train/asuka/x{MD5}.jpg",
        f"asuka/train/asuka/.{MD5}.jpg",
        f"asuka/train/rei/{MD5}.jpg",
        f"asuka/train/not_not_asuka/{MD5}.jpg",
        f"asuka/validation/asuka/{MD5}.jpg",
        f"asuka//asuka/{MD5}.jpg",
        f"/train/asuka/{MD5}.jpg",
        f"../train/../{MD5}.jpg",
        f"%2e%2e/train/%2e%2e/{MD5}.jpg",
        f"%/train/%/{MD5}.jpg",
        f"%FF/train/%FF/{MD5}.jpg",
        f"%41suka/train/%41suka/{MD5}.jpg",
        f"é/train/é/{MD5}.jpg",
        f"\ud800/train/\ud800/{MD5}.jpg",
        f"{'x' * 300}/train/{'x' * 300}/{MD5}.jpg",
    ],
)
def test_a_key_that_is_no_images_is_refused(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the class is the promise
        parse_image(key)


@given(*[st.text(st.characters())] * 4)
def test_a_hostile_key_is_refused_with_a_value_error_and_nothing_else(
    tag: str, split: str, label: str, name: str
) -> None:
    for key in (tag, f"{tag}/{split}/{label}/{name}", f"{tag}/train/{tag}/{name}"):
        with pytest.raises(ValueError):  # noqa: PT011 - the class is the promise
            parse_image(key)


@given(st.text(st.characters()))
def test_decode_gives_back_only_what_encode_makes(component: str) -> None:
    try:
        tag = decode(component)
    except ValueError:
        return
    assert encode(tag) == component


@pytest.mark.parametrize("tag", ["", "x" * 241, "初" * 81, "\ud800"])
def test_a_tag_that_cannot_be_a_file_name_is_a_usage_error(tag: str) -> None:
    with pytest.raises(UsageError, match="the tag"):
        encode(tag)


@pytest.mark.parametrize(("md5", "ext"), [("../x", "jpg"), (MD5, "j/g"), (MD5, ""), ("", "jpg")])
def test_an_image_has_a_name_that_is_its_content(md5: str, ext: str) -> None:
    with pytest.raises(ValueError, match="not an image's name"):
        Layout("asuka").image("train", "positive", md5, ext)


@pytest.mark.parametrize("kind", ["part", "failed", "curated"])
def test_a_parts_kind_is_read_from_its_key(kind: str) -> None:
    layout = Layout("asuka")
    key = layout.part(kind, "ab" * 12)  # type: ignore[arg-type]
    assert layout.part_kind(key) == kind
    for strange in (
        key.removeprefix(layout.manifest),
        Layout("fubuk").manifest + key.removeprefix(layout.manifest),
        key + "\n",
        key + ".tmp",
        layout.manifest + "other.jsonl",
        layout.manifest + "../" + key.removeprefix(layout.manifest),
        "",
    ):
        assert layout.part_kind(strange) is None


@pytest.mark.parametrize("name", ["2026-11-22T10.00", "a", "vgg19_300x200", "x" * 100])
def test_a_runs_name_is_a_file_name(name: str) -> None:
    assert checked_run(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "-a", "_a", "a b", "é", "a\n", "x" * 101, "LATEST", "latest"],
)
def test_any_other_name_of_a_run_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--run"):
        checked_run(name)
    with pytest.raises(UsageError, match="--run"):
        Layout("asuka").run(name, "model.keras")
    with pytest.raises(UsageError, match="--packed"):
        Layout("asuka").packed(name)


@given(tags, st.sampled_from(STAGES), st.integers(0, 1023), st.sampled_from(get_args(WorkState)))
def test_the_key_of_a_record_of_work_is_read_back(
    tag: str, stage: Stage, worker: int, state: WorkState
) -> None:
    of = StatusKey(tag, stage, worker, state)
    assert parse_status(checked_key(status(of))) == of
    for parse in (parse_image, parse_run):
        with pytest.raises(ValueError):  # noqa: PT011 - the class is the promise
            parse(status(of))


@pytest.mark.parametrize(
    "key",
    [
        "a/scrape-0.running.json",
        ".status/scrape-0.running.json",
        ".status/a/scrape.running.json",
        ".status/a/scrape-0.json",
        ".status/a/paint-0.done.json",
        ".status/a/b/scrape-0.done.json",
        ".status/.hidden/scrape-0.done.json",
        ".status/a/scrape-0.done.json.tmp",
    ],
)
def test_what_is_no_record_of_work_is_refused(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the class is the promise
        parse_status(key)
