"""Contract check of `learners.networks.gradients.SharesGradients`: what another process computed leads to the same state."""

from __future__ import annotations

from learners.contract.answers import Make, taught
from learners.contract.equality import digest_of, same_learner
from learners.contract.worlds import cut, world
from learners.networks.gradients import SharesGradients

__all__ = ["check_gradients"]

_ROWS = 8
"""Rows of a step of every learner."""


def check_gradients(make: Make) -> None:
    """Computing gradients changes nothing, and learning with them equals learning without them, as long as nothing was between.

    A learner that computes none learns the rows of all processes itself.
    """
    alone, together = taught(make), taught(make)
    if not isinstance(together, SharesGradients) or not together.shares_gradients:
        return
    before = digest_of(together)
    rows = world(5)
    for start in range(0, rows.rows, _ROWS):
        mine, given = cut(rows, start, start + _ROWS), cut(rows, start, start + _ROWS)
        given.gradients[together.name] = together.gradients_of(given)
        assert before is None or before == digest_of(together), "gradients_of changed the state"
        assert all(array.flags.c_contiguous for array in given.gradients[together.name].values())
        alone.learn(mine)
        together.learn(given)
        before = digest_of(together)
    same_learner(alone, together, "learning with given gradients is not learning")
    # Another process must not compute them again: what it is given is what it learns.
    ignored, spoiled = cut(rows, 0, _ROWS), cut(rows, 0, _ROWS)
    spoiled.gradients[together.name] = {name: array * 0 for name, array in together.gradients_of(spoiled).items()}
    alone.learn(ignored)
    together.learn(spoiled)
    assert before is None or digest_of(alone) != digest_of(together), "learn did not use the gradients that it was given"
