from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from tests.broker import GIVEN, Broker, proxied, running
from tests.proxy import Proxy


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker that the whole session shares; every test makes its own topics."""
    if GIVEN in os.environ:
        yield Broker(os.environ[GIVEN])
        return
    with running(tmp_path_factory.mktemp("broker")) as one:
        yield one


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that the test may stop."""
    with running(tmp_path_factory.mktemp("own-broker")) as one:
        yield one


@pytest.fixture(scope="session")
def far_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Proxy]]:
    """A broker behind a proxy that the whole session shares."""
    with proxied(tmp_path_factory.mktemp("far-broker")) as one:
        yield one


@pytest.fixture
def faults(far_broker: tuple[Broker, Proxy]) -> Iterator[tuple[Broker, Proxy]]:
    """The broker behind a proxy, which heals when the test has ended."""
    yield far_broker
    far_broker[1].heal()


@pytest.fixture
def tidy(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Collect what a Kafka client that gave up while connecting leaves open, while it is known whose it is.

    The errors that pytest has captured refer to it, and an engine has frozen who else does.
    """
    yield
    caplog.get_records("call").clear()
    caplog.clear()
    gc.unfreeze()
    gc.collect()
