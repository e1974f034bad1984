"""A Kafka topic as a log."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

import crc32c  # noqa: F401  kafka-python uses it if installed; otherwise it computes checksums in Python, ten times slower.
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as failures

from streams.kafka.buffer import FetchBuffer
from streams.kafka.clients import ResponseTracker, poll, start_client
from streams.kafka.errors import NoBroker, NotAllowed, NoTopic, explain
from streams.kafka.identity import IdentityCheck
from streams.kafka.options import Settings
from streams.kafka.sender import BATCH_OVERHEAD, Sender
from streams.log import Offsets, PartlyRefused, Record, read_ranges

__all__ = ["KafkaLog", "NoBroker", "NoTopic", "NotAllowed"]

GATHER_SECONDS = 0.05
"""Seconds that a read with some records waits for more."""

END_TTL = 1.0
"""Seconds after a read in which `KafkaLog.end` uses the ends known from it."""

OPENING = "opening"


class KafkaLog:
    """A `Log` in a topic of a Kafka cluster. It assigns and seeks: the caller keeps the offsets, without a consumer group.

    **Append** returns when all in-sync replicas have every record of the call. The records are sent in batches of at most
    `batch_size` bytes (an option; 900,000 by default). A partition gets its next batch after the one before was acknowledged.
    A broker writes a batch whole or not at all. So a call that fits into one batch of one partition is written whole or not at
    all. When a larger call fails, the first batches of each partition can be written. If the broker refuses a record for good
    when others are written, the rest is written too, and `PartlyRefused` says which are not.

    `InDoubt` means that some records may be written: the broker did not answer in time, or a later batch failed. A broker that
    hung may write its batch later. A record that the client retries by itself is written once (idempotent producer). A record
    that the caller appends again after `InDoubt` can be in the topic twice. Events with an id are still learned once.

    **Read** waits at most `patience` for records that are known to exist, otherwise not at all. After `timeout` without any, it
    raises `NoBroker`, then at once in each call until the broker answers again. If the topic was deleted meanwhile, it raises
    `NoTopic`, and if it was also created again, `LookupError`. Offsets without a record (end of a transaction,
    compaction) are skipped. Timestamps are the producer's, or the broker's with ``message.timestamp.type=LogAppendTime``.

    Parameters
    ----------
    servers : str
        ``host:port``, several separated by commas.
    topic : str
    options : mapping or None
        Settings of kafka-python's consumer and producer; each client gets those it accepts. A value ``env:NAME`` is read from
        the environment; passwords must be given this way.
    readonly : bool
        Only read.
    timeout : float
        Seconds to wait for an answer of the broker.
    patience : float or None
        Longest time that one read waits, seconds. None: `timeout`. With a shorter time the caller can do other work, but an
        empty result may mean "not yet": compare with `end`. A read at another offset than the end of the last one takes longer.

    Attributes
    ----------
    partitions : tuple of int
        Partitions of the topic when the log was opened.
    identity : str
        Unique name of the topic, whatever the address. A topic that is deleted and created again gets another one.

    Raises
    ------
    ValueError
        The options are wrong.
    NoBroker, NoTopic, NotAllowed
        `OSError` with a remedy.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        options: Mapping[str, Any] | None = None,
        readonly: bool = False,
        timeout: float = 10.0,
        patience: float | None = None,
    ) -> None:
        self.servers, self.topic, self.timeout = servers, topic, timeout
        self._patience = timeout if patience is None else patience
        self.name = f"kafka://{servers}/{topic}"
        self._readonly, self._closed = readonly, False
        self._stalled_since: float | None = None
        self._responses = ResponseTracker(timeout / 10)
        self._reading, self._appending = threading.Lock(), threading.Lock()
        self._last_read = -END_TTL
        clients = {"consumer": KafkaConsumer, "producer": KafkaProducer, "admin": KafkaAdminClient}
        defaults = {name: client.DEFAULT_CONFIG for name, client in clients.items()}
        self._settings = Settings(servers, options or {}, timeout, **defaults)
        self._has_id = False  # whether the broker has ids of topics
        with self._explain_errors(OPENING):
            self.partitions, self.identity = self._describe_topic()
            self._identity_check = IdentityCheck(self.name, self.identity, lambda: self._describe_topic()[1], timeout)
            self._topic_partitions = {partition: TopicPartition(topic, partition) for partition in self.partitions}
            self._consumer = start_client(KafkaConsumer, self._settings.consumer, self._responses.on_response)
            self._cluster, self._topic_id = vars(self._consumer)["_cluster"], None
        try:
            with self._explain_errors(OPENING):
                self._consumer.assign(list(self._topic_partitions.values()))
                self._consumer.pause(*self._topic_partitions.values())
                self._buffers = {partition: FetchBuffer(begin) for partition, begin in self._ask_begin().items()}
                for partition, buffer in self._buffers.items():
                    self._consumer.seek(self._topic_partitions[partition], buffer.position)
                self._sender = Sender(servers, topic, self.partitions, self._settings, timeout, self._acknowledge)
                if not readonly:
                    self._sender.open()
        except BaseException:
            self._consumer.close(timeout_ms=0)
            raise

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        """See `Log.append`, and the class for what can be written when a call fails.

        Raises
        ------
        RecordTooLarge
            A record is over `max_request_size` or the broker's limit; nothing was written.
        NoBroker
            Nothing was written.
        PartlyRefused
            The broker refuses some for good, most likely for their size, and has written the others.
        InDoubt
            Some may have been written.
        """
        if self._readonly:
            raise PermissionError(errno.EACCES, "the log was opened with readonly; open it without, to append", self.name)
        pending = list(records)
        for key, value in pending:
            if len(key) + len(value) + BATCH_OVERHEAD > self._settings.max_request_bytes:
                raise self._sender.too_large(len(key) + len(value))
        if not self._appending.acquire(timeout=self.timeout):
            raise NoBroker(errno.ETIMEDOUT, "other appends still wait for the broker; append more slowly", self.name)
        try:
            self._check_open()
            refused = self._sender.append(pending)
        finally:
            self._appending.release()
        end = {partition: buffer.known_end for partition, buffer in self._buffers.items()} if pending else self.end()
        if refused:
            raise PartlyRefused("; ".join(sorted(set(refused.values()))), self.name, frozenset(refused), end)
        return end

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """See `Log.read`."""
        with self._reading, self._explain_errors("reading"):
            self._check_open()
            self._identity_check.raise_error()
            for partition, offset in offsets.items():
                self._seek(partition, offset)
            try:
                if limit > 0 and offsets:
                    self._fill(offsets, limit)
            finally:
                self._last_read = time.monotonic()
            if self._identity_check.doubtful:
                self._identity_check.start()
                return []
            counts = {partition: len(self._buffers[partition].records) for partition in offsets}
            none = dict.fromkeys(offsets, 0)
            found: list[Record] = []
            for partition, (_, count) in read_ranges(none, none, counts, limit).items():
                found += self._buffers[partition].records[:count]
            return found

    def begin(self) -> Offsets:
        """See `Log.begin`. Asks the broker."""
        with self._reading, self._explain_errors("reading"):
            self._check_open()
            return self._ask_begin()

    def end(self) -> Offsets:
        """See `Log.end`. Uses the ends known from a recent read; otherwise asks the broker.

        A broker that reads have found silent is not asked: the caller may be a status page, which must not hang.
        """
        with self._reading, self._explain_errors("reading"):
            self._check_open()
            stale = time.monotonic() - self._last_read > END_TTL and self._responses.silent_seconds < END_TTL
            if stale or any(buffer.known_end < 0 for buffer in self._buffers.values()):
                self._ask_ends()
            return {partition: buffer.end for partition, buffer in self._buffers.items()}

    def end_known_at(self, partition: int) -> float:
        """See `Log.end_known_at`: the time of the last response from the broker that included the partition."""
        return self._buffers[partition].complete_as_of

    def trim(self, offsets: Offsets) -> None:
        """Do nothing: retention is a setting of the topic (``retention.ms``, ``retention.bytes``)."""

    def close(self) -> None:
        """See `Log.close`. A second call does nothing."""
        with self._appending, self._reading:
            if self._closed:
                return
            self._closed = True
            self._consumer.close(autocommit=False, timeout_ms=1000)
            self._sender.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name}: the log is closed; open it again")

    def _describe_topic(self) -> tuple[tuple[int, ...], str]:
        """Return the partitions of the topic and its identity."""
        admin = start_client(KafkaAdminClient, self._settings.admin)
        try:
            (found,) = admin.describe_topics([self.topic])
            cluster = admin.describe_cluster()["cluster_id"]
        finally:
            admin.close()
        if found["error_code"]:
            raise failures.for_code(found["error_code"])(self.topic)
        if not found["partitions"]:
            raise failures.LeaderNotAvailableError(self.topic)
        self._has_id = bool(found["topic_id"])
        return tuple(sorted(p["partition_index"] for p in found["partitions"])), f"{self.topic} {found['topic_id'] or cluster}"

    # ---- reading

    def _ask_begin(self) -> Offsets:
        found = self._consumer.beginning_offsets(list(self._topic_partitions.values()), timeout_ms=int(self.timeout * 400))
        return {tp.partition: offset for tp, offset in found.items()}

    def _ask_ends(self) -> None:
        """Ask for the end of every partition, and restore the consumer's position."""
        begin = self._ask_begin()
        for partition, buffer in self._buffers.items():
            buffer.highwater = self._ask_end(partition, begin[partition])

    def _ask_end(self, partition: int, begin: int) -> int:
        """Return the end of a partition from the response to a fetch.

        `end_offsets` gives only an offset near the end: the broker of the tests returns the one after the first record of the
        last batch.
        """
        tp, buffer = self._topic_partitions[partition], self._buffers[partition]
        near = self._consumer.end_offsets([tp], timeout_ms=int(self.timeout * 400))[tp]
        if near <= begin:
            return begin
        self._consumer.pause(*self._topic_partitions.values())
        self._consumer.seek(tp, near - 1)
        self._consumer.resume(tp)
        until = time.monotonic() + self.timeout
        try:
            while not poll(self._consumer, 0.1) and self._position(tp) < near:
                if time.monotonic() > until:
                    raise failures.KafkaTimeoutError("no response to a fetch")
            end = self._consumer.highwater(tp)
            self._note_stable(partition)
        finally:
            # Also without an answer: a read takes the next records for those after its own position.
            self._consumer.pause(tp)
            self._consumer.seek(tp, buffer.position)
            buffer.polled_since = inf
        return near if end is None else int(min(end, buffer.stable))

    def _note_stable(self, partition: int) -> None:
        """Note how far a partition can be read where a transaction is not over yet."""
        if self._settings.consumer.get("isolation_level") == "read_committed":
            self._buffers[partition].stable = self._responses.stable.get(partition, inf)

    def _position(self, tp: TopicPartition) -> int:
        return int(self._consumer.position(tp, timeout_ms=100) or 0)

    def _seek(self, partition: int, offset: int) -> None:
        """Move the start of a partition's buffer to an offset: within the buffer, or else by a seek."""
        buffer = self._buffers.get(partition)
        if buffer is not None and buffer.known_end >= 0 and buffer.start <= offset <= buffer.position:
            buffer.drop_before(offset)
            return
        begin = self._ask_begin()
        end = {partition: self._ask_end(partition, begin[partition])} if buffer is not None else begin
        read_ranges({partition: offset}, begin, end, 0)
        assert buffer is not None
        buffer.highwater = max(buffer.highwater, end[partition])
        buffer.reset(offset)
        self._consumer.seek(self._topic_partitions[partition], offset)

    def _fill(self, offsets: Offsets, limit: int) -> None:
        """Poll until the buffers hold the records that are known to exist, up to `limit` each; only once if none are."""
        buffers = [self._buffers[partition] for partition in offsets]
        started = time.monotonic()
        since = self._stalled_since or started
        patience = 0.0 if started - since >= self.timeout else self._patience
        while True:
            wanted = [p for p in offsets if len(self._buffers[p].records) < limit]
            behind = [buffer for buffer in buffers if buffer.needs_more(limit)]
            any_records = any(buffer.records for buffer in buffers)
            remaining = (min(GATHER_SECONDS, patience) if any_records else patience) - (time.monotonic() - started)
            if wanted:
                self._poll(wanted, max(remaining, 0.0) if behind else 0.0)
            all_arrived = not any(buffer.needs_more(limit) for buffer in behind)
            if all_arrived or remaining <= 0:
                break
        any_records = any(buffer.records for buffer in buffers)
        if all_arrived or any_records:
            self._stalled_since = None
            if not any_records and self._responses.silent_seconds >= self.timeout:
                self._identity_check.start()
                raise failures.KafkaTimeoutError("no response to requests for records")
            return
        self._stalled_since = since
        if time.monotonic() - since >= self.timeout:
            self._identity_check.start()
            raise failures.KafkaTimeoutError("records that exist do not arrive")

    def _poll(self, wanted: Sequence[int], seconds: float) -> None:
        tps = [self._topic_partitions[partition] for partition in wanted]
        self._consumer.pause(*(tp for tp in self._topic_partitions.values() if tp not in tps))
        self._consumer.resume(*tps)
        for partition, buffer in self._buffers.items():
            buffer.polled_since = min(buffer.polled_since, time.monotonic()) if partition in wanted else inf
        sent, answered = self._responses.last_response
        polled = poll(self._consumer, seconds)
        self._responses.on_poll(received=bool(polled))
        self._check_identity()
        drained = sum(map(len, polled.values())) < self._settings.consumer["max_poll_records"]
        for tp, messages in polled.items():
            self._buffers[tp.partition].add(tp.partition, messages)
        for partition in wanted:
            buffer, tp = self._buffers[partition], self._topic_partitions[partition]
            if tp not in polled:
                buffer.position = max(buffer.position, self._position(tp))
            buffer.highwater = max(self._consumer.highwater(tp) or 0, buffer.position)
            self._note_stable(partition)
            if drained and sent >= buffer.polled_since:
                buffer.complete_as_of = answered

    def _check_identity(self) -> None:
        """Notice that the topic was deleted, and perhaps created again, before records of another one are returned."""
        if self._responses.unknown:
            self._responses.unknown = False
            self._identity_check.start(doubtful=True)
        known = self._cluster.topic_id(self.topic)
        if known is not self._topic_id:
            self._topic_id = known
            if known is not None and self._has_id:
                self._identity_check.compare(f"{self.topic} {known}")

    def _acknowledge(self, results: Sequence[Any]) -> None:
        """Note what the broker answered to an append."""
        for done in results:
            buffer = self._buffers[done.partition]
            buffer.acknowledged = max(buffer.acknowledged, done.offset + 1)
        if any(done.offset < 0 for done in results):
            # The broker had the batch already: its first acknowledgement was lost. This one may lack the offset.
            with self._reading:
                self._ask_ends()

    # ---- errors

    @contextmanager
    def _explain_errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except failures.KafkaError as error:
            explain(error, operation, self.servers, self.topic, self.timeout)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            if operation != OPENING:
                raise
            explain(error, operation, self.servers, self.topic, self.timeout)
