"""Regret and speed of selecting one of 100 items, 100,000 times, and learning from each selection.

Diag-LinUCB runs with the true cluster centers and with centroids fitted to the user vectors; other policies run on the same
statistics. Peers in the same run are Vowpal Wabbit's squarecb and river's UCB, both with the true clusters.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import bandit_stream, measure
from benchmarks.bandit_stream import CANDIDATES, CLUSTERS, ITEMS, Codes, Decisions, Doubles
from benchmarks.measure import Cost, err
from learners.base import Policy
from learners.policies.epsilon_greedy import EpsilonGreedy
from learners.policies.thompson.policy import Thompson
from learners.retrievers.diag_linucb.contexts import contexts
from memory.graph.cluster_graph import ClusterGraph
from memory.vectors.centroids import Centroids

__all__ = ["main"]

NEAREST, TEMPERATURE, ALPHA, PRIOR = 5, 0.1, 0.4, 1.0
EARLY = 20_000


class Played(NamedTuple):
    """The choices of a contender, and the cost of selecting and learning."""

    chosen: Codes
    cost: Cost


Play = Callable[[Decisions, Doubles], Played]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=5)
    parser.add_argument("--decisions", type=int, default=100_000, help="number of decisions (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="decisions per batch (default: %(default)s)")
    parser.add_argument(
        "--slow-decisions",
        type=int,
        default=EARLY,
        help="decisions of slow policies and peers (default: %(default)s)",
    )
    parser.add_argument(
        "--slow-rounds", type=int, default=1, help="rounds of slow contenders; 0 skips them (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    measure.pin(options)
    before = measure.machine()
    world = bandit_stream.make(options.decisions)
    found = Centroids(CLUSTERS, world.vectors.shape[1])
    found.fit(world.vectors, match_threshold=0.95)
    fast, slow = _ours(world, found.vectors, options), _policies(found.vectors, options) | _peers(options)
    metrics: dict[str, dict[str, float]] = {}
    for contenders, rounds in ((fast, options.rounds), (slow, options.slow_rounds)):
        for name, play in contenders.items() if rounds else ():
            with err.status(name):
                metrics[name] = _metrics(world, [play(world, world.coins(seed)) for seed in range(rounds)])
    measure.table(
        f"Selecting from {CANDIDATES} of {ITEMS} items, one coin for each decision and round; regret of random choices: "
        f"{_random(world):,.0f} per 100,000 decisions",
        ["contender", "rounds", "decisions", "regret", "sd", f"regret at {EARLY:,}", "decisions per CPU second"],
        [[name, *one.values()] for name, one in metrics.items()],
    )
    measure.finish("bandit", options, before, metrics)


def _metrics(world: Decisions, rounds: list[Played]) -> dict[str, float]:
    regrets = [world.regret(played.chosen) for played in rounds]
    totals = [float(regret.sum()) for regret in regrets]
    return {
        "rounds": len(rounds),
        "decisions": rounds[0].chosen.size,
        "regret": float(np.mean(totals)),
        "sd": float(np.std(totals, ddof=1)) if len(totals) > 1 else 0.0,
        "early_regret": float(np.mean([regret[:EARLY].sum() for regret in regrets])),
        "decisions_per_cpu_second": measure.best([played.cost for played in rounds])["rows_per_cpu_second"],
    }


def _random(world: Decisions) -> float:
    taken = np.take_along_axis(world.probability[world.user[:2000]], world.candidates[:2000], axis=1)
    return float((world.best[:2000] - taken.mean(axis=1)).mean() * 100_000)


def _ours(world: Decisions, found: Doubles, options: Namespace) -> dict[str, Play]:
    """Diag-LinUCB one decision at a time, with all earlier outcomes learned, and in batches."""
    each = {"true centers": world.centers, "k-means centroids": found}
    plays: dict[str, Play] = {}
    for name, centroids in each.items():
        for batch in (1, options.batch):
            kind = "one at a time" if batch == 1 else f"batches of {batch}"
            plays[f"Diag-LinUCB, {name}, {kind}"] = _bounds_play(centroids, batch, 0.0)
    plays[f"Diag-LinUCB, k-means centroids, w_min 0.05, batches of {options.batch}"] = _bounds_play(found, options.batch, 0.05)
    return plays


class _Bandit:
    """Diag-LinUCB statistics on a graph that links every cluster to every item: candidates are given here."""

    def __init__(self, centroids: Doubles, w_min: float) -> None:
        self.centroids, self._w_min = centroids.T.copy(), w_min
        self.graph = ClusterGraph(len(centroids), ITEMS, ITEMS)
        slots, _ = self.graph.insert(np.arange(1, ITEMS + 1))
        self.slots = slots
        self.graph.link(np.tile(slots, (len(centroids), 1)), np.zeros((len(centroids), ITEMS), np.float32), PRIOR)

    def contexts(self, vectors: npt.NDArray[np.float32]) -> tuple[Codes, Doubles]:
        return contexts(vectors.astype(np.float64) @ self.centroids, NEAREST, TEMPERATURE, self._w_min)


def _bounds_play(centroids: Doubles, batch: int, w_min: float) -> Play:
    def play(world: Decisions, coins: Doubles) -> Played:
        bandit = _Bandit(centroids, w_min)
        _decide(bandit, world, coins, batch, 2 * batch)  # compiles
        bandit = _Bandit(centroids, w_min)
        with measure.stopwatch(len(world)) as watch:
            chosen = _decide(bandit, world, coins, batch, len(world))
        return Played(chosen, watch.cost)

    return play


def _decide(bandit: _Bandit, world: Decisions, coins: Doubles, batch: int, stop: int) -> Codes:
    chosen = np.empty(min(stop, len(world)), np.int64)
    graph, rows, one = bandit.graph, np.arange(batch), np.ones(batch)
    request = np.repeat(rows, CANDIDATES)
    for start in range(0, chosen.size, batch):
        part = slice(start, min(start + batch, chosen.size))
        size = part.stop - start
        user, candidates = world.user[part], world.candidates[part]
        index, weight = bandit.contexts(world.vectors[user])
        mean, bonus = graph.bounds(index, weight, bandit.slots[candidates].ravel(), request[: size * CANDIDATES])
        best = (mean + ALPHA * bonus).reshape(size, CANDIDATES).argmax(axis=1)
        item = candidates[rows[:size], best]
        clicked = coins[part] < world.probability[user, item]
        graph.update(index, weight, bandit.slots[item], one[:size], clicked.astype(np.float64))
        chosen[part] = item
    return chosen


def _policies(centroids: Doubles, options: Namespace) -> dict[str, Play]:
    """Policies of Freshet on the same means and bonuses, with the propensity of each choice, as in serving.

    Epsilon, the factor of the bonus and river's delta are each the best of three.
    """
    policies: dict[str, tuple[Policy, float]] = {
        "epsilon-greedy 0.1 on the same statistics": (EpsilonGreedy(0.1), 0.0),
        "Thompson on the same statistics": (Thompson(), 0.1),
    }
    return {name: _policy_play(centroids, *policy, options.slow_decisions) for name, policy in policies.items()}


def _policy_play(centroids: Doubles, policy: Policy, alpha: float, limit: int) -> Play:
    def play(world: Decisions, coins: Doubles) -> Played:
        bandit, rng = _Bandit(centroids, 0.0), np.random.default_rng(0)
        chosen = np.empty(min(limit, len(world)), np.int64)
        graph, request, one = bandit.graph, np.zeros(CANDIDATES, np.int64), np.ones(1)
        with measure.stopwatch(chosen.size) as watch:
            for t in range(chosen.size):
                user, candidates = world.user[t], world.candidates[t]
                index, weight = bandit.contexts(world.vectors[user][None])
                mean, bonus = graph.bounds(index, weight, bandit.slots[candidates], request)
                ranking = policy.select(mean.astype(np.float32), (alpha * bonus).astype(np.float32), 1, rng)
                chosen[t] = candidates[ranking.rows[0]]
                clicked = np.array([float(coins[t] < world.probability[user, chosen[t]])])
                graph.update(index, weight, bandit.slots[chosen[t : t + 1]], one, clicked)
        return Played(chosen, watch.cost)

    return play


def _peers(options: Namespace) -> dict[str, Play]:
    plays: dict[str, Play] = {}
    if measure.installed("vowpalwabbit", options):
        plays["VW squarecb, true cluster x item"] = _vw_play(options.slow_decisions)
    if measure.installed("river", options):
        plays["river UCB, one per true cluster"] = _river_play(options.slow_decisions)
    return plays


def _vw_play(limit: int) -> Play:
    """The best of 18 settings on this stream, with the true cluster of each user as its feature."""
    settings = "--cb_explore_adf --squarecb --gamma_scale 1000 -l 1 --cb_type mtr -q ua -b 18 --quiet"

    def play(world: Decisions, coins: Doubles) -> Played:
        from vowpalwabbit import Workspace

        rng, clusters, chosen = np.random.default_rng(0), world.cluster.tolist(), np.empty(min(limit, len(world)), np.int64)
        model: Any = Workspace(settings)
        with measure.stopwatch(chosen.size) as watch:
            for t in range(chosen.size):
                user, candidates = int(world.user[t]), world.candidates[t].tolist()
                lines = [f"shared |u c{clusters[user]}", *(f"|a i{item}" for item in candidates)]
                probabilities = np.array(model.predict(lines))
                at = min(int(np.searchsorted(np.cumsum(probabilities), rng.random())), CANDIDATES - 1)
                chosen[t] = candidates[at]
                cost = -float(coins[t] < world.probability[user, chosen[t]])
                lines[at + 1] = f"0:{cost}:{max(float(probabilities[at]), 1e-6)} {lines[at + 1]}"
                model.learn(lines)
        model.finish()
        return Played(chosen, watch.cost)

    return play


def _river_play(limit: int) -> Play:
    def play(world: Decisions, coins: Doubles) -> Played:
        from river.bandit import UCB

        clusters, chosen = world.cluster.tolist(), np.empty(min(limit, len(world)), np.int64)
        policies: list[Any] = [UCB(delta=0.03, seed=cluster) for cluster in range(CLUSTERS)]
        with measure.stopwatch(chosen.size) as watch:
            for t in range(chosen.size):
                user = int(world.user[t])
                policy = policies[clusters[user]]
                chosen[t] = item = policy.pull(world.candidates[t].tolist())
                policy.update(item, float(coins[t] < world.probability[user, item]))
        return Played(chosen, watch.cost)

    return play


if __name__ == "__main__":
    main()
