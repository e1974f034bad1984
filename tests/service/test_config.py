from __future__ import annotations

from pathlib import Path

import pytest

from service.config import ConfigError, load, parse
from service.process.runtime import build_pipeline
from service.row_sections import FieldType, RewardRule


def test_the_empty_config_is_a_service() -> None:
    pipeline = build_pipeline(parse({}))
    assert pipeline.ranker_name == "fm"
    assert list(pipeline.retrievers.named) == ["popularity"]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"strem": {}}, ["strem", "did you mean 'stream'"]),
        ({"stream": {"widow": 3.0}}, ["stream", "widow", "did you mean 'window'"]),
        ({"stream": {"window": "long"}}, ["stream", "window", "'long'"]),
        ({"stream": {"ack": "never"}}, ["stream", "ack", "'never'", "'broker' or 'queued'"]),
        ({"stream": {"window": -1.0}}, ["stream", "window", "-1.0", "greater than 0"]),
        ({"stream": {"close_after_click": 0.0}}, ["stream", "close_after_click", "0.0", "greater than 0"]),
        ({"stream": {"closing_click": "second"}}, ["stream", "closing_click", "'second'", "'first' or 'last'"]),
        ({"server": {"port": 70000}}, ["server", "port", "70000"]),
        ({"stream": {"columns": {"usr": "u"}}}, ["[stream.columns] usr", "there are: user, item"]),
        (
            {"features": {"user": {"age": "numbr"}}},
            ["[features.user] age", "'numbr'", "'category', 'number', 'bucket' or 'tags'"],
        ),
        (
            {"features": {"item": {"year": {"type": "bucket", "widht": 5.0}}}},
            ["[features.item.year] widht", "did you mean 'width'"],
        ),
        ({"features": {"item": {"year": {"width": 5.0}}}}, ["[features.item.year] type: field required"]),
        ({"features": {"item": {"table": {"type": "tags", "max_tags": 65}}}}, ["[features.item.table] max_tags = 65"]),
        ({"reward": {"click": "yes"}}, ["[reward] click = 'yes'", "valid number"]),
        ({"reward": {"plain": 1e39}}, ["[reward] plain = 1e+39"]),
        ({"reward": {"click": {"at_leat": 3.0}}}, ["[reward.click] at_leat = 3.0", "did you mean 'at_least'"]),
        ({"ranker": {"fm": {}, "bias": {}}}, ["ranker", "exactly one"]),
        ({"policy": {}}, ["policy", "exactly one"]),
    ],
)
def test_a_mistake_is_refused_by_section_key_and_value(document: dict[str, object], says: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(document)
    for words in says:
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"ranker": {"fmm": {}}}, ["ranker.fmm", "did you mean 'fm'"]),
        ({"ranker": {"fm": {"factor": 8}}}, ["ranker.fm", "factor", "did you mean 'factors'"]),
        ({"ranker": {"fm": {"factors": "8"}}}, ["ranker.fm", "factors", "'8'"]),
        ({"retrievers": {"popularity": {"half_life": -1.0}}}, ["retrievers.popularity", "half_life", "-1"]),
        ({"policy": {"gredy": {}}}, ["policy.gredy", "did you mean 'greedy'"]),
        ({"features": {"crosses": ["user.id * item.age"]}}, ["features", "item.age"]),
        ({"policy": {"ucb": {}}}, ["policy.ucb", "uncertainty", "popularity"]),
    ],
)
def test_a_mistake_in_a_learner_is_refused_when_it_is_built(document: dict[str, object], says: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        build_pipeline(parse(document))
    for words in says:
        assert words in str(refused.value)


def test_an_error_concerns_only_the_form_in_which_the_value_is_written() -> None:
    with pytest.raises(ConfigError) as refused:
        parse({"features": {"user": {"age": "numbr"}}})
    assert len(refused.value.problems) == 1
    kept = parse({"reward": {"click": 1, "rating": {"at_least": 4}}, "features": {"item": {"year": {"type": "bucket"}}}})
    assert kept.reward == {"click": 1.0, "rating": RewardRule(at_least=4.0)}
    assert kept.features.item == {"year": FieldType(type="bucket")}


def test_files_that_are_not_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.toml.*cannot be read"):
        load(tmp_path / "gone.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[stream\n")
    with pytest.raises(ConfigError, match=r"broken.toml.*not TOML.*line 1"):
        load(broken)


def test_the_fingerprint_depends_only_on_what_determines_the_state() -> None:
    base = parse({}).fingerprint
    assert parse({"server": {"port": 1}, "policy": {"epsilon_greedy": {}}, "checkpoint": {"every": 1.0}}).fingerprint == base
    assert parse({"stream": {"url": "lmdb:///elsewhere", "ack": "queued", "buffer": 1}}).fingerprint == base
    assert parse({"weights": {"url": "kafka://b:9092/w"}, "dead_letters": {"url": "kafka://b:9092/d"}}).fingerprint == base
    assert parse({"ranker": {"fm": {"factors": 8}}}).fingerprint != base
    assert parse({"stream": {"batch_rows": 8}}).fingerprint != base
    assert parse({"stream": {"below_clicks": "skip"}}).fingerprint != base
    assert parse({"reward": {"click": 2.0}}).fingerprint != base
