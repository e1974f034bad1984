"""Run uvicorn with an orderly shutdown: close open streams, append waiting events, then save the state."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn

from service.http.connections import Connection

__all__ = ["Server", "bind", "is_loopback"]

GRACE = 10
"""Seconds for requests in progress to finish at shutdown."""


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Parameters
    ----------
    host : str
    port : int
        0: any free port; see the socket's ``getsockname()``.

    Raises
    ------
    OSError
        Names the address and the remedy.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except OSError as error:
        remedies = {
            errno.EADDRINUSE: "another program listens there; stop it, or choose another port",
            errno.EACCES: "not allowed; choose a port above 1023",
        }
        remedy = remedies.get(error.errno or 0, f"{error.strerror or error}; give an address of this machine")
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {remedy}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on.

    Parameters
    ----------
    host : str
        An address or a name. A name does if all its addresses do; ``""``, as all addresses of the machine, does not.
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False  # `bind` says what is wrong with it
    addresses = [ipaddress.ip_address(str(entry[4][0])) for entry in found]
    return all((getattr(address, "ipv4_mapped", None) or address).is_loopback for address in addresses)


class Server(uvicorn.Server):
    """Serves an app on a bound socket until a signal comes or ``should_exit`` is set.

    Parameters
    ----------
    app : ASGI application
        From `service.http.app.create_app`.
    listening : socket
        From `bind`.
    started : callable or None
        Called once the server answers.
    stopping : callable or None
        Called on a worker thread before the server stops, while it still answers.
    """

    def __init__(
        self,
        app: Any,
        listening: socket.socket,
        started: Callable[[], None] | None = None,
        stopping: Callable[[], None] | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=partial(Connection, app.state.connections),  # type: ignore[arg-type]
            lifespan="on",
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_keep_alive=app.state.idle,
            timeout_graceful_shutdown=GRACE,
        )
        app.state.connections.allow_files()
        super().__init__(config)
        self._app, self._listening, self._started, self._stopping = app, listening, started, stopping

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the server has stopped, also by Ctrl-C.

        Raises
        ------
        OSError
            When the state could not be saved at the end.
        """
        # uvicorn raises the signal again after its shutdown. Nothing is left to interrupt then.
        with suppress(KeyboardInterrupt):
            super().run(sockets or [self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Override uvicorn: call `started`."""
        await super().startup(sockets)
        if self._started is not None and not self.should_exit:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Override uvicorn: end the live streams first, which uvicorn would wait for."""
        if self._stopping is not None:
            await asyncio.to_thread(self._stopping)
        self._app.state.live.close()
        await super().shutdown(sockets)
        if self._app.state.unsaved is not None:
            raise self._app.state.unsaved
