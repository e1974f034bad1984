"""`freshet tune`: its output, its files and its exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from service.cli import ExitCode
from tests.service.evaluation.tuning.conftest import Freshet, write
from tests.service.evaluation.tuning.test_tune import outcomes, plan, tune


def test_it_writes_a_config_with_the_comments_of_the_base_and_a_report(freshet: Freshet, bad: Path, clicks: Path) -> None:
    out, report = bad.with_name("best.toml"), bad.with_name("report")
    done = freshet("tune", clicks, "--config", bad, "--trials", "6", "--out", out, "--report", report)
    assert done.returncode == 0, done.stderr
    for words in ("0 (base)", "first 1,800 of 3,000 rows", "log loss", "99% interval", "The gain holds", "fm.learning_rate = "):
        assert words in done.stdout
    text = out.read_text()
    assert text.startswith("# mine\n[stream]\n")
    assert "[ranker.fm]  # the ranker\n" in text
    assert " # slow\n" in text
    assert tomllib.loads(text)["ranker"]["fm"]["learning_rate"] != 0.005
    assert "url" not in tomllib.loads(text)["stream"]
    assert (report / "tune.png").stat().st_size > 10_000
    found = json.loads((report / "tune.json").read_text())
    assert found["confirmation"]["holds"] is True
    assert [one["number"] for one in found["trials"]] == list(range(6))
    assert found["values"]["ranker.fm.learning_rate"] == tomllib.loads(text)["ranker"]["fm"]["learning_rate"]
    assert bad.with_name("bad.tune.sqlite").exists()


def test_the_base_is_written_when_the_gain_does_not_hold(freshet: Freshet, bad: Path, tmp_path: Path) -> None:
    stream = write(tmp_path / "shuffled.csv", 1500, 5, shuffled=True)
    done = freshet("tune", stream, "--config", bad, "--trials", "4", "--out", tmp_path / "best.toml", "--objective", "auc")
    assert done.returncode == 0, done.stderr
    assert "Keep the base" in done.stdout
    assert (tmp_path / "best.toml").read_text() == bad.read_text()


def test_json_and_a_front(freshet: Freshet, bad: Path, clicks: Path) -> None:
    done = freshet("tune", clicks, "-c", bad, "--trials", "3", "--objective", "log_loss", "--objective", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["objectives"] == ["log_loss", "cpu"]
    assert found["front"]
    table = freshet("tune", clicks, "-c", bad, "--trials", "3", "--objective", "log_loss", "--objective", "cpu")
    assert "no trial is both better and cheaper" in table.stdout


def test_exit_codes(freshet: Freshet, bad: Path, clicks: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(f'{bad.read_text()}\n[tune]\n"ranker.fm.factors" = {{ low = 0, high = 4 }}\n')
    done = freshet("tune", clicks, "--config", wrong)
    assert done.returncode == ExitCode.CONFIG
    assert "ranker.fm.factors: low = 0" in done.stderr
    done = freshet("tune", clicks, "--config", bad, "--objective", "cpu")
    assert done.returncode == ExitCode.CONFIG
    assert "one objective of quality" in done.stderr
    assert freshet("tune", "memory://", "--config", bad).returncode == ExitCode.CONFIG
    done = freshet("tune", tmp_path / "missing.csv", "--config", bad)
    assert done.returncode == ExitCode.DATA
    assert "missing.csv" in done.stderr
    one_class = write(tmp_path / "one.csv", 200, 1)
    one_class.write_text(one_class.read_text().replace(",0,1", ",1,1"))
    assert freshet("tune", one_class, "--config", bad, "--objective", "auc", "--study", "a.sqlite").returncode == ExitCode.DATA
    with (tmp_path / "busy.sqlite.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = freshet("tune", clicks, "--config", bad, "--study", tmp_path / "busy.sqlite")
    assert done.returncode == ExitCode.BUSY
    assert "--study" in done.stderr


def test_a_killed_run_is_continued_as_if_it_had_not_been(bad: Path, clicks: Path, tmp_path: Path) -> None:
    study = tmp_path / "killed.sqlite"
    command = [sys.executable, "-m", "service", "tune", clicks, "-c", bad, "--trials", "400", "--study", study]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while finished(study) < 10 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = finished(study)
    assert done >= 10
    continued = tune(plan(bad, clicks, study.name, trials=done + 3))
    assert outcomes(continued) == outcomes(tune(plan(bad, clicks, "whole.sqlite", trials=done + 3)))


def finished(study: Path) -> int:
    """Finished trials in the file, which another process writes."""
    if not study.exists():
        return 0
    connection = sqlite3.connect(study)
    try:
        return int(connection.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()
