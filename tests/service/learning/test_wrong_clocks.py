"""Wrong clocks of records, of producers and of this machine: windows end, and live, replayed and restarted are equal."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from service.config import Config
from service.learning.feedback import FeedbackBuilder
from service.learning.order import TimeOrder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator
from service.process.runtime import build_pipeline, joiners
from streams.codec import encode, partition_key
from streams.dead_letters import DeadLetters
from streams.events import Event, Impression, Interaction, ItemUpdate
from streams.joining.record_times import FOLLOWING
from streams.log import MemoryLog, Offsets, Record

MakeConfig = Callable[..., Config]

NOW, YEAR_2100, DAY = 1_700_000_000.0, 4_102_444_800.0, 86_400.0
WINDOW = 20.0


class World:
    """The clock of this machine, which all modules read, and a log whose records can be dated otherwise."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config, self.now, self.monotonic = config, NOW, 0.0
        self.log = DatedLog(self)
        self.live = self.trainer()
        monkeypatch.setattr("time.time", lambda: self.now)
        monkeypatch.setattr("service.learning.ticks.time.monotonic", lambda: self.monotonic)
        self.live.restore()

    def trainer(self, order: TimeOrder | None = None, **more: object) -> Trainer:
        pipeline = build_pipeline(self.config)
        builder = FeedbackBuilder(pipeline, self.config.reward)
        validator = EventValidator(self.config.reward, self.config.stream.max_skew)
        made = joiners(self.config, 1)
        return Trainer(pipeline, builder, made, self.log, DeadLetters(), validator, order=order, **more)  # type: ignore[arg-type]

    def append(self, *events: Event, dated: float | None = None) -> None:
        self.log.dated = dated
        self.log.append([(partition_key(event), encode(event)) for event in events])
        self.log.dated = None

    def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, while the trainer learns and appends ticks as an engine makes it do."""
        for _ in range(int(seconds / step)):
            self.now += step
            self.monotonic += step
            self.learn()

    def learn(self) -> None:
        while self.live.turn() or self.live.idle() == 0.0:
            pass

    def replayed(self) -> str:
        again = self.trainer(TimeOrder(self.log, 50))
        again.restore()
        again.drain()
        assert again.reader.counts == self.live.reader.counts
        return again.digest()

    @property
    def open(self) -> int:
        return self.live.reader.open_impressions


class DatedLog(MemoryLog):
    """A log that dates records by the clock of the world, or as they say, as Kafka's CreateTime does."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.dated: float | None = None

    def append(self, records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        date = self._world.now if self.dated is None else self.dated
        for key, value in records:
            self._records[0].append(Record(0, len(self._records[0]), key, value, date))
        return self.end()


@pytest.fixture
def world(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(make_config(), monkeypatch)


def shown(request: str, timestamp: float = 0.0) -> Impression:
    return Impression(request_id=request, user="u", items=("a", "b"), timestamp=timestamp)


def click(item: str, **more: float) -> Interaction:
    return Interaction(user="v", item=item, **more)  # type: ignore[arg-type]


def test_a_record_of_the_year_2100_is_a_dead_letter_and_windows_go_on(world: World) -> None:
    world.append(shown("r", NOW))
    world.pass_time(1)
    world.append(click("i", timestamp=world.now), dated=YEAR_2100)
    world.append(shown("s", world.now))
    world.pass_time(1)
    (letter,) = world.live.dead.read()
    assert letter.kind == "future"
    assert letter.reason.startswith("record: its own time, 4102444800.0, is 240")
    assert "LogAppendTime" in letter.reason
    assert (world.open, world.live.reader.counts["interactions"]) == (2, 0)
    world.pass_time(WINDOW)
    assert world.open == 0
    assert world.live.digest() == world.replayed()


def test_a_first_record_of_the_year_2100_is_a_dead_letter_too(world: World) -> None:
    world.append(click("i"), dated=YEAR_2100)
    world.pass_time(1)
    assert [letter.kind for letter in world.live.dead.read()] == ["future"]
    world.append(shown("r"))
    world.pass_time(WINDOW + 1)
    assert world.open == 0 and world.live.reader.counts["impressions"] == 1


def test_a_record_that_is_ahead_waits_for_the_tick_that_judges_it(world: World) -> None:
    world.append(click("i"), dated=NOW + 299)
    assert not world.live.turn()
    assert world.live.reader.held == 0 and world.live.reader.at_boundary
    world.pass_time(1)
    assert world.live.reader.held is None
    assert world.live.reader.counts["interactions"] == 1
    assert world.live.dead.read() == []


@pytest.mark.parametrize("bad", [1, 100])
def test_records_that_came_while_the_trainer_was_away_are_judged_by_those_around_them(world: World, bad: int) -> None:
    for n in range(3 * FOLLOWING):
        world.now += 1.0
        world.append(click(f"i{n % 7}"))
        if n < bad:
            world.append(click("bad"), dated=YEAR_2100)
    world.pass_time(1)
    assert [letter.kind for letter in world.live.dead.read(10_000)] == ["future"] * bad
    assert world.live.reader.counts["interactions"] == 3 * FOLLOWING
    assert world.live.digest() == world.replayed()


def test_a_night_without_events_makes_no_dead_letter(world: World) -> None:
    for _ in range(3):
        world.append(shown(f"r{world.now}"))
        world.pass_time(WINDOW + 1)
        world.now += DAY / 3
        world.monotonic += DAY / 3
    assert world.live.dead.read() == [] and world.open == 0
    assert world.live.reader.counts["impressions"] == 3
    assert list(world.live.notices) == []


@pytest.mark.parametrize("step", [DAY, -DAY, 250.0])
def test_a_clock_that_steps_for_two_seconds_neither_ends_windows_nor_keeps_them_open(world: World, step: float) -> None:
    world.append(shown("before"))
    world.pass_time(4)
    world.now += step
    world.append(shown("while"), click("a"))
    world.pass_time(2)
    assert world.open == 2
    world.append(click("b"))
    world.now -= step
    world.pass_time(1)
    assert not world.live.reader.pending, "what waited for a tick does not wait for the clock"
    world.append(shown("after"))
    world.pass_time(WINDOW + 4)
    assert world.open == 0
    world.append(shown("later"))
    world.pass_time(WINDOW - 2.5)
    assert world.open == 1, "after a pause a window may be a tenth shorter"
    world.pass_time(3)
    assert world.open == 0
    assert sum("set back" in notice for notice in world.live.notices) == 1
    assert world.live.digest() == world.replayed()


def test_an_event_dated_ahead_cannot_jump_a_window_that_is_shorter(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(make_config(stream={"window": 2.0, "lateness": 0.0}), monkeypatch)
    world.append(shown("r"))
    for _ in range(6):
        world.append(click("i", timestamp=world.now + 299))
        world.pass_time(0.25, step=0.05)
    assert world.open == 1
    world.pass_time(0.75, step=0.05)
    assert world.open == 0
    world.append(shown("s"))
    world.pass_time(2.25, step=0.05)
    assert world.open == 0


def test_a_clock_that_is_ahead_is_a_metric_and_a_notice(world: World) -> None:
    world.append(shown("r"))
    world.pass_time(1)
    gauges = world.live.gauges()
    assert gauges["clock_lead_seconds"] == 0.0 and gauges["clock_stuck_seconds"] < 1.0
    world.live.reader.joiners[0].clock.time += DAY
    world.live.ticks.keep_time(world.now)
    assert world.live.gauges()["clock_lead_seconds"] == pytest.approx(DAY, abs=1)


def test_a_clock_that_stands_is_a_metric_and_a_notice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.append(shown("r"))
    world.pass_time(1)

    def refuse(records: Iterable[tuple[bytes, bytes]]) -> Offsets:
        raise OSError("no room")

    monkeypatch.setattr(world.log, "append", refuse)
    for _ in range(100):
        world.now += 1.0
        world.monotonic += 1.0
        world.live.idle()
    assert 95 < world.live.gauges()["clock_stuck_seconds"] <= 101
    assert sum("no window ends" in notice for notice in world.live.notices) == 1
    assert world.live.failures["tick"] < 250


def messy(world: World, seed: int, length: int) -> None:
    """Live traffic with steps of the clock, records of other dates, and early clicks; it is learned as it comes."""
    rng = random.Random(seed)
    world.append(*(ItemUpdate(item=item) for item in "abc"))
    step = 0.0
    for n in range(length):
        if rng.random() < 0.05:
            world.now -= step
            step = rng.choice([0.0, 0.0, 2.0, 250.0, DAY, -100.0])
            world.now += step
        dated = rng.choice([None] * 6 + [world.now + 299, YEAR_2100, world.now - 50, world.now + 5])
        timestamp = rng.choice([0.0, world.now, world.now + 200, world.now - 30])
        if rng.random() < 0.5:
            world.append(shown(f"r{n}", timestamp), dated=dated)
        else:
            request = f"r{n + rng.randint(-8, 4)}"
            world.append(Interaction(user="u", item="a", request_id=request, id=f"c{n}", timestamp=timestamp), dated=dated)
        if rng.random() < 0.7:
            world.pass_time(rng.choice([0.25, 1.0, 6.0]))


@pytest.mark.parametrize("seed", range(3))
def test_with_wrong_clocks_live_replayed_and_restarted_are_equal(
    seed: int, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(make_config(stream={"window": 8.0, "lateness": 8.0}), monkeypatch)
    lives = 0
    for life in range(4):
        if life:
            world.live.save()
            world.live.close()
        world.live = world.trainer(folder=tmp_path)
        world.live.restore()
        lives += world.live.reader.position > 0
        messy(world, 10 * seed + life, 60)
    assert lives == 3
    again = world.trainer(TimeOrder(world.log, 50))
    again.restore()
    again.drain()
    assert again.digest() == world.live.digest()
    assert again.dead.counts["future"] > 5
    assert isinstance(world.log.read({0: 0}, 1)[0], Record) and again.pipeline.version > 50
    assert any(b"tick" in record.value for record in world.log.read({0: 0}, 10_000))
