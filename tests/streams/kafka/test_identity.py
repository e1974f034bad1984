"""A topic that was deleted, or made again, is told from a broker that is away."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from kafka import errors

from streams.kafka.identity import IdentityCheck

GONE, AWAY = errors.UnknownTopicOrPartitionError("events"), errors.KafkaTimeoutError("nobody")
SAME, OTHER = "events 1", "events 2"


def ask_each_6_s(monkeypatch: pytest.MonkeyPatch, answers: Sequence[str | Exception]) -> IdentityCheck:
    """Get these answers, with ten seconds of patience."""
    now = 0.0
    monkeypatch.setattr("streams.kafka.identity.time", SimpleNamespace(monotonic=lambda: now))
    left = list(answers)

    def ask() -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    check = IdentityCheck("kafka://broker/events", SAME, ask, 10.0)
    for _ in answers:
        for doubtful in (True, False, False):  # it does not ask again at once
            check.start(doubtful=doubtful)
            assert check._thread is not None
            check._thread.join()
        now += 6.0
    assert not left
    return check


@pytest.mark.parametrize("answers", [[SAME], [AWAY] * 9, [GONE], [GONE, SAME, GONE], [GONE, AWAY, GONE]], ids=str)
def test_a_broker_that_is_away_or_has_just_started_is_no_other_topic(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[str | Exception]
) -> None:
    check = ask_each_6_s(monkeypatch, answers)
    check.raise_error()
    assert check.doubtful == (answers[-1] != SAME), "no answer leaves the doubt"


def test_a_topic_that_stays_away_is_the_clients_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        ask_each_6_s(monkeypatch, [GONE, GONE]).raise_error()


def test_a_topic_that_was_made_again_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupError, match=r"kafka://broker/events was deleted and created again .*'events 2'.*start again"):
        ask_each_6_s(monkeypatch, [GONE, OTHER]).raise_error()


def test_an_identity_that_is_known_without_asking_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    check = ask_each_6_s(monkeypatch, [])
    check.compare(SAME)
    check.raise_error()
    check.compare(OTHER)
    with pytest.raises(LookupError, match="deleted and created again"):
        check.raise_error()
