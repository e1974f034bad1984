"""Short runs; ``make chaos`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Plan, run


# A client that gave up leaves its sockets behind, see tests/conftest.py.
@pytest.mark.usefixtures("tidy")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "plan",
    [Plan(kills=2, seed=1, log="kafka", partitions=4), Plan(kills=1, seed=2, log="lmdb", partitions=1)],
    ids=lambda plan: plan.log,
)
def test_whatever_is_killed_every_event_is_learned_once_and_no_version_goes_back(plan: Plan, tmp_path: Path) -> None:
    report = run(plan, tmp_path)
    assert report.problems == []
    assert report.done["kills"] == plan.kills
    assert report.counted["interactions"] > 20, "there was something to learn"
    assert all(seen["versions"] > 1 for seen in report.replicas.values()), "replicas showed it"
