"""Diag-LinUCB: which outcomes are counted, and for which clusters. The formulas are tested in tests/memory/graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learners.base import Exclusion
from learners.contract.worlds import feedback_of, requests_of, world
from learners.features import hash_ids
from learners.retrievers.diag_linucb.contexts import Contexts, pack_contexts, unpack_contexts
from learners.retrievers.diag_linucb.retriever import DiagLinUcb
from memory.stateful import digest
from streams.batch import Batch, Feedback
from tests.learners.networks.test_towers import GROUPS, bind, catalogues, likes

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "diag_linucb.npz")
ITEMS = 12
KEYS = np.arange(1, ITEMS + 1)


def learner_of_golden(**keywords: Any) -> DiagLinUcb:
    """Return a learner with the golden centroids and graph, which starts no epoch by itself."""
    small = {"clusters": 6, "width": 5, "nearest": 3, "items": ITEMS, "sample": 6, "dim": 4, "hidden": 2, "bits": 4}
    learner = DiagLinUcb(**(small | {"epoch": 10**9, "first": 10**9, "refresh": 10**9} | keywords))
    learner.centroids.replace(GOLDEN["cent"], 0.95)
    learner.graph.insert(KEYS)
    link(learner, GOLDEN["edges1"])
    return learner


def link(learner: DiagLinUcb, pairs: np.ndarray) -> None:
    closest = np.array([learner.graph.items.find(pairs[pairs[:, 0] == cluster, 1] + 1) for cluster in range(6)])
    learner.graph.link(closest, np.zeros(closest.shape, np.float32), learner._prior)


def shown(t: slice, items: np.ndarray, reward: np.ndarray, **changed: Any) -> Feedback:
    """Build feedback on impressions that carry the golden contexts."""
    feedback = feedback_of(user=np.arange(items.size) + 100, item=KEYS[items], reward=reward)
    epoch = np.ones(items.size, np.int64)
    logged = {"epoch": epoch, "schema": 0 * epoch, "graph": epoch} | changed
    carry(feedback, Contexts(index=GOLDEN["ctx_idx"][t], weight=GOLDEN["ctx_w"][t], **logged))
    return feedback


def carry(batch: Batch, found: Contexts) -> None:
    """Let the batch carry these contexts for a learner without a name."""
    batch.carried = {"": pack_contexts(found)}


def sums(learner: DiagLinUcb) -> tuple[np.ndarray, np.ndarray]:
    mass, reward = np.zeros((6, ITEMS)), np.zeros((6, ITEMS))
    for edge in np.flatnonzero(learner.graph.slot >= 0):
        at = edge // 5, int(learner.graph.items.keys[learner.graph.slot[edge]]) - 1
        mass[at], reward[at] = learner.graph.mass[edge], learner.graph.reward[edge]
    return mass, reward


@pytest.mark.parametrize(("mode", "init"), [("prior", "prior"), ("inf", "infinite")])
def test_feedback_is_counted_with_the_context_that_the_impression_carries(mode: str, init: str) -> None:
    learner = learner_of_golden(init=init)
    for part, edges in ((slice(0, 40), "edges1"), (slice(40, 60), "edges2")):
        link(learner, GOLDEN[edges])
        choice, reward = GOLDEN[f"{mode}_choice"][part], GOLDEN[f"{mode}_reward"][part]
        learner.learn(shown(part, choice, reward))
        mask = GOLDEN[f"{mode}_mask_after"][part.stop - 1]
        for found, name in zip(sums(learner), ("d", "b"), strict=True):
            expected = GOLDEN[f"{mode}_{name}_after"][part.stop - 1] * mask
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_late_reward_does_not_count_its_impression_twice() -> None:
    part = slice(0, 3)
    items, clicks = GOLDEN["prior_choice"][part], np.array([1.0, 1.0, 0.0])
    at_once, late = learner_of_golden(), learner_of_golden()
    at_once.learn(shown(part, items, clicks))
    late.learn(shown(part, items, np.zeros(3)))
    correction = shown(part, items, clicks)
    correction.correction[:] = True
    late.learn(correction)
    for one, other in zip(sums(at_once), sums(late), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_weights_of_rows_count() -> None:
    part, items = slice(0, 3), GOLDEN["prior_choice"][:3]
    twice, weighted = learner_of_golden(), learner_of_golden()
    twice.learn(shown(part, items, np.ones(3)))
    twice.learn(shown(part, items, np.ones(3)))
    heavy = shown(part, items, np.ones(3))
    heavy.weight[:] = 2.0
    weighted.learn(heavy)
    for one, other in zip(sums(twice), sums(weighted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_invalid_contexts_are_replaced_by_current_ones() -> None:
    """Contexts are invalid with another schema, a future epoch, or a cluster number that does not exist."""
    part, items = slice(0, 3), GOLDEN["prior_choice"][:3]
    now = learner_of_golden()
    plain = shown(part, items, np.ones(3))
    plain.carried = {}
    now.learn(plain)
    three = np.ones(3, np.int64)
    for changed in ({"schema": 7 * three}, {"epoch": 2 * three}, {"epoch": 0 * three}):
        other = learner_of_golden()
        other.learn(shown(part, items, np.ones(3), **changed))
        for one, two in zip(sums(now), sums(other), strict=True):
            assert np.array_equal(one, two)
    other, unknown_cluster = learner_of_golden(), shown(part, items, np.ones(3))
    found = unpack_contexts(unknown_cluster.carried[""])
    found.index = found.index + 6
    carry(unknown_cluster, found)
    other.learn(unknown_cluster)
    assert np.array_equal(sums(now)[0], sums(other)[0])
    taken = learner_of_golden()
    taken.learn(shown(part, items, np.ones(3)))
    assert not np.array_equal(sums(now)[0], sums(taken)[0]), "the test would see a difference"


def test_feedback_is_not_counted_for_a_cluster_that_was_replaced() -> None:
    learner = learner_of_golden()
    vectors = GOLDEN["cent"].copy()
    vectors[2] = -vectors[2]
    new = learner.centroids.replace(vectors, 0.95)
    assert new.tolist() == [False, False, True, False, False, False]
    before = sums(learner)[0]
    learner.learn(shown(slice(0, 40), GOLDEN["delay10_choice"], GOLDEN["delay10_reward"]))
    moved = (sums(learner)[0] != before).any(axis=1)
    assert not moved[new].any() and moved[~new].any()


def test_unknown_items_score_0_and_new_edges_have_an_infinite_bound() -> None:
    learner = learner_of_golden(init="infinite")
    batch = shown(slice(0, 2), np.array([0, 1]), np.zeros(2))
    batch.item[1] = 999
    assert learner.score(batch).tolist() == [0, 0]
    linked = np.isin(GOLDEN["ctx_idx"][0], GOLDEN["edges1"][GOLDEN["edges1"][:, 1] == 0, 0]).any()
    assert learner.uncertainty(batch).tolist() == [np.inf if linked else 0, 0]


def test_decay_keeps_means_and_widens_bounds() -> None:
    """After one half-life, bounds are those of half as many impressions. The mass of new edges does not decay."""
    day = 86_400.0
    fading, lasting = learner_of_golden(half_life=day), learner_of_golden()
    part, items = slice(0, 40), GOLDEN["delay10_choice"]
    for learner in (fading, lasting):
        feedback = shown(part, items, GOLDEN["delay10_reward"])
        feedback.timestamp[:] = 1e9
        learner.learn(feedback)
    later = shown(slice(0, 1), np.array([0]), np.zeros(1))
    later.timestamp[:], later.item[:] = 1e9 + day, 0
    fading.learn(later)
    users = np.arange(ITEMS) + 100
    scores, widths = [], []
    for learner in (fading, lasting):
        batch = feedback_of(user=users, item=KEYS[:ITEMS], reward=np.zeros(ITEMS))
        found = Contexts(
            index=np.repeat(GOLDEN["ctx_idx"][:1], ITEMS, axis=0),
            weight=np.repeat(GOLDEN["ctx_w"][:1], ITEMS, axis=0),
            epoch=np.ones(ITEMS, np.int64),
            schema=np.zeros(ITEMS, np.int64),
            graph=np.ones(ITEMS, np.int64),
        )
        carry(batch, found)
        scores.append(learner.score(batch))
        widths.append(learner.uncertainty(batch))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)
    np.testing.assert_allclose(widths[0], widths[1] * np.sqrt(2), rtol=1e-6)
    assert fading._new_mass() / 2 == pytest.approx(1.0), "in the scale of the decayed sums"


def test_a_bound_beyond_float32_is_infinite() -> None:
    """After 400 half-lives a bonus is 2 ** 200 times larger: a number in float64, not in float32."""
    learner = learner_of_golden(half_life=1.0)
    feedback = shown(slice(0, 40), GOLDEN["delay10_choice"], GOLDEN["delay10_reward"])
    feedback.timestamp[:] = 1e9
    learner.learn(feedback)
    later = shown(slice(0, 1), np.array([0]), np.zeros(1))
    later.timestamp[:] = 1e9 + 400
    learner.learn(later)
    batch = feedback_of(user=[100, 100], item=[KEYS[5], 99_999], reward=[0, 0])
    assert learner.uncertainty(batch).tolist() == [np.inf, 0]
    found = learner.retrieve(requests_of([100]), ITEMS, Exclusion.none(1))
    assert found.item.size and np.isfinite(found.score).all()
    assert found.uncertainty is not None and np.isinf(found.uncertainty[found.item == KEYS[5]]).all()


def test_the_unbiased_variant_predicts_a_constant_reward_as_it_is() -> None:
    part, items = slice(0, 60), np.zeros(60, np.int64)
    means = {}
    for unbiased in (False, True):
        learner = learner_of_golden(unbiased=unbiased, prior=1e-6)
        link(learner, np.array([(cluster, item) for cluster in range(6) for item in range(5)]))
        for _ in range(20):
            learner.learn(shown(part, items, np.full(60, 0.5)))
        batch = shown(part, items, np.zeros(60))
        means[unbiased] = learner.score(batch)
    np.testing.assert_allclose(means[True], 0.5, rtol=1e-4)
    assert means[False].mean() > 0.6


def epochs(**keywords: Any) -> tuple[DiagLinUcb, np.ndarray, np.ndarray]:
    """Return a learner that has clustered users of four groups and linked their items."""
    known, users, items = catalogues(20, 24)
    small = {"clusters": GROUPS, "width": 6, "items": 30, "first": 256, "epoch": 1024, "refresh": 320, "sample": 64, "dim": 8}
    learner = DiagLinUcb(**(small | {"bits": 12, "hidden": 8, "nearest": 2} | keywords))
    bind(learner, known)
    learner.add(items[:12])
    rng = np.random.default_rng(0)
    for _ in range(60):
        learner.learn(likes(rng, users, items[:12]))
    return learner, users, items


def test_users_of_a_group_get_its_items() -> None:
    learner, users, items = epochs()
    assert learner.centroids.epoch >= 3
    group = {int(item): n % GROUPS for n, item in enumerate(items)}
    found = learner.retrieve(requests_of(users), 3, Exclusion.none(users.size))
    right = np.array([group[int(item)] for item in found.item]) == found.request % GROUPS
    assert right.mean() > 0.95
    names = learner.contexts(requests_of(users))
    assert names is not None
    np.testing.assert_allclose(names.weight.sum(axis=1), 1)
    assert len({tuple(names.index[n::GROUPS, 0]) for n in range(GROUPS)}) == GROUPS


def test_a_fresh_item_is_found_at_once_where_it_belongs() -> None:
    learner, users, items = epochs(width=30, init="infinite")
    version = learner.graph.version
    assert not np.isin(learner.retrieve(requests_of(users), 30, Exclusion.none(users.size)).item, items[12:]).any()
    learner.add(items[12:13])
    found = learner.retrieve(requests_of(users[:1]), 1, Exclusion.none(1))
    assert found.item.tolist() == items[12:13].tolist(), "an infinite bound is above all others"
    assert found.uncertainty is not None and np.isinf(found.uncertainty).all()
    assert learner.graph.version > version
    narrow, users, items = epochs(width=3)
    narrow.add(items[12:])
    linked = narrow.graph.items.keys[narrow.graph.slot[narrow.graph.slot >= 0]]
    group = {int(item): n % GROUPS for n, item in enumerate(items)}
    of_cluster = [{group[int(item)] for item in row} for row in linked.reshape(GROUPS, 3)]
    assert sorted(of_cluster, key=min) == [{n} for n in range(GROUPS)], "each cluster keeps its nearest items, new or not"


def test_a_deleted_item_is_not_linked_again_at_the_next_refresh() -> None:
    learner, users, items = epochs(width=12)
    known = learner._columns.catalogues
    assert known is not None
    known.items.delete(int(items[0]))
    learner.remove(items[:1])
    rng = np.random.default_rng(5)
    for _ in range(8):
        learner.learn(likes(rng, users, items[:12]))
    assert not np.isin(learner.retrieve(requests_of(users), 12, Exclusion.none(users.size)).item, items[0]).any()


def test_a_large_graph_is_rebuilt_over_several_calls_and_ends_with_the_nearest_items() -> None:
    clusters, items, width = 512, 5000, 4
    keywords = {"clusters": clusters, "items": items, "width": width, "sample": clusters, "first": 600, "dim": 8, "bits": 10}
    learner, copy = (DiagLinUcb(**keywords, refresh=600, epoch=10**6) for _ in range(2))
    keys, users = np.arange(1, items + 1), np.arange(600)
    learner.add(keys)
    many = feedback_of(user=users + 10**6, item=keys[users % 100], reward=users % 2)
    one = feedback_of(user=users[:1] + 10**6, item=keys[:1], reward=[1.0])
    learner.learn(many)
    assert learner.centroids.epoch == 1
    assert 0 < learner.graph.slot.max() < items * 3 // 4, "one call does not link the whole corpus"
    copy.load_state_dict(learner.state_dict())
    for _ in range(3):
        learner.learn(one)
        copy.learn(one)
    assert digest(copy.state_dict()) == digest(learner.state_dict()), "a copy continues the rebuild"
    similarity = learner._vectors(np.arange(items)) @ learner.centroids.vectors.T
    held = np.take_along_axis(similarity, learner.graph.slot.reshape(clusters, width).T.astype(np.int64), axis=0)
    assert (held > np.sort(similarity, axis=0)[-width] - 1e-6).all()
    learner.remove(learner.graph.items.keys[learner.graph.slot[:1]])
    assert learner.graph.slot[0] == -1
    for rows in (many, one, one, one):
        learner.learn(rows)
    assert (learner.graph.slot >= 0).all(), "rebuilt after `refresh` rows"


def test_nothing_is_retrieved_before_there_are_clusters() -> None:
    learner = DiagLinUcb(first=1000)
    learner.learn(world(1))
    assert learner.contexts(requests_of([1])) is None
    assert learner.retrieve(requests_of([1]), 5, Exclusion.none(1)).item.size == 0


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match=r"w_min: 0.3 could drop all 5 clusters .* at most 0.2"):
        DiagLinUcb(w_min=0.3)
    with pytest.raises(ValueError, match=r"sample: 10 users are too few for 32 clusters"):
        DiagLinUcb(sample=10)


def test_unknown_users_have_a_context() -> None:
    learner, _, _ = epochs()
    unknown = learner.contexts(requests_of(hash_ids(["nobody"])))
    assert unknown is not None and unknown.weight.sum() == pytest.approx(1)
