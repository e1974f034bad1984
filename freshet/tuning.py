"""Tuning in a notebook: better values for a config's keys, searched on the first part of a stream and confirmed on the rest."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from freshet.configs import ConfigLike, config_of
from freshet.frames import Tabular, html_table, is_frame
from freshet.replays import stream_of
from service import config as configs
from service.config import Config
from service.evaluation.tuning import report as reports
from service.evaluation.tuning.documents import changed
from service.evaluation.tuning.samples import Objective
from service.evaluation.tuning.study import Pruner
from service.evaluation.tuning.tune import Plan, Tuned
from service.evaluation.tuning.tune import tune as search

__all__ = ["TuneReport", "tune"]


class TuneReport(Tabular):
    """What tuning found. A notebook shows the trials with the verdict.

    Parameters
    ----------
    result : Tuned
    document : dict
        The base config, as it was given.

    Attributes
    ----------
    tables : tuple of str
        ``trials``: ``trial`` (0 is the base), ``state``, ``value`` of the objective, ``micros`` of CPU a row, and a column for
        each key as text. ``importance``: ``key`` and ``importance``.
    result : Tuned
    """

    tables: ClassVar[tuple[str, ...]] = ("trials", "importance")

    def __init__(self, result: Tuned, document: Mapping[str, Any]) -> None:
        self.result, self._document = result, document

    @property
    def holds(self) -> bool:
        """Whether the gain of the best trial is confirmed on rows that the search has not seen."""
        return self.result.confirmation is not None and self.result.confirmation.holds

    @property
    def remarks(self) -> list[str]:
        """The verdict in words, then what else is to know."""
        return list(reports.remarks(self.result))

    @property
    def config(self) -> dict[str, Any]:
        """The config to use, as a dict: the base with the best values if their gain holds, otherwise the base."""
        return changed(self._document, self.result.values)

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the files of ``freshet tune --report``; return their paths."""
        return reports.write(self.result, Path(folder))

    def _table(self, what: str) -> pa.Table:
        if what == "importance":
            found = self.result.importance
            return pa.table(
                {"key": pa.array(list(found), pa.string()), "importance": pa.array(list(found.values()), pa.float64())}
            )
        tried = self.result.tried
        columns: dict[str, pa.Array[Any]] = {
            "trial": pa.array([one.number for one in tried], pa.int64()),
            "state": pa.array([one.state for one in tried], pa.string()),
            "value": pa.array([one.value for one in tried], pa.float64(), from_pandas=True),
            "micros": pa.array([one.micros for one in tried], pa.float64(), from_pandas=True),
        }
        for key in dict.fromkeys(key for one in tried for key in one.params):
            columns[key] = pa.array([str(one.params[key]) if key in one.params else None for one in tried], pa.string())
        return pa.table(columns)

    def __repr__(self) -> str:
        return "\n".join([f"best trial: {self.result.best.number} with {self.result.best.value:.5f}", *self.remarks])

    def _repr_html_(self) -> str:
        return html_table(self.to_arrow(), f"{self.result.plan.name}: trials on the first part", self.remarks)


def tune(
    source: Any = None,
    config: ConfigLike = None,
    *,
    objective: str = "log_loss",
    trials: int = 40,
    jobs: int = 1,
    first: float = 0.6,
    columns: Mapping[str, Any] | None = None,
    batch_rows: int | None = None,
    strict: bool = False,
    k: int = 10,
    confidence: float = 0.99,
    pruner: str = "median",
    seed: int = 0,
    study: str | os.PathLike[str] | None = None,
) -> TuneReport:
    """Search better values for a config on the first part of a stream, and confirm them on the rest: ``freshet tune``.

    Parameters
    ----------
    source, config, columns, batch_rows, strict
        As for `freshet.replay`. ``[tune]`` of the config has the ranges; without it, the learners say what is worth tuning.
    objective : str
        One of `service.evaluation.tuning.samples.Objective`.
    trials : int
        Trials in all, the base among them.
    jobs : int
        Processes.
    first : float
        Share of the stream for the trials.
    k : int
        Length of the lists.
    confidence : float
        Level of the interval of the gain.
    pruner : {"median", "halving", "none"}
        When a bad trial is stopped early.
    seed : int
    study : path or None
        SQLite file of the trials, which a later call continues. None: they are not kept.

    Returns
    -------
    TuneReport

    Raises
    ------
    ConfigError
        For a config or a range that is wrong.
    BadRecording
        For a stream that cannot be read.
    NotEvaluable
        When the objective is undefined on the stream.
    ValueError
        For an unknown objective or pruner.
    """
    goal, stop, settings = Objective(objective), Pruner(pruner), config_of(config)
    document = _document(config)
    with (
        tempfile.TemporaryDirectory(prefix="freshet-") as folder,
        stream_of(source, settings, columns=columns, batch_rows=batch_rows, strict=strict) as streamed,
    ):
        stream = streamed.stream.model_dump(exclude_defaults=True)
        plan = Plan(
            document=document | {"stream": stream},
            name=settings.name,
            study=Path(study) if study is not None else Path(folder) / "study.sqlite",
            objectives=(goal,),
            trials=trials,
            jobs=jobs,
            share=first,
            k=k,
            confidence=confidence,
            seed=seed,
            pruner=stop,
        )
        result = search(plan)
    # The file of a table in memory is gone.
    return TuneReport(result, document if is_frame(source) else plan.document)


def _document(config: ConfigLike) -> dict[str, Any]:
    if isinstance(config, Config):
        return config.model_dump(exclude_defaults=True, exclude={"name"})
    if isinstance(config, Mapping):
        return dict(config)
    return {} if config is None else tomllib.loads(configs.read(Path(config)))
