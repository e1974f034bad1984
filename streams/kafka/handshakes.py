"""A TLS handshake has an end: kafka-python 3.0.12 waits for ever for a peer that takes the connection and says nothing."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from kafka.net import manager
from kafka.net.transport import KafkaSSLTransport

__all__ = ["HANDSHAKE_SECONDS", "bound_handshakes"]

HANDSHAKE_SECONDS = 4.0
"""Seconds after which a handshake has failed: less than a log waits for an answer, `service.process.logs.TIMEOUT`."""


class _BoundedTransport(KafkaSSLTransport):  # type: ignore[misc]
    """The client's transport, whose connection is ended where the handshake takes too long."""

    async def handshake(self) -> None:
        timer = self._net.call_later(HANDSHAKE_SECONDS, self._end)
        try:
            await super().handshake()
        finally:
            self._net.cancel(timer)

    def _end(self) -> Any:
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def bound_handshakes() -> None:
    """Bound the handshakes of every client of this process."""
    manager.KafkaSSLTransport = _BoundedTransport
