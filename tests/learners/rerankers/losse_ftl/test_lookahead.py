"""The search against its definition, in a world whose outcomes are given."""

from __future__ import annotations

import numpy as np
import pytest

from learners.rerankers.losse_ftl.lookahead import Search, look_ahead
from learners.rerankers.losse_ftl.models import WorldModel
from learners.rerankers.losse_ftl.states import inputs
from memory.arrays import Floats

DIM, GROUPS = 3, 5
WIDTH = DIM + GROUPS + 1
CENTROIDS = np.random.default_rng(1).normal(size=(GROUPS, DIM))
CENTROIDS /= np.linalg.norm(CENTROIDS, axis=1, keepdims=True)
EVERYWHERE = np.full(WIDTH, -9.0, np.float32), np.full(WIDTH, 9.0, np.float32)


class Given(WorldModel):
    """Outcomes and changes are fixed functions of the input."""

    def __init__(self, goes_on: float = 0.9) -> None:
        rng = np.random.default_rng(2)
        self._outcome, self._change = rng.normal(size=(3 * DIM + 4, 1)), 0.3 * rng.normal(size=(3 * DIM + 4, WIDTH))
        self._goes_on = goes_on

    def learn(self, *_: object) -> None:
        raise AssertionError("a search does not learn")

    def predict(self, x: Floats, *, changes: bool) -> tuple[Floats, Floats | None]:
        reward = 1 / (1 + np.exp(-(x @ self._outcome)))
        outcome = np.concatenate([reward, np.full_like(reward, self._goes_on)], axis=1).astype(np.float32)
        return outcome, np.tanh(x @ self._change).astype(np.float32) if changes else None

    def evidence(self, x: Floats) -> Floats:
        return np.arange(len(x), dtype=np.float32)


def value(model: Given, state: Floats, group: int, horizon: int, discount: float, bounds) -> float:  # type: ignore[no-untyped-def]
    """Q_H of one group, by its definition."""
    outcome, change = model.predict(inputs(state[None], np.array([group]), CENTROIDS), changes=True)
    if horizon == 1:
        return float(outcome[0, 0])
    after = np.clip(state + change[0], *bounds)  # type: ignore[index]
    best = max(value(model, after, g, horizon - 1, discount, bounds) for g in range(GROUPS))
    return float(outcome[0, 0] + discount * outcome[0, 1] * best)


@pytest.mark.parametrize("bounds", [EVERYWHERE, (np.full(WIDTH, -0.1, np.float32), np.full(WIDTH, 0.1, np.float32))])
def test_it_is_the_definition_if_the_beam_holds_all_paths(bounds: tuple[Floats, Floats]) -> None:
    model, state = Given(), (0.1 * np.random.default_rng(3).normal(size=WIDTH)).astype(np.float32)
    values, evidence = look_ahead(model, state, CENTROIDS, np.arange(GROUPS), bounds, Search(3, 0.8, GROUPS**2))
    for horizon in (1, 2, 3):
        expected = [value(model, state, group, horizon, 0.8, bounds) for group in range(GROUPS)]
        np.testing.assert_allclose(values[horizon - 1], expected, rtol=1e-5)
    assert evidence.tolist() == list(range(GROUPS))


def test_a_narrow_beam_still_values_every_group_and_never_more_than_the_definition() -> None:
    model, state = Given(), np.zeros(WIDTH, np.float32)
    wide, narrow = (
        look_ahead(model, state, CENTROIDS, np.arange(GROUPS), EVERYWHERE, Search(3, 0.8, beam))[0] for beam in (GROUPS**2, 1)
    )
    assert np.isfinite(narrow).all()
    np.testing.assert_array_equal(narrow[:2], wide[:2])
    assert (narrow[2] <= wide[2] + 1e-6).all()


def test_where_the_session_ends_there_is_no_later_reward() -> None:
    values, _ = look_ahead(
        Given(goes_on=0.0), np.zeros(WIDTH, np.float32), CENTROIDS, np.arange(GROUPS), EVERYWHERE, Search(3, 0.8, 40)
    )
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


def test_groups_without_items_are_not_shown_later() -> None:
    model, state = Given(), np.zeros(WIDTH, np.float32)
    every, few = (
        look_ahead(model, state, CENTROIDS, alive, EVERYWHERE, Search(2, 1.0, 40))[0]
        for alive in (np.arange(GROUPS), np.array([0]))
    )
    assert (few[1] <= every[1] + 1e-6).all() and (few[1] < every[1] - 1e-3).any()
