"""Checkpoints: one file per version, written atomically and verified by digests when it is loaded.

A file has the safetensors format. Its metadata has one entry, ``checkpoint``: the digest of a JSON text, a space, and that
text. It holds its format number, the version, the caller's data and the digest of the arrays. So any altered byte is detected.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open

from memory.stateful import State, digest

__all__ = [
    "Checkpoint",
    "CorruptCheckpoint",
    "UnfitCheckpoint",
    "UnusableCheckpoint",
    "latest",
    "load",
    "metadata",
    "path_of",
    "prune",
    "save",
]

PATTERN = "checkpoint-*.safetensors"

FORMAT = 1
"""Format number of the JSON text in the metadata."""

_KINDS = {np.dtype("?"): "BOOL"} | {
    np.dtype(f"<{kind}{size}"): f"{name}{8 * size}"
    for kind, name, sizes in (("u", "U", (1, 2, 4, 8)), ("i", "I", (1, 2, 4, 8)), ("f", "F", (2, 4, 8)))
    for size in sizes
}
"""safetensors' names of number types."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state and the metadata needed to continue from it.

    Attributes
    ----------
    version : int
        Number of learning steps. It names the file.
    state : State
        Arrays by dotted name.
    meta : dict
        JSON values: offsets, epoch, config hash, states of random generators.
    """

    version: int
    state: State
    meta: dict[str, Any]


class UnusableCheckpoint(Exception):
    """Base class: a file from which no state can be loaded.

    Attributes
    ----------
    path : Path
        The file's name when it was read.
    reason : str
        What is wrong with it.
    suffix : str
        `latest` appends this to the name, so that the file is kept but not tried again.
    """

    suffix: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; {self.remedy}")
        self.path = path
        self.reason = reason


class CorruptCheckpoint(UnusableCheckpoint):
    """A file that is damaged or no checkpoint."""

    suffix = ".corrupt"
    remedy = "use the checkpoint before it, or restore this one from a backup"


class UnfitCheckpoint(UnusableCheckpoint):
    """An intact checkpoint of another program, configuration or log."""

    suffix = ".unfit"
    remedy = "use the checkpoint before it, or the program, the config and the log that it was written with"


def save(folder: Path, checkpoint: Checkpoint, keep: int = 3) -> Path:
    """Write a checkpoint atomically: after a crash it is either complete or absent.

    The file is written under a temporary name in the same folder, flushed to disk and renamed. Then the folder is flushed, and
    older checkpoints are pruned. Only one process at a time may write to a folder.

    Parameters
    ----------
    folder : Path
        It is created if missing, and is not writable by group and others.
    checkpoint : Checkpoint
        The arrays are written without a copy.
    keep : int
        Number of checkpoints to keep, including this one.

    Returns
    -------
    Path
        The new file.

    Raises
    ------
    OSError
        If the disk is full or not writable. Older checkpoints are untouched, and no temporary file is left.
    ValueError
        If a value of the state or the metadata cannot be written.
    """
    if checkpoint.version < 0 or keep < 1:
        raise ValueError(f"version, keep: {checkpoint.version}, {keep}; give a version of 0 or more, and keep 1 or more")
    pieces = _pieces(checkpoint)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    _remove_leftovers(folder)
    path = path_of(folder, checkpoint.version)
    temporary = folder / f".{path.name}.tmp"
    try:
        # The modes are explicit here and above: under a lax umask, others could change the state.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush(folder)
    prune(folder, keep)
    return path


def path_of(folder: Path, version: int) -> Path:
    """Path of the checkpoint with this version. The file need not exist."""
    return folder / f"checkpoint-{version:012d}.safetensors"


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises
    ------
    CorruptCheckpoint
        If it is truncated, altered, or no checkpoint of this program.
    UnfitCheckpoint
        If this program does not know its format.
    OSError
        If it does not exist or cannot be read.
    """
    with path.open("rb"):
        pass  # a missing or forbidden file raises the system's own error here
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
    content = json.loads(text)
    if content.get("format") != FORMAT:
        raise UnfitCheckpoint(path, f"its format is {content.get('format')!r}, and this program reads {FORMAT}")
    if content["state"] != digest(state):
        raise CorruptCheckpoint(path, "its arrays were altered")
    return Checkpoint(content["version"], state, content["meta"])


def metadata(folder: Path) -> dict[int, dict[str, Any]]:
    """Metadata of a folder's checkpoints by version, oldest first, without their arrays; damaged files are left out."""
    found = {}
    for path in _paths(folder):
        with contextlib.suppress(SafetensorError, OSError, ValueError, KeyError), safe_open(path, framework="numpy") as file:
            fingerprint, _, text = (file.metadata() or {}).get("checkpoint", "").partition(" ")
            if fingerprint == _digest(text):
                content = json.loads(text)
                found[int(content["version"])] = content["meta"]
    return found


def latest(
    folder: Path, check: Callable[[Checkpoint], None] | None = None, *, set_aside: bool = True
) -> tuple[Checkpoint | None, list[UnusableCheckpoint]]:
    """Load the newest usable checkpoint, and report the newer ones that cannot be used.

    Parameters
    ----------
    folder : Path
    check : callable or None
        It raises ValueError for a checkpoint that does not fit.
    set_aside : bool
        Rename unusable files to ``*.corrupt`` or ``*.unfit`` if the folder is writable. They are kept for inspection, but not
        tried again. Only the writer of the folder may set this.

    Returns
    -------
    checkpoint : Checkpoint or None
        None if no checkpoint can be used.
    unusable : list of UnusableCheckpoint
        Newer files that were skipped, newest first.
    """
    unusable: list[UnusableCheckpoint] = []
    tried: set[Path] = set()
    while paths := [path for path in _paths(folder) if path not in tried]:
        tried.add(paths[-1])
        try:
            return _checked(paths[-1], check), unusable
        except FileNotFoundError:
            continue  # the writer has pruned it, so there may be a newer one
        except UnusableCheckpoint as error:
            unusable.append(error)
            if set_aside:
                with contextlib.suppress(OSError):
                    error.path.replace(error.path.with_name(f"{error.path.name}{error.suffix}"))
    return None, unusable


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, and temporary files of a crashed `save`. Only for the folder's writer."""
    _remove_leftovers(folder)
    paths = _paths(folder)
    for path in paths[: max(0, len(paths) - max(1, keep))]:
        path.unlink(missing_ok=True)


def _checked(path: Path, check: Callable[[Checkpoint], None] | None) -> Checkpoint:
    checkpoint = load(path)
    try:
        if check is not None:
            check(checkpoint)
    except ValueError as error:
        raise UnfitCheckpoint(path, str(error)) from error
    return checkpoint


def _pieces(checkpoint: Checkpoint) -> list[bytes | memoryview]:
    """Build a safetensors file: the header, then the memory of the arrays.

    The writer of the safetensors library copies everything twice and blocks all threads: a quarter of a second for 70 MB.
    """
    state = checkpoint.state
    for name, array in state.items():
        if array.dtype not in _KINDS:
            raise ValueError(f"{name}: arrays of {array.dtype} cannot be written; use arrays of numbers")
    content = {"format": FORMAT, "version": checkpoint.version, "state": digest(state), "meta": checkpoint.meta}
    try:
        text = json.dumps(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta: {error}; give values that JSON can hold") from error
    header: dict[str, Any] = {"__metadata__": {"checkpoint": f"{_digest(text)} {text}"}}
    pieces: list[bytes | memoryview] = []
    end = 0
    # The largest item size comes first, so that each array is aligned in the file.
    for name in sorted(state, key=lambda name: (-state[name].itemsize, name)):
        array = np.require(state[name], requirements="C")
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _KINDS[array.dtype], "shape": array.shape, "data_offsets": (start, end)}
        if array.size:
            pieces.append(array.reshape(-1).view(np.uint8).data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return [len(encoded).to_bytes(8, "little"), encoded, *pieces]


def _digest(text: str) -> str:
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def _paths(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, oldest first."""
    return sorted(folder.glob(PATTERN))


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f".{PATTERN}.tmp"):
        path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Flush the folder, so that the rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
