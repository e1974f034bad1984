"""The simulated feed: satiation, the rule by which users leave, and equal seeds."""

from __future__ import annotations

import numpy as np
import pytest

from service.demo.feed import Feed


def test_a_watched_item_makes_its_category_unattractive_for_a_while() -> None:
    feed = Feed(seed=1, quits=False)
    user = feed.users[0]
    item = max(feed.items, key=lambda one: feed.chance(user, one))
    fresh = feed.chance(user, item)
    while not feed.show(user, item)[0]:
        pass
    assert feed.chance(user, item) < fresh - 0.2
    away = min(feed.items, key=lambda one: feed.chance(user, one))
    tired = feed.chance(user, item)
    for _ in range(10):
        feed.show(user, away)
    assert feed.chance(user, item) > tired + 0.1


def test_a_user_leaves_at_the_third_item_of_a_category_within_five() -> None:
    feed = Feed(items=48, categories=16, seed=2)
    user, same, others = feed.users[3], feed.items[0], feed.items[1:16]
    assert [feed.show(user, item)[1] for item in (same, others[0], same, others[1], same)] == [True, True, True, True, False]
    assert [feed.show(user, item)[1] for item in (same, others[0], same, others[1], others[2])] == [True] * 5, "a new session"
    assert feed.show(user, same)[1], "the first is six items ago"


def test_without_the_rule_sessions_have_a_fixed_length() -> None:
    feed = Feed(seed=3, quits=False, longest=7)
    assert [feed.show("user-0001", "item-0000")[1] for _ in range(14)] == ([True] * 6 + [False]) * 2


def test_equal_seeds_give_equal_worlds() -> None:
    one, same, other = Feed(seed=5), Feed(seed=5), Feed(seed=6)
    shown = [(one.users[n % 9], one.items[n * 7 % 240]) for n in range(100)]
    outcomes = [[feed.show(*pair) for pair in shown] for feed in (one, same, other)]
    assert outcomes[0] == outcomes[1] != outcomes[2]
    assert one.catalogue() == same.catalogue() and one.profiles() == same.profiles()
    assert np.mean([watched for watched, _ in outcomes[0]]) == pytest.approx(0.4, abs=0.25)
