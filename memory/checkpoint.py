"""Checkpoints: one file a version, whole or not there at all, believed only when its digests hold.

A file is in the safetensors format. Its metadata has one entry, ``checkpoint``: the digest of a JSON text, a space and that
text, which holds its own format, the version, the caller's data and the digest of the arrays, so that an altered byte is
noticed anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open

from memory.pickled_object import trusting
from memory.stateful import State, digest

__all__ = [
    "Checkpoint",
    "CorruptCheckpoint",
    "UnfitCheckpoint",
    "UnusableCheckpoint",
    "latest",
    "load",
    "path_of",
    "prune",
    "save",
    "trust",
    "trusted",
]

PATTERN = "checkpoint-*.safetensors"

FORMAT = 1
"""Of the JSON text in the metadata."""

_KINDS = {np.dtype("?"): "BOOL"} | {
    np.dtype(f"<{kind}{size}"): f"{name}{8 * size}"
    for kind, name, sizes in (("u", "U", (1, 2, 4, 8)), ("i", "I", (1, 2, 4, 8)), ("f", "F", (2, 4, 8)))
    for size in sizes
}
"""What safetensors calls the types of numbers."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state and what must be known to go on from it.

    Attributes
    ----------
    version : int
        Number of learning steps; names the file.
    state : State
        Arrays by dotted name.
    meta : dict
        Anything that JSON can say: offsets, epoch, config hash, states of random generators.
    """

    version: int
    state: State
    meta: dict[str, Any]


class UnusableCheckpoint(Exception):
    """A file that a state cannot be loaded from.

    Attributes
    ----------
    path : Path
        The file, as it was named when it was read.
    reason : str
        What is wrong with it.
    suffix : str
        What its name is given by `latest`, so that it is kept and not tried again.
    """

    suffix: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; {self.remedy}")
        self.path = path
        self.reason = reason


class CorruptCheckpoint(UnusableCheckpoint):
    """A file that is not the checkpoint that was written."""

    suffix = ".corrupt"
    remedy = "use the checkpoint before it, or restore this one from a backup"


class UnfitCheckpoint(UnusableCheckpoint):
    """A whole checkpoint, but of another program, configuration or log."""

    suffix = ".unfit"
    remedy = "use the checkpoint before it, or the program, the config and the log that it was written with"


def save(folder: Path, checkpoint: Checkpoint, keep: int = 3) -> Path:
    """Write a checkpoint so that it is there whole, or not at all, whenever the machine stops.

    The file is written under a temporary name in the same folder, flushed to the disk and renamed; then the folder is
    flushed, and older checkpoints are pruned. One process at a time may write to a folder.

    Parameters
    ----------
    folder : Path
        Created if missing, not writable by group and others.
    checkpoint : Checkpoint
        What to write. The arrays are written from where they lie.
    keep : int
        Checkpoints to keep, this one included.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        When the disk is full or cannot be written to; older checkpoints are untouched and nothing is left behind.
    ValueError
        When the state or the metadata holds something that cannot be written.
    """
    if checkpoint.version < 0 or keep < 1:
        raise ValueError(f"version, keep: {checkpoint.version}, {keep}; give a version of 0 or more, and keep 1 or more")
    pieces = _pieces(checkpoint)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    _remove_leftovers(folder)
    path = path_of(folder, checkpoint.version)
    beside = folder / f".{path.name}.tmp"
    try:
        # Explicit modes here and above: under a lax umask the folder would not count as trusted.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _flush(folder)
    prune(folder, keep)
    return path


def path_of(folder: Path, version: int) -> Path:
    """File of the checkpoint with this version, whether it is there or not."""
    return folder / f"checkpoint-{version:012d}.safetensors"


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises
    ------
    CorruptCheckpoint
        When it is cut short, altered, or no checkpoint of this program.
    UnfitCheckpoint
        When it is of a format that this program does not know.
    OSError
        When it is not there or cannot be read.
    """
    with path.open("rb"):
        pass  # so that a missing or forbidden file says so in the system's own words
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, state = file.metadata() or {}, dict(file.get_tensors())
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(path, f"not whole ({error})") from error
    if "checkpoint" not in metadata:
        raise CorruptCheckpoint(path, "written by another program")
    fingerprint, _, text = metadata["checkpoint"].partition(" ")
    if fingerprint != _digest(text):
        raise CorruptCheckpoint(path, "its metadata were altered")
    about = json.loads(text)
    if about.get("format") != FORMAT:
        raise UnfitCheckpoint(path, f"its format is {about.get('format')!r}, and this program reads {FORMAT}")
    if about["state"] != digest(state):
        raise CorruptCheckpoint(path, "its arrays were altered")
    return Checkpoint(about["version"], state, about["meta"])


def latest(
    folder: Path, check: Callable[[Checkpoint], None] | None = None, *, set_aside: bool = True
) -> tuple[Checkpoint | None, list[UnusableCheckpoint]]:
    """Newest checkpoint that verifies and fits, and what was wrong with newer ones.

    Parameters
    ----------
    folder : Path
    check : callable or None
        Raises ValueError for a checkpoint that does not fit.
    set_aside : bool
        Rename those that cannot be used to ``*.corrupt`` or ``*.unfit`` where the folder allows it; they are kept for
        inspection, and are not in the way of new ones. For the folder's writer only.

    Returns
    -------
    checkpoint : Checkpoint or None
        None when there is none that verifies and fits.
    unusable : list of UnusableCheckpoint
        Newer files that were passed over, newest first.
    """
    unusable: list[UnusableCheckpoint] = []
    passed: set[Path] = set()
    while paths := [path for path in _paths(folder) if path not in passed]:
        passed.add(paths[-1])
        try:
            return _checked(paths[-1], check), unusable
        except FileNotFoundError:
            continue  # pruned meanwhile by its writer, so a newer one may be there: look again
        except UnusableCheckpoint as error:
            unusable.append(error)
            if set_aside:
                with contextlib.suppress(OSError):
                    error.path.replace(error.path.with_name(f"{error.path.name}{error.suffix}"))
    return None, unusable


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, and what an interrupted `save` left; for the folder's writer only."""
    _remove_leftovers(folder)
    paths = _paths(folder)
    for path in paths[: max(0, len(paths) - max(1, keep))]:
        path.unlink(missing_ok=True)


def trusted(folder: Path) -> bool:
    """Whether only this user (or root) could have written the folder and the checkpoints in it."""
    return all(_ours(path) for path in (folder, *_paths(folder)))


def trust(folder: Path) -> AbstractContextManager[None]:
    """Block within which `PickledObject` may unpickle if the folder is `trusted`: load a checkpoint's state inside of it."""
    return trusting() if trusted(folder) else nullcontext()


def _checked(path: Path, check: Callable[[Checkpoint], None] | None) -> Checkpoint:
    found = load(path)
    try:
        if check is not None:
            check(found)
    except ValueError as error:
        raise UnfitCheckpoint(path, str(error)) from error
    return found


def _pieces(checkpoint: Checkpoint) -> list[bytes | memoryview]:
    """The file in the format of safetensors: its header, then the arrays' own memory.

    The library's own writer copies everything twice and lets no other thread run meanwhile: a quarter of a second for 70 MB.
    """
    state = checkpoint.state
    for name, array in state.items():
        if array.dtype not in _KINDS:
            raise ValueError(f"{name}: arrays of {array.dtype} cannot be written; keep numbers")
    about = {"format": FORMAT, "version": checkpoint.version, "state": digest(state), "meta": checkpoint.meta}
    try:
        text = json.dumps(about)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta: {error}; give what JSON can say") from error
    header: dict[str, Any] = {"__metadata__": {"checkpoint": f"{_digest(text)} {text}"}}
    pieces: list[bytes | memoryview] = []
    end = 0
    # The widest numbers first, so that each array is aligned in the file.
    for name in sorted(state, key=lambda name: (-state[name].itemsize, name)):
        array = np.require(state[name], requirements="C")
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _KINDS[array.dtype], "shape": array.shape, "data_offsets": (start, end)}
        if array.size:
            pieces.append(array.reshape(-1).view(np.uint8).data)
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    return [len(described).to_bytes(8, "little"), described, *pieces]


def _digest(text: str) -> str:
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def _paths(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    return sorted(folder.glob(PATTERN))


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f".{PATTERN}.tmp"):
        path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ours(path: Path) -> bool:
    about = path.stat()
    return about.st_uid in (os.geteuid(), 0) and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
