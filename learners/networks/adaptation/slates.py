"""Softmax over the candidates of each request (a slate), and its entropy, in torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from streams.batch import Ids

__all__ = ["Slates"]


class Slates(NamedTuple):
    """Which rows belong to which request.

    Attributes
    ----------
    request : (N,) int64 tensor
        Index of each row's request, non-decreasing.
    place : (N,) int64 tensor
        Index of the row within its request.
    present : (B, C) bool tensor
        Places that have a row; C is the size of the largest slate.

    Examples
    --------
    >>> import numpy as np, torch
    >>> slates = Slates.of(np.array([0, 0, 1, 1, 1]), 2)
    >>> slates.entropy(slates.log_shares(torch.zeros(5))).exp()
    tensor([2.0000, 3.0000])
    """

    request: Tensor
    place: Tensor
    present: Tensor

    @classmethod
    def of(cls, request: Ids, requests: int, device: str = "cpu") -> Slates:
        """Describe rows by their request (N,), out of `requests` requests."""
        place = np.arange(request.size) - np.searchsorted(request, request)
        present = np.zeros((requests, int(place.max(initial=0)) + 1), np.bool_)
        present[request, place] = True
        return cls(*(torch.from_numpy(array).to(device) for array in (request, place, present)))

    @property
    def largest(self) -> Tensor:
        """Largest entropy of each request in nats, ln C, (B,) float64."""
        return self.present.sum(1).double().log()

    def log_shares(self, logits: Tensor) -> Tensor:
        """Return the log-softmax of each request's logits (N,), as (B, C); -inf where there is no row."""
        padded = logits.new_full(self.present.shape, -torch.inf)
        return padded.index_put((self.request, self.place), logits).log_softmax(1)

    def entropy(self, log_shares: Tensor) -> Tensor:
        """Return the entropy of each request in nats, (B,)."""
        return -(log_shares.exp() * log_shares.masked_fill(~self.present, 0.0)).sum(1)

    def divergence(self, source: Tensor, log_shares: Tensor) -> Tensor:
        """Return KL(source || shares) of each request in nats, (B,), of two results of `log_shares`."""
        difference = (source - log_shares).masked_fill(~self.present, 0.0)
        return (source.exp() * difference).sum(1)
