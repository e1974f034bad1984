"""Dependencies point down, and each third party comes in by its own door."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

from learners.registry import FOLDERS

PACKAGES = ("streams", "memory", "learners", "service")

DOORS = {
    "crc32c": {"streams.kafka"},
    "faiss": {"memory.centroids", "memory.vector_index"},
    # The application, and requests and answers; routes see only what `service.web` gives them.
    "fastapi": {"service.app", "service.web"},
    # Records of a topic; the topics of a cluster; who owns which partition. No log needs the others.
    "kafka": {"streams.kafka", "streams.kafka_group", "streams.kafka_topics"},
    # Comparisons in registers, for numba's compiled functions.
    "llvmlite": {"memory.lanes"},
    "lmdb": {"streams.lmdb_log"},
    # Pictures of a replay, and of an evaluation.
    "matplotlib": {"service.ope_report", "service.report"},
    # The compiler, and what it is extended with.
    "numba": {"memory.jit", "memory.lanes"},
    "pickle": {"memory.blob"},
    "prometheus_client": {"service.monitor"},
    "river": {"learners.rankers.river_model", "service.live_quality"},
    "safetensors": {"memory.checkpoint"},
    "starlette": {"service.app"},
    # Pairs the centroids of two epochs.
    "scipy": {"memory.centroids"},
    # The GPU's index of vectors, modules as stores, and the two-tower encoder.
    "threadpoolctl": {"learners.blas"},
    "torch": {"learners.towers", "memory.gpu_vectors", "memory.parameters"},
    "typer": {"service.cli"},
    "uvicorn": {"service.server"},
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


@pytest.mark.parametrize("third_party", DOORS)
def test_a_third_party_enters_by_its_door(third_party: str, graph: grimp.ImportGraph) -> None:
    if third_party in graph.modules:
        assert graph.find_modules_that_directly_import(third_party) <= DOORS[third_party]


def test_the_contracts_are_kept() -> None:
    # In a process of its own: the linter turns off the loggers that other tests read.
    code = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_folder_of_learners_is_independent() -> None:
    contracts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (independent,) = [contract["modules"] for contract in contracts if contract["type"] == "independence"]
    assert set(independent) == {f"learners.{folder}.*" for folder in FOLDERS.values()}


def test_the_fast_path_does_not_load_torch() -> None:
    code = "import sys, service.runtime, service.replay; sys.exit('torch' in sys.modules or 'faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
