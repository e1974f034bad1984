"""Replays a recorded stream through the same objects that serve: predict, measure, learn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from memory.stateful import digest
from service.config import Config, ConfigError
from service.evaluation.predictions import Predictions
from service.evaluation.progressive import Evaluation, Quality, TopN
from service.evaluation.recordings import check_kind, label_warnings, open_stream
from service.learning.event_reader import POLL
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.learning.order import LedgerOrder, Order, TimeOrder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.logs import data_folder, open_log
from service.process.runtime import build_pipeline, joiners
from service.ranking.pipeline import Pipeline
from service.ranking.signing import Signer
from service.recovery.ledger import Ledger
from service.urls import scheme_of
from streams.block import Block
from streams.dead_letters import DeadLetters
from streams.events import Event
from streams.joined import JoinedBatch
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog

__all__ = [
    "Replay",
    "builder_for_log",
    "fold_events",
    "open_trainer",
    "remaining_batches",
    "replay",
]


@dataclass(slots=True, kw_only=True)
class Replay:
    """Result of replaying one stream through one configuration.

    Attributes
    ----------
    name : str
        Name of the configuration.
    stream : str
        The url of the stream.
    batch_rows : int
        Most rows of a micro-batch.
    rows : int
        Predicted and measured rows, to the end of the stream.
    open_rows : int
        For a log: rows in batches or windows that are still open at its end. They are measured, but not part of `digest`,
        because a service that reads the log has not learned them yet.
    recomputed : int
        Rows whose logged features are of another config or cannot be trusted, so they were computed again.
    seconds : float
        Wall time of the loop: read, decode, featurize, predict, evaluate, learn.
    cpu_seconds : float
        CPU time of this process in the loop.
    quality : dict of str to Quality
        Quality by learner.
    top_n : dict of str to TopN
        Hit rate and NDCG by ranking of the catalogue; empty if not requested.
    graded : bool
        Whether any measured reward is neither 0 nor 1.
    logged_reward : float
        Mean reward of the first item of an impression, in the order of the log; NaN without impressions.
    capped : dict of str to int
        Rows whose weight a learner limited because of their rewards, by learner; see `learners.bounds.graded`.
    untrained : int
        Positive rows without an impression, if nothing learned from them what users choose from the whole catalogue.
    dead : dict
        Number of bad rows or records by reason.
    warnings : list of str
        What was suspicious in the stream, with the remedy.
    digest : str
        Fingerprint of the state at the end. For a log: of the state of a service that has read it.
    memory_bytes : dict
        Memory by store.
    predictions : Predictions or None
        Every measured row with its predictions; None if not requested. Reports leave it out.
    """

    name: str
    stream: str
    batch_rows: int
    rows: int
    open_rows: int
    recomputed: int
    seconds: float
    cpu_seconds: float
    quality: dict[str, Quality]
    top_n: dict[str, TopN]
    graded: bool
    logged_reward: float
    capped: dict[str, int]
    untrained: int
    dead: dict[str, int]
    warnings: list[str]
    digest: str
    memory_bytes: dict[str, int]
    predictions: Predictions | None = None


def replay(
    config: Config,
    *,
    k: int = 10,
    window: int = 10_000,
    ledger: Path | None = None,
    console: Console | None = None,
    keep_rows: bool = False,
) -> Replay:
    """Learn from a recorded file or a log, starting from an empty state, and measure all predictions.

    Parameters
    ----------
    config : Config
        Its ``[stream] url`` names the stream: ``file:...``, ``lmdb:///...`` or ``kafka://...``.
    k : int
        Length of the lists for hit rate and NDCG; 0: these are not computed.
    window : int
        Rows of the sliding windows.
    ledger : Path or None
        Folder of a ledger, for a log of several partitions. They are read in the order in which the trainer read them, up to
        the end of the ledger. None: in order of time.
    console : Console or None
        Shows the progress bar. None: no progress bar.
    keep_rows : bool
        Whether to return the predictions of every row. They take about 60 bytes a row, and the names of users and items.

    Raises
    ------
    ConfigError
        For a config that cannot be built, a url that cannot be replayed, or a ledger of another log.
    streams.recorded.BadRecording
        For a file that cannot be read in its format.
    """
    with ExitStack() as opened:
        pipeline = build_pipeline(config)
        evaluation = Evaluation(pipeline, k, window, keep_rows)
        stream = config.stream.url
        scheme = scheme_of(stream)
        if scheme == "file":
            recording = open_stream(config)
            check_kind(config, recording)
            builder, dead, total = FeedbackBuilder(pipeline, config.reward), recording.dead, recording.rows
            trainer = None
            # In a file, the offset is the number of the row: the last of the batch.
            pipeline.isolation.reports.append(
                lambda problem: dead.put("poison", problem, b"", source=stream, offset=evaluation.rows - 1)
            )
        elif scheme in ("lmdb", "kafka"):
            builder, dead, total = builder_for_log(config, pipeline), DeadLetters(MemoryLog()), None
            trainer = open_trainer(opened, config, pipeline, builder, dead, ledger)
        else:
            raise ConfigError(
                "stream", f"url = {config.stream.url!r}: a replay needs file:PATH, lmdb:///folder or kafka://host:port/topic"
            )
        fold = Fold(pipeline, builder, evaluation)
        with _ProgressBar(console, config.name, total, evaluation) as bar:
            wall, cpu = time.perf_counter(), time.process_time()
            fingerprint, open_rows, suspicious = "", 0, list[str]()
            if trainer is None:
                for _ in fold_events(recording.events(), pipeline, fold, config):
                    bar.advance()
                suspicious.extend(recording.warnings)
            else:
                trainer.restore()
                for joined in trainer.reader.batches():
                    fold.joined(joined)
                    bar.advance()
                fingerprint = digest(pipeline.state_dict())
                for joined in remaining_batches(trainer):
                    open_rows += len(joined.rows)
                    fold.joined(joined)
                    bar.advance()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Replay(
        name=config.name,
        stream=stream,
        batch_rows=config.stream.batch_rows,
        rows=evaluation.rows,
        open_rows=open_rows,
        recomputed=builder.recomputed,
        seconds=wall,
        cpu_seconds=cpu,
        quality=evaluation.quality(),
        top_n=evaluation.top_n(),
        graded=evaluation.graded(),
        logged_reward=evaluation.logged_reward(),
        capped={name: int(told["capped"]) for name, one in pipeline.learners() if "capped" in (told := one.metrics())},
        untrained=0 if config.negatives.n or pipeline.chooses else evaluation.unexplained,
        dead=dict(dead.counts),
        warnings=[*suspicious, *label_warnings(config, evaluation.rows, evaluation.positives())],
        digest=fingerprint or digest(pipeline.state_dict()),
        memory_bytes={name: store.nbytes for name, store in pipeline.stores()},
        predictions=evaluation.predictions() if keep_rows else None,
    )


def builder_for_log(config: Config, pipeline: Pipeline) -> FeedbackBuilder:
    """Return a builder for the rows of a log. It trusts impressions of the service whose data folder the config names."""
    return FeedbackBuilder(
        pipeline, config.reward, Signer.for_reader(data_folder(config, needed=False)).verify, config.fingerprint
    )


def remaining_batches(trainer: Trainer) -> Iterator[JoinedBatch]:
    """Yield the batches and windows that are still open at the end of a log: no further records will close them."""
    if isinstance(trainer.reader.order, LedgerOrder):
        # Records that the trainer of the ledger had not read.
        trainer.reader.order = TimeOrder(trainer.log, POLL)
        yield from trainer.reader.batches()
    yield from trainer.reader.finish()


def open_trainer(
    opened: ExitStack, config: Config, pipeline: Pipeline, builder: FeedbackBuilder, dead: DeadLetters, ledger: Path | None
) -> Trainer:
    """Open a trainer on the log that ``[stream] url`` names; the caller runs it. For `ledger`, see `replay`.

    Raises
    ------
    ConfigError
        For a url that does not name a log, or a ledger of another log.
    OSError
        If the log cannot be opened or reached.
    """
    log = opened.enter_context(closing(open_log(config, readonly=True)))
    validator = EventValidator(config.reward, config.stream.max_skew, config.texts)
    order = TimeOrder(log, POLL) if ledger is None else _ledger_order(opened, log, ledger)
    return Trainer(pipeline, builder, joiners(config, len(log.end())), log, dead, validator, order=order)


def _ledger_order(opened: ExitStack, log: Log, folder: Path) -> Order:
    ledger = Ledger(opened.enter_context(closing(LmdbLog(folder, readonly=True))))
    first, begin = ledger.first(), log.begin()
    if first != begin:
        problem = f"{folder}: it begins at {first}, but the log at {begin}, so one of them lacks records"
        raise ConfigError("ledger", f"{problem}. Replay without the ledger, or restore the deleted records")
    return LedgerOrder(log, POLL, ledger.runs(), None)


def fold_events(recorded: Iterable[Event | Block], pipeline: Pipeline, fold: Fold, config: Config) -> Iterator[None]:
    """Predict and learn what a recorded file has, in micro-batches with the same bounds as in a log of the same events.

    Yields after each of them.
    """
    joiner, rows = joiners(config, 1)(), config.stream.batch_rows
    offset = count()

    def one_by_one(events: Iterable[Event]) -> Iterator[None]:
        for event in events:
            pipeline.apply(event)
            yield from fold_all(joiner.push(next(offset), 0.0, event))

    def fold_all(batches: Iterable[JoinedBatch]) -> Iterator[None]:
        for joined in batches:
            fold.joined(joined)
            yield

    for event in recorded:
        if not isinstance(event, Block):
            yield from one_by_one([event])
            continue
        # Whole batches are learned as columns. Rows that complete an open batch, or start the next one, go through the joiner.
        start = min(joiner.room, event.rows) if joiner.pending else 0
        stop = start + (event.rows - start) // rows * rows
        yield from one_by_one(event.slice(0, start).interactions())
        for at in range(start, stop, rows):
            fold.block(event.slice(at, at + rows))
            yield
        yield from one_by_one(event.slice(stop, event.rows).interactions())
    yield from fold_all(joiner.finish())


class _ProgressBar:
    """A progress bar with rate and recent quality, redrawn twice a second; does nothing without a console."""

    def __init__(self, console: Console | None, name: str, total: int | None, evaluation: Evaluation) -> None:
        self._evaluation, self._drawn = evaluation, time.perf_counter()
        self._progress = None if console is None else Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )  # fmt: skip
        self._task = TaskID(0) if self._progress is None else self._progress.add_task(name, total=total, text="")

    def __enter__(self) -> _ProgressBar:
        if self._progress is not None:
            self._progress.start()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self) -> None:
        now = time.perf_counter()
        if self._progress is None or now - self._drawn < 0.5:
            return
        self._drawn = now
        rows, recent = self._evaluation.rows, self._evaluation.recent()
        text = f"{rows / (now - self._started):,.0f} rows/s  AUC {recent['auc']:.4f}  log loss {recent['logloss']:.4f}"
        self._progress.update(self._task, completed=rows, text=text)
