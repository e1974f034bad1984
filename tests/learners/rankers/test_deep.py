"""The deep ranker begins as a factorization machine, follows turns of all tastes, and applies changes of its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from learners.base import LowRank
from learners.contract.learning import log_loss
from learners.networks.ranker import NetworkRanker
from learners.rankers.deep import Deep
from memory.stateful import digest
from tests.learners.networks.clicks import COLUMNS, Turning, bound, random_rows

SMALL: dict[str, Any] = {"bits": 10, "factors": 4, "hidden": 8}


def deep(**keywords: Any) -> NetworkRanker:
    return bound(Deep(**SMALL | keywords))


def trained(**keywords: Any) -> NetworkRanker:
    ranker = deep(network_learning_rate=0.01, **keywords)
    for seed in range(20):
        ranker.learn(random_rows(seed))
    return ranker


def scores(ranker: NetworkRanker, delta: Any = None) -> np.ndarray:
    batch = random_rows(50)
    ranker.score(batch, delta)
    return batch.score.copy()


def test_it_begins_as_the_machine() -> None:
    ranker, batch = deep(init=0.5), random_rows(0)
    ranker.score(batch)
    odds = ranker.embedding.read(batch, ranker.fields).odds
    np.testing.assert_allclose(batch.score, 1 / (1 + np.exp(-odds)), rtol=1e-5)


@pytest.mark.parametrize("off", [{"depth": 0}, {"crosses": 0}, {"depth": 0, "crosses": 0}, {"user_item_map": False}])
def test_parts_can_be_left_out(off: dict[str, Any]) -> None:
    ranker, batch = trained(**off), random_rows(0)
    ranker.score(batch)
    assert (batch.hidden is None) == (off.get("depth") == 0)
    assert ranker.network.nbytes < trained().network.nbytes
    assert np.ptp(batch.score) > 0.1


def test_it_follows_a_turn_of_all_tastes_faster_with_its_map() -> None:
    """The turn is one rotation, so a map of few numbers can learn it from all users at once."""
    losses = {}
    for user_item_map in (True, False):
        lost = []
        for seed in range(3):
            world, ranker = Turning(seed), None
            ranker = bound(Deep(bits=10, factors=8, init=0.1, depth=0, crosses=0, user_item_map=user_item_map), COLUMNS[:2])
            for batch in range(300):
                if batch == 250:
                    world.turn()
                part = world.rows(64)
                ranker.score(part)
                if batch > 255:
                    lost.append(log_loss(part.reward.astype(np.float64), part.score))
                ranker.learn(part)
        losses[user_item_map] = np.mean(lost)
    assert losses[True] < 0.95 * losses[False], losses


def test_a_large_batch_is_learned_in_pieces() -> None:
    batch, whole, cut = random_rows(0), deep(piece=20), deep(piece=20)
    whole.learn(batch)
    for start in range(0, 100, 20):
        part = random_rows(0)
        rows = slice(start, start + 20)
        part.features, part.values = part.features[rows], part.values[rows]
        part.reward, part.weight, part.item = part.reward[rows], part.weight[rows], part.item[rows]
        cut.learn(part)
    np.testing.assert_array_equal(scores(whole), scores(cut))


def test_changes_are_added_to_the_parameters() -> None:
    """For each adaptable parameter: adding a change for a request scores as if the parameter had been changed."""
    ranker, rng = trained(), np.random.default_rng(7)
    parameters = dict(ranker.network.module.named_parameters())
    before = scores(ranker)
    assert set(ranker.adaptable()) == {*ranker.norms(), *ranker.targets()}
    assert ranker.norms() == ["input_norm.weight", "input_norm.bias", "norms.0.weight", "norms.0.bias"]
    assert ranker.targets() == ["layers.0.weight", "layers.1.weight"]
    for name, shape in ranker.adaptable().items():
        change = rng.normal(0, 0.3, shape).astype(np.float32)
        adapted = scores(ranker, {name: change})
        assert not np.array_equal(adapted, before), name
        with torch.no_grad():
            parameters[name] += torch.from_numpy(change)
            np.testing.assert_allclose(adapted, scores(ranker), rtol=1e-4)
            parameters[name] -= torch.from_numpy(change)


def test_a_low_rank_change_is_each_request_s_own() -> None:
    ranker, rng, name = trained(), np.random.default_rng(8), "layers.1.weight"
    u, v = (rng.normal(size=(100, 8, 2)).astype(np.float32) for _ in range(2))
    u[::2] = 0
    adapted, before = scores(ranker, {name: LowRank(u, v)}), scores(ranker)
    np.testing.assert_array_equal(adapted[::2], before[::2])
    for n in (1, 3, 51):
        alone = scores(ranker, {name: u[n] @ v[n].T})
        np.testing.assert_allclose(adapted[n], alone[n], rtol=1e-4)
        assert abs(adapted[n] - before[n]) > 1e-4


def test_gradients_by_changes_are_those_of_the_log_odds() -> None:
    ranker, batch, name = trained(), random_rows(50), "norms.0.weight"
    change = torch.zeros(8, requires_grad=True)
    ranker.forward(batch, {name: change}).sum().backward()
    assert change.grad is not None
    step = np.zeros(8, np.float32)
    step[3] = 1e-2
    with torch.no_grad():
        up, down = (ranker.forward(batch, {name: torch.from_numpy(sign * step)}).sum().item() for sign in (1, -1))
    np.testing.assert_allclose(change.grad[3].item(), (up - down) / 2e-2, rtol=2e-2)


def test_a_published_version_answers_until_the_next_one() -> None:
    """What learns is ahead of it, equal to a network without versions, and survives a restart."""
    fresh, rare, other = deep(), deep(publish_every=250), deep(publish_every=250)
    first = scores(rare)
    for seed in range(4):
        for ranker in (fresh, rare):
            ranker.learn(random_rows(seed))
        due = seed == 2  # of 100 rows each
        assert np.array_equal(scores(rare), scores(fresh)) == due
        assert rare.version == (seed >= 2)
        if seed < 2:
            np.testing.assert_array_equal(scores(rare), first)
        if seed == 1:
            other.load_state_dict(rare.state_dict())
    for seed in (2, 3):
        other.learn(random_rows(seed))
    assert digest(other.state_dict()) == digest(rare.state_dict())


def test_replicas_get_what_was_published_and_nothing_else() -> None:
    leader, follower = deep(publish_every=250), deep(publish_every=250)
    sent = []
    for seed in range(5):
        leader.learn(random_rows(seed))
        changes = leader.take_changes()
        sent.append(sum(array.nbytes for array in changes.values()))
        follower.apply_changes(changes)
        np.testing.assert_array_equal(scores(leader), scores(follower))
        assert leader.version == follower.version
    assert max(sent[:2] + sent[3:]) < 50 < sent[2]


@pytest.mark.parametrize(("position", "same"), [(0, True), (-1, False)])
def test_the_network_does_not_change_the_user_of_a_shown_row(position: int, same: bool) -> None:
    """The user of a shown row moves as if the network had no gradient. The item always has the network's part."""
    ranker, machine = trained(), trained()
    part = random_rows(60, 1)
    part.position[:] = position
    user, item = part.features[0, :2]
    learn = machine.embedding.learn

    def learn_without(*known: Any) -> None:
        learn(*known[:-1], np.zeros_like(known[-1]))

    machine.embedding.learn = learn_without  # type: ignore[method-assign]
    ranker.learn(part)
    machine.learn(part)
    one, other = ranker.embedding.rows["weights"], machine.embedding.rows["weights"]
    assert np.array_equal(one[user], other[user]) == same
    assert not np.array_equal(one[item], other[item])
