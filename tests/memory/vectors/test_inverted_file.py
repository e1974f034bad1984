"""Slots of a step of training: the same as from a list of all used slots, without making one."""

from __future__ import annotations

import numpy as np
import pytest

from memory.vectors.inverted_file import _even_part, _unassigned


@pytest.mark.parametrize("used", [1, 7, 40])
def test_of_slots_that_are_used_from_the_first_on_every_one_has_its_number(used: int) -> None:
    alive = np.arange(40) < used
    for start, stop in ((0, 5), (5, 16)):
        slots = np.empty(stop - start, np.int64)
        assert _even_part(alive, 16, start, slots)
        assert slots.tolist() == (np.arange(start, stop) * used // 16).tolist()


def test_a_free_slot_stands_for_the_next_used_one() -> None:
    alive = np.zeros(12, np.bool_)
    alive[[2, 3, 9]] = True
    slots = np.empty(5, np.int64)
    assert _even_part(alive, 5, 0, slots)
    assert slots.tolist() == [2, 2, 9, 9, 9]
    assert not _even_part(np.zeros(12, np.bool_), 5, 0, slots)


def test_the_first_used_slots_without_a_place() -> None:
    alive, places = np.ones(10, np.bool_), np.full(10, -1, np.int32)
    alive[4], places[5] = False, 3
    assert _unassigned(alive, places, 3, 3).tolist() == [3, 6, 7]
    assert _unassigned(alive, places, 8, 5).tolist() == [8, 9]
