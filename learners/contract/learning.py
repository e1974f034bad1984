"""The check that a learner learns: in worlds with a known answer it beats every constant.

There are three worlds, which differ only in the items that are liked. An answer that does not depend on the feedback may be
right in one of them by luck, but not in all.
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
"""Number of users, and of items: few, because ``checks_parameters`` make learners small."""

_ROWS, _STEP = 4800, 60
"""Rows to learn from, and rows of a micro-batch."""

_PLACES = 3
"""Items to retrieve for each request; everybody likes four of the items."""

_AUC = 0.65
"""Least AUC of a ranker. A constant has 0.5, the true probabilities have 0.88."""

_RANKED = 0.9
"""Greatest log loss of a ranker, as a share of the best constant's. The true probabilities have 0.51."""

_RERANKED = 0.95
"""Greatest log loss of a reranker, as a share of the scores' it is given or the best constant's, whichever is less.

The true probabilities have 0.53.
"""

_ORDERED = 0.9
"""Least share of a request's pairs that a reranker which learns from choices puts in the right order.

One of its columns knows the order, and has 1; the one that it begins with has 0.5, the scores that it is given have 0.81.
"""

_RETRIEVED = 0.15
"""Least difference between the probabilities that a retrieved item and a random one are liked. The best lists have 0.42.

An item that is fixed in advance cannot have more than 0.12 in all three worlds.
"""

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _World:
    """Everybody likes every third item; each other item is liked by one of four groups of users.

    Attributes
    ----------
    turn : int
        Item n is liked as item n + `turn` is in world 0.
    """

    turn: int

    def chance(self, user: Ids, item: Ids) -> _Values:
        """Probability of a positive reward for user and item numbers, (N,) each."""
        return self._chance(user, item, 0.9)

    def base(self, user: Ids, item: Ids) -> _Values:
        """Scores for rerankers to correct: those of the items that everybody likes are too low, the others are right."""
        return self._chance(user, item, 0.25)

    def _chance(self, user: Ids, item: Ids, everybody: float) -> _Values:
        return np.where((item + self.turn) % 3 == 0, everybody, by_group(user, item + self.turn))

    def feedback(self, seed: int, rows: int) -> tuple[Feedback, _Values]:
        """Feedback, and its true probabilities (N,); hidden vectors (N, 8) tell users and items apart."""
        feedback = world(seed, rows, _COUNT, _COUNT, chance=self.chance)
        user, item = numbers_of(feedback.user[feedback.request], feedback.item, _COUNT)
        of_user, of_item = np.random.default_rng(0).normal(size=(2, _COUNT, 8)).astype(np.float32)
        feedback.hidden = of_user[user] + of_item[item]
        feedback.score = self.base(user, item).astype(np.float32)
        feedback.base = feedback.score.copy()
        return feedback, self.chance(user, item)


def check_learns(make: Make) -> None:
    """Learning makes answers better than a constant.

    A ranker's scores beat every constant in AUC and log loss, a retriever's items are liked more often than random ones, and
    a reranker's scores have a smaller log loss than every constant and the scores that it is given. A reranker that learns from
    choices orders the rows of a request by the column of the evidence that knows the order, not by the one it began with.
    """
    for turn in range(3):
        one = _World(turn)
        learner = make()
        rows, _ = one.feedback(40 + turn, _ROWS)
        for start in range(0, _ROWS, _STEP):
            part = cut(rows, start, start + _STEP)
            if isinstance(learner, Ranker):
                _predict(learner, part)
            teach(learner, part)
        fresh, chance = one.feedback(50 + turn, 1000)
        if isinstance(learner, Retriever):
            _check_retriever(learner, one, fresh)
        elif isinstance(learner, Ranker):
            _check_ranker(learner, fresh, chance)
        elif isinstance(learner, Reranker) and learner.needs_evidence:
            _check_order(learner, fresh, chance)
        elif isinstance(learner, Reranker):
            _check_reranker(learner, fresh, chance)


def log_loss(chance: _Values, score: Floats | _Values) -> float:
    """Expected log loss of scores (N,), where `chance` (N,) is the truth; scores are clipped to [0.001, 0.999]."""
    score = np.clip(score.astype(np.float64), 1e-3, 1 - 1e-3)
    return float(-(chance * np.log(score) + (1 - chance) * np.log(1 - score)).mean())


def _predict(ranker: Ranker, feedback: Feedback) -> None:
    """Fill ``score``, ``base`` and ``hidden`` as the service does before a ranker learns."""
    feedback.hidden = None
    ranker.score(feedback)
    feedback.base = feedback.score.copy()


def _check_ranker(ranker: Ranker, fresh: Feedback, chance: _Values) -> None:
    _predict(ranker, fresh)
    positive = fresh.reward > 0
    above = fresh.score[positive][:, None] - fresh.score[~positive]
    auc = ((above > 0) + 0.5 * (above == 0)).mean()
    assert auc >= _AUC, f"it does not learn: AUC {auc:.3f} after {_ROWS} rows; a constant has 0.5, {_AUC} is asked for"
    constant = _constant(chance)
    loss = log_loss(chance, fresh.score)
    assert loss <= _RANKED * constant, (
        f"its scores are poor probabilities: log loss {loss:.3f} after {_ROWS} rows; a constant has {constant:.3f}, "
        f"{_RANKED * constant:.3f} is asked for"
    )


def _check_retriever(retriever: Retriever, one: _World, fresh: Feedback) -> None:
    found = retriever.retrieve(fresh, _PLACES, Exclusion.none(fresh.user.size))
    assert found.item.size, "nothing was retrieved after learning"
    liked = one.chance(*numbers_of(fresh.user[found.request], found.item, _COUNT)).mean()
    every = np.arange(_COUNT)
    random = one.chance(np.repeat(every, _COUNT), np.tile(every, _COUNT)).mean()
    assert liked >= random + _RETRIEVED, (
        f"it does not learn: a retrieved item is liked with probability {liked:.3f} after {_ROWS} rows; "
        f"a random one with {random:.3f}, {random + _RETRIEVED:.3f} is asked for"
    )


def _check_reranker(reranker: Reranker, fresh: Feedback, chance: _Values) -> None:
    base, constant = log_loss(chance, fresh.score), _constant(chance)
    loss, most = log_loss(chance, reranker.rerank(fresh)), _RERANKED * min(base, constant)
    assert loss <= most, (
        f"it does not learn: log loss {loss:.3f} after {_ROWS} rows; the scores it is given have {base:.3f}, "
        f"a constant has {constant:.3f}, {most:.3f} is asked for"
    )


def _check_order(reranker: Reranker, fresh: Feedback, chance: _Values) -> None:
    assert fresh.evidence is not None
    ordered = _right_pairs(fresh.request, chance, reranker.rerank(fresh))
    given, first = (_right_pairs(fresh.request, chance, score) for score in (fresh.score, fresh.evidence[:, 0]))
    assert ordered >= _ORDERED, (
        f"it does not learn from choices: {ordered:.3f} of a request's pairs are in the right order after {_ROWS} rows; by the "
        f"scores it is given {given:.3f}, by the column it began with {first:.3f}, {_ORDERED} is asked for"
    )


def _right_pairs(request: Ids, chance: _Values, score: Floats) -> float:
    """Share of the pairs of one request with different chances that scores put in the right order; a tie counts half."""
    pairs = (request[:, None] == request) & (chance[:, None] > chance)
    above = score[:, None] - score
    return float(((above > 0) + 0.5 * (above == 0))[pairs].mean())


def _constant(chance: _Values) -> float:
    """Log loss of the best constant."""
    return log_loss(chance, np.full(chance.size, chance.mean()))
