"""The JSON Schema of config files, with which editors complete and check them."""

from __future__ import annotations

from typing import Any

from learners.keywords import json_schema
from service.reference.docstrings import docstring_of
from service.reference.keys import ROLES, Key, all_learners, learner_keys, section_keys, tables
from service.sections import Tables

__all__ = ["config_schema"]

_OTHER_MODULES = r"^\w+(\.\w+)+$"
"""Names of learners that are modules of other packages. Their keywords are not known here."""


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a config file."""
    schema = Tables.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "A config of Freshet"
    for section in ROLES:
        given = schema["properties"][section]
        schema["properties"][section] = {
            "type": "object",
            "default": given["default"],
            "properties": {},
            "patternProperties": {_OTHER_MODULES: {"type": "object"}},
            "additionalProperties": False,
        }
        if section in ("ranker", "policy"):
            schema["properties"][section] |= {"minProperties": 1, "maxProperties": 1}
    for section, name, cls in all_learners():
        learner = json_schema(cls) | {"description": docstring_of(cls).summary}
        _describe(learner["properties"], learner_keys(section, name))
        schema["properties"][section]["properties"][name] = learner
    for section, table in tables().items():
        _describe(schema["$defs"][table.__name__]["properties"], section_keys(section))
    return schema


def _describe(properties: dict[str, Any], keys: list[Key]) -> None:
    """Add each key's meaning, which pydantic does not know."""
    for key in keys:
        properties[key.name]["description"] = key.text
