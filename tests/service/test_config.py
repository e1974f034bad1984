from __future__ import annotations

from pathlib import Path

import pytest

from service.config import ConfigError, load, parse
from service.process.runtime import build_pipeline
from service.tables.rows import FieldType, RewardRule
from tests.service.broken_configs import WRONG_KEYWORDS, WRONG_TABLES, WRONG_TOGETHER


def test_the_empty_config_is_a_service() -> None:
    pipeline = build_pipeline(parse({}))
    assert pipeline.ranker_name == "fm"
    assert list(pipeline.retrievers.named) == ["popularity"]


@pytest.mark.parametrize(("document", "says"), WRONG_TABLES)
def test_a_mistake_is_refused_by_section_key_and_value(document: dict[str, object], says: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(document)
    for words in says:
        assert words in str(refused.value)


@pytest.mark.parametrize(("document", "says"), WRONG_KEYWORDS + WRONG_TOGETHER)
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
    on_cpu, on_gpu = ({"ranker": {"deep": {"device": device}}} for device in ("cpu", "cuda"))
    assert parse(on_gpu).fingerprint == parse(on_cpu).fingerprint == parse({"ranker": {"deep": {}}}).fingerprint
    assert parse({"ranker": {"fm": {"factors": 8}}}).fingerprint != base
    assert parse({"stream": {"batch_rows": 8}}).fingerprint != base
    assert parse({"stream": {"below_clicks": "skip"}}).fingerprint != base
    assert parse({"reward": {"click": 2.0}}).fingerprint != base
