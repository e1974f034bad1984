"""Matrix products on one thread, whatever the environment asks for and whichever thread they are asked for on.

A machine with one core has nothing to show here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

ENVIRONMENT = os.environ | dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "4")


def elsewhere(imports: str, value: str) -> Any:
    """What `value` is in a process of its own, on a thread that has imported nothing."""
    code = f"""
import json, threading, {imports}
thread = threading.Thread(target=lambda: print(json.dumps({value})))
thread.start()
thread.join()
"""
    ran = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)


def blas_threads(module: str) -> set[int]:
    # faiss brings a BLAS of another kind, which follows what faiss is told on each thread: tests/memory.
    told = '[one["num_threads"] for one in threadpoolctl.threadpool_info() if one.get("threading_layer") == "pthreads"]'
    return set(elsewhere(f"threadpoolctl, {module}", told))


@pytest.mark.parametrize("learner", ["policies.ucb", "rankers.river_model", "rerankers.reloop2.reranker", "retrievers.diag_linucb.retriever"])
def test_with_a_learner_blas_has_one(learner: str) -> None:
    assert blas_threads(f"learners.{learner}") == {1}


def test_towers_have_one() -> None:
    assert elsewhere("torch, learners.networks.towers", "torch.get_num_threads()") == 1
