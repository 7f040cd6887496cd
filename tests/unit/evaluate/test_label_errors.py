"""Suspect labels: wrong ones that were planted are found, right ones mostly left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from imagetag.dataset.manifest import summarize
from imagetag.errors import InputError, UsageError
from imagetag.evaluate import label_errors
from imagetag.evaluate.label_errors import Example, find_suspects
from imagetag.layout import LABELS, Label, Layout
from imagetag.runs import suspects as stored
from imagetag.runs.suspects import Part, Suspects, load_suspects, store_suspects
from imagetag.storage.local import LocalStorage
from tests.builders.rows import make_row

TAG, RUN = "fate/stay_night", "some-run"


def example(
    number: int,
    features: ArrayLike,
    *,
    positive: bool,
    part: Part = "train",
    group: str | None = None,
    logit: float = 0.0,
    **changes: Any,
) -> Example:
    values = {
        "split": "test" if part == "test" else "train",
        "label": "positive" if positive else "negative",
        "group": group or f"group {number}",
    }
    row = make_row(number, **{**values, **changes})
    found = np.asarray(features, np.float32)
    return Example(row, found, logit, part)


@dataclass(frozen=True)
class Planted:
    """Examples in two clouds, and which of the negatives are really positives."""

    examples: list[Example]
    forgotten: set[str]

    def counts(self, found: Suspects, *parts: Part) -> tuple[int, int, int]:
        """How many were found rightly and wrongly, and how many there are to find."""
        there = {item.row.md5 for item in self.examples if not parts or item.part in parts}
        listed = {item.md5 for item in found.of_label("negative")} & there
        forgotten = self.forgotten & there
        return len(listed & forgotten), len(listed - forgotten), len(forgotten)


def planted(
    seed: int,
    *,
    share: float = 0.05,
    images: int = 400,
    channels: int = 16,
    distance: float = 5.0,
    ratio: float = 1.0,
) -> Planted:
    """Two Gaussian clouds at a distance; a share of the negatives is of the positives' cloud."""
    random = np.random.default_rng(seed)
    negatives = round(images * ratio / (1 + ratio))
    wrong = round(share * negatives)
    examples = []
    for number in range(images):
        labelled = number >= negatives
        really = labelled or number < wrong
        features = random.normal(size=channels)
        features[0] += distance * really
        drawn = random.random()
        part: Part = "test" if drawn < 0.2 else "validation" if drawn < 0.36 else "train"
        examples.append(example(number, features, positive=labelled, part=part))
    return Planted(examples, {item.row.md5 for item in examples[:wrong]})


def summed(results: Sequence[tuple[int, int, int]]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = np.array(results).sum(axis=0)
    return total


# ---- what is found


@pytest.mark.parametrize(
    ("options", "least_precision", "least_recall"),
    [
        ({}, 0.9, 0.55),
        ({"share": 0.15}, 0.95, 0.5),
        ({"ratio": 3.0, "images": 600}, 0.9, 0.35),
        ({"channels": 100, "distance": 8.0}, 0.9, 0.55),
    ],
)
def test_forgotten_tags_are_found(
    options: dict[str, Any], least_precision: float, least_recall: float
) -> None:
    results = []
    for seed in range(4):
        sample = planted(seed, **options)
        results.append(sample.counts(find_suspects(sample.examples, seed=seed)))
    right, wrong, all_of_them = summed(results)
    assert all_of_them >= 40
    assert right / (right + wrong) >= least_precision
    assert right / all_of_them >= least_recall


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_every_part_is_looked_at(part: Part) -> None:
    results = []
    for seed in range(4):
        sample = planted(seed, share=0.15)
        found = find_suspects(sample.examples, seed=seed)
        results.append(sample.counts(found, part))
        assert {item.part for item in found.found} <= {"train", "validation", "test"}
        assert all((item.split == "test") == (item.part == "test") for item in found.found)
    right, wrong, all_of_them = summed(results)
    assert right / all_of_them >= 0.45
    assert wrong <= 0.15 * right


@pytest.mark.parametrize(
    ("distance", "most"),
    [
        (6.0, 0.002),
        # Here labels overlap: the best classifier there can be is wrong on 7 % of the images.
        (3.0, 0.03),
    ],
)
def test_clean_labels_are_mostly_left_alone(distance: float, most: float) -> None:
    listed = total = 0
    for seed in range(5):
        sample = planted(seed, share=0.0, distance=distance)
        found = find_suspects(sample.examples, seed=seed)
        assert found.reason is None
        listed += len(found.of_label("negative"))
        total += sum(labels["negative"] for labels in found.looked_at.values())
    assert listed <= most * total


@pytest.mark.parametrize("distance", [0.0, 0.5])
def test_features_that_hardly_tell_the_labels_apart_judge_none(distance: float) -> None:
    sample = planted(1, distance=distance)
    found = find_suspects(sample.examples, seed=0)
    assert found.found == ()
    assert found.unjudged == len(sample.examples)
    assert found.auc is not None
    assert found.auc < label_errors.LEAST_AUC
    assert "area under the ROC curve" in str(found.reason)


def test_positives_that_do_not_look_like_the_tag_are_listed_apart() -> None:
    sample = planted(2, share=0.0)
    wrong = {item.row.md5 for item in sample.examples[:12]}
    examples = [
        example(item.row.post_id, item.features, positive=True, part=item.part)
        if item.row.md5 in wrong
        else item
        for item in sample.examples
    ]
    found = find_suspects(examples, seed=0)
    listed = {label: {item.md5 for item in found.of_label(label)} for label in LABELS}
    assert len(listed["positive"] & wrong) >= 7
    assert len(listed["positive"] - wrong) <= 1
    assert len(listed["negative"]) <= 1


def twins(*, in_one_group: bool) -> Planted:
    """Positives and negatives, and pairs of twins without the tag that say they have none.

    What both of a pair share, and no other picture has, is much of what is seen of them.
    """
    pairs, others = 12, 300
    random = np.random.default_rng(5)
    examples = []
    for number in range(others + 2 * pairs):
        twin = number - others
        features = random.normal(size=1 + pairs) * 0.3
        features[1:] = 0
        features[0] += 3.0 * (number % 2)
        if twin >= 0:
            features[0] = 4.0  # as clear as any
            features[1 + twin // 2] = 1.0
        group = f"pair {twin // 2}" if twin >= 0 and in_one_group else None
        labelled = bool(number % 2) and twin < 0
        examples.append(example(number, features, positive=labelled, group=group))
    return Planted(examples, {item.row.md5 for item in examples[others:]})


def test_a_twin_has_no_say_as_no_group_straddles_folds() -> None:
    """Twins whose groups are not known confirm each other's wrong label."""
    apart, together = twins(in_one_group=False), twins(in_one_group=True)
    right, _, all_of_them = together.counts(find_suspects(together.examples, seed=0))
    assert right == all_of_them
    right, _, all_of_them = apart.counts(find_suspects(apart.examples, seed=0))
    assert right < all_of_them / 2


def test_test_labels_have_no_say_elsewhere() -> None:
    sample = planted(3)
    flipped = [
        example(
            item.row.post_id,
            item.features,
            positive=(item.row.label == "positive") != (item.part == "test"),
            part=item.part,
        )
        for item in sample.examples
    ]

    def elsewhere(examples: list[Example]) -> list[tuple[str, float]]:
        found = find_suspects(examples, seed=0)
        listed = [(item.md5, item.probability) for item in found.found if item.part != "test"]
        assert listed
        return listed

    before = elsewhere(sample.examples)
    assert elsewhere(flipped) == before
    assert elsewhere([item for item in sample.examples if item.part != "test"]) == before


def test_test_pictures_are_judged_by_one_head_without_their_labels() -> None:
    sample = planted(3, share=0.15)
    found = find_suspects(sample.examples, seed=0)
    known = [item for item in sample.examples if item.part != "test"]
    [one, *_] = [item for item in found.found if item.part == "test"]
    alone = [item for item in sample.examples if item.row.md5 == one.md5]
    counterpart = example(77_777, -alone[0].features, positive=True, part="test")
    again = find_suspects([*known, *alone, counterpart], seed=0)
    assert again.of_label("negative")  # judged by few, and still
    probability = {item.md5: item.probability for item in again.found}
    assert probability[one.md5] == one.probability


def test_the_order_of_examples_means_nothing_and_the_seed_is_kept() -> None:
    sample = planted(4)
    found = find_suspects(sample.examples, seed=9)
    assert find_suspects(sample.examples[::-1], seed=9) == found
    assert found.seed == 9


def test_what_is_said_of_a_suspect() -> None:
    sample = planted(4, share=0.1)
    examples = [
        Example(item.row, item.features, 1000.0 if number % 2 else float("nan"), item.part)
        for number, item in enumerate(sample.examples)
    ]
    found = find_suspects(examples, seed=0)
    rows = {item.row.md5: item for item in examples}
    for label in ("negative", "positive"):
        mine = found.of_label(label)
        assert [item.rank for item in mine] == list(range(1, len(mine) + 1))
        confidence = [
            item.probability if label == "positive" else 1 - item.probability for item in mine
        ]
        assert confidence == sorted(confidence)
    assert len({item.said for item in found.found}) == 2
    for item in found.found:
        row, part = rows[item.md5].row, rows[item.md5].part
        assert (item.post_id, item.board, item.page_url) == (row.post_id, row.board, row.page_url)
        assert (item.label, item.split, item.part) == (row.label, row.split, part)
        assert item.said == (1.0 if row.post_id % 2 else None)
    assert found.of_label("negative")[0].probability > 0.9
    assert found.looked_at["train"] == {
        label: sum(x.row.label == label and x.part == "train" for x in examples)
        for label in ("positive", "negative")
    }
    assert (found.unjudged, found.reason) == (0, None)
    assert found.fingerprint == summarize(x.row for x in examples)[2]
    assert found.method.startswith("cleanlab 2.")
    assert "5 folds by group" in found.method


# ---- few, strange and broken examples


@pytest.mark.parametrize("seed", range(6))
def test_eight_images_are_enough_not_to_crash(seed: int) -> None:
    sample = planted(seed, images=8, share=0.25)
    found = find_suspects(sample.examples, seed=seed)
    assert sum(sum(labels.values()) for labels in found.looked_at.values()) == 8
    assert len(found.found) <= 8


@pytest.mark.parametrize(
    ("examples", "reason"),
    [
        ([], "one of the labels has 0 groups, and 2 are needed"),
        ([(False, "a", "train")] * 9, "one of the labels has 0 groups"),
        ([(False, "a", "train"), (True, "b", "train")], "one of the labels has 1 groups"),
        ([(False, None, "train"), (True, "one", "validation")] * 9, "has 1 groups"),
        ([(False, None, "test"), (True, None, "test")] * 9, "has 0 groups"),
    ],
)
def test_what_cannot_be_judged_is_said(
    examples: list[tuple[bool, str | None, Part]], reason: str
) -> None:
    made = [
        example(number, [number, number % 2], positive=positive, group=group, part=part)
        for number, (positive, group, part) in enumerate(examples)
    ]
    found = find_suspects(made, seed=0)
    assert (found.found, found.auc, found.unjudged) == ((), None, len(made))
    assert reason in str(found.reason)


def test_groups_that_have_nearly_all_of_a_label_do_no_harm() -> None:
    """Two groups have nearly all images: what is left to learn from may be of one label."""
    examples = [
        example(number, [number % 2, 1.0], positive=bool(number % 2), group=group)
        for number, group in enumerate(["a"] * 20 + ["b"] * 20)
    ]
    # Group `c` joins a fold; nothing but it is then of one label.
    mixed = [
        example(number, [0.0, 1.0], positive=number % 2 == 0, group="c" if number % 2 else "d")
        for number in range(100, 104)
    ]
    for made in (examples, mixed, [*examples, *mixed]):
        found = find_suspects(made, seed=0)
        assert len(found.found) <= len(made) - found.unjudged


def test_features_that_are_no_numbers_are_left_alone() -> None:
    sample = planted(1)
    bad = [
        example(900 + number, [value] * 16, positive=bool(number % 2))
        for number, value in enumerate([np.nan, np.inf, -np.inf, np.nan])
    ]
    found = find_suspects([*sample.examples, *bad], seed=0)
    plain = find_suspects(sample.examples, seed=0)
    assert found.found == plain.found
    assert found.unjudged == 4
    assert sum(sum(labels.values()) for labels in found.looked_at.values()) == 404


def test_features_that_are_constant_or_huge_do_no_harm() -> None:
    sample = planted(1)
    odd = []
    for number, item in enumerate(sample.examples):
        more = [7.0, 0.0, 3e38 if number == 100 else 0.0]
        odd.append(
            Example(item.row, np.append(item.features, more).astype(np.float32), 0, item.part)
        )
    right, wrong, all_of_them = sample.counts(find_suspects(odd, seed=0))
    assert right >= all_of_them / 2
    assert wrong <= 1


def test_an_outlier_of_the_test_split_does_no_harm() -> None:
    """As large as a number can be, where all others are next to nothing."""
    sample = planted(1)
    more = [
        Example(item.row, np.append(item.features, item.features[1] * 1e-9), 0, item.part)
        for item in sample.examples
    ]
    outliers = [
        example(900 + number, [0.0] * 16 + [value], positive=False, part="test")
        for number, value in enumerate([3e38, -3e38])
    ]
    found = find_suspects([*more, *outliers], seed=0)
    assert found.unjudged == 0
    listed = {item.md5 for item in found.of_label("negative")}
    assert listed & sample.forgotten
    assert not listed & {item.row.md5 for item in outliers}


def test_the_library_that_judges_is_not_loaded_before_it_is_needed() -> None:
    script = "import sys, imagetag.evaluate.label_errors; sys.exit('cleanlab' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


# ---- in storage


@pytest.fixture(scope="module")
def found() -> Suspects:
    return find_suspects(planted(4, share=0.1).examples, seed=3)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


def test_what_is_stored_is_read_back(found: Suspects, storage: LocalStorage) -> None:
    store_suspects(storage, TAG, RUN, found)
    again = load_suspects(storage, TAG, RUN)
    assert (again.tag, again.run) == (TAG, RUN)
    assert again.model_dump(exclude={"tag", "run"}) == found.model_dump()
    assert len(again.found) > 5
    stored = json.loads(storage.read("fate%2Fstay_night/models/some-run/suspects.json"))
    assert stored["found"][0]["page_url"].startswith("https://board.example/post/")


def test_hostile_rows_stay_small(storage: LocalStorage) -> None:
    sample = planted(4, share=0.1)
    long = {"page_url": "https://" + "x" * 100_000, "board": "b" * 100_000}
    examples = [
        Example(item.row.model_copy(update=long), item.features, 0, item.part)
        for item in sample.examples
    ]
    store_suspects(storage, TAG, RUN, find_suspects(examples, seed=0))
    assert {item.page_url for item in load_suspects(storage, TAG, RUN).found} == {""}
    [entry] = storage.list("")
    assert entry.size < 50_000


def test_what_is_missing_is_said_with_what_to_do(storage: LocalStorage) -> None:
    command = "run imagetag evaluate --tags fate/stay_night --run some-run first"
    with pytest.raises(InputError, match=f"no suspect labels of the run 'some-run'.*: {command}"):
        load_suspects(storage, TAG, RUN)
    with pytest.raises(UsageError):
        load_suspects(storage, TAG, "../x")


def changed(label: Label = "negative", **changes: Any) -> dict[str, Any]:
    suspect: dict[str, Any] = {
        "md5": "0" * 32,
        "part": "train",
        "label": label,
        "post_id": 1,
        "board": "b",
        "page_url": "",
        "probability": 0.9,
        "said": None,
        "rank": 1,
    }
    return {"found": [suspect | changes]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (changed(md5="../../x"), "found.0.md5"),
        (changed(probability=1.5), "found.0.probability"),
        (changed(probability="NaN"), "found.0.probability"),
        (changed(part="holdout"), "found.0.part"),
        (changed(rank=0), "found.0.rank"),
        ({"unjudged": -1}, "unjudged"),
        ({"version": 2}, "version"),
        ({"run": "another"}, "suspects.json is of the run 'another'"),
        ({"tag": "another"}, "of the tag 'another'"),
    ],
)
def test_a_damaged_list_is_one_line(
    change: dict[str, Any], complaint: str, found: Suspects, storage: LocalStorage
) -> None:
    store_suspects(storage, TAG, RUN, found)
    key = Layout(TAG).run(RUN, "suspects.json")
    storage.write(key, json.dumps(json.loads(storage.read(key)) | changed()).encode())
    assert load_suspects(storage, TAG, RUN).found[0].md5 == "0" * 32
    storage.write(key, json.dumps(json.loads(storage.read(key)) | change).encode())
    with pytest.raises(InputError) as caught:
        load_suspects(storage, TAG, RUN)
    text = str(caught.value)
    assert complaint in text
    assert text.startswith((f"{storage.url}/{key} cannot be read", f"{storage.url}/{key} is of"))
    assert "evaluation.json and run imagetag evaluate" in text
    assert "\n" not in text


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_torn_list_is_one_line(cut: int, found: Suspects, storage: LocalStorage) -> None:
    store_suspects(storage, TAG, RUN, found)
    key = Layout(TAG).run(RUN, "suspects.json")
    storage.write(key, storage.read(key)[:cut])
    with pytest.raises(InputError, match="cannot be read"):
        load_suspects(storage, TAG, RUN)


def test_no_more_than_a_bound_is_read(
    found: Suspects, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_suspects(storage, TAG, RUN, found)
    monkeypatch.setattr(stored, "_MAX_BYTES", 1000)
    with pytest.raises(InputError, match="it is larger than 1,000 bytes"):
        load_suspects(storage, TAG, RUN)
