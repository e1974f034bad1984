"""`check_extremes` catches learners that extreme numbers ruin, and clipping changes only what is out of bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from learners.base import Ranker, WeightDelta
from learners.bounds import LARGEST, bounded, finite
from learners.contract.extremes import check_extremes
from learners.contract.worlds import feedback_of
from learners.rankers.fm import FactorizationMachine
from learners.retrievers.popularity import Popularity
from memory.arrays import Arrays
from memory.keyed.table import Column, Table
from streams.batch import Batch, Feedback

HALF_LIFE = 604_800.0


class Mean(Ranker):
    """Mean reward over all rows and of each item. The cases below pass faulty row weights (`share`)."""

    def __init__(self, share: Callable[[Feedback], np.ndarray], limit: float = 1.0) -> None:
        self.share, self.limit = share, limit
        self.items = Table(64, total=Column(None, np.float64), times=Column(None, np.float64))
        self.all = Arrays(total=np.zeros(1), times=np.ones(1))

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        slots = self.items.find(batch.item)
        total = np.where(slots >= 0, self.items["total"][slots], 0.0) + self.all["total"][0] / self.all["times"][0]
        with np.errstate(all="ignore"):
            batch.score[:] = total / (np.where(slots >= 0, self.items["times"][slots], 0.0) + 1.0)

    def learn(self, feedback: Feedback) -> None:
        slots = self.items.insert(feedback.item)
        reward = np.clip(feedback.reward, -self.limit, self.limit).astype(np.float64)
        with np.errstate(all="ignore"):
            share = np.asarray(self.share(feedback), np.float64)
            np.add.at(self.items["total"], slots, share * reward)
            np.add.at(self.items["times"], slots, share)
            self.all["total"][0] += (share * reward).sum()
            self.all["times"][0] += share.sum()
        self.all.mark()


class Deaf(Mean):
    """Stops learning after a large total reward."""

    def __init__(self) -> None:
        super().__init__(ones, limit=np.inf)

    def learn(self, feedback: Feedback) -> None:
        if abs(self.all["total"][0]) < 1e20:
            super().learn(feedback)


def ones(feedback: Feedback) -> np.ndarray:
    return np.ones(feedback.rows)


def test_a_learner_that_clips_passes() -> None:
    check_extremes(lambda: Mean(ones))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Mean(lambda feedback: feedback.weight.astype(np.float32) ** 2), "after weights of 1e30: score has NaN"),
        (lambda: Mean(lambda feedback: 1 / feedback.propensity), "after propensities of 0: score has NaN"),
        (lambda: Mean(lambda feedback: feedback.values[:, 4] ** 2), "after features of 1e.20: score has NaN"),
        (Deaf, "after rewards of 1e30 it stops learning"),
    ],
)
def test_the_message_names_the_numbers_that_ruined_a_learner(make: Callable[[], Ranker], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_extremes(make)


@pytest.mark.parametrize("learning_rate", [0.01, 10.0])
def test_fm_passes_with_small_and_large_learning_rates(learning_rate: float) -> None:
    check_extremes(
        lambda: FactorizationMachine(factors=4, bits=10, learning_rate=learning_rate, factor_learning_rate=learning_rate)
    )


def test_only_numbers_out_of_bounds_are_clipped() -> None:
    ordinary = np.array([[LARGEST, -LARGEST], [0.0, 1e-45]], np.float32)
    assert bounded(ordinary) is ordinary
    spoilt = np.array([np.nan, np.inf, -3e38, 5.0], np.float32)
    assert bounded(spoilt).tolist() == [0.0, LARGEST, -LARGEST, 5.0]
    assert np.isnan(spoilt[0]), "the input array is not changed"
    assert finite(np.array([1e300, -np.inf, 2.0])).tolist() == [np.finfo(np.float32).max, -np.finfo(np.float32).max, 2.0]


def popular(*timestamps: float) -> Popularity:
    learner = Popularity(10, HALF_LIFE)
    learner.learn(feedback_of(user=[1] * 3, item=[1, 1, 2], reward=[1] * 3, timestamp=[1.7e9] * 3))
    for timestamp in timestamps:
        learner.learn(feedback_of(user=[1], item=[3], reward=[1], timestamp=[timestamp]))
    return learner


def scores(learner: Popularity) -> list[float]:
    batch = feedback_of(user=[1] * 3, item=[1, 2, 3], reward=[0] * 3, timestamp=[1.7e9] * 3)
    return learner.score(batch).tolist()


def test_a_few_dates_of_the_far_future_or_past_keep_the_counts() -> None:
    assert scores(popular(1e11)) == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    assert scores(popular(0.0)) == pytest.approx([2 / 3, 1 / 2, 0.0])
    assert scores(popular(*[1e11] * 19, 1.7e9, *[1e11] * 19)) == pytest.approx([2 / 3, 1 / 2, 39 / 40])


def test_the_clock_follows_20_outliers_in_succession_and_can_return() -> None:
    ahead = popular(*[1e11] * 20)
    assert scores(ahead) == pytest.approx([0.0, 0.0, 1 / 2])
    assert scores(popular(*[1e11] * 20, *[1.7e9] * 20)) == pytest.approx([0.0, 0.0, 2 / 3])
