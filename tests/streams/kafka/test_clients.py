"""What is raised of all that a client reports while it tries to start."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from kafka import errors

from streams.kafka.clients import started


def client_that(*reports: errors.KafkaError) -> type:
    """A client whose tries fail like this, one after the other, until its time is over."""

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
def test_a_refusal_is_said_rather_than_that_there_was_no_more_time(
    reports: tuple[errors.KafkaError, ...], raised: errors.KafkaError
) -> None:
    with pytest.raises(errors.KafkaError) as caught:
        started(client_that(*reports), {})
    assert caught.value is raised


def test_without_reports_it_is_the_client_s_own_error() -> None:
    with pytest.raises(errors.KafkaTimeoutError):
        started(client_that(), {})
