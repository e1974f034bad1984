"""Regret of Diag-LinUCB in a simulated world, compared with other methods."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.learners.retrievers.cluster_world import ITEMS, ClusterWorld

Play = Callable[[ClusterWorld], np.ndarray]


def bandit(prior: float, alpha: float) -> Play:
    return lambda world: world.play(prior, lambda t, items, mean, bonus: world.best(mean + alpha * bonus))[0]


def static(world: ClusterWorld) -> np.ndarray:
    """Rank by the vectors that the graph was built from, without learning."""
    return world.play(1.0, lambda t, items, mean, bonus: world.best(world.known[items] @ world.users[t]))[0]


def epsilon_greedy(world: ClusterWorld) -> np.ndarray:
    def choose(t: int, items: np.ndarray, mean: np.ndarray, bonus: np.ndarray) -> int:
        return int(world.chance.integers(items.size)) if world.chance.random() < 0.1 else world.best(mean)

    return world.play(1.0, choose)[0]


def ucb1(world: ClusterWorld) -> np.ndarray:
    """Use a mean and a count per item, without context. The bound's factor is the best of seven for this world."""
    count, clicks = np.zeros(ITEMS), np.zeros(ITEMS)

    def choose(t: int, items: np.ndarray, mean: np.ndarray, bonus: np.ndarray) -> int:
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = clicks[items] / count[items] + np.sqrt(FACTOR * np.log(t + 1) / count[items])
        return world.best(np.where(count[items] == 0, np.inf, bound))

    def learned(item: int, reward: float) -> None:
        count[item] += 1
        clicks[item] += reward

    return world.play(1.0, choose, learned)[0]


FACTOR = 0.003


def regret(play: Play, rounds: int, seeds: int) -> float:
    return float(np.mean([play(ClusterWorld(seed, rounds)).sum() for seed in range(seeds)]))


@pytest.mark.parametrize(
    ("other", "rounds", "seeds"),
    [(epsilon_greedy, 5000, 3), (ucb1, 5000, 3), (static, 20_000, 1)],
    ids=["epsilon-greedy", "ucb1", "static"],
)
def test_less_regret_than_without_bounds_or_clusters_or_learning(other: Play, rounds: int, seeds: int) -> None:
    """Contexts have about one cluster. The static ranking starts well, so it needs more rounds to fall behind."""
    assert regret(bandit(1.0, 0.8), rounds, seeds) < 0.6 * regret(other, rounds, seeds)


def test_regret_is_that_of_the_specification() -> None:
    """Another implementation measured 852 +- 97 and 1317, in a world from the same distribution."""
    assert regret(bandit(1.0, 0.8), 5000, 3) == pytest.approx(852, abs=2 * 97)
    assert regret(bandit(0.0, 0.2), 5000, 3) == pytest.approx(1317, rel=0.15)


def test_infinite_bounds_show_every_fresh_item_soon() -> None:
    """60 of 400 items are added to the graph after half of the rounds."""
    world = ClusterWorld(0, 12_000, fresh=340)
    _, chosen = world.play(0.0, lambda t, items, mean, bonus: world.best(mean + 0.2 * bonus), admit_at=6000)
    graph = world.graph(0.0)
    world.link(graph, ITEMS, 0.0)
    in_graph = np.unique(world.item[graph.slot])
    fresh = in_graph[in_graph >= 340]
    assert fresh.size > 50
    assert np.isin(fresh, chosen[6000:7000]).all()
    assert not (chosen[:6000] >= 340).any()


def test_a_prior_leaves_fresh_items_to_chance() -> None:
    """With a prior and a small alpha, most fresh items are never tried. Infinite bounds avoid this."""
    world = ClusterWorld(0, 8_000, fresh=340)
    _, chosen = world.play(1.0, lambda t, items, mean, bonus: world.best(mean + 0.4 * bonus), admit_at=6000)
    assert np.unique(chosen[chosen >= 340]).size < 10
