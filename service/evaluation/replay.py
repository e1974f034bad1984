"""Replay of what was recorded, through the same objects that serve: predict, note, learn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from memory.stateful import digest
from service.config import Config, ConfigError
from service.evaluation.progressive import Evaluation, Quality, TopN
from service.learning.event_reader import POLL
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.learning.order import ByTime, Following, Order
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.logs import data_folder, open_log
from service.process.runtime import build_pipeline, joiners
from service.ranking.pipeline import Pipeline
from service.ranking.signing import Signer
from service.recovery.ledger import Ledger
from streams.block import Block
from streams.dead_letters import DeadLetters
from streams.events import Event
from streams.joined import Joined
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog
from streams.recorded import ColumnMap, Recording, open_recording

__all__ = ["Replay", "builder_for_log", "open_stream", "open_trainer", "replay", "rest_of"]


@dataclass(slots=True, kw_only=True)
class Replay:
    """Outcome of replaying one stream through one configuration.

    Attributes
    ----------
    name : str
        Of the configuration.
    rows : int
        Rows predicted and measured: every record to the end of the stream.
    open_rows : int
        Of a log: rows learned after the state of `digest`, since nothing in the log says that their batch or window has ended.
        A service that reads the log has not learned them yet.
    recomputed : int
        Rows whose impression carries numbers that cannot be believed or are of another config.
    seconds : float
        Wall time of the loop: read, decode, featurize, predict, evaluate, learn.
    cpu_seconds : float
        CPU time of this process in the loop.
    quality : dict of str to Quality
        By learner.
    top_n : dict of str to TopN
        By order of the catalogue; empty when it was not asked for.
    dead : dict
        Bad rows or records, by reason.
    digest : str
        Fingerprint of the state at the end; of a log, of the state of a service that has read it.
    memory_bytes : dict
        By store.
    """

    name: str
    rows: int
    open_rows: int
    recomputed: int
    seconds: float
    cpu_seconds: float
    quality: dict[str, Quality]
    top_n: dict[str, TopN]
    dead: dict[str, int]
    digest: str
    memory_bytes: dict[str, int]


def replay(
    config: Config, *, k: int = 10, window: int = 10_000, ledger: Path | None = None, console: Console | None = None
) -> Replay:
    """Fold a recorded file, or an embedded log, into a new state, and evaluate on the way.

    Parameters
    ----------
    config : Config
        Its ``[stream] url`` says what to replay: ``file:...``, ``lmdb:///...`` or ``kafka://...``.
    k : int
        Length of the lists for hit rate and NDCG; 0 leaves them out.
    window : int
        Rows of the sliding windows.
    ledger : Path or None
        Folder of a ledger, of a log of several partitions: they are taken in the order in which the trainer took them, up to
        where the ledger ends. None: in order of their time.
    console : Console or None
        Where the progress bar goes; None: nowhere.

    Raises
    ------
    ConfigError
        For a config that cannot be built, a url that cannot be replayed, or a ledger that does not go with it.
    streams.recorded.BadRecording
        For a file that cannot be read as what it is said to be.
    """
    with ExitStack() as opened:
        pipeline = build_pipeline(config)
        evaluation = Evaluation(pipeline, k, window)
        stream = config.stream.url
        scheme = urlsplit(stream).scheme
        if scheme == "file":
            recording = open_stream(config)
            _check_kind(config)
            builder, dead, total = FeedbackBuilder(pipeline, config.reward), recording.dead, recording.rows
            trainer = None
            # Of a file the place is the row: the last of the batch.
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
        with _Bar(console, config.name, total, evaluation) as bar:
            wall, cpu = time.perf_counter(), time.process_time()
            fingerprint, open_rows = "", 0
            if trainer is None:
                for _ in _fold_recording(recording, pipeline, fold, config):
                    bar.advance()
            else:
                trainer.restore()
                for joined in trainer.reader.batches():
                    fold.joined(joined)
                    bar.advance()
                fingerprint = digest(pipeline.state_dict())
                for joined in rest_of(trainer):
                    open_rows += len(joined.rows)
                    fold.joined(joined)
                    bar.advance()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Replay(
        name=config.name,
        rows=evaluation.rows,
        open_rows=open_rows,
        recomputed=builder.recomputed,
        seconds=wall,
        cpu_seconds=cpu,
        quality=evaluation.quality(),
        top_n=evaluation.top_n(),
        dead=dict(dead.counts),
        digest=fingerprint or digest(pipeline.state_dict()),
        memory_bytes={name: store.nbytes for name, store in pipeline.stores()},
    )


def builder_for_log(config: Config, pipeline: Pipeline) -> FeedbackBuilder:
    """Builder of the rows of a log: it believes the impressions of the service whose data folder the config names."""
    return FeedbackBuilder(
        pipeline, config.reward, Signer.of_reader(data_folder(config, needed=False)).believes, config.fingerprint
    )


def rest_of(trainer: Trainer) -> Iterator[Joined]:
    """What a log holds behind the last batch that its records close: nothing follows that it would have to wait for."""
    if isinstance(trainer.reader.order, Following):
        # Records that the ledger's trainer had not come to.
        trainer.reader.order = ByTime(trainer.log, POLL)
        yield from trainer.reader.batches()
    yield from trainer.reader.finish()


def open_trainer(
    opened: ExitStack, config: Config, pipeline: Pipeline, builder: FeedbackBuilder, dead: DeadLetters, ledger: Path | None
) -> Trainer:
    """Open the log that ``[stream] url`` names, to be folded by the caller; `ledger` as in `replay`.

    Raises
    ------
    ConfigError
        For a url that is no log's, or a ledger that does not go with it.
    OSError
        When it cannot be opened or reached.
    """
    log = opened.enter_context(closing(open_log(config, readonly=True)))
    validator = EventValidator(config.reward, config.stream.max_skew)
    order = ByTime(log, POLL) if ledger is None else _as_written(opened, log, ledger)
    return Trainer(pipeline, builder, joiners(config, len(log.end())), log, dead, validator, order=order)


def _as_written(opened: ExitStack, log: Log, folder: Path) -> Order:
    ledger = Ledger(opened.enter_context(closing(LmdbLog(folder, readonly=True))))
    first, begin = ledger.first(), log.begin()
    if first != begin:
        problem = f"{folder}: it begins at {first}, and the log at {begin}; what came before, or between, is not in the other"
        raise ConfigError("ledger", f"{problem}. Replay without it, or restore what was deleted")
    return Following(log, POLL, ledger.runs(), None)


def open_stream(config: Config) -> Recording:
    """Open the recorded file that ``[stream]`` names.

    Raises
    ------
    streams.recorded.BadRecording
        For a file that cannot be read as what it is said to be.
    """
    stream = config.stream
    parts = urlsplit(stream.url)
    return open_recording(
        Path(parts.netloc + parts.path),
        format=stream.format,
        columns=ColumnMap(**stream.columns.model_dump()) if stream.columns else None,
        kind=stream.kind,
        sorted=stream.sorted,
        strict=stream.strict,
        users=None if stream.users is None else Path(stream.users),
        items=None if stream.items is None else Path(stream.items),
    )


def _check_kind(config: Config) -> None:
    stream = config.stream
    if (stream.columns is None or stream.columns.kind is None) and stream.kind not in config.reward:
        raise ConfigError("reward", f"{stream.kind!r} (the kind of [stream]) has no worth; there are {sorted(config.reward)}")


def _fold_recording(recording: Recording, pipeline: Pipeline, fold: Fold, config: Config) -> Iterator[None]:
    """Fold the micro-batches of a recorded file, cut where a log of the same events would be cut."""
    joiner, rows = joiners(config, 1)(), config.stream.batch_rows
    offset = count()

    def one_by_one(events: Iterable[Event]) -> Iterator[None]:
        for event in events:
            pipeline.apply(event)
            yield from fold_all(joiner.push(next(offset), event.timestamp, event))

    def fold_all(batches: Iterable[Joined]) -> Iterator[None]:
        for joined in batches:
            fold.joined(joined)
            yield

    for event in recording.events():
        if not isinstance(event, Block):
            yield from one_by_one([event])
            continue
        # Whole batches go as columns; what completes the batch before, or begins the one after, goes through the joiner.
        start = min(joiner.room, event.rows) if joiner.pending else 0
        stop = start + (event.rows - start) // rows * rows
        yield from one_by_one(event.slice(0, start).interactions())
        for at in range(start, stop, rows):
            fold.block(event.slice(at, at + rows))
            yield
        yield from one_by_one(event.slice(stop, event.rows).interactions())
    yield from fold_all(joiner.finish())


class _Bar:
    """A progress bar with rate and running quality, redrawn a few times a second; silent without a console."""

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

    def __enter__(self) -> _Bar:
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
