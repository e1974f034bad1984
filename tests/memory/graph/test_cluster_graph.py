"""The sums on the edges equal those of an independent implementation of the paper's formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.retrievers.diag_linucb.contexts import contexts
from memory.graph.cluster_graph import ClusterGraph

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "diag_linucb.npz")
T, CLUSTERS, ITEMS, WIDTH, ALPHA = 60, 6, 12, 5, 0.7
REFRESH = int(GOLDEN["refresh_before_event"])


def graph_of(width: int = WIDTH) -> ClusterGraph:
    graph = ClusterGraph(CLUSTERS, width, ITEMS)
    slots, _ = graph.insert(np.arange(1, ITEMS + 1))
    assert sorted(slots) == list(range(ITEMS))
    return graph


def slots_of(graph: ClusterGraph, items: Any) -> np.ndarray:
    return graph.items.find(np.asarray(items) + 1)


def link(graph: ClusterGraph, pairs: np.ndarray, prior: float = 1.0) -> None:
    closest = np.full((CLUSTERS, graph.width), -1)
    for cluster in range(CLUSTERS):
        items = slots_of(graph, pairs[pairs[:, 0] == cluster, 1])
        closest[cluster, : items.size] = items
    graph.link(closest, np.zeros(closest.shape, np.float32), prior)


def table(graph: ClusterGraph, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of the edges as (clusters, items), and where there is an edge."""
    full, mask = np.zeros((CLUSTERS, ITEMS)), np.zeros((CLUSTERS, ITEMS), np.bool_)
    item_of = {int(slot): item for item, slot in enumerate(slots_of(graph, np.arange(ITEMS)))}
    for position in np.flatnonzero(graph.slot >= 0):
        at = position // graph.width, item_of[int(graph.slot[position])]
        full[at], mask[at] = values[position], True
    return full, mask


def golden_contexts() -> tuple[np.ndarray, np.ndarray]:
    return contexts(GOLDEN["U"] @ GOLDEN["cent"].T, 3, 0.25, 0.0)


def update(graph: ClusterGraph, index: np.ndarray, weight: np.ndarray, items: Any, reward: Any) -> None:
    rewards = np.asarray(reward, np.float64)
    graph.update(index, weight, slots_of(graph, items), np.ones(rewards.size), rewards)


def test_contexts() -> None:
    index, weight = golden_contexts()
    np.testing.assert_array_equal(index, GOLDEN["ctx_idx"])
    np.testing.assert_allclose(weight, GOLDEN["ctx_w"], rtol=1e-12)


@pytest.mark.parametrize(("mode", "prior"), [("prior", 1.0), ("inf", 0.0)])
def test_every_event(mode: str, prior: float) -> None:
    """Check bounds before each event, the choice, and the sums after it. The graph changes at event 40."""
    graph = linked(prior)
    index, weight = golden_contexts()
    everything = slots_of(graph, np.arange(ITEMS))
    for t in range(T):
        if t == REFRESH:
            link(graph, GOLDEN["edges2"], prior)
        now = index[t : t + 1], weight[t : t + 1]
        mean, bonus = graph.bounds(*now, everything, np.zeros(ITEMS, np.int64))
        for name, values in (("mean", mean), ("bonus", bonus), ("ucb", mean + ALPHA * bonus)):
            np.testing.assert_allclose(values, GOLDEN[f"{mode}_{name}"][t], rtol=1e-12, atol=1e-12, err_msg=name)
        choice = int(np.nanargmax(mean + ALPHA * bonus))
        assert choice == GOLDEN[f"{mode}_choice"][t]
        reward = GOLDEN["reward_table"][t, choice]
        assert reward == GOLDEN[f"{mode}_reward"][t]
        update(graph, *now, [choice], [reward])
        mass, mask = table(graph, graph.mass)
        np.testing.assert_array_equal(mask, GOLDEN[f"{mode}_mask_after"][t])
        np.testing.assert_allclose(mass, GOLDEN[f"{mode}_d_after"][t] * mask, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(table(graph, graph.reward)[0], GOLDEN[f"{mode}_b_after"][t] * mask, rtol=1e-12, atol=1e-12)


def test_updates_with_a_delay_of_ten_events() -> None:
    graph = linked(0.0)
    index, weight = golden_contexts()
    everything, choices = slots_of(graph, np.arange(ITEMS)), []
    for t in range(40):
        mean, bonus = graph.bounds(index[t : t + 1], weight[t : t + 1], everything, np.zeros(ITEMS, np.int64))
        choices.append(int(np.nanargmax(mean + ALPHA * bonus)))
        assert choices[t] == GOLDEN["delay10_choice"][t]
        if t % 10 == 9:
            block = slice(t - 9, t + 1)
            update(graph, index[block], weight[block], choices[block], GOLDEN["delay10_reward"][block])
    np.testing.assert_allclose(table(graph, graph.mass)[0], GOLDEN["delay10_d"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(table(graph, graph.reward)[0], GOLDEN["delay10_b"], rtol=1e-12, atol=1e-12)


def logged() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A fixed log of contexts, choices and rewards over the first graph."""
    index, weight = golden_contexts()
    return index, weight, GOLDEN["delay10_choice"], GOLDEN["delay10_reward"].astype(np.float64)


def sums_of(graph: ClusterGraph, rows: np.ndarray, cuts: int = 1) -> np.ndarray:
    index, weight, choices, rewards = logged()
    for part in np.array_split(rows, cuts):
        update(graph, index[part], weight[part], choices[part], rewards[part])
    return np.stack([table(graph, graph.mass)[0], table(graph, graph.reward)[0]])


def linked(prior: float = 1.0) -> ClusterGraph:
    graph = graph_of()
    link(graph, GOLDEN["edges1"], prior)
    return graph


def test_order_batches_and_shards_do_not_matter() -> None:
    rng, rows = np.random.default_rng(0), np.arange(40)
    before = sums_of(linked(), rows[:0])
    whole = sums_of(linked(), rows)
    assert np.array_equal(whole, sums_of(linked(), rows, 7)), "the batches make no difference, bit for bit"
    for _ in range(5):
        np.testing.assert_allclose(sums_of(linked(), rng.permutation(rows)), whole, rtol=1e-12, atol=1e-12)
    parts = [sums_of(linked(), rows[shard::3]) - before for shard in range(3)]
    np.testing.assert_allclose(before + sum(parts), whole, rtol=1e-12, atol=1e-12)


def test_one_cluster_per_context_equals_linucb() -> None:
    """With one-hot contexts the matrix is diagonal."""
    rng = np.random.default_rng(1)
    graph = graph_of(width=ITEMS)
    link(graph, np.array([(c, i) for c in range(CLUSTERS) for i in range(ITEMS)]))
    a, b = np.tile(np.eye(CLUSTERS), (ITEMS, 1, 1)), np.zeros((ITEMS, CLUSTERS))
    everything = slots_of(graph, np.arange(ITEMS))
    for _ in range(200):
        index, weight = contexts(rng.normal(size=(1, CLUSTERS)), 1, 0.1, 0.0)
        mean, bonus = graph.bounds(index, weight, everything, np.zeros(ITEMS, np.int64))
        x = np.eye(CLUSTERS)[index[0, 0]]
        np.testing.assert_allclose(mean, np.linalg.solve(a, b[..., None])[..., 0] @ x, atol=1e-12)
        np.testing.assert_allclose(
            bonus, np.sqrt(np.linalg.solve(a, np.tile(x, (ITEMS, 1))[..., None])[..., 0] @ x), atol=1e-12
        )
        choice, reward = int(np.argmax(mean + bonus)), float(rng.random() < 0.4)
        update(graph, index, weight, [choice], [reward])
        a[choice] += np.outer(x, x)
        b[choice] += reward * x


def test_a_constant_reward_is_predicted_too_high_by_the_effective_number_of_clusters() -> None:
    """The diagonal leaves out the cross terms; see docs/learners/diag_linucb.md."""
    rng = np.random.default_rng(2)
    similarity = rng.normal(size=(20_000, CLUSTERS)) / 5
    index, weight = contexts(similarity, 3, 0.25, 0.0)
    graph = linked()
    link(graph, np.array([(c, 0) for c in range(CLUSTERS)]))
    update(graph, index, weight, np.zeros(len(index), np.int64), np.full(len(index), 0.5))
    mean, _ = graph.bounds(index, weight, np.repeat(slots_of(graph, [0]), len(index)), np.arange(len(index)))
    effective = 1 / np.square(weight).sum(axis=1)
    assert effective.mean() > 1.5
    assert mean.mean() / 0.5 == pytest.approx(effective.mean(), rel=0.05)


def test_sums_only_grow_and_bonuses_only_shrink() -> None:
    graph = linked()
    index, weight, choices, rewards = logged()
    everything = slots_of(graph, np.arange(ITEMS))
    max_change, mass, bonus = np.zeros(graph.reward.size), graph.mass.copy(), np.full(ITEMS, np.inf)
    for t in range(40):
        now = index[t : t + 1], weight[t : t + 1]
        before = graph.reward.copy()
        update(graph, *now, choices[t : t + 1], -rewards[t : t + 1])
        max_change += np.abs(graph.reward - before)
        assert (graph.mass >= mass).all() and (np.abs(graph.reward) <= max_change + 1e-15).all()
        mass = graph.mass.copy()
        narrowed = graph.bounds(index[:1], weight[:1], everything, np.zeros(ITEMS, np.int64))[1]
        known = ~np.isnan(narrowed)
        assert (narrowed[known] <= bonus[known]).all()
        bonus = narrowed


def test_a_missing_edge_is_not_created() -> None:
    graph = linked()
    graph.take_changes()
    outside = [item for item in range(ITEMS) if not (GOLDEN["edges1"] == (0, item)).all(axis=1).any()]
    index, weight = np.array([[0, -1]]), np.array([[1.0, 0.0]])
    update(graph, index, weight, outside[:1], [1.0])
    graph.update(index, weight, np.array([-1]), np.ones(1), np.ones(1))
    assert not graph.take_changes()


def test_a_new_item_replaces_the_least_similar_one() -> None:
    graph = ClusterGraph(2, 2, 4)
    slots, _ = graph.insert(np.array([7, 8, 9]))
    graph.link(np.array([slots[:2], [slots[0], -1]]), np.array([[0.9, 0.2], [0.5, 0.0]], np.float32), 1.0)
    graph.update(np.array([[0, 1]]), np.array([[0.5, 0.5]]), slots[:1], np.ones(1), np.ones(1))
    known, version = table_of(graph), graph.version
    graph.admit(slots[2:], np.array([[0.1, 0.1]], np.float32), 1.0)
    assert table_of(graph) == known | {(1, 9): (1.0, 0.0)}, (
        "not similar enough for the full cluster, but the other has a free position"
    )
    assert graph.version == version + 1
    graph.admit(slots[2:], np.array([[0.3, 0.1]], np.float32), 1.0)
    assert table_of(graph) == {(0, 7): (1.25, 0.5), (0, 9): (1.0, 0.0), (1, 7): (1.25, 0.5), (1, 9): (1.0, 0.0)}
    version = graph.version
    graph.admit(slots[2:], np.array([[0.4, 0.1]], np.float32), 1.0)
    assert graph.version == version, "its edge already existed"
    graph.remove(np.array([7]))
    assert table_of(graph) == {(0, 9): (1.0, 0.0), (1, 9): (1.0, 0.0)}
    graph.reset(np.array([True, False]), 1.0)
    graph.insert(np.array([1, 2, 3, 4]))
    assert table_of(graph) == {}, "evicted items have no edges"


def test_an_item_that_is_admitted_twice_at_once_has_one_edge() -> None:
    graph = ClusterGraph(1, 2, 4)
    slots, _ = graph.insert(np.array([7, 8, 9, 7]))
    graph.admit(slots, np.array([[0.5], [0.4], [0.6], [0.5]], np.float32), 1.0)
    assert table_of(graph) == {(0, 7): (1.0, 0.0), (0, 9): (1.0, 0.0)}
    graph.measure(np.flatnonzero(graph.slot == slots[2]), np.array([0.3], np.float32))
    graph.admit(slots[1:2], np.array([[0.4]], np.float32), 1.0)
    assert table_of(graph) == {(0, 7): (1.0, 0.0), (0, 8): (1.0, 0.0)}, (
        "the item with the updated similarity was the least similar"
    )


def table_of(graph: ClusterGraph) -> dict[tuple[int, int], tuple[float, float]]:
    return {
        (int(position) // graph.width, int(graph.items.keys[graph.slot[position]])): (
            graph.mass[position],
            graph.reward[position],
        )
        for position in np.flatnonzero(graph.slot >= 0)
    }


def test_retrieval_is_best_first_and_breaks_ties_randomly() -> None:
    graph = linked(0.0)
    index, weight, choices, rewards = logged()
    update(graph, index[:40], weight[:40], choices, rewards)
    everything, tie_seeds = slots_of(graph, np.arange(ITEMS)), np.arange(400)
    firsts: set[int] = set()
    link(graph, GOLDEN["edges2"], 0.0)
    mean, bonus = graph.bounds(index[:1], weight[:1], everything, np.zeros(ITEMS, np.int64))
    best = set(everything[mean + ALPHA * bonus == np.nanmax(mean + ALPHA * bonus)].tolist())
    for tie_seed in tie_seeds:
        nothing = np.empty(0, np.int64), np.zeros(2, np.int64)
        slots, _, means, bonuses = graph.retrieve(index[:1], weight[:1], 100, ALPHA, *nothing, np.array([tie_seed]))
        np.testing.assert_array_equal(np.sort(slots), np.sort(everything[~np.isnan(mean)]))
        bound = means + ALPHA * bonuses
        assert (bound[1:] <= bound[:-1]).all()
        firsts.add(int(slots[0]))
    assert firsts == best and len(best) > 1
    slots, *_ = graph.retrieve(index[:1], weight[:1], 2, 0.0, everything[:3], np.array([0, 3]), np.zeros(1, np.int64))
    assert slots.size == 2 and not np.isin(slots, everything[:3]).any()
