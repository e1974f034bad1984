"""Slates in numpy: their best rows, and the entropy of a softmax over them."""

from __future__ import annotations

import numpy as np

from streams.batch import Floats, Ids

__all__ = ["best_rows", "entropy_shares", "first_choices"]


def best_rows(request: Ids, score: Floats, k: int) -> Ids:
    """Return the rows of the `k` best of each request, ascending.

    Parameters
    ----------
    request : (N,) int64
        Non-decreasing.
    score : (N,) float32
    k : int
    """
    order = np.lexsort((-score, request))
    place = np.arange(request.size) - np.searchsorted(request, request)
    return np.sort(order[place < k])


def first_choices(request: Ids, score: Floats) -> Ids:
    """Return the best row of each request that has rows, in order of requests; the first of several equal ones."""
    order = np.lexsort((-score, request))
    return order[np.unique(request, return_index=True)[1]]


def entropy_shares(request: Ids, logits: Floats) -> Floats:
    """Return the entropy of the softmax over each request's rows as a share of ln C; NaN for a request of one row.

    Parameters
    ----------
    request : (N,) int64
        Non-decreasing, without gaps from 0; N is above 0.
    logits : (N,) float32
    """
    start, size = np.unique(request, return_index=True, return_counts=True)[1:]
    centred = logits.astype(np.float64) - np.maximum.reduceat(logits, start)[request]
    weight = np.exp(centred)
    total = np.add.reduceat(weight, start)
    entropy = np.log(total) - np.add.reduceat(weight * centred, start) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size > 1, entropy / np.log(size), np.nan).astype(np.float32)
