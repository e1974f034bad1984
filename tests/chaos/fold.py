"""The whole log folded at one go."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from service.config import Config
from service.evaluation.replay import builder_for_log, replay
from service.learning.event_reader import POLL
from service.learning.fold import Fold
from service.learning.order import LedgerOrder, Order
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.logs import open_log
from service.process.runtime import LEDGER, build_pipeline, joiners
from service.recovery.ledger import Ledger
from streams.dead_letters import DeadLetters
from streams.lmdb_log import LmdbLog
from streams.log import MemoryLog, Offsets

__all__ = ["Folded", "fold", "replayed"]


class Folded(NamedTuple):
    """What came of it; names as in `tests.chaos.tally.Tally`, and where it ended."""

    digest: str
    kinds: Counter[str]
    dead: Counter[str]
    clicks: Counter[tuple[str, str, float]]
    next: Offsets


def fold(config: Config) -> Folded:
    """Fold the log of a config, in the order in which its trainer took it."""
    clicks: Counter[tuple[str, str, float]] = Counter()
    with ExitStack() as opened:
        log = opened.enter_context(closing(open_log(config, readonly=True)))
        order: Order | None = None
        if (folder := _ledger(config)).exists():
            ledger = Ledger(opened.enter_context(closing(LmdbLog(folder, readonly=True))))
            order = LedgerOrder(log, POLL, ledger.runs(), None)
        pipeline, dead = build_pipeline(config), DeadLetters(MemoryLog())
        builder, validator = builder_for_log(config, pipeline), EventValidator(config.reward, config.stream.max_skew)
        trainer = Trainer(pipeline, builder, joiners(config, len(log.end())), log, dead, validator, order=order)
        folded = Fold(pipeline, builder)
        trainer.restore()
        for joined in trainer.reader.batches():
            clicks.update((row.user, row.item, row.timestamp) for row in joined.rows if row.kind)
            folded.joined(joined)
        digest, counts = trainer.digest(), trainer.reader.counts
        done = Folded(digest, counts, Counter(dead.counts), clicks, dict(trainer.next))
        trainer.close()
    return done


def replayed(config: Config) -> str:
    """Digest that a replay comes to."""
    folder = _ledger(config)
    return replay(config, k=0, ledger=folder if folder.exists() else None).digest


def _ledger(config: Config) -> Path:
    assert config.checkpoints is not None
    return config.checkpoints / LEDGER
