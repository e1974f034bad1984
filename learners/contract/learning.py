"""Contract check of learning: in simulated worlds with a known answer, a learner must beat every constant.

There are three worlds, which differ only in the items that users like. A learner that ignores the feedback may be right in one
of them by luck, but not in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learners.base import Exclusion, Ranker, Reranker, Retriever
from learners.contract.answers import Make, teach
from learners.contract.worlds import by_group, cut, numbers_of, world
from streams.batch import Feedback, Floats, Ids

__all__ = ["check_learns", "log_loss"]

_COUNT = 12
"""Number of users and number of items. Both are small because ``checks_parameters`` make learners small."""

_ROWS, _MICRO_BATCH = 4800, 60
"""Rows to learn from, and rows per micro-batch."""

_K = 3
"""Items to retrieve for each request. All users like four of the items."""

_MIN_AUC = 0.65
"""Minimum AUC of a ranker. A constant has 0.5, the true probabilities have 0.88."""

_MAX_RANKED = 0.9
"""Maximum log loss of a ranker, divided by that of the best constant. The true probabilities have 0.51."""

_MAX_RERANKED = 0.95
"""Maximum log loss of a reranker, divided by that of its input scores or of the best constant, whichever is lower.

The true probabilities have 0.53.
"""

_MIN_ORDERED = 0.9
"""Minimum share of a request's pairs that a reranker puts in the right order, if it learns from choices.

One evidence column knows the order and has 1. The one that it starts with has 0.5, and its input scores have 0.81.
"""

_MIN_LIFT = 0.15
"""Minimum difference between the mean reward of retrieved items and of random items. The best lists have 0.42.

A fixed item cannot have more than 0.12 in all three worlds.
"""

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _World:
    """All users like every third item. Each other item is liked by one of four groups of users.

    Attributes
    ----------
    turn : int
        Number of the world. Item n has the probabilities that item n + `turn` has in world 0.
    """

    turn: int

    def chance(self, user: Ids, item: Ids) -> _Values:
        """Return the probability of a positive reward, (N,), for user and item numbers, (N,) each."""
        return self._chance(user, item, 0.9)

    def base(self, user: Ids, item: Ids) -> _Values:
        """Return scores for rerankers to correct. Those of the items that all users like are too low, the others are right."""
        return self._chance(user, item, 0.25)

    def _chance(self, user: Ids, item: Ids, popular: float) -> _Values:
        return np.where((item + self.turn) % 3 == 0, popular, by_group(user, item + self.turn))

    def feedback(self, seed: int, rows: int) -> tuple[Feedback, _Values]:
        """Return feedback and its true probabilities (N,). The hidden vectors (N, 8) identify users and items."""
        feedback = world(seed, rows, _COUNT, _COUNT, chance=self.chance)
        user, item = numbers_of(feedback.user[feedback.request], feedback.item, _COUNT)
        of_user, of_item = np.random.default_rng(0).normal(size=(2, _COUNT, 8)).astype(np.float32)
        feedback.hidden = of_user[user] + of_item[item]
        feedback.score = self.base(user, item).astype(np.float32)
        feedback.base = feedback.score.copy()
        return feedback, self.chance(user, item)


def check_learns(make: Make) -> None:
    """After learning, a learner is better than every constant.

    A ranker's scores beat every constant in AUC and log loss. A retriever's items are liked more often than random ones. A
    reranker's scores have a lower log loss than every constant and than its input scores. A reranker that learns from choices
    orders the rows of a request by the evidence column that knows the order, not by the one that it starts with.
    """
    for turn in range(3):
        simulated = _World(turn)
        learner = make()
        rows, _ = simulated.feedback(40 + turn, _ROWS)
        for start in range(0, _ROWS, _MICRO_BATCH):
            part = cut(rows, start, start + _MICRO_BATCH)
            if isinstance(learner, Ranker):
                _predict(learner, part)
            teach(learner, part)
        fresh, chance = simulated.feedback(50 + turn, 1000)
        if isinstance(learner, Retriever):
            _check_retriever(learner, simulated, fresh)
        elif isinstance(learner, Ranker):
            _check_ranker(learner, fresh, chance)
        elif isinstance(learner, Reranker) and learner.needs_evidence:
            _check_order(learner, fresh, chance)
        elif isinstance(learner, Reranker):
            _check_reranker(learner, fresh, chance)


def log_loss(chance: _Values, score: Floats | _Values) -> float:
    """Return the expected log loss of scores (N,), clipped to [0.001, 0.999], under the true probabilities `chance` (N,)."""
    score = np.clip(score.astype(np.float64), 1e-3, 1 - 1e-3)
    return float(-(chance * np.log(score) + (1 - chance) * np.log(1 - score)).mean())


def _predict(ranker: Ranker, feedback: Feedback) -> None:
    """Fill ``score``, ``base`` and ``hidden``, as the service does before a ranker learns."""
    feedback.hidden = None
    ranker.score(feedback)
    feedback.base = feedback.score.copy()


def _check_ranker(ranker: Ranker, fresh: Feedback, chance: _Values) -> None:
    _predict(ranker, fresh)
    positive = fresh.reward > 0
    above = fresh.score[positive][:, None] - fresh.score[~positive]
    auc = ((above > 0) + 0.5 * (above == 0)).mean()
    assert auc >= _MIN_AUC, f"it does not learn: AUC {auc:.3f} after {_ROWS} rows; a constant has 0.5, {_MIN_AUC} is required"
    constant = _constant(chance)
    loss = log_loss(chance, fresh.score)
    assert loss <= _MAX_RANKED * constant, (
        f"its scores are poor probabilities: log loss {loss:.3f} after {_ROWS} rows; a constant has {constant:.3f}, "
        f"{_MAX_RANKED * constant:.3f} is required"
    )


def _check_retriever(retriever: Retriever, simulated: _World, fresh: Feedback) -> None:
    found = retriever.retrieve(fresh, _K, Exclusion.none(fresh.user.size))
    assert found.item.size, "nothing was retrieved after learning"
    liked = simulated.chance(*numbers_of(fresh.user[found.request], found.item, _COUNT)).mean()
    every = np.arange(_COUNT)
    random = simulated.chance(np.repeat(every, _COUNT), np.tile(every, _COUNT)).mean()
    assert liked >= random + _MIN_LIFT, (
        f"it does not learn: a retrieved item is liked with probability {liked:.3f} after {_ROWS} rows; "
        f"a random item has {random:.3f}, {random + _MIN_LIFT:.3f} is required"
    )


def _check_reranker(reranker: Reranker, fresh: Feedback, chance: _Values) -> None:
    base, constant = log_loss(chance, fresh.score), _constant(chance)
    loss, limit = log_loss(chance, reranker.rerank(fresh)), _MAX_RERANKED * min(base, constant)
    assert loss <= limit, (
        f"it does not learn: log loss {loss:.3f} after {_ROWS} rows; its input scores have {base:.3f}, "
        f"a constant has {constant:.3f}, {limit:.3f} is required"
    )


def _check_order(reranker: Reranker, fresh: Feedback, chance: _Values) -> None:
    assert fresh.evidence is not None
    ordered = _right_pairs(fresh.request, chance, reranker.rerank(fresh))
    given, first = (_right_pairs(fresh.request, chance, score) for score in (fresh.score, fresh.evidence[:, 0]))
    assert ordered >= _MIN_ORDERED, (
        f"it does not learn from choices: {ordered:.3f} of a request's pairs are in the right order after {_ROWS} rows; by the "
        f"scores it is given {given:.3f}, by the column it began with {first:.3f}, {_MIN_ORDERED} is asked for"
    )


def _right_pairs(request: Ids, chance: _Values, score: Floats) -> float:
    """Share of the pairs of one request with different chances that scores put in the right order; a tie counts half."""
    pairs = (request[:, None] == request) & (chance[:, None] > chance)
    above = score[:, None] - score
    return float(((above > 0) + 0.5 * (above == 0))[pairs].mean())


def _constant(chance: _Values) -> float:
    """Return the log loss of the best constant."""
    return log_loss(chance, np.full(chance.size, chance.mean()))
