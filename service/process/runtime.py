"""Build all parts of a serving process from a config."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from learners import registry
from learners.base import Adapter, Policy, Ranker, Reranker, Retriever
from learners.lookups import Catalogues, UserHistory
from learners.schema import Schema, schema_of
from memory import jit
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.keyed.seen_items import SeenItems
from memory.stateful import State
from service.config import Config, ConfigError
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.monitoring.monitor import Monitor
from service.process.data_folder import become_writer, bind_to_log
from service.process.engine import Engine
from service.process.logs import data_folder, open_dead_letters, open_log, open_membership, open_weights
from service.process.pairs import check_changes, for_adapter, for_ranker, for_reranker
from service.process.updater import Updater
from service.ranking.evidence import evidence_columns
from service.ranking.feature_rows import DenseColumns
from service.ranking.pipeline import Pipeline
from service.ranking.signing import Signer
from service.recovery.ledger import Ledger
from service.replication.replica import Replica
from service.replication.weights import Publisher
from service.urls import scheme_of
from streams.dead_letters import DeadLetters
from streams.join import Joiner
from streams.joined import Closing
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog

__all__ = ["LEDGER", "Runtime", "build_pipeline", "joiners", "open_replica", "open_runtime", "sources_of"]

LEDGER = "ledger"
"""Folder of the ledger, beside the checkpoints."""

LEDGER_BYTES = 4 << 30
"""Largest size of the ledger; beyond it, records that no checkpoint needs are deleted. Holds weeks at 1,000 events a second."""


def build_pipeline(config: Config) -> Pipeline:
    """Build the learners and the stores of a config.

    Raises
    ------
    ConfigError
        For an unknown learner, an unknown keyword, or learners that do not fit each other.
    """
    featurizer = config.featurizer()
    users = Catalog(config.users.capacity, featurizer.user_columns, featurizer.user_numbers, config.users.bytes)
    items = Catalog(config.items.capacity, featurizer.item_columns, featurizer.item_numbers, config.items.bytes)
    history = History(config.history.capacity, config.history.length)
    schema = schema_of(featurizer, config.history.recent)
    dense = DenseColumns(config.statistics, list(config.retrievers) if config.features.retrieval else [])
    catalogues, user_history = Catalogues(users, items), UserHistory(history)

    def built(role: Callable[..., Any], section: str, named: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        return {name: registry.build(role, name, keywords, f"{section}.{name}") for name, keywords in named.items()}

    def bound(role: Callable[..., Any], section: str, named: Mapping[str, dict[str, Any]], schema: Schema) -> dict[str, Any]:
        learners = built(role, section, named)
        for name, learner in learners.items():
            learner.name = name
            try:
                learner.bind(schema, catalogues, user_history)
            except ValueError as error:
                raise ConfigError(f"{section}.{name}", str(error)) from error
        return learners

    # In this order: a ranker may use a retriever, and what it offers to adapters and rerankers may depend on the columns.
    retrievers = bound(Retriever, "retrievers", config.retrievers, schema)
    schema = replace(schema, features=schema.features + dense.columns)
    rankers = {name: for_ranker(name, keywords, retrievers) for name, keywords in config.ranker.items()}
    (ranker,) = bound(Ranker, "ranker", rankers, schema).items()
    (policy,) = built(Policy, "policy", config.policy).items()
    schema = replace(schema, evidence=evidence_columns(retrievers))
    adapters = {name: for_adapter(name, keywords, ranker[1]) for name, keywords in config.adapters.items()}
    rerankers = {name: for_reranker(name, keywords, *ranker) for name, keywords in config.rerankers.items()}
    if policy[1].needs_uncertainty and not any(retriever.knows_uncertainty for retriever in retrievers.values()):
        named = ", ".join(retrievers) or "none"
        raise ConfigError(
            f"policy.{policy[0]}", f"needs a retriever that knows its uncertainty; there are: {named}. Choose another policy"
        )
    pipeline = Pipeline(
        featurizer=featurizer,
        users=users,
        items=items,
        history=history,
        seen=SeenItems(config.seen.users, config.seen.items, config.seen.per_user),
        seen_kinds=config.seen.kinds,
        dense=dense,
        negatives=config.negatives,
        retrievers=retrievers,
        ranker=ranker,
        adapters=bound(Adapter, "adapters", adapters, schema),
        rerankers=bound(Reranker, "rerankers", rerankers, schema),
        policy=policy,
        recent=config.history.recent,
        recommend=config.items.recommend,
    )
    check_changes(pipeline.adapters.named, *ranker)
    return pipeline


def joiners(config: Config, partitions: int) -> Callable[[], Joiner]:
    """Factory of the joiners of a log, one for each partition. They divide the limits of ``[stream]`` among them.

    Parameters
    ----------
    config : Config
    partitions : int
        Number of partitions of the log.
    """
    stream = config.stream
    return lambda: Joiner(
        window=stream.window,
        lateness=stream.lateness,
        batch_rows=stream.batch_rows,
        capacity=-(-stream.max_impressions // partitions),
        memory=-(-stream.impression_bytes // partitions),
        ids=-(-stream.max_interaction_ids // partitions),
        closing=Closing(after_click=stream.close_after_click, click=stream.closing_click, below_clicks=stream.below_clicks),
    )


class Runtime:
    """A pipeline, its updater and engine, and the logs that they use.

    Use it as a context manager, or call `start` and `stop`.

    Parameters
    ----------
    config : Config
    pipeline : Pipeline
    updater : Updater
    log : Log
        The event log.
    dead : DeadLetters
    monitor : Monitor
    signer : Signer
        Signs the impressions made here.
    held : ExitStack
        Resources to close at the end.
    """

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        updater: Updater,
        log: Log,
        dead: DeadLetters,
        monitor: Monitor,
        signer: Signer,
        held: ExitStack,
    ) -> None:
        self.config, self.pipeline, self.updater, self.log, self.dead = config, pipeline, updater, log, dead
        self.monitor, self._held, self._fingerprint = monitor, held, config.fingerprint
        self.signer = signer
        self._held_elsewhere: list[Callable[[], Mapping[str, int]]] = []
        monitor.watch(dead.gauges)
        dead.notify = updater.notices.append
        server = config.server
        self.engine = Engine(
            pipeline,
            updater,
            batch_requests=server.batch_requests,
            queue=server.queue,
            max_wait=server.max_wait,
            learning_share=server.learning_share,
            own_events=server.own_events if isinstance(updater, Trainer) else 0.0,
        )
        monitor.watch(self.engine.gauges)
        self._stopped = False

    def start(self) -> None:
        """Start the engine."""
        self.engine.start()

    def stop(self) -> None:
        """Stop the engine, save the state, and close the logs. A second call does nothing.

        Raises
        ------
        OSError
            When the state cannot be saved. Everything is closed then, too, and the log has what the state would have held.
        """
        if self._stopped:
            return
        self._stopped = True
        with self._held:
            self.engine.stop()
            try:
                if self.engine.failure is None:
                    self.updater.save()
            except OSError as error:
                raise _unsaved(error, self.config.checkpoints) from error
            finally:
                self.updater.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def status(self) -> dict[str, Any]:
        """Status of this process. Call it on the engine's thread."""
        pipeline = self.pipeline
        return {
            "name": self.config.name,
            "role": self.updater.role,
            "version": pipeline.version,
            "lag_seconds": pipeline.lag,
            "caught_up": self.updater.caught_up,
            **self.updater.status(),
            "users": len(pipeline.users),
            "items": len(pipeline.items),
            "retrievers": list(pipeline.retrievers.named),
            "ranker": pipeline.ranker_name,
            "adapters": list(pipeline.adapters.named),
            "rerankers": list(pipeline.rerankers.named),
            "policy": pipeline.policy_name,
            "fingerprint": self._fingerprint,
            "memory_bytes": self._memory(),
            "notices": list(self.updater.notices),
        }

    def copy_in_steps(self) -> Generator[None, None, tuple[dict[str, Any], State]]:
        """Status of this process and a copy of the same state, made in steps. Run it with `Engine.walk`."""
        status = self.status()
        state = yield from self.pipeline.copy_in_steps()
        return status, state

    def gauges(self) -> dict[str, Any]:
        """Numbers for the monitor."""
        pipeline = self.pipeline
        return self.updater.gauges() | {
            "version": pipeline.version,
            "lag_seconds": pipeline.lag,
            "skipped": dict(pipeline.skipped),
            "poisoned": dict(pipeline.isolation.counts),
            "metrics": {name: dict(learner.metrics()) for name, learner in pipeline.learners()},
            "bases": dict.fromkeys(pipeline.rerankers.named, pipeline.ranker_name),
            "evictions": {
                "users": pipeline.users.evictions,
                "items": pipeline.items.evictions,
                "history": pipeline.history.evictions,
                "seen": pipeline.seen.evictions,
            },
            "memory_bytes": self._memory(),
            "compiled_functions": jit.specializations(),
        }

    def watch_memory(self, nbytes: Callable[[], Mapping[str, int]]) -> None:
        """Add a source of ``memory_bytes``: bytes by name, of what this runtime does not know."""
        self._held_elsewhere.append(nbytes)

    def _memory(self) -> dict[str, int]:
        memory = {name: store.nbytes for name, store in self.pipeline.stores()} | self.updater.nbytes
        memory |= {"pending": self.pipeline.pending.nbytes, "monitor": self.monitor.nbytes, "dead_letters": self.dead.nbytes}
        if isinstance(self.log, MemoryLog):
            memory["log"] = self.log.nbytes
        for nbytes in self._held_elsewhere:
            memory |= nbytes()
        return memory


def open_runtime(config: Config) -> Runtime:
    """Open the logs and build a runtime that learns.

    Raises
    ------
    ConfigError
        For a config that cannot be built.
    service.process.data_folder.FolderBusy
        When another process is the writer of the data folder.
    OSError
        When the folder cannot be written, or the log cannot be reached.
    """
    pipeline = build_pipeline(config)
    folder = data_folder(config)
    with ExitStack() as opened:
        if folder is None:
            log: Log = MemoryLog()
        else:
            opened.enter_context(become_writer(folder))
            log = opened.enter_context(closing(open_log(config)))
        since = 0.0 if folder is None or log.identity is None else bind_to_log(folder, log.identity)
        dead = opened.enter_context(closing(open_dead_letters(config, folder)))
        dead.since = since
        partitions, grouped = len(log.end()), config.stream.group is not None
        ledger = publisher = None
        if partitions > 1 and not grouped and config.checkpoints is not None:
            ledger = Ledger(LmdbLog(config.checkpoints / LEDGER, max_bytes=LEDGER_BYTES, sync=True))
        if config.weights.url is not None:
            publisher = Publisher(open_weights(config), config.weights.every, config.fingerprint)
        monitor = Monitor(lambda: runtime.gauges(), sources=sources_of(pipeline))
        signer = Signer.for_writer(folder)
        trainer = Trainer(
            pipeline,
            FeedbackBuilder(pipeline, config.reward, signer.verify, config.fingerprint),
            joiners(config, partitions),
            log,
            dead,
            EventValidator(config.reward, config.stream.max_skew, config.texts),
            monitor=monitor,
            folder=None if grouped else config.checkpoints,
            every=config.checkpoint.every,
            keep=config.checkpoint.keep,
            retain=config.stream.retain,
            flush=config.server.flush,
            remote=getattr(log, "name", None),
            ledger=ledger,
            publisher=publisher,
        )
        updater = _as_member(config, trainer, log) if grouped else trainer
        runtime = Runtime(config, pipeline, updater, log, dead, monitor, signer, opened.pop_all())
    return runtime


def _unsaved(error: OSError, folder: Path | None) -> OSError:
    problem = f"the state was not saved at the end ({error.strerror or error})"
    remedy = "nothing is lost: the next start learns it again from the log. Make room, or let the folder be written"
    return OSError(error.errno, f"{problem}; {remedy}", error.filename or str(folder))


def sources_of(pipeline: Pipeline) -> list[str]:
    """Names that this process gives to the sources of rankings; ``client``: the client made the ranking and named none."""
    return ["client", *(name for name, _ in pipeline.learners())]


def _as_member(config: Config, trainer: Trainer, log: Log) -> Updater:
    """Make a trainer a member of its consumer group."""
    group, folder = config.stream.group, config.checkpoints
    if scheme_of(config.stream.url) != "kafka" or group is None or folder is None:
        raise ConfigError("stream", f"group = {group!r}: only a Kafka topic has consumer groups; remove the key")
    if config.weights.url is not None:
        problem = "url: replicas follow one trainer, but each member of a [stream] group has its own state; remove one of them"
        raise ConfigError("weights", problem)
    from service.learning.group import Member, member_name  # Imported late: the Kafka client is slow to import.

    own = folder / f"group-{group}"
    own.mkdir(parents=True, exist_ok=True)
    name = member_name(own)
    return Member(
        trainer, lambda revoked, lost: open_membership(config, log, name, revoked, lost), name, own, config.checkpoint.every
    )


def open_replica(config: Config) -> Runtime:
    """Open the logs and build a replica, which follows a trainer.

    Raises
    ------
    ConfigError
        For a config that cannot be built, or lacks the weights log or the checkpoint folder.
    OSError
        When the event log cannot be reached or written.
    """
    if config.weights.url is None:
        raise ConfigError("weights", "url: missing; name the weights log of the trainer's config")
    if config.checkpoints is None:
        raise ConfigError("checkpoint", "folder: missing; name the folder of the trainer's checkpoints")
    pipeline = build_pipeline(config)
    with ExitStack() as opened:
        log = opened.enter_context(closing(open_log(config)))
        dead = opened.enter_context(closing(open_dead_letters(config, None)))
        monitor = Monitor(lambda: runtime.gauges(), sources=sources_of(pipeline))
        replica = Replica(
            pipeline, lambda: open_weights(config, readonly=True), config.checkpoints, log.identity, config.fingerprint
        )
        signer = Signer.for_reader(data_folder(config))
        runtime = Runtime(config, pipeline, replica, log, dead, monitor, signer, opened.pop_all())
    return runtime
