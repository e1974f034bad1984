from __future__ import annotations

import numpy as np
import pytest

from learners.base import Exclusion
from learners.kernels.heads import find, lift, live_heads, new_blocks, new_ends, places, take_out, walk

ITEMS, PLACES = 80, 16
ORDER = np.array([2, 0])  # heads of the last column and of the first


class Two:
    """Two heads of three orders, and what is asked of them."""

    def __init__(self):
        self.key = np.full((ITEMS, 3), -np.inf)
        self.blocks, self.ends = new_blocks(2, PLACES), new_ends(2)
        self.heads = live_heads(ORDER, self.blocks, self.ends)

    def grow(self, slot, amounts):
        at = [find(head, slot, self.key, self.heads) for head in range(2)]
        self.key[slot] = np.maximum(self.key[slot], 0) + amounts
        for head in range(2):
            lift(head, at[head], slot, self.key, self.heads)

    def take_out(self, slot):
        for head in range(2):
            take_out(head, slot, self.key, self.heads)
        self.key[slot] = -np.inf

    def in_head(self, head):
        return self.heads.slot[head, : self.heads.used[head]].tolist()

    def check(self, least):
        """The items in a head are the first of all by their key, without gaps."""
        for head, order in enumerate(ORDER):
            mine, key = self.in_head(head), self.key[:, order]
            known = np.count_nonzero(key > -np.inf)
            assert len(mine) >= min(known, least) and len(set(mine)) == len(mine)
            assert np.all(self.heads.slot[head, len(mine) :] == -1)
            assert key[mine].tolist() == np.sort(key)[::-1][: len(mine)].tolist()


@pytest.mark.parametrize("whole", [True, False])
def test_heads_are_what_sorting_gives(whole):
    two, rng = Two(), np.random.default_rng(0)
    for _ in range(3000):
        # Whole numbers have many equals.
        two.grow(rng.integers(ITEMS), rng.integers(1, 3, 3).astype(float) if whole else rng.random(3))
        two.check(PLACES)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_heads_stay_exact_when_items_give_way(rate):
    two, rng = Two(), np.random.default_rng(1)
    for n in range(3000):
        two.grow(rng.zipf(1.2) % ITEMS, rng.integers(1, 3, 3).astype(float) * (1 + n // 100))
        if rng.random() < rate:
            two.take_out(rng.integers(ITEMS) if rng.random() < 0.5 else two.in_head(0)[0])
        two.check(PLACES // 2)


def test_a_head_that_lost_half_is_filled_from_all_items():
    two = Two()
    for slot in range(40):
        two.grow(slot, np.full(3, 100.0 - slot))
    assert two.in_head(0) == list(range(16))
    for slot in range(8):
        two.take_out(slot)
    assert two.in_head(0) == list(range(8, 16))
    two.take_out(8)
    assert two.in_head(0) == list(range(9, 25))


def test_of_equal_keys_the_first_stays_ahead():
    two = Two()
    for slot in (5, 3, 9):
        two.grow(slot, np.ones(3))
    assert two.in_head(0) == two.in_head(1) == [5, 3, 9]
    two.grow(9, np.array([1.0, 0.0, 0.0]))
    assert two.in_head(1) == [9, 5, 3] and two.in_head(0) == [5, 3, 9]


def test_places_and_the_walk_agree():
    two = Two()
    for slot, key in ((1, 9.0), (2, 8.0), (3, 7.0)):
        two.grow(slot, np.array([key, 0, 17 - 2 * key]))
    assert (two.in_head(0), two.in_head(1)) == ([3, 2, 1], [1, 2, 3])
    assert places(ITEMS, two.heads)[:5].tolist() == [0, 1, 2, 1, 0]
    exclude = Exclusion(np.array([3, -1, 1]), np.array([0, 0, 2, 3]))
    slot, request, score = walk(ITEMS, exclude.item, exclude.start, 2, two.heads)
    assert slot.tolist() == [3, 1, 1, 2, 3, 2] and request.tolist() == [0, 0, 1, 1, 2, 2]
    assert score.tolist() == [1, 1, 1, 0.5, 1, 0.5]
    assert walk(ITEMS, exclude.item, exclude.start, 0, two.heads)[0].size == 0


def test_only_what_moved_is_shipped():
    two = Two()
    for slot in range(16):
        two.grow(slot, np.full(3, 100.0 - slot))
    two.blocks.take_changes()
    two.grow(15, np.array([0.0, 0.0, 0.5]))
    assert two.blocks.take_changes()["rows"].size == 2  # a block of each head: the key in both orders is found and put back
