"""What a replay says of a config: units in order of time, and the objective over any part of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from learners.bounds import graded
from service.evaluation.intervals import Values
from service.evaluation.tuning_goals import Objective
from service.monitoring.quality import auc, grouped_auc, log_loss, top_reward
from streams.batch import Bools, Floats, Ids

__all__ = ["LISTS", "LOWER_IS_BETTER", "ROWS", "Objective", "Sample", "of_lists", "of_rows", "of_terms"]


LOWER_IS_BETTER = frozenset({Objective.LOG_LOSS, Objective.CPU})

ROWS = frozenset({Objective.LOG_LOSS, Objective.AUC, Objective.GAUC})
"""Objectives of the scores of the rows."""

LISTS = frozenset({Objective.HIT_RATE, Objective.NDCG})
"""Objectives of the list that would be recommended."""


class Sample(Protocol):
    """n units in order of time: rows, tests of the recommended list, or impressions."""

    @property
    def at(self) -> Ids:
        """Place of each unit in the stream, (n,) int64: the number of rows, or of impressions, before it."""

    def value(self, units: Bools | None = None) -> float:
        """Return the objective over some units, (n,) bool, or over all; NaN where it is undefined."""

    def ahead(self, units: Bools | None = None) -> float:
        """Return how far the objective is ahead of a guess that knows nothing of users and items; NaN without such a guess."""

    def same_units(self, other: Sample) -> bool:
        """Whether another sample has the outcomes of the same units."""


@dataclass(frozen=True, slots=True)
class _Rows:
    at: Ids
    objective: Objective
    user: Ids
    score: Floats
    reward: Floats
    impression: Ids

    def value(self, units: Bools | None = None) -> float:
        kept = slice(None) if units is None else units
        score, reward = self.score[kept], self.reward[kept]
        if self.objective is Objective.LOG_LOSS:
            return _log_loss(score, reward)
        if self.objective is Objective.AUC:
            return auc(score, reward > 0)
        if self.objective is Objective.GAUC:
            return grouped_auc(self.user[kept], score, reward > 0)
        return top_reward(self.impression[kept], score, reward)

    def ahead(self, units: Bools | None = None) -> float:
        if self.objective is Objective.LOG_LOSS:
            kept = slice(None) if units is None else units
            return _log_loss(_rate_before(self.reward)[kept], self.reward[kept]) - self.value(units)
        return self.value(units) - 0.5 if self.objective in ROWS else math.nan

    def same_units(self, other: Sample) -> bool:
        return isinstance(other, _Rows) and np.array_equal(self.user, other.user) and np.array_equal(self.reward, other.reward)


@dataclass(frozen=True, slots=True)
class _Tests:
    at: Ids
    objective: Objective
    gain: Floats
    reward: Floats

    def value(self, units: Bools | None = None) -> float:
        kept = slice(None) if units is None else units
        gain = self.gain[kept]
        if not gain.size:
            return math.nan
        if self.objective is Objective.NDCG:
            return float(gain.mean(dtype=np.float64))
        hit = gain > 0
        return float(hit.mean() if self.objective is Objective.HIT_RATE else (hit * self.reward[kept]).mean(dtype=np.float64))

    def ahead(self, units: Bools | None = None) -> float:
        return math.nan

    def same_units(self, other: Sample) -> bool:
        return isinstance(other, _Tests) and np.array_equal(self.at, other.at) and np.array_equal(self.reward, other.reward)


@dataclass(frozen=True, slots=True)
class _Terms:
    at: Ids
    ids: list[str]
    numerator: Values
    denominator: Values

    def value(self, units: Bools | None = None) -> float:
        kept = slice(None) if units is None else units
        denominator = float(self.denominator[kept].sum())
        return float(self.numerator[kept].sum()) / denominator if denominator else math.nan

    def ahead(self, units: Bools | None = None) -> float:
        return math.nan

    def same_units(self, other: Sample) -> bool:
        return isinstance(other, _Terms) and self.ids == other.ids


def of_rows(objective: Objective, user: Ids, score: Floats, reward: Floats, impression: Ids) -> Sample:
    """Return the sample of predicted rows, all (n,); `impression` is -1 for rows without one."""
    return _Rows(np.arange(score.size), objective, user, score, reward, impression)


def of_lists(objective: Objective, at: Ids, gain: Floats, reward: Floats) -> Sample:
    """Return the sample of tests of a list: their discounted gains and rewards, all (n,)."""
    return _Tests(at, objective, gain, reward)


def of_terms(ids: list[str], numerator: Values, denominator: Values) -> Sample:
    """Return the sample of impressions with their terms of an estimate, all (n,)."""
    return _Terms(np.arange(len(ids)), ids, numerator, denominator)


def _log_loss(score: Floats, reward: Floats) -> float:
    label, weight, _ = graded(reward, np.ones_like(reward))
    return float(np.average(log_loss(score, label), weights=weight)) if score.size else math.nan


def _rate_before(reward: Floats) -> Floats:
    """Mean label of the rows before each one, (n,) float32, from 0.5: the best guess without users and items."""
    label, weight, _ = graded(reward, np.ones_like(reward))
    positive: npt.NDArray[np.float64] = np.cumsum(label * weight, dtype=np.float64)
    total: npt.NDArray[np.float64] = np.cumsum(weight, dtype=np.float64)
    before = (0.5 + positive - label * weight) / (1.0 + total - weight)
    return before.astype(np.float32)
