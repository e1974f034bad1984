"""`freshet evaluate`: its output, files and error messages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from service.cli import ExitCode, main

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0\n"


class Done(NamedTuple):
    returncode: int | str | None
    stdout: str
    stderr: str


Freshet = Callable[..., Done]


@pytest.fixture
def freshet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Freshet:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["freshet", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return Done(left.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "new.toml"
    path.write_text('[features.item]\nid = "category"\n[ranker.bias]\n[policy.epsilon_greedy]\nepsilon = 0.5\n')
    return path


def bandit(path: Path, rows: int = 300, extra: str = "") -> Path:
    lines = [
        f"{n},2019-11-24 00:{n // 60:02}:{n % 60:02}+00:00,{n % 3},{1 + n % 2},{int(n % 7 == 0)},0.333333,u"
        for n in range(rows)
    ]
    path.write_text(HEADER + "\n".join(lines) + "\n" + extra)
    return path


def test_it_prints_a_table_and_writes_json_and_a_picture(freshet: Freshet, config: Path, tmp_path: Path) -> None:
    done = freshet("evaluate", bandit(tmp_path / "log.csv"), "--policy", config, "--report", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for words in (
        "IPS",
        "SNIPS",
        "doubly robust",
        "direct method",
        "replay",
        "effective sample size",
        "verdict",
        "300 impressions",
    ):
        assert words in done.stdout
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"evaluate.json", "evaluate.png", "evaluate.html", "impressions.csv"}


def test_it_prints_json(freshet: Freshet, config: Path, tmp_path: Path) -> None:
    done = freshet("evaluate", bandit(tmp_path / "log.csv"), "--policy", config, "--json", "--clip", "1.5", "--above", "log")
    printed = json.loads(done.stdout)
    assert (printed["impressions"], printed["clip"], printed["above"], printed["verdict"]) == (300, 1.5, "log", "undecided")
    assert set(printed["estimates"]) == {"logged", "replay", "ips", "clipped", "snips", "dm", "dr"}


def test_below_the_floor_it_refuses_and_still_prints(freshet: Freshet, config: Path, tmp_path: Path) -> None:
    done = freshet("evaluate", bandit(tmp_path / "log.csv"), "--policy", config, "--floor", "1000")
    assert done.returncode == 0
    assert "no verdict: effective sample size" in done.stdout
    assert "SNIPS" in done.stdout


def test_another_log_can_be_the_policy(freshet: Freshet, tmp_path: Path) -> None:
    done = freshet("evaluate", bandit(tmp_path / "log.csv"), "--policy", bandit(tmp_path / "other.csv", 100), "--json")
    printed = json.loads(done.stdout)
    assert printed["policy"] == str(tmp_path / "other.csv")
    assert printed["mean_weight"] == pytest.approx(1, abs=0.02)


def test_bad_lines_are_counted_and_named_and_stop_a_strict_reading(freshet: Freshet, config: Path, tmp_path: Path) -> None:
    log = bandit(tmp_path / "log.csv", extra="300,2019-11-24 00:06:00+00:00,1,1,0,0,u\nhalf a line\n")
    done = freshet("evaluate", log, "--policy", config)
    assert done.returncode == 0
    for words in ("1 lines left out (bad_propensity)", "row 302: propensity_score: '0'", "(wrong_fields)", "row 303"):
        assert words in done.stderr
    strict = freshet("evaluate", log, "--policy", config, "--strict")
    assert strict.returncode == ExitCode.DATA
    assert "row 30" in strict.stderr and "Traceback" not in strict.stderr


def test_a_log_that_cannot_be_evaluated_gives_a_one_line_error(freshet: Freshet, config: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text("user,item,rating\n1,2,3\n")
    events = tmp_path / "shown.jsonl"
    events.write_text('{"type": "impression", "request_id": "r", "user": "u", "items": ["a"], "timestamp": 5.0}\n')
    cases = [
        ([tmp_path / "gone.csv"], ExitCode.DATA, ["gone.csv", "no such file"]),
        ([bare], ExitCode.DATA, ["propensity_score", "'rating'"]),
        ([bare, "--format", "dsjson"], ExitCode.DATA, ["not one decision", "not_json"]),
        ([events], ExitCode.DATA, ["propensities", "1 impressions", "freshet replay"]),
        ([f"lmdb://{tmp_path}/nothing"], ExitCode.SYSTEM, ["nothing"]),
        (["memory://"], ExitCode.CONFIG, ["memory://", "an evaluation needs"]),
    ]
    for arguments, code, says in cases:
        done = freshet("evaluate", *arguments, "--policy", config)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        for words in says:
            assert words in done.stderr
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[policy.epsilon_gredy]\n")
    done = freshet("evaluate", bandit(tmp_path / "log.csv"), "--policy", wrong)
    assert done.returncode == ExitCode.CONFIG and "epsilon_greedy" in done.stderr
    done = freshet("evaluate", bandit(tmp_path / "log.csv"), "--policy", tmp_path / "gone.toml")
    assert done.returncode == ExitCode.CONFIG and "gone.toml" in done.stderr
