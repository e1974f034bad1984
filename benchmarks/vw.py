"""Runs Vowpal Wabbit's own program on a file as a child process: its C++ parser and loop, without Python.

Uses the ``vw`` executable if there is one, else ``python -m vowpalwabbit``, which passes the command line to the same code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Cost

__all__ = ["MODELS", "cached", "predicted", "predictions", "program", "start_up", "train"]

LOGISTIC = ["-b", "22", "--loss_function", "logistic", "--link", "logistic"]
CROSSES = ["-q", "sc", "-q", "uc", "-q", "si"]
MODELS = {"vw sgd": ["--sgd", "--power_t", "0", "-l", ".1"], "vw adaptive": []}
"""Crosses of segment, category, user and item. Constant learning rate (best of 19 settings here), and VW's default."""

_EXAMPLES = re.compile(rb"number of examples = (\d+)")


def program() -> list[str]:
    """Return the command that starts VW."""
    beside = Path(sys.executable).with_name("vw")
    return [str(beside)] if beside.is_file() else [sys.executable, "-m", "vowpalwabbit"]


def train(model: str, source: list[str], rows: int, idle: Cost) -> Cost:
    """Return the cost of one pass over the rows, without that of starting up.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    source : list of str
        Source of the rows: ``["-d", file]`` for text, or the result of `cached`.
    rows : int
        Number of rows.
    idle : Cost
        Cost of starting up; see `start_up`.
    """
    return _run([*LOGISTIC, *CROSSES, *MODELS[model], *source], rows).without(idle)


def start_up() -> Cost:
    """Return the cost of starting and doing nothing: the better of two runs."""
    return min((_run(["--version"]) for _ in range(2)), key=lambda cost: cost.cpu)


def cached(text: Path) -> list[str]:
    """Convert text to VW's binary cache, so that parsing is not measured; return the source for `train`."""
    cache = text.with_suffix(".cache")
    _run([*LOGISTIC, "-d", str(text), "--cache_file", str(cache), "-k"])
    # The Python package runs its file loop only with -d; VW then reads the cache.
    return ["-d", str(text), "--cache_file", str(cache)]


def predictions(model: str, text: Path) -> npt.NDArray[np.float32]:
    """Return a model's predicted probability of each row before it learns the row."""
    return predicted([*CROSSES, *MODELS[model]], ["-d", str(text)], text.with_suffix(".predictions"))


def predicted(options: list[str], source: list[str], output: Path) -> npt.NDArray[np.float32]:
    """Return the predicted probability of each row before it is learned, of VW with these options; `output` is overwritten."""
    _run([*LOGISTIC, *options, *source, "-p", str(output)])
    return np.loadtxt(output, np.float32)


def _run(arguments: list[str], rows: int | None = None) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen([*program(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    found = _EXAMPLES.search(output)
    if process.returncode or (rows is not None and (found is None or int(found[1]) != rows)):
        raise RuntimeError(f"vw {' '.join(arguments)}: not all rows were learned: {output.decode(errors='replace')}")
    return Cost(rows or 0, time.perf_counter() - start, used.ru_utime + used.ru_stime)
