"""Run a service until a signal or a failure of the engine ends it."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable
from functools import partial

from service.config import Config, ConfigError, Role
from service.http.app import create_app
from service.http.security.keys import Keys
from service.http.server import Server, bind, is_loopback
from service.process.runtime import Runtime, open_replica, open_runtime
from service.process.warmup import warm_up
from service.sharding.world import rank, world_size
from service.waiting import open_when_reachable

__all__ = ["run"]

MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's mallopt."""

LARGE = 1 << 20
"""Bytes from which on a block has pages of its own, which are returned to the system when it is freed."""
_log = logging.getLogger(__name__)

NICE = 10
"""Niceness of a trainer: serving processes on the same machine go first."""


def run(
    config: Config,
    host: str | None = None,
    port: int | None = None,
    started: Callable[[str], None] | None = None,
    role: Role = "embedded",
    insecure: bool = False,
) -> BaseException | None:
    """Run a service until a signal ends it.

    Parameters
    ----------
    config : Config
    host, port
        Override the config's.
    started : callable or None
        Called with the address once the service answers.
    role : str
        ``embedded``: learn and serve; ``trainer``: learn, with status and metrics; ``replica``: serve, and follow a trainer.
        A trainer that torchrun started trains together with the others, and its port is the given one plus its number.
    insecure : bool
        Whether to serve without keys on an address that other machines reach.

    Returns
    -------
    BaseException or None
        Failure of the engine; None after a signal.

    Raises
    ------
    ConfigError
        For a config that does not fit the role, keys that cannot be used, or an address that needs keys.
    OSError
        When the address cannot be used, the data folder cannot be written, or the broker was away for ``[stream] broker_wait``
        seconds.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _return_large_blocks()
    host = config.server.host if host is None else host
    keys = Keys.given(config.server.keys)
    if keys is None and not is_loopback(host):
        if not insecure:
            problem = f"host = {host!r}: other machines reach this address, and there are no keys"
            raise ConfigError("server", f"{problem}; make one with `freshet key new`, or serve everyone with --insecure")
        _log.warning("there are no keys: everyone who reaches %s may read, write and erase everything", host)
    number, ranks = config.server.port if port is None else port, world_size() if role == "trainer" else 0
    if ranks and number:
        number += rank()
    until = time.monotonic() + config.stream.broker_wait
    opened = partial(open_replica if role == "replica" else _open_sharded if ranks else open_runtime, config)
    _prepare(config, role, alone=not ranks)
    while True:
        with bind(host, number) as listening:
            number = listening.getsockname()[1]
            address = f"http://{f'[{host}]' if ':' in host else host}:{number}"
            runtime = open_when_reachable(opened, config, listening)
            if runtime is None:
                return None
            app = create_app(runtime, serves=role != "trainer", host=host, keys=keys)
            server = Server(app, listening, None if started is None else partial(started, address))
            runtime.engine.on_failure = partial(_end, server)
            runtime.engine.prepare = partial(warm_up, config)
            server.run()
        failure = runtime.engine.failure
        # Once it learns, the engine waits for a broker by itself: this one went away while the state was restored.
        # Processes that train together are all started again by torchrun.
        if ranks or not isinstance(failure, ConnectionError) or time.monotonic() >= until:
            return failure
        _log.warning("the broker went away during the start; starting again: %s", failure)


def _prepare(config: Config, role: Role, *, alone: bool) -> None:
    """Check that a config fits a role, and give way to other processes where the role says so."""
    if role == "trainer":
        if config.weights.url is None and config.stream.group is None and alone:
            raise ConfigError(
                "weights", "url: missing; name the log that replicas follow: lmdb:///folder or kafka://host:port/topic"
            )
        os.nice(NICE)
    elif config.stream.group is not None:
        problem = f"group = {config.stream.group!r}: a member of a group learns only from its partitions and cannot serve"
        raise ConfigError("stream", f"{problem}; use `freshet train`, or remove the key")


def _end(server: Server, failure: BaseException) -> None:
    server.should_exit = True


def _open_sharded(config: Config) -> Runtime:
    from service.sharding.opening import open_sharded  # Imported late: torch is slow to import.

    return open_sharded(config)


def _return_large_blocks() -> None:
    """Let large blocks have pages of their own, where the C library is glibc.

    glibc raises the threshold to 32 MiB as soon as blocks of that size are freed, which checkpoints and bodies do. From then on
    such blocks share the heap with small ones, and most of what is freed there stays with the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE)
