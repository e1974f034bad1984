"""What learners declare to be worth tuning: within their own bounds, and around their defaults."""

from __future__ import annotations

import pytest

from learners import registry
from learners.registry import FOLDERS, ConfigError, available, check_keywords, find
from learners.tunable import Options, tunable

DECLARED = [
    (role, name, keyword)
    for role in FOLDERS
    for name in available(role)
    for keyword in tunable(find(role, name))
]  # fmt: skip


def check(role: type, name: str, keyword: str, value: object) -> None:
    try:
        check_keywords(find(role, name), {keyword: value}, name)
    except ConfigError as error:
        # The pipeline adds a ranker, a retriever or a width, which are missing here.
        assert all(problem.split()[1:3] == ["is", "missing;"] for problem in error.problems), error


@pytest.mark.parametrize(("role", "name", "keyword"), DECLARED, ids=lambda part: getattr(part, "__name__", part))
def test_what_is_declared_is_within_the_bounds_and_around_the_default(role: type, name: str, keyword: str) -> None:
    declared, default = tunable(find(role, name))[keyword], registry.defaults(find(role, name))[keyword]
    if isinstance(declared, Options):
        assert default in declared.values
        for value in declared.values:
            check(role, name, keyword, value)
        return
    assert declared.low < declared.high
    assert declared.low > 0 or not declared.log
    if declared.times:
        assert declared.low < 1 < declared.high
        for factor in (declared.low, declared.high):
            check(role, name, keyword, [number * factor for number in default])
        return
    assert declared.low <= default <= declared.high
    assert type(declared.low) is type(declared.high) is type(default)
    for value in (declared.low, declared.high):
        check(role, name, keyword, value)


def test_learners_without_a_declaration_are_those_with_nothing_to_tune() -> None:
    silent = {name for role in FOLDERS for name in available(role) if not tunable(find(role, name))}
    # `trending` mixes all its speeds, a river model has its own parameters, and two policies have no keywords.
    assert silent == {"trending", "river_model", "greedy", "thompson"}
