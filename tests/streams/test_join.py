"""The joiner on streams with known outcomes, and restored at any record."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from streams.events import Event, Forget, Impression, Interaction, Tick
from streams.join import STEP, Joiner
from streams.joined import Closing, JoinedBatch, Outcome


def shown(request: str, time: float, *items: str, user: str = "u") -> Impression:
    return Impression(request_id=request, user=user, items=items, timestamp=time)


def click(
    item: str, time: float, request: str | None = None, id: str = "", kind: str = "click", user: str = "u"
) -> Interaction:
    return Interaction(user=user, item=item, request_id=request, id=id, kind=kind, timestamp=time)


def fold(joiner: Joiner, *events: Event, start: int = 0) -> list[JoinedBatch]:
    return [joined for at, event in enumerate(events, start) for joined in joiner.push(at, 0.0, event)]


def outcomes(batches: list[JoinedBatch]) -> list[tuple[str, str, bool]]:
    return [(row.item, row.kind, row.correction) for joined in batches for row in joined.rows]


def test_an_interaction_is_emitted_on_arrival_and_the_other_positions_at_the_end_of_the_window() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    assert fold(joiner, shown("r", 100, "a", "b", "c"))[0].shown[0].impression.request_id == "r"
    assert outcomes(joiner.push(1, 0.0, click("b", 105, "r"))) == [("b", "click", False)]
    assert outcomes(joiner.push(2, 0.0, Tick(timestamp=109.9))) == []
    left_alone = joiner.push(3, 0.0, Tick(timestamp=110))
    assert outcomes(left_alone) == [("a", "", False), ("c", "", False)]
    assert [row.timestamp for joined in left_alone for row in joined.rows] == [110, 110]


def test_late_and_second_interactions_are_corrections_and_counted() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=100)
    events = [shown("r", 100, "a", "b"), click("a", 101, "r"), click("a", 102, "r", kind="buy"), click("b", 115, "r")]
    batches = fold(joiner, *events, Tick(timestamp=116))
    assert outcomes(batches) == [("a", "click", False), ("a", "buy", True), ("b", "", False), ("b", "click", True)]
    assert joiner.counts["repeated"] == 1
    assert joiner.counts["late"] == 1


def test_an_interaction_past_lateness_or_with_an_item_not_shown_has_no_impression() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    batches = fold(joiner, shown("r", 100, "a"), click("z", 101, "r"), click("a", 121, "r"))
    rows = [row for joined in batches for row in joined.rows]
    assert [(row.item, row.shown is None) for row in rows] == [("z", True), ("a", False), ("a", True)]
    assert joiner.counts["unjoined"] == 1, "the impression of the last one may still come"
    joiner.push(3, 0.0, Tick(timestamp=131))
    assert joiner.counts["unjoined"] == 2


def test_a_repeated_id_is_dropped_while_it_is_remembered() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    assert len(outcomes(fold(joiner, click("a", 100, id="x"), click("a", 119, id="x")))) == 1
    assert len(outcomes(fold(joiner, click("a", 138, id="x"), start=2))) == 0, "seen again at 119: remembered until 139"
    assert len(outcomes(fold(joiner, click("a", 158, id="x"), start=3))) == 1
    assert joiner.counts["duplicates"] == 2


def test_an_impression_sent_twice_counts_once() -> None:
    joiner = Joiner(window=10, lateness=0, batch_rows=100)
    batches = fold(joiner, shown("r", 100, "a"), shown("r", 100, "a"), Tick(timestamp=200))
    assert outcomes(batches) == [("a", "", False)]


def test_batches_close_at_their_row_count_even_when_one_event_ends_many_windows() -> None:
    joiner = Joiner(window=10, lateness=0, batch_rows=4)
    batches = fold(joiner, *(shown(f"r{n}", 100, *"abc") for n in range(5)), Tick(timestamp=200))
    assert [len(joined.rows) + len(joined.shown) for joined in batches] == [4, 4, 4, 4, 4]
    assert not joiner.pending


def test_beyond_capacity_the_oldest_impression_is_evicted_and_counted() -> None:
    joiner = Joiner(window=10, lateness=0, batch_rows=1, capacity=2)
    batches = fold(joiner, shown("r1", 100, "a"), shown("r2", 100, "b"), shown("r3", 100, "c"))
    assert outcomes(batches) == [("a", "", False)]
    assert joiner.counts["evicted"] == 1


def test_full_memory_of_ids_does_not_evict_an_impression() -> None:
    joiner = Joiner(window=10, lateness=0, batch_rows=1, ids=2)
    clicks = [click("z", 101, id=f"c{n}") for n in range(5)]
    assert ("a", "", False) not in outcomes(fold(joiner, shown("r", 100, "a"), *clicks))
    assert len(outcomes(fold(joiner, click("z", 102, id="c4"), start=6))) == 0, "still remembered"
    assert len(outcomes(fold(joiner, click("z", 102, id="c0"), start=7))) == 1, "evicted"
    assert outcomes(fold(joiner, Tick(timestamp=110), start=8)) == [("a", "", False)]


def test_memory_is_counted_and_given_back() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    fold(joiner, *(shown(f"r{n}", 100, "a", "b") for n in range(50)), click("a", 101, "r1", id="x"))
    assert joiner.nbytes > 50 * 1000
    fold(joiner, Tick(timestamp=200), start=51)
    assert joiner.nbytes == 0


def test_forgetting_a_user_drops_waiting_impressions_unlearned() -> None:
    joiner = Joiner(window=10, lateness=0, batch_rows=1)
    events = [shown("r", 100, "a", user="gone"), shown("s", 100, "b"), Forget(user="gone"), Tick(timestamp=200)]
    assert outcomes(fold(joiner, *events)) == [("b", "", False)]


class CountingDeque(deque[Any]):
    """Counts the entries that are looked at."""

    looked = 0

    def popleft(self) -> Any:
        self.looked += 1
        return super().popleft()

    def __iter__(self) -> Iterator[Any]:
        self.looked += len(self)
        return super().__iter__()

    def __contains__(self, entry: object) -> bool:
        self.looked += len(self)
        return super().__contains__(entry)

    def remove(self, entry: Any) -> None:
        self.looked += len(self)
        super().remove(entry)


def test_forgetting_a_user_looks_at_each_impression_once() -> None:
    joiner = Joiner(window=10, lateness=1000, batch_rows=1)
    closed = [shown(f"c{n}", 50 + n / 100, "a", user="vw"[n % 2]) for n in range(200)]
    fold(joiner, *closed, *(shown(f"r{n}", 100 + n / 100, "a", user="vw"[n % 2]) for n in range(200)))
    held = joiner.nbytes
    waits = [CountingDeque(joiner._open), CountingDeque(joiner._closed)]
    joiner._open, joiner._closed = waits
    fold(joiner, Forget(user="v"), start=400)
    assert [one.looked for one in waits] == [200, 200]
    assert joiner.nbytes < held
    left = [row.user for joined in fold(joiner, Tick(timestamp=200), start=401) for row in joined.rows]
    assert left == ["w"] * 100


def test_one_record_that_ends_everything_is_taken_in_small_steps() -> None:
    """Every window ends, then every id expires, then one user is forgotten: each step does a bounded amount of work."""
    count = 3 * STEP
    joiner = Joiner(window=10, lateness=10, batch_rows=64, capacity=10 * count, ids=10 * count)
    for at in range(count):
        joiner.push(2 * at, 0.0, shown(f"r{at}", 100, "a", "b"))
        joiner.push(2 * at + 1, 0.0, click("z", 100, id=f"i{at}"))
    steps = joiner.steps(2 * count, 0.0, Tick(timestamp=111))
    rows = [sum(len(joined.rows) for joined in joiner.take()) for _ in steps]
    assert len(rows) == count and max(rows) <= 64, "an impression a step"
    left = joiner.nbytes
    for _ in joiner.steps(2 * count + 1, 0.0, Tick(timestamp=121)):
        assert left - joiner.nbytes <= STEP * 350, "an impression, or some ids, a step"
        left = joiner.nbytes
    assert left == joiner.nbytes == 0
    for at in range(count):
        joiner.push(2 * count + 2 + at, 0.0, shown(f"s{at}", 122, "a"))
    assert len(list(joiner.steps(5 * count, 0.0, Forget(user="u")))) == count // STEP
    assert joiner.push(5 * count + 1, 0.0, Tick(timestamp=140))[0].rows == []


def test_rows_of_an_impression_are_adjacent_with_their_positions_and_its_time() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=100)
    events = [shown("r", 100, "a", "b"), shown("s", 101, "c", "d"), click("d", 102, "s"), click("b", 103, "r")]
    (batch,) = fold(joiner, *events, click("q", 104), click("c", 105, "s"), Tick(timestamp=112))
    assert [(row.item, row.position, row.timestamp) for row in batch.rows] == [
        *[("d", 1, 102), ("c", 0, 105)],
        *[("b", 1, 103), ("a", 0, 110)],
        ("q", -1, 104),
    ]
    assert [row.shown.timestamp for row in batch.rows if row.shown is not None] == [101, 101, 100, 100]
    assert [one.impression.request_id for one in batch.closed] == ["r", "s"]


def test_an_interaction_of_another_user_has_no_impression() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    batches = fold(joiner, shown("r", 100, "a", user="u"), click("a", 101, "r", user="thief"), Tick(timestamp=111))
    rows = [row for joined in batches for row in joined.rows]
    assert [(row.user, row.shown is None) for row in rows] == [("thief", True), ("u", False)]
    assert (joiner.counts["other_user"], joiner.counts["unjoined"]) == (1, 0)


def test_an_interaction_joins_an_impression_that_comes_up_to_one_window_later() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    early = [click("a", 100, "r"), click("b", 101, "r", kind="buy"), click("z", 101, "r"), click("c", 102, "r", user="thief")]
    batches = fold(joiner, *early)
    assert [(row.item, row.shown) for joined in batches for row in joined.rows] == [(one.item, None) for one in early]
    batches = fold(joiner, shown("r", 109.9, "a", "b", "c"), Tick(timestamp=119.9), start=4)
    assert outcomes(batches) == [("a", "click", False), ("b", "buy", False), ("c", "", False)]
    assert [row.timestamp for joined in batches for row in joined.rows] == [100, 101, 119.9]
    assert all(row.shown is not None for joined in batches for row in joined.rows)
    counted = {name: joiner.counts[name] for name in ("early", "unjoined", "other_user", "interactions")}
    assert counted == {"early": 2, "unjoined": 1, "other_user": 1, "interactions": 4}


def test_an_interaction_whose_impression_comes_after_a_window_is_not_joined() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    batches = fold(joiner, click("a", 100, "r"), shown("r", 110, "a"), Tick(timestamp=120))
    assert outcomes(batches) == [("a", "click", False), ("a", "", False)]
    assert (joiner.counts["early"], joiner.counts["unjoined"]) == (0, 1)


def test_interactions_without_their_impression_are_remembered_within_bounds() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1, capacity=3)
    batches = fold(joiner, *(click("a", 100, f"r{n}") for n in range(5)), shown("r0", 101, "a"), shown("r4", 101, "a"))
    assert joiner.counts["unjoined"] == 2 and joiner.counts["early"] == 1
    assert len(outcomes(batches)) == 6
    for n in range(2000):
        joiner.push(7 + n, 0.0, click("a", 102, "same"))
    assert joiner.nbytes < 20_000
    assert len(joiner._early._by_request["same"]) <= 64, "what was dropped is not kept"


def test_a_forgotten_user_has_no_early_interactions() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1)
    batches = fold(joiner, click("a", 100, "r"), Forget(user="u"), shown("r", 101, "a"), Tick(timestamp=111))
    assert outcomes(batches) == [("a", "click", False), ("a", "", False)]


def as_values(joined: JoinedBatch) -> tuple[list[str], list[tuple[object, ...]]]:
    """A batch as plain values."""
    rows = [
        (*(getattr(row, name) for name in FIELDS), row.shown and (row.shown.impression.request_id, row.shown.timestamp))
        for row in joined.rows
    ]
    return [one.impression.request_id for one in joined.shown], rows


FIELDS = [name for name in Outcome.__struct_fields__ if name != "shown"]


def random_stream(seed: int, length: int) -> Iterator[Event]:
    """Impressions, clicks in and out of time, also early, duplicates of both, events out of order, forgets and ticks."""
    rng = random.Random(seed)
    now, requests, sent = 1000.0, [], []
    for n in range(length):
        now += rng.expovariate(1.0)
        time = now - rng.choice([0, 0, 0, rng.uniform(0, 30)])
        draw = rng.random()
        if draw < 0.35 or not requests:
            event: Event = shown(f"r{n}", time, *rng.sample("abcdef", rng.randint(1, 4)), user=rng.choice("uvw"))
            requests.append(event)
            sent.append(event)
        elif draw < 0.75:
            request = rng.choice(requests[-12:])
            item = rng.choice([*request.items, "z"])
            event = click(item, time, rng.choice([request.request_id, None]), rng.choice([f"i{n}", ""]), user=request.user)
            sent.append(event)
        elif draw < 0.8:
            event = click(rng.choice("abcdef"), time, f"r{n + rng.randint(1, 9)}", user=rng.choice("uvw"))
        elif draw < 0.9 and sent:
            event = rng.choice(sent[-25:])
        elif draw < 0.92:
            event = Forget(user=rng.choice("uvw"))
        else:
            event = Tick(timestamp=now)
        yield event


@pytest.mark.parametrize(
    ("capacity", "ids", "closing"),
    [
        *[(5, 4, Closing()), (3, 1000, Closing()), (1000, 6, Closing()), (1000, 1000, Closing())],
        (5, 4, Closing(after_click=2.0, below_clicks="skip")),
        (1000, 6, Closing(after_click=2.0, click="first", below_clicks="skip")),
        (1000, 1000, Closing(after_click=3.0)),
    ],
)
@pytest.mark.parametrize("seed", range(8))
def test_a_joiner_restored_at_any_record_makes_the_same_batches(seed: int, capacity: int, ids: int, closing: Closing) -> None:
    settings = {"window": 8.0, "lateness": 6.0, "batch_rows": 5, "capacity": capacity, "ids": ids, "closing": closing}
    events = list(random_stream(seed, 400))
    whole = Joiner(**settings)
    positions, batches = [], []
    for at, event in enumerate(events):
        positions.append(whole.position())
        batches.append(list(map(as_values, whole.push(at, 0.0, event))))
    assert sum(map(len, batches)) > 50
    assert (whole.counts["skipped"] > 0) == (closing.below_clicks == "skip")
    for cut in range(0, len(events), 7):
        # Killed again and again: each life starts from a position that the life before it wrote.
        position, start = positions[cut], cut
        while start < len(events):
            stop = min(start + 60, len(events))
            restored = Joiner(**settings)
            restored.restore(position, ((at, 0.0, events[at]) for at in range(position.rewind, position.next)))
            for at in range(start, stop):
                assert list(map(as_values, restored.push(at, 0.0, events[at]))) == batches[at], (
                    f"cut at {cut}, {start}; record {at}"
                )
            position, start = restored.position(), stop


def test_a_position_rewinds_at_most_two_spans() -> None:
    joiner = Joiner(window=8, lateness=6, batch_rows=5)
    for at, event in enumerate(random_stream(0, 400)):
        joiner.push(at, 0.0, event)
        position = joiner.position()
        assert at - 120 < position.rewind <= position.next
