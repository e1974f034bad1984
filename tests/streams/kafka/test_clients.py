"""Which error is raised of those that a client logs while it starts."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from kafka import errors

from streams.kafka.clients import start_client


def client_that(*reports: errors.KafkaError) -> type:
    """A client whose attempts fail with these errors, one after the other, until its timeout."""

    class Client:
        def __init__(self, **_: Any) -> None:
            for error in reports:
                logging.getLogger("kafka.net.manager").warning("Bootstrap connection failed: %s", error)
            raise errors.KafkaTimeoutError("Unable to bootstrap")

    return Client


REFUSED, LATE = errors.SaslAuthenticationFailedError("who are you?"), errors.RequestTimedOutError("after 2 ms")


@pytest.mark.parametrize(
    ("reports", "raised"),
    [((REFUSED,), REFUSED), ((REFUSED, LATE), REFUSED), ((LATE, REFUSED), REFUSED), ((LATE, LATE), LATE)],
    ids=["a refusal", "a refusal, and the end came during the last try", "late, then refused", "late"],
)
def test_a_refusal_is_raised_and_not_the_timeout_after_it(
    reports: tuple[errors.KafkaError, ...], raised: errors.KafkaError
) -> None:
    with pytest.raises(errors.KafkaError) as caught:
        start_client(client_that(*reports), {})
    assert caught.value is raised


def test_without_logged_errors_the_clients_own_error_is_raised() -> None:
    with pytest.raises(errors.KafkaTimeoutError):
        start_client(client_that(), {})
