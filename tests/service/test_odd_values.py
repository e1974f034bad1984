"""Odd values of every option, odd configs and odd files: one sentence and a documented exit code, never a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from service import cli, console
from service.cli import ExitCode

OK = 0
USAGE = ExitCode.CONFIG
"""Also what typer exits with for an option out of its bounds."""

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in a folder of its own. Return its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("user,item,timestamp,label\nu,i,1700000000,5\nv,i,1700000001,1\nu,j,1700000002,4\n")
    (tmp_path / "c.toml").write_text('[stream]\nurl = "file:t.csv"\n')
    (tmp_path / "bad.toml").write_text("[strem]\nx = 1\n")
    (tmp_path / "folder").mkdir()

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["freshet", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        printed = capfd.readouterr()
        return (code if isinstance(code, int) else 0 if code is None else 1), printed.out + printed.err

    return run


COMMANDS = (
    *("serve", "train", "warmup", "replay", "evaluate", "validate", "demo"),
    *("topics create", "config show", "config check"),
)
CONFIG_AS_ARGUMENT = ("config show", "config check")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("config", "says"),
    [("none.toml", "cannot be read"), ("folder", "cannot be read"), ("bad.toml", "strem"), ("t.csv", "is not TOML")],
)
def test_a_config_that_is_none(command: str, config: str, says: str, run: Run) -> None:
    how = [config] if command in CONFIG_AS_ARGUMENT else ["-c", config]
    if command == "evaluate":
        if not config.endswith(".toml"):
            pytest.skip("a policy without .toml is a log")
        how = ["t.csv", "--policy", config]
    code, text = run(*command.split(), *how)
    assert (code, "Traceback" in text) == (ExitCode.CONFIG, False), text
    assert says in text


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option(command: str, run: Run) -> None:
    code, text = run(*command.split(), "--nonsense", "3")
    assert code == USAGE
    assert "--nonsense" in text


@pytest.mark.parametrize(
    "line",
    [
        "serve --port 99999",
        "serve --port -1",
        "serve --port x",
        "train --port 65536",
        "demo --port 70000",
        "demo --seconds nan",
        "demo --seconds inf",
        "demo --seconds -1",
        "replay t.csv --batch-rows 0",
        "replay t.csv --batch-rows -5",
        "replay t.csv --batch-rows nan",
        "replay t.csv --top -1",
        "replay t.csv --top 1000000000000",
        "replay t.csv --window 0",
        "replay t.csv --window 1000000000000000",
        "evaluate t.csv --policy c.toml --positions 0",
        "evaluate t.csv --policy c.toml --clip nan",
        "evaluate t.csv --policy c.toml --clip -1",
        "evaluate t.csv --policy c.toml --confidence nan",
        "evaluate t.csv --policy c.toml --confidence 2",
        "evaluate t.csv --policy c.toml --floor inf",
        "evaluate t.csv --policy c.toml --floor nan",
        "evaluate t.csv --policy c.toml --format odd",
        "evaluate t.csv --policy c.toml --above odd",
        "evaluate t.csv",
        "topics create -c c.toml --partitions 0",
        "topics create -c c.toml --replication 0",
        "topics create -c c.toml --retention nan",
        "topics create -c c.toml --retention -1",
        "topics create -c c.toml",
        "replay",
        "validate",
        "replay http://host/t.csv",
        "validate lmdb:///x",
        "replay kafka://[x/y",
        "nonsense",
        "topics",
        "config learners nonsense",
    ],
)
def test_an_option_out_of_bounds(line: str, run: Run) -> None:
    code, text = run(*line.split())
    assert code == USAGE, text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("validate none.csv", ExitCode.DATA),
        ("validate folder", ExitCode.DATA),
        ("validate folder/none/t.csv", ExitCode.DATA),
        ("validate c.toml", ExitCode.DATA),
        ("validate t.csv/x.csv", ExitCode.DATA),
        ("validate " + "x" * 300 + ".csv", ExitCode.DATA),
        ("replay none.csv", ExitCode.DATA),
        ("replay folder", ExitCode.DATA),
        ("replay lmdb://folder", ExitCode.SYSTEM),
        ("replay lmdb://[x/y", ExitCode.SYSTEM),
        ("replay lmdb://t.csv", ExitCode.SYSTEM),
        ("replay t.csv --report t.csv", ExitCode.SYSTEM),
        ("replay t.csv --report t.csv/x", ExitCode.SYSTEM),
        ("evaluate none.csv --policy c.toml", ExitCode.DATA),
        ("evaluate folder --policy c.toml", ExitCode.DATA),
        ("evaluate t.csv --policy folder", ExitCode.DATA),
        ("evaluate t.csv --policy none.csv", ExitCode.DATA),
        ("evaluate t.csv --policy c.toml", ExitCode.DATA),
        ("evaluate lmdb://none --policy c.toml", ExitCode.SYSTEM),
        ("replay t.csv --top 1 --batch-rows 1000000000000000000", OK),
        ("replay t.csv --top 0 --json", OK),
        ("validate t.csv", OK),
    ],
)
def test_a_file_that_is_odd(line: str, code: int, run: Run) -> None:
    ended, text = run(*line.split())
    assert "Traceback" not in text
    assert ended == code, text


@pytest.mark.parametrize("redirected", ["validate t.csv", "replay t.csv --top 0 --json", "config schema"])
def test_an_output_that_cannot_be_written(redirected: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    fresh = Console()  # it would print later what it could not write here
    monkeypatch.setattr(console, "out", fresh)
    monkeypatch.setattr(cli, "out", fresh)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        code, text = run(*redirected.split())
    assert code == ExitCode.SYSTEM, text
    assert text.startswith("system: ")
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[stream]\nencoding = "klingon"\n', "encoding"),
        ("[stream]\nencoding = 3\n", "encoding"),
        ("[stream]\nheader = 3\n", "header"),
        ('[stream]\nheader = ["a", 1]\n', "header"),
        ("[stream]\nheader = []\n", "header"),
        ("[stream.columns]\ntimestamp = true\n", "timestamp"),
        ("[stream.columns]\nuser = 3\n", "user"),
        ("[stream]\nbatch_rows = 0\n", "batch_rows"),
        ("[stream]\nbatch_rows = nan\n", "batch_rows"),
        ("[stream]\nmax_skew = nan\n", "max_skew"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)
def test_values_of_a_config(toml: str, says: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(toml)
    code, text = run("validate", "t.csv", "-c", "odd.toml")
    assert code == ExitCode.CONFIG, text
    assert says in text
    assert "Traceback" not in text


def test_an_ascii_terminal_shows_any_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ä.csv").write_text("user,item,timestamp\nü,☕,1700000000\nu,é,soon\n" + "u,i,1700000001\n" * 2)
    for file in ("ä.csv", "caf\udce9.csv"):
        (tmp_path / file).write_bytes((tmp_path / "ä.csv").read_bytes())
        for command in ("validate", "replay"):
            with (tmp_path / "out").open("w", encoding="ascii") as out, (tmp_path / "err").open("w", encoding="ascii") as err:
                monkeypatch.setattr(sys, "stdout", out)
                monkeypatch.setattr(sys, "stderr", err)
                code, _ = run(command, file)
            text = (tmp_path / "out").read_text("ascii")
            assert code == (ExitCode.DATA if command == "validate" else OK)
            if command == "validate":
                assert json.loads(text)["path"] == file, text
            else:
                assert "AUC" in text
