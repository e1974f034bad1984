"""Configs that learn the same state have the same fingerprint, and others do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from learners.rankers.fm import FactorizationMachine
from learners.rankers.river_model import RiverModel
from memory.keyed.catalog import Catalog
from service.config import Config, ConfigError, load, parse
from service.ranking.pipeline import Pipeline

OWN = '''
from learners.base import Ranker
from learners.registry import register

class Shop:
    """A default that no config can express; its repr holds its address."""

@register("share")
class Share(Ranker):
    def __init__(self, prior: float = {prior}, shop: Shop | None = Shop()) -> None:
        self.prior = prior

    def score(self, batch, delta=None):
        batch.score[:] = self.prior
'''


def toml(tmp_path: Path, text: str) -> str:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load(file).fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[ranker.fm]\nfactors = 8\nbits = 10", "[ranker.fm]\nbits = 10\nfactors = 8"),
        ("[stream]\nwindow = 5.0\nbatch_rows = 8", "[stream]\nbatch_rows = 8\nwindow = 5"),
        ("[reward]\nclick = 1.0\nbuy = 5.0", "[reward]\nbuy = 5\nclick = 1"),
        ('[features]\nitem = { id = "category" }\n[ranker.fm]', '[ranker.fm]\n[features.item]\nid = { type = "category" }'),
        ("[retrievers.popularity]\n[ranker.fm]", "[ranker.fm]\n[retrievers.popularity]"),
        (
            "[ranker.river_model]\nbits = 22\nparameters = { l2 = 0.1, intercept_lr = 0.01 }",
            "[ranker.river_model]\nparameters = { intercept_lr = 0.01, l2 = 0.1 }",
        ),
        ("", "[ranker.fm]"),
    ],
)
def test_equivalent_configs_have_one_fingerprint(one: str, other: str, tmp_path: Path) -> None:
    assert toml(tmp_path, one) == toml(tmp_path, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[retrievers.popularity]\n[retrievers.item_knn]", "[retrievers.item_knn]\n[retrievers.popularity]"),
        ('[features.item]\nid = "category"\nbrand = "category"', '[features.item]\nbrand = "category"\nid = "category"'),
        ("[rerankers.reloop2]\ncentred = true", "[rerankers.reloop2]\ncentred = false"),
        ("[retrievers.popularity]", "[retrievers.item_knn]"),
        ("[history]\nlength = 50", "[history]\nlength = 49"),
    ],
)
def test_configs_that_learn_different_states_differ(one: str, other: str, tmp_path: Path) -> None:
    assert toml(tmp_path, one) != toml(tmp_path, other)


def test_an_explicit_default_changes_nothing_and_a_changed_default_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def config(**keywords: object) -> Config:
        return parse({"ranker": {"fm": keywords}})

    defaults = FactorizationMachine.__init__.__defaults__
    assert defaults is not None
    names = FactorizationMachine.__init__.__code__.co_varnames[1 : 1 + len(defaults)]
    before = config().fingerprint
    assert config(**dict(zip(names, defaults, strict=True))).fingerprint == before
    twice = tuple(2 * value if name == "factors" else value for name, value in zip(names, defaults, strict=True))
    monkeypatch.setattr(FactorizationMachine.__init__, "__defaults__", twice)
    assert config().fingerprint != before
    assert config(**dict(zip(names, defaults, strict=True))).fingerprint == before, "explicit values do not change"


@pytest.mark.parametrize("what", [FactorizationMachine, Pipeline, Catalog])
def test_a_state_version_is_part_of_it(what: type, monkeypatch: pytest.MonkeyPatch) -> None:
    fm, bias = parse({"ranker": {"fm": {}}}), parse({"ranker": {"bias": {}}})
    before = fm.fingerprint, bias.fingerprint
    monkeypatch.setattr(what, "state_version", 99)
    assert fm.fingerprint != before[0]
    assert (bias.fingerprint != before[1]) == (what is not FactorizationMachine), "others keep theirs"


def test_the_policy_does_not_count() -> None:
    assert parse({"policy": {"plackett_luce": {"temperature": 2.0}}}).fingerprint == parse({}).fingerprint


def test_the_river_version_counts() -> None:
    from importlib.metadata import version

    assert version("river") in str(RiverModel.state_version)


def test_the_defaults_of_a_third_party_learner_count_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    code = "from service.config import parse; print(parse({'ranker': {'own.share': {}}}).fingerprint)"

    def fingerprint(prior: float) -> str:
        (tmp_path / "own" / "share.py").write_text(OWN.format(prior=prior))
        path = f"{Path.cwd()}:{tmp_path}"
        environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    assert fingerprint(0.1) == fingerprint(0.1)
    assert fingerprint(0.1) != fingerprint(0.2)


def test_an_unknown_learner_has_no_fingerprint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fm'"):
        _ = parse({"ranker": {"fmm": {}}}).fingerprint
