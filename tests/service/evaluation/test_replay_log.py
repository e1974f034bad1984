"""Replay of logs: every record to the end is measured, even if a service has not learned it yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.config import Config
from service.evaluation.replay import replay
from service.evaluation.reports.replay_report import remarks
from service.learning.trainer import Trainer
from service.process.runtime import open_runtime
from streams.events import Impression, Interaction
from streams.kafka.log import KafkaLog
from streams.lmdb_log import LmdbLog
from tests.broker import Broker
from tests.service.conftest import records
from tests.service.on_topic import on
from tests.worlds import START

MakeConfig = Callable[..., Config]


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize(("partitions", "batch_rows", "open_rows"), [(1, 1, 20), (1, 64, 64), (1, 5000, 320), (3, 5000, 320)])
def test_a_topic_of_other_producers_is_measured_to_its_end(
    partitions: int, batch_rows: int, open_rows: int, make_config: MakeConfig, broker: Broker, tmp_path: Path
) -> None:
    """No service record closes the last batch or the windows of impressions."""
    clicks = [Interaction(id=f"q{n}", user=f"u{n % 50}", item=f"i{n % 30}", timestamp=START + n) for n in range(300)]
    impressions = [Impression(request_id=f"r{n}", user=f"u{n}", items=("i1", "i2"), timestamp=START + 300) for n in range(10)]
    topic = broker.topic(partitions)
    log = KafkaLog(broker.servers, topic)
    log.append(records([*clicks, *impressions]))
    log.close()
    config = make_config(**on(broker, topic, tmp_path, batch_rows=batch_rows, window=600.0), rerankers={})
    done = replay(config, k=0)
    assert done.rows == done.quality["fm"].rows == 300 + 20
    assert done.open_rows == open_rows
    assert f"{open_rows} rows" in "".join(remarks(done))


def test_the_rows_behind_the_digest_are_those_that_a_killed_service_had_not_learned(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(tmp_path, stream={"batch_rows": 16})
    log = LmdbLog(tmp_path / "events")
    log.append(records([Interaction(user=f"u{n}", item="i", timestamp=START + n) for n in range(20)]))
    log.close()
    runtime = open_runtime(config)
    assert isinstance(runtime.updater, Trainer)
    runtime.updater.restore()
    while runtime.updater.turn():
        pass
    digest = runtime.updater.digest()
    runtime.stop()
    done = replay(config, k=0)
    assert (done.rows, done.open_rows, done.digest) == (20, 4, digest)
