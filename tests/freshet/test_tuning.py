"""`freshet.tune` finds what is plainly better, and says that the gain holds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import freshet

BASE = {
    "stream": {"kind": "click", "columns": {"value": "label"}},
    "ranker": {"bias": {"learning_rate": 0.0001}},
    "retrievers": {},
    "tune": {"ranker.bias.learning_rate": {"choices": [0.0001, 0.5]}},
}


def clicks() -> pa.Table:
    """Some items are clicked nearly always, the others nearly never."""
    rng = np.random.default_rng(3)
    item = rng.integers(0, 20, 2_000)
    label = (rng.random(2_000) < np.where(item % 2, 0.9, 0.1)).astype(float)
    return pa.table({"user": rng.integers(0, 20, 2_000), "item": item, "timestamp": 1e9 + np.arange(2_000.0), "label": label})


def test_a_better_value_is_found_and_confirmed() -> None:
    tuned = freshet.tune(clicks(), BASE, trials=3, batch_rows=1)
    assert tuned.holds
    assert tuned.config["ranker"]["bias"]["learning_rate"] == 0.5
    trials = tuned.to_arrow().to_pylist()
    assert trials[0]["trial"] == 0
    assert tuned.remarks[0] in tuned._repr_html_()
    assert freshet.replay(clicks(), tuned.config).metrics["bias"]["log_loss"] < 0.5


def test_wrong_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'loss' is not a valid Objective"):
        freshet.tune(clicks(), BASE, objective="loss")
    with pytest.raises(freshet.BadRecording, match=r"^frame: no column 'user'"):
        freshet.tune(clicks().drop_columns("user"), BASE, trials=2)
