"""Configs that are refused, with words of the refusal."""

from __future__ import annotations

from typing import Any

Refusals = list[tuple[dict[str, Any], list[str]]]

WRONG_TABLES: Refusals = [
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
]
"""Refused when the file is read."""

WRONG_KEYWORDS: Refusals = [
    ({"ranker": {"fmm": {}}}, ["ranker.fmm", "did you mean 'fm'"]),
    ({"ranker": {"fm": {"factor": 8}}}, ["ranker.fm", "factor", "did you mean 'factors'"]),
    ({"ranker": {"fm": {"factors": "8"}}}, ["ranker.fm", "factors", "'8'"]),
    ({"retrievers": {"popularity": {"half_life": -1.0}}}, ["retrievers.popularity", "half_life", "-1"]),
    ({"policy": {"gredy": {}}}, ["policy.gredy", "did you mean 'greedy'"]),
]
"""Refused when the learners are built, for the form of their sections."""

WRONG_TOGETHER: Refusals = [
    ({"features": {"crosses": ["user.id * item.age"]}}, ["features", "item.age"]),
    ({"policy": {"ucb": {}}}, ["policy.ucb", "uncertainty", "popularity"]),
]
"""Refused when the learners are built, for what the sections say together."""
