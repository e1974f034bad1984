"""What the chaos test would notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from streams.codec import encode
from streams.events import Event, Impression, Interaction, ItemUpdate, Tick
from streams.join import Joiner
from streams.log import MemoryLog, Record
from tests.chaos.fold import Folded
from tests.chaos.producer import BAD, Producer, ids_of
from tests.chaos.tally import Tally
from tests.chaos.verdict import compare
from tests.chaos.watch import Versions

SHOWN = Impression(request_id="r1", user="u", items=("i1", "i2"), timestamp=1.0)
CLICK = Interaction(id="c1", request_id="r1", user="u", item="i1", timestamp=2.0)
LOG = (SHOWN, CLICK, CLICK, ItemUpdate(item="i1", timestamp=2.0), Tick(timestamp=3.0))


def tally(events: Sequence[Event], bad: int = 1) -> Tally:
    found = Tally(span=100.0)
    values = [encode(event) for event in events] + [next(iter(BAD))] * bad
    for offset, value in enumerate(values):
        found.add(Record(0, offset, b"", value, 5.0))
    return found


def folded(**changes: object) -> Folded:
    kinds = Counter(impressions=1, interactions=1, duplicates=1)
    whole = Folded("digest", kinds, Counter(not_json=1), Counter([("u", "i1", 2.0)]), {0: 6})
    return whole._replace(**changes)


def producer(*events: Event) -> Producer:
    one = Producer(0, 1.0, [], MemoryLog())
    one.ids = {found for found in map(ids_of, events) if found is not None}
    one.sent = one.accepted = len(events)
    one.bad = 1
    return one


def test_a_log_is_counted() -> None:
    found = tally(LOG)
    assert found.records == 6
    assert found.kinds == {"impressions": 1, "interactions": 1, "duplicates": 1, "updates": 1, "ticks": 1}
    assert (found.dead, found.bad) == ({"not_json": 1}, {(0, 5)})
    assert found.ids == {"impression r1": 1, "interaction c1": 2}
    assert found.clicks == {("u", "i1", 2.0): 1}
    assert found.problems == []


def test_what_agrees_is_no_problem() -> None:
    assert compare(tally(LOG), folded(), producer(SHOWN, CLICK)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clicks": Counter()}, "never learned: {('u', 'i1', 2.0): 1}"),
        ({"clicks": Counter({("u", "i1", 2.0): 2})}, "twice: {('u', 'i1', 2.0): 1}"),
        ({"kinds": Counter(impressions=1, interactions=1, duplicates=1, early=1)}, "early: 1 were joined later, and 0 clicks"),
        ({"kinds": Counter(impressions=1, interactions=2)}, "interactions: the log has 1, and 2 were folded"),
        ({"dead": Counter()}, "dead: the log has"),
    ],
    ids=["lost", "twice", "joined and not learned", "counted twice", "not refused"],
)
def test_a_fold_that_differs_is_named(changes: dict[str, object], said: str) -> None:
    assert said in "; ".join(compare(tally(LOG), folded(**changes), producer(SHOWN, CLICK)))


def test_a_click_before_its_impression_may_be_learned_again_joined() -> None:
    log = (CLICK, SHOWN, CLICK)
    joiner = Joiner(window=10.0)
    rows = [row for offset, event in enumerate(log) for batch in joiner.push(offset, 0.0, event) for row in batch.rows]
    rows += [row for batch in joiner.finish() for row in batch.rows]
    clicks = Counter((row.user, row.item, row.timestamp) for row in rows if row.kind)
    assert clicks == {("u", "i1", 2.0): 2}
    whole = folded(clicks=clicks, kinds=joiner.counts)
    assert compare(tally(log), whole, producer(CLICK, SHOWN)) == []
    (problem,) = compare(tally(log), whole._replace(kinds=joiner.counts - Counter(early=1)), producer(CLICK, SHOWN))
    assert problem == "early: 0 were joined later, and 1 clicks were learned again"


def test_an_accepted_event_that_is_not_in_the_log_is_named() -> None:
    lost = Interaction(id="c2", user="u", item="i2")
    assert compare(tally(LOG), folded(), producer(SHOWN, CLICK, lost)) == ["accepted and not in the log: ['interaction c2']"]


def test_a_repetition_that_nobody_remembers_is_named() -> None:
    late = Interaction(id="c1", request_id="r1", user="u", item="i1", timestamp=102.0)
    (problem,) = tally((SHOWN, CLICK, late)).problems
    assert problem.startswith("interaction c1 came again after 100 s")


def test_a_version_that_goes_back_is_named() -> None:
    seen = Versions("a")
    for version in (3, 3, 5, 4):
        seen.see(200, {}, {"version": version})
    assert (seen.problems, seen.versions) == (["a: version 4 came after 5"], 2)


def test_a_refusal_says_when_to_come_again() -> None:
    seen = Versions("a")
    seen.see(503, {"Retry-After": "1"}, {})
    assert (seen.refused, seen.problems) == (1, [])
    seen.see(503, {}, {"error": "no"})
    assert seen.problems == ["a: a ranking was answered with 503: {'error': 'no'}"]
