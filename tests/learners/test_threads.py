"""Matrix products use one thread, whatever the environment variables say and whichever thread calls them.

On a machine with one core these tests always pass.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

ENVIRONMENT = os.environ | dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "4")


def in_new_process(imports: str, value: str) -> Any:
    """Return `value`, evaluated in a new process on a thread that has imported nothing."""
    code = f"""
import json, threading, {imports}
thread = threading.Thread(target=lambda: print(json.dumps({value})))
thread.start()
thread.join()
"""
    ran = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)


def blas_threads(module: str) -> set[int]:
    # faiss has its own BLAS, which is limited per thread; see tests/memory.
    value = '[pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool.get("threading_layer") == "pthreads"]'
    return set(in_new_process(f"threadpoolctl, {module}", value))


@pytest.mark.parametrize(
    "learner", ["policies.ucb", "rankers.river_model", "rerankers.reloop2.reranker", "retrievers.diag_linucb.retriever"]
)
def test_a_learner_limits_blas_to_one_thread(learner: str) -> None:
    assert blas_threads(f"learners.{learner}") == {1}


def test_towers_limit_torch_to_one_thread() -> None:
    assert in_new_process("torch, learners.networks.towers", "torch.get_num_threads()") == 1
