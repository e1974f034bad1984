"""Every ranker that works on plain features is a classifier of scikit-learn, by scikit-learn's own checks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

import freshet
from tests.freshet.test_river_adapter import NETWORK, SMALL

EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "A row of weight 2 is one step of twice the length, not two steps.",
}
"""Checks that do not apply, with the reason."""

ESTIMATORS = [
    freshet.SklearnClassifier("fm", SMALL["fm"]),
    freshet.SklearnClassifier("fm_mixture", SMALL["fm_mixture"]),
    freshet.SklearnClassifier("river_model", SMALL["river_model"]),
    freshet.SklearnClassifier("deep", NETWORK, epochs=10),
    freshet.SklearnClassifier("dsl", SMALL["dsl"], epochs=10),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda estimator: EXPECTED)
def test_it_passes_the_check_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Only who is young, or red and old, says yes."""
    rng = np.random.default_rng(4)
    age, colour = rng.uniform(18, 80, count), rng.choice(["red", "blue"], count)
    table = np.empty((count, 2), object)
    table[:, 0], table[:, 1] = age, colour
    return table, np.where((age < 40) | (colour == "red"), "yes", "no")


@pytest.mark.parametrize("ranker", SMALL)
def test_texts_are_categories(ranker: str) -> None:
    X, y = rows(800)
    X[5, 0] = X[7, 1] = None
    model = freshet.SklearnClassifier(ranker, SMALL[ranker], epochs=5).fit(X[:600], y[:600])
    assert model.classes_.tolist() == ["no", "yes"]
    most = max(np.mean(y[600:] == name) for name in ("yes", "no"))
    assert model.score(X[600:], y[600:]) > most + 0.05


def test_batches_in_turn_are_one_pass() -> None:
    X, y = rows(256)
    model = freshet.SklearnClassifier("fm", SMALL["fm"])
    turns = clone(model)
    for start in range(0, 256, 64):
        turns.partial_fit(X[start : start + 64], y[start : start + 64], classes=["no", "yes"])
    np.testing.assert_array_equal(turns.predict_proba(X), model.fit(X, y).predict_proba(X))


def test_a_data_frame_fits_and_a_search_finds() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = rows(300)
    frame = pandas.DataFrame({"age": X[:, 0].astype(float), "colour": X[:, 1]})
    model = freshet.SklearnClassifier("fm", SMALL["fm"], epochs=3).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["age", "colour"]
    assert model.score(frame, y) > 0.8
    search = GridSearchCV(
        make_pipeline(PolynomialFeatures(), freshet.SklearnClassifier("fm", SMALL["fm"])),
        {"sklearnclassifier__epochs": [1, 8]},
        cv=2,
    )
    assert search.fit(frame[["age"]], y).best_params_["sklearnclassifier__epochs"] in (1, 8)


def test_wrong_input_is_refused_by_name() -> None:
    X, y = rows(20)
    with pytest.raises(freshet.ConfigError, match=r"\[ranker.fm\] factor = 4: no such key"):
        freshet.SklearnClassifier("fm", {"factor": 4}).fit(X, y)
    with pytest.raises(ValueError, match=r"epochs: 0 is less than 1"):
        freshet.SklearnClassifier("fm", SMALL["fm"], epochs=0).fit(X, y)
    model = freshet.SklearnClassifier("fm", SMALL["fm"]).fit(X, y)
    with pytest.raises(ValueError, match=r"y: 'perhaps' is not one of \['no', 'yes'\]"):
        model.partial_fit(X[:1], ["perhaps"])


def test_without_scikit_learn_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import freshet; freshet.SklearnClassifier"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "scikit-learn is not installed, and SklearnClassifier needs it; run: pip install 'freshet[frames]'" in done.stderr
