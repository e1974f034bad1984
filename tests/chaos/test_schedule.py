from __future__ import annotations

from collections import Counter

from tests.chaos.schedule import BROKER, TRAINER, Deed, schedule

REPLICAS = ("a", "b")
DEEDS = (Deed.CUT, Deed.STOP, Deed.REFUSE)


def test_the_same_seed_gives_the_same_acts_and_another_seed_others() -> None:
    assert schedule(7, 30, REPLICAS, DEEDS) == schedule(7, 30, REPLICAS, DEEDS)
    assert schedule(7, 30, REPLICAS, DEEDS) != schedule(8, 30, REPLICAS, DEEDS)


def test_kills_are_as_many_as_asked_for_and_everybody_has_a_share() -> None:
    acts = schedule(0, 100, REPLICAS, DEEDS)
    kills = {whom: sum(act.deed is Deed.KILL for act in some) for whom, some in acts.items()}
    assert kills == {TRAINER: 50, "a": 25, "b": 25, BROKER: 0}
    assert sum(act.deed is Deed.STOP for whom in (TRAINER, *REPLICAS) for act in acts[whom]) == 50
    assert Counter(act.deed for act in acts[BROKER]) == {Deed.CUT: 17, Deed.STOP: 17, Deed.REFUSE: 16}


def test_only_a_long_run_has_a_broker_that_is_away_for_longer_than_anybody_waits() -> None:
    assert max(act.lasts for act in schedule(0, 100, REPLICAS, DEEDS)[BROKER]) > 10
    assert all(act.lasts <= 2 for seed in range(20) for some in schedule(seed, 3, REPLICAS, DEEDS).values() for act in some)


def test_without_a_broker_nothing_is_done_to_it() -> None:
    assert schedule(0, 4, REPLICAS, ())[BROKER] == []
