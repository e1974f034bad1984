from __future__ import annotations

import numpy as np
import pytest

from learners.base import Exclusion
from learners.contract.worlds import feedback_of, requests_of
from learners.retrievers.click_rate import ClickRate
from memory.stateful import digest
from streams.batch import Feedback


def rows(*items: int, reward: float = 0.0) -> Feedback:
    return feedback_of(user=[1] * len(items), item=items, reward=[reward] * len(items))


def lifts(learner: ClickRate, *items: int) -> list[list[float]]:
    return np.exp(learner.evidence(rows(*items))).tolist()


def test_a_lift_is_clicks_over_what_an_average_item_would_have() -> None:
    """Ten shows and four clicks: .4 a show. Item 1 had 8 shows and 4 clicks, item 2 had 2 shows, item 3 none."""
    learner = ClickRate(16, (np.inf,), prior=2.0)
    learner.observe(rows(*[1] * 8, 2, 2))
    assert lifts(learner, 1, 2, 3) == [[1.0]] * 3, "nobody has clicked yet"
    learner.learn(rows(1, 1, 1, 1, reward=1.0))
    found = lifts(learner, 1, 2, 3)
    assert found == [[pytest.approx((4 + 2) / (3.2 + 2))], [pytest.approx(2 / (0.8 + 2))], [1.0]]
    learner.observe(rows(2))  # brings the stored lift up to date
    assert learner.retrieve(requests_of([5]), 9, Exclusion.none(1)).item.tolist() == [1, 2]
    assert learner.retrieve(requests_of([5]), 9, Exclusion(np.array([1]), np.array([0, 1]))).item.tolist() == [2]
    assert learner.score(rows(3)).tolist() == [1.0]


def test_counts_are_halved_by_each_half_life_of_shows() -> None:
    learner = ClickRate(16, (4.0, np.inf), prior=1.0)
    learner.observe(rows(1, 1))
    learner.learn(rows(1, 1, reward=1.0))
    learner.observe(rows(2, 2, 2, 2))
    # Item 1: 2 clicks that count half, and shows of 2 ** -1.25 + 2 ** -1. All: the same clicks in shows of all six.
    clicks, shows = 2 / 2, 2**-1.25 + 2**-1
    everything = shows + sum(2 ** (-n / 4) for n in range(4))
    (fast, slow), _ = lifts(learner, 1, 2)
    assert fast == pytest.approx((clicks + 1) / (shows * clicks / everything + 1), rel=1e-6)
    assert slow == pytest.approx((2 + 1) / (2 * 2 / 6 + 1), rel=1e-6)


def test_an_item_that_is_no_longer_shown_becomes_average_again() -> None:
    learner = ClickRate(16, (10.0,))
    learner.observe(rows(*[1] * 20, *[2] * 20))
    learner.learn(rows(*[2] * 10, reward=1.0))
    ((before,),) = lifts(learner, 1)
    learner.observe(rows(*[2] * 200))
    assert before < 0.7 and lifts(learner, 1) == [[pytest.approx(1.0, abs=1e-3)]]


def test_what_no_impression_showed_is_no_click() -> None:
    """On streams of ratings and purchases all items are equal, so that a mixture learns nothing from it."""
    learner = ClickRate(16)
    bought = rows(1, 1, 2, reward=1.0)
    bought.position[:] = -1
    learner.learn(bought)
    assert not len(learner.items) and not learner.evidence(rows(1, 2)).any()


def test_results_do_not_depend_on_the_batches() -> None:
    rng = np.random.default_rng(0)
    shown, clicked = rng.integers(1, 60, 500).tolist(), rng.integers(1, 60, 100).tolist()
    whole, single = ClickRate(64), ClickRate(64)
    whole.observe(rows(*shown))
    whole.learn(rows(*clicked, reward=1.0))
    for item in shown:
        single.observe(rows(item))
    for item in clicked:
        single.learn(rows(item, reward=1.0))
    assert digest(whole.state_dict()) == digest(single.state_dict())


def test_more_items_at_once_than_it_remembers() -> None:
    learner = ClickRate(16)
    learner.observe(rows(*range(1, 60)))
    assert len(learner.items) == 16 and np.isfinite(learner.evidence(rows(*range(1, 60)))).all()


def test_removed_items_are_gone() -> None:
    learner = ClickRate(16)
    learner.observe(rows(1, 2))
    learner.learn(rows(1, reward=1.0))
    learner.remove(np.array([1, 77]))
    assert learner.retrieve(requests_of([1]), 9, Exclusion.none(1)).item.tolist() == [2]
    assert lifts(learner, 1) == [[1.0] * 4]


@pytest.mark.parametrize("half_lives", [(), (5.0, 5.0)])
def test_half_lives_are_given_once(half_lives: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="half_lives"):
        ClickRate(16, half_lives)
