from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from streams.events import Interaction
from streams.simulator import Population

Rank = Callable[[str], list[str]]
POSITIONS = 10


def small(**keywords: float) -> Population:
    return Population(100, 80, seed=5, **keywords)  # type: ignore[arg-type]


def clicks_per_item(population: Population, rank: Rank, visits: int = 1000) -> float:
    clicks = 0
    for n in range(visits):
        user, _ = population.visit()
        clicks += len(population.react(user, f"r{n}", rank(user), float(n)))
    return clicks / (visits * POSITIONS)


def at_random(population: Population) -> Rank:
    rng = np.random.default_rng(0)
    return lambda user: [population.items[n] for n in rng.permutation(len(population.items))[:POSITIONS]]


def by_the_truth(population: Population) -> Rank:
    def rank(user: str) -> list[str]:
        order = np.argsort(-population.click_probability(user, population.items))
        return [population.items[n] for n in order[:POSITIONS]]

    return rank


def test_the_truth_gets_far_more_clicks_than_chance() -> None:
    population = small()
    assert 0.08 < clicks_per_item(population, at_random(population)) < 0.12
    assert 0.35 < clicks_per_item(population, by_the_truth(population)) < 0.5


def test_after_a_shift_the_old_truth_has_lost_most_of_its_lift() -> None:
    population = small(drift=0.0)
    truth = by_the_truth(population)
    old = {user: truth(user) for user in population.users}
    before = clicks_per_item(population, old.__getitem__)
    population.shift()
    chance = clicks_per_item(population, at_random(population))
    assert population.shifts == 1
    assert clicks_per_item(population, old.__getitem__) - chance < 0.3 * (before - chance)
    assert 0.35 < clicks_per_item(population, by_the_truth(population)) < 0.5


def test_clicks_come_with_the_true_probability() -> None:
    population = Population(3, 10, seed=1, patience=1.0)
    clicked = Counter(click.item for n in range(4000) for click in population.react("user-0001", f"{n}", population.items, 0.0))
    rates = np.array([clicked[item] / 4000 for item in population.items])
    truth = population.click_probability("user-0001", population.items)
    assert np.abs(rates - truth).max() < 4 * np.sqrt(0.25 / 4000)


def test_attention_decays_from_the_top() -> None:
    population = Population(1, 20, seed=1, patience=0.8, best_rate=0.3)
    item = population.items[int(np.argmax(population.click_probability("user-0000", population.items)))]
    looked = Counter(
        int(click.id.split(":")[1]) for n in range(6000) for click in population.react("user-0000", f"{n}", [item] * 5, 0.0)
    )
    for position in range(1, 5):
        assert looked[position] / looked[0] == pytest.approx(0.8**position, abs=0.08)


def test_clicks_refer_to_their_impression() -> None:
    population = small()
    user, context = population.visit()
    clicks = [click for n in range(50) for click in population.react(user, f"r{n}", population.items[:5], 12.5)]
    assert clicks
    for click in clicks:
        position = population.items.index(click.item)
        assert click == Interaction(
            id=f"{click.request_id}:{position}", request_id=click.request_id, user=user, item=click.item, timestamp=12.5
        )
    assert len({click.id for click in clicks}) == len(clicks)
    assert context["device"] in ("phone", "desktop", "tablet")


def test_the_same_seed_and_calls_give_the_same_world() -> None:
    def story(seed: int) -> list[object]:
        population = Population(40, 30, seed=seed)
        told: list[object] = [population.catalogue(), population.profiles()]
        for n in range(60):
            user, context = population.visit()
            told += [user, context, population.react(user, f"{n}", population.items[:8], float(n))]
            if n == 30:
                population.shift()
        return told

    assert story(3) == story(3)
    assert story(3) != story(4)


def test_visible_attributes_explain_a_part_of_the_clicks() -> None:
    population = Population(200, 150, seed=2, drift=0.0)
    truth = np.array([population.click_probability(user, population.items) for user in population.users])
    logit = np.log(truth / (1 - truth))
    segment = np.array([profile.attributes["segment"] for profile in population.profiles()])
    category = np.array([item.attributes["category"] for item in population.catalogue()])
    left = logit - logit.mean(axis=1, keepdims=True) - logit.mean(axis=0) + logit.mean()
    told = np.zeros_like(left)
    for one in np.unique(segment):
        for other in np.unique(category):
            cell = np.ix_(segment == one, category == other)
            told[cell] = left[cell].mean()
    assert 0.2 < told.var() / left.var() < 0.8
    assert all(isinstance(item.attributes["tags"], list) for item in population.catalogue())


def test_some_users_come_far_more_often() -> None:
    population = small()
    visits = Counter(population.visit()[0] for _ in range(5000))
    counts = sorted(visits.values(), reverse=True)
    assert sum(counts[:10]) > 1.3 * sum(counts[-50:])


def test_tastes_drift_slowly() -> None:
    population = Population(1, 50, seed=0, drift=0.05, best_rate=0.3)
    start = population.click_probability("user-0000", population.items)

    def similarity() -> float:
        return float(np.corrcoef(start, population.click_probability("user-0000", population.items))[0, 1])

    population.visit()
    assert similarity() > 0.95
    for _ in range(3000):
        population.visit()
    assert similarity() < 0.8


def test_unknown_items_are_never_clicked() -> None:
    population = small()
    assert population.click_probability("user-0000", ["nothing"]).tolist() == [0.0]
    assert population.react("user-0000", "r", [], 0.0) == []


def test_rates_that_cannot_be_reached_are_refused() -> None:
    with pytest.raises(ValueError, match=r"best_rate: 0.9 is not between base_rate 0.1 and 0.71, the share of positions"):
        Population(best_rate=0.9)
    with pytest.raises(ValueError, match="users: 0"):
        Population(users=0)


def test_replaced_items_are_gone_and_new_ones_have_visible_attributes() -> None:
    population = small(drift=0.0)
    before, kept = list(population.items), population.click_probability("user-0000", population.items)
    updates = population.replace(0.1)
    gone, new = updates[:8], updates[8:]
    assert all(update.deleted for update in gone) and {update.item for update in gone} < set(before)
    assert {update.item for update in new} == set(population.items) - set(before) and len(new) == 8
    assert all(update.attributes["category"] for update in new)
    assert not population.click_probability("user-0000", [update.item for update in gone]).any()
    stayed = [n for n, item in enumerate(population.items) if item == before[n]]
    assert len(stayed) == 72
    # The other items keep their order. Only the level changes: the mean over all items stays the same.
    now = population.click_probability("user-0000", population.items)
    assert np.array_equal(np.argsort(kept[stayed]), np.argsort(now[stayed]))
    assert 0.35 < clicks_per_item(population, by_the_truth(population)) < 0.5
