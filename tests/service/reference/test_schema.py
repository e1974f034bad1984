from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.reference.schema import config_schema
from tests.service.broken_configs import WRONG_KEYWORDS, WRONG_TABLES

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def schema() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(config_schema())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_right(schema: jsonschema_rs.Validator, path: Path) -> None:
    assert [error.message for error in schema.iter_errors(tomllib.loads(path.read_text()))] == []
    assert path.read_text().startswith("#:schema freshet.schema.json\n")


def test_the_examples_schema_is_the_current_one() -> None:
    """Made by `freshet config schema > examples/freshet.schema.json`."""
    assert json.loads((EXAMPLES / "freshet.schema.json").read_text()) == config_schema()


@pytest.mark.parametrize("document", [document for document, _ in WRONG_TABLES + WRONG_KEYWORDS], ids=str)
def test_what_is_refused_for_its_form_is_wrong(schema: jsonschema_rs.Validator, document: dict[str, Any]) -> None:
    assert not schema.is_valid(document)


def test_learners_of_other_packages_may_have_any_keys(schema: jsonschema_rs.Validator) -> None:
    assert schema.is_valid({"ranker": {"my_package.my_ranker": {"depth": 3}}})
    assert not schema.is_valid({"ranker": {"my_ranker": {}}})


def test_keys_are_explained(schema: jsonschema_rs.Validator) -> None:
    found = config_schema()
    assert found["$defs"]["Stream"]["properties"]["lateness"]["description"].startswith("Seconds after the window")
    assert found["properties"]["ranker"]["properties"]["fm"]["properties"]["factors"] == {
        "default": 32,
        "exclusiveMinimum": 0,
        "maximum": 1024,
        "type": "integer",
        "description": "Length k of each feature's vector v.",
    }
