"""Compiled functions and their cache."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import pytest

PROGRAM = """
from memory.jit import njit

@njit()
def twice(x):
    return 2 * x

print(twice(21), twice.stats.cache_path)
"""


def _run(folder: Path) -> tuple[str, Path]:
    """What the program prints, and the folder of its cache."""
    script = folder / "program.py"
    if not script.exists():
        script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    result, cache = done.stdout.split()
    return result, Path(cache)


def _of_another_version(index: Path, data: Path) -> None:
    """An index that names a class which is no longer there, as an upgrade in place leaves it."""
    missing = b"cmemory.jit\nRemoved\n."
    index.write_bytes(pickle.dumps(numba.__version__) + missing)


def _cut(index: Path, data: Path) -> None:
    """A disk was full when the index was written."""
    index.write_bytes(index.read_bytes()[:-20])


def _cut_code(index: Path, data: Path) -> None:
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def _empty(index: Path, data: Path) -> None:
    index.write_bytes(b"")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of a program that ran once, and that of its cache."""
    folder = tmp_path_factory.mktemp("program")
    return folder, _run(folder)[1]


@pytest.mark.parametrize("damage", [_of_another_version, _cut, _cut_code, _empty])
def test_a_cache_that_cannot_be_read_is_made_again(program: tuple[Path, Path], damage: Callable[[Path, Path], None]) -> None:
    folder, cache = program
    (index,), (data,) = cache.glob("program.twice*.nbi"), cache.glob("program.twice*.nbc")
    damage(index, data)
    broken = index.read_bytes(), data.read_bytes()

    assert _run(folder)[0] == "42"

    assert (index.read_bytes(), data.read_bytes()) != broken, "the next start would compile again"
