"""A short soak; ``make soak`` is the long one, and the only one that judges latency."""

from __future__ import annotations

from pathlib import Path

from tests.soak.run import Plan, run


def test_good_requests_are_answered_and_learned_whatever_else_is_sent(tmp_path: Path) -> None:
    report = run(Plan(minutes=0.6, seed=18), tmp_path)
    assert report.problems == []
    assert report.done == {"lives": 4, "kills": 1, "outages": 2}, "killed, ended, and ended once more at the end"
    assert report.counted["/v1/recommend 200"] > 100 and report.counted["/v1/events 202"] > 50
    assert report.digests.keys() == {"live", "restarted", "replayed"}
