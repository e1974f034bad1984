"""Logs of simulated policies whose value is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from service.evaluation.estimators import Decisions

CONTEXTS, ACTIONS = 4, 6
_RNG = np.random.default_rng(99)
REWARD = _RNG.beta(1.0, 3.0, (CONTEXTS, ACTIONS))
"""Probability of a click by context and action."""
LOGGING = _RNG.dirichlet(np.full(ACTIONS, 2.0), CONTEXTS)
TARGET = _RNG.dirichlet(np.full(ACTIONS, 0.7), CONTEXTS)
VALUE = float((TARGET * REWARD).sum(axis=1).mean())
LOGGED = float((LOGGING * REWARD).sum(axis=1).mean())


def one_position(n: int, seed: int, model: np.ndarray | None = None, propensities: np.ndarray | None = None) -> Decisions:
    """Decisions of one position.

    Parameters
    ----------
    n, seed : int
    model : (contexts, actions) or None
        Predictions of the reward model; None: the truth.
    propensities : (contexts, actions) or None
        Logged propensities; None: the truth.
    """
    return _drawn(
        n, seed, REWARD, LOGGING, TARGET, REWARD if model is None else model, LOGGING if propensities is None else propensities
    )


RARE = _RNG.gamma(2.0, 0.005, (3, 30))
"""Probability of a click, about one in a hundred. The logging policy rarely shows what the evaluated policy shows."""
_SKEWED = 0.97 * _RNG.dirichlet(np.full(30, 0.6), 3) + 0.03 / 30
RARE_VALUE = float(RARE.mean())
RARE_LOGGED = float((_SKEWED * RARE).sum(axis=1).mean())


def rare(n: int, seed: int) -> Decisions:
    """Decisions with few clicks and weights up to about 30: the evaluated policy is uniform. The model predicts nothing."""
    uniform = np.full_like(RARE, 1 / 30)
    return _drawn(n, seed, RARE, _SKEWED, uniform, np.zeros_like(RARE), _SKEWED)


def _drawn(
    n: int, seed: int, reward: np.ndarray, logging: np.ndarray, target: np.ndarray, model: np.ndarray, propensities: np.ndarray
) -> Decisions:
    rng = np.random.default_rng(seed)
    contexts, actions = reward.shape
    context = rng.integers(contexts, size=n)
    action = (rng.random(n)[:, None] > logging[context].cumsum(axis=1)).sum(axis=1).clip(max=actions - 1)
    expected = (target * model).sum(axis=1)[context]
    return Decisions(
        start=np.arange(n),
        reward=(rng.random(n) < reward[context, action]).astype(float),
        propensity=propensities[context, action],
        target=target[context, action],
        importance=np.ones(n),
        predicted=model[context, action],
        expected=expected,
        on_policy=expected,
    )


ITEMS, POSITIONS = 4, 3
_WEIGHTS = np.array([[1.0, 2.0, 3.0, 1.5], [4.0, 1.0, 0.5, 2.0]])
"""Weights of the items under the logging and the evaluated policy. Each position draws a remaining item in proportion."""


def click(above: list[int], item: int) -> float:
    """Probability of a click, which depends on the item just above."""
    base = 0.1 + 0.15 * item
    return base * (0.3 if above and above[-1] > item else 1.0)


def _probabilities(policy: int, above: list[int]) -> np.ndarray:
    weights = _WEIGHTS[policy].copy()
    weights[above] = 0
    return weights / weights.sum()


def list_value(policy: int) -> float:
    """Exact mean reward per position in lists of this policy."""

    def below(above: list[int]) -> float:
        if len(above) == POSITIONS:
            return 0.0
        probabilities = _probabilities(policy, above)
        return sum(probabilities[i] * (click(above, i) + below([*above, i])) for i in range(ITEMS) if probabilities[i])

    return below([]) / POSITIONS


def position_value() -> float:
    """Exact mean reward per position if the logging policy fills the positions above and the evaluated one only this."""

    def below(above: list[int]) -> float:
        if len(above) == POSITIONS:
            return 0.0
        mine, theirs = _probabilities(1, above), _probabilities(0, above)
        return sum(mine[i] * click(above, i) + theirs[i] * below([*above, i]) for i in range(ITEMS) if theirs[i])

    return below([]) / POSITIONS


def lists(m: int, seed: int, *, chain: bool = True, model: float = 1.0) -> Decisions:
    """Lists of three of four items; the model predicts `model` times the truth."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(m):
        above: list[int] = []
        own: list[int] = []
        for _ in range(POSITIONS):
            theirs, mine, given_own = _probabilities(0, above), _probabilities(1, above), _probabilities(1, own)
            item = int(rng.choice(ITEMS, p=theirs))
            clicks = np.array([click(above, i) for i in range(ITEMS)])
            own_clicks = np.array([click(own, i) for i in range(ITEMS)])
            reward = float(rng.random() < clicks[item])
            rows.append(
                (
                    reward,
                    theirs[item],
                    mine[item],
                    model * clicks[item],
                    model * (mine @ clicks),
                    model * (given_own @ own_clicks),
                )
            )
            above.append(item)
            own.append(int(rng.choice(ITEMS, p=given_own)))
    reward, propensity, target, predicted, expected, own_expected = np.array(rows).T
    return Decisions(
        start=np.arange(0, POSITIONS * m, POSITIONS),
        reward=reward,
        propensity=propensity,
        target=target,
        importance=np.ones(POSITIONS * m),
        predicted=predicted,
        expected=expected,
        on_policy=own_expected if chain else expected,
        chain=chain,
    )


def equal(decisions: Decisions) -> Decisions:
    """The evaluated policy is the logging one."""
    return replace(decisions, target=decisions.propensity)
