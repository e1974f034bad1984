"""Rerankers that learn from choices: the checks teach them choices, and catch those that go wrong."""

from __future__ import annotations

import numpy as np
import pytest

from learners.contract import checks
from learners.contract.learning import check_learns
from learners.contract.small import bound
from learners.contract.worlds import choices_of, cut, world
from tests.learners.honest import GoodMixer


class Unmoved(GoodMixer):
    """Counts choices and orders by what it began with."""

    def mixed(self, batch):
        return batch.evidence[:, 0]


class Obedient(GoodMixer):
    """Learns from choices and returns the scores that it is given."""

    def rerank(self, batch):
        return batch.score.copy()


class Contrary(GoodMixer):
    """Learns the wrong sign."""

    def mixed(self, batch):
        return -super().mixed(batch)


class Writing(GoodMixer):
    """Writes to the evidence of choices."""

    def choose(self, choices):
        super().choose(choices)
        choices.batch.evidence[:] = 0


class Keeping(GoodMixer):
    """Keeps the rewards of the last choices, and answers by them."""

    kept = np.ones(1)

    def choose(self, choices):
        super().choose(choices)
        self.kept = choices.chosen

    def rerank(self, batch):
        return super().rerank(batch) * np.float32(np.cos(self.kept.max()))


class Unmarked(GoodMixer):
    """Tells followers nothing of what it learned."""

    def choose(self, choices):
        super().choose(choices)
        self.weights.dirty[:] = False


class Forgetful(GoodMixer):
    """Counts choices outside of its stores, and answers by the count."""

    count = 0

    def choose(self, choices):
        super().choose(choices)
        self.count += choices.chosen.size

    def rerank(self, batch):
        return super().rerank(batch) / np.float32(1 + self.count)


class Fickle(GoodMixer):
    """Learns at random."""

    def choose(self, choices):
        super().choose(choices)
        self.weights["weight"][:] += np.random.default_rng().normal(size=2)


class Fragile(GoodMixer):
    """Takes evidence of any size for what it says."""

    def mixed(self, batch):
        return np.clip(batch.evidence @ self.weights["weight"], -9, 9)


def test_a_reranker_that_learns_from_choices_passes():
    checks.check_learner(GoodMixer)


@pytest.mark.parametrize(
    ("cls", "check", "complaint"),
    [
        (Unmoved, check_learns, "does not learn from choices: 0.5"),
        (Obedient, check_learns, "does not learn from choices: 0.[78]"),
        (Contrary, check_learns, "does not learn from choices: 0.0"),
        (Writing, checks.check_inputs_are_left_alone, "choose wrote to its input"),
        (Keeping, checks.check_inputs_are_left_alone, "keeps its input"),
        (Unmarked, checks.check_followers_keep_up, "is a changed row not marked"),
        (Forgetful, checks.check_save_and_load, "a loaded learner differs"),
        (Fickle, checks.check_same_seed_same_learner, "is a seed missing"),
        (Fragile, checks.check_extremes, "reranked has NaN"),
    ],
)
def test_faults_are_caught(cls, check, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check(bound(cls))
    assert check in checks.checks_for(cls)


def test_choices_of_a_world():
    feedback = world(3)
    choices = choices_of(feedback)
    for b, row in enumerate(choices.chosen.tolist()):
        mine = np.flatnonzero((feedback.request == b) & (feedback.reward > 0))
        assert row == (mine[0] if mine.size else -1)
    assert 0 < np.count_nonzero(choices.chosen < 0) < choices.chosen.size
    assert np.array_equal(choices.batch.evidence, feedback.evidence)
    assert choices.batch.features.size == 0 and (choices.reward > 0).all()
    assert choices_of(cut(feedback, 0, 0)).chosen.size == 0
