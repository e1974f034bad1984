"""Contract check of adapters: they change scores, but never the ranker."""

from __future__ import annotations

import numpy as np

from learners.base import Adapter
from learners.contract.answers import Make, teach
from learners.contract.worlds import batch_of, world
from memory.stateful import digest

__all__ = ["check_adaptation"]


def check_adaptation(make: Make) -> None:
    """After learning, an adapter changes scores through its declared parameters only. The ranker's state does not change."""
    learner = make()
    assert isinstance(learner, Adapter)
    ranker = learner.ranker
    adaptable = ranker.adaptable()
    changes = list(learner.changes)
    assert changes, "the adapter's `changes` is empty; return the names of the parameters that it changes"
    unknown = sorted(set(changes) - adaptable.keys())
    assert not unknown, f"the adapter's `changes` has {unknown}; choose from the ranker's parameters {sorted(adaptable)}"
    before = digest(ranker.state_dict()) if ranker.digest_stable else None
    teach(learner, world(5))
    plain, adapted = batch_of(world(1)), batch_of(world(1))
    delta = learner.adapt(adapted)
    ranker.score(plain)
    ranker.score(adapted, delta)
    assert np.isfinite(adapted.score).all(), "adapted scores are not finite"
    assert not np.array_equal(plain.score, adapted.score), "after learning, the adapter changes no score"
    again = batch_of(world(1))
    ranker.score(again)
    assert np.array_equal(plain.score, again.score), "scoring with a delta changed the ranker"
    assert before is None or before == digest(ranker.state_dict()), "the adapter changed the ranker's state"
