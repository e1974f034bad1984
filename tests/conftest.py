from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from tests.broker import GIVEN, Broker, proxied, running, which
from tests.proxy import Proxy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which broker it was; a header would not be shown with ``-q``."""
    terminalreporter.write_line(f"kafka: {which()}")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker shared by the whole session. Each test creates its own topics."""
    if GIVEN in os.environ:
        yield Broker(os.environ[GIVEN])
        return
    with running(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that the test may stop; with a given one, as if."""
    if GIVEN in os.environ:
        with proxied(tmp_path_factory.mktemp("own-broker")) as (given, _):
            yield given
        return
    with running(tmp_path_factory.mktemp("own-broker")) as started:
        yield started


@pytest.fixture(scope="session")
def far_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Proxy]]:
    """A broker behind a proxy, shared by the whole session."""
    with proxied(tmp_path_factory.mktemp("far-broker")) as started:
        yield started


@pytest.fixture
def faults(far_broker: tuple[Broker, Proxy]) -> Iterator[tuple[Broker, Proxy]]:
    """The broker behind the proxy. All faults end with the test."""
    yield far_broker
    far_broker[1].heal()


@pytest.fixture
def tidy(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Collect the open sockets of a Kafka client that failed to connect in this test, so that no later test is blamed.

    The errors that pytest has captured refer to them, and so may objects that an engine has frozen.
    """
    yield
    caplog.get_records("call").clear()
    caplog.clear()
    gc.unfreeze()
    gc.collect()
