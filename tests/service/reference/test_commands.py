from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app, main

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), env=env)


def test_show_prints_the_defaults_too() -> None:
    assert "lateness = 600.0  # default" in run("config", "show").output
    assert "lateness" not in run("config", "show", "--given", str(EXAMPLES / "dsl.toml")).output


def test_check_builds_what_the_config_says(tmp_path: Path) -> None:
    right = run("config", "check", str(EXAMPLES / "reloop2.toml"))
    assert right.exit_code == 0
    assert "reloop2" in right.output
    (tmp_path / "wrong.toml").write_text("[policy.ucb]\n")
    assert "uncertainty" in str(run("config", "check", str(tmp_path / "wrong.toml")).exception)


def test_schema_is_json() -> None:
    assert json.loads(run("config", "schema").output)["title"] == "A config of Freshet"


def test_learners_are_listed_and_explained() -> None:
    assert run("config", "learners").exit_code == 0
    page = run("config", "learners", "fm").output
    assert page.startswith("[ranker.fm]\n")
    assert "a whole number above 0, at most 1024; default 32. Length k of each feature's vector v." in page


def test_an_unknown_learner_gets_the_closest_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["freshet", "config", "learners", "fmm"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "did you mean 'fm'?" in capsys.readouterr().err


def test_the_version() -> None:
    assert run("--version").output.startswith("freshet 0.")


def test_the_exit_codes_are_in_the_help() -> None:
    assert "2 a wrong option or config" in " ".join(run("--help").output.split())


def test_options_may_come_from_the_environment() -> None:
    refused = run("replay", "gone.csv", env={"FRESHET_REPLAY_TOP": "many"})
    assert refused.exit_code == 2
    assert "--top" in refused.output
