from __future__ import annotations

import numpy as np
import pytest
from river import linear_model, optim, preprocessing, tree

from learners.base import Ranker
from learners.contract.checks import check_learner, outputs
from learners.contract.worlds import feedback_of, world
from learners.rankers.river_model import RiverModel
from learners.registry import ConfigError, build

SGD = {"optimizer": {"class": "river.optim.SGD", "lr": 0.2}}
SCALED = {"arguments": [{"class": "river.preprocessing.MaxAbsScaler"}, {"class": "river.linear_model.LinearRegression"}]}
MODELS = {
    "linear": {"parameters": SGD},
    "tree": {"model": "river.tree.HoeffdingTreeClassifier", "encoding": "columns", "numbers": (4,)},
    "bayes": {"model": "river.naive_bayes.BernoulliNB"},
    "regression": {"model": "river.compose.Pipeline", "parameters": SCALED, "bits": 10},
}


@pytest.mark.parametrize("name", MODELS)
def test_contract(name):
    check_learner(lambda: RiverModel(**MODELS[name]))


def test_equals_river_alone():
    feedback = world(1)
    ranker, alone = RiverModel(parameters=SGD), linear_model.LogisticRegression(optimizer=optim.SGD(0.2))
    ranker.learn(feedback)
    rows = [
        {int(k) % 2**22: float(v) for k, v in zip(keys, values, strict=True) if k}
        for keys, values in zip(feedback.features, feedback.values, strict=True)
    ]
    for x, reward in zip(rows, feedback.reward, strict=True):
        alone.learn_one(x, bool(reward > 0))
    assert outputs(ranker, feedback)["score"] == pytest.approx([alone.predict_proba_one(x)[True] for x in rows], rel=1e-6)


def test_columns_are_names_with_keys_or_numbers():
    feedback = world(1)
    ranker, alone = RiverModel(**MODELS["tree"]), tree.HoeffdingTreeClassifier()
    ranker.learn(feedback)
    for keys, values, reward in zip(feedback.features, feedback.values, feedback.reward, strict=True):
        x = {f"f{c}": float(values[c]) if c == 4 else str(keys[c] % 2**22) for c in range(6) if keys[c]}
        alone.learn_one(x, bool(reward > 0))
    assert outputs(ranker, feedback)["score"][-1] == pytest.approx(alone.predict_proba_one(x)[True])


def test_it_learns_the_world():
    ranker = RiverModel(parameters=SGD)
    for seed in range(5):
        ranker.learn(world(seed, rows=500, users=12, items=12))
    predictions = outputs(ranker, world(9, rows=500, users=12, items=12))["score"]
    assert np.all((predictions > 0) & (predictions < 1))
    assert predictions.std() > 0.02


def test_nested_models_are_built():
    built = RiverModel(model="river.compose.Pipeline", parameters=SCALED).model.value
    assert [type(step) for step in built.steps.values()] == [preprocessing.MaxAbsScaler, linear_model.LinearRegression]


def test_weights_reach_the_model():
    rows = {"user": [1, 2, 1], "item": [1, 2, 3], "reward": [1, 0, 1]}
    plain, weighted = RiverModel(), RiverModel()
    plain.learn(feedback_of(**rows))
    weighted.learn(feedback_of(**rows, weight=[1, 3, 1]))
    batch = feedback_of(**rows)
    assert outputs(weighted, batch)["score"][1] < outputs(plain, batch)["score"][1]


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"model": "os.system"}, r"class 'os\.system' is not a River class; give a path that begins with"),
        ({"model": "riverside.Model"}, "is not a River class"),
        ({"model": "river.linear_model.Nothing"}, r"river\.linear_model\.Nothing does not exist .* API reference"),
        ({"model": "river.nothing.Model"}, r"river\.nothing\.Model does not exist"),
        ({"model": "river.linear_model.base"}, r"is not a River class"),
        ({"model": "river.base.base.Any"}, r"(is not a River class|does not exist)"),
        ({"model": "river.preprocessing.StandardScaler"}, "neither a classifier nor a regressor"),
        ({"parameters": {"l3": 1}}, r"LogisticRegression cannot be built .*l3.* its keywords are .*l2"),
        (
            {"parameters": {"optimizer": {"class": "subprocess.Popen"}}},
            r"model\.optimizer: class 'subprocess\.Popen' is not a River class",
        ),
        ({"encoding": "other"}, "encoding = 'other'"),
    ],
)
def test_refusals_name_the_remedy(keywords, problem):
    with pytest.raises(ConfigError, match=problem):
        build(Ranker, "river_model", keywords, "ranker.river_model")


def test_a_state_loads_without_trust_in_its_folder():
    learner, other = RiverModel(**MODELS["tree"]), RiverModel(**MODELS["tree"])
    learner.learn(world(1))
    other.load_state_dict(learner.state_dict())
    batch = world(2)
    assert np.array_equal(outputs(learner, batch)["score"], outputs(other, batch)["score"])
