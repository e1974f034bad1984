"""An order of candidates from everything that the retrievers know of them, by weights learned from what users chose.

References
----------
E. Hazan, A. Agarwal, S. Kale, "Logarithmic regret algorithms for online convex optimization", Machine Learning 69 (2007): the
online Newton step.
D. McFadden, "Conditional logit analysis of qualitative choice behavior", Frontiers in Econometrics (1974): the likelihood of a
choice among alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Choices, Reranker, Values
from learners.bounds import bounded
from learners.lookups import Catalogues, UserHistory
from learners.registry import register
from learners.schema import Schema
from learners.tunable import Options, Scale, Tunable
from memory.arrays import Arrays
from memory.jit import njit
from streams.batch import Batch, Bools, Floats, Ids

__all__ = ["Mixture"]

_EVERY = 32
"""The inverse of the curvature is computed at each of the first so many choices, then at every so manyth."""

_ACTIVITY = 5.0
"""Divides log(1 + activity): 150 interactions make it 1."""

_TOP = 10
"""Places that `Mixture.metrics` counts as a hit."""

_LEARNED, _MISSED, _LEFT_OUT, _RESCUED, _HITS, _CAPPED = range(6)


@register("mixture")
class Mixture(Reranker):
    """Linear mixture of the retrievers' evidence, which decides the order; the ranker's scores remain the numbers.

    The value of a row is ``theta . x``. x has the columns of ``batch.evidence`` and, for each column that is marked
    ``by_activity``, that column times log(1 + a) / 5, where a is how many interactions the user has had so far. theta begins
    with the columns' priors, and with 0 for the products. Evidence that is NaN, because its retriever failed, counts as 0.

    `rerank` deals the scores that it is given out anew within each request: the best one goes to the row with the highest
    value, and so on; rows of equal value keep their order. So the set of a request's scores stays what the ranker said, the
    score of a request of one row stays to the bit, and scores stay probabilities. The uncertainty stays with its row.

    `choose` makes an online Newton step for each choice, one after the other. With values s, the likelihood of the choice is
    its softmax among the rows of the `head` highest values: who wins, given that it is in the head. Where the chosen row is
    not in the head, it is the softmax among all rows, and the gradient is multiplied by `rescue`. With g the gradient of
    the negative log-likelihood::

        H = keep * H + w * g g' + (1 - keep) * prior_strength * I
        theta = theta - w * inverse(H) g

    H begins as ``prior_strength * I``. Its inverse is computed at each of the first 32 choices, at every 32nd from then on,
    and where the one at hand would make the step overshoot (``w * g' inverse(H) g > 1``, which is below 1 for the inverse as
    of now). w is the choice's reward relative to the geometric mean of the rewards lately, `largest_weight` at most: where
    all rewards are alike, w is 1. A choice that no retriever had among its candidates, and one among fewer than two, teaches
    nothing: putting it among the candidates would teach what marks items that are not retrieved.

    Parameters
    ----------
    prior_strength : float
        How much the first choices are resisted.
    keep : float
        Weight that is left to earlier choices after each one; 1: nothing fades.
    head : int
        Rows of the highest values that a chosen row has to beat.
    rescue : float
        Factor of the gradient where the chosen row is not in the head; 0: nothing is learned from it.
    largest_weight : float
        Greatest w.

    References
    ----------
    See the module.
    """

    needs_evidence = True
    tunable: ClassVar[Tunable] = {
        "prior_strength": Scale(1.0, 100.0, log=True),
        "keep": Options((0.99, 0.997, 0.999, 0.9997, 1.0)),
        "rescue": Scale(0.0, 0.5),
    }

    def __init__(
        self,
        prior_strength: Annotated[float, Field(gt=0, le=1e6)] = 10.0,
        keep: Annotated[float, Field(gt=0, le=1)] = 0.999,
        head: Annotated[int, Field(ge=2, le=10_000)] = 50,
        rescue: Annotated[float, Field(ge=0, le=1)] = 0.1,
        largest_weight: Annotated[float, Field(ge=1, le=100)] = 10.0,
    ) -> None:
        self._prior_strength, self._keep, self._head = prior_strength, keep, head
        self._rescue, self._largest_weight = rescue, largest_weight
        self._counts = np.zeros(6, np.int64)

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Begin with the priors of the schema's evidence columns. Raises ValueError where there are none."""
        if not schema.evidence:
            raise ValueError("evidence: no retriever gives any, and mixture orders by it; add a retriever, or leave it out")
        self._history = history
        self._columns = len(schema.evidence)
        self._by_activity = np.flatnonzero([column.by_activity for column in schema.evidence])
        theta = np.concatenate(([column.prior for column in schema.evidence], np.zeros(self._by_activity.size)))
        unit = np.eye(theta.size)
        self.mixture = Arrays(
            theta=theta,
            hessian=self._prior_strength * unit,
            inverse=unit / self._prior_strength,
            private=["hessian", "inverse"],
        )
        self.clock = Arrays(steps=np.zeros(1, np.int64), rewards=np.zeros((1, 2)), private=["steps", "rewards"])

    def choose(self, choices: Choices) -> None:
        """One step for each choice, in order."""
        batch = choices.batch
        if not batch.user.size:
            return
        if batch.evidence is None:
            raise ValueError("evidence: choices without any; give what the retrievers know of their rows")
        before = self._counts[_LEARNED]
        reward = choices.reward.astype(np.float64)
        _learn(
            self._checked(batch.evidence),
            _starts(batch),
            choices.chosen,
            np.where(np.isfinite(reward), reward, 0.0),
            self._activity(batch),
            self._by_activity,
            (self.mixture["theta"], self.mixture["hessian"], self.mixture["inverse"]),
            (self.clock["steps"], self.clock["rewards"][0], self._counts),
            (self._prior_strength, self._keep, self._head, self._rescue, self._largest_weight),
        )
        if self._counts[_LEARNED] > before:
            self.mixture.mark()
            self.clock.mark()

    def rerank(self, batch: Batch) -> Floats:
        """The batch's scores, (N,) float32, those of each request dealt out in the mixture's order.

        A request without evidence (none at all, or NaN in the whole of its first row) keeps its scores.
        """
        dealt = batch.score.copy()
        if batch.evidence is not None and batch.rows:
            evidence, start = self._checked(batch.evidence), _starts(batch)
            described, theta = _described(batch.evidence, start), self.mixture["theta"]
            _deal(evidence, start, described, self._activity(batch), self._by_activity, theta, batch.score, dealt)
        return dealt

    def metrics(self) -> Mapping[str, float]:
        """Choices by what became of them, and the share of the learned ones that stood among the first 10 just before.

        ``missed``: no retriever had the item, or there were fewer than two candidates. ``left_out``: a reward that is no
        positive number. ``rescued``: learned, and not in the head. ``capped``: learned with `largest_weight`, because the
        reward is larger than that times the usual one.
        """
        learned, missed, left_out, rescued, hits, capped = self._counts.tolist()
        return {
            "learned": learned,
            "missed": missed,
            "left_out": left_out,
            "rescued": rescued,
            "capped": capped,
            "top_10_share": hits / max(learned, 1),
        }

    def _checked(self, evidence: Floats) -> Floats:
        """Evidence within bounds, NaN as 0."""
        if evidence.shape[1] != self._columns:
            raise ValueError(
                f"evidence: {evidence.shape[1]} columns where the schema has {self._columns}; give those of the retrievers"
            )
        return np.ascontiguousarray(bounded(evidence))

    def _activity(self, batch: Batch) -> Values:
        """Factor of the products, (B,)."""
        factor: Values = np.log1p(self._history.activity(batch.user)) / _ACTIVITY
        return factor


def _starts(batch: Batch) -> Ids:
    """First row of each request, and the number of rows: (B + 1,)."""
    return batch.request.searchsorted(np.arange(batch.user.size + 1))


_State = tuple[Values, Values, Values]  # theta (F,), hessian (F, F), inverse (F, F)
_Clock = tuple[Ids, Values, Ids]  # steps (1,), decayed sum of log rewards and of ones (2,), counts (6,)
_Settings = tuple[float, float, int, float, float]


@njit(cache=True, nogil=True)  # no fastmath: it takes all numbers for finite
def _described(evidence: Floats, start: Ids) -> Bools:
    """Whether the first row of each request has any evidence, (B,)."""
    described = np.zeros(start.size - 1, np.bool_)
    for b in range(described.size):
        described[b] = start[b] < start[b + 1] and np.isfinite(evidence[start[b]]).any()
    return described


@njit(cache=True, nogil=True, fastmath=True)
def _deal(
    evidence: Floats,
    start: Ids,
    described: Bools,
    activity: Values,
    by_activity: Ids,
    theta: Values,
    score: Floats,
    dealt: Floats,
) -> None:
    """Deal the scores of each request out in the order of the mixture's values."""
    weights = np.empty(evidence.shape[1])
    for b in range(activity.size):
        first, stop = start[b], start[b + 1]
        if stop - first < 2 or not described[b]:
            continue
        negated = np.empty(stop - first)
        _values(evidence, first, stop, activity[b], by_activity, theta, weights, negated)
        for n in range(negated.size):
            negated[n] = -negated[n]
        order = np.argsort(negated, kind="mergesort")  # stable
        ascending = np.sort(score[first:stop])
        for place in range(order.size):
            dealt[first + order[place]] = ascending[order.size - 1 - place]


@njit(cache=True, nogil=True, fastmath=True)
def _values(
    evidence: Floats, first: int, stop: int, activity: float, by_activity: Ids, theta: Values, weights: Values, out: Values
) -> None:
    """Values of one request's rows. A user's activity is the same for all of them, so that each column has one weight."""
    columns = weights.size
    for f in range(columns):
        weights[f] = theta[f]
    for place in range(by_activity.size):
        weights[by_activity[place]] += activity * theta[columns + place]
    for n in range(first, stop):
        value = 0.0
        for f in range(columns):
            value += weights[f] * evidence[n, f]
        out[n - first] = value


@njit(cache=True, nogil=True, fastmath=True)
def _learn(
    evidence: Floats,
    start: Ids,
    chosen: Ids,
    reward: Values,
    activity: Values,
    by_activity: Ids,
    state: _State,
    clock: _Clock,
    settings: _Settings,
) -> None:
    """Learn choices, one after the other."""
    theta, hessian, inverse = state
    steps, rewards, counts = clock
    prior_strength, keep, head, rescue, largest_weight = settings
    gradient, weights = np.empty(theta.size), np.empty(evidence.shape[1])
    for b in range(chosen.size):
        first, stop = start[b], start[b + 1]
        if stop - first < 2 or not first <= chosen[b] < stop:
            counts[_MISSED] += 1
            continue
        if reward[b] <= 0.0:
            counts[_LEFT_OUT] += 1
            continue
        log_reward = np.log(reward[b])
        rewards[0] = keep * rewards[0] + log_reward
        rewards[1] = keep * rewards[1] + 1.0
        weight = np.exp(log_reward - rewards[0] / rewards[1])
        counts[_CAPPED] += weight > largest_weight
        weight = min(weight, largest_weight)
        values = np.empty(stop - first)
        _values(evidence, first, stop, activity[b], by_activity, theta, weights, values)
        place = _gradient(evidence, first, chosen[b], values, head, rescue, activity[b], by_activity, gradient)
        counts[_LEARNED] += 1
        counts[_RESCUED] += place >= head
        counts[_HITS] += place < _TOP
        for i in range(theta.size):
            for j in range(theta.size):
                hessian[i, j] = keep * hessian[i, j] + weight * gradient[i] * gradient[j]
            hessian[i, i] += (1.0 - keep) * prior_strength
        steps[0] += 1
        overshoots = weight * _along(inverse, gradient) > 1.0
        if steps[0] < _EVERY or steps[0] % _EVERY == 0 or overshoots:
            inverse[:] = np.linalg.inv(hessian)
        for i in range(theta.size):
            step = 0.0
            for j in range(theta.size):
                step += inverse[i, j] * gradient[j]
            theta[i] -= weight * step


@njit(cache=True, nogil=True, fastmath=True)
def _gradient(
    evidence: Floats,
    first: int,
    chosen: int,
    values: Values,
    head: int,
    rescue: float,
    activity: float,
    by_activity: Ids,
    gradient: Values,
) -> int:
    """Gradient of the choice's negative log-likelihood; returns the chosen row's place, from 0."""
    columns, rows = evidence.shape[1], values.size
    own, place, highest = values[chosen - first], 0, values[0]
    for n in range(rows):
        place += values[n] > own or (values[n] == own and first + n < chosen)
        highest = max(highest, values[n])
    least, scale = -1e300, 1.0
    if place >= head:
        scale = rescue
    elif rows > head:
        least = np.partition(values, rows - head)[rows - head]
    gradient[:] = 0.0
    total = 0.0
    for n in range(rows):
        if values[n] >= least:
            share = np.exp(values[n] - highest)
            total += share
            for f in range(columns):
                gradient[f] += share * evidence[first + n, f]
    for f in range(columns):
        gradient[f] = scale * (gradient[f] / total - evidence[chosen, f])
    for n in range(by_activity.size):
        gradient[columns + n] = activity * gradient[by_activity[n]]
    return place


@njit(cache=True, nogil=True, fastmath=True)
def _along(matrix: Values, vector: Values) -> float:
    """``vector' matrix vector``."""
    total = 0.0
    for i in range(vector.size):
        for j in range(vector.size):
            total += vector[i] * matrix[i, j] * vector[j]
    return total
