from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from service.config import load, parse
from service.reference.resolved import as_toml

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("only_given", [False, True])
def test_what_is_shown_is_the_config(path: Path, only_given: bool) -> None:
    config = load(path)
    shown = parse(tomllib.loads(as_toml(config, tomllib.loads(path.read_text()), only_given=only_given)), path.stem)
    assert shown.fingerprint == config.fingerprint
    assert shown.server == config.server
    assert shown.stream == config.stream
    assert shown.policy.keys() == config.policy.keys()


def test_each_default_is_marked() -> None:
    given = {"stream": {"window": 5.0}, "ranker": {"fm": {"factors": 8}}, "retrievers": {}}
    lines = as_toml(parse(given), given).splitlines()
    for line in ["window = 5.0", "lateness = 600.0  # default", "# group: none  # default", "[retrievers]", "factors = 8"]:
        assert line in lines
    assert "click = 1.0  # default" in lines
    assert as_toml(parse(given), given, only_given=True).splitlines() == [
        *("[stream]", "window = 5.0", "", "[retrievers]", "", "[ranker.fm]", "factors = 8"),
    ]


def test_names_and_values_are_written_as_toml() -> None:
    given = {"reward": {"add to cart": 2, 'say "no"': {"at_least": float("inf")}}}
    shown = tomllib.loads(as_toml(parse(given), given))
    assert parse(shown).reward == parse(given).reward
