"""States of segments of users, for those who have none of their own."""

from __future__ import annotations

import numpy as np
import pytest

from learners.adapters.stream_adapter import StreamAdapter
from learners.contract.worlds import batch_of, feedback_of
from learners.lookups import Catalogues, UserHistory
from learners.networks.sequence.absorbing import ContextStates
from learners.networks.sequence.segments import Segments
from learners.networks.sequence.windows import Windows
from learners.rankers.sequential import Sequential
from learners.retrievers.next_item import NextItem
from learners.schema import FeatureColumn, Schema
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.stateful import digest

ITEMS, FAVOURITES, SEGMENTS = 24, 4, 4
COLUMNS = tuple(FeatureColumn(f"user.{name}", "user", kind) for name, kind in (("age", "number"), ("region", "category")))
SCHEMA = Schema(features=(), users=COLUMNS, items=(), context=(), history=5)


def known(users):
    """Catalogues in which user n is of region n % SEGMENTS."""
    catalogue = Catalog(256, 2, [0])
    for user in users:
        catalogue.put(user, str(user), {}, np.array([5, 100 + user % SEGMENTS]), np.ones(2, np.float32))
    return Catalogues(catalogue, Catalog(1, 0)), UserHistory(History(1, 1))


def likes(users, events, seed):
    """Users in turn like what all of their region like, or anything, half of the time each."""
    rng = np.random.default_rng(seed)
    user = np.tile(np.array(users), events)
    favourite = user % SEGMENTS * FAVOURITES + rng.integers(0, FAVOURITES, user.size)
    item = np.where(rng.random(user.size) < 0.6, favourite, rng.integers(0, ITEMS, user.size))
    feedback = feedback_of(user=user, item=item + 1001, reward=np.ones(user.size), timestamp=1e9 + np.arange(user.size))
    for n in range(user.size):
        mine = np.flatnonzero(user[:n] == user[n])[::-1][:5]
        feedback.history[n, : mine.size], feedback.history_time[n, : mine.size] = item[mine] + 1001, feedback.timestamp[mine]
    return feedback


def made(segment, users, **keywords):
    size = {"items": 32, "users": 256, "length": 40, "width": 16, "chunk": 2, "chunks": 4, "every": 8, "dropout": 0.0}
    retriever = NextItem(**size, learning_rate=0.01, warm_up=10)
    adapter = StreamAdapter(
        Sequential(retriever), **{"users": 256, "rank": 4, "segment": segment, "learning_rate": 0.01} | keywords
    )
    adapter.bind(SCHEMA, *known(users))
    return retriever, adapter


def fed(segment, rounds=30, **keywords):
    """A learner that knows 40 users, and is about to meet 40 others."""
    old, new = list(range(1, 41)), list(range(41, 121))
    retriever, adapter = made(segment, old + new, **keywords)
    for n in range(rounds):
        part = likes(old, 1, n)
        retriever.learn(part)
        adapter.learn(part)
    return retriever, adapter, new


def test_users_who_share_tastes_with_their_segment_are_predicted_better_from_its_state():
    retriever, adapter, new = fed("user.region", 40, evidence=0)
    model = retriever.model
    first = likes(new, 2, 99)
    first.history[...] = 0
    windows = Windows(
        np.pad(first.item.reshape(2, -1)[:1].T, ((0, 0), (3, 0))), np.zeros((len(new), 5)), np.ones(len(new), np.int64)
    )
    target = model.items.find(first.item.reshape(2, -1)[1])
    gains = {}
    for name, users in (("own", np.array(new)), ("other", np.roll(new, 1))):
        states, found = adapter.segments.of(users)
        assert found.all()
        without, changed = adapter.context.losses(windows, states, target, np.flatnonzero(model.counts["likes"]))
        gains[name] = float((without - changed).mean())
    assert gains["own"] > 0.1
    assert gains["other"] < 0


def test_a_mean_is_of_the_states_of_its_members():
    segments = Segments("user.region", 4, 3)
    segments.bind(SCHEMA, known(range(1, 13))[0])
    vectors = np.arange(36, dtype=np.float32).reshape(12, 3)
    for part in (slice(0, 5), slice(5, 12)):
        segments.learn(np.arange(1, 13)[part], ContextStates(vectors[part], np.full(12, 0.5, np.float32)[part]))
    states, found = segments.of(np.array([1, 2, 12, 99]))
    assert found.tolist() == [True, True, True, False]
    assert np.allclose(states.vectors[:3], [vectors[0::4].mean(0), vectors[1::4].mean(0), vectors[3::4].mean(0)])
    assert states.fresh.tolist() == [0.5, 0.5, 0.5, 1.0]


def test_all_is_one_segment_and_none_is_none():
    everybody, nobody = Segments("all", 4, 3), Segments("none", 4, 3)
    for segments in (everybody, nobody):
        segments.bind(SCHEMA, known([])[0])
        segments.learn(np.array([7, 8]), ContextStates(np.ones((2, 3), np.float32), np.zeros(2, np.float32)))
    assert everybody.of(np.array([1, 2]))[1].all()
    assert not nobody.of(np.array([1, 7]))[1].any()


def test_segments_are_bounded():
    segments = Segments("user.region", 2, 3)
    segments.bind(SCHEMA, known(range(1, 13))[0])
    size = segments.nbytes
    segments.learn(np.arange(1, 13), ContextStates(np.ones((12, 3), np.float32), np.zeros(12, np.float32)))
    assert segments.nbytes == size and segments.of(np.arange(1, 13))[1].sum() == 6


def test_the_gate_decides_whether_new_users_get_the_state_of_their_segment():
    retriever, adapter, new = fed("user.region", evidence=10)
    request = batch_of(likes(new[:4], 2, 99))
    request.history[request.history == 0] = 0
    number = retriever.model.windows(request).number
    assert (number <= 4).all() and number.max() == 1
    for gain, opened in ((1.0, True), (-1.0, False)):
        adapter.gate["weight"][:], adapter.gate["gain"][:] = 0, 0
        adapter._count(adapter._length(number), np.full(number.size, gain))
        adapter.gate["weight"][:] *= 100
        assert adapter.metrics()["open_segment"] == opened
        assert bool(adapter.adapt(request)) == opened


def test_states_of_segments_are_saved():
    _, adapter, new = fed("user.region")
    _, other = made("user.region", [])
    other.load_state_dict(adapter.state_dict())
    other.bind(SCHEMA, *known(new))
    assert digest(other.state_dict()) == digest(adapter.state_dict())
    for one, two in zip(adapter.segments.of(np.array(new))[0], other.segments.of(np.array(new))[0], strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("segment", ["user.age", "user.none"])
def test_an_attribute_that_nobody_can_share_is_refused(segment):
    with pytest.raises(ValueError, match=r"segment: \"user\..+\", and the attributes of users to share are \['user.region'\]"):
        made(segment, [])
