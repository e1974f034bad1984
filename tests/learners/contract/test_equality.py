"""Learners are equal to the bit on the CPU; on a GPU, as near as they say; and followers without what is private."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learners.base import Learner
from learners.contract import checks
from learners.contract.equality import same_answers, same_follower, same_learner, tolerance_of
from learners.contract.small import bind_to_world
from learners.contract.worlds import world
from memory.arrays import Arrays
from tests.learners.honest import GoodRanker


class OnGpu(Arrays):
    """Pretends to be where sums are added up in no fixed order."""

    device = "cuda"


def ranker(store: type[Arrays], off: float, tolerance: float) -> Learner:
    """A learner whose scores are a little off by chance, as those of another run on a GPU would be."""

    class Shaky(GoodRanker):
        __doc__ = GoodRanker.__doc__

        def __init__(self, start: float = 0.5) -> None:
            super().__init__(start)
            self.offset = store(by=np.full(3, off), whole=np.zeros(3, np.int64))

        def score(self, batch: Any, delta: Any = None) -> None:
            super().score(batch)
            batch.score += np.float32(self.offset["by"][0])

    Shaky.tolerance = tolerance
    return bind_to_world(Shaky())


@pytest.mark.parametrize(
    ("store", "off", "tolerance", "equal"),
    [
        (Arrays, 0.0, 0.0, True),
        (Arrays, 1e-6, 0.0, False),
        (Arrays, 1e-6, 1e-4, False),
        (OnGpu, 1e-6, 0.0, False),
        (OnGpu, 1e-6, 1e-4, True),
        (OnGpu, 1e-2, 1e-4, False),
    ],
    ids=["exact", "off", "a tolerance is not for the CPU", "none declared", "within", "beyond"],
)
def test_a_tolerance_is_for_gpus_alone(store: type[Arrays], off: float, tolerance: float, equal: bool) -> None:
    one, other = ranker(store, 0.0, tolerance), ranker(store, off, tolerance)
    assert tolerance_of(one) == (tolerance if store is OnGpu else 0.0)
    if equal:
        same_learner(one, other, "they differ")
    else:
        with pytest.raises(AssertionError, match="they differ"):
            same_learner(one, other, "they differ")


def test_whole_numbers_and_shapes_are_equal_whatever_the_tolerance() -> None:
    one, other = ranker(OnGpu, 0.0, 1e-3), ranker(OnGpu, 0.0, 1e-3)
    other.offset["whole"][1] = 1  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match=r"they differ \(offset.whole\)"):
        same_learner(one, other, "they differ")
    with pytest.raises(AssertionError, match=r"they differ \(score\)"):
        same_answers({"score": np.zeros(3)}, {"score": np.zeros(1)}, "they differ", 1e-3)
    with pytest.raises(AssertionError, match=r"they differ \(score\)"):
        same_answers({"score": np.zeros(3)}, {"score": np.full(3, np.nan)}, "they differ", 1e-3)


@pytest.mark.parametrize("tolerance", [-1e-6, 0.1])
def test_a_tolerance_that_hides_mistakes_is_refused(tolerance: float) -> None:
    cls = type("Loose", (GoodRanker,), {"tolerance": tolerance})
    with pytest.raises(AssertionError, match="tolerance: "):
        checks.check_tolerance(cls)
    assert checks.check_tolerance in checks.checks_for(cls)


class Private(GoodRanker):
    """Keeps to itself how often it learned."""

    def __init__(self, start: float = 0.5) -> None:
        super().__init__(start)
        self.seen = Arrays(times=np.zeros(1), private=["times"])


class Indiscreet(Private):
    """Scores by what is private."""

    def score(self, batch: Any, delta: Any = None) -> None:
        super().score(batch)
        batch.score += np.float32(self.seen["times"][0])


def test_a_follower_is_equal_without_what_is_private_and_must_not_need_it() -> None:
    checks.check_followers_keep_up(Private)
    with pytest.raises(AssertionError, match="do answers read private state"):
        checks.check_followers_keep_up(Indiscreet)
    leader, follower = bind_to_world(Private()), bind_to_world(Private())
    leader.learn(world(5))
    follower.apply_changes(leader.take_changes())
    same_follower(leader, follower, "they differ")
    with pytest.raises(AssertionError, match="they differ"):
        same_learner(leader, follower, "they differ")
