"""Standard errors of rows from the retrievers, for policies that explore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from learners.base import Retriever
from streams.batch import Batch, Floats

__all__ = ["fill_uncertainty", "largest_uncertainty"]


def largest_uncertainty(retrievers: Iterable[Retriever], batch: Batch) -> Floats:
    """Largest standard error that a retriever has for each row, (N,) float32; 0 where none of them has one."""
    largest = np.zeros(batch.rows, np.float32)
    for retriever in retrievers:
        if retriever.knows_uncertainty:
            np.fmax(largest, retriever.uncertainty(batch), out=largest)
    return largest


def fill_uncertainty(batch: Batch, by: Sequence[str | None], retrievers: Mapping[str, Retriever], *, needed: bool) -> None:
    """Fill in ``batch.uncertainty`` where it is missing: the largest standard error of the retrievers.

    Parameters
    ----------
    batch : Batch
        Values that came with the candidates are kept. NaN, or None for the whole batch, is missing.
    by : sequence of str or None, length B
        Retriever that orders the rows of each request: only this one is asked. None: all are asked.
    retrievers : mapping of name to Retriever
    needed : bool
        Whether the policy needs uncertainty. If not, only requests ordered by a retriever that knows it get it.
    """
    for name in dict.fromkeys(by):
        asked = list(retrievers.values()) if name is None else [retrievers[name]]
        if not needed and (name is None or not retrievers[name].knows_uncertainty):
            continue
        if batch.uncertainty is None:
            batch.uncertainty = np.full(batch.rows, np.nan, np.float32)
        mine = np.array([wanted == name for wanted in by], np.bool_)[batch.request]
        missing = np.flatnonzero(mine & np.isnan(batch.uncertainty))
        if missing.size:
            batch.uncertainty[missing] = largest_uncertainty(asked, batch.take(missing))
