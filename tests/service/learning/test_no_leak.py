"""Learned rows equal the rows that were ranked, whatever happens in between: no label leaks into features or history."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learners.features import hash_id
from learners.rankers.fm import FactorizationMachine
from service.config import Config
from service.evaluation.replay import replay
from service.learning.trainer import Trainer
from service.monitoring import live_quality
from service.process.runtime import Runtime, open_runtime
from service.ranking.requests import RankRequest
from streams.batch import Batch, Feedback
from streams.codec import decode
from streams.events import Event, Impression, Interaction, ItemUpdate, Tick, UserUpdate
from tests.broker import Broker
from tests.service.conftest import records
from tests.service.on_topic import on
from tests.worlds import START

USERS = [f"u{n}" for n in range(4)]

Row = tuple[Any, ...]


@dataclass
class Spy:
    """Records the rows that the ranker first scored and then learned, by item. No item is shown twice."""

    scored: dict[int, Row] = field(default_factory=dict)
    learned: list[tuple[int, Row, float, int, int, float]] = field(default_factory=list)

    def score(self, batch: Batch) -> None:
        for item, row in zip(batch.item.tolist(), _rows(batch), strict=True):
            self.scored.setdefault(item, row)

    def learn(self, feedback: Feedback) -> None:
        times, positions = feedback.timestamp[feedback.request].tolist(), feedback.position.tolist()
        parts = (feedback.item.tolist(), _rows(feedback), times, positions, feedback.request.tolist(), feedback.reward.tolist())
        self.learned += zip(*parts, strict=True)


def _rows(batch: Batch) -> list[Row]:
    """Features and history of each row."""
    histories = (batch.history, batch.history_time, batch.history_kind)
    of_requests = list(zip(*(part.tolist() for part in histories), strict=True))
    features = zip(batch.features.tolist(), batch.values.tolist(), batch.request.tolist(), strict=True)
    return [(keys, values, of_requests[request]) for keys, values, request in features]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy, score, learn = Spy(), FactorizationMachine.score, FactorizationMachine.learn

    def spied_score(self: FactorizationMachine, batch: Batch, delta: Any = None) -> None:
        spy.score(batch)
        score(self, batch, delta)

    def spied_learn(self: FactorizationMachine, feedback: Feedback) -> None:
        spy.learn(feedback)
        learn(self, feedback)

    monkeypatch.setattr(FactorizationMachine, "score", spied_score)
    monkeypatch.setattr(FactorizationMachine, "learn", spied_learn)
    monkeypatch.setattr(live_quality, "SAMPLED_ROWS", 10**6)  # every impression of a client is scored on arrival
    return spy


class World:
    """Rankings of the service and of a client, clicks in and out of time, and updates, in random order."""

    def __init__(self, seed: int) -> None:
        self.rng, self.number = random.Random(seed), count()
        self.now, self.shown = START, dict[str, Impression]()

    def move(self, runtime: Runtime) -> None:
        """Continue with this runtime, from its state."""
        assert isinstance(runtime.updater, Trainer)
        self.runtime, self.trainer = runtime, runtime.updater
        self.trainer.restore()

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self.now += self.rng.expovariate(0.5)
            self.rng.choice([self.rank, self.rank, self.show, self.click, self.click, self.click, self.update, self.tick])()
            for _ in range(self.rng.choice([0, 0, 1, 3])):
                self.trainer.turn()

    def end(self) -> None:
        """End every window and learn everything."""
        self.now += 1000.0
        self.append(Tick(timestamp=self.now), Tick(timestamp=self.now))
        while self.trainer.lag() or not self.trainer.reader.at_boundary:
            self.trainer.turn()

    def append(self, *events: Event) -> None:
        self.runtime.log.append(records(list(events)))

    def rank(self) -> None:
        """Let the service rank, and change the state before the impression is in the log."""
        context = {"device": self.rng.choice(["phone", "desk"])}
        request = RankRequest(user=self.rng.choice(USERS), items=self.fresh(), context=context)
        _, impression = self.runtime.pipeline.rank([request])[0]
        assert impression is not None
        dated = msgspec.structs.replace(impression, timestamp=self.now)
        if self.rng.random() < 0.5:
            self.click()
            self.trainer.turn()
        self.show(decode(self.runtime.signer.encoded(dated)))

    def show(self, impression: Impression | None = None) -> None:
        if impression is None:
            items = tuple(self.fresh())
            impression = Impression(request_id=items[0], user=self.rng.choice(USERS), items=items, timestamp=self.now)
        self.shown[impression.request_id] = impression
        self.append(impression)

    def fresh(self) -> list[str]:
        """Items that were never shown; some are in the catalogue."""
        items = [f"i{next(self.number)}" for _ in range(self.rng.randint(2, 4))]
        self.append(*(ItemUpdate(item=i, attributes={"colour": self.rng.choice(["red", "blue"])}) for i in items[1:]))
        return items

    def click(self) -> None:
        """Click an item that was shown recently, long ago, or never."""
        kind = self.rng.choice(["click", "buy"])
        if self.shown and self.rng.random() < 0.8:
            impression = self.rng.choice(list(self.shown.values())[-6:])
            event = Interaction(
                id=f"c{next(self.number)}",
                request_id=impression.request_id,
                user=impression.user,
                item=self.rng.choice(impression.items),
                kind=kind,
                timestamp=self.now,
            )
            self.append(*[event] * self.rng.choice([1, 1, 2]))
        else:
            item = f"old{self.rng.randrange(4)}"
            self.append(Interaction(user=self.rng.choice(USERS), item=item, kind=kind, timestamp=self.now))

    def update(self) -> None:
        colour = self.rng.choice(["red", "blue", "green"])
        shown = [item for impression in list(self.shown.values())[-6:] for item in impression.items]
        if shown and self.rng.random() < 0.7:
            self.append(ItemUpdate(item=self.rng.choice(shown), attributes={"colour": colour}))
        else:
            self.append(UserUpdate(user=self.rng.choice(USERS), attributes={"tribe": colour}))

    def tick(self) -> None:
        self.append(Tick(timestamp=self.now))


def check(spy: Spy, world: World) -> int:
    """Compare every learned row of an impression with what its ranking was scored on; returns how many there were."""
    where = {
        hash_id(item): (impression.timestamp, position)
        for impression in world.shown.values()
        for position, item in enumerate(impression.items)
    }
    # A click after the window is a row without an impression, so without a position.
    rows = [learned for learned in spy.learned if learned[0] in where and learned[3] >= 0]
    for item, row, timestamp, position, _, _ in rows:
        assert row == spy.scored[item]
        assert (timestamp, position) == where[item]
    return len(rows)


def settings(make_config: Callable[..., Config], seed: int, sections: dict[str, Any]) -> Config:
    stream = {"window": 6.0, "lateness": 6.0, "batch_rows": [1, 5, 64][seed % 3], "max_skew": 1e12} | sections.pop("stream")
    return make_config(stream=stream, reward={"click": 1.0, "buy": 5.0}, rerankers={}, **sections)


def folded(config: Config, seed: int, spy: Spy) -> None:
    """Run live with a restart, then replay: both learn the same rows, and these equal the ranked ones."""
    world = World(seed)
    with opened(config) as runtime:
        world.move(runtime)
        world.append(*(ItemUpdate(item=f"old{n}", attributes={"colour": "red"}) for n in range(4)))
        world.live(60)
    with opened(config) as runtime:
        world.move(runtime)
        world.live(60)
        world.end()
        assert check(spy, world) > 60
        counts = world.trainer.reader.counts
        assert counts["late"] + counts["repeated"] and counts["duplicates"], "the world covers all cases"
        digest = world.trainer.digest()
    live, spy.learned = spy.learned, []
    assert replay(config, k=0).digest == digest
    assert spy.learned == live


@contextmanager
def opened(config: Config) -> Iterator[Runtime]:
    """Open a runtime without starting its engine: the world takes the turns."""
    runtime = open_runtime(config)
    try:
        yield runtime
    finally:
        runtime.stop()


@pytest.mark.parametrize("seed", range(6))
def test_over_the_embedded_log_and_in_its_replay(
    seed: int, spy: Spy, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    folded(settings(make_config, seed, {"stream": {"url": f"lmdb://{tmp_path}"}}), seed, spy)


@pytest.mark.parametrize("seed", range(3))
def test_over_kafka_and_in_its_replay(
    seed: int, spy: Spy, make_config: Callable[..., Config], tmp_path: Path, broker: Broker
) -> None:
    folded(settings(make_config, seed, on(broker, broker.topic(), tmp_path)), seed, spy)


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_from_an_older_checkpoint_learns_the_same_rows_again(
    seed: int, spy: Spy, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Snapshots of a client's impressions are not in the log, but in the checkpoint."""
    config, world = settings(make_config, seed, {"stream": {"url": f"lmdb://{tmp_path}"}}), World(seed)
    with opened(config) as runtime:
        world.move(runtime)
        world.append(*(ItemUpdate(item=f"old{n}", attributes={"colour": "red"}) for n in range(4)))
        world.live(60)
        world.trainer.save()
        saved = len(spy.learned)
        world.live(40)
        world.end()
        first = spy.learned[saved:]
        runtime.engine.failure = RuntimeError("killed: nothing more is saved")
    spy.learned = []
    with opened(config) as runtime:
        world.move(runtime)
        world.end()
        assert check(spy, world) > 10
        assert spy.learned[: len(first)] == first
