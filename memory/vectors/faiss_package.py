"""The faiss package. Everything that uses faiss imports it from here, and learns from here what is wrong with its installation.

There are two distributions of it, for CPUs and for GPUs. They install the same module, and overwrite each other's files.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import metadata

__all__ = ["check_distributions", "faiss"]


def check_distributions(found: Collection[str]) -> None:
    """Raise ImportError if both distributions of faiss are among the installed ones.

    Raises
    ------
    ImportError
        It says which commands leave one of them.
    """
    if {"faiss-cpu", "faiss-gpu"} <= {*found}:
        raise ImportError(
            "faiss: faiss-cpu and faiss-gpu are both installed, and they overwrite each other; run "
            "`pip uninstall faiss-cpu faiss-gpu`, then install 'freshet[cpu]', or 'freshet[gpu]' on a machine with a GPU"
        )


def _installed() -> list[str]:
    found = []
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


check_distributions(_installed())
try:
    import faiss
except ModuleNotFoundError as error:
    if error.name != "faiss":
        raise
    raise ImportError(
        "faiss: not installed; install 'freshet[cpu]', or 'freshet[gpu]' on a machine with a GPU (not both)"
    ) from error
