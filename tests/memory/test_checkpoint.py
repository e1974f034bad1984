from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from memory import Checkpoint, CorruptCheckpoint, checkpoint, digest

META = {"offsets": {"0": 17}, "epoch": "a", "rng": {"state": 2**100}, "none": None, "name": "ü"}


def make(version: int, value: float = 1.0) -> Checkpoint:
    state = {
        "fm.w": np.full((3, 2), value, np.float32),
        "fm.keys": np.arange(5),
        "fm.empty": np.empty((0, 4)),
        "alive": np.array([True, False]),
        "text": np.frombuffer(b"json", np.uint8),
        "step": np.array(version),
    }
    return Checkpoint(version, state, META)


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert (one.version, one.meta, digest(one.state)) == (other.version, other.meta, digest(other.state))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "new" / "folder", make(7))
    assert path.name == "checkpoint-000000000007.safetensors"
    assert names(path.parent) == [path.name]
    assert_equal(checkpoint.load(path), make(7))
    assert set(safetensors.numpy.load_file(path)) == set(make(7).state)
    found, corrupt = checkpoint.latest(path.parent)
    assert found is not None
    assert_equal(found, make(7))
    assert corrupt == []


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    files = {checkpoint.save(tmp_path / str(n), make(7)).read_bytes() for n in range(8)}
    assert len(files) == 1


def test_views_are_written_with_their_values(tmp_path: Path) -> None:
    state = {"t": np.arange(6).reshape(2, 3).T, "s": np.arange(9)[::2], "big": np.arange(3, dtype=">i4").astype("<i4")}
    loaded = checkpoint.load(checkpoint.save(tmp_path, Checkpoint(1, state, {}))).state
    assert {name: array.tolist() for name, array in loaded.items()} == {name: array.tolist() for name, array in state.items()}


def test_a_missing_or_empty_folder_has_no_latest(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) == (None, [])
    assert checkpoint.latest(tmp_path / "missing") == (None, [])


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    small = Checkpoint(3, {"w": np.arange(3), "b": np.array([True])}, {"epoch": 5})
    path = checkpoint.save(tmp_path, small)
    whole = path.read_bytes()
    undetected = []
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        try:
            assert_equal(checkpoint.load(path), small)
        except CorruptCheckpoint as error:
            assert str(path) in str(error)
            continue
        undetected.append(offset)
    padding = [offset for offset in range(len(whole)) if whole[offset : offset + 1] == b" "]
    assert set(undetected) <= set(padding), "only the padding between header and arrays may differ, because it is never read"


@pytest.mark.parametrize("size", [0, 5, 100, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, size: float) -> None:
    path = checkpoint.save(tmp_path, make(1))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * size) if size == 0.5 else int(size)])
    with pytest.raises(CorruptCheckpoint, match=r"not whole.*use the checkpoint before it"):
        checkpoint.load(path)


@pytest.mark.parametrize(("find", "problem"), [(b"state", "metadata"), (b"17", "metadata"), (b"json", "arrays")])
def test_the_error_names_the_altered_part(tmp_path: Path, find: bytes, problem: str) -> None:
    path = checkpoint.save(tmp_path, make(1))
    whole = path.read_bytes()
    assert find in whole
    path.write_bytes(whole.replace(find, bytes([find[0] ^ 1]) + find[1:], 1))
    with pytest.raises(CorruptCheckpoint, match=f"its {problem} were altered"):
        checkpoint.load(path)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000000001.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(2)}, path)
    with pytest.raises(CorruptCheckpoint, match="another program"):
        checkpoint.load(path)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "missing")


def test_latest_falls_back_to_the_one_before_and_keeps_the_bad_one(tmp_path: Path) -> None:
    paths = [checkpoint.save(tmp_path, make(version, version)) for version in (1, 2, 3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"?")
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    found, corrupt = checkpoint.latest(tmp_path)
    assert found is not None
    assert_equal(found, make(1, 1))
    assert [error.path for error in corrupt] == [paths[2], paths[1]]
    assert names(tmp_path) == [paths[0].name, f"{paths[1].name}.corrupt", f"{paths[2].name}.corrupt"]
    assert checkpoint.latest(tmp_path)[1] == []
    checkpoint.save(tmp_path, make(2, 2), keep=1)
    assert names(tmp_path) == [paths[1].name, f"{paths[1].name}.corrupt", f"{paths[2].name}.corrupt"]


def test_latest_falls_back_even_if_the_folder_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [checkpoint.save(tmp_path, make(version)) for version in (1, 2)]
    paths[1].write_bytes(b"")

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    found, corrupt = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.version == 1
    assert len(corrupt) == 1


def test_a_file_that_is_pruned_meanwhile_is_not_corrupt(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(1))
    (tmp_path / "checkpoint-000000000002.safetensors").symlink_to(tmp_path / "gone")
    found, corrupt = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.version == 1
    assert corrupt == []


@pytest.mark.parametrize("failing", ["fsync", "write", "replace"])
def test_a_full_disk_leaves_older_checkpoints_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = checkpoint.save(tmp_path, make(1), keep=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif failing == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        # /dev/full is always full, so this is the real error of a real write.
        really_open = os.open

        def open_full(file: Path, flags: int, mode: int = 0) -> int:
            os.close(really_open(file, flags, mode))
            return really_open("/dev/full", os.O_WRONLY)

        monkeypatch.setattr(os, "open", open_full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, make(2), keep=1)
    monkeypatch.undo()
    assert names(tmp_path) == [path.name]
    found, corrupt = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.version == 1
    assert corrupt == []


def test_prune_keeps_the_newest_and_removes_temporary_files(tmp_path: Path) -> None:
    for version in (8, 9, 10, 11):
        checkpoint.save(tmp_path, make(version), keep=10)
    (tmp_path / ".checkpoint-000000000012.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.prune(tmp_path, 2)
    kept = ["checkpoint-000000000010.safetensors", "checkpoint-000000000011.safetensors", "notes.txt"]
    assert names(tmp_path) == kept
    (tmp_path / ".checkpoint-000000000012.safetensors.tmp").write_bytes(b"half")
    assert checkpoint.latest(tmp_path)[0] is not None
    assert names(tmp_path) == [".checkpoint-000000000012.safetensors.tmp", *kept], (
        "a reader does not touch the writer's temporary file"
    )
    checkpoint.save(tmp_path, make(12), keep=1)
    assert names(tmp_path) == ["checkpoint-000000000012.safetensors", "notes.txt"]


def test_saving_a_version_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, make(5, 1))
    assert_equal(checkpoint.load(checkpoint.save(tmp_path, make(5, 2))), make(5, 2))


def test_values_that_cannot_be_written_are_refused_by_name(tmp_path: Path) -> None:
    for bad, problem in (
        (Checkpoint(1, {"fm.w": np.array(["a"])}, {}), "fm.w"),
        (Checkpoint(1, {}, {"when": object()}), "meta"),
        (Checkpoint(-1, {}, {}), "version"),
    ):
        with pytest.raises(ValueError, match=problem):
            checkpoint.save(tmp_path, bad)
    with pytest.raises(ValueError, match="keep"):
        checkpoint.save(tmp_path, make(1), keep=0)
    assert names(tmp_path) == []


def test_others_cannot_write_to_a_checkpoint_even_under_a_lax_umask(tmp_path: Path) -> None:
    old = os.umask(0o002)  # the default of many systems
    try:
        path = checkpoint.save(tmp_path / "folder", Checkpoint(1, {}, {}))
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644 and path.parent.stat().st_mode & 0o777 == 0o755
