"""A replay in a notebook has the numbers of the command, from a file or from any table in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import freshet
from freshet.frames import MissingPackage
from service.cli import app
from service.evaluation.reports.replay_report import finite

CONFIG = """
[stream]
kind = "click"
columns = { value = "label", context = ["device"] }
[features]
user = { id = "category" }
item = { id = "category" }
context = { device = "category" }
[retrievers.popularity]
[ranker.fm]
factors = 4
bits = 12
"""


@pytest.fixture(scope="module")
def clicks() -> pa.Table:
    rng = np.random.default_rng(7)
    user, item = rng.integers(0, 20, 400), rng.integers(0, 30, 400)
    return pa.table(
        {
            "user": [f"u{n}" for n in user],
            "item": [f"i{n}" for n in item],
            "timestamp": 1e9 + np.arange(400.0),
            "label": (rng.random(400) < np.where(user % 2 == item % 2, 0.8, 0.1)).astype(np.float64),
            "device": np.where(rng.random(400) < 0.5, "phone", "desk"),
        }
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.toml"
    path.write_text(CONFIG)
    return path


def command(source: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        app(["replay", str(source), "--config", str(config), "--json", "--window", "100"])
    (result,) = json.loads(capsys.readouterr().out)
    return result


def same_numbers(report: freshet.Report, result: dict[str, Any]) -> None:
    fm, lists = report.metrics["fm"], report.metrics["recommend"]
    for name in ("rows", "auc", "gauc", "log_loss"):
        assert fm[name] == result["quality"]["fm"][name], name
    for name in ("tests", "hit_rate", "ndcg"):
        assert lists[name] == result["top_n"]["recommend"][name], name
    assert report.digest == result["digest"]


def test_the_numbers_are_the_commands_to_the_bit(
    clicks: pa.Table, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clicks.csv"
    pa.csv.write_csv(clicks, path)
    result = command(path, config, capsys)
    report = freshet.replay(path, config, window=100)
    same_numbers(report, result)
    curve = [one for one in report.to_arrow("curves").to_pylist() if (one["learner"], one["metric"]) == ("fm", "auc")]
    assert [(one["row"], one["value"]) for one in curve] == list(
        zip(*(result["quality"]["fm"]["auc_curve"][name] for name in ("row", "value")), strict=True)
    )
    same_numbers(freshet.replay(str(path), config), result)
    same_numbers(freshet.replay(clicks, config), result)


def test_every_kind_of_table_is_read_alike(clicks: pa.Table, config: Path) -> None:
    expected = freshet.replay(clicks, config, k=0).digest
    encoded = clicks.set_column(1, "item", clicks["item"].dictionary_encode())
    large = clicks.set_column(0, "user", clicks["user"].cast(pa.large_string()))
    view = clicks.set_column(0, "user", clicks["user"].cast(pa.string_view()))
    for table in (encoded, large, view, pa.RecordBatchReader.from_batches(clicks.schema, clicks.to_batches())):
        assert freshet.replay(table, config, k=0).digest == expected


def test_a_data_frame_is_read_and_written(clicks: pa.Table, config: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = clicks.to_pandas().astype({"device": "category"})
    report = freshet.replay(
        frame.rename(columns={"user": "who"}), config, columns={"user": "who", "value": "label", "context": ["device"]}
    )
    assert report.digest == freshet.replay(clicks, config).digest
    rows = report.to_pandas("rows")
    assert isinstance(rows, pandas.DataFrame)
    assert rows["reward"].tolist() == frame["label"].tolist()
    assert rows["user"].tolist() == frame["user"].tolist()
    assert report.to_pandas().set_index("learner").loc["fm", "auc"] == report.metrics["fm"]["auc"]


def test_the_rows_hold_the_predictions_behind_the_metrics(clicks: pa.Table, config: Path) -> None:
    report = freshet.replay(clicks, config)
    rows = report.to_arrow("rows")
    score, label = rows["fm"].to_numpy().astype(np.float64), clicks["label"].to_numpy()
    loss = -np.log(np.where(label > 0, score, 1 - score))
    assert report.metrics["fm"]["log_loss"] == pytest.approx(loss.mean(), rel=1e-6)


def test_a_report_is_shown_as_a_table(clicks: pa.Table, config: Path, tmp_path: Path) -> None:
    report = freshet.replay(clicks, config)
    assert "<td>fm</td><td>400</td>" in report._repr_html_()
    assert f"{report.metrics['fm']['auc']:.4f}" in repr(report)
    written = report.write(tmp_path / "out")
    assert [path.name for path in written] == ["replay.json", "replay.png", "replay.html"]
    assert "file:frame" in written[2].read_text()
    assert "/tmp" not in written[2].read_text()
    assert json.loads(written[0].read_text())[0]["quality"]["fm"]["auc"] == finite(report.metrics["fm"]["auc"])


def test_wrong_input_is_refused_as_by_the_command(clicks: pa.Table, config: Path) -> None:
    with pytest.raises(freshet.BadRecording, match=r"^frame: no column 'user'"):
        freshet.replay(clicks.drop_columns("user"), config)
    with pytest.raises(freshet.ConfigError, match=r"\[stream.columns\] vale = 'x': no such key"):
        freshet.replay(clicks, config, columns={"vale": "x"})
    with pytest.raises(freshet.ConfigError, match="batch_rows = 0"):
        freshet.replay(clicks, config, batch_rows=0)
    with pytest.raises(freshet.ConfigError, match=r"no\.toml.*cannot be read"):
        freshet.replay(clicks, "no.toml")
    with pytest.raises(freshet.ConfigError, match=r"did you mean 'fm'"):
        freshet.replay(clicks, {"stream": {"kind": "click"}, "ranker": {"fmm": {}}})
    with pytest.raises(TypeError, match="source: int is no stream"):
        freshet.replay(3, config)
    with pytest.raises(ValueError, match="what: 'row' is no table of these results"):
        freshet.replay(clicks, config, k=0).to_arrow("row")


def test_without_pandas_the_error_says_what_to_install(clicks: pa.Table, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = freshet.replay(clicks, config, k=0)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackage, match=r"pandas is not installed.*pip install 'freshet\[frames\]'"):
        report.to_pandas()
    assert report.to_arrow().num_rows > 0


def test_importing_freshet_loads_nothing_that_is_not_used() -> None:
    code = (
        "import sys, freshet; sys.exit(bool({'numpy', 'numba', 'pandas', 'sklearn', 'river', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there_and_others_are_refused_by_name() -> None:
    for name in freshet.__all__:
        if name not in ("RiverClassifier", "SklearnClassifier"):
            assert getattr(freshet, name) is not None
    assert set(freshet.__all__) <= set(dir(freshet))
    with pytest.raises(AttributeError, match="no attribute 'recomend'"):
        _ = freshet.recomend  # type: ignore[attr-defined]
