"""A checkpoint is all there or nothing, and the newest that can be read is the one that counts."""

from __future__ import annotations

import io
import pickle
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from imagetag.errors import TransientError
from imagetag.layout import Layout
from imagetag.storage.base import EndpointUnreachable, Storage
from imagetag.storage.local import LocalStorage
from imagetag.train.checkpoint import Checkpoint, Checkpoints, State, read_checkpoint
from tests.storages import Late

TAG, RUN = "re:zero", "some-run"


def make_checkpoint(epoch: int = 0, step: int = 0, **changes: Any) -> Checkpoint:
    random = np.random.default_rng([epoch, step])
    state = State(identity="abc", epoch=epoch, step=step, **changes)
    return Checkpoint(
        state,
        variables=[
            random.normal(size=(3, 2)).astype("float32"),
            np.array([7, 2**32 - 1], "uint32"),  # the state of a dropout
            np.array(0.25, "float32"),
        ],
        optimizer=[np.array(2**40 + epoch, "int64"), random.normal(size=5).astype("float32")],
        best=[random.normal(size=(3, 2)).astype("float16"), np.array(True)],
    )


def written(checkpoint: Checkpoint, folder: Path) -> bytes:
    path = folder / "written.npz"
    checkpoint.write(path)
    data = path.read_bytes()
    path.unlink()
    return data


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert found.state == expected.state
    for kind in ("variables", "optimizer", "best"):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        assert [(a.dtype, a.shape) for a in ours] == [(b.dtype, b.shape) for b in theirs]
        assert [a.tobytes() for a in ours] == [b.tobytes() for b in theirs]
    assert found.digest() == expected.digest()


# ---- one file


def test_what_was_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        3,
        17,
        phase=1,
        stats=[0.1, 2.0, 1 / 3, 4.0, 5.0, 1e-30],
        history=[{"epoch": 1.0, "loss": 0.1 + 0.2}, {"epoch": 2.0, "loss": 1e-308}],
        durations=[1.5, 2.25],
        best_loss=2 / 3,
        best_epoch=2,
        waited=1,
        since_halving=1,
        halvings=3,
        seconds=12.75,
    )
    assert_same(read_checkpoint(written(checkpoint, tmp_path)), checkpoint)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_the_numbers_of_a_state_are_read_bit_for_bit(values: list[float]) -> None:
    state = State(identity="abc", stats=values, best_loss=values[0])
    assert State.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize(
    "kind", ["bool", "uint8", "int32", "int64", "uint32", "uint64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3)])
def test_every_kind_and_shape_of_variable_is_kept(
    kind: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = (np.random.default_rng(1).random(shape) * 200).astype(kind)
    checkpoint = Checkpoint(State(identity="abc"), [values], [values], [])
    assert_same(read_checkpoint(written(checkpoint, tmp_path)), checkpoint)


def test_the_order_of_more_variables_than_ten_is_kept(tmp_path: Path) -> None:
    values: Any = [np.array(number) for number in range(1234)]
    found = read_checkpoint(written(Checkpoint(State(identity=""), values, [], []), tmp_path))
    assert [int(value) for value in found.variables] == list(range(1234))


def test_variables_that_are_not_contiguous_are_kept(tmp_path: Path) -> None:
    values: Any = np.arange(12.0).reshape(3, 4).T[::2]
    checkpoint = Checkpoint(State(identity=""), [values], [], [])
    assert_same(read_checkpoint(written(checkpoint, tmp_path)), checkpoint)


def test_any_bit_changes_the_digest() -> None:
    digests = [make_checkpoint().digest()]
    for kind in ("variables", "optimizer", "best"):
        for number in range(len(getattr(make_checkpoint(), kind))):
            for bit in (0, 7):
                changed = make_checkpoint()
                values = getattr(changed, kind)[number]
                raw = np.frombuffer(values.tobytes(), np.uint8).copy()
                raw[-1] ^= 1 << bit
                getattr(changed, kind)[number] = raw.view(values.dtype).reshape(values.shape)
                digests.append(changed.digest())
    for change in ({"step": 1}, {"seconds": 0.1}, {"stats": [0.0] * 5 + [1e-9]}, {"waited": 1}):
        base = make_checkpoint()
        state = base.state.model_copy(update=change)
        digests.append(replace(base, state=state).digest())
    a, b = make_checkpoint(), make_checkpoint()
    digests.append(replace(a, variables=a.variables[::-1]).digest())
    digests.append(replace(a, variables=a.variables[:2]).digest())
    digests.append(replace(a, variables=[a.variables[0].reshape(2, 3)]).digest())
    assert len(set(digests)) == len(digests)
    assert a.digest() == b.digest() == digests[0]


def test_names_sort_as_the_progress_goes() -> None:
    progress = [(0, 0, 5), (0, 0, 40), (0, 2, 0), (0, 11, 0), (1, 0, 0), (1, 3, 12345678)]
    names = [
        State(identity="", phase=phase, epoch=epoch, step=step).name
        for phase, epoch, step in progress
    ]
    assert sorted(names) == names
    assert names[0] == "00-00000-00000005.npz"


# ---- what is no checkpoint


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil"),))


def as_npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def as_npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def as_zip(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


STATE = np.frombuffer(State(identity="abc").model_dump_json().encode(), np.uint8)
HUGE = as_npy(np.zeros(9)).replace(b"(9,), }" + 12 * b" ", b"(9" + 12 * b"0" + b",), }")
HOSTILE = {
    "nothing": b"",
    "text": b"<html>not found</html>",
    "a pickle": pickle.dumps(Evil()),
    "a pickle in an array": as_npy(np.array([Evil()], object)),
    "one array": as_npy(np.zeros(3)),
    "an empty zip": as_zip(),
    "a zip of text": as_zip(state=b"{}", notes=b"hello"),
    "no state": as_npz(**{"variables-00000": np.zeros(2)}),
    "a state that is no JSON": as_npz(state=np.frombuffer(b"\xff\xfe{", np.uint8)),
    "a state of too little": as_npz(state=np.frombuffer(b"{}", np.uint8)),
    "a state of too much": as_npz(
        state=np.frombuffer(b'{"identity": "abc", "other": 1}', np.uint8)
    ),
    "an array of another name": as_npz(state=STATE, others=np.zeros(2)),
    "a pickle as a variable": as_npz(
        **{"state": STATE, "variables-00000": np.array([Evil()], object)}
    ),
    "text as a variable": as_zip(**{"state.npy": as_npy(STATE), "variables-00000.npy": b"hello"}),
    "a variable larger than the file": as_zip(
        **{"state.npy": as_npy(STATE), "variables-00000.npy": HUGE}
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_none_is_a_value_error_of_one_line_and_runs_nothing(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r".") as caught:
        read_checkpoint(data)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_one_cut_off_anywhere_is_none(tmp_path: Path) -> None:
    data = written(make_checkpoint(), tmp_path)
    for end in [*range(0, len(data), 37), len(data) - 1]:
        with pytest.raises(ValueError, match=r"."):
            read_checkpoint(data[:end])


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_one_is_none_or_says_the_same(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = make_checkpoint()
    whole = bytearray(written(checkpoint, tmp_path_factory.getbasetemp()))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = read_checkpoint(bytes(whole))
    except ValueError:
        return
    # Only bytes that mean nothing, such as the time of a file in the archive.
    kept = [a.tobytes() for kind in ("variables", "optimizer", "best") for a in vars(found)[kind]]
    assert found.state == checkpoint.state
    assert set(kept) <= {
        a.tobytes() for kind in ("variables", "optimizer", "best") for a in vars(checkpoint)[kind]
    }


def test_a_file_appears_under_its_name_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "00-00000-00000000.npz"
    make_checkpoint().write(path)
    before = path.read_bytes()

    def full(stream: Any, **arrays: Any) -> None:
        stream.write(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        make_checkpoint(1).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_one_name_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    path, failed = tmp_path / "00-00000-00000000.npz", []

    def write() -> None:
        try:
            for _ in range(30):
                make_checkpoint().write(path)
                assert_same(read_checkpoint(path.read_bytes()), make_checkpoint())
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert list(tmp_path.iterdir()) == [path]


# ---- those of a run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path / "storage")


def checkpoints_in(storage: Storage, folder: Path, **options: Any) -> Checkpoints:
    return Checkpoints(storage, TAG, RUN, folder, **options)


def save(checkpoints: Checkpoints, *saved: Checkpoint) -> None:
    for checkpoint in saved:
        checkpoints.save(checkpoint)
    checkpoints.close()


def key_of(checkpoint: Checkpoint) -> str:
    return Layout(TAG).run(RUN, f"checkpoint/{checkpoint.state.name}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stored(storage: Storage) -> list[str]:
    return [entry.key.rpartition("/")[2] for entry in storage.list()]


def warnings(logs: Any) -> list[str]:
    return [line["event"] for line in logs if line["log_level"] == "warning"]


def test_there_is_none_at_first(storage: Storage, tmp_path: Path) -> None:
    assert checkpoints_in(storage, tmp_path / "a").newest() is None


def test_another_machine_goes_on_from_the_newest_in_storage(
    storage: Storage, tmp_path: Path
) -> None:
    save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1), make_checkpoint(1, 30))
    assert_same(checkpoints_in(storage, tmp_path / "b").newest(), make_checkpoint(1, 30))
    # Another run, and another tag, have none.
    assert Checkpoints(storage, TAG, "other-run", tmp_path / "c").newest() is None
    assert Checkpoints(storage, "other", RUN, tmp_path / "c").newest() is None


def test_only_the_newest_two_are_kept(storage: Storage, tmp_path: Path) -> None:
    all_of_them = [make_checkpoint(epoch) for epoch in range(5)]
    save(checkpoints_in(storage, tmp_path / "a"), *all_of_them)
    newest = [checkpoint.state.name for checkpoint in all_of_them[-2:]]
    assert names(tmp_path / "a") == newest
    assert stored(storage) == newest


def test_what_was_just_saved_is_kept_whatever_stands_above_it(
    storage: Storage, tmp_path: Path
) -> None:
    for epoch in (7, 8, 9):
        storage.write(key_of(make_checkpoint(epoch)), b"damaged")
    with capture_logs():
        save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1))
        assert_same(checkpoints_in(storage, tmp_path / "b").newest(), make_checkpoint(1))
    assert len(stored(storage)) == 2


def test_other_files_in_the_folder_are_no_checkpoints(storage: Storage, tmp_path: Path) -> None:
    save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1))
    for name in ("99.npz", "99-00000-00000000.npz.part", ".99-00000-00000000.npz.0a"):
        (tmp_path / "a" / name).write_bytes(b"other")
        storage.write(Layout(TAG).run(RUN, f"checkpoint/{name}"), b"other")
    with capture_logs() as logs:
        assert_same(checkpoints_in(storage, tmp_path / "a").newest(), make_checkpoint(1))
    assert logs == []


def test_a_newer_local_one_counts_unless_workers_share_those_in_storage(
    storage: Storage, tmp_path: Path
) -> None:
    save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1))
    make_checkpoint(2).write(tmp_path / "a" / make_checkpoint(2).state.name)
    assert_same(checkpoints_in(storage, tmp_path / "a").newest(), make_checkpoint(2))
    shared = checkpoints_in(storage, tmp_path / "a", shared=True)
    assert_same(shared.newest(), make_checkpoint(1))


def test_a_newer_one_in_storage_counts(storage: Storage, tmp_path: Path) -> None:
    save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1))
    save(checkpoints_in(storage, tmp_path / "b"), make_checkpoint(2))
    assert_same(checkpoints_in(storage, tmp_path / "a").newest(), make_checkpoint(2))


@pytest.mark.parametrize("data", [b"", b"damaged", HOSTILE["one array"], HOSTILE["a pickle"]])
@pytest.mark.parametrize("where", ["local", "stored"])
def test_one_that_cannot_be_read_is_left_out_for_the_one_before(
    where: str, data: bytes, storage: Storage, tmp_path: Path
) -> None:
    save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1), make_checkpoint(2))
    name = make_checkpoint(2).state.name
    (tmp_path / "a" / name).write_bytes(data)
    storage.write(key_of(make_checkpoint(2)), data)
    with capture_logs() as logs:
        found = checkpoints_in(storage, tmp_path / ("a" if where == "local" else "b")).newest()
    assert_same(found, make_checkpoint(1))
    assert set(warnings(logs)) == {"checkpoint left out"}
    assert {line["name"] for line in logs} == {name}
    assert all(line["reason"] and "\n" not in line["reason"] for line in logs)


def test_where_the_local_one_is_damaged_the_one_in_storage_is_read(
    storage: Storage, tmp_path: Path
) -> None:
    save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1), make_checkpoint(2))
    (tmp_path / "a" / make_checkpoint(2).state.name).write_bytes(b"")
    with capture_logs() as logs:
        assert_same(checkpoints_in(storage, tmp_path / "a").newest(), make_checkpoint(2))
    assert warnings(logs) == ["checkpoint left out"]


def test_if_none_can_be_read_there_is_none(storage: Storage, tmp_path: Path) -> None:
    storage.write(key_of(make_checkpoint(1)), b"damaged")
    storage.write(key_of(make_checkpoint(2)), b"damaged")
    with capture_logs() as logs:
        assert checkpoints_in(storage, tmp_path / "a").newest() is None
    assert len(warnings(logs)) == 2


def test_storage_that_is_not_there_is_no_missing_checkpoint(tmp_path: Path) -> None:
    class Gone(LocalStorage):
        def open(self, key: str) -> Any:
            raise EndpointUnreachable("no answer")

    LocalStorage(tmp_path / "storage").write(key_of(make_checkpoint(1)), b"some")
    with pytest.raises(TransientError):
        checkpoints_in(Gone(tmp_path / "storage"), tmp_path / "a").newest()


def test_clear_removes_all_of_this_run_alone(storage: Storage, tmp_path: Path) -> None:
    save(checkpoints_in(storage, tmp_path / "a"), make_checkpoint(1), make_checkpoint(2))
    save(Checkpoints(storage, TAG, "other-run", tmp_path / "b"), make_checkpoint(3))
    storage.write(Layout(TAG).run(RUN, "metrics.json"), b"{}")
    (tmp_path / "a" / ".00-00003-00000000.npz.killed").write_bytes(b"half")
    checkpoints_in(storage, tmp_path / "a").clear()
    assert stored(storage) == [make_checkpoint(3).state.name, "metrics.json"]
    assert not (tmp_path / "a").exists()
    assert len(names(tmp_path / "b")) == 1
    assert checkpoints_in(storage, tmp_path / "a").newest() is None


class Slow(LocalStorage):
    """Storage of which uploads wait until they may go on, and fail as often as told."""

    def __init__(self, folder: Path, failures: int = 0) -> None:
        super().__init__(folder)
        self.go, self.under_way = threading.Event(), threading.Event()
        self.failures = failures
        self.begun: list[str] = []
        self.done: list[str] = []

    def upload(self, path: Path, key: str) -> None:
        self.begun.append(path.name)
        self.under_way.set()
        assert self.go.wait(20)
        if self.failures:
            self.failures -= 1
            raise EndpointUnreachable("no answer")
        super().upload(path, key)
        self.done.append(path.name)


def test_where_listings_lag_none_of_a_run_s_own_is_left_over(tmp_path: Path) -> None:
    stored = LocalStorage(tmp_path / "late")
    late = Late(stored, not_yet=lambda _: True)
    checkpoints = Checkpoints(late, TAG, RUN, tmp_path / "local")
    for epoch in range(3):
        checkpoints.save(make_checkpoint(epoch))
    checkpoints.settle()
    assert [Path(entry.key).name[:8] for entry in stored.list()] == ["00-00001", "00-00002"]
    checkpoints.clear()
    assert not list(stored.list())
    checkpoints.close()


def test_one_that_could_not_be_stored_costs_none_that_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path / "storage")
    checkpoints = Checkpoints(storage, TAG, RUN, tmp_path / "local")
    upload = storage.upload

    def refuse(*_: object) -> None:
        raise EndpointUnreachable("not now")

    for epoch in range(4):
        monkeypatch.setattr(storage, "upload", refuse if epoch == 2 else upload)
        checkpoints.save(make_checkpoint(epoch))
        checkpoints.settle()
    assert [Path(entry.key).name[:8] for entry in storage.list()] == ["00-00001", "00-00003"]
    checkpoints.close()


def test_training_goes_on_while_one_is_stored(tmp_path: Path) -> None:
    storage = Slow(tmp_path / "storage")
    checkpoints = checkpoints_in(storage, tmp_path / "a")
    checkpoints.save(make_checkpoint(1))  # comes back, though the upload waits
    assert storage.under_way.wait(20)
    assert storage.done == []
    storage.go.set()
    checkpoints.settle()
    assert storage.done == [make_checkpoint(1).state.name]
    checkpoints.close()


def test_one_that_is_under_way_is_finished_before_the_next(tmp_path: Path) -> None:
    storage = Slow(tmp_path / "storage")
    checkpoints = checkpoints_in(storage, tmp_path / "a")
    checkpoints.save(make_checkpoint(1))
    assert storage.under_way.wait(20)
    second = threading.Thread(target=checkpoints.save, args=(make_checkpoint(2),))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert storage.begun == [make_checkpoint(1).state.name]
    storage.go.set()
    second.join(20)
    checkpoints.close()
    assert storage.done == [make_checkpoint(epoch).state.name for epoch in (1, 2)]


def test_what_storage_refuses_is_a_warning_and_the_local_ones_stay_two(tmp_path: Path) -> None:
    storage = Slow(tmp_path / "storage", failures=4)
    storage.go.set()
    checkpoints = checkpoints_in(storage, tmp_path / "a")
    with capture_logs() as logs:
        for epoch in range(4):
            checkpoints.save(make_checkpoint(epoch))
        checkpoints.settle()
    assert warnings(logs) == ["checkpoint not stored"] * 4
    assert {line["reason"] for line in logs} == {"no answer"}
    assert names(tmp_path / "a") == [make_checkpoint(epoch).state.name for epoch in (2, 3)]
    assert_same(checkpoints.newest(), make_checkpoint(3))
    # The next one is luckier.
    save(checkpoints, make_checkpoint(4))
    assert stored(storage) == [make_checkpoint(4).state.name]


def test_a_local_disk_that_is_full_is_a_warning(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no folder can be made here")
    checkpoints = checkpoints_in(storage, tmp_path / "a")
    with capture_logs() as logs:
        save(checkpoints, make_checkpoint(1))
    assert warnings(logs) == ["checkpoint not stored"]
