"""Start although the broker is away: answer that the service is not ready, until the broker answers or the time is over."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec

from service.config import Config
from service.http.connections import Connections
from service.http.schemas import Health, Problem
from service.http.security.headers import ANSWER
from service.http.server import Server
from service.process.logs import ask_brokers
from service.process.runtime import Runtime

__all__ = ["open_when_reachable"]

PAUSE = 0.5
"""Seconds between two attempts to reach the broker."""

NOT_YET = "waiting for the broker of the log, which does not answer; see the log of the service, and try again shortly"

_log = logging.getLogger(__name__)


def open_when_reachable(open_it: Callable[[], Runtime], config: Config, listening: socket.socket) -> Runtime | None:
    """Open a runtime. While its brokers are away, answer ``/readyz`` with 503, and try again.

    It does so for ``[stream] broker_wait`` seconds.

    Parameters
    ----------
    open_it : callable returning Runtime
    config : Config
    listening : socket
        Where to answer; it stays open.

    Returns
    -------
    Runtime or None
        None: a signal ended the wait.

    Raises
    ------
    ConnectionError
        The brokers were away for all that time.
    """
    began: float | None = None
    while True:
        try:
            runtime = open_it()
            break
        except ConnectionError as error:
            began = began or time.monotonic()
            until = began + config.stream.broker_wait
            if time.monotonic() >= until:
                raise
            _log.warning("not ready, waiting up to %.0f s for the broker: %s", until - time.monotonic(), error)
            if not _wait(config, listening, until):
                return None
    if began is not None:
        text = f"waited {time.monotonic() - began:.1f} s at the start for the broker"
        runtime.updater.notices.append(text)
        _log.warning(text)
    return runtime


def _wait(config: Config, listening: socket.socket, until: float) -> bool:
    """Answer requests until the brokers answer or the time is over. Return False if a signal came first."""
    over = threading.Event()

    def look() -> None:
        while not server.should_exit:
            time.sleep(PAUSE)
            if time.monotonic() >= until or _reachable(config):
                over.set()
                server.should_exit = True

    def start() -> None:
        threading.Thread(target=look, name="broker-wait", daemon=True).start()

    server = Server(_NotReady(config), listening.dup(), start)
    server.run()
    return over.is_set()


def _reachable(config: Config) -> bool:
    """Whether the brokers answer. Other errors than that are left to the attempt to open the logs."""
    try:
        ask_brokers(config)
    except ConnectionError:
        return False
    except (OSError, ValueError):
        return True
    return True


class _NotReady:
    """ASGI application: the process is alive, and nothing else can be said.

    It needs no keys: it knows nothing, and its answer does not even name the broker.
    """

    def __init__(self, config: Config) -> None:
        server = config.server
        connections = Connections(server.max_connections, server.max_head, server.receive, lambda status: None)
        live = SimpleNamespace(close=lambda: None)
        self.state = SimpleNamespace(idle=server.idle, connections=connections, live=live, unsaved=None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            for part in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{part}.complete"})
            return
        alive = scope["path"] == "/healthz"
        body = msgspec.json.encode(Health(status="alive") if alive else Problem(error=NOT_YET))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | ANSWER
        headers |= {} if alive else {"Retry-After": "1"}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200 if alive else 503, "headers": encoded})
        await send({"type": "http.response.body", "body": body})
