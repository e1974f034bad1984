"""The serving process, ended by a signal or by the engine's own failure."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

from service.config import Config, ConfigError, Role
from service.http.app import create_app
from service.http.server import Server, bind
from service.process.runtime import open_replica, open_runtime
from service.process.warmup import warm_up

__all__ = ["run"]

NICE = 10
"""By how much a trainer gives way to those who serve on the same machine."""


def run(
    config: Config,
    host: str | None = None,
    port: int | None = None,
    started: Callable[[str], None] | None = None,
    role: Role = "embedded",
) -> BaseException | None:
    """Serve until a signal comes.

    Parameters
    ----------
    config : Config
    host, port
        Instead of the config's.
    started : callable or None
        Told the address once the service answers.
    role : str
        ``embedded``: learn and serve; ``trainer``: learn, and show status and metrics; ``replica``: serve, and follow.

    Returns
    -------
    BaseException or None
        What stopped the engine, if it was not a signal.

    Raises
    ------
    OSError
        When nothing can listen there, or the data folder cannot be written.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host = config.server.host if host is None else host
    listening = bind(host, config.server.port if port is None else port)
    with listening:
        if role == "trainer":
            if config.weights.url is None and config.stream.group is None:
                raise ConfigError(
                    "weights", "url: missing; name the log that the replicas follow, lmdb:///folder or kafka://..."
                )
            os.nice(NICE)
        elif config.stream.group is not None:
            problem = f"group = {config.stream.group!r}: a member of a group learns a share and serves nobody"
            raise ConfigError("stream", f"{problem}; use `freshet train`, or leave it out")
        runtime = open_replica(config) if role == "replica" else open_runtime(config)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        server = Server(
            create_app(runtime, serves=role != "trainer", host=host),
            listening,
            None if started is None else lambda: started(address),
        )

        def end(_: BaseException) -> None:
            server.should_exit = True

        runtime.engine.on_failure = end
        runtime.engine.prepare = partial(warm_up, config)
        server.run()
    return runtime.engine.failure
