from __future__ import annotations

import numpy as np
import pytest

from learners.base import Exclusion, Retriever
from learners.contract.worlds import cut, feedback_of, requests_of
from learners.registry import ConfigError, build
from learners.retrievers.trending import Trending
from memory.stateful import digest

ITEMS = np.arange(1, 41)
INF = np.inf
EVENTS, SECONDS = (4.0, 64.0, 2000.0, INF), (50.0, 3000.0, 90_000.0)
SMALL = {"capacity": 64, "events": EVENTS, "seconds": SECONDS, "head": 64}
SOURCES = [0, 1, 3, 5, 6]  # 4 and 64 likes, no decay, 3,000 and 90,000 seconds


class Naive:
    """Each like of the past, weighed by its distance from the last one."""

    def __init__(self):
        self.item, self.weight, self.time, self.first = [], [], [], {}

    def learn(self, feedback):
        for n in range(feedback.rows):
            time = float(feedback.timestamp[feedback.request[n]])
            self.first.setdefault(int(feedback.item[n]), (len(self.item), time))
            if feedback.reward[n] > 0 and feedback.weight[n] > 0:
                self.item.append(int(feedback.item[n]))
                self.weight.append(float(feedback.weight[n]))
                self.time.append(time)

    def counts(self, item):
        mine = np.array(self.item) == item
        ages = len(self.item) - 1 - np.arange(len(self.item)), max(self.time) - np.array(self.time)
        weight = np.array(self.weight)
        return [
            (weight * 2.0 ** (-age / h))[mine].sum()
            for age, half_lives in zip(ages, (EVENTS, SECONDS), strict=True)
            for h in half_lives
        ]

    def evidence(self, item, now):
        likes = [n for n, other in enumerate(self.item) if other == item]
        last = (likes[-1] + 1, max(self.time[n] for n in likes)) if likes else (-1, self.time[0])
        first = self.first.get(item, (-1, self.time[0]))
        return [
            *np.log(np.array(self.counts(item)) + 0.02),
            np.log1p(len(self.item) - last[0]) / 10,
            np.log1p(len(self.item) - first[0]) / 10,
            np.log1p(max(now - last[1], 0) / 60) / 10,
            np.log1p(max(now - first[1], 0) / 60) / 10,
        ]


def stream(rows, seed=0, items=40, span=4000.0):
    rng = np.random.default_rng(seed)
    return feedback_of(
        user=rng.integers(1, 9, rows),
        item=rng.zipf(1.4, rows) % items + 1,
        reward=rng.integers(-1, 3, rows),
        weight=rng.integers(0, 4, rows),
        timestamp=seed * span + np.sort(rng.uniform(0, span, rows)),
    )


def rows_of(items, now=0.0):
    n = len(items)
    return feedback_of(user=np.ones(n), item=items, reward=np.zeros(n), timestamp=np.full(n, now))


def retrieved(learner, k=100, exclude=()):
    found = learner.retrieve(requests_of([1]), k, Exclusion(np.array(exclude, np.int64), np.array([0, len(exclude)])))
    return dict(zip(found.item.tolist(), found.score.tolist(), strict=True))


def test_a_world_by_hand():
    learner = Trending(64, events=(1.0, INF), seconds=(3600.0,), head=16)
    learner.learn(
        feedback_of(user=[1] * 5, item=[1, 1, 9, 2, 3], reward=[1, 1, 0, 1, 1], timestamp=[0.0, 3600.0, 3600.0, 7200.0, 7200.0])
    )
    # After four likes: item 1 had the first and second, item 2 the third, item 3 the fourth.
    assert learner.evidence(rows_of([1, 2, 3, 9, 77], 7260.0)) == pytest.approx(
        np.array(
            [
                [*np.log([0.375 + 0.02, 2.02, 0.75 + 0.02]), *np.log1p([2, 4, 60, 120]) / 10],
                [*np.log([0.5 + 0.02, 1.02, 1.02]), *np.log1p([1, 2, 0, 0]) / 10],
                [*np.log([1.02, 1.02, 1.02]), *np.log1p([0, 1, 0, 0]) / 10],
                [*np.log([0.02, 0.02, 0.02]), *np.log1p([5, 2, 120, 60]) / 10],
                [*np.log([0.02, 0.02, 0.02]), *np.log1p([5, 5, 120, 120]) / 10],
            ]
        ),
        rel=1e-5,
    )
    # The heads are 3, 2, 1 by one like, 1, 2, 3 without decay, and 2, 3, 1 by the hour.
    assert retrieved(learner) == {3: 1.0, 1: 1.0, 2: 1.0}
    assert list(retrieved(learner)) == [3, 1, 2] and list(retrieved(learner, 1, exclude=[3])) == [1]


def test_columns():
    names = [column.name for column in Trending().evidence_columns]
    assert names[:7] == [f"log_events_{h}" for h in (16, 64, 256, 1024, 4096, 16384, "inf")]
    assert names[7:14] == [f"log_seconds_{h}" for h in (600, 3600, 21600, 86400, 604800, 2592000, 31536000)]
    assert names[14:] == ["since_positive", "since_first", "minutes_since_positive", "minutes_since_first"]
    assert [column.name for column in Trending().evidence_columns if column.by_activity] == ["log_events_64", "log_events_inf"]
    assert [column.prior for column in Trending().evidence_columns] == [0.05] * 14 + [0.0] * 4


def test_random_streams_follow_the_formulas():
    learner, naive = Trending(**SMALL), Naive()
    for seed in range(3):
        learner.learn(stream(400, seed))
        naive.learn(stream(400, seed))
        last_like = naive.time[-1]
        expected = np.array([naive.evidence(item, last_like) for item in [*ITEMS.tolist(), 99]])
        for asked_after in (30.0, 28 * 31_536_000.0):
            evidence = learner.evidence(rows_of([*ITEMS, 99], last_like + asked_after))
            assert evidence == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_candidates_are_the_sources_orders_place_by_place():
    learner, naive = Trending(**SMALL), Naive()
    learner.learn(stream(900))
    naive.learn(stream(900))
    counts = np.array([naive.counts(item) for item in ITEMS.tolist()])
    # Ties in the undecayed counts have an order of their own, so places are checked by the counts there.
    orders = [learner._state.heads.slot[head, : learner._state.heads.used[head]] for head in range(len(SOURCES))]
    for source, order in zip(SOURCES, orders, strict=True):
        there = counts[np.searchsorted(ITEMS, learner.items.keys[order]), source]
        assert there == pytest.approx(np.sort(counts[:, source])[::-1][: order.size], rel=1e-6)
    best = {}
    for place in range(max(map(len, orders))):
        for order in orders:
            if place < order.size:
                best.setdefault(int(learner.items.keys[order[place]]), 1 / (1 + place))
    found = retrieved(learner)
    assert list(found) == list(best) and found == pytest.approx(best)
    assert learner.score(rows_of(ITEMS)) == pytest.approx([best.get(item, 0.0) for item in ITEMS.tolist()])
    assert list(retrieved(learner, 5, exclude=list(best)[:7])) == list(best)[7:12]


def test_what_was_not_liked_is_no_candidate():
    learner = Trending(**SMALL)
    learner.learn(feedback_of(user=[1, 1, 1], item=[1, 2, 3], reward=[1, 0, 1], weight=[1, 1, 0]))
    assert retrieved(learner) == {1: 1.0}
    assert learner.score(rows_of([1, 2, 3])).tolist() == [1, 0, 0]


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("parameters", [SMALL, SMALL | {"capacity": 6, "head": 16}, {"capacity": 30, "head": 16}])
def test_any_cut_into_batches_gives_the_same_state(size, parameters):
    feedback = stream(300, seed=2)
    whole, pieces = Trending(**parameters), Trending(**parameters)
    whole.learn(feedback)
    for start in range(0, 300, size):
        pieces.learn(cut(feedback, start, start + size))
    assert digest(pieces.state_dict()) == digest(whole.state_dict())


def test_an_item_in_a_slot_of_another_starts_from_nothing():
    learner = Trending(**SMALL | {"capacity": 2})
    learner.learn(feedback_of(user=[1] * 9, item=[1, 1, 1, 1, 2, 3, 4, 4, 3], reward=[1] * 9))
    unlimited = Trending(**SMALL)
    unlimited.learn(feedback_of(user=[1] * 9, item=[1, 1, 1, 1, 2, 3, 4, 4, 3], reward=[1] * 9))
    assert np.array_equal(learner.evidence(rows_of([3, 4], 9.0)), unlimited.evidence(rows_of([3, 4], 9.0)))
    assert retrieved(learner).keys() == {3, 4}


def test_removed_items_are_gone_and_may_come_back():
    learner = Trending(**SMALL)
    learner.learn(stream(300))
    unknown = learner.evidence(rows_of([99]))
    learner.remove(np.array([1, 2, 77]))
    assert np.array_equal(learner.evidence(rows_of([1])), unknown) and not {1, 2} & retrieved(learner).keys()
    learner.learn(feedback_of(user=[1], item=[1], reward=[1], timestamp=[5000.0]))
    assert 1 in retrieved(learner)
    assert learner.evidence(rows_of([1]))[0, EVENTS.index(INF)] == pytest.approx(np.log(1.02))


def test_late_likes_count_as_of_their_time():
    in_time, late = Trending(**SMALL), Trending(**SMALL)
    in_time.learn(feedback_of(user=[1, 1], item=[1, 2], reward=[1, 1], timestamp=[1000.0, 1100.0]))
    late.learn(feedback_of(user=[1, 1], item=[2, 1], reward=[1, 1], timestamp=[1100.0, 1000.0]))
    columns = slice(len(EVENTS), len(EVENTS) + len(SECONDS))
    rows = rows_of([1, 2], 1100.0)
    assert late.evidence(rows)[:, columns] == pytest.approx(in_time.evidence(rows)[:, columns], rel=1e-6)
    assert late.evidence(rows)[0, len(EVENTS)] == pytest.approx(np.log(0.25 + 0.02))


@pytest.mark.parametrize("wrong", [1e11, 0.0])
def test_a_mistaken_date_does_no_harm(wrong):
    learner, twin = Trending(**SMALL), Trending(**SMALL)
    for one in (learner, twin):
        one.learn(feedback_of(user=[1] * 3, item=[1, 1, 2], reward=[1] * 3, timestamp=[1.7e9] * 3))
    learner.learn(feedback_of(user=[1], item=[3], reward=[1], timestamp=[wrong]))
    twin.learn(feedback_of(user=[1], item=[3], reward=[1], timestamp=[1.7e9]))
    more = feedback_of(user=[1], item=[2], reward=[1], timestamp=[1.7e9 + 50])
    learner.learn(more)
    twin.learn(more)
    rows = rows_of([1, 2], 1.7e9 + 60)
    assert np.array_equal(learner.evidence(rows), twin.evidence(rows))


def test_a_clock_that_had_been_ahead_goes_back():
    learner = Trending(**SMALL)
    learner.learn(feedback_of(user=[1] * 3, item=[1, 1, 2], reward=[1] * 3, timestamp=[1.7e9] * 3))
    learner.learn(feedback_of(user=[1] * 60, item=[3] * 60, reward=[1] * 60, timestamp=[1.6e9] * 60))
    # Of the 60, 19 were too late to count, then the three of before became as old as the others.
    counts = np.exp(learner.evidence(rows_of([1, 2, 3], 1.6e9))[:, len(EVENTS)]) - 0.02
    assert counts == pytest.approx([2, 1, 41], rel=1e-4)
    order = learner._state.heads.slot[3, :3]
    assert learner.items.keys[order].tolist() == [3, 1, 2]


def test_half_lives_are_checked():
    with pytest.raises(ConfigError, match=r"events.*half-life twice; give each of them once"):
        build(Retriever, "trending", {"events": [16, 16.0]})
    with pytest.raises(ConfigError, match="no candidates without seconds; add a half-life of at most 1024, inf"):
        build(Retriever, "trending", {"events": [4096], "seconds": []})
    with pytest.raises(ConfigError, match="seconds"):
        build(Retriever, "trending", {"seconds": [0]})
    assert isinstance(build(Retriever, "trending", {"events": [], "seconds": [60, INF]}), Trending)


def test_heads_that_were_full_go_back_with_the_clock():
    learner = Trending(64, events=(), seconds=(3600.0,), head=16)
    learner.learn(feedback_of(user=[1] * 20, item=np.arange(1, 21), reward=[1] * 20, timestamp=[1.7e9] * 20))
    learner.learn(feedback_of(user=[1] * 20, item=[30] * 20, reward=[1] * 20, timestamp=[1.6e9] * 20))
    learner.learn(feedback_of(user=[1] * 3, item=[31, 32, 32], reward=[1] * 3, timestamp=[1.6e9 + 60] * 3))
    assert list(retrieved(learner, 2)) == [32, 31]
