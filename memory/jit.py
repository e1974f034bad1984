"""numba's compiler, which also works if no cache folder can be written. Other modules import `njit` from here.

numba caches compiled functions in the first writable folder of these: the one named by NUMBA_CACHE_DIR, the installation, the
user's cache folder. Without one, each process compiles again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
from numba.core import event
from numba.core.caching import IndexDataCacheFile

__all__ = ["cache_folder", "compilations", "njit", "specializations"]

_made: list[Any] = []
"""All functions that `njit` returned, which live as long as their modules."""


class _CacheFile(IndexDataCacheFile):
    """Cached code of one function. Files that cannot be read count as absent, and the function is compiled again.

    An earlier version of this package may have left them, with names that no longer exist, or a full disk half of them.
    """

    def load(self, key: object) -> Any:
        try:
            return super().load(key)  # type: ignore[no-untyped-call]
        except Exception:
            return None

    def _load_index(self) -> dict[Any, str]:
        try:
            found: dict[Any, str] = super()._load_index()  # type: ignore[no-untyped-call]
        except Exception:
            return {}
        return found


if TYPE_CHECKING:
    from numba import njit
else:

    def njit(*, cache=True, **options):
        """Compile a function at its first call, like ``numba.njit``. It also works without a cache folder.

        Parameters
        ----------
        cache : bool
            Cache the compiled code for the next process, if there is a writable folder.
        options
            Options of ``numba.njit``.
        """

        def decorate(function):
            try:
                made = numba.njit(cache=cache, **options)(function)
                if cache:
                    made._cache._cache_file.__class__ = _CacheFile
            except RuntimeError:  # numba looks for a cache folder here, and raises if there is none.
                if not cache:
                    raise
                made = numba.njit(**options)(function)
            _made.append(made)
            return made

        return decorate


@njit()
def _probe() -> None:
    """Has the same cache folder as all compiled functions of this package."""


def cache_folder() -> Path | None:
    """Folder in which numba caches the compiled functions of this package; None if it caches nothing."""
    path = _probe.stats.cache_path
    return None if path is None else Path(path)


def specializations() -> int:
    """Number of specialisations, each for some types of arguments, that this process has compiled or loaded from the cache.

    A function that only compiled ones call may be counted or not, depending on which of them were loaded. The number grows
    whenever a call has to wait for a specialisation.
    """
    return sum(len(function.overloads) for function in _made)


@contextmanager
def compilations(started: Callable[[str], None]) -> Iterator[None]:
    """Report which functions this thread compiles. Functions found in the cache are not reported.

    Parameters
    ----------
    started : callable
        It is called with the name of each function before the compilation. The call that needs the function raises what this
        raises.
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
        """Do nothing."""
