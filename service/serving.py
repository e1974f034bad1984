"""The serving process: uvicorn around the app, ended by a signal or by the engine's own failure."""

from __future__ import annotations

import uvicorn

from service.app import create_app
from service.config import Config
from service.runtime import open_runtime

__all__ = ["run"]


def run(config: Config, host: str | None = None, port: int | None = None) -> BaseException | None:
    """Serve until a signal comes.

    Parameters
    ----------
    config : Config
    host, port
        Instead of the config's.

    Returns
    -------
    BaseException or None
        What stopped the engine, if it was not a signal.
    """
    runtime = open_runtime(config)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(runtime),
            host=config.server.host if host is None else host,
            port=config.server.port if port is None else port,
            log_level="warning",
            access_log=False,
            loop="uvloop",
            http="httptools",
            timeout_graceful_shutdown=5,
        )
    )

    def end(_: BaseException) -> None:
        server.should_exit = True

    runtime.engine.on_failure = end
    server.run()
    return runtime.engine.failure
