"""Opens the logs and builds a runtime that trains together with other processes."""

from __future__ import annotations

from contextlib import ExitStack, closing

from service.config import Config, ConfigError
from service.learning.feedback import FeedbackBuilder
from service.learning.validation import EventValidator
from service.monitoring.monitor import Monitor
from service.process.data_folder import become_writer, bind_to_log
from service.process.logs import data_folder, open_dead_letters, open_log, open_weights
from service.process.runtime import LEDGER, LEDGER_BYTES, Runtime, build_pipeline, joiners, sources_of
from service.ranking.pipeline import Pipeline
from service.ranking.signing import Signer
from service.recovery.ledger import Ledger
from service.replication.weights import Publisher
from service.sharding.building import Deferred
from service.sharding.keeping import Keeper
from service.sharding.ranks import Ranks
from service.sharding.trainer import ShardedTrainer
from service.sharding.world import rank, world_size
from streams.lmdb_log import LmdbLog
from streams.log import Log

__all__ = ["open_sharded"]


def open_sharded(config: Config) -> Runtime:
    """Open the logs and build the runtime of one of several processes that train together; see `service.sharding.trainer`.

    Process 0 writes to the data folder. Each other process has a folder in it for its lock and its dead letters.

    Raises
    ------
    ConfigError
        For a config that cannot be built or cannot be shared among processes.
    service.process.data_folder.FolderBusy
        When another process is the writer of the data folder.
    OSError
        When the folder cannot be written, the log cannot be reached, or the processes do not meet.
    """
    folder = data_folder(config)
    if folder is None:
        raise ConfigError("stream", f"url = {config.stream.url!r}: processes cannot share it; give lmdb:///folder or a topic")
    if config.stream.group is not None:
        problem = f"group = {config.stream.group!r}: members of a group learn states of their own; remove the key for torchrun"
        raise ConfigError("stream", problem)
    pipeline = build_pipeline(config)
    with ExitStack() as opened:
        own = folder if rank() == 0 else folder / f"rank-{rank()}"
        opened.enter_context(become_writer(own))
        log = opened.enter_context(closing(open_log(config)))
        partitions = len(log.end())
        if partitions < world_size():
            problem = f"url = {config.stream.url!r}: {partitions} partitions for {world_size()} processes"
            raise ConfigError(
                "stream", f"{problem}; start fewer, or give a new log [stream.options] partitions = {world_size()}"
            )
        ranks = Ranks()
        opened.callback(ranks.close)
        signer = Signer.for_writer(folder) if ranks.rank == 0 else Signer.for_reader(folder)
        dead = opened.enter_context(closing(open_dead_letters(config, own)))
        if log.identity is not None:
            dead.since = bind_to_log(own, log.identity)
        monitor = Monitor(lambda: runtime.gauges(), sources=sources_of(pipeline))
        effects = Deferred()
        trainer = ShardedTrainer(
            pipeline,
            FeedbackBuilder(pipeline, config.reward, signer.verify, config.fingerprint, effects),
            effects,
            joiners(config, partitions),
            log,
            dead,
            EventValidator(config.reward, config.stream.max_skew, config.texts),
            ranks,
            _keeper(config, pipeline, log) if ranks.rank == 0 else None,
            monitor=monitor,
            flush=config.server.flush,
            remote=getattr(log, "name", None),
        )
        runtime = Runtime(config, pipeline, trainer, log, dead, monitor, signer, opened.pop_all())
    return runtime


def _keeper(config: Config, pipeline: Pipeline, log: Log) -> Keeper:
    ledger = publisher = None
    if config.checkpoints is not None:
        ledger = Ledger(LmdbLog(config.checkpoints / LEDGER, max_bytes=LEDGER_BYTES, sync=True))
    if config.weights.url is not None:
        publisher = Publisher(open_weights(config), config.weights.every, config.fingerprint)
    return Keeper(
        pipeline,
        log,
        config.checkpoints,
        every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        retain=config.stream.retain,
        ledger=ledger,
        publisher=publisher,
    )
