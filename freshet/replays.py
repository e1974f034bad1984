"""Replays in a notebook: a file, a log or a data frame through the objects that serve, and a report of what they predicted."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from rich.console import Console

from freshet.configs import ConfigLike, config_of, with_stream
from freshet.frames import Tabular, html_table, is_frame, write_frame
from service.config import Config
from service.console import err
from service.evaluation import replay as replays
from service.evaluation.progressive import Curve
from service.evaluation.reports import replay_report as reports
from service.reference.resolved import as_toml
from streams.recorded import BadRecording

__all__ = ["Report", "replay", "stream_of"]

_QUALITY = ("rows", "auc", "gauc", "impression_auc", "log_loss", "top_reward", "gain", "margin")
_LISTS = ("tests", "hit_rate", "ndcg", "reward")
_WIDTH = 140


class Report(Tabular):
    """What a replay measured, as tables. A notebook shows the metrics.

    Parameters
    ----------
    result : Replay
    k : int
        Length of the lists of hit rate and NDCG.
    config : str
        The config as TOML, for the written page.

    Attributes
    ----------
    tables : tuple of str
        ``metrics``: one row a learner. ``curves``: ``learner``, ``metric``, ``row``, ``time`` and ``value`` of each metric over
        sliding windows. ``rows``: each row of the stream with its user, item, time, reward, and the prediction of each learner
        before the row was learned.
    result : Replay
        All results as they are in ``replay.json``.
    """

    tables: ClassVar[tuple[str, ...]] = ("metrics", "curves", "rows")

    def __init__(self, result: replays.Replay, k: int, config: str = "") -> None:
        self.result, self._k, self._config = result, k, config

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics by learner, without those that it does not have.

        ``recommend`` is what the service would recommend. The names are those of `service.evaluation.progressive.Quality` and
        `service.evaluation.progressive.TopN`.
        """
        found: dict[str, dict[str, float]] = {}
        for names, group in ((_QUALITY, self.result.quality), (_LISTS, self.result.top_n)):
            for learner, one in group.items():
                values = {name: getattr(one, name) for name in names}
                known = {name: value for name, value in values.items() if not math.isnan(value)}
                found[learner] = found.get(learner, {}) | known
        return found

    @property
    def digest(self) -> str:
        """Fingerprint of the state at the end: equal to that of a service that has read the same log."""
        return self.result.digest

    @property
    def remarks(self) -> list[str]:
        """Remarks that help to read the metrics, and what was skipped."""
        dead = [f"{self.result.name}: {count} bad rows skipped ({reason})" for reason, count in self.result.dead.items()]
        return [*reports.remarks(self.result), *dead]

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the files of ``freshet replay --report``: JSON, a picture and a page; return their paths."""
        return reports.write([self.result], Path(folder), self._k, [self._config], "freshet.replay(...)")

    def _table(self, what: str) -> pa.Table:
        if what == "rows":
            assert self.result.predictions is not None
            return self.result.predictions.table()
        return self._curves() if what == "curves" else self._metrics()

    def _metrics(self) -> pa.Table:
        metrics = self.metrics
        columns: dict[str, pa.Array[Any]] = {"learner": pa.array(list(metrics), pa.string())}
        for name in (*_QUALITY, *_LISTS):
            kind = pa.int64() if name in ("rows", "tests") else pa.float64()
            columns[name] = pa.array([one.get(name) for one in metrics.values()], kind)
        return pa.table(columns)

    def _curves(self) -> pa.Table:
        curves: list[tuple[str, str, Curve]] = []
        for learner, quality in self.result.quality.items():
            curves.append((learner, "auc", quality.auc_curve))
            if not math.isnan(quality.log_loss):
                curves.append((learner, "log_loss", quality.log_loss_curve))
        for learner, top in self.result.top_n.items():
            curves += [(learner, "hit_rate", top.hit_rate_curve), (learner, "ndcg", top.ndcg_curve)]
        return pa.table(
            {
                "learner": pa.array([learner for learner, _, curve in curves for _ in curve.row], pa.string()),
                "metric": pa.array([metric for _, metric, curve in curves for _ in curve.row], pa.string()),
                "row": pa.array([row for _, _, curve in curves for row in curve.row], pa.int64()),
                "time": pa.array([time for _, _, curve in curves for time in curve.time], pa.float64(), from_pandas=True),
                "value": pa.array([value for _, _, curve in curves for value in curve.value], pa.float64(), from_pandas=True),
            }
        )

    def __repr__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=_WIDTH, color_system=None, force_jupyter=False).print(reports.table([self.result], self._k))
        return "\n".join([text.getvalue().rstrip(), *self.remarks])

    def _repr_html_(self) -> str:
        title = f"{self.result.name}: {self.result.rows:,} rows, each predicted before it was learned (lists of {self._k})"
        return html_table(self.to_arrow(), title, self.remarks)


def replay(
    source: Any = None,
    config: ConfigLike = None,
    *,
    columns: Mapping[str, Any] | None = None,
    batch_rows: int | None = None,
    strict: bool = False,
    k: int = 10,
    window: int = 10_000,
    ledger: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Report:
    """Predict each row of a stream, then learn it, and measure the predictions: what ``freshet replay`` does.

    Parameters
    ----------
    source : path, str or data frame
        A recorded file, ``lmdb:///folder`` or ``kafka://host:port/topic``; or a table in memory (pandas, polars, pyarrow, or
        anything with ``__arrow_c_stream__``), with one interaction a row. None: the stream that the config names.
    config : path, dict, Config or None
        None: the built-in config.
    columns : dict or None
        Meaning of the columns of a table, as in ``[stream.columns]``: ``{"user": ..., "item": ..., "value": ...}``. None:
        those of the config.
    batch_rows : int or None
        Rows of a micro-batch; 1 is strict test-then-train. None: as the config says.
    strict : bool
        Whether the first bad row is an error. False: bad rows are skipped and counted, unless the config says otherwise.
    k : int
        Length of the lists for hit rate and NDCG; 0 skips both.
    window : int
        Rows of the sliding windows.
    ledger : path or None
        Folder of a trainer's ledger, for a log of several partitions.
    progress : bool
        Whether to show a progress bar on the standard error.

    Returns
    -------
    Report

    Raises
    ------
    ConfigError
        For a wrong config, or a stream that cannot be replayed.
    BadRecording
        For a file or a table that cannot be read.
    TypeError
        For a source of another type.

    Examples
    --------
    >>> import pyarrow as pa
    >>> clicks = pa.table({"user": ["ann", "bob"] * 50, "item": ["tea", "cup"] * 50, "timestamp": list(range(100))})
    >>> config = {"stream": {"kind": "click"}, "ranker": {"bias": {}}, "retrievers": {}}
    >>> report = replay(clicks, config)
    >>> report.metrics["bias"]["rows"]
    100
    >>> report.to_arrow("rows").column_names
    ['user', 'item', 'timestamp', 'request_id', 'position', 'reward', 'bias']
    """
    with stream_of(source, config_of(config), columns=columns, batch_rows=batch_rows, strict=strict) as settings:
        result = replays.replay(
            settings,
            k=k,
            window=window,
            ledger=None if ledger is None else Path(ledger),
            console=err if progress else None,
            keep_rows=True,
        )
        shown = as_toml(settings, settings.model_dump(exclude_defaults=True))
    if is_frame(source):
        # The file is gone.
        shown, result = shown.replace(result.stream, "file:frame"), replace(result, stream="file:frame")
    return Report(result, k, shown)


@contextmanager
def stream_of(
    source: Any,
    config: Config,
    *,
    columns: Mapping[str, Any] | None = None,
    batch_rows: int | None = None,
    strict: bool = False,
) -> Iterator[Config]:
    """Yield the config with this stream. A table is in a file meanwhile; errors name it ``frame``.

    Parameters and errors are those of `replay`.
    """
    options: dict[str, Any] = {"columns": columns, "batch_rows": batch_rows, "strict": strict}
    if not is_frame(source):
        if not isinstance(source, str | os.PathLike | None):
            raise TypeError(f"source: {type(source).__name__} is no stream; give a path, a url, or a pandas or Arrow table")
        yield with_stream(config, config.stream.url if source is None else os.fspath(source), **options)
        return
    with tempfile.TemporaryDirectory(prefix="freshet-") as folder:
        path = write_frame(source, Path(folder))
        read = with_stream(config, str(path), **options)
        try:
            yield read.model_copy(update={"stream": read.stream.model_copy(update={"format": "parquet"})})
        except BadRecording as error:
            error.args = (str(error).replace(str(path), "frame"),)
            raise
