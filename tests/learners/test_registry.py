from __future__ import annotations

import sys
import types
from typing import Annotated

import pytest
from pydantic import Field

from learners.base import Adapter, Policy, Ranker, Reranker, Retriever
from learners.registry import ConfigError, available, build, check_keywords, find, register

ROLES = [Retriever, Ranker, Adapter, Reranker, Policy]


class Settings:
    def __init__(
        self,
        model: str,
        factors: Annotated[int, Field(gt=0, le=1024)] = 16,
        learning_rate: float = 0.1,
        adaptive: bool = True,
        sizes: tuple[int, ...] = (64, 32),
        schema: dict[str, float] | None = None,
    ) -> None:
        pass


@pytest.fixture
def module(request):
    """An importable module outside of the package."""
    name = f"other_package.{request.node.name}"
    module = sys.modules[name] = types.ModuleType(name)
    yield module
    del sys.modules[name]


def define(module, name, role=Ranker, registered=None):
    cls = type(name, (role,), {"__module__": module.__name__, "score": lambda self, batch, delta=None: None})
    return register(registered or name.lower())(cls)


@pytest.mark.parametrize("role", ROLES)
def test_every_file_listed_can_be_found(role):
    for name in available(role):
        assert issubclass(find(role, name), role)


def test_policies_by_name():
    assert available(Policy) == ["epsilon_greedy", "greedy", "plackett_luce", "thompson", "top_k_random", "ucb"]
    assert build(Policy, "ucb", {"alpha": 2}).alpha == 2


def test_build_passes_exactly_the_keywords_given():
    assert check_keywords(Settings, {"model": "a", "learning_rate": 1}, "ranker.x") == {"model": "a", "learning_rate": 1.0}
    assert check_keywords(Settings, {"model": "a", "sizes": [1, 2]}, "x") == {"model": "a", "sizes": (1, 2)}
    assert check_keywords(Settings, {"model": "a", "schema": {"k": 1.5}}, "x")["schema"] == {"k": 1.5}


@pytest.mark.parametrize(
    ("keywords", "parts"),
    [
        ({"model": "m", "factor": 3}, ["factor = 3", "no such key", "did you mean 'factors'"]),
        ({"model": "m", "zzz": 3}, ["zzz = 3", "no such key", "the keys are: model, factors"]),
        ({}, ["model is missing", "set it to a text"]),
        ({"model": 3}, ["model = 3", "string"]),
        ({"model": "m", "factors": "3"}, ["factors = '3'", "integer", "leave it out (default 16)"]),
        ({"model": "m", "factors": 3.5}, ["factors = 3.5", "integer"]),
        ({"model": "m", "factors": True}, ["factors = True", "integer"]),
        (
            {"model": "m", "factors": 0},
            ["factors = 0", "greater than 0", "give a whole number above 0, at most 1024"],
        ),
        ({"model": "m", "factors": 2000}, ["factors = 2000", "1024"]),
        ({"model": "m", "adaptive": 1}, ["adaptive = 1", "boolean"]),
        ({"model": "m", "sizes": [1, "2"]}, ["sizes[1] = '2'", "integer"]),
    ],
)
def test_keywords_are_refused_by_name(keywords, parts):
    with pytest.raises(ConfigError) as refused:
        check_keywords(Settings, keywords, "ranker.x")
    for part in ["[ranker.x]", *parts]:
        assert part in str(refused.value)


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError) as refused:
        check_keywords(Settings, {"factors": 0, "what": 1}, "ranker.x")
    assert len(refused.value.problems) == 3
    assert refused.value.where == "ranker.x"
    assert str(refused.value).count("[ranker.x]") == 3


def test_unknown_names_get_the_closest_match():
    with pytest.raises(ConfigError, match=r"\[policy.gredy\] no policy is called 'gredy'; did you mean 'greedy'\?"):
        build(Policy, "gredy", {})
    with pytest.raises(ConfigError, match=r"\[rankers.nothing_like\] no ranker is called .*choose one of .*bias"):
        build(Ranker, "nothing_like", {}, "rankers.nothing_like")


def test_a_name_of_another_role_says_where_it_belongs():
    with pytest.raises(ConfigError, match="'popularity' is a retriever, not a ranker; move it"):
        build(Ranker, "popularity", {})


@pytest.mark.parametrize("name", ["", "../bias", "networks/../bias", "base"])
def test_only_learners_can_be_named(name):
    with pytest.raises(ConfigError, match="no ranker is called"):
        build(Ranker, name, {})


def test_a_module_can_be_given_by_its_path(module):
    cls = define(module, "Mine")
    assert type(build(Ranker, module.__name__, {})) is cls


def test_a_module_given_by_its_path_must_register_one_learner(module):
    with pytest.raises(ConfigError, match="registers none, and must register one Ranker"):
        build(Ranker, module.__name__, {})
    define(module, "One")
    define(module, "Two")
    with pytest.raises(ConfigError, match="registers one, two, and must register one Ranker"):
        build(Ranker, module.__name__, {})


def test_a_missing_module_is_named():
    with pytest.raises(ConfigError, match=r"module 'nowhere\.at_all' cannot be imported .* check the path"):
        build(Ranker, "nowhere.at_all", {})


def test_the_constructor_may_refuse_values(module):
    class Fussy(Ranker):
        def __init__(self, low: int = 0, high: int = 1) -> None:
            if low >= high:
                raise ValueError(f"low: {low} is not below high = {high}; lower it")

        def score(self, batch, delta=None):
            pass

    Fussy.__module__ = module.__name__
    register("fussy")(Fussy)
    with pytest.raises(ConfigError, match=r"\[ranker.f\] low: 2 is not below high = 1; lower it"):
        build(Ranker, module.__name__, {"low": 2}, "ranker.f")


def test_register_needs_one_role_and_a_free_name(module):
    with pytest.raises(TypeError, match="exactly one of"):
        register("x")(int)
    define(module, "First", registered="same")
    with pytest.raises(ValueError, match=r"First of other_package.* has this name"):
        define(module, "Second", registered="same")


def test_constructor_keywords_must_be_named_and_typed():
    class Loose:
        def __init__(self, **anything: int) -> None:
            pass

    class Untyped:
        def __init__(self, factors=3) -> None:
            pass

    with pytest.raises(TypeError, match="anything; replace it by named keywords"):
        check_keywords(Loose, {}, "x")
    with pytest.raises(TypeError, match="factors; annotate its type"):
        check_keywords(Untyped, {}, "x")


def test_objects_are_checked_by_their_class():
    class Wrapper:
        def __init__(self, ranker: Ranker) -> None:
            pass

    with pytest.raises(ConfigError, match="instance of Ranker"):
        check_keywords(Wrapper, {"ranker": "bias"}, "x")
