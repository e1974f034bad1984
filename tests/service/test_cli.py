"""The command line: its output and its exit codes."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service import cli
from service.cli import ExitCode

SCRIPT = [sys.executable, "-m", "service"]


def freshet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    path = tmp_path / "u.data"
    path.write_text("".join(f"{n % 7}\t{n % 5}\t{1 + n % 5}\t{1000 + n}\n" for n in range(200)))
    return path


def test_replay_prints_a_table_and_puts_configs_side_by_side(ratings: Path, tmp_path: Path) -> None:
    for name, ranker in (("one", "fm"), ("two", "bias")):
        (tmp_path / f"{name}.toml").write_text(f"[ranker.{ranker}]\n")
    done = freshet("replay", ratings, "-c", tmp_path / "one.toml", "-c", tmp_path / "two.toml", "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    for words in ("one", "two", "popularity", "bias", "AUC", "hit rate@10"):
        assert words in done.stdout
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"replay.html", "replay.json", "replay.png"}


def test_replay_prints_json(ratings: Path) -> None:
    done = freshet("replay", ratings, "--json", "--batch-rows", "1", "--top", "0")
    (read,) = json.loads(done.stdout)
    assert read["rows"] == 200
    assert 0 <= read["quality"]["fm"]["auc"] <= 1


def test_validate_reports_the_contents_and_the_bad_rows(ratings: Path) -> None:
    good = freshet("validate", ratings)
    assert good.returncode == 0
    assert json.loads(good.stdout)["rows"] == 200
    with ratings.open("a") as file:
        file.write("1\t2\tfive\t3000\n")
    strict = freshet("replay", ratings, "--strict")
    assert strict.returncode == ExitCode.DATA
    assert "five" in strict.stderr
    bad = freshet("validate", ratings)
    assert bad.returncode == ExitCode.DATA
    assert "five" in bad.stdout


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[stream]\nwidow = 3.0\n", ["stream", "widow", "window"]),
        ("[ranker.fm]\nfactor = 3\n", ["ranker.fm", "factor", "factors"]),
        ("[stream\n", ["not TOML"]),
    ],
)
def test_a_wrong_config_is_named(config: str, says: list[str], ratings: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(config)
    done = freshet("replay", ratings, "-c", path)
    assert done.returncode == ExitCode.CONFIG
    assert "Traceback" not in done.stderr
    for words in says:
        assert words in done.stderr


def test_files_that_cannot_be_replayed_are_named(tmp_path: Path) -> None:
    missing = freshet("replay", tmp_path / "gone.csv")
    assert missing.returncode == ExitCode.DATA
    assert "gone.csv" in missing.stderr
    (tmp_path / "clicks.csv").write_text("who,item,timestamp\na,b,1\n")
    unmapped = freshet("replay", tmp_path / "clicks.csv")
    assert unmapped.returncode == ExitCode.DATA
    for words in ("clicks.csv", "user", "who"):
        assert words in unmapped.stderr
    assert "Traceback" not in missing.stderr + unmapped.stderr


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    config = tmp_path / "service.toml"
    config.write_text(f'[stream]\nurl = "lmdb://{folder}"\n')
    with (folder / "writer.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = freshet("serve", "-c", config, "--port", "0")
    assert done.returncode == ExitCode.BUSY
    assert str(folder) in done.stderr
    assert "4711" in done.stderr


def test_help_names_the_commands() -> None:
    done = freshet("--help")
    assert done.returncode == 0
    for command in ("serve", "replay", "evaluate", "validate", "topics", "demo"):
        assert command in done.stdout


def test_a_replay_without_a_cache_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.jit.cache_folder", lambda: None)
    file = tmp_path / "t.csv"
    file.write_text("user,item,timestamp\nu,i,1700000000\n")
    result = CliRunner().invoke(cli.app, ["replay", str(file), "--top", "0"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "set NUMBA_CACHE_DIR to one that can" in result.output
