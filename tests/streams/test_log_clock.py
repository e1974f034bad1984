"""The clock of a log: wrong clocks of clients, producers and this machine neither end windows early nor keep them open."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from streams.events import Event, Impression, Interaction, Tick
from streams.join import Joiner
from streams.joined import JoinedBatch
from streams.joining.log_clock import LogClock

NOW = 1_700_000_000.0
DAY = 86_400.0
Entry = tuple[float, Event]


def shown(request: str, time: float, item: str = "a", source: str = "") -> Impression:
    return Impression(request_id=request, user="u", items=(item,), timestamp=time, source=source)


def click(time: float) -> Interaction:
    return Interaction(user="v", item="z", timestamp=time)


def tick(time: float) -> Entry:
    return time, Tick(timestamp=time)


class Live:
    """A joiner that is read live: a tick each second, as a trainer appends them while impressions are open."""

    def __init__(self, **settings: float) -> None:
        self.joiner = Joiner(batch_rows=1, **settings)  # type: ignore[arg-type]
        self.log: list[Entry] = []
        self.ended: dict[str, float] = {}
        self.now = NOW

    def append(self, event: Event, *, appended: float | None = None) -> None:
        entry = self.now if appended is None else appended, event
        self.log.append(entry)
        for joined in self.joiner.push(len(self.log) - 1, *entry):
            left_alone = (row.shown for row in joined.rows if row.shown is not None and not row.kind)
            self.ended |= {one.impression.request_id: self.now for one in left_alone}

    def run(self, seconds: float, ahead: float = 0.0, every: float = 1.0) -> None:
        """Let time pass. The clock that dates ticks is `ahead`."""
        until = self.now + seconds
        while self.now < until:
            self.now += every
            self.append(Tick(timestamp=self.now + ahead), appended=self.now + ahead)


@pytest.mark.parametrize("ahead", [299.0, 299.0 + 1e6])
@pytest.mark.parametrize("window", [1.0, 20.0, 600.0])
def test_an_event_that_is_dated_ahead_ends_no_window(window: float, ahead: float) -> None:
    live = Live(window=window)
    live.append(shown("r", NOW))
    for _ in range(100):
        live.append(click(live.now + ahead))
        live.run(window / 200, every=window / 200)
    assert live.ended == {}
    live.run(window, every=window / 50)
    assert live.ended["r"] - NOW == pytest.approx(window, rel=0.03)
    assert live.joiner.counts["ahead"] == 100


@pytest.mark.parametrize("window", [1.0, 20.0, 600.0])
def test_a_record_that_its_producer_dates_ahead_ends_no_window(window: float) -> None:
    """Kafka's CreateTime, by a producer whose clock is 299 s ahead."""
    live = Live(window=window)
    live.append(shown("r", NOW))
    for _ in range(100):
        live.append(click(live.now), appended=live.now + 299.0)
        live.run(window / 200, every=window / 200)
    assert live.ended == {}
    live.run(window, every=window / 50)
    assert live.ended["r"] - NOW == pytest.approx(window, rel=0.15)


@pytest.mark.parametrize("step", [DAY, 200.0, 31e6])
def test_a_clock_that_is_ahead_for_two_seconds_neither_ends_windows_nor_keeps_them_open(step: float) -> None:
    live = Live(window=60.0, lateness=60.0)
    live.append(shown("before", NOW))
    live.run(10)
    live.append(shown("while", live.now + step), appended=live.now + step)
    live.run(2, ahead=step)
    assert live.ended == {}
    live.append(shown("after", live.now))
    live.run(90)
    ends = {request: ended - NOW for request, ended in live.ended.items()}
    assert ends == pytest.approx({"before": 60, "while": 70, "after": 72}, abs=7)
    assert live.joiner.clock.corrections == 1
    assert live.joiner.clock.corrected == pytest.approx(step, abs=3)
    live.append(shown("later", live.now))
    live.run(61)
    assert live.ended["later"] - live.now == pytest.approx(0, abs=2), "and as long as ever afterwards"


def test_a_clock_that_flaps_ends_a_window_early_by_its_limit_at_most_each_time() -> None:
    live = Live(window=600.0)
    live.append(shown("r", NOW))
    for ahead in (DAY, 0.0, DAY, 0.0):
        live.run(10, ahead=ahead)
    live.run(700)
    assert 600 - 2 * live.joiner.clock.limit <= live.ended["r"] - NOW <= 601


def test_a_night_without_events_is_passed_in_one_step() -> None:
    live = Live(window=60.0)
    live.append(shown("r", NOW))
    live.run(61)
    assert list(live.ended) == ["r"]
    live.now += DAY / 3
    live.append(shown("s", live.now))
    live.run(53)
    assert "s" not in live.ended
    live.run(8)
    assert "s" in live.ended


def test_windows_that_were_open_when_the_trainer_stopped_end_within_a_window_of_its_start() -> None:
    live = Live(window=60.0)
    live.append(shown("r", NOW))
    live.now += DAY
    live.run(60)
    assert list(live.ended) == ["r"]


def test_events_of_the_past_advance_event_time_freely() -> None:
    """A bulk load: much of events is appended in a second, and windows end as they would have."""
    live = Live(window=60.0)
    for n in range(10):
        live.append(shown(f"r{n}", NOW - 30 * DAY + 100 * n), appended=NOW + n / 10)
    assert list(live.ended) == [f"r{n}" for n in range(9)]


def test_a_stream_without_append_times_has_the_event_time_of_its_events() -> None:
    joiner = Joiner(window=60.0, batch_rows=1)
    joiner.push(0, 0.0, shown("r", 100.0))
    (closed,) = joiner.push(1, 0.0, Tick(timestamp=100_000.0))
    assert [row.timestamp for row in closed.rows] == [160.0]


def test_sources_do_not_hold_the_watermark_and_cost_nothing() -> None:
    """100,000 sources, each of which falls silent after one event, some of them a day behind."""
    live = Live(window=20.0, lateness=0.0)
    for n in range(100_000):
        if n % 1000 == 0:
            live.run(1)
        live.append(shown(f"r{n}", live.now - DAY * (n % 7 == 0), source=f"s{n}"))
    position = live.joiner.position()
    assert live.joiner.open_impressions == 20_000
    assert len(repr(position)) < 250
    live.run(21)
    assert len(live.ended) == 100_000 and live.joiner.nbytes == 0


def wrong_clocks(seed: int, length: int) -> Iterator[Entry]:
    """Records as of a live log in which clocks step, producers are ahead, and nights pass."""
    rng = random.Random(seed)
    now, ahead, requests = NOW, 0.0, ["r"]
    for n in range(length):
        now += rng.choice([0.1, 0.5, 1.0, 1.0, 5.0, 300.0 if rng.random() < 0.05 else 1.0])
        if rng.random() < 0.05:
            ahead = rng.choice([0.0, 0.0, 3.0, 200.0, DAY, -DAY])
        date = now + ahead
        appended = date + rng.choice([0.0, 0.0, 0.0, 1.0, 299.0])
        timestamp = date + rng.choice([0.0, -5.0, 2.0, 299.0, -DAY if rng.random() < 0.1 else 0.0])
        draw = rng.random()
        if draw < 0.35:
            requests.append(f"r{n}")
            yield appended, shown(requests[-1], timestamp, rng.choice("abc"))
        elif draw < 0.7:
            request = rng.choice([*requests[-8:], f"r{n + 3}"])
            yield appended, Interaction(user="u", item=rng.choice("abc"), request_id=request, id=f"i{n}", timestamp=timestamp)
        else:
            yield tick(date)


def values(batches: list[JoinedBatch]) -> list[object]:
    return [
        [(row.user, row.item, row.kind, row.timestamp, row.position, row.correction) for row in joined.rows]
        for joined in batches
    ]


@pytest.mark.parametrize("seed", range(8))
def test_with_wrong_clocks_a_restored_joiner_makes_the_same_batches(seed: int) -> None:
    records = list(wrong_clocks(seed, 400))
    settings = {"window": 8.0, "lateness": 6.0, "batch_rows": 5}
    whole = Joiner(**settings)  # type: ignore[arg-type]
    positions, batches = [], []
    for at, (appended, event) in enumerate(records):
        positions.append(whole.position())
        batches.append(values(whole.push(at, appended, event)))
    assert whole.clock.corrections > 0 and sum(map(len, batches)) > 20
    for cut in range(0, len(records), 11):
        position, start = positions[cut], cut
        while start < len(records):
            stop = min(start + 60, len(records))
            restored = Joiner(**settings)  # type: ignore[arg-type]
            restored.restore(position, ((at, *records[at]) for at in range(position.rewind, position.next)))
            assert restored.position() == position
            for at in range(start, stop):
                assert values(restored.push(at, *records[at])) == batches[at], f"cut at {cut}, {start}; record {at}"
            position, start = restored.position(), stop


def test_elapsed_time_never_goes_back_and_a_step_adds_at_most_its_limit() -> None:
    rng = random.Random(0)
    clock = LogClock(100.0)
    elapsed = 0.0
    for _ in range(2000):
        move = clock.tick if rng.random() < 0.5 else clock.record
        move(NOW + rng.choice([0.0, 5.0, -50.0, DAY, -DAY, 10 * DAY]) * rng.random())
        now = clock.watermark(float("inf"))
        assert elapsed == 0.0 or elapsed <= now <= elapsed + clock.limit + 1e-6
        elapsed = now


@pytest.mark.parametrize(("window", "limit"), [(600.0, 60.0), (2.0, 0.25), (0.5, 0.25), (0.1, 0.05)])
def test_a_limit_is_shorter_than_the_window(window: float, limit: float) -> None:
    assert LogClock(window).limit == limit
