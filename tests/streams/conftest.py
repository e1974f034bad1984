from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from streams.kafka.log import KafkaLog
from tests.streams.kafka.topics import OpenLog


@pytest.fixture
def open_log() -> Iterator[OpenLog]:
    """Opens topics, and closes them when the test has ended."""
    opened: list[KafkaLog] = []

    def open_one(*arguments: Any, **keywords: Any) -> KafkaLog:
        opened.append(KafkaLog(*arguments, **keywords))
        return opened[-1]

    yield open_one
    for log in opened:
        log.close()
