"""Impressions that close before their window ends, because they were clicked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from streams.events import Event, Forget, Impression, Interaction, Tick
from streams.join import Joiner
from streams.joined import Closing, Outcome


def shown(request: str, time: float, *items: str) -> Impression:
    return Impression(request_id=request, user="u", items=items, timestamp=time)


def click(item: str, time: float, request: str, kind: str = "click") -> Interaction:
    return Interaction(user="u", item=item, request_id=request, kind=kind, timestamp=time)


def rows_of(joiner: Joiner, *events: Event, start: int = 0) -> list[Outcome]:
    return [row for at, event in enumerate(events, start) for joined in joiner.push(at, 0.0, event) for row in joined.rows]


def left_alone(rows: list[Outcome]) -> list[tuple[str, float]]:
    return [(row.item, row.timestamp) for row in rows if not row.kind]


@pytest.mark.parametrize(("counted", "closes"), [("first", 106), ("last", 109)])
def test_the_other_positions_leave_some_seconds_after_the_first_or_the_last_click(counted: str, closes: float) -> None:
    joiner = Joiner(window=100, lateness=10, batch_rows=1, closing=Closing(after_click=5, click=counted))
    rows_of(joiner, shown("r", 100, "a", "b", "c"), shown("s", 100, "d"), click("b", 101, "r"), click("a", 104, "r"))
    assert joiner.deadline == closes
    assert rows_of(joiner, Tick(timestamp=closes - 0.1), start=4) == []
    assert left_alone(rows_of(joiner, Tick(timestamp=closes + 3), start=5)) == [("c", closes)]
    assert joiner.deadline == 200, "the impression without a click waits for its window"
    assert left_alone(rows_of(joiner, Tick(timestamp=200), start=6)) == [("d", 200)]
    assert joiner.deadline is None


def test_the_end_of_the_window_closes_an_impression_whose_click_would_close_it_later() -> None:
    joiner = Joiner(window=10, lateness=0, batch_rows=1, closing=Closing(after_click=5))
    events = [shown("r", 100, "a", "b"), click("a", 108, "r"), Tick(timestamp=120)]
    assert left_alone(rows_of(joiner, *events)) == [("b", 110)]
    assert joiner.nbytes == 0


def test_a_click_after_the_closing_is_a_late_correction() -> None:
    joiner = Joiner(window=100, lateness=10, batch_rows=1, closing=Closing(after_click=5))
    events = [shown("r", 100, "a", "b"), click("a", 101, "r"), Tick(timestamp=106), click("b", 107, "r"), click("b", 209, "r")]
    rows = rows_of(joiner, *events)
    assert [(row.item, row.kind, row.correction) for row in rows] == [
        *[("a", "click", False), ("b", "", False)],
        *[("b", "click", True), ("b", "click", True)],
    ]
    assert (joiner.counts["late"], joiner.counts["repeated"], joiner.counts["unjoined"]) == (1, 1, 0)
    assert rows_of(joiner, Tick(timestamp=400), start=5) == [], "each position was learned once"


def test_an_interaction_of_any_kind_counts_as_a_click_and_one_that_does_not_join_does_not() -> None:
    joiner = Joiner(window=100, lateness=10, batch_rows=1, closing=Closing(after_click=5))
    rows_of(joiner, shown("r", 100, "a", "b"), click("z", 101, "r"))
    assert joiner.deadline == 200
    rows_of(joiner, click("a", 102, "r", kind="dwell"), start=2)
    assert joiner.deadline == 107


def test_positions_below_all_clicks_are_skipped_and_counted() -> None:
    joiner = Joiner(window=10, lateness=10, batch_rows=1, closing=Closing(below_clicks="skip"))
    events = [shown("r", 100, *"abcde"), shown("s", 100, "x", "y"), click("c", 101, "r"), click("a", 102, "r")]
    assert left_alone(rows_of(joiner, *events, Tick(timestamp=110))) == [("b", 110), ("x", 110), ("y", 110)]
    assert joiner.counts["skipped"] == 2
    # A late click on a skipped position is its first outcome; one on a position that was learned corrects it.
    late = rows_of(joiner, click("e", 111, "r"), click("b", 111, "r"), start=5)
    assert [(row.item, row.correction) for row in late] == [("e", False), ("b", True)]
    assert joiner.counts["late"] == 2


def test_closed_impressions_are_reported_once_and_evicted_and_forgotten_like_others() -> None:
    joiner = Joiner(window=100, lateness=10, batch_rows=1, capacity=2, closing=Closing(after_click=5, below_clicks="skip"))
    events = [
        *[shown("r", 100, "a", "b"), click("b", 101, "r"), shown("s", 110, "c", "d"), click("c", 111, "s")],
        *[shown("t", 112, "e"), shown("v", 113, "f"), click("f", 113, "v"), Forget(user="u"), Tick(timestamp=400)],
    ]
    closed = [
        one.impression.request_id
        for at, event in enumerate(events)
        for joined in joiner.push(at, 0.0, event)
        for one in joined.closed
    ]
    assert closed == ["r", "s"], "t and v were forgotten"
    assert joiner.counts["evicted"] == 2
    assert joiner.deadline is None
    assert joiner.nbytes == 0


class Reference:
    """Looks at every impression at every event."""

    def __init__(self, closing: Closing, window: float) -> None:
        self.closing, self.window = closing, window
        self.now = 0.0
        self.items: dict[str, tuple[str, ...]] = {}
        self.ends: dict[str, float] = {}
        self.clicks: dict[str, dict[str, float]] = {}
        self.counts: Counter[str] = Counter()

    def push(self, event: Event) -> list[tuple[str, str, float]]:
        """The request, item and time of each position that is left alone."""
        self.now = max(self.now, event.timestamp)
        rows = []
        for request, ends in sorted(self.ends.items()):
            clicks = self.clicks[request]
            if clicks and self.closing.after_click is not None:
                counted = min(clicks.values()) if self.closing.click == "first" else max(clicks.values())
                ends = min(ends, counted + self.closing.after_click)
            if ends <= self.now:
                del self.ends[request]
                items = self.items[request]
                lowest = max(map(items.index, clicks)) if clicks else len(items)
                for at, item in enumerate(items):
                    if at > lowest and self.closing.below_clicks == "skip":
                        self.counts["skipped"] += 1
                    elif item not in clicks:
                        rows.append((request, item, ends))
        if isinstance(event, Impression):
            self.items[event.request_id], self.clicks[event.request_id] = event.items, {}
            self.ends[event.request_id] = self.now + self.window
        elif isinstance(event, Interaction) and event.request_id in self.ends and event.item in self.items[event.request_id]:
            self.clicks[event.request_id].setdefault(event.item, self.now)
            if self.closing.click == "last":
                self.clicks[event.request_id][event.item] = self.now
        return rows


def visits(seed: int, length: int) -> Iterator[Event]:
    rng = random.Random(seed)
    now, requests = 1000.0, [shown("r", 1000.0, "a")]
    for n in range(length):
        now += rng.choice([0.25, 0.5, 1.0, 4.0])
        time = now - rng.choice([0, 0, 0, 5.0])
        if rng.random() < 0.4:
            requests.append(shown(f"r{n:03}", time, *rng.sample("abcdef", rng.randint(1, 6))))
            yield requests[-1]
        else:
            request = rng.choice(requests[-8:])
            yield click(rng.choice([*request.items, "z"]), time, request.request_id)


@pytest.mark.parametrize("below", ["learn", "skip"])
@pytest.mark.parametrize("counted", ["first", "last"])
@pytest.mark.parametrize("seed", range(5))
def test_a_joiner_closes_what_a_reference_closes(seed: int, counted: str, below: str) -> None:
    closing = Closing(after_click=4.0, click=counted, below_clicks=below)
    joiner, reference = Joiner(window=20, lateness=1000, batch_rows=1, closing=closing), Reference(closing, 20)
    emitted = []
    for at, event in enumerate([*visits(seed, 500), Tick(timestamp=1e5)]):
        rows = rows_of(joiner, event, start=at)
        emitted.extend(rows)
        found = sorted((row.shown.impression.request_id, row.item, row.timestamp) for row in rows if not row.kind and row.shown)
        assert found == sorted(reference.push(event)), f"record {at}"
    assert joiner.counts["skipped"] == reference.counts["skipped"]
    assert (joiner.counts["skipped"] > 100) == (below == "skip")
    assert sum(bool(row.kind) for row in emitted) == joiner.counts["interactions"], "no interaction is lost"
    first = [(row.shown.impression.request_id, row.item) for row in emitted if row.shown and not row.correction]
    assert len(first) == len(set(first)), "a position has one outcome; all others are corrections"
