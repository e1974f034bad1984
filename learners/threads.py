"""One thread for numpy's matrix products. The one door to threadpoolctl.

torch and faiss are limited where they enter: torch for the process, faiss for each thread that asks it.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits

__all__ = ["one_thread"]


def one_thread() -> None:
    """Let every BLAS that is loaded by now compute on the thread that calls it, for as long as the process lives."""
    threadpool_limits(limits=1, user_api="blas")
