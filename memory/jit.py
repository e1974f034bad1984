"""numba's compiler, for a machine of which nothing is known: the one door to it.

Compiled functions are kept between processes where there is a folder for them: the one that NUMBA_CACHE_DIR names, the
installation, or the user's cache folder. Where there is none, each process compiles anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numba
from numba.core import event

__all__ = ["cache_folder", "compilations", "njit"]


if TYPE_CHECKING:
    from numba import njit
else:

    def njit(*, cache=True, **options):
        """Compile a function when it is first called; ``numba.njit``, but for `cache`.

        Parameters
        ----------
        cache : bool
            Keep what is compiled for the next process, if there is a folder that can be written.
        options
            As for ``numba.njit``.
        """

        def decorate(function):
            try:
                return numba.njit(cache=cache, **options)(function)
            except RuntimeError:  # numba looks for a folder when it decorates, and would rather not run at all than without.
                if not cache:
                    raise
                return numba.njit(**options)(function)

        return decorate


@njit()
def _probe() -> None:
    """Stands for all compiled functions: where numba keeps this one, it keeps the others."""


def cache_folder() -> Path | None:
    """Folder in which numba keeps the compiled functions of this package; None: it keeps nothing."""
    path = _probe.stats.cache_path
    return None if path is None else Path(path)


@contextmanager
def compilations(started: Callable[[str], None]) -> Iterator[None]:
    """Tell which functions are compiled on this thread, as opposed to found in the cache.

    Parameters
    ----------
    started : callable
        Given the name of each function before it is compiled. What it raises is raised by the call that needs the function.
    """
    with event.install_listener("numba:compile", _Compilations(started)):
        yield


class _Compilations(event.Listener):
    def __init__(self, started: Callable[[str], None]) -> None:
        self._started, self._thread = started, threading.get_ident()

    def on_start(self, event: event.Event) -> None:
        if threading.get_ident() == self._thread:
            function = event.data["dispatcher"].py_func
            self._started(f"{function.__module__}.{function.__qualname__}")

    def on_end(self, event: event.Event) -> None:
        """Nothing is asked of the end."""
