"""Tuning on a log: impressions with their rewards, and off-policy estimates."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service import config as configs
from service.config import Config
from service.evaluation.estimators import doubly_robust
from service.evaluation.off_policy import evaluate
from service.evaluation.replay import replay
from service.evaluation.tuning.policies import LoggedDecisions
from service.evaluation.tuning.replays import Stream
from service.evaluation.tuning.samples import Objective
from service.evaluation.tuning.tune import Plan, tune
from streams.events import Impression, Interaction
from streams.lmdb_log import LmdbLog
from tests.service.conftest import records
from tests.worlds import START

MakeConfig = Callable[..., Config]
HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0\n"
POLICY = """
[stream]
format = "open_bandit"
[features]
crosses = ["context.user_feature_0 * item.id"]
[features.context]
user_feature_0 = "category"
[ranker.fm]
bits = 12
learning_rate = 0.01
factor_learning_rate = 0.02
[policy.epsilon_greedy]
epsilon = 0.9
[tune]
"ranker.fm.learning_rate" = {}
"policy.epsilon_greedy.epsilon" = { low = 0.1, high = 0.9 }
"""


@pytest.fixture
def bandit(tmp_path: Path) -> Path:
    """Random choices among four items; users of two kinds click at 0.4 on the items of their kind, at 0.05 on others."""
    rng = np.random.default_rng(0)
    kind, item = rng.integers(0, 2, 1500), rng.integers(0, 4, 1500)
    click = rng.random(1500) < np.where(kind == item % 2, 0.4, 0.05)
    times = [f"2019-11-24 {n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}+00:00" for n in range(1500)]
    lines = (f"{n},{times[n]},{item[n]},1,{int(click[n])},0.25,u{kind[n]}" for n in range(1500))
    path = tmp_path / "men.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def test_a_policy_is_tuned_by_the_lower_bound_of_its_estimate(bandit: Path, tmp_path: Path) -> None:
    document = tomllib.loads(POLICY)
    document["stream"]["url"] = f"file:{bandit}"
    plan = Plan(document=document, name="new", study=tmp_path / "s", objectives=(Objective.OFF_POLICY,), trials=5)
    tuned = tune(plan)
    assert (tuned.first, tuned.total) == (900, 1500)
    found = evaluate(configs.parse(document), limit=900)
    assert found.result.impressions == len(found.request_ids) == 900
    estimate = doubly_robust(found.decisions).value
    assert estimate - 0.1 < tuned.tried[0].value < estimate
    assert tuned.confirmation is not None
    assert tuned.confirmation.holds
    assert tuned.confirmation.units == 600
    # The best of the first part explores less.
    assert tuned.values["policy.epsilon_greedy.epsilon"] < 0.9


def test_the_first_impressions_are_estimated_as_if_the_log_ended_there(bandit: Path) -> None:
    document = tomllib.loads(POLICY)
    document["stream"]["url"] = f"file:{bandit}"
    config = configs.parse(document)
    whole = LoggedDecisions(0.6).trial(config, None, lambda step, value: False)
    bandit.write_text("".join(bandit.read_text().splitlines(keepends=True)[:901]))
    assert LoggedDecisions(1.0).trial(config, None, lambda step, value: False).value == pytest.approx(whole.value)


@pytest.mark.parametrize("objective", [Objective.REWARD, Objective.AUC, Objective.LOG_LOSS])
def test_the_objectives_of_a_log_are_those_of_its_replay(objective: Objective, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path, stream={"batch_rows": 16})
    log = LmdbLog(tmp_path / "events")
    rng, events = np.random.default_rng(4), []
    for n in range(200):
        items, time = (f"i{n % 7}", f"i{n % 5 + 10}"), START + 10.0 * n
        events.append(Impression(request_id=f"r{n}", user=f"u{n % 20}", items=items, timestamp=time))
        if rng.random() < 0.5:
            item = items[int(rng.random() < 0.3)]
            events.append(Interaction(id=f"c{n}", request_id=f"r{n}", user=f"u{n % 20}", item=item, timestamp=time + 1))
    log.append(records(events))
    log.close()
    told: dict[int, float] = {}
    result = Stream(objective, 10, 0.5).trial(config, None, lambda step, value: told.setdefault(step, value) != value)
    done = replay(config, k=0)
    name = list(done.quality)[-1]
    measured = Stream(objective, 10, 0.5).whole(config).value()
    quality = {Objective.REWARD: "top_reward", Objective.AUC: "auc", Objective.LOG_LOSS: "log_loss"}[objective]
    assert result.total == done.rows == 400
    assert result.first == 200
    assert measured == pytest.approx(getattr(done.quality[name], quality), abs=1e-6)
    assert told[8] == result.value
