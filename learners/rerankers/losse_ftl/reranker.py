"""Losse-FTL: corrects scores by what showing a group of items leads to, several requests ahead.

References
----------
Z. Liu et al., "Locality Sensitive Sparse Encoding for Learning World Models Online", ICLR 2024, arXiv 2401.13034.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Reranker
from learners.bounds import graded
from learners.kernels.learned_weight import LearnedWeight
from learners.lookups import Catalogues, UserHistory
from learners.registry import register
from learners.rerankers.losse_ftl.beta import LearnedBeta, limited
from learners.rerankers.losse_ftl.calibration import Calibration
from learners.rerankers.losse_ftl.groups import Groups
from learners.rerankers.losse_ftl.lookahead import Search, look_ahead
from learners.rerankers.losse_ftl.models import FourierModel, SparseModel, WorldModel
from learners.rerankers.losse_ftl.progress import Progress
from learners.rerankers.losse_ftl.states import Step, UserStates, input_width, state_width
from learners.schema import Schema
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from streams.batch import Batch, Feedback, Floats, Ids

__all__ = ["LosseFtl"]

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Values = npt.NDArray[np.float64]

_OUTCOMES = 2
"""Reward, and whether the session goes on."""


@register("losse_ftl")
class LosseFtl(Reranker):
    """Adds to a score what showing the item's group is worth beyond showing any group: ``beta * (Q_H(s, g) - mean_g Q_H)``.

    The state s of a user has the user's interest, the satiation with each group, and the time since the last request; see
    `learners.rerankers.losse_ftl.states.UserStates`. A world model predicts from the state and the group that is shown: the
    reward, whether the session goes on, and the change of the state. It learns a request when the user's next one arrives,
    because only then its consequences are known; where none arrives within the session, it learns the reward and the end. A
    request of several rows is learned as the group of one of them, drawn by a hash.

    ``Q_H`` sums the rewards of H requests, the first being of the group, the others the best ones by the model; see
    `learners.rerankers.losse_ftl.lookahead`. A group whose inputs the model has hardly seen has its Q_1 instead.

    With a fixed beta, the result is clipped and calibrated by a logistic regression of the outcomes on it. A learned beta is
    the one that makes the scores likely, so values are only limited to what leaves them between 0 and 1. Items without
    attributes have no group, and nothing is added to their scores. With beta = 0 scores stay as they are, to the bit.

    Parameters
    ----------
    encoder : {"rff", "losse"}
        Features of the world model: random Fourier features with exact ridge regression, or the locality-sensitive sparse
        encoding. The first is more accurate on inputs like these, and cheaper; see docs/learners/losse_ftl.md.
    horizon : int
        Requests H ahead, 1 to 3.
    beta : float or "learned"
        ``learned``: the mean of 17 values from 0 to 1, weighted by the likelihood of the outcomes under them; see
        `learners.rerankers.losse_ftl.beta.LearnedBeta`. It is 0 until the outcomes speak for another. It finds how much the
        values tell about the next outcome, not about later ones: choose a number where a reward later is worth a loss now.
    groups, dim : int
        Number of groups, and length of the vectors of items.
    users : int
        Users whose states are kept; the least recently active one is evicted.
    discount : float
        Factor of the reward of each further request.
    beam : int
        For a horizon of 3: paths that are continued to the third request.
    min_evidence : float
        Rows like an input that the model must have seen for a look ahead from it.
    session : float
        Seconds without a request after which a session has ended.
    interest_share : float
        Weight of a request in the user's interest.
    satiation_keep : float
        Satiation that is left after a request.
    recovery : float
        Seconds after which half of the satiation is left.
    first, epoch : int
        Requests before the first groups are made, and between two clusterings of the catalogue.
    waves : int
        For ``rff``: number of waves.
    grids, axes, bins : int
        For ``losse``: grids, and their axes and cells per axis.
    gain : float
        Scale of the random projections: the larger, the finer the features.
    ridge : float or None
        Strength of the ridge. None: 0.05 for ``rff``, 1.0 for ``losse``.
    ridge_mode : {"const", "count"}
        For ``losse``: see `memory.regression.sparse_linear.SparseLinear`.
    forgetting : float
        Factor applied to the weight of all earlier requests at each request. 1 forgets nothing; below it, what users like may
        change.
    sample : float
        Share of the rows that beta and the calibration are learned from, because each costs a look ahead.
    half_life : int
        Rows after which a learned beta is still the same with a probability of a half. With a fixed beta, rows after which a
        row's weight counts half in the mean weight.
    seed : int
        Seed of the projections.

    References
    ----------
    See the module, and docs/learners/losse_ftl.md.
    """

    checks_parameters: ClassVar[dict[str, object]] = {
        **{"groups": 4, "dim": 4, "users": 64, "first": 20, "epoch": 100, "waves": 24, "beta": 0.5},
        **{"session": 3600.0, "sample": 0.15, "horizon": 1},
    }
    # A fixed beta rehearses the calibration, a learned one how it is learned.
    rehearsals: ClassVar[tuple[dict[str, object], ...]] = (
        {**checks_parameters, "horizon": 3},
        {**checks_parameters, "beta": "learned"},
    )
    tunable: ClassVar[Tunable] = {
        "horizon": Scale(1, 3),
        "groups": Scale(4, 32, log=True),
        "discount": Scale(0.5, 1.0),
        "interest_share": Scale(0.02, 0.5, log=True),
        "satiation_keep": Scale(0.3, 0.95),
    }

    def __init__(
        self,
        encoder: Literal["rff", "losse"] = "rff",
        horizon: Annotated[int, Field(ge=1, le=3)] = 2,
        beta: Annotated[float, Field(ge=0, le=10)] | Literal["learned"] = "learned",
        groups: Annotated[int, Field(ge=2, le=64)] = 16,
        dim: Annotated[int, Field(ge=2, le=16)] = 8,
        users: Count = 20_000,
        discount: Share = 0.95,
        beam: Count = 40,
        min_evidence: Annotated[float, Field(ge=0)] = 3.0,
        session: Positive = 1800.0,
        interest_share: Share = 0.1,
        satiation_keep: Annotated[float, Field(ge=0, lt=1)] = 0.8,
        recovery: Positive = 1800.0,
        first: Count = 100,
        epoch: Count = 10_000,
        waves: Annotated[int, Field(gt=0, le=4096)] = 256,
        grids: Annotated[int, Field(gt=0, le=256)] = 64,
        axes: Annotated[int, Field(ge=1, le=3)] = 1,
        bins: Annotated[int, Field(gt=0, le=64)] = 6,
        gain: Positive = 1.0,
        ridge: Positive | None = None,
        ridge_mode: Literal["const", "count"] = "const",
        forgetting: Annotated[float, Field(gt=0.9, le=1)] = 1.0,
        sample: Share = 0.2,
        half_life: Count = 30_000,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        shape = (input_width(dim), _OUTCOMES, state_width(dim, groups))
        self.model: WorldModel
        if encoder == "rff":
            self.model = FourierModel(*shape, waves=waves, gain=gain, ridge=ridge or 0.05, forgetting=forgetting, seed=seed)
        else:
            grid = {"grids": grids, "axes": axes, "bins": bins}
            self.model = SparseModel(
                *shape, **grid, gain=gain, ridge=ridge or 1.0, ridge_mode=ridge_mode, forgetting=forgetting, seed=seed
            )
        self.groups = Groups(groups, dim)
        self.states = UserStates(users, dim, groups, interest_share, satiation_keep, recovery, session)
        self.calibration = Calibration()
        self.learned = LearnedBeta(half_life, sample) if beta == "learned" else None
        self.sampled = LearnedWeight(1, half_life, sample)
        low = np.r_[np.zeros(dim + groups), -1.0].astype(np.float32)
        self.bounds = Arrays(low=low, high=low.copy())
        self.clock = Arrays(requests=np.zeros(1, np.int64), liked=np.zeros((1, 2)), private=["requests", "liked"])
        self.progress = Progress(_OUTCOMES, shape[2])
        self._beta = 0.0 if beta == "learned" else beta
        self._min_evidence = min_evidence
        self._search = Search(horizon, discount, beam)
        self._first, self._epoch = first, epoch
        self._capped = self._ungrouped = self._myopic = self._looked = 0

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Receive the catalogues; see `Learner.bind`."""
        self.groups.bind(schema, catalogues)

    @property
    def beta(self) -> float:
        """Current beta."""
        return self._beta if self.learned is None else self.learned.value

    def rerank(self, batch: Batch) -> Floats:
        """Scores with the value of each row's group added, calibrated, (N,) float32."""
        beta = self.beta
        if not beta or not self.groups.epoch or not batch.rows:
            return batch.score.copy()
        group = self.groups.of(self.groups.vectors(batch.item))
        advantage = self._advantage(batch, group)
        if self.learned is None:
            return self.calibration.apply(batch.score + beta * advantage)
        # A learned beta is chosen by the likelihood of the scores that it gives: a calibration would only add noise.
        score = np.clip(batch.score, 0.0, 1.0).astype(np.float64)
        served: Floats = (score + beta * limited(score, advantage)).astype(np.float32)
        return served

    def values(self, batch: Batch) -> Mapping[str, Floats]:
        """Q_1 to Q_H of each row's group, ``q_1`` and so on, and beta, each (N,) float32; NaN without a group."""
        names = [f"q_{horizon + 1}" for horizon in range(self._search.horizon)]
        values = np.full((len(names), batch.rows), np.nan, np.float32)
        if self.groups.epoch and batch.rows:
            group = self.groups.of(self.groups.vectors(batch.item))
            for rows, state in self._each(batch):
                found, _ = self._look(state)
                values[:, rows] = np.where(group[rows] >= 0, found[:, group[rows]], np.nan)
        return dict(zip(names, values, strict=True)) | {"beta": np.full(batch.rows, self.beta, np.float32)}

    def learn(self, feedback: Feedback) -> None:
        """Learn requests in order, one by one: their cost is that of the world model, not of this loop."""
        label, weight, capped = graded(feedback.reward, feedback.weight)
        self._capped += capped
        base = np.clip(feedback.score if feedback.base is None else feedback.base, 0.0, 1.0)
        shown = (feedback.kind != 0) | (feedback.position >= 0)
        used = shown & ~feedback.correction & (weight > 0) & np.isfinite(base)
        vectors = self.groups.vectors(feedback.item)
        start = feedback.request.searchsorted(np.arange(feedback.user.size + 1))
        for b in range(feedback.user.size):
            rows = np.arange(start[b], start[b + 1])[used[start[b] : start[b + 1]]]
            now = float(feedback.timestamp[b])
            if rows.size and np.isfinite(now):
                self._learn(int(feedback.user[b]), now, vectors[rows], base[rows], label[rows], weight[rows])

    def forget(self, users: Ids) -> None:
        """Delete the states of these users; the world model is of all users together."""
        self.states.forget(users)

    def metrics(self) -> Mapping[str, float]:
        """Return beta, the epoch of the groups, and errors of the predictions just before each request was learned.

        ``reward_error`` and ``change_error`` are mean squared errors lately, ``reward_constant`` and ``change_constant`` those
        of the means so far. ``myopic_share`` is the share of groups that got Q_1 for want of evidence. ``ungrouped`` counts
        requests whose item has no group, ``capped`` rows whose weight was limited.
        """
        return {
            "beta": self.beta,
            "epoch": float(self.groups.epoch),
            "requests": float(self.clock["requests"][0]),
            "myopic_share": self._myopic / max(self._looked, 1),
            "ungrouped": float(self._ungrouped),
            "capped": float(self._capped),
            **self.progress.metrics(),
        }

    def _learn(self, user: int, now: float, vectors: Floats, base: Floats, label: Floats, weight: Floats) -> None:
        # Where there are too few items for the first groups, they are tried again after as many requests.
        if (count := int(self.clock["requests"][0])) and count % (self._epoch if self.groups.epoch else self._first) == 0:
            self.groups.begin_epoch()
        self.clock["requests"][0] += 1
        liked = self.clock["liked"][0]
        above = label - np.float32(liked[0])
        liked[1] = min(liked[1] + 1.0, 1e4)
        liked[0] += (float(label.mean()) - liked[0]) / liked[1]
        self.clock.mark()
        if not self.groups.epoch:
            return
        group = self.groups.of(vectors)
        self._weigh(user, now, group, base, label, weight)
        row = _drawn(user, now, label.size)
        self._ungrouped += int(group[row] < 0)
        step = self.states.advance(user, now, self.groups, group, vectors, above, row, float(label[row]), float(weight[row]))
        for known in (step, self.states.ended(now)):
            if known is not None:
                self._take(known)
        state = self.states.current(np.array([user]), np.array([now]), self.groups)[0]
        if (state < self.bounds["low"]).any() or (state > self.bounds["high"]).any():
            np.minimum(self.bounds["low"], state, out=self.bounds["low"])
            np.maximum(self.bounds["high"], state, out=self.bounds["high"])
            self.bounds.mark()

    def _take(self, step: Step) -> None:
        """Learn a request whose consequences are known."""
        outcome = np.array([step.reward, step.goes_on])
        predicted, change = self.model.predict(step.x[None], changes=step.change is not None)
        self.progress.note(predicted[0], outcome, None if change is None else change[0], step.change)
        self.model.learn(step.x, outcome, step.change, step.weight)

    def _weigh(self, user: int, now: float, group: Ids, base: Floats, label: Floats, weight: Floats) -> None:
        """Learn beta or the calibration from a sample of rows that are not learned yet."""
        if self.learned is not None:
            rows = self.learned.sample(label.size)
        else:
            # Steep rows teach the calibration most. What decides for a beta must not depend on the labels.
            rows, times = self.sampled.sample(base, label)
        if not rows.size:
            return
        state = self.states.current(np.array([user]), np.array([now]), self.groups)[0]
        advantage = self._of_groups(state, group[rows])
        if self.learned is not None:
            self.learned.learn(base[rows], limited(base[rows], advantage), label[rows], weight[rows])
        elif self._beta:
            times *= self.sampled.relative(weight[rows])
            self.calibration.learn(base[rows] + self._beta * advantage, label[rows], times)

    def _advantage(self, batch: Batch, group: Ids) -> Values:
        advantage = np.zeros(batch.rows)
        for rows, state in self._each(batch):
            advantage[rows] = self._of_groups(state, group[rows])
        return advantage

    def _each(self, batch: Batch) -> list[tuple[slice, Floats]]:
        """Rows and state of each request that has rows."""
        states = self.states.current(batch.user, batch.timestamp, self.groups)
        start = batch.request.searchsorted(np.arange(batch.user.size + 1)).tolist()
        return [(slice(start[b], start[b + 1]), states[b]) for b in range(batch.user.size) if start[b] < start[b + 1]]

    def _look(self, state: Floats) -> tuple[Floats, Floats]:
        bounds = self.bounds["low"], self.bounds["high"]
        return look_ahead(self.model, state, self.groups.centroids.vectors, self.groups.alive, bounds, self._search)

    def _of_groups(self, state: Floats, group: Ids) -> Values:
        """Value of showing each of these groups (n,), above that of the mean group; 0 for -1."""
        values, evidence = self._look(state)
        above = values - values[:, self.groups.alive].mean(axis=1, keepdims=True)
        known = evidence >= self._min_evidence
        self._looked += known.size
        self._myopic += int(np.count_nonzero(~known))
        chosen = np.where(known, above[-1], above[0]).astype(np.float64)
        return np.where(group >= 0, chosen[group], 0.0)


def _drawn(user: int, now: float, rows: int) -> int:
    """One of some rows, by a hash of the request."""
    if rows == 1:
        return 0
    mixed = (user ^ int(now * 1e6)) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return (mixed >> 33) % rows
