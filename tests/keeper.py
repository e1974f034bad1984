"""A proxy that gives its own address for the broker's, and keeps the metadata of commits, which the small broker forgets."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from kafka.protocol.consumer import OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse
from kafka.protocol.metadata import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    MetadataRequest,
    MetadataResponse,
)

REQUESTS = {one.API_KEY: one for one in (OffsetCommitRequest, OffsetFetchRequest, FindCoordinatorRequest, MetadataRequest)}
ANSWERS = {one.API_KEY: one for one in (OffsetCommitResponse, OffsetFetchResponse, FindCoordinatorResponse, MetadataResponse)}

GroupPartition = tuple[str, str, int]
"""Group, topic and partition."""


class Keeper:
    """Proxy in front of a broker that returns the metadata of commits with their offsets, as Apache Kafka does.

    It passes everything else on, with its own address instead of the broker's. Use it as a context manager.

    Parameters
    ----------
    servers : str
        Address ``host:port`` of the broker.
    advertised : str or None
        Address to give instead of its own.
    keeps : bool
        False: the broker keeps metadata itself.

    Attributes
    ----------
    servers : str
        Address ``host:port`` where it listens.
    commits : list of set of int
        The partitions of each commit request.
    """

    def __init__(self, servers: str, advertised: str | None = None, *, keeps: bool = True) -> None:
        host, _, port = servers.rpartition(":")
        self._broker = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._host, self._port = self._listening.getsockname()[:2]
        self.servers = f"{self._host}:{self._port}"
        if advertised is not None:
            host, _, given = advertised.rpartition(":")
            self._host, self._port = host, int(given)
        self._keeps = keeps
        self.commits: list[set[int]] = []
        self._kept: dict[GroupPartition, tuple[int, str]] = {}
        self._unanswered: dict[tuple[GroupPartition, int], str] = {}
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listening, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._sockets = [one for one in self._sockets if one.fileno() >= 0] + [client]
                try:
                    broker = socket.create_connection(self._broker)
                except OSError:
                    client.close()
                    continue
                self._sockets.append(broker)
                asked: dict[int, Any] = {}
                back = threading.Thread(target=self._pass, args=(broker, client, self._answer, asked), daemon=True)
                back.start()
                self._start(self._pass_on, client, broker, asked, back)

    def _pass(self, source: socket.socket, sink: socket.socket, transform: Callable[..., bytes], asked: dict[int, Any]) -> None:
        with suppress(OSError), source.makefile("rb") as frames:
            while len(head := frames.read(4)) == 4:
                body = transform(frames.read(*struct.unpack(">i", head)), asked)
                sink.sendall(struct.pack(">i", len(body)) + body)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, client: socket.socket, broker: socket.socket, asked: dict[int, Any], back: threading.Thread) -> None:
        self._pass(client, broker, self._request, asked)
        back.join()
        client.close()
        broker.close()

    def _request(self, body: bytes, asked: dict[int, Any]) -> bytes:
        key, version, correlation = struct.unpack_from(">hhi", body)
        if key in REQUESTS:
            asked[correlation] = request = REQUESTS[key].decode(body, version=version, header=True)
            if isinstance(request, OffsetCommitRequest):
                # The broker may carry it out before this proxy, or the client, hears of it.
                self._unanswered |= {(partition, offset): metadata for partition, offset, metadata in _contents(request)}
        return body

    def _answer(self, body: bytes, asked: dict[int, Any]) -> bytes:
        (correlation,) = struct.unpack_from(">i", body)
        request = asked.pop(correlation, None)
        if request is None:
            return body
        answer = ANSWERS[request.API_KEY].decode(body, version=request.API_VERSION, header=True)
        if isinstance(request, FindCoordinatorRequest | MetadataRequest):
            found = answer.brokers if isinstance(request, MetadataRequest) else answer.coordinators or [answer]
            for one in found:
                one.host, one.port = self._host, self._port
        elif isinstance(request, OffsetCommitRequest):
            self._keep(request, answer)
        elif self._keeps:
            self._give_back(request, answer)
        return bytes(answer.encode(header=True))

    def _keep(self, request: Any, answer: Any) -> None:
        refused = {(topic.name, one.partition_index) for topic in answer.topics for one in topic.partitions if one.error_code}
        self.commits.append({partition[2] for partition, _, _ in _contents(request)})
        for partition, offset, metadata in _contents(request):
            if partition[1:] not in refused:
                self._kept[partition] = offset, metadata

    def _give_back(self, request: Any, answer: Any) -> None:
        for group in answer.groups or [answer]:
            name = group.group_id if answer.groups else request.group_id
            for topic in group.topics:
                for one in topic.partitions:
                    partition = name, topic.name, one.partition_index
                    offset, metadata = self._kept.get(partition, (-1, ""))
                    if offset != one.committed_offset:
                        metadata = self._unanswered.get((partition, one.committed_offset), "")
                    one.metadata = metadata


def _contents(request: Any) -> list[tuple[GroupPartition, int, str]]:
    return [
        ((request.group_id, topic.name, one.partition_index), one.committed_offset, one.committed_metadata)
        for topic in request.topics
        for one in topic.partitions
    ]
