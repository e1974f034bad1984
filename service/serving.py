"""The serving process, ended by a signal or by the engine's own failure."""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.app import create_app
from service.config import Config
from service.runtime import open_runtime
from service.server import Server, bind

__all__ = ["run"]


def run(
    config: Config, host: str | None = None, port: int | None = None, started: Callable[[str], None] | None = None
) -> BaseException | None:
    """Serve until a signal comes.

    Parameters
    ----------
    config : Config
    host, port
        Instead of the config's.
    started : callable or None
        Told the address once the service answers.

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
        runtime = open_runtime(config)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        server = Server(create_app(runtime), listening, None if started is None else lambda: started(address))

        def end(_: BaseException) -> None:
            server.should_exit = True

        runtime.engine.on_failure = end
        server.run()
    return runtime.engine.failure
