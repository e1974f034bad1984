"""What obp and vw-estimators say about the decisions in an .npz file, as JSON; run by their environment's Python.

    python -m venv peers && peers/bin/pip install --no-deps obp==0.4.1 vw-estimators==0.2.2
    peers/bin/pip install numpy scipy pandas scikit-learn pyyaml tqdm matplotlib seaborn torch mypy-extensions
    peers/bin/python tests/golden/ope_peers.py decisions.npz

The file: reward (n,), propensity (n,), action (n,) int, chances (n, actions), predicted (n, actions).
"""

from __future__ import annotations

import json
import sys

import numpy as np
from estimators.bandits import ips, snips
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    InverseProbabilityWeighting,
    SelfNormalizedInverseProbabilityWeighting,
)

given = np.load(sys.argv[1])
reward, propensity, action = (given[name] for name in ("reward", "propensity", "action"))
chances, predicted = (given[name][:, :, None] for name in ("chances", "predicted"))
logged = {
    "reward": reward,
    "pscore": propensity,
    "action": action,
    "position": np.zeros(len(action), int),
    "action_dist": chances,
}
model = {"estimated_rewards_by_reg_model": predicted}
told = {
    "obp ips": InverseProbabilityWeighting().estimate_policy_value(**logged),
    "obp snips": SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**logged),
    "obp dm": DirectMethod().estimate_policy_value(**logged, **model),
    "obp dr": DoublyRobust().estimate_policy_value(**logged, **model),
}
for name, estimator in (("vw ips", ips.Estimator()), ("vw snips", snips.Estimator())):
    for n, chosen in enumerate(action):
        estimator.add_example(float(propensity[n]), float(reward[n]), float(chances[n, chosen, 0]))
    told[name] = estimator.get()
print(json.dumps({name: float(value) for name, value in told.items()}))
