"""The check that a learner learns, put to learners that do not, that learn the wrong thing, and that do."""

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
    """Counts rewards and does not use them."""

    def score(self, batch, delta=None):
        batch.score[:] = 0.48


class IgnorantRanker(GoodRanker):
    """Has an opinion on each item, which no reward changes."""

    def score(self, batch, delta=None):
        batch.score[:] = (batch.item % 1000) / 1000


class ContraryRanker(GoodRanker):
    """Learns the wrong sign."""

    def score(self, batch, delta=None):
        super().score(batch)
        batch.score[:] = 1 - batch.score


class SharpRanker(GoodRanker):
    """Orders well and says 0 or 1."""

    def score(self, batch, delta=None):
        super().score(batch)
        batch.score[:] = batch.score > 0.5


class FixedRetriever(GoodRetriever):
    """Retrieves items in the order of their ids."""

    def ranked(self):
        slots = self.items.slots()
        return slots[np.argsort(self.items.keys[slots])]


class StubbornRetriever(GoodRetriever):
    """Retrieves one item of world 0 that everybody likes, whatever the rewards are."""

    def retrieve(self, requests, k, exclude):
        found = super().retrieve(requests, 16, exclude)
        mine = found.item == world(0, users=1, items=1).item[0]
        return Candidates(found.item[mine], found.request[mine], found.score[mine])


class ContraryRetriever(GoodRetriever):
    """Retrieves what nobody likes first."""

    def ranked(self):
        return super().ranked()[::-1]


class SilentRetriever(GoodRetriever):
    """Retrieves nothing."""

    def ranked(self):
        return super().ranked()[:0]


class IdleReranker(GoodReranker):
    """Returns the scores that it is given."""

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
