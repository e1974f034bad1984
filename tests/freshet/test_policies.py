"""`freshet.evaluate` has the numbers of the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import freshet
from service.cli import app

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0\n"
POLICY = {"features": {"item": {"id": "category"}}, "ranker": {"bias": {}}, "policy": {"epsilon_greedy": {"epsilon": 0.5}}}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three items; the first one is clicked more often."""
    lines = [
        f"{n},2019-11-24 00:{n // 60:02}:{n % 60:02}+00:00,{n % 3},{1 + n % 2},{int(n % 7 == 0 or n % 6 == 0)},0.333333,u"
        for n in range(300)
    ]
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def test_the_numbers_are_the_commands_to_the_bit(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "new.toml"
    config.write_text('[features.item]\nid = "category"\n[ranker.bias]\n[policy.epsilon_greedy]\nepsilon = 0.5\n')
    with pytest.raises(SystemExit):
        app(["evaluate", str(log), "--policy", str(config), "--json", "--above", "log", "--clip", "1.5"])
    printed = json.loads(capsys.readouterr().out)
    for policy in (config, str(config), POLICY):
        report = freshet.evaluate(log, policy, above="log", clip=1.5)
        assert report.estimates == {name: one["value"] for name, one in printed["estimates"].items()}
        assert report.verdict == printed["verdict"]
    (snips,) = (row for row in report.to_arrow().to_pylist() if row["estimator"] == "snips")
    assert (snips["low"], snips["high"]) == (printed["estimates"]["snips"]["low"], printed["estimates"]["snips"]["high"])


def test_another_log_can_be_the_policy(log: Path) -> None:
    same = freshet.evaluate(log, log)
    assert same.estimates["ips"] == pytest.approx(same.estimates["logged"], rel=1e-4), "the policy that logged it"


def test_a_report_is_shown_with_its_verdict(log: Path, tmp_path: Path) -> None:
    report = freshet.evaluate(log, POLICY)
    assert "<td>snips</td>" in report._repr_html_()
    assert "verdict" in repr(report)
    written = {path.name for path in report.write(tmp_path / "out")}
    assert written == {"evaluate.json", "evaluate.png", "evaluate.html", "impressions.csv"}


def test_wrong_input_is_refused_by_name(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="above: 'below' is not one of policy, log"):
        freshet.evaluate(log, POLICY, above="below")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"confidence: 95 is not from 0\.5 to 1"):
        freshet.evaluate(log, POLICY, confidence=95)
    events = tmp_path / "events.jsonl"
    events.write_text('{"type": "item", "item": "tea", "timestamp": 1}\n')
    with pytest.raises(freshet.NotEvaluable, match="it has no impressions"):
        freshet.evaluate(events, POLICY)
