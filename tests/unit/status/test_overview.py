"""Where tags stand, by their markers and by what jobs told of their work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imagetag.dataset.embedded import tell_share
from imagetag.errors import InputError
from imagetag.job.job_record import JobRecord
from imagetag.layout import Layout, job_record
from imagetag.status.overview import Overview
from imagetag.status.table import document, show, summary
from imagetag.status.tag_status import StageStatus, TagStatus, stages_shown
from imagetag.storage.base import ObjectInfo, Storage
from imagetag.storage.local import LocalStorage
from jobs import status as status_job
from tests.builders.statuses import (
    NOW,
    ago,
    write_all,
    write_beat,
    write_evaluated,
    write_explored,
    write_fifty,
    write_scraped,
    write_trained,
)
from tests.storages import Counting, InMemory, Wrapped


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def look(storage: Storage, tag: str = "fox") -> TagStatus:
    [found] = Overview(storage, [tag], 1).read(NOW)
    return found


def stage(storage: Storage, name: str) -> StageStatus:
    return {str(key): value for key, value in look(storage).stages.items()}[name]


def states(found: TagStatus) -> dict[str, str]:
    return {name: stage.state for name, stage in found.stages.items() if stage.state != "none"}


# --- By markers alone, as older versions left them ---------------------------------------------


def test_a_tag_that_is_done_is_told_by_its_markers(storage: LocalStorage) -> None:
    write_all(storage, "re:zero", made=ago(60))
    found = look(storage, "re:zero")
    assert states(found) == dict.fromkeys(["scrape", "explore", "train", "evaluate"], "complete")
    assert [found.stages[name].result for name in ("scrape", "explore", "train")] == [
        *("400+380", "256x192", "vgg19 12 epochs")
    ]
    assert found.stages["scrape"].seconds == 240
    assert (found.precision, found.recall) == (0.987, 0.812)
    assert found.promise is not None
    assert (found.promise.met, found.promise.min_precision) == (True, 0.95)
    assert found.pages == {
        "explore": f"{storage.url}/re%3Azero/explore/report.html",
        "evaluate": f"{storage.url}/re%3Azero/models/vgg19-1/report.html",
    }
    assert found.furthest == "evaluated"


def test_a_scrape_that_left_images_and_no_marker_is_incomplete(storage: LocalStorage) -> None:
    storage.write(Layout("fox").image("train", "positive", "0" * 32, "jpg"), b"x")
    assert states(look(storage)) == {"scrape": "incomplete"}


def test_what_was_made_of_an_older_dataset_or_model_is_outdated(storage: LocalStorage) -> None:
    write_all(storage, "fox", made=ago(600))
    write_scraped(storage, "fox", made=ago(60), fingerprint="cd")
    found = look(storage)
    assert states(found)["explore"] == states(found)["train"] == "outdated"
    assert found.stages["train"].reason == "the dataset has changed since"
    write_explored(storage, "fox", made=ago(50), fingerprint="cd")
    write_trained(storage, "fox", made=ago(40), fingerprint="cd")
    assert states(look(storage)) == {
        **dict.fromkeys(["scrape", "explore", "train"], "complete"),
        "evaluate": "outdated",
    }
    write_evaluated(storage, "fox", made=ago(30), trained=ago(40), met=False)
    found = look(storage)
    assert states(found)["evaluate"] == "complete"
    assert found.promise is not None
    assert (found.promise.met, found.promise.bound) == (False, 0.9)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("fox/dataset.json", "scrape"),
        ("fox/explore/explore.json", "explore"),
        ("fox/models/vgg19-1/metrics.json", "train"),
        ("fox/models/LATEST", "train"),
        ("fox/models/vgg19-1/evaluation.json", "evaluate"),
    ],
)
def test_a_marker_that_cannot_be_read_is_named_and_hides_no_other(
    storage: LocalStorage, key: str, name: str
) -> None:
    write_all(storage, "fox", made=ago(60))
    storage.write(key, b'{"tag": "fox", ')
    found = look(storage)
    assert states(found)[name] == "incomplete"
    damaged = found.stages["train" if name == "train" else name]  # type: ignore[index]
    assert key in damaged.reason
    assert list(states(found).values()).count("complete") >= 2


def test_a_run_that_is_gone_is_told(storage: LocalStorage) -> None:
    write_all(storage, "fox", made=ago(60))
    storage.delete("fox/models/vgg19-1/metrics.json")
    assert stage(storage, "train").reason == "the run vgg19-1 is gone"


# --- By what jobs tell of their work -----------------------------------------------------------


def test_work_is_under_way_while_it_says_so(storage: LocalStorage) -> None:
    write_beat(storage, "fox", "scrape", "running", updated=ago(170), done=120, total=400)
    found = stage(storage, "scrape")
    assert (found.state, found.done, found.total, found.seconds) == ("running", 120, 400, 170)
    write_beat(storage, "fox", "scrape", "running", updated=ago(190), done=120, total=400)
    found = stage(storage, "scrape")
    assert found.state == "lost"
    assert "scrape-0-x7f2k" in found.reason


def test_a_clock_that_is_behind_loses_no_work(storage: LocalStorage) -> None:
    write_beat(storage, "fox", "scrape", "running", updated=ago(-30))
    found = stage(storage, "scrape")
    assert (found.state, found.seconds) == ("running", 0)


class Clocked(Wrapped):
    """Tells by a clock of its own how long ago all was written."""

    def __init__(self, inner: Storage, age: float) -> None:
        super().__init__(inner)
        self._age = age

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        return (replace(entry, age=self._age) for entry in super().list(folder))


@pytest.mark.parametrize("skew", [-3600, 0, 3600])  # seconds, of a laptop or of a pod
def test_silence_is_by_the_clock_of_a_storage_that_has_one(
    storage: LocalStorage, skew: float
) -> None:
    write_beat(storage, "fox", "scrape", "running", updated=ago(skew))
    found = stage(Clocked(storage, 20), "scrape")
    assert (found.state, found.seconds) == ("running", 20)
    found = stage(Clocked(storage, 200), "scrape")
    assert (found.state, found.seconds) == ("lost", 200)


def test_a_failure_is_told_until_its_marker_is_newer(storage: LocalStorage) -> None:
    write_all(storage, "fox", made=ago(600))
    write_beat(storage, "fox", "scrape", "failed", updated=ago(60), exit_code=75, reason="down")
    found = stage(storage, "scrape")
    assert (found.state, found.exit_code, found.reason) == ("failed", 75, "down")
    assert found.result == "400+380"  # the dataset of before is still there
    write_scraped(storage, "fox", made=ago(30))
    assert stage(storage, "scrape").state == "complete"


def test_what_was_stopped_did_not_fail(storage: LocalStorage) -> None:
    write_beat(
        *(storage, "fox", "train", "failed"), updated=ago(9), exit_code=143, reason="by SIGTERM"
    )
    assert stage(storage, "train").state == "stopped"


def test_a_work_that_was_killed_behind_its_marker_is_complete(storage: LocalStorage) -> None:
    write_scraped(storage, "fox", made=ago(1000))
    write_beat(storage, "fox", "scrape", "running", updated=ago(999.5), started=ago(1100))
    assert stage(storage, "scrape").state == "complete"


def test_complete_work_that_is_done_again_is_under_way(storage: LocalStorage) -> None:
    write_all(storage, "fox", made=ago(600))
    write_beat(storage, "fox", "train", "running", updated=ago(10), done=5, total=10, unit="images")
    found = look(storage)
    assert states(found)["train"] == "running"
    assert found.stages["train"].result == "vgg19 12 epochs"
    assert found.furthest == "train running"


def test_of_workers_the_one_that_failed_is_heard(storage: LocalStorage) -> None:
    write_beat(storage, "fox", "train", "running", updated=ago(300))
    write_beat(
        *(storage, "fox", "train", "failed"), updated=ago(290), worker=3, reason="no GPU there"
    )
    assert stage(storage, "train").reason == "no GPU there"


def test_a_record_that_is_damaged_or_gone_leaves_the_markers(storage: LocalStorage) -> None:
    write_scraped(storage, "fox", made=ago(600))
    storage.write(".status/fox/scrape-0.failed.json", b"{")
    storage.write(".status/fox/notes.txt", b"somebody's")
    assert stage(storage, "scrape").state == "complete"


NETWORK = "mobilenet-160x160-0a1b2c3d"


def test_embedding_is_told_by_all_shares_of_the_pictures_together(storage: LocalStorage) -> None:
    write_scraped(storage, "fox", made=ago(600))
    told = {"images": 900.0, "extractor": NETWORK}
    write_beat(storage, "fox", "embed", "done", updated=ago(60), worker=2, measured=told)
    assert stage(storage, "embed").state == "none", "of one pod, which has not all pictures"
    for index in (2, 0):
        tell_share(storage, NETWORK, index, 3, {"fox": "ab", "owl": "cd"})
    found = stage(storage, "embed")
    assert (found.state, found.done, found.total, found.result) == ("incomplete", 2, 3, NETWORK)
    tell_share(storage, NETWORK, 1, 3, {"fox": "ab"})
    assert stage(storage, "embed").state == "complete"
    assert look(storage).furthest == "embedded"
    assert "embed" in stages_shown([look(storage)])
    write_scraped(storage, "fox", made=ago(30), fingerprint="cd")
    assert stage(storage, "embed").reason == "the dataset has changed since"
    later = datetime.now(UTC) + timedelta(seconds=9)
    write_beat(storage, "fox", "embed", "running", updated=later, worker=2, done=70, total=90)
    [running] = Overview(storage, ["fox"]).read(later)
    assert running.stages["embed"].state == "running"


def test_a_tag_is_embedded_where_any_way_to_share_the_pictures_is_through(
    storage: LocalStorage,
) -> None:
    write_scraped(storage, "fox", made=ago(600))
    tell_share(storage, NETWORK, 0, 1, {"fox": "ab"})
    tell_share(storage, NETWORK, 3, 4, {"fox": "ab"})
    assert stage(storage, "embed").state == "complete"
    tell_share(storage, "vgg19-224x224-0a1b2c3d", 0, 2, {"fox": "ab"})
    assert stage(storage, "embed").result.startswith("vgg19"), "which was told of last"
    assert stage(storage, "embed").state == "incomplete"


def test_what_shares_tell_is_listed_once_an_extractor_and_read_once(storage: LocalStorage) -> None:
    tags = [f"tag_{number:02}" for number in range(50)]
    for tag in tags:
        write_scraped(storage, tag, made=ago(600))
    for name in (NETWORK, "vgg19-224x224-0a1b2c3d"):
        for index in range(2):
            tell_share(storage, name, index, 2, dict.fromkeys(tags, "ab"))
    storage.write(".features/a folder of others/shares/x.json", b"{}")
    storage.write(f".features/{NETWORK}/shares/0-of-2-damaged.json", b"{")
    counted = Wrapped(storage)
    overview = Overview(counted, tags, threads=4)
    states = [tag.stages["embed"].state for tag in overview.read(NOW)]
    assert states == ["complete"] * 50
    assert counted.asked["list"] == 4  # records, extractors, and the shares of each
    assert counted.asked["open"] == 50 * 3 + 2 * 2 + 1
    counted.asked.clear()
    assert [tag.stages["embed"].state for tag in overview.read(NOW)] == states
    assert counted.asked["open"] == 1, "the damaged one may be mended"


def test_other_jobs_are_shown_where_they_have_something_to_say(storage: LocalStorage) -> None:
    write_beat(storage, "fox", "pack", "done", updated=ago(60), measured={"images": 1})
    assert states(look(storage)) == {"pack": "complete"}
    write_beat(storage, "fox", "curate", "failed", updated=ago(60), reason="no dataset")
    assert states(look(storage)) == {"pack": "complete", "curate": "failed"}
    assert "predict" not in stages_shown([look(storage)])
    write_beat(storage, "fox", "predict", "running", updated=ago(9), worker=3, done=70)
    assert states(look(storage))["predict"] == "running"
    assert look(storage).furthest == "predict running"
    assert "predict" in stages_shown([look(storage)])


# --- Many tags ---------------------------------------------------------------------------------


def test_fifty_tags_take_three_listings_and_a_handful_of_small_reads_each(
    storage: LocalStorage,
) -> None:
    tags = write_fifty(storage)
    counted = Wrapped(storage)
    overview = Overview(counted, threads=4)
    found = overview.read(NOW)
    assert [tag.tag for tag in found] == tags
    assert Counter(tag.furthest for tag in found) == {
        "evaluated": 20,
        "train running": 8,
        "explored": 12,
        "scrape running": 6,
        "scrape failed": 2,
        "scrape lost": 2,
    }
    assert counted.asked["list"] == 3  # records, tags, extractors
    # Markers: 5 of each that is trained, 3 of the others; and a record of what is not complete.
    assert counted.asked["open"] == 20 * 5 + 8 * 4 + 12 * 3 + 10 * 4
    assert set(counted.asked) == {"list", "open"}  # nothing is written, no picture looked at


def test_a_second_look_reads_what_may_have_changed(storage: LocalStorage) -> None:
    write_fifty(storage)
    counted = Wrapped(storage)
    overview = Overview(counted, threads=4)
    overview.read(NOW)
    counted.asked.clear()
    write_beat(storage, "tag_30", "train", "running", updated=ago(1))
    found = {tag.tag: tag for tag in overview.read(NOW)}
    assert found["tag_30"].furthest == "train running"
    assert counted.asked["open"] == (8 + 6 + 2 + 1) * 4


def test_at_a_second_look_what_is_as_it_was_is_longer_ago(storage: LocalStorage) -> None:
    write_beat(storage, "fox", "train", "failed", updated=ago(40), exit_code=3, reason="few")
    overview = Overview(storage)
    for later in (0, 60, 120):
        [found] = overview.read(NOW + timedelta(seconds=later))
        assert found.stages["train"].seconds == 40 + later
        assert found.stages["scrape"].seconds is None


def test_tags_that_are_named_are_told_of_in_that_order(storage: LocalStorage) -> None:
    write_fifty(storage)
    counted = Wrapped(storage)
    found = Overview(counted, ["tag_40", "unicorn", "tag_02"]).read(NOW)
    assert [tag.tag for tag in found] == ["tag_40", "unicorn", "tag_02"]
    assert states(found[1]) == {}
    # The records, the extractors, and whether a scrape of the unknown had begun.
    assert counted.asked["list"] == 3


def test_folders_of_others_are_no_tags(storage: LocalStorage) -> None:
    storage.write("backup of mine/file.txt", b"x")
    storage.write("music/song.txt", b"x")
    with pytest.raises(InputError, match="there is nothing of any tag"):
        Overview(storage).read(NOW)
    write_scraped(storage, "fox", made=ago(60))
    assert [tag.tag for tag in Overview(storage).read(NOW)] == ["fox"]


# --- What is printed ---------------------------------------------------------------------------


def test_the_table_has_a_line_a_tag_and_one_for_whatever_is_wrong(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fifty(storage)
    tags = Overview(storage).read(NOW)
    show(tags, storage.url, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("tag", "scrape", "explore", "train", "evaluate", "promise", "precision", "recall", "page")
    ]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:51]}
    assert list(rows) == [tag.tag for tag in tags]
    assert rows["tag_00"] == (
        "400+380 256x192 vgg19 12 epochs done 0.95 kept 0.987 0.812 "
        "tag_00/models/vgg19-1/report.html"
    )
    assert rows["tag_25"] == (
        "400+380 256x192 running 1000/2000 50% - - - - tag_25/explore/report.html"
    )
    assert rows["tag_46"] == "failed - - - - - - -"
    assert rows["tag_49"] == "lost 12/400 3% - - - - - - -"
    assert lines[51] == (
        "tag_46: scrape failed 15 min ago (exit code 3): no posts with the tag 'tag_46'; check "
        "its spelling on the board"
    )
    assert lines[53].startswith("tag_48: scrape lost 1 h 7 min ago: no word of it on scrape-0")
    assert lines[55:] == [summary(tags, storage.url)]
    assert lines[55].startswith(f"50 tags in {storage.url}: 20 evaluated, 12 explored, 8 train run")


def test_a_narrow_terminal_folds_no_path(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(storage, "fox", made=ago(60))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns, shown in ((200, True), (90, False)):
        monkeypatch.setenv("COLUMNS", str(columns))
        show(Overview(storage).read(NOW), storage.url, as_json=False)
        printed = capsys.readouterr().out
        assert ("fox/models/vgg19-1/report.html" in printed) == shown
        assert ("a wider terminal" in printed) == (not shown)


def test_nothing_in_storage_moves_the_cursor(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    write_beat(storage, "a\x1b[2Jb", "scrape", "failed", updated=ago(9), reason="\x1b]0;x\x07 no")
    show(Overview(storage).read(NOW), storage.url, as_json=False)
    assert "\x1b" not in capsys.readouterr().out


def test_json_has_all_that_is_known(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(storage, "初音ミク", made=ago(60))
    tags = Overview(storage).read(NOW)
    show(tags, storage.url, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed == document(tags, storage.url) | {
        "read": printed["read"],
        "jobs": [],
        "jobs_left_out": 0,
    }
    [tag] = printed["tags"]
    assert tag["tag"] == "初音ミク"
    assert tag["images"]["train"] == {"positive": 320, "negative": 300}
    assert tag["stages"]["evaluate"]["state"] == "complete"
    assert printed["summary"] == {"evaluated": 1}
    show(tags, storage.url, as_json=True, again=True)
    assert len(capsys.readouterr().out.splitlines()) == 1  # a line a look


class Aged(InMemory):
    """Lists the ages of records of jobs, whose names tell them."""

    def list(self, folder: str = "") -> Iterator[ObjectInfo]:
        for entry in super().list(folder):
            shard = entry.key.rpartition("-")[2].removesuffix(".json")
            yield replace(entry, age=10.0 * int(shard))


@pytest.mark.parametrize(("kind", "reads"), [(Aged, 100), (InMemory, 2_000)])
def test_of_the_records_of_thousands_of_pods_the_newest_are_told(
    kind: type[InMemory], reads: int
) -> None:
    storage = Counting(kind())
    for shard in range(2_000):  # listed by name: 0, 1, 10, 100, 1000, ...
        record = JobRecord(
            job="scrape", shard=shard, started=ago(9e9), ended=ago(10.0 * shard), exit_code=0
        )
        storage.inner.write(job_record("scrape", shard), record.model_dump_json().encode())
    storage.inner.write(job_record("scrape", 7), b"{")
    found, left_out = Overview(storage).jobs()
    assert [record.shard for record in found][:9] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert (len(found), left_out) == (99 if kind is Aged else 100, 1_900 if kind is Aged else 1_899)
    assert storage.requests == {"GET": reads, "LIST": 2}


def test_the_command_needs_nothing_that_trains(tmp_path: Path) -> None:
    write_fifty(LocalStorage(tmp_path))
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "keras", "scipy", "pandas", "sklearn", "jinja2"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from jobs.status import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", script, "--storage", str(tmp_path), "--tags", "tag_01,tag_47"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tag_47: scrape failed" in done.stdout


def test_an_empty_storage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_job.main(["--storage", str(tmp_path)]) == 3
    assert "there is nothing of any tag" in capsys.readouterr().err
