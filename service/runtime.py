"""Everything one serving process holds, wired from a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any, Self

from learners import registry
from learners.base import Adapter, Policy, Ranker, Reranker, Retriever
from memory.catalog import Catalog
from memory.history import History
from service.admission import Admission
from service.config import Config, ConfigError
from service.engine import Engine
from service.feedback import Outcomes
from service.folder import become_writer, keep_to
from service.logs import data_folder, open_log
from service.monitor import Monitor
from service.pipeline import Pipeline
from service.trainer import Trainer
from streams.dead_letters import DeadLetters
from streams.join import Joiner
from streams.lmdb_log import LmdbLog
from streams.log import Log, MemoryLog

__all__ = ["Runtime", "build_joiner", "build_pipeline", "open_runtime"]


def build_pipeline(config: Config) -> Pipeline:
    """Build the learners and the stores that a config asks for.

    Raises
    ------
    ConfigError
        For a learner that there is not, or a keyword that it does not have.
    """
    featurizer = config.featurizer()

    def built(role: Callable[..., Any], section: str, named: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        return {name: registry.build(role, name, keywords, f"{section}.{name}") for name, keywords in named.items()}

    (ranker,) = built(Ranker, "ranker", config.ranker).items()
    (policy,) = built(Policy, "policy", config.policy).items()
    retrievers = built(Retriever, "retrievers", config.retrievers)
    rerankers = {name: _for_ranker(name, keywords, *ranker) for name, keywords in config.rerankers.items()}
    if policy[1].needs_uncertainty and not any(retriever.knows_uncertainty for retriever in retrievers.values()):
        named = ", ".join(retrievers) or "none"
        raise ConfigError(
            f"policy.{policy[0]}", f"needs a retriever that knows its uncertainty; there are: {named}. Choose another policy"
        )
    return Pipeline(
        featurizer=featurizer,
        users=Catalog(config.users.capacity, featurizer.user_columns),
        items=Catalog(config.items.capacity, featurizer.item_columns),
        history=History(config.history.capacity, config.history.length),
        retrievers=retrievers,
        ranker=ranker,
        adapters=built(Adapter, "adapters", config.adapters),
        rerankers=built(Reranker, "rerankers", rerankers),
        policy=policy,
        recent=config.history.recent,
    )


def _for_ranker(name: str, keywords: dict[str, Any], ranker_name: str, ranker: Ranker) -> dict[str, Any]:
    """Keywords of a reranker, with the width of the ranker's hidden vector if it works on that."""
    where = f"rerankers.{name}"
    if not registry.find(Reranker, name, where).needs_hidden:  # type: ignore[attr-defined]
        return keywords
    if "width" in keywords:
        raise ConfigError(where, f"width = {keywords['width']!r}: it is the ranker's to say; leave it out")
    if not ranker.hidden_width:
        raise ConfigError(where, f"needs a ranker with a hidden vector; {ranker_name} has none. Choose another, such as fm")
    return keywords | {"width": ranker.hidden_width}


def build_joiner(config: Config) -> Joiner:
    """Build the joiner that ``[stream]`` describes."""
    stream = config.stream
    return Joiner(
        window=stream.window,
        lateness=stream.lateness,
        batch_rows=stream.batch_rows,
        capacity=stream.waiting,
        ids=stream.remembered,
    )


class Runtime:
    """A pipeline, its trainer and engine, and the logs they read and write.

    Use it as a context manager, or call `start` and `stop`.

    Parameters
    ----------
    config : Config
    pipeline : Pipeline
    log, dead_log : Log
        Events, and the records that could not be learned from.
    lock : file or None
        Held open while this process is the folder's one writer.
    """

    def __init__(self, config: Config, pipeline: Pipeline, log: Log, dead_log: Log, lock: IO[str] | None) -> None:
        self.config, self.pipeline, self.log = config, pipeline, log
        self.dead = DeadLetters(dead_log)
        self._dead_log, self._lock = dead_log, lock
        self.monitor = Monitor(self._gauges)
        self.trainer = Trainer(
            pipeline,
            Outcomes(pipeline, config.reward),
            build_joiner(config),
            log,
            self.dead,
            Admission(config.reward, config.stream.max_skew),
            monitor=self.monitor,
            folder=config.checkpoints,
            every=config.checkpoint.every,
            keep=config.checkpoint.keep,
            retain=config.stream.retain,
            remote=getattr(log, "name", None),
        )
        self.engine = Engine(pipeline, self.trainer, batch_requests=config.server.batch_requests, flush=config.server.flush)
        self._stopped = False

    def start(self) -> None:
        """Start the engine."""
        self.engine.start()

    def stop(self) -> None:
        """Stop the engine, save the state, and close the logs. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self.engine.stop()
        try:
            if self.engine.failure is None:
                self.trainer.save()
        finally:
            self.trainer.close()
            self.log.close()
            self._dead_log.close()
            if self._lock is not None:
                self._lock.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def status(self, digest: bool = False) -> dict[str, Any]:
        """Where this process stands; on the engine's thread.

        Parameters
        ----------
        digest : bool
            Add the fingerprint of the whole state (it reads all of it).
        """
        pipeline, position = self.pipeline, self.trainer.position
        status = {
            "name": self.config.name,
            "version": pipeline.version,
            "next": self.trainer.next,
            "rewind": position.rewind,
            "lag": self.trainer.lag(),
            "pending": self.trainer.joiner.pending,
            "learning": self.engine.learning,
            "users": len(pipeline.users),
            "items": len(pipeline.items),
            "retrievers": list(pipeline.retrievers.named),
            "ranker": pipeline.ranker_name,
            "adapters": list(pipeline.adapters.named),
            "rerankers": list(pipeline.rerankers.named),
            "policy": pipeline.policy_name,
            "fingerprint": self.config.fingerprint,
            "memory_bytes": self._memory(),
            "notices": list(self.trainer.notices),
        }
        return status | {"digest": self.trainer.digest()} if digest else status

    def _memory(self) -> dict[str, int]:
        stores = {name: store.nbytes for name, store in self.pipeline.stores()}
        return stores | {"joiner": self.trainer.joiner.nbytes}

    def _gauges(self) -> dict[str, Any]:
        pipeline = self.pipeline
        return {
            "version": pipeline.version,
            "lag": self.trainer.lag(),
            "lag_seconds": self.trainer.lag_seconds(),
            "dead": dict(self.dead.counts),
            "skipped": dict(pipeline.skipped),
            "figures": {name: dict(learner.figures()) for name, learner in pipeline.learners()},
            "bases": dict.fromkeys(pipeline.rerankers.named, pipeline.ranker_name),
            "joiner": dict(self.trainer.joiner.counts) | {"recomputed": self.trainer.outcomes.recomputed},
            "failures": dict(self.trainer.failures) | {"dead_letter": self.dead.lost},
            "evictions": {
                "users": pipeline.users.evictions,
                "items": pipeline.items.evictions,
                "history": pipeline.history.evictions,
            },
            "memory_bytes": self._memory(),
        }


def open_runtime(config: Config) -> Runtime:
    """Open the logs and build what the config asks for.

    Raises
    ------
    ConfigError
        For a config that cannot be built.
    service.folder.FolderBusy
        When another process is the writer of the data folder.
    OSError
        When the folder cannot be written, or the log cannot be reached.
    """
    pipeline = build_pipeline(config)
    folder = data_folder(config)
    if folder is None:
        return Runtime(config, pipeline, MemoryLog(), MemoryLog(), None)
    with ExitStack() as opened:
        lock = opened.enter_context(become_writer(folder))
        log = open_log(config)
        opened.callback(log.close)
        if (identity := getattr(log, "identity", None)) is not None:
            keep_to(folder, identity)
        dead_log = LmdbLog(folder / "dead", max_bytes=256 << 20)
        opened.pop_all()
    return Runtime(config, pipeline, log, dead_log, lock)
