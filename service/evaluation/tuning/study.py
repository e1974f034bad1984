"""The trials of a study, in an SQLite file: what was tried, with what result, and what to try next.

A trial's values depend only on the seed, its number and the earlier trials. So a study that was stopped goes on as if it had
not been: the trial that was running is run again.

References
----------
T. Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019.
S. Watanabe, "Tree-Structured Parzen Estimator: Understanding Its Algorithm Components and Their Roles for Better Empirical
Performance", 2023: the sampler.
"""

from __future__ import annotations

import fcntl
import json
import math
import sqlite3
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from service.config import ConfigError
from service.evaluation.tuning.replays import CHECKPOINTS, Result
from service.evaluation.tuning.space import Key, Param, Params, Space
from service.evaluation.tuning_goals import Pruner
from service.process.data_folder import FolderBusy

__all__ = ["Asked", "Pruner", "Study", "Tried"]

STARTUP = 8
"""Trials that are drawn at random before earlier ones are taken into account."""

NAME = "tune"


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial that is to be run.

    Attributes
    ----------
    number : int
    params : Params
    """

    number: int
    params: Params
    trial: Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial that was run.

    Attributes
    ----------
    number : int
        0 is the base.
    state : str
        ``complete``, ``stopped`` at a checkpoint, or ``failed``.
    value : float
        The objective; at the last checkpoint if the trial was stopped, NaN if it failed.
    micros : float
        CPU time of a row (an impression) in microseconds; NaN unless it is complete.
    params : Params
    steps : dict of int to float
        The objective at the checkpoints.
    reason : str
        Why it failed; empty otherwise.
    failures : dict of str to int
        Batches on which a learner failed.
    """

    number: int
    state: str
    value: float
    micros: float
    params: Params
    steps: dict[int, float]
    reason: str
    failures: dict[str, int]


class Study:
    """Asks for trials and keeps their results. Use it as a context manager: no other process may write to the file.

    Parameters
    ----------
    file : Path
        SQLite file. A study in it is continued.
    space : Space
    settings : mapping
        What an earlier study in the file must have in common with this one.
    minimize : bool
        Direction of the objective.
    with_cpu : bool
        Whether CPU time is a second objective. Then no trial is stopped early.
    seed : int
    pruner : Pruner

    Raises
    ------
    ConfigError
        When the file is not of a study, or of another one.
    FolderBusy
        When another process tunes with this file.
    """

    def __init__(
        self,
        file: Path,
        space: Space,
        settings: Mapping[str, Any],
        *,
        minimize: bool,
        with_cpu: bool,
        seed: int,
        pruner: Pruner,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._seed, self._with_cpu, self._minimize = space, seed, with_cpu, minimize
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = file.with_name(file.name + ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise FolderBusy(f"{file}: another process tunes with this study; wait for it, or give another --study") from error
        try:
            self._study = self._opened(file, pruner)
            self._check(file, dict(settings))
            self._queue()
        except BaseException:
            self._lock.close()
            raise
        self._running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _opened(self, file: Path, pruner: Pruner) -> optuna.Study:
        minimize, maximize = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
        directions = [minimize if self._minimize else maximize] + [minimize] * self._with_cpu
        try:
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{file}", engine_kwargs={"creator": lambda: _connection(file)}
            )
            known = [one.study_name for one in optuna.get_all_study_summaries(self._storage, include_best_trial=False)]
            if NAME not in known:
                return optuna.create_study(
                    storage=self._storage, study_name=NAME, directions=directions, pruner=_pruner(pruner)
                )
            return optuna.load_study(storage=self._storage, study_name=NAME, pruner=_pruner(pruner))
        except (SQLAlchemyError, sqlite3.DatabaseError) as error:
            raise ConfigError(
                "study", f"{file}: not a file of a study ({type(error).__name__}); give another --study"
            ) from error

    def _check(self, file: Path, settings: dict[str, Any]) -> None:
        """Refuse to continue a study with other settings: its trials could not be compared."""
        settings = json.loads(json.dumps(settings))
        known = self._study.user_attrs.get("settings")
        if known is None:
            self._study.set_user_attr("settings", settings)
        elif known != settings:
            names = ", ".join(name for name in settings if settings[name] != known.get(name)) or "its settings"
            raise ConfigError("study", f"{file}: it was begun with another {names}; go back to that, or give another --study")

    def _queue(self) -> None:
        """Put the base first, then the defaults of all keys if they differ."""
        first = [self._space.base()]
        if self._space.defaults() != first[0]:
            first.append(self._space.defaults())
        queued = sum("queued" in trial.user_attrs for trial in self._study.get_trials(deepcopy=False))
        for params in first[queued:]:
            self._study.enqueue_trial(params, user_attrs={"queued": params})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes open the file."""
        self._storage.engine.dispose()
        self._lock.close()

    @property
    def first(self) -> int | None:
        """Units of the first part of the stream; None before the base was run."""
        trials = self._study.get_trials(deepcopy=False)
        found: int | None = trials[0].user_attrs.get("first") if trials else None
        return found

    @property
    def total(self) -> int:
        """Units of the stream; 0 before the base was run."""
        trials = self._study.get_trials(deepcopy=False)
        found: int = trials[0].user_attrs.get("total", 0) if trials else 0
        return found

    def ask(self) -> Asked:
        """Return the next trial: one that an earlier process did not finish, or a new one."""
        trials = self._study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials if trial.state is TrialState.WAITING]
        again = self._running.pop(0) if self._running else None
        number = again.number if again is not None else waiting[0] if waiting else len(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)
        trial = self._study.ask() if again is None else Trial(self._study, again._trial_id)
        queued: Params | None = trial.user_attrs.get("queued")
        if queued is None:
            params = self._space.draw(lambda key: _suggest(trial, key))
        else:
            # A key whose range lacks the base's value is left out of the base's trial.
            params = {path: _suggest(trial, self._space.keys[path]) for path in self._space.keys if path in queued}
        return Asked(trial.number, params, trial)

    def report(self, asked: Asked, step: int, value: float) -> bool:
        """Note the objective at a checkpoint; return whether to stop the trial there. The base is never stopped."""
        if math.isnan(value) or self._with_cpu:
            return False
        known = self._storage.get_trial(asked.trial._trial_id).intermediate_values
        if step not in known:
            asked.trial.report(value, step)
        return asked.number > 0 and step < CHECKPOINTS and asked.trial.should_prune()

    def finish(self, asked: Asked, result: Result) -> None:
        """Note the result of a trial, which is a finite number."""
        for name in ("micros", "total", "first", "failures"):
            asked.trial.set_user_attr(name, getattr(result, name))
        self._study.tell(asked.trial, [result.value, result.micros] if self._with_cpu else result.value)

    def stop(self, asked: Asked) -> None:
        """Note that a trial was stopped at a checkpoint."""
        self._study.tell(asked.trial, state=TrialState.PRUNED)

    def fail(self, asked: Asked, reason: str) -> None:
        """Note that a trial failed. The sampler ignores it."""
        asked.trial.set_user_attr("reason", reason)
        self._study.tell(asked.trial, state=TrialState.FAIL)

    def tried(self) -> list[Tried]:
        """Return the finished trials in the order of their numbers."""
        finished = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [self._tried(trial) for trial in self._study.get_trials(deepcopy=False, states=finished)]

    def best(self) -> Tried | None:
        """Return the complete trial with the best objective; of equals, the earliest."""
        complete = [one for one in self.tried() if one.state == "complete"]
        return min(complete, key=lambda one: one.value if self._minimize else -one.value, default=None)

    def front(self) -> list[Tried]:
        """Return the trials than which none is both better and cheaper, the cheapest first."""
        found: list[Tried] = []
        for one in sorted((one for one in self.tried() if one.state == "complete"), key=lambda one: one.micros):
            if not found or (one.value < found[-1].value if self._minimize else one.value > found[-1].value):
                found.append(one)
        return found

    def importance(self) -> dict[str, float]:
        """Return the share of each key in what makes trials good, largest first; empty with too few trials.

        References
        ----------
        S. Watanabe, A. Bansal, F. Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
        Subspaces", IJCAI 2023.
        """
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < STARTUP:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return optuna.importance.get_param_importances(
                    self._study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                    target=lambda trial: float(trial.values[0]),
                )
            except (ValueError, RuntimeError):
                return {}

    def _tried(self, trial: FrozenTrial) -> Tried:
        states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
        steps = dict(sorted(trial.intermediate_values.items()))
        value = trial.values[0] if trial.state is TrialState.COMPLETE else math.nan
        if trial.state is TrialState.PRUNED and steps:
            value = list(steps.values())[-1]
        return Tried(
            number=trial.number,
            state=states[trial.state],
            value=value,
            micros=trial.user_attrs.get("micros", math.nan),
            params=dict(trial.params),
            steps=steps,
            reason=trial.user_attrs.get("reason", ""),
            failures=trial.user_attrs.get("failures", {}),
        )


def _connection(file: Path) -> sqlite3.Connection:
    """Open the file so that a commit waits for no disk. A killed process loses nothing; a loss of power may lose trials."""
    connection = sqlite3.connect(file, timeout=60.0, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _suggest(trial: Trial, key: Key) -> Param:
    if key.choices:
        chosen = trial.suggest_categorical(key.path, key.choices)
        assert chosen is not None, "no choice is None"
        return chosen
    if key.is_integer:
        return trial.suggest_int(key.path, int(key.low), int(key.high), step=int(key.step or 1), log=key.log)
    return trial.suggest_float(key.path, key.low, key.high, step=key.step, log=key.log)


def _pruner(pruner: Pruner) -> optuna.pruners.BasePruner:
    if pruner is Pruner.MEDIAN:
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    if pruner is Pruner.HALVING:
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return optuna.pruners.NopPruner()
