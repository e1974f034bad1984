"""Limits of connections: how many, how long a request may take to arrive, and how long its head may be.

uvicorn has no such limits with httptools: its ``timeout_keep_alive`` starts after the first response, its
``limit_concurrency`` counts requests whose head has arrived, and ``h11_max_incomplete_event_size`` concerns another parser. So
a client could hold any number of connections for ever, and send a head without an end. What share of these limits one client
may take is for a proxy.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.schemas import Problem

__all__ = ["Connection", "Connections"]

MAX_FIELDS = 100
"""Most header fields of a request: each takes ten times its bytes."""

MAX_PIPELINED = 16
"""Most requests that may wait for their turn on one connection."""

LINGER, MAX_LINGERING = 1.0, 100
"""Seconds for which a refused connection stays open, so that the refusal arrives although the client is still sending, and how
many of them do."""

CONNECTION_BYTES = 16_384
"""Approximate memory of an open connection without its body."""

SPARE_FILES = 256
"""Files that the process may need in addition to its connections."""


class Connections:
    """Counts the connections of a server, and knows their limits.

    Parameters
    ----------
    most : int
        Connections at once.
    head : int
        Bytes of a request's target and header fields, with four for each field.
    seconds : float
        Time in which a request has to arrive, from its first byte to its last, and in which a client has to take a response
        that is too long for the buffers.
    refused : callable
        Called with the status of every refusal.

    Attributes
    ----------
    open, lingering : int
        Connections now, and refused ones that are about to be closed.
    """

    def __init__(self, most: int, head: int, seconds: float, refused: Callable[[int], None]) -> None:
        self.most, self.head, self.seconds, self.refused = most, head, seconds, refused
        self.open = self.lingering = 0

    @property
    def nbytes(self) -> int:
        """Approximate memory."""
        return CONNECTION_BYTES * (self.open + self.lingering)

    def allow_files(self) -> None:
        """Raise the number of files that this process may open, as far as it may be raised, so that all connections fit."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = self.most + SPARE_FILES
        if soft != resource.RLIM_INFINITY and soft < needed:
            with suppress(ValueError, OSError):
                most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _TooLong(Exception):
    """Leaves the parser: the request is refused."""


class Connection(HttpToolsProtocol):
    """A connection of a client, within limits.

    Parameters
    ----------
    connections : Connections
    **given
        For uvicorn's protocol.
    """

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all = connections
        self._counted = self._closing = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._whole = True  # the last request has arrived
        self._size = self._fields = 0  # of the head of the current request
        self._unread, self._progressed = 0, False  # bytes since the parser last completed a part
        self._refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection that is one too many."""
        if self._all.open >= self._all.most:
            self.transport = transport
            most = self._all.most
            self._refuse(503, f"{most} connections are open, which is max_connections; close idle ones, or try again shortly")
            return
        self._all.open += 1
        self._counted = True
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place of the connection."""
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        self._all.open -= self._counted
        self._counted = False
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and check that the parser does not collect what never ends."""
        if self._closing:
            return
        self._progressed = False
        super().data_received(data)
        if self._closing:
            return
        self._unread = 0 if self._progressed else self._unread + len(data)
        if self._unread > self._all.head:
            self._refuse(431, f"headers: more than max_head = {self._all.head} bytes; send fewer or shorter ones")
        elif self._whole and self.cycle is not None and not self.cycle.response_complete:
            self._stop_deadline()
        elif self._deadline is None:
            self._start_deadline()

    def on_message_begin(self) -> None:
        """Start to count the bytes of a head."""
        self._progressed, self._whole = True, False
        self._size = self._fields = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Refuse too long a target."""
        self._size += len(url)
        if self._size > self._all.head:
            self._leave_parser(414, f"path: more than max_head = {self._all.head} bytes; send a shorter one")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse too many or too long fields, also those that follow a body."""
        self._size += len(name) + len(value) + 4
        self._fields += 1
        if self._size > self._all.head:
            self._leave_parser(431, f"headers: more than max_head = {self._all.head} bytes; send fewer or shorter ones")
        if self._fields > MAX_FIELDS:
            self._leave_parser(431, f"headers: more than {MAX_FIELDS} fields; send fewer")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless too many wait already."""
        self._progressed = True
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self._leave_parser(503, f"more than {MAX_PIPELINED} requests wait on this connection; wait for answers")

    def on_body(self, body: bytes) -> None:
        """Pass on a part of a body."""
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request has arrived."""
        self._progressed = self._whole = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is no HTTP, or is over a limit."""
        self._refuse(*(self._refusal or (400, "the request is not HTTP/1.1; correct it")))

    def pause_writing(self) -> None:
        """Give the client some time to take what was sent."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._all.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has taken enough."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self._all.seconds, self._expire)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self._closing or self.transport.is_closing():
            return
        if self._whole:
            self.transport.close()  # nothing came, or nothing but blank lines
        else:
            self._refuse(
                408, f"the request did not arrive within receive = {self._all.seconds:g} s; send it faster, or in parts"
            )

    def _leave_parser(self, status: int, error: str) -> None:
        self._refusal = status, error
        raise _TooLong

    def _refuse(self, status: int, error: str) -> None:
        """Answer outside of the application, and close the connection."""
        self._closing = True
        self._stop_deadline()
        self._all.refused(status)
        answered = len(self.pipeline) > 0  # or another answer is due first
        if self.cycle is not None and not self.cycle.response_complete:
            answered = answered or self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not answered:
            self.transport.write(_response(status, error))
        if answered or self._all.lingering >= MAX_LINGERING or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self._all.lingering += 1
        self.loop.call_later(LINGER, self._stop_lingering)

    def _stop_lingering(self) -> None:
        self._all.lingering -= 1
        if not self.transport.is_closing():
            self.transport.close()


def _response(status: int, error: str) -> bytes:
    body = msgspec.json.encode(Problem(error=error))
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    head = b"content-type: application/json\r\nx-content-type-options: nosniff\r\nconnection: close\r\n"
    return b"%s%s%scontent-length: %d\r\n\r\n%s" % (STATUS_LINE[status], head, retry, len(body), body)
