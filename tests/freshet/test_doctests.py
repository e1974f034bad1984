"""The examples in the docstrings of the library run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import freshet

MODULES = [name for _, name, _ in pkgutil.iter_modules(freshet.__path__, "freshet.")]
SHOWN = {"freshet.replays", "freshet.recommender", "freshet.river_adapter", "freshet.sklearn_adapter"}
"""Modules that must have an example: what a notebook starts with."""


@pytest.mark.parametrize("name", ["freshet", *MODULES])
def test_the_examples_of_a_module_run(name: str) -> None:
    if name == "freshet.sklearn_adapter":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    done = doctest.testmod(importlib.import_module(name))
    assert done.failed == 0
    assert done.attempted > 0 or name not in SHOWN
