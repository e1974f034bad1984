"""Runs every contract check on every learner in the role folders. A new file is found automatically."""

from __future__ import annotations

import pytest

from learners.base import Learner, Policy
from learners.contract.checks import checks_for
from learners.contract.small import bound, small
from learners.registry import FOLDERS, available, find

CASES = [
    pytest.param(role, name, check, id=f"{name}-{check.__name__}")
    for role in (*FOLDERS, Policy)
    for name in available(role)
    for check in checks_for(find(role, name))
]


@pytest.mark.parametrize(("role", "name", "check"), CASES)
def test_contract(role, name, check):
    def make() -> Learner | Policy:
        return small(role, name)

    check(bound(make))
