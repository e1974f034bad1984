"""A Kafka topic as a log."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

import crc32c  # noqa: F401  kafka-python takes it by itself; without it a checksum is computed in Python, ten times slower.
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as failures

from streams.kafka.clients import Silence, poll, started
from streams.kafka.errors import NoBroker, NotAllowed, NoTopic, certain, explain, said
from streams.kafka.options import Settings
from streams.kafka.window import Window
from streams.log import InDoubt, Offsets, Record, TooLarge, partition_of, shares

__all__ = ["KafkaLog", "NoBroker", "NoTopic", "NotAllowed"]

GRACE = 0.05
"""Seconds that a read which has something waits for more."""

FRESH = 1.0
"""Seconds after a read during which `KafkaLog.end` trusts what that read has learned."""

OPENING = "opening"
_BATCH_HEAD, _RECORD_HEAD = 100, 40  # bytes, with room to spare, that a batch and a record in it take besides key and value


class KafkaLog:
    """A `Log` in a topic of a Kafka cluster, read by assign and seek: offsets are the caller's, there is no consumer group.

    **Append.** Returns when all in-sync replicas have every record of the call. The records of a call are sent in batches of
    at most `batch_size` bytes (900,000 unless the options say otherwise), one after the other for a partition, each when the
    one before was acknowledged. A broker writes a batch whole or not at all. So a call that fits into a batch, of records
    that have one partition, is all or none; of a larger call that fails, a beginning can be there in each partition.
    Where the broker did not answer in time, `InDoubt` says that nobody knows, and the batch may even be written later, when
    a broker that hung goes on. What the client repeats by itself within the time is written once (idempotent producer); what
    the caller appends again after `InDoubt` is a new record, and can be in the topic twice. Events with an id are joined and
    learned once all the same.

    **Read.** Waits, at most `patience`, for records that are known to be there, otherwise not at all. When they have not come
    for `timeout` it raises `NoBroker`, and goes on doing so without waiting until the broker answers again. Offsets without a
    record (ends of transactions, compaction) are passed over. Timestamps are those the broker keeps: the producer's clock, or
    its own where the topic is made with ``message.timestamp.type=LogAppendTime``.

    Parameters
    ----------
    servers : str
        ``host:port``, several separated by commas.
    topic : str
    options : mapping or None
        Settings of kafka-python's consumer and producer, passed to whichever takes them. A value ``env:NAME`` is taken from
        the environment; passwords come from there only.
    readonly : bool
    timeout : float
        Seconds until a broker that does not answer is an error.
    patience : float or None
        Seconds that one read waits. None: `timeout`. Less is for a caller with other things to do, who has to take an empty
        answer for "not yet" and `end` for what there is. A read at another place than where the last one ended takes longer.

    Attributes
    ----------
    partitions : tuple of int
        As they were when the log was opened.
    identity : str
        What stays the same for this topic however it is reached, and differs for one made anew under the same name.

    Raises
    ------
    ValueError
        For options that make no sense.
    NoBroker, NoTopic, NotAllowed
        All of them OSError, with the remedy.
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
        self._in_vain_since: float | None = None
        self._silence = Silence(timeout / 10)
        self._reading, self._appending = threading.Lock(), threading.Lock()
        self._producer: KafkaProducer | None = None
        self._read_at = -FRESH
        clients = {"consumer": KafkaConsumer, "producer": KafkaProducer, "admin": KafkaAdminClient}
        defaults = {name: client.DEFAULT_CONFIG for name, client in clients.items()}
        self._settings = Settings(servers, options or {}, timeout, **defaults)
        with self._explained(OPENING):
            self.partitions, self.identity = self._look_up()
            self._places = {partition: TopicPartition(topic, partition) for partition in self.partitions}
            self._consumer = started(KafkaConsumer, self._settings.consumer, self._silence.answered)
        try:
            with self._explained(OPENING):
                self._consumer.assign(list(self._places.values()))
                self._consumer.pause(*self._places.values())
                self._windows = {partition: Window(begin) for partition, begin in self._ask_begin().items()}
                for partition, window in self._windows.items():
                    self._consumer.seek(self._places[partition], window.reach)
                if not readonly:
                    self._producer = started(KafkaProducer, self._settings.producer)
        except BaseException:
            self._consumer.close(timeout_ms=0)
            raise

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        """See `Log.append` and, for what all or none means here, the class.

        Raises
        ------
        TooLarge
            For a record over `max_request_size`, or over the broker's limit; nothing was written.
        NoBroker
            Nothing was written.
        InDoubt
            Some may have been written.
        """
        if self._readonly:
            raise PermissionError(errno.EACCES, "the log was opened to be read; open it without readonly to append", self.name)
        now, pending = int(time.time() * 1000), list(records)
        for key, value in pending:
            if len(key) + len(value) + _BATCH_HEAD > self._settings.largest:
                raise self._too_large(len(key) + len(value))
        if not self._appending.acquire(timeout=self.timeout):
            raise NoBroker(errno.ETIMEDOUT, "other appends still wait for the broker; send more slowly", self.name)
        try:
            self._check_open()
            for sent, chunk in enumerate(self._chunks(pending)):
                self._send(chunk, now, in_part=sent > 0)
        finally:
            self._appending.release()
        if not pending:
            return self.end()
        return {partition: window.known for partition, window in self._windows.items()}

    def read(self, offsets: Offsets, limit: int) -> Sequence[Record]:
        """See `Log.read`."""
        with self._reading, self._explained("reading"):
            self._check_open()
            for partition, offset in offsets.items():
                self._aim(partition, offset)
            try:
                if limit > 0 and offsets:
                    self._fill(offsets, limit)
            finally:
                self._read_at = time.monotonic()
            there = {partition: len(self._windows[partition].records) for partition in offsets}
            none = dict.fromkeys(offsets, 0)
            found: list[Record] = []
            for partition, (_, count) in shares(none, none, there, limit).items():
                found += self._windows[partition].records[:count]
            return found

    def begin(self) -> Offsets:
        """See `Log.begin`; asks the broker."""
        with self._reading, self._explained("reading"):
            self._check_open()
            return self._ask_begin()

    def end(self) -> Offsets:
        """See `Log.end`; for who reads along, what the last read has learned, otherwise the broker is asked.

        Not one that reads have found silent: the caller may be one who tells how things stand, and must not hang.
        """
        with self._reading, self._explained("reading"):
            self._check_open()
            stale = time.monotonic() - self._read_at > FRESH and self._silence.seconds < FRESH
            if stale or any(window.known < 0 for window in self._windows.values()):
                self._ask_ends()
            return {partition: window.end for partition, window in self._windows.items()}

    def known_at(self, partition: int) -> float:
        """See `Log.known_at`: when the broker last said it, short of the time that its answer was on the way."""
        return self._windows[partition].checked

    def trim(self, offsets: Offsets) -> None:
        """Do nothing: how long records are kept is the topic's own setting (``retention.ms``, ``retention.bytes``)."""

    def close(self) -> None:
        """See `Log.close`. A second call does nothing."""
        with self._appending, self._reading:
            if self._closed:
                return
            self._closed = True
            self._consumer.close(autocommit=False, timeout_ms=1000)
            self._drop_producer()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name}: the log is closed; open it anew")

    def _look_up(self) -> tuple[tuple[int, ...], str]:
        """Partitions of the topic, and its identity."""
        admin = started(KafkaAdminClient, self._settings.admin)
        try:
            (found,) = admin.describe_topics([self.topic])
            cluster = admin.describe_cluster()["cluster_id"]
        finally:
            admin.close()
        if found["error_code"]:
            raise failures.for_code(found["error_code"])(self.topic)
        if not found["partitions"]:
            raise failures.LeaderNotAvailableError(self.topic)
        return tuple(sorted(p["partition_index"] for p in found["partitions"])), f"{self.topic} {found['topic_id'] or cluster}"

    # ---- reading

    def _ask_begin(self) -> Offsets:
        found = self._consumer.beginning_offsets(list(self._places.values()), timeout_ms=int(self.timeout * 400))
        return {place.partition: offset for place, offset in found.items()}

    def _ask_ends(self) -> None:
        """Learn the ends, and leave the consumer where it was."""
        begin = self._ask_begin()
        for partition, window in self._windows.items():
            window.highwater = self._ask_end(partition, begin[partition])

    def _ask_end(self, partition: int, begin: int) -> int:
        """End of a partition, as an answer to a fetch says it.

        The answer to the request made for this purpose is not taken as it is: the broker of the tests gives the offset after
        the first record of the last batch. It serves as a place near the end to fetch from.
        """
        place, window = self._places[partition], self._windows[partition]
        near = self._consumer.end_offsets([place], timeout_ms=int(self.timeout * 400))[place]
        if near <= begin:
            return begin
        self._consumer.pause(*self._places.values())
        self._consumer.seek(place, near - 1)
        self._consumer.resume(place)
        until = time.monotonic() + self.timeout
        try:
            while not poll(self._consumer, 0.1) and self._position(place) < near:
                if time.monotonic() > until:
                    raise failures.KafkaTimeoutError("no answer to a fetch")
            end = self._consumer.highwater(place)
        finally:
            # Also where there was no answer: a read takes what comes next for what follows.
            self._consumer.pause(place)
            self._consumer.seek(place, window.reach)
            window.since = inf
        return near if end is None else int(end)

    def _position(self, place: TopicPartition) -> int:
        return int(self._consumer.position(place, timeout_ms=100) or 0)

    def _aim(self, partition: int, offset: int) -> None:
        """Make the window of a partition begin at an offset: from what it holds, or by going there."""
        window = self._windows.get(partition)
        if window is not None and window.known >= 0 and window.low <= offset <= window.reach:
            window.drop_before(offset)
            return
        begin = self._ask_begin()
        end = {partition: self._ask_end(partition, begin[partition])} if window is not None else begin
        shares({partition: offset}, begin, end, 0)
        assert window is not None
        window.highwater = max(window.highwater, end[partition])
        window.aim(offset)
        self._consumer.seek(self._places[partition], offset)

    def _fill(self, offsets: Offsets, limit: int) -> None:
        """Poll until the windows hold what is known to be there, up to `limit` each; just once if nothing is known."""
        windows = [self._windows[partition] for partition in offsets]
        started = time.monotonic()
        since = self._in_vain_since or started
        patience = 0.0 if started - since >= self.timeout else self._patience
        while True:
            wanted = [p for p in offsets if len(self._windows[p].records) < limit]
            behind = [window for window in windows if window.lacks(limit)]
            some = any(window.records for window in windows)
            left = (min(GRACE, patience) if some else patience) - (time.monotonic() - started)
            if wanted:
                self._poll(wanted, max(left, 0.0) if behind else 0.0)
            all_came = not any(window.lacks(limit) for window in behind)
            if all_came or left <= 0:
                break
        some = any(window.records for window in windows)
        if all_came or some:
            self._in_vain_since = None
            if not some and self._silence.seconds >= self.timeout:
                raise failures.KafkaTimeoutError("no answer to requests for records")
            return
        self._in_vain_since = since
        if time.monotonic() - since >= self.timeout:
            raise failures.KafkaTimeoutError("records that are there do not come")

    def _poll(self, wanted: Sequence[int], seconds: float) -> None:
        places = [self._places[partition] for partition in wanted]
        self._consumer.pause(*(place for place in self._places.values() if place not in places))
        self._consumer.resume(*places)
        for partition, window in self._windows.items():
            window.since = min(window.since, time.monotonic()) if partition in wanted else inf
        sent, heard = self._silence.heard
        polled = poll(self._consumer, seconds)
        self._silence.asked(received=bool(polled))
        whole = sum(map(len, polled.values())) < self._settings.consumer["max_poll_records"]
        for place, messages in polled.items():
            self._windows[place.partition].take(place.partition, messages)
        for partition in wanted:
            window, place = self._windows[partition], self._places[partition]
            if place not in polled:
                window.reach = max(window.reach, self._position(place))
            window.highwater = max(self._consumer.highwater(place) or 0, window.reach)
            if whole and sent >= window.since:
                window.checked = heard

    # ---- appending

    def _chunks(self, records: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
        start, size = 0, _BATCH_HEAD
        for at, (key, value) in enumerate(records):
            more = len(key) + len(value) + _RECORD_HEAD
            if at > start and size + more > self._settings.batch:
                yield records[start:at]
                start, size = at, _BATCH_HEAD
            size += more
        if start < len(records):
            yield records[start:]

    def _send(self, records: Sequence[tuple[bytes, bytes]], now: int, *, in_part: bool) -> None:
        """Send records that make one batch for each partition, and wait until they are acknowledged."""
        sent = []
        try:
            if self._producer is None:
                self._producer = started(KafkaProducer, self._settings.producer)
            for key, value in records:
                place = self.partitions[partition_of(key, len(self.partitions))]
                # Kafka's way to say that there is no key is to give none.
                sent.append(self._producer.send(self.topic, value, key or None, partition=place, timestamp_ms=now))
            self._flush(self._producer, sent)
            placed = [one.get(0) for one in sent]
            for done in placed:
                window = self._windows[done.partition]
                window.acknowledged = max(window.acknowledged, done.offset + 1)
            if any(done.offset < 0 for done in placed):
                # The broker says that it had the batch already: an acknowledgement was lost. It need not say where.
                with self._reading:
                    self._ask_ends()
        except failures.KafkaError as error:
            # A producer that gave up on a batch must not go on with its sequence numbers: the next append makes a new one.
            self._drop_producer()
            done = sum(one.succeeded() for one in sent)
            if in_part or done or (sent and not certain(error)):
                problem = (
                    f"the broker acknowledged {done} of {len(records)} records within {self.timeout:g} s ({said(error)}): "
                    "the others may be in the topic or not; append them again, and those with an id are learned once"
                )
                raise InDoubt(problem, self.name) from error
            if isinstance(error, failures.MessageSizeTooLargeError | failures.RecordListTooLargeError):
                raise self._too_large(max(len(key) + len(value) for key, value in records)) from error
            explain(error, "appending", self.servers, self.topic, self.timeout)

    def _flush(self, producer: KafkaProducer, sent: Sequence[Any]) -> None:
        """Send now, and wait until the broker has said of every record what became of it."""
        until = time.monotonic() + self.timeout
        while not all(one.is_done for one in sent):
            # The client splits a batch that is too large for the broker, and says so in this way: the halves come next.
            with suppress(failures.UnknownError):
                producer.flush(max(until - time.monotonic(), 0.0))

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(failures.KafkaError):
                producer.close(timeout=0)
            producer.__dict__["_sender"].force_close()

    # ---- what went wrong

    def _too_large(self, size: int) -> TooLarge:
        problem = f"a record of {size} bytes is over the limit of {self._settings.largest} here, or over the broker's"
        remedy = "raise max_request_size in the options and max.message.bytes of the topic, or send less in one event"
        return TooLarge(f"{problem}; {remedy}", self.name)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except failures.KafkaError as error:
            explain(error, doing, self.servers, self.topic, self.timeout)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            if doing != OPENING:
                raise
            explain(error, doing, self.servers, self.topic, self.timeout)
