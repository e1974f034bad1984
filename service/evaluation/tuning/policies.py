"""Replays of policies on a log with propensities: the objective is the lower bound of an off-policy estimate."""

from __future__ import annotations

import time

import numpy as np

from service.config import Config
from service.evaluation.estimators import doubly_robust
from service.evaluation.intervals import Terms, running_intervals
from service.evaluation.off_policy import evaluate
from service.evaluation.tuning.replays import Report, Result
from service.evaluation.tuning.samples import Sample, of_terms

__all__ = ["LoggedDecisions"]

Z = 1.645
"""Standard errors between the estimate and its lower bound: one-sided, 95 %."""


class LoggedDecisions:
    """A log with propensities. The units are its impressions with a known outcome.

    Parameters
    ----------
    share : float
        Share of the impressions in the first part.
    """

    def __init__(self, share: float) -> None:
        self._share = share

    def trial(self, config: Config, first: int | None, report: Report) -> Result:
        """See `replays.Source.trial`. It is never stopped early: an estimate needs all its impressions."""
        total = first = first or 0
        if not first:
            total = len(self._terms(config, None)[0])
            first = max(int(total * self._share), 1)
        began = time.process_time()
        ids, terms = self._terms(config, first)
        low, _ = running_intervals(terms, np.array([len(ids)]), Z)
        return Result(float(low[0]), (time.process_time() - began) * 1e6 / len(ids), total, first, {})

    def whole(self, config: Config) -> Sample:
        """See `replays.Source.whole`."""
        ids, terms = self._terms(config, None)
        return of_terms(ids, terms.numerator, terms.denominator)

    def _terms(self, config: Config, limit: int | None) -> tuple[list[str], Terms]:
        result = evaluate(config, limit=limit)
        return result.request_ids, doubly_robust(result.decisions)
