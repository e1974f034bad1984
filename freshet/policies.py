"""Off-policy evaluation in a notebook: what another policy would have earned on a log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from freshet.configs import ConfigLike, config_of, with_stream
from freshet.frames import Tabular, html_table
from service.evaluation import off_policy as evaluations
from service.evaluation.off_policy import EvaluatedPolicy
from service.evaluation.reports import off_policy_report as reports
from service.reference.resolved import as_toml

__all__ = ["PolicyReport", "evaluate"]

_ESTIMATE = ("value", "low", "high", "bernstein_low", "bernstein_high")


class PolicyReport(Tabular):
    """What a policy would have earned, by several estimators. A notebook shows them with the verdict.

    Parameters
    ----------
    result : EvaluatedPolicy
    config : str
        The config as TOML, for the written page.

    Attributes
    ----------
    tables : tuple of str
        ``estimates``: ``estimator``, ``value`` (mean reward of a position), ``low`` and ``high`` (bootstrap),
        ``bernstein_low`` and ``bernstein_high``.
    result : EvaluatedPolicy
        All results as they are in ``evaluate.json``.
    """

    tables: ClassVar[tuple[str, ...]] = ("estimates",)

    def __init__(self, result: EvaluatedPolicy, config: str = "") -> None:
        self.result, self._config = result, config

    @property
    def verdict(self) -> str:
        """Whether the policy is better than the logging policy, as far as the log can tell."""
        return self.result.result.verdict

    @property
    def estimates(self) -> dict[str, float]:
        """Mean reward of a position, by estimator; ``logged`` is what was earned."""
        return {name: one.value for name, one in self.result.result.estimates.items()}

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the files of ``freshet evaluate --report``; return their paths."""
        return reports.write(self.result, Path(folder), self._config, "freshet.evaluate(...)")

    def _table(self, what: str) -> pa.Table:
        estimates = self.result.result.estimates
        columns: dict[str, pa.Array[Any]] = {"estimator": pa.array(list(estimates), pa.string())}
        for name in _ESTIMATE:
            columns[name] = pa.array([getattr(one, name) for one in estimates.values()], pa.float64(), from_pandas=True)
        return pa.table(columns)

    def __repr__(self) -> str:
        rows = [f"{name:<10} {value:.4f}" for name, value in self.estimates.items()]
        return "\n".join([f"{self.result.policy} on {self.result.log}", *rows, *reports.summary(self.result)])

    def _repr_html_(self) -> str:
        title = f"Mean reward of a position: {self.result.policy} on {self.result.log}"
        return html_table(self.to_arrow(), title, reports.summary(self.result))


def evaluate(
    log: str | os.PathLike[str],
    policy: ConfigLike,
    *,
    format: Literal["open_bandit", "dsjson", "events"] | None = None,
    positions: int | None = None,
    above: Literal["policy", "log"] = "policy",
    clip: float | None = None,
    confidence: float = 0.95,
    floor: float = 100.0,
    strict: bool = False,
    ledger: str | os.PathLike[str] | None = None,
) -> PolicyReport:
    """Estimate what a policy would have earned on a log of another policy: what ``freshet evaluate`` does.

    Parameters
    ----------
    log : str or path
        ``lmdb:///folder``, ``kafka://host:port/topic``, or a file: Open Bandit, VW's dsjson, or native events. It needs the
        propensities of what was shown.
    policy : path, dict or Config
        The config of the policy; or a file of the Open Bandit Dataset that the policy logged.
    format : str or None
        Format of a file. None: by its name.
    positions : int or None
        Evaluate only the first positions of an impression. None: all.
    above : {"policy", "log"}
        Whose items fill the positions above each.
    clip : float or None
        Largest weight of clipped IPS. None: chosen from the log.
    confidence : float
        Confidence level of the intervals, 0 to 1.
    floor : float
        Smallest effective sample size for a verdict.
    strict : bool
        Whether the first bad line is an error. False: bad lines are skipped and counted.
    ledger : path or None
        Folder of a trainer's ledger, for a log of several partitions.

    Returns
    -------
    PolicyReport

    Raises
    ------
    ConfigError
        For a wrong config, or a log that cannot be read.
    NotEvaluable
        For a log without usable decisions.
    BadRecording
        For a file that cannot be read in its format.
    ValueError
        For a wrong value of `above` or `confidence`.
    """
    if above not in ("policy", "log"):
        raise ValueError(f"above: {above!r} is not one of policy, log")
    if not 0.5 <= confidence < 1.0:
        raise ValueError(f"confidence: {confidence} is not from 0.5 to 1; give for example 0.95")
    url = os.fspath(log)
    logged = Path(policy) if isinstance(policy, str | os.PathLike) and Path(policy).suffix != ".toml" else None
    config = with_stream(config_of(policy if logged is None else None), url, strict=strict)
    if logged is not None:
        config = config.model_copy(update={"name": str(logged)})
    # What else [stream] says of files describes the recordings that the config is replayed on, not this log.
    guessed = "events" if ".jsonl" in url or ".ndjson" in url else None
    own: dict[str, Any] = {"format": format or guessed, "columns": None, "users": None, "items": None}
    result = evaluations.evaluate(
        config.model_copy(update={"stream": config.stream.model_copy(update=own)}),
        chooser=None if logged is None else evaluations.policy_of_log(logged, strict=strict),
        positions=positions,
        chain=above == "policy",
        clip=clip,
        confidence=confidence,
        floor=floor,
        ledger=None if ledger is None else Path(ledger),
    )
    return PolicyReport(result, as_toml(config, config.model_dump(exclude_defaults=True)) if logged is None else "")
