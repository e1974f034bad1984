"""What the intake says of how far the state has come."""

from __future__ import annotations

import time

from service.config import parse
from service.learning.event_reader import Intake
from service.learning.order import AsRead
from service.learning.validation import Admission
from streams.codec import encode
from streams.dead_letters import DeadLetters
from streams.events import Event, Interaction, Tick
from streams.join import Joiner
from streams.log import MemoryLog, key_to

ROWS = 3


def intake_of(log: MemoryLog) -> Intake:
    config = parse({})
    made = Intake(
        log,
        AsRead(log, 100, None),
        DeadLetters(),
        Admission(config.reward, config.stream.max_skew),
        lambda: Joiner(batch_rows=ROWS),
        lambda event: None,
    )
    return made


def append(log: MemoryLog, partition: int, event: Event) -> float:
    """Append an event; when it was there."""
    log.append([(key_to(partition, 2), encode(event))])
    return time.time()


def click(n: int) -> Interaction:
    return Interaction(user="u", item=f"i{n}", id=f"c{n}", timestamp=time.time())


def fold(intake: Intake) -> None:
    """Fold all that there is, and take what is complete."""
    while intake.read_on():
        intake.ready.clear()


def test_what_waits_in_an_open_batch_is_not_in_the_state_yet() -> None:
    log = MemoryLog(2)
    intake = intake_of(log)
    intake.open(dict.fromkeys(log.begin(), Joiner().position()))
    fold(intake)
    before = intake.as_of
    assert 0 < before <= time.time()

    first = append(log, 0, click(0))
    fold(intake)
    second = append(log, 0, click(1))
    other = append(log, 1, click(2))
    fold(intake)
    assert before <= intake.as_of <= first, "the click on i0 has been folded, and nobody has learned it"

    append(log, 0, Tick(timestamp=time.time()))
    fold(intake)
    assert second <= intake.as_of <= other, "the other partition's click still waits"

    append(log, 1, Tick(timestamp=time.time()))
    empty = time.time()
    fold(intake)
    assert intake.as_of >= empty


def test_a_record_that_cannot_be_learned_from_is_behind_the_position_too() -> None:
    """A ledger says that it was taken, and who goes on from here must not take it again."""
    log = MemoryLog(2)
    intake = intake_of(log)
    intake.open(dict.fromkeys(log.begin(), Joiner().position()))
    append(log, 0, click(0))
    append(log, 1, click(1))
    log.append([(key_to(0, 2), b"no event")])
    fold(intake)
    assert {partition: position.next for partition, position in intake.positions().items()} == intake.next == {0: 2, 1: 1}
    again = intake_of(log)
    again.open(intake.positions())
    assert (again.next, again.positions()) == (intake.next, intake.positions())


def test_a_full_batch_leaves_what_came_after_it_waiting() -> None:
    log = MemoryLog(2)
    intake = intake_of(log)
    intake.open(dict.fromkeys(log.begin(), Joiner().position()))
    for n in range(ROWS):
        last = append(log, 0, click(n))
    after = append(log, 0, click(ROWS))
    fold(intake)
    assert last <= intake.as_of <= after


def test_an_open_batch_of_a_former_life_waits_too() -> None:
    log = MemoryLog(2)
    intake = intake_of(log)
    intake.open(dict.fromkeys(log.begin(), Joiner().position()))
    append(log, 0, click(0))
    fold(intake)
    again = intake_of(log)
    again.open(intake.positions())
    fold(again)
    assert again.as_of == 0.0
    append(log, 0, Tick(timestamp=time.time()))
    fold(again)
    assert again.as_of > 0
