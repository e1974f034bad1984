"""Appending to a topic: batches, and what it means when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka import errors as failures

from streams.kafka.clients import start_client
from streams.kafka.errors import describe, explain, is_rejected, is_too_large
from streams.kafka.options import Settings
from streams.log import InDoubt, RecordTooLarge, partition_of

__all__ = ["Sender"]

BATCH_OVERHEAD = 100
"""Bytes of a batch besides its records, rounded up."""

_RECORD_OVERHEAD = 40  # bytes of a record besides key and value, rounded up

Pair = tuple[bytes, bytes]


class Sender:
    """Sends records in batches, and waits until each is acknowledged.

    Parameters
    ----------
    servers, topic : str
    partitions : sequence of int
    settings : Settings
    timeout : float
        Seconds to wait for an acknowledgement.
    acknowledge : callable
        Called with what the broker answered for records: a sequence of kafka-python's ``RecordMetadata``.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        partitions: Sequence[int],
        settings: Settings,
        timeout: float,
        acknowledge: Callable[[Sequence[Any]], None],
    ) -> None:
        self._servers, self._topic, self._partitions = servers, topic, partitions
        self._settings, self._timeout, self._acknowledge = settings, timeout, acknowledge
        self._name = f"kafka://{servers}/{topic}"
        self._producer: KafkaProducer | None = None

    def open(self) -> None:
        """Start the producer, if there is none."""
        if self._producer is None:
            self._producer = start_client(KafkaProducer, self._settings.producer)

    def close(self) -> None:
        """Drop the producer. The next `append` creates a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(failures.KafkaError):
                producer.close(timeout=0)
            producer.__dict__["_sender"].force_close()

    def append(self, records: Sequence[Pair]) -> dict[int, str]:
        """Append records, each partition in order.

        Returns
        -------
        dict of int to str
            What the broker refused for good, by its index in `records`, with the reason. All others are in the topic. Empty
            unless some were in it already when the first one was refused.

        Raises
        ------
        RecordTooLarge, NotAllowed, NoBroker
            Nothing was written.
        InDoubt
            Some may have been written.
        """
        now, written = int(time.time() * 1000), 0
        refused: dict[int, str] = {}
        for chunk in self.chunks(records):
            waiting = list(chunk)
            while waiting:
                error, sent = self._send([records[n] for n in waiting], now)
                if error is None:
                    written += len(waiting)
                    break
                done = [future.succeeded() for future in sent]
                final = all(one.succeeded() or (one.is_done and is_rejected(one.exception)) for one in sent)
                if (written or sent) and not (final and len(sent) == len(waiting)):
                    problem = (
                        f"the broker acknowledged {sum(done)} of {len(waiting)} records within {self._timeout:g} s "
                        f"({describe(error)}): the others may be in the topic or not; append them again: events with an id are "
                        "learned only once"
                    )
                    raise InDoubt(problem, self._name) from error
                written += sum(done)
                left = [n for n, succeeded in zip(waiting, done, strict=True) if not succeeded] if sent else waiting
                if not written:
                    self._refuse([records[n] for n in left], error)
                bad = self._refused(records, left, error)
                refused |= bad
                waiting = [n for n in left if n not in bad]
        return refused

    def chunks(self, records: Sequence[Pair]) -> Iterator[range]:
        """Divide records into ranges of indices that make one batch for each partition."""
        start, size = 0, BATCH_OVERHEAD
        for at, (key, value) in enumerate(records):
            added = len(key) + len(value) + _RECORD_OVERHEAD
            if at > start and size + added > self._settings.max_batch_bytes:
                yield range(start, at)
                start, size = at, BATCH_OVERHEAD
            size += added
        if start < len(records):
            yield range(start, len(records))

    def too_large(self, size: int) -> RecordTooLarge:
        """Return the error for a record of so many bytes."""
        return RecordTooLarge(self._over_limit(size), self._name)

    def _send(self, records: Sequence[Pair], now: int) -> tuple[failures.KafkaError | None, list[Any]]:
        """Send records that make one batch for each partition, and wait for the answers. Return the error, and futures."""
        sent: list[Any] = []
        try:
            self.open()
            assert self._producer is not None
            for key, value in records:
                tp = self._partitions[partition_of(key, len(self._partitions))]
                # In Kafka, None stands for a missing key.
                sent.append(self._producer.send(self._topic, value, key or None, partition=tp, timestamp_ms=now))
            self._flush(self._producer, sent)
            self._acknowledge([future.get(0) for future in sent])
        except failures.KafkaError as error:
            # A producer that dropped a batch must not continue its sequence numbers: the next one is a new one.
            self.close()
            with suppress(failures.KafkaError):
                self._acknowledge([future.value for future in sent if future.succeeded()])
            return error, sent
        return None, sent

    def _flush(self, producer: KafkaProducer, sent: Sequence[Any]) -> None:
        """Send now, and wait until the result of every record is known."""
        until = time.monotonic() + self._timeout
        while not all(future.is_done for future in sent):
            # The client splits a batch that is too large for the broker, and raises this. The halves are sent next.
            with suppress(failures.UnknownError):
                producer.flush(max(until - time.monotonic(), 0.0))

    def _refuse(self, records: Sequence[Pair], error: Exception) -> None:
        """Raise the error of records that were refused, where nothing was written."""
        if is_too_large(error):
            raise self.too_large(max(len(key) + len(value) for key, value in records)) from error
        explain(error, "appending", self._servers, self._topic, self._timeout)

    def _refused(self, records: Sequence[Pair], left: Sequence[int], error: Exception) -> dict[int, str]:
        """Find which of the records that are left the broker will never take. All of them have failed with a refusal."""
        if not is_too_large(error):
            return dict.fromkeys(left, describe(error))
        # Of each partition, the first one is too large alone. The client gives up those behind it with the same error.
        first: dict[int, int] = {}
        for n in left:
            first.setdefault(partition_of(records[n][0], len(self._partitions)), n)
        sizes = {n: sum(map(len, records[n])) for n in left}
        found = set(first.values())
        if self._settings.producer.get("compression_type") is None:
            found |= {n for n in left if sizes[n] >= max(sizes[one] for one in found)}
        return {n: self._over_limit(sizes[n]) for n in found}

    def _over_limit(self, size: int) -> str:
        limit = self._settings.max_request_bytes
        problem = f"a record of {size} bytes is over the limit of {limit} here, or over the broker's"
        return f"{problem}; raise max_request_size in the options and max.message.bytes of the topic, or send less in one event"
