"""Small streams and the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from service.cli import main


class Done(NamedTuple):
    returncode: int | str | None
    stdout: str
    stderr: str


Freshet = Callable[..., Done]


@pytest.fixture
def freshet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Freshet:
    """Run the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["freshet", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return Done(left.value.code, *capsys.readouterr())

    return run


def write(path: Path, rows: int, seed: int, *, shuffled: bool = False) -> Path:
    """Clicks of users of two groups on items of two groups: 80 % on their own group's, 10 % on others."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 30, rows), rng.integers(0, 20, rows)
    label = (rng.random(rows) < np.where(user % 2 == item % 2, 0.8, 0.1)).astype(int)
    if shuffled:
        rng.shuffle(label)
    lines = (f"{u},{i},{y},{1000 + n}" for n, (u, i, y) in enumerate(zip(user, item, label, strict=True)))
    path.write_text("user,item,label,timestamp\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    return write(tmp_path / "clicks.csv", 3000, 3)


STREAM = '[stream]\nkind = "click"\nbatch_rows = 16\n[stream.columns]\nvalue = "label"\n'

SMALL = "bits = 12\n"
"""A small table: what takes time in a short replay is to fill it."""


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A config that learns far too slowly."""
    path = tmp_path / "bad.toml"
    rates = "learning_rate = 0.005 # slow\nfactor_learning_rate = 0.02\n"
    path.write_text(f"# mine\n{STREAM}\n[ranker.fm]  # the ranker\n{rates}factors = 4\n{SMALL}")
    return path
