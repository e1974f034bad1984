"""A simulated bandit problem with clusters of users. Click probabilities are known, and the graph ignores item quality."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from learners.retrievers.diag_linucb.contexts import contexts
from memory.graph.cluster_graph import ClusterGraph

CLUSTERS, ITEMS, DIM, WIDTH, NEAREST = 32, 400, 16, 30, 5


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def around(rng: np.random.Generator, points: np.ndarray, noise: float) -> np.ndarray:
    return unit(points + noise * rng.normal(size=points.shape) / np.sqrt(DIM))


class ClusterWorld:
    """Users arrive one by one, and the player learns each click. Regret is measured against the best item of the graph.

    Items from number `fresh` on are added to the graph later; see `play`.
    """

    def __init__(self, seed: int, rounds: int, *, temperature: float = 0.1, fresh: int = ITEMS, w_min: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.centroids = unit(rng.normal(size=(CLUSTERS, DIM)))
        true = around(rng, self.centroids[rng.integers(0, CLUSTERS, ITEMS)], 0.7)
        quality = 0.8 * rng.normal(size=ITEMS)
        self.known = around(rng, true, 0.5)
        share = np.arange(1, CLUSTERS + 1) ** -0.7
        users = around(rng, self.centroids[rng.choice(CLUSTERS, rounds, p=share / share.sum())], 0.6)
        self.users = users
        self.probability = 1 / (1 + np.exp(3 - 4 * users @ true.T - quality))
        self.coin = rng.random(rounds)
        self.fresh = fresh
        self.index, self.weight = contexts(users @ self.centroids.T, NEAREST, temperature, w_min)
        self.chance = np.random.default_rng(seed + 1000)

    def graph(self, prior: float) -> ClusterGraph:
        """Build the graph of the items that are not fresh. `slots` has the slot of each item."""
        graph = ClusterGraph(CLUSTERS, WIDTH, ITEMS)
        graph.insert(np.arange(1, ITEMS + 1))
        self.slots = graph.items.find(np.arange(1, ITEMS + 1))
        self.item = np.empty(ITEMS, np.int64)
        self.item[self.slots] = np.arange(ITEMS)
        self.link(graph, self.fresh, prior)
        return graph

    def link(self, graph: ClusterGraph, items: int, prior: float) -> None:
        similarity = self.centroids @ self.known[:items].T
        closest = np.argsort(-similarity, axis=1, kind="stable")[:, :WIDTH]
        graph.link(self.slots[closest], np.take_along_axis(similarity, closest, axis=1).astype(np.float32), prior)

    def play(
        self,
        prior: float,
        choose: Callable[[int, np.ndarray, np.ndarray, np.ndarray], int],
        learned: Callable[[int, float], None] = lambda item, reward: None,
        admit_at: int = -1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the regret of each round and the items chosen.

        `choose` receives the round, the candidates and their mean and bonus, and returns the index of one. Fresh items are
        added to the graph in round `admit_at`.
        """
        graph = self.graph(prior)
        rounds = len(self.users)
        regret, chosen = np.empty(rounds), np.empty(rounds, np.int64)
        nothing, start, one = np.empty(0, np.int64), np.zeros(2, np.int64), np.ones(1)
        for t in range(rounds):
            if t == admit_at:
                self.link(graph, ITEMS, prior)
            index, weight = self.index[t : t + 1], self.weight[t : t + 1]
            slots, _, mean, bonus = graph.retrieve(index, weight, ITEMS, 0.0, nothing, start, np.array([t]))
            items = self.item[slots]
            chosen[t] = items[choose(t, items, mean, bonus)]
            probability = self.probability[t]
            regret[t] = probability[items].max() - probability[chosen[t]]
            reward = float(self.coin[t] < probability[chosen[t]])
            graph.update(index, weight, self.slots[chosen[t : t + 1]], one, np.array([reward]))
            learned(int(chosen[t]), reward)
        return regret, chosen

    def best(self, values: np.ndarray) -> int:
        """Return the index of the highest value. Ties are broken at random."""
        return int(self.chance.choice(np.flatnonzero(values == values.max())))
