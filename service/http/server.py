"""uvicorn, ended politely: open streams first, then what waits for the log, then the state."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn

__all__ = ["Server", "bind"]

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than proxies keep theirs (60 s), or some would find it closed."""

GRACE = 10
"""Seconds that requests in progress have to finish."""


def bind(host: str, port: int) -> socket.socket:
    """Take a port, before anything else is started for it.

    Parameters
    ----------
    host : str
    port : int
        0: any free one; the socket's ``getsockname()`` tells which.

    Raises
    ------
    OSError
        Naming the address and the remedy.
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


class Server(uvicorn.Server):
    """Serves an app on a bound socket until it is told to stop (by a signal, or ``should_exit = True``).

    Parameters
    ----------
    app : ASGI application
        Made by `service.http.app.create_app`.
    listening : socket
        From `bind`.
    started : callable or None
        Called once it answers.
    stopping : callable or None
        Called when it is about to stop and still answers; on a worker thread.
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
            http="httptools",
            lifespan="on",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(config)
        self._app, self._listening, self._started, self._stopping = app, listening, started, stopping

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve, and return when it has stopped, also by Ctrl-C."""
        # uvicorn passes the signal on once it has stopped in good order; there is nothing left to interrupt then.
        with suppress(KeyboardInterrupt):
            super().run(sockets or [self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self._started is not None and not self.should_exit:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn. A live page's stream has no end of its own, and it would be waited for."""
        if self._stopping is not None:
            await asyncio.to_thread(self._stopping)
        self._app.state.live.close()
        await super().shutdown(sockets)
