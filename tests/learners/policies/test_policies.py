from __future__ import annotations

import itertools
from collections import Counter
from math import prod

import numpy as np
import pytest

from learners.policies.epsilon_greedy import EpsilonGreedy
from learners.policies.greedy import Greedy
from learners.policies.plackett_luce import PlackettLuce
from learners.policies.thompson.gaussian import all_win_probabilities, win_probabilities
from learners.policies.thompson.policy import Thompson
from learners.policies.top_k_random import TopKRandom
from learners.policies.ucb import Ucb

INF = np.inf
POLICIES = {
    "greedy": Greedy(),
    "ucb": Ucb(1.5),
    "ucb0": Ucb(0.0),
    "ucb, top 2": Ucb(1.5, top=2),
    "epsilon": EpsilonGreedy(0.3),
    "epsilon1": EpsilonGreedy(1.0),
    "luce": PlackettLuce(0.7),
    "thompson": Thompson(),
    "top1": TopKRandom(1),
    "top2": TopKRandom(2),
    "top9": TopKRandom(9),
}
WORLDS = {
    "distinct": ([0.1, 0.9, 0.4, 0.7], [0.2, 0.1, 0.5, 0.3]),
    "tied": ([0.5, 0.5, 0.2, 0.5, 0.2], [0.1, 0.1, 0.3, 0.1, 0.3]),
    "all tied": ([0.5, 0.5, 0.5], [0.0, 0.0, 0.0]),
    "certain": ([0.5, 0.5, 0.2, 0.6], [0.0, 0.0, 0.3, 0.2]),
    "infinite": ([INF, 0.5, INF, 0.2], [0.1, 0.1, 0.1, 0.5]),
    "untried": ([0.3, 0.5, 0.2, 0.6], [INF, 0.1, INF, 0.1]),
    "far apart": ([-50.0, 0.0, 60.0, 0.0], [1.0, 1e-6, 1e-3, 2.0]),
}


def arrays(world):
    score, uncertainty = WORLDS[world]
    return np.array(score, np.float32), np.array(uncertainty, np.float32)


def truth(name, order, score, uncertainty):
    """Return the probability of an order, computed directly from the definition."""
    values = score.astype(float)
    width = uncertainty.astype(float)
    if name in ("ucb", "ucb, top 2"):
        values = values + 1.5 * width
    left, chance = list(range(score.size)), 1.0
    for row in order:
        best = [s for s in left if values[s] == max(values[t] for t in left)]
        greedy = (row in best) / len(best)
        infinite = [s for s in left if np.isinf(values[s]) or (name == "thompson" and np.isinf(width[s]))]
        if name in ("greedy", "ucb", "ucb0", "top1"):
            chance *= greedy
        elif name.startswith("epsilon"):
            epsilon = POLICIES[name].epsilon
            chance *= epsilon / len(left) + (1 - epsilon) * greedy
        elif "top" in name:
            window = min(POLICIES[name].top, len(left))
            edge = sorted((values[s] for s in left), reverse=True)[window - 1]
            above = [s for s in left if values[s] > edge]
            tied = [s for s in left if values[s] == edge]
            chance *= 1 / window if row in above else (row in tied) * (window - len(above)) / window / len(tied)
        elif infinite:
            chance *= (row in infinite) / len(infinite)
        elif name == "luce":
            chance *= np.exp(values[row] / 0.7 - np.logaddexp.reduce(np.array([values[s] for s in left]) / 0.7))
        else:
            chance *= win_probabilities(values[left], width[left], np.array([left.index(row)]))[0]
        left.remove(row)
    return chance


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", POLICIES)
def test_propensities_are_the_probabilities_of_the_orders(name, world):
    score, uncertainty = arrays(world)
    k = min(3, score.size)
    rng = np.random.default_rng(7)
    trials = 3000
    seen, computed = Counter(), {}
    for _ in range(trials):
        ranking = POLICIES[name].select(score, uncertainty, k, rng)
        order = tuple(ranking.rows.tolist())
        seen[order] += 1
        computed[order] = prod(ranking.propensities.tolist())
    possible = {order: truth(name, order, score, uncertainty) for order in itertools.permutations(range(score.size), k)}
    assert sum(possible.values()) == pytest.approx(1, abs=1e-6)
    for order, chance in possible.items():
        if order in computed:
            assert computed[order] == pytest.approx(chance, rel=1e-5, abs=1e-6)
        # 4.5 sigma: about a thousand comparisons are made in this file.
        assert abs(seen[order] - trials * chance) <= 4.5 * np.sqrt(trials * chance * (1 - chance)) + 1e-6 * trials + 0.5


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", POLICIES)
def test_distribution_returns_the_propensity_of_every_row(name, world):
    score, uncertainty = arrays(world)
    for above in itertools.chain.from_iterable(itertools.permutations(range(score.size), k) for k in range(min(3, score.size))):
        computed = POLICIES[name].distribution(score, uncertainty, np.array(above, np.int64))
        before = truth(name, above, score, uncertainty)
        assert computed.shape == score.shape and computed.dtype == np.float64
        assert computed.sum() == pytest.approx(1, abs=1e-12)
        assert np.all(computed[list(above)] == 0)
        if before > 1e-9:
            exact = [truth(name, (*above, row), score, uncertainty) / before for row in range(score.size) if row not in above]
            assert np.delete(computed, above) == pytest.approx(exact, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_propensities_of_select_are_those_of_distribution(name):
    rng = np.random.default_rng(9)
    score = np.round(rng.normal(size=30), 1).astype(np.float32)
    uncertainty = np.abs(rng.normal(size=30)).astype(np.float32)
    ranking = POLICIES[name].select(score, uncertainty, 30, rng)
    for position, row in enumerate(ranking.rows):
        computed = POLICIES[name].distribution(score, uncertainty, ranking.rows[:position])
        assert computed[row] == pytest.approx(ranking.propensities[position], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", POLICIES)
def test_rows_above_are_different_and_not_all(name):
    score, uncertainty = arrays("distinct")
    for above in ([1, 1], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="above"):
            POLICIES[name].distribution(score, uncertainty, np.array(above))


@pytest.mark.parametrize("name", POLICIES)
def test_shapes_at_the_edges(name):
    score, uncertainty = arrays("tied")
    policy, rng = POLICIES[name], np.random.default_rng(0)
    for n, k, positions in [(5, 9, 5), (5, 5, 5), (5, 0, 0), (0, 3, 0), (0, 0, 0), (1, 1, 1)]:
        before = score.copy(), uncertainty.copy()
        ranking = policy.select(score[:n], uncertainty[:n], k, rng)
        assert ranking.rows.dtype == np.int64
        assert ranking.propensities.dtype == np.float32
        assert ranking.rows.shape == ranking.propensities.shape == (positions,)
        assert len(set(ranking.rows.tolist())) == positions
        assert np.array_equal(score, before[0]) and np.array_equal(uncertainty, before[1])
    with pytest.raises(ValueError, match="k: -1 positions"):
        policy.select(score, uncertainty, -1, rng)


@pytest.mark.parametrize("name", POLICIES)
def test_the_generator_is_the_only_randomness(name):
    score = np.random.default_rng(3).normal(size=50).astype(np.float32)
    uncertainty = np.abs(score)
    first, second = (POLICIES[name].select(score, uncertainty, 20, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.rows, second.rows) and np.array_equal(first.propensities, second.propensities)


@pytest.mark.parametrize("name", POLICIES)
def test_bad_numbers_are_refused(name):
    policy, rng = POLICIES[name], np.random.default_rng(0)
    score, uncertainty = arrays("distinct")
    for bad in (np.nan, -INF):
        with pytest.raises(ValueError, match=r"score: .* in row 2"):
            policy.select(np.where(np.arange(4) == 2, np.float32(bad), score), uncertainty, 2, rng)
    if name.startswith(("ucb", "thompson")):
        for bad in (np.nan, -0.1):
            with pytest.raises(ValueError, match=r"uncertainty: .* in row 1"):
                policy.select(score, np.where(np.arange(4) == 1, np.float32(bad), uncertainty), 2, rng)
        with pytest.raises(ValueError, match="shape"):
            policy.select(score, uncertainty[:2], 2, rng)
        with pytest.raises(ValueError, match=r"policy '(ucb|thompson)' needs the standard error .* diag_linucb"):
            policy.select(score, None, 2, rng)
    else:
        assert policy.select(score, None, 2, rng).rows.size == 2


@pytest.mark.parametrize("name", POLICIES)
def test_a_large_request(name):
    rng = np.random.default_rng(11)
    score = np.round(rng.normal(size=5000), 1).astype(np.float32)
    ranking = POLICIES[name].select(score, np.full(5000, 0.3, np.float32), 100, rng)
    assert len(set(ranking.rows.tolist())) == 100
    assert np.all((ranking.propensities > 0) & (ranking.propensities <= 1))
    if name in ("greedy", "top1"):
        best = np.sort(score)[::-1]
        assert np.array_equal(score[ranking.rows], best[:100])
        tied = [np.count_nonzero(score == best[j]) - np.count_nonzero(best[:j] == best[j]) for j in range(100)]
        assert ranking.propensities == pytest.approx(1 / np.array(tied))


def test_plackett_luce_with_weights_that_underflow():
    score = np.array([2000.0, 0.0, -1.0, -2000.0], np.float32)
    ranking = PlackettLuce(1.0).select(score, None, 4, np.random.default_rng(0))
    assert ranking.rows[0] == 0 and ranking.rows[3] == 3
    assert ranking.propensities[0] == 1 and ranking.propensities[3] == 1
    assert ranking.propensities[1] == pytest.approx(1 / (1 + np.exp(-1.0)) if ranking.rows[1] == 1 else 1 / (1 + np.exp(1.0)))


def test_win_probabilities_of_two_are_the_normal_difference():
    from math import erf, sqrt

    for gap, first, second in [(0.3, 1.0, 1.0), (0.1, 1e-5, 0.2), (-2.0, 0.5, 3.0), (1e-4, 1e-5, 1e-6)]:
        exact = 0.5 * (1 + erf(gap / sqrt(first**2 + second**2) / sqrt(2)))
        computed = win_probabilities(np.array([gap, 0.0]), np.array([first, second]), np.array([0]))
        assert computed[0] == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("n", [10, 200])
def test_win_probabilities_sum_to_one(n):
    rng = np.random.default_rng(n)
    mean = 0.1 * rng.normal(size=n)
    for deviation in (np.full(n, 0.2), 10 ** rng.uniform(-7, 0, n), np.where(rng.random(n) < 0.5, 0.0, 0.1)):
        total = sum(win_probabilities(mean, deviation, np.array([row]))[0] for row in range(n))
        assert total == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("n", [10, 200])
def test_all_win_probabilities_are_those_of_each_row(n):
    rng = np.random.default_rng(n)
    mean = 0.1 * rng.normal(size=n)
    for deviation in (np.full(n, 0.2), 10 ** rng.uniform(-7, 0, n), np.where(rng.random(n) < 0.5, 0.0, 0.1)):
        one_by_one = [win_probabilities(mean, deviation, np.array([row]))[0] for row in range(n)]
        assert all_win_probabilities(mean, deviation) == pytest.approx(one_by_one, abs=1e-7)


def test_positions_can_share_their_nodes():
    """Computing all positions at once equals computing each one from its remaining rows."""
    rng = np.random.default_rng(4)
    for deviation in (np.full(40, 0.2), 10 ** rng.uniform(-7, 0, 40), np.where(rng.random(40) < 0.5, 0.0, 0.1)):
        mean = 0.2 * rng.normal(size=40)
        chosen = np.argsort(-(mean + deviation * rng.normal(size=40)))[:12]
        computed = win_probabilities(mean, deviation, chosen)
        for position, row in enumerate(chosen):
            left = np.setdiff1d(np.arange(40), chosen[:position])
            alone = win_probabilities(mean[left], deviation[left], np.searchsorted(left, [row]))
            assert computed[position] == pytest.approx(alone[0], abs=1e-9)


def test_equal_rows_share_equally():
    for n in (8, 500, 10_000):
        computed = win_probabilities(np.full(n, 0.3), np.full(n, 0.2), np.arange(8))
        assert computed == pytest.approx(1 / np.arange(n, n - 8, -1), rel=1e-5, abs=1e-9)
