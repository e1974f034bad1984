"""Imports point downwards, and each third party is imported in one place."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

from learners.registry import FOLDERS

PACKAGES = ("streams", "memory", "learners", "service", "freshet")

DOORS = {
    # Checksums of the embedded log, and those that the Kafka client computes.
    "crc32c": {"streams.disk.checksums", "streams.kafka.log"},
    # Its package for CPUs or for GPUs, and tensors for it.
    "faiss": {"memory.vectors.faiss_package", "memory.vectors.gpu_vectors"},
    # The application, and requests and responses; routes use only `service.http.web`.
    "fastapi": {"service.http.app", "service.http.web"},
    # Records of a topic; topics of a cluster; owners of partitions. Each can be used without the others.
    "kafka": {
        "streams.kafka.log",
        "streams.kafka.sender",
        "streams.kafka.group",
        "streams.kafka.topics",
        "streams.kafka.handshakes",
    },
    # SIMD comparisons for numba's compiled functions.
    "docstring_parser": {"service.reference.docstrings"},
    "llvmlite": {"memory.simd"},
    # The environment with its transactions, and the records in it.
    "lmdb": {"streams.disk.environment", "streams.lmdb_log"},
    # Pictures of replays, of evaluations and of tuning.
    "matplotlib": {
        "service.evaluation.reports.axes",
        "service.evaluation.reports.replay_figure",
        "service.evaluation.tuning.report",
    },
    # The compiler and its extensions.
    "numba": {"memory.jit", "memory.simd"},
    "optuna": {"service.evaluation.tuning.study"},
    # Frames for who has it; the library itself speaks Arrow.
    "pandas": {"freshet.frames"},
    # Loading a pickle can run any code of its writer.
    "pickle": set(),
    "prometheus_client": {"service.monitoring.monitor", "service.monitoring.prometheus", "service.monitoring.timing"},
    "river": {"freshet.river_adapter", "learners.rankers.river_model", "service.monitoring.live_quality"},
    "safetensors": {"memory.checkpoint"},
    "sklearn": {"freshet.sklearn_adapter"},
    "starlette": {"service.http.app", "service.http.paths"},
    # Pairs the centroids of two epochs.
    "scipy": {"memory.vectors.centroids"},
    # Optuna's storage.
    "sqlalchemy": {"service.evaluation.tuning.study"},
    "threadpoolctl": {"learners.threads"},
    "tomlkit": {"service.evaluation.tuning.documents"},
    # Networks, modules as stores, the GPU's index of vectors, and the processes that torchrun started.
    "torch": {
        "learners.networks.adaptation.affine",
        "learners.networks.adaptation.minimizer",
        "learners.networks.adaptation.slates",
        "learners.networks.changes",
        "learners.networks.click_network",
        "learners.networks.error_attention",
        "learners.networks.graphs",
        "learners.networks.ranker",
        "learners.networks.sequence.absorbing",
        "learners.networks.sequence.context",
        "learners.networks.sequence.model",
        "learners.networks.sequence.scoring",
        "learners.networks.sequence.transformer",
        "learners.networks.sparse.group_linear",
        "learners.networks.sparse.network",
        "learners.networks.towers",
        "memory.parameters",
        "memory.vectors.gpu_vectors",
        "service.sharding.ranks",
    },
    "typer": {
        "service.cli",
        "service.commands.keys",
        "service.commands.topics",
        "service.commands.tune",
        "service.log_tools.commands",
        "service.manual",
        "service.reference.commands",
    },
    # The server, and its connections with limits.
    "uvicorn": {"service.http.connections", "service.http.server"},
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


@pytest.mark.parametrize("third_party", DOORS)
def test_a_third_party_enters_by_its_door(third_party: str, graph: grimp.ImportGraph) -> None:
    if third_party in graph.modules:
        assert graph.find_modules_that_directly_import(third_party) <= DOORS[third_party]


def test_of_streams_learners_import_only_events_and_batches(graph: grimp.ImportGraph) -> None:
    allowed = {"streams.batch", "streams.events"}
    for module in graph.find_descendants("learners"):
        seen = {name for name in graph.find_modules_directly_imported_by(module) if name.partition(".")[0] == "streams"}
        assert seen <= allowed, f"{module} imports {sorted(seen - allowed)}"


def test_a_folder_has_at_most_thirteen_files() -> None:
    root = Path(__file__).parents[1]
    for package in PACKAGES:
        for folder in {file.parent for file in (root / package).rglob("*.py")} - {root / "streams" / "readers"}:
            assert len(list(folder.glob("*.py"))) <= 13, folder


def test_no_file_is_longer_than_400_lines() -> None:
    root = Path(__file__).parents[1]
    for folder in (*PACKAGES, "tests", "benchmarks"):
        for file in (root / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file


def test_the_contracts_are_kept() -> None:
    # In a separate process: the linter turns off the loggers that other tests read.
    code = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_folder_of_learners_is_independent() -> None:
    contracts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (independent,) = [contract["modules"] for contract in contracts if contract["type"] == "independence"]
    assert set(independent) == {f"learners.{folder}.*" for folder in FOLDERS.values()}


def test_the_fast_path_does_not_load_torch() -> None:
    imports = "import sys, freshet, service.process.runtime, service.evaluation.replay"
    code = f"{imports}; sys.exit('torch' in sys.modules or 'faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
