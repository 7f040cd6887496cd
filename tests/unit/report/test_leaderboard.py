"""The leaderboard: ranks, ties, damaged and missing evaluations, and a page that holds together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import urlopen

import boto3
import numpy as np
import pytest

from imagetag.evaluate.measuring import predictions_table
from imagetag.layout import INDEX, Layout
from imagetag.report import leaderboard_page, results, tag_ranking
from imagetag.report.leaderboard_page import MAX_PAGE_BYTES, Axis
from imagetag.report.model_ranking import Summary
from imagetag.report.results import Evaluation, Training, load_result, load_table
from imagetag.report.tag_ranking import Entry, TagRanking, find_runs, rank_runs, verdict
from imagetag.stats import comparison
from imagetag.stats.comparison import RESAMPLED, Metric, Span
from imagetag.storage.local import LocalStorage
from imagetag.storage.opening import open_storage
from imagetag.verdicts import store_audit
from jobs import report
from tests.builders.audits import audit_result
from tests.builders.datasets import make_dataset
from tests.builders.evaluations import TRAINED as EVALUATED_MODEL
from tests.builders.evaluations import evaluation_of, scored
from tests.builders.results import (
    TRAINED,
    Pictures,
    make_logits,
    make_pictures,
    rough_evaluation,
    table_of,
    write_run,
)
from tests.builders.rows import make_row
from tests.ended import log_lines
from tests.pages import Page

RESAMPLES = 400  # enough here, and quick
PAGE = ".reports/leaderboard.html"
PICTURES = make_pictures(60, 90)
HOSTILE = [
    "fate/stay_night",
    "re:zero",
    "..",
    "a%2Fb",
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}{% raw %}",
    "</details></title><svg/onload=alert(1)>",
    "x" * 200,
    "惣流・アスカ",
    "\u202etxt.exe",
]


def addresses(page: Page) -> list[str]:
    return [link["href"] for link in page.links]


Outcome = tuple[int, list[dict[str, Any]]]


class Reported:
    """Runs the job on a folder; reads what came out."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.storage = LocalStorage(root)
        self._capfd = capfd

    def run(self, *argv: str) -> Outcome:
        self._capfd.readouterr()
        code = report.main(["--storage", self.storage.url, *argv])
        return code, log_lines(self._capfd.readouterr().err)

    def made(self, *argv: str) -> tuple[Page, dict[str, Any]]:
        code, lines = self.run(*argv)
        assert code == 0, lines
        return self.page(), self.json()

    def page(self) -> Page:
        return Page(self.storage.read(PAGE).decode())

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.storage.read(".reports/leaderboard.json"))
        return found

    def write(self, tag: str, run: str, skill: float = 3, seed: int = 0, **options: Any) -> None:
        pictures = options.pop("pictures", PICTURES)
        write_run(
            self.storage, tag, run, pictures, make_logits(pictures, skill, seed=seed), **options
        )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", RESAMPLES)


@pytest.fixture
def job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Reported:
    return Reported(tmp_path, capfd)


@pytest.fixture
def two(job: Reported) -> Reported:
    """A tag on which vgg19 is better than alexnet, and one on which there is only noise."""
    job.write("asuka", "v1", 5, seed=1)
    job.write("asuka", "a1", 1.5, seed=2, model="alexnet")
    job.write("rei", "v2", 3, seed=3)
    job.write("rei", "a2", 3, seed=4, model="alexnet")
    return job


def board(storage: LocalStorage, tag: str, metric: Metric = "average-precision") -> TagRanking:
    [(_, runs)] = find_runs(storage, [tag])
    return rank_runs(storage, tag, runs, metric)


def places(found: TagRanking) -> dict[str, str | None]:
    return {entry.training.run: entry.place for entry in found.entries}


def test_the_options_of_the_job_are_the_metrics_there_are() -> None:
    field = report.ReportSettings.model_fields["metric"]
    assert get_args(field.annotation) == get_args(Metric) == tuple(leaderboard_page._METRICS)


def test_a_real_difference_is_told_from_noise(two: Reported) -> None:
    page, found = two.made()
    [asuka, rei] = found["tags"]
    assert (asuka["tag"], asuka["winner"]) == ("asuka", "vgg19")
    assert [(run["run"], run["place"]) for run in asuka["runs"]] == [
        ("v1", "best"),
        ("a1", "behind"),
    ]
    assert (rei["tag"], rei["winner"]) == ("rei", None)
    assert sorted(run["place"] for run in rei["runs"]) == ["best", "tied"]
    assert asuka["pictures"] == {"positives": 60, "negatives": 90, "groups": 150}
    headline = "On 1 of 2 tags vgg19 is best; on 1 the difference may be noise."
    assert found["headline"].startswith(headline)
    assert headline in page.text
    assert "vgg19 is best" in page.text
    assert "cannot be told apart" in page.text
    assert [row["class"] for row in page.all("tr") if row.get("class") in ("best", "tied")] == [
        "best",
        "best",
        "tied",
    ]


def test_what_is_told_of_a_run(two: Reported) -> None:
    two.write("asuka", "m1", 2, seed=9, model="mobilenet", training={"seconds": None})
    page, found = two.made()
    told = {run["run"]: run for run in found["tags"][0]["runs"]}
    assert told["v1"]["seconds"] == 754.2
    assert told["v1"]["parameters"] == 20_024_384
    assert told["v1"]["image_size"] == [192, 256]
    assert told["v1"]["promise"]["min_precision"] == 0.95
    assert told["v1"]["report"] == "asuka/models/v1/report.html"
    assert told["m1"]["seconds"] is None
    for words in ("12.6 min", "20 M", "192 \N{MULTIPLICATION SIGN} 256", "≥ 0.95"):
        assert words in page.text.replace("\u2009", " ").replace("\xa0", " ")


def test_what_an_audit_has_proven_is_told_of_its_run(two: Reported) -> None:
    two.write("shinji", "v3", 3)
    for tag, run, right in (("asuka", "v1", 60), ("shinji", "v3", 0)):
        found = {"tag": tag, "run": run, "trained": TRAINED, "right": right}
        store_audit(two.storage, audit_result(**found))
    two.storage.write("shinji/audits/aaaaaaaaaaaa.json", b"{")
    sentence = "0.95 proven on your pictures, 2026-12-01, 60 judged"
    page, told = two.made()
    assert page.text.count(sentence) == 1, "of one that nobody has judged there is nothing to tell"
    audits = {run["run"]: run["audit"] for tag in told["tags"] for run in tag["runs"]}
    assert audits["v1"]["outcome"] == "proven"
    assert {run for run, audit in audits.items() if audit} == {"v1"}
    store_audit(two.storage, audit_result(tag="shinji", run="v3", trained=TRAINED))
    assert two.made()[0].text.count(sentence) == 2


@pytest.mark.parametrize("metric", get_args(Metric))
def test_runs_are_ranked_by_the_metric_that_is_asked_for(two: Reported, metric: str) -> None:
    page, found = two.made("--tags", "asuka", "--metric", metric)
    assert found["metric"] == metric
    [tag] = found["tags"]
    assert [run["run"] for run in tag["runs"]] == ["v1", "a1"]
    key = metric.replace("-", "_")
    for run in tag["runs"]:
        assert run["value"]["value"] == pytest.approx(run[key]["value"], abs=1e-5)
        # A share's interval is made anew from the table: an older report may have told another.
        same = run["value"]["low"] == pytest.approx(run[key]["low"], abs=1e-5)
        assert same == (metric in RESAMPLED)
        assert run["value"]["low"] < run["value"]["value"]
    assert f"--metric {metric}" in page.text


def test_the_page_of_all_tags_is_linked_if_there_is_one(two: Reported) -> None:
    page, _ = two.made()
    assert "All tags" not in page.text
    two.storage.write(INDEX, b"<!doctype html>")
    page, _ = two.made()
    assert [link["href"] for link in page.all("a") if "index.html" in link["href"]] == [
        "../index.html"
    ]
    assert "All tags" in page.text


def test_only_what_is_on_the_page_is_explained(two: Reported) -> None:
    drawn = ["A dot is", "Bars of two runs", "Behind the best.", "Many comparisons."]
    words = two.made()[0].text
    assert all(text in words for text in drawn)
    two.storage.delete(Layout("asuka").run("a1", "metrics.json"))
    two.storage.delete(Layout("rei").run("a2", "metrics.json"))
    words = two.made()[0].text
    assert "Tags with one run" in words
    assert [text for text in (*drawn, "Other pictures.") if text in words] == []
    assert "Interval of a run. Below what was measured" in words


def test_the_same_runs_give_the_same_again(two: Reported) -> None:
    first = [two.made()[1] | {"created": ""} for _ in range(2)]
    assert first[0] == first[1]


def entry(run: str, model: str, value: float, place: Any, tag: str = "x") -> Entry:
    pictures = make_pictures(4, 4)
    told = rough_evaluation(tag, run, pictures, np.linspace(1, -1, 8))
    training = Training(tag=tag, run=run, model=model, created=TRAINED)
    evaluation = Evaluation.model_validate(told)
    span = Span(value, value - 0.01, value + 0.01)
    return Entry(training, evaluation, span, Span(0, 0, 0), place)


def by_hand(*rows: tuple[str, float, Any]) -> TagRanking:
    entries = [entry(f"r{number}", *row) for number, row in enumerate(rows)]
    return TagRanking("x", entries, (), ())


def test_ranks_and_wins_by_hand() -> None:
    summary = Summary("average-precision")
    summary.add(by_hand(("a", 0.9, "best"), ("b", 0.89, "behind"), ("c", 0.7, "behind")))
    summary.add(by_hand(("b", 0.9, "best"), ("a", 0.88, "tied"), ("c", 0.6, "behind")))
    # A model counts by its best run, and two that are equally far behind share their ranks.
    summary.add(
        by_hand(
            ("a", 0.9, "best"), ("a", 0.8, "tied"), ("b", 0.87, "behind"), ("c", 0.87, "behind")
        )
    )
    summary.add(by_hand(("a", 0.9, "best")))  # nothing to compare it with
    first, second, third = summary.ranking()
    assert (first.model, first.ranks) == ("a", [1, 1.5, 1])
    assert (second.model, second.ranks) == ("b", [2, 1.5, 2.5])
    assert (third.model, third.ranks) == ("c", [3, 3, 2.5])
    assert first.mean_rank == pytest.approx(3.5 / 3)
    assert [(tally.best, tally.tied, tally.behind) for tally in (first, second, third)] == [
        (2, 1, 0),
        (0, 1, 2),
        (0, 0, 3),
    ]
    assert first.mean == pytest.approx(2.68 / 3)
    assert first.loss is None
    # Of 0.01, -0.02 and 0.03 the mean is 0.02 / 3, and its standard error 0.0145297. Three pairs
    # of models hold together at 1 - 0.05 / 3, where Student's t of 2 degrees is 7.6488.
    assert second.loss is not None
    assert second.loss.value == pytest.approx(0.02 / 3)
    assert second.loss.low == pytest.approx(0.02 / 3 - 7.6488 * 0.0145297, abs=1e-5)
    assert second.loss.high == pytest.approx(0.02 / 3 + 7.6488 * 0.0145297, abs=1e-5)
    assert (summary.tags, summary.compared, summary.undecided) == (4, 3, 1)


def test_the_interval_over_tags_by_hand() -> None:
    summary = Summary("average-precision")
    for loss in (0.1, 0.2, 0.3):
        summary.add(by_hand(("a", 0.9, "best"), ("b", 0.9 - loss, "behind")))
    [_, second] = summary.ranking()
    # Their mean is 0.2, its standard error 0.1 / sqrt(3), and t of 2 degrees is 4.30265.
    assert second.loss is not None
    assert second.loss.low == pytest.approx(0.2 - 4.30265 * 0.1 / 3**0.5, abs=1e-5)
    assert second.loss.high == pytest.approx(0.2 + 4.30265 * 0.1 / 3**0.5, abs=1e-5)


def test_a_lower_brier_score_is_ahead_over_tags() -> None:
    summary = Summary("brier")
    for value in (0.10, 0.12, 0.11):
        summary.add(by_hand(("a", 0.05, "best"), ("b", value, "behind"), ("c", 0.3, "behind")))
    assert [tally.model for tally in summary.ranking()] == ["a", "b", "c"]
    assert "a is ahead of b by 0.060 on average" in summary.headline()


def test_a_model_of_few_tags_comes_last() -> None:
    summary = Summary("average-precision")
    summary.add(by_hand(("rare", 0.9, "best"), ("a", 0.8, "behind"), ("b", 0.7, "behind")))
    for _ in range(3):
        summary.add(by_hand(("a", 0.9, "best"), ("b", 0.8, "behind")))
    assert [tally.model for tally in summary.ranking()] == ["a", "b", "rare"]


A_BEST = (("a", 0.9, "best"), ("b", 0.8, "behind"))
B_BEST = (("b", 0.9, "best"), ("a", 0.8, "behind"))
NOISE = (("a", 0.9, "best"), ("b", 0.8, "tied"))
ALONE = (("a", 0.9, "best"),)


@pytest.mark.parametrize(
    ("boards", "words"),
    [
        ([ALONE, ALONE], "No tag has two evaluated runs that can be compared yet."),
        (
            [(("a", 0.9, "best"), ("a", 0.8, "behind")), (("a", 0.9, "best"), ("a", 0.8, "tied"))],
            "No tag has evaluated runs of two models; runs of one model are compared on 2 tags: "
            "on 1 one run is best, on 1 the difference may be noise.",
        ),
        ([A_BEST, ALONE], "On the only tag that can be compared a is best."),
        ([NOISE], "On the only tag that can be compared the difference may be noise."),
        ([NOISE, NOISE], "On none of 2 tags is one model best: the differences may be noise."),
        ([A_BEST, A_BEST], "On 2 of 2 tags a is best."),
        (
            [A_BEST, A_BEST, B_BEST, NOISE, NOISE],
            "On 2 of 5 tags a is best, on 1 b; on 2 the difference may be noise.",
        ),
    ],
)
def test_the_headline_says_what_came_out(boards: Sequence[Any], words: str) -> None:
    summary = Summary("average-precision")
    for rows in boards:
        summary.add(by_hand(*rows))
    assert summary.headline().startswith(words)


def test_the_headline_says_whether_models_differ_over_tags() -> None:
    summary = Summary("average-precision")
    for _ in range(5):
        summary.add(by_hand(*A_BEST))
    assert summary.headline().endswith(
        "Over 5 tags a is ahead of b by 0.100 on average (0.100 to 0.100)."
    )
    summary.add(by_hand(("b", 0.9, "best"), ("a", 0.1, "behind")))
    summary.add(by_hand(("a", 0.9, "best"), ("b", 0.8, "behind")))
    assert "b is ahead of a by 0.029 on average (\N{MINUS SIGN}" in summary.headline()
    assert summary.headline().endswith("which may be noise.")


def test_what_the_two_of_a_tag_are_called() -> None:
    cases = {
        "vgg19 is best": (("vgg19", 0.9, "best"), ("b", 0.8, "behind")),
        "vgg19 is best; 2 of its runs cannot be told apart": (
            ("vgg19", 0.9, "best"),
            ("vgg19", 0.9, "tied"),
            ("b", 0.8, "behind"),
        ),
        "a and b cannot be told apart": NOISE,
        "a, b, c and 2 others cannot be told apart": (
            ("a", 0.9, "best"),
            *((model, 0.8, "tied") for model in "bcde"),
        ),
        "r0 is the best run of a": (("a", 0.9, "best"), ("a", 0.8, "behind")),
        "2 runs of a cannot be told apart": (("a", 0.9, "best"), ("a", 0.8, "tied")),
        "one run to look at: a": ALONE,
        "no run can be compared": (("a", 0.9, None),),
        "no run is evaluated": (),
    }
    assert [verdict(by_hand(*rows))[1] for rows in cases.values()] == list(cases)


@pytest.mark.parametrize(
    ("promise", "precision", "high", "kept"),
    [
        (None, 0.9, 1, None),
        ({"met": False}, 0.99, 1, "unmet"),
        ({"met": True}, 0.95, 0.96, "kept"),
        ({"met": True}, 0.94, 0.96, "unclear"),
        ({"met": True}, 0.80, 0.90, "broken"),
        ({"met": True}, None, None, "unclear"),
    ],
)
def test_whether_a_promise_is_kept(
    promise: Any, precision: float | None, high: float | None, kept: str | None
) -> None:
    told = rough_evaluation("x", "r", make_pictures(4, 4), np.linspace(1, -1, 8))
    if promise is not None:
        promise = {"min_precision": 0.95, "confidence": 0.95} | promise
    told["decision"]["promise"] = promise
    told["metrics"]["chosen"]["precision"] = {"value": precision, "low": 0, "high": high}
    training = Training(tag="x", run="r", model="a", created=TRAINED)
    assert Entry(training, Evaluation.model_validate(told), None, None, None).kept == kept


def test_every_tag_in_storage_is_found_and_only_those_asked_for_are_read(two: Reported) -> None:
    two.storage.write("stray/models/v1/metrics.jsonl", b"")
    two.storage.write("%zz/models/v1/metrics.json", b"")  # no tag has such a folder
    two.storage.write(".shared/models/v1/metrics.json", b"")
    two.storage.write("asuka/models/v9/checkpoint/metrics.json", b"")  # not complete
    two.storage.write("asuka/models/LATEST", b"v1")
    found = list(find_runs(two.storage, None))
    assert [(tag, list(runs)) for tag, runs in found] == [
        ("asuka", ["a1", "v1"]),
        ("rei", ["a2", "v2"]),
    ]
    key = Layout("rei").run("v2", "test_predictions.csv")
    assert found[1][1]["v2"] == len(two.storage.read(key))
    _, made = two.made("--tags", "rei")
    assert [tag["tag"] for tag in made["tags"]] == ["rei"]


def test_a_tag_without_runs_is_named(two: Reported) -> None:
    code, lines = two.run("--tags", "rei,misato")
    assert code == 0
    assert [(line["event"], line.get("tag")) for line in lines] == [
        ("no trained run", "misato"),
        ("reported", None),
    ]
    assert (lines[-1]["tags"], lines[-1]["runs"], lines[-1]["evaluated"]) == (2, 2, 2)
    assert "There is no trained run of this tag." in two.page().text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard-count", "2"], "one pod makes the whole leaderboard"),
        (["--metric", "luck"], "--metric"),
        (["--tags", "*"], "search operators"),
        (["--output", "ftp://x"], "--output 'ftp://x'"),
    ],
)
def test_wrong_options_are_one_line(two: Reported, options: list[str], words: str) -> None:
    code, [line] = two.run(*options)
    assert code == 2
    assert words in line["event"]


def test_an_empty_file_of_tags_is_not_all_tags(two: Reported, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n")
    code, [line] = two.run("--tags-file", str(tmp_path / "none.txt"))
    assert code == 2
    assert "no tags given" in line["event"]


def test_nothing_trained_or_evaluated_is_one_line_and_3(job: Reported) -> None:
    code, [line] = job.run()
    assert code == 3
    assert "no trained run of any tag" in line["event"]
    job.write("asuka", "v1", evaluated=False)
    code, [line] = job.run()
    assert code == 3
    assert "none of the 1 trained runs of any tag" in line["event"]
    assert "run imagetag evaluate first" in line["event"]
    code, lines = job.run("--tags", "rei")
    assert code == 3
    assert "no trained run of rei" in lines[-1]["event"]
    assert not list(job.storage.list(".reports/"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"evaluated": False}, "not evaluated"),
        ({"evaluation": {"version": 2}}, "evaluated by an older version"),
        ({"training": {"created": "later"}}, "trained again since it was evaluated"),
    ],
)
def test_a_run_that_is_not_evaluated_is_listed_with_what_to_do(
    two: Reported, changes: dict[str, Any], reason: str
) -> None:
    two.write("asuka", "new", model="vgg16", **changes)
    page, found = two.made()
    assert found["tags"][0]["not_evaluated"] == [{"run": "new", "model": "vgg16", "reason": reason}]
    assert f"new (vgg16): {reason}; imagetag evaluate --tags asuka --run new" in page.text


def test_an_evaluation_without_a_version_is_an_older_one(two: Reported) -> None:
    key = Layout("asuka").run("a1", "evaluation.json")
    told = json.loads(two.storage.read(key))
    del told["version"]
    two.storage.write(key, json.dumps(told).encode())
    assert two.made()[1]["tags"][0]["not_evaluated"][0]["reason"] == "evaluated by an older version"


def changed_metrics(**changes: Any) -> dict[str, Any]:
    told = rough_evaluation("asuka", "bad", PICTURES, make_logits(PICTURES, 3, seed=0))
    return {"evaluation": {"metrics": told["metrics"] | changes}}


HEADER = b"md5,page_url,label,group,logit,probability,decision\n"
MD5 = b"0" * 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"model": None}}, "metrics.json cannot be read: model:"),
        ({"training": {"tag": "rei"}}, "metrics.json is of the run 'bad' of the tag 'rei'"),
        ({"training": {"seconds": float("inf")}}, "metrics.json cannot be read: seconds:"),
        ({"training": {"image_size": "big"}}, "metrics.json cannot be read: image_size:"),
        ({"evaluation": {"run": "v1"}}, "evaluation.json is of the run 'v1' of the tag 'asuka'"),
        ({"evaluation": {"version": 4}}, "evaluation.json cannot be read: version:"),
        ({"evaluation": {"metrics": []}}, "evaluation.json cannot be read: metrics:"),
        (changed_metrics(roc_auc={"value": 7, "low": 0, "high": 1}), "metrics.roc_auc.value:"),
        (changed_metrics(positives=-1), "metrics.positives:"),
        (changed_metrics(positives=10**400), "evaluation.json cannot be read"),
        ({"table": b""}, "test_predictions.csv: it has no column md5"),
        ({"table": b"\xff\xfe"}, "test_predictions.csv: 'utf-8' codec"),
        ({"table": HEADER}, "it has no picture, or one twice"),
        ({"table": HEADER + b"x" * 200_000}, "test_predictions.csv: "),
        ({"table": HEADER + b'"' + b"x" * 99}, "test_predictions.csv: unexpected end of data"),
        ({"table": HEADER + MD5 + b",u,maybe,g,1,1,true\n"}, "line 2 cannot be read: 'maybe'"),
        ({"table": HEADER + MD5 + b",u,positive,g,1,1,yes\n"}, "line 2 cannot be read: 'yes'"),
        ({"table": HEADER + MD5 + b",u,positive,g,nan,1,true\n"}, "line 2 cannot be read"),
        ({"table": HEADER + MD5 + b",u,positive,g,1,1.5,true\n"}, "line 2 cannot be read"),
        ({"table": HEADER + MD5 + b",u\n"}, "line 2 cannot be read"),
        ({"table": HEADER + b"0" * 31 + b"x,u,positive,g,1,1,true\n"}, "line 2 cannot be read"),
        ({"table": HEADER + 2 * (MD5 + b",u,positive,g,1,1,true\n")}, "or one twice"),
        ({"table": HEADER + MD5 + b",u,positive,g,1,1,true\n"}, "pictures are of one label"),
        (
            {"table": table_of(PICTURES, make_logits(PICTURES, 3, seed=7))},
            "not of the same evaluation",
        ),
    ],
)
def test_damaged_files_are_left_out_with_a_warning(
    two: Reported, changes: dict[str, Any], words: str
) -> None:
    before = two.made("--tags", "asuka")[1]["tags"]
    two.write("asuka", "bad", **changes)
    code, lines = two.run("--tags", "asuka")
    assert code == 0
    [warning] = [line for line in lines if line["level"] == "warning"]
    assert (warning["event"], warning["tag"], warning["run"]) == ("left out", "asuka", "bad")
    assert words in warning["reason"]
    assert "\n" not in warning["reason"]
    found = two.json()["tags"]
    assert found[0].pop("damaged")[0]["reason"] == warning["reason"]
    before[0].pop("damaged")
    assert found == before
    assert "bad is left out: " in two.page().text


@pytest.mark.parametrize("name", ["metrics.json", "evaluation.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"[]"])
def test_what_is_no_json_is_left_out(two: Reported, name: str, data: bytes) -> None:
    two.write("asuka", "bad")
    two.storage.write(Layout("asuka").run("bad", name), data)
    _, found = two.made("--tags", "asuka")
    [damaged] = found["tags"][0]["damaged"]
    assert f"bad/{name} cannot be read" in damaged["reason"]
    assert len(found["tags"][0]["runs"]) == 2


def test_a_table_that_is_missing_or_too_large_is_left_out(
    two: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.storage.delete(Layout("asuka").run("a1", "test_predictions.csv"))
    _, found = two.made("--tags", "asuka")
    assert "test_predictions.csv is missing" in found["tags"][0]["damaged"][0]["reason"]
    monkeypatch.setattr(results, "MAX_TABLE_BYTES", 1000)
    code, lines = two.run("--tags", "rei")
    assert "it is larger than 1,000 bytes" in lines[0]["reason"]
    assert code == 3


def test_runs_on_other_pictures_are_compared_on_those_in_common(job: Reported) -> None:
    old, new = make_pictures(60, 60), make_pictures(60, 100)
    job.write("asuka", "v1", 5, seed=1, pictures=old)
    job.write("asuka", "v2", 5, seed=2, pictures=old)
    # The same run, tested again when there were 40 negatives more, all of which it gets wrong.
    logits = np.append(make_logits(old, 5, seed=1), np.full(40, 9.0))
    write_run(job.storage, "asuka", "wider", new, logits)
    # It has 20 pictures of each label in common with them, which is a third.
    md5s = [md5 if number % 60 < 20 else f"{number:032x}" for number, md5 in enumerate(old.md5s)]
    other = Pictures(old.labels, md5s, old.groups)
    job.write("asuka", "other", 5, seed=3, pictures=other)
    found = board(job.storage, "asuka")
    entries = {entry.training.run: entry for entry in found.entries}
    assert (found.positives, found.negatives) == (60, 60)
    assert entries["wider"].partial
    assert not entries["v1"].partial
    assert entries["wider"].value is not None
    assert entries["v1"].value is not None
    assert entries["wider"].value.value == entries["v1"].value.value
    assert entries["other"].place is None
    assert "other pictures" in entries["other"].reason
    page, _ = job.made()
    assert "tested on other pictures too" in page.text
    assert "not compared" in page.text


def test_a_picture_whose_label_was_changed_is_not_in_common(job: Reported) -> None:
    job.write("asuka", "v1", 5, seed=1)
    job.write("asuka", "v2", 5, seed=2)
    labels = PICTURES.labels.copy()
    labels[:5] = False
    job.write("asuka", "v3", 5, seed=3, pictures=Pictures(labels, PICTURES.md5s, PICTURES.groups))
    found = board(job.storage, "asuka")
    assert (found.positives, found.negatives) == (55, 90)
    assert [entry.partial for entry in found.entries] == [True] * 3


def test_of_very_many_runs_the_best_are_compared(
    job: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, skill in enumerate((1, 3, 2, 4)):
        job.write("asuka", f"r{number}", skill, seed=number)
    monkeypatch.setattr(tag_ranking, "MAX_RUNS", 2)
    found = board(job.storage, "asuka")
    assert [entry.training.run for entry in found.entries] == ["r3", "r1", "r2", "r0"]
    assert [entry.reason for entry in found.entries] == ["", ""] + [
        "only 2 runs of a tag are compared"
    ] * 2
    monkeypatch.setattr(tag_ranking, "MAX_RUNS", 50)
    monkeypatch.setattr(tag_ranking, "_MAX_TABLES", 70_000)  # three of some 22 kB
    assert len(board(job.storage, "asuka").compared) == 3


def test_a_run_that_calls_nothing_has_no_precision(two: Reported) -> None:
    logits = make_logits(PICTURES, 3, seed=1) - 50
    write_run(two.storage, "asuka", "shy", PICTURES, logits, model="shy")
    found = board(two.storage, "asuka", "precision")
    assert places(found) == {"v1": "best", "a1": "behind", "shy": None}
    assert found.entries[-1].reason == "nothing was called positive"
    page, _ = two.made("--metric", "precision")
    assert "nothing was called positive" in page.text


def test_what_evaluate_stores_is_understood(job: Reported) -> None:
    rows = [
        make_row(
            number,
            page_url=f"https://board.example/post?id={number}&s=view",
            split="test",
            # The first two are one as a spreadsheet shows them.
            group=["=1", "'=1", *map(str, range(2, 20))][number // 4],
        )
        for number in range(80)
    ]
    drawn = np.random.default_rng(0).normal(0, 1.5, len(rows))
    chances = [
        float(1 / (1 + np.exp(-(2 if row.label == "positive" else -2) - noise)))
        for row, noise in zip(rows, drawn, strict=True)
    ]
    predictions = [scored(row, chance) for row, chance in zip(rows, chances, strict=True)]
    evaluation = evaluation_of(predictions, make_dataset(rows, tag="asuka"), tag="asuka", run="v1")
    job.write("asuka", "v1", training={"created": EVALUATED_MODEL})
    layout = Layout("asuka")
    job.storage.write(layout.run("v1", "evaluation.json"), evaluation.model_dump_json().encode())
    job.storage.write(layout.run("v1", "test_predictions.csv"), predictions_table(predictions))
    found = load_result(job.storage, "asuka", "v1")
    assert found.evaluation is not None
    assert found.evaluation.metrics.positives == 40
    assert len(np.unique(load_table(job.storage, found.evaluation).exam.groups)) == 20
    for metric in get_args(Metric):
        told = found.evaluation.metrics.estimate(metric)
        [shown] = board(job.storage, "asuka", metric).entries
        assert shown.value is not None
        assert told.value is not None
        assert shown.value.value == pytest.approx(told.value, abs=1e-6)
        assert shown.place == "best"


def hrefs(page: Path) -> list[Path]:
    """Return the files that the links of a page on disk lead to."""
    links = addresses(Page(page.read_text(encoding="utf-8")))
    return [Path(unquote(urlsplit(urljoin(page.as_uri(), link)).path)) for link in links]


def test_hostile_tags_are_text_and_their_links_resolve_on_disk(
    job: Reported, tmp_path: Path
) -> None:
    for tag in HOSTILE:
        job.write(tag, "v1", seed=1)
    page, found = job.made()
    assert sorted(tag["tag"] for tag in found["tags"]) == sorted(HOSTILE)
    assert not {"script", "svg", "img"} & {name for name, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    for tag in HOSTILE:
        assert " ".join(tag.split()) in page.text
    reports = [tmp_path / Layout(tag).run("v1", "report.html") for tag in HOSTILE]
    assert set(hrefs(tmp_path / PAGE)) == set(reports)
    assert all(path.is_file() for path in reports)


def test_hostile_models_are_text(two: Reported) -> None:
    for number, model in enumerate(HOSTILE):
        two.write("rei", f"h{number}", seed=number, model=model)
    page, _ = two.made()
    assert not {"script", "svg", "img"} & {name for name, _ in page.elements}
    two.write("rei", "long", model="m" * 201)
    code, lines = two.run()
    assert code == 0
    assert "metrics.json cannot be read: model:" in lines[0]["reason"]


@pytest.mark.parametrize(
    ("root", "where"),
    [
        ("data", "elsewhere"),
        ("data", "data/inside"),
        ("a:b c%20#/data", "elsewhere"),
        ("d#", "."),
    ],
)
def test_a_page_in_another_folder_has_links_that_resolve(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], root: str, where: str
) -> None:
    job = Reported(tmp_path / root, capfd)
    job.write("fate/stay_night", "v1")
    target = tmp_path / where
    code, [line] = job.run("--output", str(target))
    assert code == 0
    assert line["report"] == f"{target}/leaderboard.html"
    assert not (target / ".partial").exists()
    assert json.loads((target / "leaderboard.json").read_text(encoding="utf-8"))["version"] == 1
    expected = tmp_path / root / Layout("fate/stay_night").run("v1", "report.html")
    assert {path.resolve() for path in hrefs(target / "leaderboard.html")} == {expected.resolve()}
    assert not list(job.storage.list(".reports/"))


@pytest.mark.usefixtures("s3_settings")
def test_links_resolve_in_a_bucket_and_there_are_none_out_of_it(
    moto_server: str, tmp_path: Path
) -> None:
    client = boto3.client("s3")
    name = "leaderboards"
    client.create_bucket(Bucket=name, ACL="public-read")
    storage = open_storage(f"s3://{name}/some/prefix")
    for tag in ("fate/stay_night", "re:zero"):
        logits = make_logits(PICTURES, 3, seed=1)
        write_run(storage, tag, "v1", PICTURES, logits)
    assert report.main(["--storage", storage.url]) == 0
    address = f"{moto_server}/{name}/some/prefix/{PAGE}"
    with urlopen(address) as answer:
        links = addresses(Page(answer.read().decode()))
    assert len(links) == 2  # one of each tag
    for link in links:
        with urlopen(urljoin(address, link)) as answer:
            assert answer.read().startswith(b"<!doctype html><title>report")
    assert report.main(["--storage", storage.url, "--output", f"s3://{name}/some/page"]) == 0
    with urlopen(f"{moto_server}/{name}/some/page/leaderboard.html") as answer:
        assert addresses(Page(answer.read().decode()))[0].startswith(
            "../prefix/fate%252Fstay_night/"
        )
    assert report.main(["--storage", storage.url, "--output", str(tmp_path)]) == 0
    page = Page((tmp_path / "leaderboard.html").read_text(encoding="utf-8"))
    assert page.links == []
    assert "Reports are not linked" in page.text


def test_a_large_page_says_what_it_leaves_out(
    job: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        job.write(f"tag_{number:02}", "v1", seed=number)
        if number < 8:
            job.write(f"tag_{number:02}", "a1", 0.5, seed=number, model="alexnet")
    page, found = job.made()
    assert len(page.all("details")) == 8
    assert page.text.count("Tags with one run") == 2  # the link to it, and it
    assert not [details for details in page.all("details") if "open" in details]
    assert [label["id"] for label in page.all("input")] == [
        "only-all",
        "only-clear",
        "only-noise",
    ]
    assert "clear 8" in page.text
    singles = [table for table in page.all("table") if "singles" in table["class"]]
    assert len(singles) == 1  # one table has all of them
    assert "To keep this page small" not in page.text

    monkeypatch.setattr(leaderboard_page, "_TABLES_BYTES", 12_000)
    monkeypatch.setattr(leaderboard_page, "_LINES_BYTES", 700)
    page, again = job.made()
    assert again["tags"] == found["tags"]
    shown = len(page.all("details"))
    lines = [part for part in page.all("div") if part.get("class", "").endswith("line")]
    assert 0 < shown < 6
    assert 0 < len(lines) < 6
    assert f"{12 - shown} tags have no table here" in page.text
    assert f"and {12 - shown - len(lines)} of them no line either" in page.text


def test_a_small_page_is_open(two: Reported) -> None:
    page, _ = two.made()
    assert [("open" in details) for details in page.all("details")] == [True, True]
    assert page.all("input") == []


def test_the_budgets_of_the_page_leave_room_for_the_rest() -> None:
    rest = 200_000  # of style, models and words
    assert leaderboard_page._TABLES_BYTES + leaderboard_page._LINES_BYTES + rest < MAX_PAGE_BYTES


@pytest.mark.parametrize(
    ("spans", "zero", "ticks"),
    [
        ([Span(0.93, 0.91, 0.95)], False, (0.91, 0.92, 0.93, 0.94, 0.95)),
        ([Span(0.5, 0.1, 0.9)], False, (0.0, 0.25, 0.5, 0.75, 1.0)),
        ([Span(0.03, 0.01, 0.06)], True, (0.0, 0.02, 0.04, 0.06)),
        ([Span(0.01, -0.02, 0.04)], True, (-0.02, 0.0, 0.02, 0.04)),
        ([Span(0.0, -1.0, 1.0)], True, (-1.0, -0.5, 0.0, 0.5, 1.0)),
        ([Span(0.7, None, None)], False, (0.7, 0.701, 0.702, 0.703, 0.704)),
    ],
)
def test_an_axis_has_round_ticks(spans: list[Span], zero: bool, ticks: tuple[float, ...]) -> None:
    axis = Axis.over(spans, zero=zero)
    assert axis.ticks == pytest.approx(ticks)
    assert float(axis.place(axis.ticks[0])) == 0
    assert float(axis.place(axis.ticks[-1])) == 100


@pytest.mark.parametrize("seed", range(50))
def test_an_axis_shows_all_and_its_labels_differ(seed: int) -> None:
    random = np.random.default_rng(seed)
    ends = np.sort(random.random(3) ** random.integers(1, 12))
    low, value, high = (ends if seed % 2 else 1 - ends[::-1]).tolist()
    axis = Axis.over([Span(value, low, high)], zero=seed % 3 == 0)
    assert axis.ticks[0] <= low + 1e-9
    assert high - 1e-9 <= axis.ticks[-1] <= 1 + 1e-9
    assert 2 <= len(axis.ticks) <= 5
    labels = [float(axis.label(tick)) for tick in axis.ticks]
    assert all(one < other for one, other in pairwise(labels))
    assert labels == pytest.approx(list(axis.ticks))


def test_it_starts_without_anything_heavy() -> None:
    script = (
        "import sys, imagetag.report.leaderboard, jobs.report;"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'pandas', 'seaborn', 'matplotlib',"
        " 'scipy.stats'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.stdout == "[]\n"
