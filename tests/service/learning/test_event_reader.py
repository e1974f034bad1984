"""Position and `as_of` of the event reader."""

from __future__ import annotations

import time

from service.config import parse
from service.learning.event_reader import MAX_APPENDED, EventReader
from service.learning.order import PollOrder
from service.learning.validation import EventValidator
from streams.codec import encode
from streams.dead_letters import DeadLetters
from streams.events import Event, Interaction, Tick
from streams.join import Joiner
from streams.log import MemoryLog, key_for_partition

ROWS = 3


def reader_of(log: MemoryLog) -> EventReader:
    config = parse({})
    made = EventReader(
        log,
        PollOrder(log, 100, None),
        DeadLetters(),
        EventValidator(config.reward, config.stream.max_skew),
        lambda: Joiner(batch_rows=ROWS),
        lambda event: None,
    )
    return made


def append(log: MemoryLog, partition: int, event: Event) -> float:
    """Append an event; return the time after the append."""
    log.append([(key_for_partition(partition, 2), encode(event))])
    return time.time()


def click(n: int) -> Interaction:
    return Interaction(user="u", item=f"i{n}", id=f"c{n}", timestamp=time.time())


def fold(reader: EventReader) -> None:
    """Process all records and drop the complete batches."""
    while reader.advance():
        reader.ready.clear()


def test_what_waits_in_an_open_batch_is_not_in_the_state_yet() -> None:
    log = MemoryLog(2)
    reader = reader_of(log)
    reader.open(dict.fromkeys(log.begin(), Joiner().position()))
    fold(reader)
    before = reader.as_of
    assert 0 < before <= time.time()

    first = append(log, 0, click(0))
    fold(reader)
    second = append(log, 0, click(1))
    other = append(log, 1, click(2))
    fold(reader)
    assert before <= reader.as_of <= first, "the click on i0 was read, but not learned"

    append(log, 0, Tick(timestamp=time.time()))
    fold(reader)
    assert second <= reader.as_of <= other, "the other partition's click still waits"

    append(log, 1, Tick(timestamp=time.time()))
    empty = time.time()
    fold(reader)
    assert reader.as_of >= empty


def test_a_record_that_cannot_be_learned_from_is_behind_the_position_too() -> None:
    """The ledger lists the record as read, so a restart must not read it again."""
    log = MemoryLog(2)
    reader = reader_of(log)
    reader.open(dict.fromkeys(log.begin(), Joiner().position()))
    append(log, 0, click(0))
    append(log, 1, click(1))
    log.append([(key_for_partition(0, 2), b"no event")])
    fold(reader)
    assert {partition: position.next for partition, position in reader.positions().items()} == reader.next == {0: 2, 1: 1}
    again = reader_of(log)
    again.open(reader.positions())
    assert (again.next, again.positions()) == (reader.next, reader.positions())


def test_a_full_batch_leaves_what_came_after_it_waiting() -> None:
    log = MemoryLog(2)
    reader = reader_of(log)
    reader.open(dict.fromkeys(log.begin(), Joiner().position()))
    for n in range(ROWS):
        last = append(log, 0, click(n))
    after = append(log, 0, click(ROWS))
    fold(reader)
    assert last <= reader.as_of <= after


def test_an_open_batch_of_a_former_life_waits_too() -> None:
    log = MemoryLog(2)
    reader = reader_of(log)
    reader.open(dict.fromkeys(log.begin(), Joiner().position()))
    append(log, 0, click(0))
    fold(reader)
    again = reader_of(log)
    again.open(reader.positions())
    fold(again)
    assert again.as_of == 0.0
    append(log, 0, Tick(timestamp=time.time()))
    fold(again)
    assert again.as_of > 0


def test_repeated_events_do_not_collect_append_times() -> None:
    log = MemoryLog()
    log.append([(b"", encode(Interaction(user="u", item="i", id="same", timestamp=time.time())))] * (2 * MAX_APPENDED))
    reader = reader_of(log)
    reader.open(dict.fromkeys(log.begin(), Joiner().position()))
    fold(reader)
    assert reader.counts["duplicates"] == 2 * MAX_APPENDED - 1
    assert len(reader.appended) <= MAX_APPENDED
