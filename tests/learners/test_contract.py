"""Every learner in the role folders, through every check that applies to it: a new file is tested by lying there."""

from __future__ import annotations

import pytest

from learners.base import Learner, Policy
from learners.checks import checks_for
from learners.registry import FOLDERS, available, build, find

CASES = [
    pytest.param(role, name, check, id=f"{name}-{check.__name__}")
    for role in (*FOLDERS, Policy)
    for name in available(role)
    for check in checks_for(find(role, name))
]


@pytest.mark.parametrize(("role", "name", "check"), CASES)
def test_contract(role, name, check):
    parameters = getattr(find(role, name), "checks_parameters", {})

    def make() -> Learner | Policy:
        return build(role, name, parameters)

    check(make)
