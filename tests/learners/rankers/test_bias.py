from __future__ import annotations

import numpy as np
import pytest

from learners.contract.checks import outputs
from learners.contract.worlds import cut, feedback_of, world
from learners.rankers.bias import Bias
from memory.stateful import digest


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def stream(rows, seed=0, users=20, items=15):
    """Return clicks and their true probabilities. The log-odds are -1 + user bias + item bias."""
    rng = np.random.default_rng(seed)
    of_user, of_item = np.random.default_rng(99).normal(size=users), np.random.default_rng(98).normal(size=items)
    user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
    odds = -1 + of_user[user] + of_item[item]
    return feedback_of(user=user + 1, item=item + 1, reward=rng.random(rows) < sigmoid(odds)), sigmoid(odds)


def naive(feedback, learning_rate, adaptive, start, l2):
    weights, squares, predictions = {}, {}, []
    for n in range(feedback.rows):
        keys = ["all", ("user", feedback.user[n]), ("item", feedback.item[n])]
        p = sigmoid(sum(weights.get(key, 0.0) for key in keys))
        predictions.append(p)
        reward = feedback.reward[n]
        slope = (p - np.clip(reward, 0, 1)) * feedback.weight[n] * (1 - reward if reward < 0 else max(reward, 1))
        for key in keys:
            gradient = slope + (0 if key == "all" else l2 * weights.get(key, 0.0))
            squares[key] = squares.get(key, start) + gradient**2
            weights[key] = weights.get(key, 0.0) - learning_rate * gradient / (np.sqrt(squares[key]) if adaptive else 1.0)
    return predictions


def predict_then_learn(learner, feedback):
    predictions = []
    for n in range(feedback.rows):
        row = cut(feedback, n, n + 1)
        predictions.append(outputs(learner, row)["score"][0])
        learner.learn(row)
    return predictions


@pytest.mark.parametrize("adaptive", [True, False])
def test_equals_the_formula(adaptive):
    feedback, _ = stream(300)
    feedback.reward[::7] = 3.0
    feedback.reward[::11] = -2.0
    feedback.weight[::5] = 2.5
    learner = Bias(learning_rate=0.3, adaptive=adaptive, initial_accumulator=0.7, l2=0.05)
    assert predict_then_learn(learner, feedback) == pytest.approx(naive(feedback, 0.3, adaptive, 0.7, 0.05), abs=1e-4)


@pytest.mark.parametrize("parameters", [{}, {"adaptive": False, "learning_rate": 0.05}])
def test_learns_the_biases_of_the_world(parameters):
    learner = Bias(**parameters)
    learner.learn(stream(30_000)[0])
    feedback, truth = stream(3000, seed=1)
    predictions = outputs(learner, feedback)["score"]
    assert np.abs(predictions - truth).mean() < 0.05
    assert np.corrcoef(predictions, truth)[0, 1] > 0.97


def test_unknown_users_and_items_have_no_bias():
    learner = Bias()
    learner.learn(stream(5000)[0])
    batch = feedback_of(user=[1, 999, 1, 999], item=[1, 1, 999, 999], reward=[0] * 4)
    predictions = outputs(learner, batch)["score"]
    odds = np.log(predictions / (1 - predictions))
    assert odds[0] - odds[1] == pytest.approx(odds[2] - odds[3], abs=1e-4)
    assert odds[3] == pytest.approx(learner.everybody["bias"][0], abs=1e-5)
    assert len(learner.users) == 20 and len(learner.items) == 15


@pytest.mark.parametrize("size", [1, 13, 240])
@pytest.mark.parametrize("parameters", [{}, {"users": 5, "items": 4}, {"users": 3, "items": 100}])
def test_the_state_does_not_depend_on_the_micro_batch_size(size, parameters):
    feedback = world(2)
    whole, pieces = Bias(**parameters), Bias(**parameters)
    whole.learn(feedback)
    for start in range(0, feedback.rows, size):
        pieces.learn(cut(feedback, start, start + size))
    assert digest(pieces.state_dict()) == digest(whole.state_dict())


def test_forgotten_and_removed_are_unknown():
    learner = Bias()
    learner.learn(stream(5000)[0])
    batch = feedback_of(user=[1, 999, 2], item=[2, 2, 1], reward=[0] * 3)
    before = outputs(learner, batch)["score"]
    learner.forget(np.array([1, 777]))
    after = outputs(learner, batch)["score"]
    assert after[0] == after[1] == before[1] and after[2] == before[2]
    learner.remove(np.array([2, 777]))
    assert outputs(learner, batch)["score"][0] == pytest.approx(sigmoid(learner.everybody["bias"][0]))


def test_id_0_is_not_learned():
    learner = Bias()
    learner.learn(feedback_of(user=[0, 1], item=[1, 0], reward=[1, 1]))
    assert len(learner.users) == len(learner.items) == 1
    assert learner.users["bias"][-1] == learner.items["bias"][-1] == 0


def test_recovers_from_a_shift():
    """Preferences are inverted after 40,000 rows. A constant learning rate recovers faster than an adaptive one."""
    errors = {}
    for adaptive, learning_rate in ((True, 0.5), (False, 0.1)):
        learner = Bias(adaptive=adaptive, learning_rate=learning_rate)
        learner.learn(stream(40_000)[0])
        feedback, truth = stream(2000, seed=1)
        feedback.reward = 1 - feedback.reward
        learner.learn(feedback)
        errors[adaptive] = np.abs(outputs(learner, feedback)["score"] - (1 - truth)).mean()
    assert errors[False] < 0.5 * errors[True]
