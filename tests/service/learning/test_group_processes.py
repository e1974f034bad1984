"""Several `freshet train` in one consumer group, as processes: they join, leave, are stopped and killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from memory import checkpoint as checkpoints
from service import config as configs
from streams.codec import encode, partition_key
from streams.events import Interaction, Tick
from streams.kafka.log import KafkaLog
from streams.log import key_for_partition
from tests.broker import Broker, keeping
from tests.service.learning.test_group import count_in
from tests.service.processes import DEADLINE, Process

PARTITIONS = 4

CONFIG = """
[stream]
url = "kafka://{servers}/{topic}"
group = "{topic}"
batch_rows = 8
[stream.options]
fetch_max_wait_ms = 10
session_timeout_ms = {session}
[retrievers.popularity]
capacity = 100
half_life = 0
[ranker.bias]
[users]
capacity = 100
[items]
capacity = 100
[history]
capacity = 100
[checkpoint]
folder = "elsewhere"
every = 0.1
[server]
flush = 0.02
"""


class Trainers:
    """Members of one group, each with its own folder."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.alive: dict[str, Process] = {}

    def start(self, name: str) -> Process:
        errors = self.folder / f"{name}-{time.monotonic_ns()}.err"
        self.alive[name] = Process(self.config, 0, errors, "train", "--folder", str(self.folder / name))
        return self.alive[name]

    def status(self, name: str) -> dict:
        return httpx.get(f"{self.alive[name].url}/v1/status", timeout=DEADLINE).json()

    def stop(self, name: str) -> None:
        assert self.alive.pop(name).stop() in (0, -signal.SIGTERM)

    def kill(self, name: str) -> None:
        process = self.alive.pop(name).process
        process.kill()
        process.wait()

    def until_shared(self) -> None:
        """Wait until every member has something to learn, and all is learned by somebody.

        A member without a partition may be joining. A leader of the group must not leave meanwhile: the broker of the tests
        (Tansu 0.6.0) goes on to name it the leader for ever, and nobody is given anything.
        """
        limit = time.monotonic() + DEADLINE
        while True:
            owned = [self.status(name)["partitions"] for name in self.alive]
            if all(owned) and sorted(partition for one in owned for partition in one) == list(range(PARTITIONS)):
                return
            assert time.monotonic() < limit, {name: self.status(name) for name in self.alive}
            time.sleep(0.1)

    def counted(self) -> float:
        """Sum of the clicks in the last checkpoint of every member, ended ones included."""
        total = 0.0
        for folder in self.folder.glob("*/**/group-*"):
            found, _ = checkpoints.latest(folder)
            assert found is not None
            total += count_in(found.state)
        return total


@pytest.fixture
def trainers(broker: Broker, tmp_path: Path) -> Iterator[Trainers]:
    with keeping(broker) as keeper:
        config = tmp_path / "group.toml"
        topic = broker.topic(PARTITIONS)
        session = 2000 if broker.process is not None else 6000
        config.write_text(CONFIG.format(servers=keeper.servers, topic=topic, session=session))
        made = Trainers(config, tmp_path)
        yield made
        for process in made.alive.values():
            process.process.send_signal(signal.SIGCONT)
            process.process.kill()


def test_every_click_is_counted_by_one_member_whatever_happens_to_them(trainers: Trainers, broker: Broker) -> None:
    settings = configs.load(trainers.config)
    log = KafkaLog(broker.servers, settings.stream.url.rsplit("/", 1)[1])
    clicked = 0

    def click(times: int) -> None:
        nonlocal clicked
        events = [
            Interaction(id=f"c{clicked + n}", user=f"u{(clicked + n) % 37}", item=f"i{n % 7}", timestamp=time.time())
            for n in range(times)
        ]
        log.append([(partition_key(event), encode(event)) for event in events])
        clicked += times

    trainers.start("one")
    click(300)
    trainers.start("two")
    trainers.until_shared()
    click(300)
    trainers.kill("two")
    click(300)
    trainers.until_shared()
    trainers.start("two")
    trainers.start("three")
    trainers.until_shared()
    click(300)
    stopped = trainers.alive["three"].process
    stopped.send_signal(signal.SIGSTOP)
    time.sleep(3 if broker.process is not None else 7)  # wait until its session has timed out
    click(300)
    stopped.send_signal(signal.SIGCONT)
    trainers.until_shared()
    trainers.stop("one")
    click(300)
    trainers.until_shared()

    log.append(
        [(key_for_partition(partition, PARTITIONS), encode(Tick(timestamp=time.time()))) for partition in range(PARTITIONS)]
    )
    limit = time.monotonic() + DEADLINE
    while any(trainers.status(name)["lag"] or trainers.status(name)["pending"] for name in trainers.alive):
        assert time.monotonic() < limit
        time.sleep(0.1)
    fenced = httpx.get(f"{trainers.alive['three'].url}/metrics", timeout=DEADLINE).text
    assert 'freshet_failures_total{what="fenced"} 1.0' in fenced, "the group considered it dead, and it noticed"
    for name in list(trainers.alive):
        trainers.stop(name)
    log.close()
    assert trainers.counted() == clicked
