"""Tunes a config on a stream: trials on its first part, the winner against the base on the rest."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learners import registry
from learners.base import Ranker
from service import config as configs
from service.config import Config, ConfigError
from service.evaluation.estimators import NotEvaluable
from service.evaluation.recordings import open_stream
from service.evaluation.tuning.confirm import Confirmation, confirmed
from service.evaluation.tuning.declared import space_of
from service.evaluation.tuning.documents import Document, changed
from service.evaluation.tuning.policies import LoggedDecisions
from service.evaluation.tuning.replays import Result, Source, Stopped, Stream, needed
from service.evaluation.tuning.samples import LISTS, LOWER_IS_BETTER, ROWS, Objective, Sample
from service.evaluation.tuning.space import Space
from service.evaluation.tuning.study import Asked, Pruner, Study, Tried
from service.evaluation.tuning.workers import Processes
from service.process.runtime import build_pipeline
from service.tables.ranges import parts
from service.urls import scheme_of
from streams.recorded import BadRecording

__all__ = ["Plan", "Tuned", "tune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tuned, and how.

    Attributes
    ----------
    document : Document
        The base config, whose ``[stream] url`` names the stream.
    name : str
        Of the base config.
    study : Path
        SQLite file of the trials.
    objectives : tuple of Objective
        The objective, and `Objective.CPU` if quality is weighed against CPU time.
    trials : int
        Trials in the study in all, the base among them.
    jobs : int
        Processes.
    share : float
        Share of the stream on which trials are run.
    k : int
        Length of the lists.
    confidence : float
        Level of the intervals.
    seed : int
    pruner : Pruner
    """

    document: Document
    name: str
    study: Path
    objectives: tuple[Objective, ...] = (Objective.LOG_LOSS,)
    trials: int = 40
    jobs: int = 1
    share: float = 0.6
    k: int = 10
    confidence: float = 0.99
    seed: int = 0
    pruner: Pruner = Pruner.MEDIAN

    @property
    def objective(self) -> Objective:
        """The objective of quality."""
        return self.objectives[0]

    @property
    def lower_is_better(self) -> bool:
        """Direction of the objective of quality."""
        return self.objective in LOWER_IS_BETTER


@dataclass(slots=True, kw_only=True)
class Tuned:
    """Result of tuning.

    Attributes
    ----------
    plan : Plan
    tried : list of Tried
        All trials; the first is the base.
    best : Tried
        The best complete trial.
    front : list of Tried
        Trials than which none is both better and cheaper; empty with one objective.
    first, total : int
        Rows (impressions) of the first part, and of the stream.
    importance : dict of str to float
    confirmation : Confirmation or None
        None if no trial is better than the base.
    values : dict of str to value
        Values of the config to use, by path: those of the best trial if its gain holds, otherwise none.
    best_values : dict of str to value
        Values of the best trial, by path.
    left_out : list of str
        Keys of ``[tune]`` that were not tuned, because the objective does not depend on them.
    """

    plan: Plan
    tried: list[Tried]
    best: Tried
    front: list[Tried]
    first: int
    total: int
    importance: dict[str, float]
    confirmation: Confirmation | None
    values: dict[str, Any]
    best_values: dict[str, Any]
    left_out: list[str]


def tune(plan: Plan, on_change: Callable[[Sequence[Tried]], None] = lambda tried: None) -> Tuned:
    """Search the best values, and confirm them.

    Parameters
    ----------
    plan : Plan
    on_change : callable
        Called with all finished trials after each of them.

    Raises
    ------
    ConfigError
        For a config or a search space that cannot be used, or a study of something else.
    NotEvaluable
        When the objective is undefined on the stream.
    streams.recorded.BadRecording
        For a file that cannot be read in its format.
    service.process.data_folder.FolderBusy
        When another process tunes with this study.
    """
    base = configs.parse(plan.document, plan.name)
    _check(plan)
    if scheme_of(base.stream.url) == "file" and plan.objective is not Objective.OFF_POLICY:
        # Errors of the config and of the file are found before anything is started.
        open_stream(base)
    build_pipeline(base)
    space = space_of(plan.document, base.tune, _learners(base, plan.objective))
    left_out = _without_effect(base, plan.objective, space)
    if len(left_out) == len(space.keys):
        remedy = "tune other keys, or for another objective"
        raise ConfigError("tune", f"{', '.join(left_out)}: {plan.objective} does not depend on these; {remedy}")
    space = Space([key for path, key in space.keys.items() if path not in left_out])
    make = functools.partial(_source, plan.objective, plan.k, plan.share)
    minimize, with_cpu = plan.lower_is_better, Objective.CPU in plan.objectives
    with Study(
        plan.study,
        space,
        _settings(plan, base, space),
        minimize=minimize,
        with_cpu=with_cpu,
        seed=plan.seed,
        pruner=plan.pruner,
    ) as study:
        run = _run_here if plan.jobs == 1 else _run_in_processes
        samples = run(plan, space, study, make, on_change)
        tried, best = study.tried(), study.best()
        assert best is not None, "the base is complete"
        first = study.first
        assert first is not None, "the base is complete"
        confirmation = None
        if samples:
            try:
                confirmation = confirmed(samples[0], samples[1], first, plan.confidence, lower_is_better=minimize)
            except ValueError as error:
                raise NotEvaluable(f"{base.stream.url}: {error}") from error
        values = space.values(best.params)
        return Tuned(
            plan=plan,
            tried=tried,
            best=best,
            front=study.front() if with_cpu else [],
            first=first,
            total=study.total,
            importance=study.importance(),
            confirmation=confirmation,
            values=values if confirmation is not None and confirmation.holds else {},
            best_values=values if best.number else {},
            left_out=left_out,
        )


_Listener = Callable[[Sequence[Tried]], None]


def _run_here(plan: Plan, space: Space, study: Study, make: Callable[[], Source], on_change: _Listener) -> list[Sample]:
    """Run the trials in this process, then base and winner on the whole stream; empty if the base is the best."""
    source = make()
    while len(study.tried()) < plan.trials:
        asked = study.ask()
        try:
            config = configs.parse(_document(plan, space, asked.number, asked.params))
            said: Any = source.trial(config, study.first, functools.partial(study.report, asked))
        except Exception as error:
            said = error
        _note(study, asked, said)
        on_change(study.tried())
    return [source.whole(configs.parse(document)) for document in _finalists(plan, space, study)]


def _run_in_processes(plan: Plan, space: Space, study: Study, make: Callable[[], Source], on_change: _Listener) -> list[Sample]:
    """Run the trials in several processes; see `_run_here`."""
    with Processes(plan.jobs, make) as processes:
        running: dict[Any, Asked] = {}
        while True:
            # The base comes first, and alone: it says how long the stream is.
            while (
                processes.idle and len(study.tried()) + len(running) < plan.trials and (study.first is not None or not running)
            ):
                asked = study.ask()
                running[processes.trial(_document(plan, space, asked.number, asked.params), study.first)] = asked
            if not running:
                break
            for process, said in processes.events():
                if isinstance(said, tuple):
                    processes.answer(process, study.report(running[process], *said))
                else:
                    _note(study, running.pop(process), said)
                    on_change(study.tried())
        samples: dict[int, Sample] = {}
        replayed = {processes.whole(document): n for n, document in enumerate(_finalists(plan, space, study))}
        while len(samples) < len(replayed):
            for process, said in processes.events():
                if isinstance(said, Exception):
                    raise said
                samples[replayed[process]] = said
        return [samples[n] for n in sorted(samples)]


def _note(study: Study, asked: Asked, said: Result | Exception) -> None:
    """Note how a trial ended. If the base fails, so does the whole."""
    if isinstance(said, Stopped):
        study.stop(asked)
    elif isinstance(said, Exception):
        if asked.number == 0 or isinstance(said, OSError | BadRecording):
            raise said
        study.fail(asked, f"{type(said).__name__}: {said}")
    elif math.isfinite(said.value):
        study.finish(asked, said)
    elif asked.number == 0:
        raise NotEvaluable("the objective is undefined on the first part of the stream; choose another, or a larger --first")
    else:
        study.fail(asked, "the objective is undefined on the first part of the stream")


def _document(plan: Plan, space: Space, number: int, params: Mapping[str, Any]) -> Document:
    """The config of a trial. The base is used as it is, whatever the ranges have of it."""
    return plan.document if number == 0 else changed(plan.document, space.values(params))


def _finalists(plan: Plan, space: Space, study: Study) -> list[Document]:
    best = study.best()
    if best is None or best.number == 0:
        return []
    return [plan.document, _document(plan, space, best.number, best.params)]


def _source(objective: Objective, k: int, share: float) -> Source:
    return LoggedDecisions(share) if objective is Objective.OFF_POLICY else Stream(objective, k, share)


def _check(plan: Plan) -> None:
    if plan.objective is Objective.CPU or plan.objectives[1:] not in ((), (Objective.CPU,)):
        given = ", ".join(plan.objectives)
        raise ConfigError("objective", f"{given}: give one objective of quality, or one and then {Objective.CPU}")


def _learners(base: Config, objective: Objective) -> list[tuple[str, str]]:
    """Sections and names of the learners that change the objective, for a search without ranges."""
    config = needed(base, objective) if scheme_of(base.stream.url) == "file" else base
    retrievers = list(config.retrievers)
    if objective not in (*LISTS, Objective.REWARD) and not base.features.retrieval:
        rankers = [registry.find(Ranker, name) for name in config.ranker]
        retrievers = [name for name in retrievers if name in [getattr(cls, "needs_retriever", "") for cls in rankers]]
    named = {"retrievers": retrievers, "ranker": config.ranker, "adapters": config.adapters, "rerankers": config.rerankers}
    if objective is Objective.OFF_POLICY:
        named["policy"] = config.policy
    return [(section, name) for section, names in named.items() for name in names]


def _without_effect(base: Config, objective: Objective, space: Space) -> list[str]:
    """Paths of keys of learners that the trials leave out, and of the policy where no list is chosen."""
    if scheme_of(base.stream.url) != "file":
        return []
    config = needed(base, objective)
    kept = {"retrievers": config.retrievers, "rerankers": config.rerankers}
    unread = [
        path
        for path in space.keys
        for section, *rest in [parts(path)]
        if (section == "policy" and objective in ROWS)
        or (section in kept and rest and rest[0] in getattr(base, section) and rest[0] not in kept[section])
    ]
    # What another key waits for stays.
    awaited = {path for name, key in space.keys.items() if name not in unread for path, _ in key.conditions}
    return [path for path in unread if path not in awaited]


def _settings(plan: Plan, base: Config, space: Space) -> dict[str, Any]:
    """What a continued study must have in common with its beginning, by the names of the options."""
    return {
        "config": base.fingerprint,
        "policy": base.policy,
        "stream": base.stream.model_dump(mode="json"),
        "[tune] range": space.described(),
        "--objective": list(plan.objectives),
        "--first": plan.share,
        "--top": plan.k,
        "--seed": plan.seed,
        "--pruner": plan.pruner,
    }
