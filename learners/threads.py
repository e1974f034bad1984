"""Limits numpy's matrix products to one thread. No other file imports threadpoolctl.

torch and faiss are limited in the files that import them: torch for the process, faiss for each calling thread.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits

__all__ = ["one_thread"]


def one_thread() -> None:
    """Limit every BLAS library that is loaded so far to one thread, for the rest of the process."""
    threadpool_limits(limits=1, user_api="blas")
