"""ReLoop2 counts stored rows by their rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learners.contract.worlds import feedback_of
from learners.kernels.learned_weight import LearnedWeight
from learners.rerankers.reloop2.reranker import ReLoop2
from streams.batch import Feedback


def stored(hidden: np.ndarray, base: np.ndarray, reward: np.ndarray) -> Feedback:
    feedback = feedback_of(user=np.arange(len(base)) + 1, item=np.arange(len(base)) + 1, reward=reward)
    feedback.hidden, feedback.base, feedback.score = hidden, base, base.copy()
    return feedback


@pytest.mark.parametrize("keywords", [{"capacity": 100, "index": "flat"}, {"memory": "sketch"}])
def test_the_mean_label_is_weighted_by_rewards(keywords: dict[str, Any]) -> None:
    """One buy (5) and three rows without an interaction, all alike: 5 of 8."""
    hidden, base = np.tile(np.eye(1, 16, dtype=np.float32), (4, 1)), np.full(4, 0.25, np.float32)
    bought, clicked = (ReLoop2(16, weight=1.0, centred=False, **keywords) for _ in range(2))
    bought.learn(stored(hidden, base, np.array([5.0, 0.0, 0.0, 0.0])))
    clicked.learn(stored(hidden, base, np.array([1.0, 0.0, 0.0, 0.0])))
    asked = stored(hidden[:1], base[:1], np.zeros(1))
    asked.score = base[:1]
    assert bought.rerank(asked) == pytest.approx(5 / 8)
    assert clicked.rerank(asked) == pytest.approx(1 / 4)
    bought.learn(stored(hidden, base, np.array([3600.0, 1.0, 0.0, 0.0])))
    assert bought.metrics()["capped"] == 1


def test_weights_are_relative_to_their_recent_mean() -> None:
    """Rewards of 100 do not make the learned weight a hundred times as certain."""
    learned = LearnedWeight(1, half_life=100, sample=1)
    ones = np.ones(100, np.float32)
    assert learned.relative(ones) == pytest.approx(ones)
    for _ in range(40):
        relative = learned.relative(100 * ones)
    assert relative == pytest.approx(ones, rel=1e-6)
    assert learned.relative(ones).max() < 0.02
