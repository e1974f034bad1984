"""One of several processes that train together: it reads its partitions, and learns what all of them read.

The processes go through the log in rounds. In a round, each 1. reads some records of each of its partitions and joins them;
2. tells the others the attributes of users and items, and applies those of all; 3. makes rows, while the state stays as it is;
4. tells the others; 5. changes its state by all rows, in the order of the partitions.
So the states are equal after each round. They depend on the offsets after each round, and not on time or on the number of
processes. Process 0 writes the checkpoints, publishes to replicas, and records the offsets after each round.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from learners.networks.gradients import SharesGradients
from memory.stateful import digest, run_to_end
from service.learning.event_reader import EventReader
from service.learning.feedback import FeedbackBuilder
from service.learning.ticks import TickWriter
from service.learning.validation import EventValidator
from service.monitoring.monitor import Monitor
from service.ranking.pipeline import Pipeline
from service.recovery.snapshots import collect_snapshots, restore_snapshots
from service.sharding.building import Deferred, Journal, Noted, RowBuilder
from service.sharding.keeping import Keeper
from service.sharding.learning import learn
from service.sharding.messages import Array, Beginning, Entry, Progress, Rows, Saved, Turn, decode, encode
from service.sharding.reading import PartOrder, RoundReader
from service.sharding.world import Peers
from streams.codec import decode as decode_event
from streams.dead_letters import DeadLetters
from streams.join import Joiner
from streams.log import Log, Offsets

__all__ = ["ShardedTrainer"]

_log = logging.getLogger(__name__)

ROUND = 4096
"""Most records of a round, divided evenly among all partitions. More make the exchange cheaper per record, and the
rows of a round do not know of each other: they are scored with the state before it."""

GRADIENT_ROUND = 2048
"""Most records of a round where gradients are exchanged: they are late by up to a round. With 4096, `deep` predicts worse."""


class ShardedTrainer:
    """Trains together with the same class in other processes; see the module.

    Parameters
    ----------
    pipeline : Pipeline
    builder : FeedbackBuilder
        With `effects`.
    effects : Deferred
    make_joiner : callable returning a Joiner
    log : Log
        Has at least as many partitions as there are processes. Partition p belongs to process p modulo their number.
    dead : DeadLetters
    validator : EventValidator
    ranks : Peers
    keeper : Keeper or None
        Of process 0.
    monitor : Monitor or None
    flush : float
        Seconds that an open batch may wait for more rows.
    remote : str or None
        See `service.learning.trainer.Trainer`.

    Attributes
    ----------
    next : Offsets
        Offset of the next record, of all partitions.
    """

    role = "trainer"
    serves_while_behind = True
    whole = follows = True

    def __init__(
        self,
        pipeline: Pipeline,
        builder: FeedbackBuilder,
        effects: Deferred,
        make_joiner: Callable[[], Joiner],
        log: Log,
        dead: DeadLetters,
        validator: EventValidator,
        ranks: Peers,
        keeper: Keeper | None = None,
        *,
        monitor: Monitor | None = None,
        flush: float = 0.02,
        remote: str | None = None,
    ) -> None:
        self.pipeline, self.builder, self.log, self.monitor = pipeline, builder, log, monitor
        self.notices: deque[str] = deque(maxlen=50)
        self.failures: Counter[str] = Counter()
        self.caught_up = False
        self.next: Offsets = {}
        self._ranks, self._keeper, self._flush = ranks, keeper, flush
        self._rows = RowBuilder(pipeline, builder, effects)
        self._journal, order = Journal(pipeline), PartOrder(log)
        self.reader = EventReader(
            log, order, dead, validator, make_joiner, self._journal.add_event, source=remote or "log", skips_damage=True
        )
        self.has_request = self.reader.has_request
        self.ticks = TickWriter(log, self.reader, self.failed, remote=remote is not None)
        self._parts = RoundReader(
            self.reader,
            order,
            self._journal,
            lambda partition: self.ticks.tick([partition], time.time()),
            lambda error: self.failed("read", error),
        )
        pipeline.isolation.reports.append(self.notice)
        self._rounds: deque[Offsets] = deque()
        self._end_at_start: Offsets = {}
        self._finished = False
        self._shares_gradients = any(
            isinstance(learner, SharesGradients) and learner.shares_gradients for _, learner in pipeline.learners()
        )

    def restore(self) -> None:
        """Continue where process 0 says; see `service.sharding.keeping.Keeper.restore`."""
        found = b"" if self._keeper is None else encode(self._keeper.restore(self.notice))
        start: Beginning = decode(self._ranks.broadcast(found), Beginning)
        if self._keeper is None:
            self.pipeline.load_state_dict(start.state)
            self.pipeline.version = start.version
        mine = {p: position for p, position in start.positions.items() if p % self._ranks.size == self._ranks.rank}
        self.reader.open(mine)
        restore_snapshots(start.snapshots, self.reader.joiners)
        self.next = {p: position.next for p, position in start.positions.items()}
        self.follow(start.rounds)
        self._end_at_start = self.log.end()
        if start.publishes:
            self._checkpoint(at_once=True)

    def turn(self) -> bool:
        """Go through one round. Return False when no process has more records.

        Raises
        ------
        ConnectionError
            If another process has ended.
        """
        if self._finished:
            raise ConnectionError("another process was stopped, and the state is saved: start all of them again")
        return self._round(stops=False)

    def follow(self, rounds: Iterable[Offsets]) -> None:
        """Let the next rounds end where recorded ones ended: at these offsets of all partitions."""
        self._rounds.extend(rounds)

    def idle(self, *, hurry: bool = False) -> float:
        """Append the ticks that are due while there is nothing to learn. Return the seconds to sleep."""
        self.keep_time()
        return self.ticks.rest(self._flush, hurry=hurry)

    def keep_time(self) -> None:
        """Append the ticks that cannot wait until there is nothing to learn, and report clocks that are wrong."""
        for text in self.ticks.keep_time(time.time()):
            self.notice(text)

    def drain(self) -> None:
        """Learn everything that the log holds now."""
        while self.turn():
            pass

    def save(self) -> None:
        """Save the state in a last round, in which the others save, too."""
        if not self._finished:
            self._round(stops=True)

    def close(self) -> None:
        """Finish pending writes, and leave the others."""
        self.ticks.close()
        if self._keeper is not None:
            self._keeper.close()
        self._ranks.close()

    def digest(self) -> str:
        """Fingerprint of the whole state."""
        return digest(self.pipeline.state_dict())

    def lag(self) -> int:
        """Number of records in the log that have not been processed by any process."""
        return sum(end - self.next.get(partition, end) for partition, end in self.log.end().items())

    def status(self) -> dict[str, Any]:
        """Progress in the log, of all processes and of this one."""
        return {
            "next": {str(partition): offset for partition, offset in self.next.items()},
            "lag": self.lag(),
            "pending": self.reader.pending,
            "open_impressions": self.reader.open_impressions,
            "rank": self._ranks.rank,
            "ranks": self._ranks.size,
        } | ({} if self._keeper is None else {"epoch": self._keeper.epoch})

    def gauges(self) -> dict[str, Any]:
        """Metrics for the monitor."""
        kept = {} if self._keeper is None else self._keeper.gauges()
        return {
            "lag": self.lag(),
            "joiner": dict(self.reader.counts) | {"recomputed": self.builder.recomputed},
            "failures": dict(self.failures) | kept,
            **self.ticks.gauges(time.time()),
        }

    @property
    def nbytes(self) -> dict[str, int]:
        """Memory in addition to the pipeline's."""
        copied = self._keeper is not None and self._keeper.writing
        return {
            "joiner": self.reader.nbytes,
            "reader": self.reader.waiting_bytes,
            "checkpoint": self.pipeline.nbytes if copied else 0,
        }

    def failed(self, what: str, error: OSError) -> None:
        """Count a failed read or write, and report it."""
        self.failures[what] += 1
        self.notice(f"{what}: {error}")

    def notice(self, text: str) -> None:
        """Report a message to the operator."""
        self.notices.append(text)
        _log.warning("process %d: %s", self._ranks.rank, text)

    def _round(self, *, stops: bool) -> bool:
        """Read, exchange and learn; with `stops`, read nothing, and save."""
        before = self.next
        read = {} if stops else self._read()
        self._update()
        mine = {partition: self._rows.build(entries) for partition, entries in read.items()}
        turns = [decode(message, Turn) for message in self._ranks.gather(encode(self._turn(mine, stops)), "rows")]
        entries = {partition: entry for one in turns for partition, entry in one.entries.items()}
        for partition in sorted(entries):
            for entry in entries[partition]:
                learn(self.pipeline, entry)
                if partition in mine and isinstance(entry, Rows):
                    self._note_learned(entry)
        self.next = {partition: offset for one in turns for partition, offset in one.progress.next.items()}
        self.next = dict(sorted(self.next.items()))
        self.pipeline.as_of = min(one.progress.as_of for one in turns)
        self.caught_up = self.caught_up or all(self.next[partition] >= end for partition, end in self._end_at_start.items())
        if self._keeper is not None:
            if self.next != before:
                self._keeper.learned(self.next)
            self._keeper.publish_if_due(self.next)
        if any(one.progress.stops for one in turns):
            self._finished = True
            self._checkpoint(at_once=True)
        elif turns[0].progress.saves:
            self._checkpoint(at_once=False)
        return any(one.progress.behind for one in turns)

    def _turn(self, mine: dict[int, list[Entry]], stops: bool) -> Turn:
        reader, end = self.reader, self.log.end()
        behind = any(offset < end[partition] for partition, offset in reader.next.items())
        saves = self._keeper is not None and self._keeper.due(self.next)
        return Turn(Progress(dict(reader.next), reader.as_of, behind, stops, saves), mine)

    def _read(self) -> dict[int, list[Noted]]:
        """Read this process's part of the round."""
        recorded = self._rounds.popleft() if self._rounds else None
        longest = min(ROUND, GRADIENT_ROUND) if self._shares_gradients else ROUND
        end, most = self.log.end(), max(longest // len(self.next), 1)
        found: dict[int, list[Noted]] = {}
        for partition, offset in sorted(self.reader.next.items()):
            stop = min(offset + most, end[partition]) if recorded is None else recorded[partition]
            if stop > offset:
                found[partition] = self._parts.read(partition, stop, whole=recorded is not None)
        return found

    def _update(self) -> None:
        """Tell the others the attributes of users and items in this part of the round, and apply those of all."""
        mine, self._journal.attributes = self._journal.attributes, {}
        of_all = [decode(message, dict[int, list[bytes]]) for message in self._ranks.gather(encode(mine), "attributes")]
        for _, events in sorted((partition, events) for one in of_all for partition, events in one.items()):
            for event in events:
                self.pipeline.apply(decode_event(event))

    def _note_learned(self, rows: Rows) -> None:
        if self.monitor is not None and rows.feedback is not None:
            self.monitor.learned(rows.feedback, [""] * rows.feedback.rows, self.reader.appended)
            self.reader.appended = []

    def _checkpoint(self, *, at_once: bool) -> None:
        """Collect what only single processes know, check that the states are equal, and let process 0 save."""
        state = self.pipeline.state_dict()
        mine = Saved(self.reader.positions(), run_to_end(collect_snapshots(self.reader.joiners)), digest(state))
        parts: list[Saved] = [decode(message, Saved) for message in self._ranks.gather(encode(mine), "saved")]
        differ = [rank for rank, part in enumerate(parts) if part.digest != parts[0].digest]
        if differ:
            # Machines that compute differently, or a fault of memory. Process 0 counts, and publishes.
            self.failures["ranks_differ"] += len(differ)
            self.notice(f"the states of processes {differ} differ from that of process 0, which they take over")
            taken = decode(self._ranks.broadcast(encode(state)), dict[str, Array])
            if mine.digest != parts[0].digest:
                self.pipeline.load_state_dict(taken)
        if self._keeper is not None:
            self._keeper.save(state, parts, self.next, at_once=at_once)
