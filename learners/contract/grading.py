"""Contract check of graded rewards: what earns more is scored higher, even if it is chosen less often.

There are three items. One is bought, which is worth 5. One is clicked more often, which is worth 1. One is clicked most often,
but as often it is disliked, which is worth -5. A learner that only counts positive rewards puts them in the reverse order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learners.base import Learner, Ranker, Reranker
from learners.contract.answers import Make, teach
from learners.contract.worlds import cut, numbers_of, world
from streams.batch import Feedback, Ids

__all__ = ["check_prefers_higher_rewards"]

_BOUGHT, _CLICKED, _DISLIKED = range(3)

_GOOD = np.array([0.2, 0.3, 0.35])
"""Probability of a positive reward of each item. The expected rewards are 1, 0.3 and -1.4."""

_DISLIKE = 0.35 / (1 - 0.35)
"""Share of dislikes among the other rows of the disliked item: its dislikes are as frequent as its clicks."""

_ROWS, _MICRO_BATCH, _USERS = 3000, 60, 12


def check_prefers_higher_rewards(make: Make) -> None:
    """Items are scored in the order of their rewards, not of their clicks: on average over the second half of the rows.

    A reranker gets scores that do not depend on the item. One that learns from choices does not see dislikes, so it only has to
    put first what is bought.
    """
    for turn in range(3):
        learner = make()
        rows, role = _feedback(60 + turn, turn)
        scores = []
        for start in range(0, _ROWS, _MICRO_BATCH):
            part = cut(rows, start, start + _MICRO_BATCH)
            scores.append(_predict(learner, part))
            teach(learner, part)
        late = np.arange(_ROWS) >= _ROWS // 2
        score = [float(np.concatenate(scores)[late & (role == one)].mean()) for one in range(3)]
        others = [_CLICKED, _DISLIKED]
        told = f"mean scores: bought {score[_BOUGHT]:.4f}, clicked {score[_CLICKED]:.4f}, disliked {score[_DISLIKED]:.4f}"
        assert score[_BOUGHT] > max(score[one] for one in others), (
            f"a reward of 5 does not outweigh a reward of 1 ({told}); use learners.bounds.graded, or learn the reward itself"
        )
        assert _learns_from_choices(learner) or score[_CLICKED] > score[_DISLIKED], (
            f"a reward of -5 does no harm ({told}); use learners.bounds.graded, or learn the reward itself"
        )


def _feedback(seed: int, turn: int) -> tuple[Feedback, Ids]:
    """Return feedback and the role (N,) of each row's item, which the hidden vectors and the second evidence column tell."""

    def chance(_: Ids, item: Ids) -> npt.NDArray[np.float64]:
        good: npt.NDArray[np.float64] = _GOOD[(item + turn) % 3]
        return good

    feedback = world(seed, _ROWS, _USERS, 3, chance=chance)
    _, item = numbers_of(feedback.user[feedback.request], feedback.item, _USERS)
    role, rng = (item + turn) % 3, np.random.default_rng(seed)
    disliked = (feedback.reward == 0) & (role == _DISLIKED) & (rng.random(_ROWS) < _DISLIKE)
    feedback.reward[(feedback.reward > 0) & (role == _BOUGHT)] = 5.0
    feedback.reward[disliked] = -5.0
    feedback.kind[disliked] = 2
    feedback.hidden = (np.eye(3, 8)[role] + rng.normal(0, 0.1, (_ROWS, 8))).astype(np.float32)
    feedback.score = rng.uniform(0.25, 0.35, _ROWS).astype(np.float32)
    feedback.base = feedback.score.copy()
    assert feedback.evidence is not None
    feedback.evidence[:, 1] = role == _BOUGHT
    return feedback, role


def _learns_from_choices(learner: Learner) -> bool:
    return isinstance(learner, Reranker) and learner.needs_evidence


def _predict(learner: Learner, feedback: Feedback) -> npt.NDArray[np.float32]:
    """Return scores of rows before they are learned. A ranker fills ``score``, ``base`` and ``hidden``, as in the service."""
    if isinstance(learner, Reranker):
        return learner.rerank(feedback)
    assert isinstance(learner, Ranker)
    feedback.hidden = None
    learner.score(feedback)
    feedback.base = feedback.score.copy()
    return feedback.base
