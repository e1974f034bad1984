"""Decisions for comparing the off-policy estimators with their peers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from service.evaluation.estimators import Decisions
from streams.readers.decisions import Decision, open_decisions

OPEN_BANDIT = Path(__file__).parents[3].parent / "shared" / "data" / "obd-small"
PAIRS = [(logged, target, campaign) for logged, target in (("random", "bts"), ("bts", "random")) for campaign in ("all", "men")]

Arrays = dict[str, np.ndarray]


def made_up() -> Arrays:
    """Sixty random decisions among five actions."""
    rng = np.random.default_rng(20)
    n, actions = 60, 5
    logging = rng.dirichlet(np.ones(actions), n)
    action = np.array([rng.choice(actions, p=row) for row in logging])
    return {
        "reward": np.round(rng.normal(size=n), 3),
        "propensity": logging[np.arange(n), action],
        "action": action,
        "chances": rng.dirichlet(np.full(actions, 0.5), n),
        "predicted": rng.normal(size=(n, actions)),
    }


def open_bandit(logged: str, target: str, campaign: str) -> Arrays:
    """One policy's sample. The evaluated policy has the other policy's shares of the items at each position.

    The reward model is the click-through of each item, smoothed with 100 rows of the mean.
    """
    rows = _read(logged, campaign)
    items = sorted({item for one in rows for item in (one.impression.items[0], *one.others)}, key=int)
    number = {item: n for n, item in enumerate(items)}
    action = np.array([number[one.impression.items[0]] for one in rows])
    reward = np.array([one.rewards[0] for one in rows])
    clicks, shown = np.bincount(action, reward, len(items)), np.bincount(action, minlength=len(items))
    model = (clicks + 100 * reward.mean()) / (shown + 100)
    counts = Counter((one.impression.context["position"], number[one.impression.items[0]]) for one in _read(target, campaign))
    shares = {at: np.array([counts[at, n] for n in range(len(items))], float) for at in (1.0, 2.0, 3.0)}
    positions = [float(one.impression.context["position"]) for one in rows]
    return {
        "reward": reward,
        "propensity": np.array([one.impression.propensities[0] for one in rows]),
        "action": action,
        "chances": np.stack([shares[at] / shares[at].sum() for at in positions]),
        "predicted": np.tile(model, (len(rows), 1)),
    }


def clicks(policy: str, campaign: str) -> float:
    """True click-through of a policy."""
    return float(np.mean([one.rewards[0] for one in _read(policy, campaign)]))


def decisions(given: Arrays) -> Decisions:
    """Convert to the input of this project's estimators."""
    rows = np.arange(given["reward"].size)
    expected = (given["chances"] * given["predicted"]).sum(axis=1)
    return Decisions(
        start=rows,
        reward=given["reward"].astype(float),
        propensity=given["propensity"],
        target=given["chances"][rows, given["action"]],
        importance=np.ones(rows.size),
        predicted=given["predicted"][rows, given["action"]],
        expected=expected,
        on_policy=expected,
    )


def _read(policy: str, campaign: str) -> list[Decision]:
    path = OPEN_BANDIT / policy / campaign / f"{campaign}.csv"
    return [one for one in open_decisions(path).read() if isinstance(one, Decision)]
