"""Replays of configs on one stream, through the fold that serves. A replay can stop early."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol

from learners import registry
from learners.base import Policy, Ranker, Reranker
from service.config import Config, ConfigError
from service.evaluation.estimators import NotEvaluable
from service.evaluation.recordings import check_kind, open_stream
from service.evaluation.replay import builder_for_log, fold_events, open_trainer, remaining_batches
from service.evaluation.tuning.recorder import Recorder
from service.evaluation.tuning.samples import ROWS, Objective, Sample
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.process.runtime import build_pipeline
from service.ranking.pipeline import Pipeline
from service.urls import scheme_of
from streams.block import Block
from streams.dead_letters import DeadLetters
from streams.events import Event
from streams.log import MemoryLog

__all__ = ["CHECKPOINTS", "Report", "Result", "Source", "Stopped", "Stream", "needed"]

CHECKPOINTS = 8
"""Equal steps of the first part after which a trial may be stopped."""

Report = Callable[[int, float], bool]
"""Called with a checkpoint, counted from 1, and the objective up to it; returns whether to stop."""


class Stopped(Exception):
    """The trial was stopped at a checkpoint: others were better there."""


@dataclass(slots=True)
class Result:
    """Result of one trial.

    Attributes
    ----------
    value : float
        The objective over the first part of the stream.
    micros : float
        CPU time of a unit in microseconds.
    total : int
        Units that were read: rows, or impressions for an off-policy estimate.
    first : int
        Units of the first part.
    failures : dict of str to int
        Batches on which a learner failed, by learner.
    """

    value: float
    micros: float
    total: int
    first: int
    failures: dict[str, int]


class Source(Protocol):
    """A stream that is replayed many times."""

    def trial(self, config: Config, first: int | None, report: Report) -> Result:
        """Replay the first part.

        Parameters
        ----------
        config : Config
        first : int or None
            Units of the first part. None: the stream's length is not known yet; all of it is read, and then divided.
        report : Report

        Raises
        ------
        Stopped
            When `report` says so.
        ConfigError, NotEvaluable, streams.recorded.BadRecording
            As for a replay.
        """

    def whole(self, config: Config) -> Sample:
        """Replay the whole stream and return all its units. Raises as `trial`."""


class Stream:
    """A recorded file or a log, for objectives of rows and of lists.

    Parameters
    ----------
    objective : Objective
    k : int
        Length of the lists.
    share : float
        Share of the rows in the first part.
    """

    def __init__(self, objective: Objective, k: int, share: float) -> None:
        self._objective, self._k, self._share = objective, k, share
        self._decoded: list[Event | Block] | None = None

    def trial(self, config: Config, first: int | None, report: Report) -> Result:
        """See `Source.trial`."""
        with ExitStack() as opened:
            pipeline, recorder, batches = self._open(opened, config)
            began, step = time.process_time(), 1
            for _ in batches:
                while first is not None and step <= CHECKPOINTS and recorder.rows >= _checkpoint(first, step):
                    if report(step, _value(recorder.sample(), _checkpoint(first, step))):
                        raise Stopped
                    step += 1
                if first is not None and recorder.rows >= first:
                    break
            used, total = time.process_time() - began, recorder.rows
            if not total:
                raise NotEvaluable(f"{config.stream.url}: it has no rows to predict; `freshet validate` says what it has")
            sample = recorder.sample()
            if first is None:
                first = max(int(total * self._share), 1)
                for step in range(1, CHECKPOINTS + 1):
                    report(step, _value(sample, _checkpoint(first, step)))
            return Result(_value(sample, first), used * 1e6 / total, total, first, dict(pipeline.isolation.counts))

    def whole(self, config: Config) -> Sample:
        """See `Source.whole`."""
        with ExitStack() as opened:
            _, recorder, batches = self._open(opened, config)
            for _ in batches:
                pass
            return recorder.sample()

    def _open(self, opened: ExitStack, config: Config) -> tuple[Pipeline, Recorder, Iterator[None]]:
        """Pipeline and recorder of a config, and its micro-batches, each predicted and learned when it is asked for."""
        # Earlier pipelines have references in circles, and the collector does not know how large their arrays are.
        gc.collect()
        scheme = scheme_of(config.stream.url)
        if scheme not in ("file", "lmdb", "kafka"):
            problem = f"url = {config.stream.url!r}: tuning needs file:PATH, lmdb:///folder or kafka://host:port/topic"
            raise ConfigError("stream", problem)
        if scheme == "file":
            check_kind(config, open_stream(config))
            config = needed(config, self._objective)
        pipeline = build_pipeline(config)
        recorder = Recorder(pipeline, self._objective, self._k)
        if scheme == "file":
            fold = Fold(pipeline, FeedbackBuilder(pipeline, config.reward), recorder)
            return pipeline, recorder, fold_events(self._events(config), pipeline, fold, config)
        batches = opened.enter_context(closing(_log(opened, config, pipeline, recorder)))
        return pipeline, recorder, batches

    def _events(self, config: Config) -> Iterable[Event | Block]:
        """What the file has. Columns are decoded once and kept; single events would take too much memory."""
        if config.stream.format == "events":
            return open_stream(config).events()
        if self._decoded is None:
            self._decoded = list(open_stream(config).events())
        return self._decoded


def needed(config: Config, objective: Objective) -> Config:
    """Return a config without what cannot change the objective, on a recorded file without impressions.

    The scores of rows are those of the ranker and of rerankers that do not order lists. Retrievers are left out unless one of
    these reads them. They may take most of the time.
    """
    if objective not in ROWS or config.stream.format == "events" or config.features.retrieval or config.negatives.n:
        return config
    rerankers = {name: keys for name, keys in config.rerankers.items() if not _declares(Reranker, name, "needs_evidence")}
    if rerankers or any(_declares(Ranker, name, "needs_retriever") for name in config.ranker):
        return config.model_copy(update={"rerankers": rerankers})
    policy = (
        config.policy if not any(_declares(Policy, name, "needs_uncertainty") for name in config.policy) else {"greedy": {}}
    )
    return config.model_copy(update={"rerankers": {}, "retrievers": {}, "policy": policy})


def _declares(role: type, name: str, attribute: str) -> bool:
    """Whether a learner's class declares that it needs something."""
    return bool(getattr(registry.find(role, name), attribute))


def _log(opened: ExitStack, config: Config, pipeline: Pipeline, recorder: Recorder) -> Generator[None, None, None]:
    """Fold a log to its end, batches and windows that are still open included."""
    builder = builder_for_log(config, pipeline)
    trainer = open_trainer(opened, config, pipeline, builder, DeadLetters(MemoryLog()), None)
    fold = Fold(pipeline, builder, recorder)
    trainer.restore()
    for joined in trainer.reader.batches():
        fold.joined(joined)
        yield
    for joined in remaining_batches(trainer):
        fold.joined(joined)
        yield


def _checkpoint(first: int, step: int) -> int:
    return first * step // CHECKPOINTS


def _value(sample: Sample, end: int) -> float:
    return sample.value(sample.at < end)
