"""`check_prefers_higher_rewards` catches learners that only count positive rewards, or that ignore negative ones."""

from __future__ import annotations

import numpy as np
import pytest

from learners.contract.checks import checks_for
from learners.contract.grading import check_prefers_higher_rewards
from learners.contract.small import bound
from tests.learners.honest import GoodMixer, GoodRanker, GoodReranker


def changed(feedback, reward):
    feedback.reward[:] = reward
    return feedback


class CountingRanker(GoodRanker):
    """Learns the share of positive rewards."""

    def learn(self, feedback):
        super().learn(changed(feedback, feedback.reward > 0))


class ForgivingRanker(GoodRanker):
    """Takes a negative reward for none."""

    def learn(self, feedback):
        super().learn(changed(feedback, np.maximum(feedback.reward, 0)))


class ClippingReranker(GoodReranker):
    """Clips rewards to [0, 1]."""

    def learn(self, feedback):
        super().learn(changed(feedback, np.clip(feedback.reward, 0, 1)))


class CountingMixer(GoodMixer):
    """Learns all choices alike."""

    def choose(self, choices):
        choices.reward[:] = 1
        super().choose(choices)


@pytest.mark.parametrize("good", [GoodRanker, GoodReranker, GoodMixer])
def test_learners_that_grade_pass(good):
    assert check_prefers_higher_rewards in checks_for(good)
    check_prefers_higher_rewards(bound(good))


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (CountingRanker, "a reward of 5 does not outweigh a reward of 1"),
        (ForgivingRanker, "a reward of -5 does no harm"),
        (ClippingReranker, "a reward of 5 does not outweigh a reward of 1"),
        (CountingMixer, "a reward of 5 does not outweigh a reward of 1"),
    ],
)
def test_learners_that_do_not_grade_fail(bad, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_prefers_higher_rewards(bound(bad))
