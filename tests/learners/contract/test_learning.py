"""`check_learns` accepts learners that learn, and catches those that learn nothing or the wrong thing."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import Candidates
from learners.contract import learning
from learners.contract.checks import checks_for
from learners.contract.learning import check_learns, log_loss
from learners.contract.worlds import world
from tests.learners.honest import GoodMixer, GoodRanker, GoodReranker, GoodRetriever


class ConstantRanker(GoodRanker):
    """Returns a constant score."""

    def score(self, batch, delta=None):
        batch.score[:] = 0.48


class IgnorantRanker(GoodRanker):
    """Returns a fixed score for each item."""

    def score(self, batch, delta=None):
        batch.score[:] = (batch.item % 1000) / 1000


class ContraryRanker(GoodRanker):
    """Learns the wrong sign."""

    def score(self, batch, delta=None):
        super().score(batch)
        batch.score[:] = 1 - batch.score


class SharpRanker(GoodRanker):
    """Orders items well, with scores of 0 and 1 only."""

    def score(self, batch, delta=None):
        super().score(batch)
        batch.score[:] = batch.score > 0.5


class FixedRetriever(GoodRetriever):
    """Retrieves items in the order of their ids."""

    def ranked(self):
        slots = self.items.slots()
        return slots[np.argsort(self.items.keys[slots])]


class StubbornRetriever(GoodRetriever):
    """Always retrieves one item that all users like in world 0."""

    def retrieve(self, requests, k, exclude):
        found = super().retrieve(requests, 16, exclude)
        mine = found.item == world(0, users=1, items=1).item[0]
        return Candidates(found.item[mine], found.request[mine], found.score[mine])


class ContraryRetriever(GoodRetriever):
    """Retrieves the worst items first."""

    def ranked(self):
        return super().ranked()[::-1]


class SilentRetriever(GoodRetriever):
    """Retrieves nothing."""

    def ranked(self):
        return super().ranked()[:0]


class IdleReranker(GoodReranker):
    """Returns its input scores."""

    def rerank(self, batch):
        return batch.score.copy()


class LevelReranker(GoodReranker):
    """Returns the same score for every row: the mean reward."""

    def rerank(self, batch):
        return np.full(batch.rows, 0.48, np.float32)


class ContraryReranker(GoodReranker):
    """Learns the wrong sign."""

    def rerank(self, batch):
        return 2 * batch.score - super().rerank(batch)


@pytest.mark.parametrize("cls", [GoodRanker, GoodRetriever, GoodReranker, GoodMixer])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_learners_that_learn_pass_with_every_seed(cls, seed, monkeypatch):
    made = learning.world
    monkeypatch.setattr(learning, "world", lambda base, *given, **more: made(1000 * seed + base, *given, **more))
    check_learns(cls)


@pytest.mark.parametrize(
    ("cls", "complaint"),
    [
        (ConstantRanker, "it does not learn: AUC 0.500"),
        (IgnorantRanker, "it does not learn: AUC"),
        (ContraryRanker, "it does not learn: AUC 0.2"),
        (SharpRanker, "poor probabilities"),
        (FixedRetriever, "it does not learn: a retrieved item"),
        (StubbornRetriever, "it does not learn: a retrieved item is liked with probability 0.[123]"),
        (ContraryRetriever, "it does not learn: a retrieved item is liked with probability 0.[123]"),
        (SilentRetriever, "nothing was retrieved"),
        (IdleReranker, "it does not learn: log loss"),
        (LevelReranker, "it does not learn: log loss"),
        (ContraryReranker, "it does not learn: log loss"),
    ],
)
def test_learners_that_do_not_learn_are_caught(cls, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_learns(cls)
    assert check_learns in checks_for(cls)


def test_log_loss_of_known_scores():
    chance = np.array([1.0, 0.5])
    assert log_loss(chance, np.array([0.5, 0.5], np.float32)) == pytest.approx(np.log(2))
    assert log_loss(np.array([1.0]), np.array([-3.0], np.float32)) == pytest.approx(-np.log(1e-3))
