"""A TCP proxy in front of a Kafka broker that loses, delays and falsifies messages on demand."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Self

PRODUCE, FETCH, API_VERSIONS = 0, 1, 18
"""Kafka's API keys of the requests that tests use."""

NOT_LEADER, REQUEST_TIMED_OUT, MESSAGE_TOO_LARGE = 6, 7, 10
"""Kafka's error codes that the proxy can answer with."""

CHUNK = 16_384
"""Bytes that are forwarded at once; each chunk is delayed separately."""


class Way(Enum):
    """Direction of the traffic."""

    TO_BROKER = "to broker"
    TO_CLIENT = "to client"


TO_BROKER, TO_CLIENT = Way


@dataclass
class _Cut:
    way: Way
    api: int | None
    left: int
    die: bool
    reached: bool = False


@dataclass
class _Refusal:
    code: int
    larger_than: int
    times: int


class _Connection:
    """Two sockets, each read by one thread; the thread that ends last closes both."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.client, self.broker = client, broker
        # By correlation id: API key of the request, and the answer to give instead of the broker's.
        self.asked: dict[int, tuple[int, bytes | None]] = {}
        self.open = True
        self._readers = 2
        self._leaving = threading.Lock()
        for one in (client, broker):
            one.settimeout(None)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def end(self, *, reset: bool) -> None:
        """End both threads. With `reset`, data in flight is lost and both sides get an RST."""
        self.open = False
        for one in (self.client, self.broker):
            with suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD)

    def leave(self) -> None:
        with self._leaving:
            self._readers -= 1
            if not self._readers:
                self.client.close()
                self.broker.close()

    def read(self, way: Way, count: int) -> bytes:
        """Read exactly `count` bytes; fewer at the end of the stream."""
        source, parts = self.client if way is TO_BROKER else self.broker, b""
        while len(parts) < count and (part := source.recv(count - len(parts))):
            parts += part
        return parts

    def write(self, way: Way, data: bytes) -> None:
        sink = self.broker if way is TO_BROKER else self.client
        while data and self.open:
            # If the receiver does not read, this thread still has to notice that the connection was cut.
            if select.select([], [sink], [], 0.1)[1]:
                data = data[sink.send(data) :]


class Proxy:
    """Forwards connections to `target`, frame by frame. Methods switch faults on and off.

    Kafka clients connect to the address that a broker advertises, so the broker has to advertise `servers`. Use the proxy as a
    context manager.

    Attributes
    ----------
    servers : str
        ``host:port`` where it listens.
    target : str
        ``host:port`` of the broker; set it before the first connection.
    cuts : int
        Number of connections that were cut.
    refused : int
        Number of requests that `answer` kept from the broker.
    """

    def __init__(self) -> None:
        # Reserves the port while nothing listens there.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self._listening = socket.create_server(self._reserved.getsockname())
        self.servers = f"127.0.0.1:{self._reserved.getsockname()[1]}"
        self.target = ""
        self.cuts = self.refused = 0
        self._changed = threading.Condition()
        self._closed = False
        self._accepting = True
        self._stalled: set[Way] = set()
        self._delay = 0.0
        self._cut: _Cut | None = None
        self._refusal: _Refusal | None = None
        self._connections: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._reserved.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    # ---- faults

    def heal(self) -> None:
        """Forward everything again; connections that were cut stay cut."""
        with self._changed:
            self._stalled.clear()
            self._delay, self._cut, self._refusal = 0.0, None, None
            self._changed.notify_all()
        self.accept()

    def refuse(self) -> None:
        """Refuse new connections, like a machine where nothing listens."""
        with self._changed:
            if self._accepting:
                self._accepting = False
                self._listening.shutdown(socket.SHUT_RDWR)
                self._listening.close()

    def accept(self) -> None:
        """Accept new connections again."""
        with self._changed:
            if not self._accepting:
                self._listening = socket.create_server(self._reserved.getsockname())
                self._accepting = True
                self._changed.notify_all()

    def cut(self) -> None:
        """Cut all connections now, with RST."""
        with self._changed:
            doomed, self._connections = self._connections, set()
            self.cuts += len(doomed)
            for connection in doomed:
                connection.end(reset=True)
            self._changed.notify_all()

    def stall(self, *ways: Way) -> None:
        """Hold back all data in these directions until `heal`; without directions, in both."""
        with self._changed:
            self._stalled |= set(ways or Way)

    def slow(self, seconds: float) -> None:
        """Delay every chunk in both directions."""
        self._delay = seconds

    def cut_after(self, count: int, way: Way, api: int | None = None, *, die: bool = False) -> None:
        """Forward `count` more bytes in a direction, then cut all connections. Counting starts with the next frame.

        Parameters
        ----------
        count : int
        way : Way
        api : int or None
            Start counting at the next request with this API key, or at the next answer to one. With 0 bytes to the client,
            the broker gets the request and the client gets no answer.
        die : bool
            Refuse new connections after the cut.
        """
        self._cut = _Cut(way, api, count, die)

    def answer(self, code: int, *, larger_than: int = 0, times: int = 1) -> None:
        """Answer produce requests with an error for every partition; the broker never sees them.

        Parameters
        ----------
        code : int
            Kafka's error code.
        larger_than : int
            Only requests with more bytes than this.
        times : int
            Number of requests to answer.
        """
        self._refusal = _Refusal(code, larger_than, times)

    @property
    def cutting(self) -> bool:
        """Whether the cut from `cut_after` has not happened yet."""
        return self._cut is not None

    def wait_for_cut(self, seconds: float = 20.0) -> None:
        """Wait until the cut has happened."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self.cutting, seconds), "no matching data came, so nothing was cut"

    # ---- forwarding

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listening.accept()
            except OSError:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._accepting)
                continue
            host, _, port = self.target.rpartition(":")
            try:
                broker = socket.create_connection((host, int(port)), timeout=5)
            except OSError:
                client.close()
                continue
            connection = _Connection(client, broker)
            with self._changed:
                self._connections.add(connection)
            self._start(self._pump, connection, TO_BROKER)
            self._start(self._pump, connection, TO_CLIENT)

    def _pump(self, connection: _Connection, way: Way) -> None:
        with suppress(OSError):
            while len(head := connection.read(way, 4)) == 4:
                body = connection.read(way, *struct.unpack(">i", head))
                self._pass(connection, way, *self._seen(connection, way, body))
        with self._changed:
            if connection.open:
                self._connections.discard(connection)
                connection.end(reset=False)
                self._changed.notify_all()
        connection.leave()

    def _seen(self, connection: _Connection, way: Way, body: bytes) -> tuple[int, bytes]:
        """API key of a request, or of the request that an answer belongs to, and the body to forward."""
        if way is TO_CLIENT:
            api, instead = connection.asked.pop(struct.unpack_from(">i", body)[0], (-1, None))
            return api, instead or body
        api, _, correlation = struct.unpack_from(">hhi", body)
        instead, refusal = None, self._refusal
        if refusal is not None and api == PRODUCE and refusal.times and len(body) > refusal.larger_than:
            refusal.times -= 1
            self.refused += 1
            instead = _refused(body, refusal.code)
            # The broker gets a harmless request instead, so that answers keep the order of the requests.
            body = struct.pack(">hhih", API_VERSIONS, 0, correlation, -1)
        connection.asked[correlation] = api, instead
        return api, body

    def _pass(self, connection: _Connection, way: Way, api: int, body: bytes) -> None:
        left = struct.pack(">i", len(body)) + body
        cut = self._cut
        if cut is not None and cut.way is way and cut.api in (None, api):
            cut.reached = True
        while left and connection.open:
            with self._changed:
                self._changed.wait_for(lambda: way not in self._stalled or not connection.open)
            if self._delay:
                time.sleep(self._delay)
            chunk, left = left[:CHUNK], left[CHUNK:]
            if cut is None or cut is not self._cut or cut.way is not way or not cut.reached:
                connection.write(way, chunk)
                continue
            connection.write(way, chunk[: cut.left])
            cut.left -= len(chunk)
            if cut.left < 0:
                if cut.die:
                    self.refuse()
                self._cut = None
                self.cut()


def _refused(request: bytes, code: int) -> bytes:
    """Answer to a produce request with the same error for all its partitions, without the frame's length."""
    from kafka.protocol.producer import ProduceRequest, ProduceResponse

    (version,) = struct.unpack_from(">h", request, 2)
    asked = ProduceRequest.decode(request, version=version, header=True)
    topic, partition = ProduceResponse.TopicProduceResponse, ProduceResponse.TopicProduceResponse.PartitionProduceResponse
    response = ProduceResponse(
        version=version,
        responses=[
            topic(name=one.name, partition_responses=[partition(index=p.index, error_code=code) for p in one.partition_data])
            for one in asked.topic_data
        ],
    )
    response.with_header(correlation_id=asked.header.correlation_id)
    return bytes(response.encode(header=True))
