"""Every ranker that works on plain features is a classifier of River, by River's own checks."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from river import checks, compose, datasets, evaluate, metrics

import freshet
from freshet.plain_features import RANKERS, SPARE
from learners.base import Ranker
from learners.registry import available

NETWORK = {"factors": 4, "bits": 10, "hidden": 8}
SMALL: dict[str, dict[str, Any]] = {
    "deep": NETWORK,
    "dsl": NETWORK | {"budget": 1.0, "item_budget": 1.0},
    "fm": {"factors": 4, "bits": 10},
    "fm_mixture": {"factors": 4, "bits": 10},
    "river_model": {},
}
NEEDS_IDS = {
    "bias": "Its parameters are those of users and items.",
    "sequential": "It ranks by what a user liked last, with the model of a retriever.",
}
SKIPPED: dict[str, str] = {}
"""Checks of River that do not apply, with the reason: none."""

SLOW = {
    "check_bounded_memory_growth": "A network learns 2,000 single rows in 12 s. Its tables have fixed sizes.",
    "check_pickling": "A network is pickled after each of 200 rows. The adapter pickles all rankers in the same way.",
}
"""Checks that a network passes, but too slowly for every run."""


def yielded(ranker: str) -> list[Any]:
    """The checks of a ranker. The second data set has the first one's rows with numpy's labels: `fm` alone takes both."""
    found: dict[str, Callable[[Any], None]] = {}
    for check in checks.yield_checks(freshet.RiverClassifier(ranker, SMALL[ranker])):
        name: str = check.__name__
        if name in SKIPPED or (ranker in ("deep", "dsl") and name in SLOW):
            continue
        if name not in found:
            found[name] = check
        elif ranker == "fm":
            found[f"{name}-numpy"] = check
    return [pytest.param(ranker, check, id=f"{ranker}-{name}") for name, check in found.items()]


def test_every_ranker_either_works_on_plain_features_or_says_why_not() -> None:
    assert set(RANKERS) == set(SMALL)
    assert set(RANKERS) | set(NEEDS_IDS) == set(available(Ranker))
    for ranker in NEEDS_IDS:
        with pytest.raises(
            freshet.ConfigError, match=f"{ranker!r} is no ranker for plain features; choose one of deep, dsl, fm"
        ):
            freshet.RiverClassifier(ranker)


@pytest.mark.parametrize(("ranker", "check"), [one for ranker in SMALL for one in yielded(ranker)])
def test_it_passes_the_check_of_river(ranker: str, check: Callable[[Any], None]) -> None:
    check(freshet.RiverClassifier(ranker, SMALL[ranker]))


@pytest.mark.parametrize("ranker", SMALL)
def test_it_learns_what_is_a_phishing_page(ranker: str) -> None:
    model = freshet.RiverClassifier(ranker, SMALL[ranker])
    auc = evaluate.progressive_val_score(datasets.Phishing().take(400), model, metrics.ROCAUC()).get()
    # The share of pages alone has 0.5.
    assert auc > 0.9


def test_texts_are_categories_and_it_fits_into_a_pipeline() -> None:
    model = compose.Discard("noise") | freshet.RiverClassifier("fm", SMALL["fm"])
    for n in range(200):
        model.learn_one({"colour": "rb"[n % 2], "size": n % 7, "noise": n}, n % 2 == 0)
    assert model.predict_proba_one({"colour": "r"})[True] > 0.9
    assert model.predict_one({"colour": "b", "size": 3}) is False


def test_a_weight_of_0_teaches_nothing() -> None:
    model = freshet.RiverClassifier("fm", SMALL["fm"])
    model.learn_one({"a": 1.0}, True)
    before = model.predict_proba_one({"a": 2.0})
    model.learn_one({"a": 5.0}, False, w=0.0)
    assert model.predict_proba_one({"a": 2.0}) == before


def test_a_network_has_room_for_some_new_features() -> None:
    model = freshet.RiverClassifier("deep", SMALL["deep"])
    model.learn_one({"a": 1.0}, True)
    for _ in range(40):
        model.learn_one({"a": 1.0, "colour": "red"}, True)
        model.learn_one({"a": 1.0, "colour": "blue"}, False)
    assert model.predict_one({"a": 1.0, "colour": "red"})
    assert not model.predict_one({"a": 1.0, "colour": "blue"})
    again = pickle.loads(pickle.dumps(model))
    assert again.predict_proba_one({"colour": "red"}) == model.predict_proba_one({"colour": "red"})
    with pytest.raises(ValueError, match=f"x: more than {SPARE} features that the first row did not have"):
        model.learn_one({f"n{n}": 1.0 for n in range(SPARE + 1)}, True)


def test_wrong_input_is_refused_by_name() -> None:
    with pytest.raises(freshet.ConfigError, match=r"\[ranker.fm\] factor = 4: no such key; did you mean 'factors'"):
        freshet.RiverClassifier("fm", {"factor": 4})
    with pytest.raises(ValueError, match="y: 'yes' is not True or False"):
        freshet.RiverClassifier("fm", SMALL["fm"]).learn_one({"a": 1.0}, "yes")
    with pytest.raises(freshet.ConfigError, match=r"ranker\.dsl"):
        freshet.RiverClassifier("dsl", NETWORK).learn_one({"a": 1.0}, True)
