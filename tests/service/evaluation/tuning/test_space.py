"""The search space: from [tune] or from the learners, its conditions, and its errors."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from service import config as configs
from service.config import ConfigError
from service.evaluation.tuning.declared import space_of
from service.evaluation.tuning.space import Key, Param, Space, as_text

BASE = "[ranker.fm]\nfactors = 2\nlearning_rate = 0.035\n[rerankers.mixture]\n"


def space(tune: str = "", base: str = BASE, learners: tuple[tuple[str, str], ...] = (("ranker", "fm"),)) -> Space:
    document = tomllib.loads(base)
    return space_of(document, configs.parse(tomllib.loads(f"{base}\n[tune]\n{tune}")).tune, learners)


def largest(key: Key) -> Param:
    return key.choices[-1] if key.choices else key.high


def test_without_ranges_the_learners_say_what_is_tuned_widened_to_the_base() -> None:
    found = space()
    crosses = found.keys.pop("ranker.fm.crosses")
    assert [crosses.as_value(choice) for choice in crosses.choices] == [[], ["user * item"]]
    ranges = {path: (key.low, key.high, key.log) for path, key in found.keys.items()}
    assert ranges == {
        "ranker.fm.factors": (2, 64, True),
        "ranker.fm.learning_rate": (0.035, 5.0, True),
        "ranker.fm.factor_learning_rate": (0.02, 3.0, True),
        "ranker.fm.init": (0.01, 0.5, True),
        "ranker.fm.cross_scale": (0.1, 2.0, True),
    }
    assert found.base()["ranker.fm.learning_rate"] == 0.035
    assert found.defaults()["ranker.fm.learning_rate"] == 0.7


def test_a_declared_factor_is_of_the_default_whatever_the_base_has() -> None:
    base = "[ranker.fm_mixture]\nlearning_rates = [0.035, 0.14, 0.0175]\n"
    found = space(base=base, learners=(("ranker", "fm_mixture"),))
    key = found.keys["ranker.fm_mixture.learning_rates"]
    assert (key.low, key.high) == (1.0, pytest.approx(70.0))
    assert key.as_value(20.0) == pytest.approx([0.7, 2.8, 0.35])
    assert found.base()[key.path] == 1.0
    assert found.defaults()[key.path] == pytest.approx(20.0)


def test_ranges_have_the_types_of_their_keys() -> None:
    tune = """
    "ranker.fm.learning_rate" = { low = 1, high = 2 }
    ranker.fm.factors = { low = 4, high = 8 }
    "ranker.fm_mixture.learning_rates.1" = { low = 1, high = 4 }
    "history.length" = { low = 10, high = 50, step = 10 }
    "features.retrieval" = {}
    """
    found = space(tune.replace("ranker.fm_mixture.learning_rates.1", "ranker.fm.l2"))
    assert found.keys["ranker.fm.learning_rate"].as_value(1.23456) == 1.235
    assert not found.keys["ranker.fm.learning_rate"].is_integer
    assert found.keys["ranker.fm.factors"].is_integer
    assert not found.keys["ranker.fm.l2"].is_integer
    assert found.keys["history.length"].step == 10
    assert found.keys["features.retrieval"].choices == (False, True)
    # The base has 2 factors and a rate of 0.035, which the ranges lack.
    assert found.base() == {"history.length": 50, "features.retrieval": False}


def test_keys_of_a_section_that_is_switched_are_drawn_only_with_it() -> None:
    found = space("""
    "rerankers.reloop2" = { switch = true }
    "rerankers.reloop2.memory" = {}
    "rerankers.reloop2.arrays" = { low = 5, high = 30, when = { "rerankers.reloop2.memory" = "sketch" } }
    """)
    assert found.base() == {"rerankers.reloop2": False}
    assert list(found.draw(lambda key: key.choices[0])) == ["rerankers.reloop2"]
    assert found.draw(largest) == {
        "rerankers.reloop2": True,
        "rerankers.reloop2.memory": "sketch",
        "rerankers.reloop2.arrays": 30,
    }

    def neighbours(key: Key) -> Param:
        return "neighbours" if key.path.endswith("memory") else largest(key)

    assert found.draw(neighbours) == {"rerankers.reloop2": True, "rerankers.reloop2.memory": "neighbours"}


def test_a_ranker_is_chosen_with_its_own_keys() -> None:
    found = space('ranker = { choices = ["fm", "bias"] }\n"ranker.bias" = {}\n"ranker.fm.factors" = { low = 1, high = 8 }')
    assert found.base() == {"ranker": "fm", "ranker.fm.factors": 2}
    drawn = found.draw(largest)
    assert drawn["ranker"] == "bias"
    assert "ranker.fm.factors" not in drawn
    assert drawn["ranker.bias.l2"] == 1.0


def test_choices_may_be_lists() -> None:
    found = space(
        '"ranker.fm_mixture.learning_rates" = { choices = [[0.7, 2.8, 0.35], [0.1, 0.2, 0.3]] }', "[ranker.fm_mixture]\n"
    )
    key = found.keys["ranker.fm_mixture.learning_rates"]
    assert [key.as_value(choice) for choice in key.choices] == [[0.7, 2.8, 0.35], [0.1, 0.2, 0.3]]
    assert found.base() == {key.path: key.choices[0]}


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ('"ranker.fm.learning_rate" = { low = 2, high = 1 }', ["ranker.fm.learning_rate", "low = 2", "below high = 1"]),
        ('"ranker.fm.learning_rate" = { low = 0, high = 1, log = true }', ["above 0", "raise it"]),
        ('"ranker.fm.learning_rate" = { low = "a", high = 1 }', ["low = 'a'", "give a number"]),
        ('"ranker.fm.learning_rate" = { low = 0.1 }', ["needs both low and high"]),
        ('"ranker.fm.learning_rate" = { lo = 0.1, high = 1 }', ["lo = 0.1", "did you mean 'low'"]),
        ('"ranker.fm.learning_rate" = { low = 0.1, high = 11.0 }', ["ranker.fm.learning_rate", "high = 11.0", "equal to 10"]),
        ('"ranker.fm.learning_rat" = { low = 0.1, high = 1 }', ["ranker.fm.learning_rat", "no such key", "learning_rate"]),
        ('"ranker.fm.factors" = { low = 2.5, high = 4 }', ["low = 2.5", "integer"]),
        ('"ranker.fm.bits" = {}', ["ranker.fm.bits", "no range is declared", "give low and high"]),
        ('"ranker.bias.l2" = {}', ["no [ranker.bias]", "choices"]),
        ('"rerankers.reloop2.half_life" = {}', ["no [rerankers.reloop2]", "switch = true"]),
        ('"rerankers.relop2" = { switch = true }', ["relop2", "did you mean 'reloop2'"]),
        ('"ranker.fm" = { switch = true }', ["only a learner's section is switched"]),
        ('"stream.window" = { low = 1, high = 2 }', ["stream.window", "cannot be tuned", "remove it"]),
        ('"ranker.fm.factors" = { choices = [4] }', ["two values or more"]),
        ('"ranker.fm.factors" = { choices = [4, "a"] }', ["choices has 'a'", "integer"]),
        ('"ranker.fm.factors" = { low = 4, high = 8, when = { "ranker.fm.l2" = 1 } }', ["'ranker.fm.l2' is not tuned"]),
        ('ranker = { choices = ["fm", "bia"] }', ["bia", "did you mean 'bias'"]),
        (
            '"ranker.fm.l2" = { low = 0, high = 1, when = { "ranker.fm.init" = 1 } }\n'
            '"ranker.fm.init" = { low = 0.1, high = 0.2, when = { "ranker.fm.l2" = 1 } }',
            ["each waits for another", "remove one"],
        ),
    ],
)
def test_an_error_names_the_key_the_value_and_the_remedy(tune: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        space(tune)
    for word in words:
        assert word in str(error.value)


def test_the_ranges_do_not_change_the_fingerprint() -> None:
    def fingerprint(tune: dict[str, Any]) -> str:
        return configs.parse({"tune": tune}).fingerprint

    assert fingerprint({"ranker.fm.factors": {"low": 1, "high": 2}}) == fingerprint({})


def test_what_was_drawn_is_shown_as_in_a_config() -> None:
    crosses = space().keys["ranker.fm.crosses"]
    assert [as_text(choice) for choice in crosses.choices] == ["[]", '["user * item"]']
    assert [as_text(drawn) for drawn in (0.123456, 32, True, "adam")] == ["0.1235", "32", "true", "adam"]
