"""In a world whose users change their minds, blocks that move are worth more than blocks that stay, and than a dense table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.sparse_tables import Arm, World, replay

EVENTS, HALF = 60_000, 30_000

ARMS = {
    "dense, half the width": Arm(32),
    "first quarter": Arm(share=0.25, options={"prefix": 4}),
    "moving": Arm(share=0.25, floor=0.05),
    "frozen": Arm(share=0.25, floor=0.05, until=0.25, options={"prefix": 4}),
}


@pytest.fixture(scope="module")
def ndcg() -> dict[str, np.ndarray]:
    """NDCG@10 of each choice by layout of the user table, the same world and negatives for all."""
    world = World.simulate(EVENTS, 1_000, 800, seed=3)
    return {name: replay(world, arm, batch=64, every=20, seed=3)[1] for name, arm in ARMS.items()}


def test_a_quarter_of_the_numbers_is_worth_half_the_width(ndcg: dict[str, np.ndarray]) -> None:
    mean = {name: values[EVENTS // 20 :].mean() for name, values in ndcg.items()}
    assert mean["moving"] >= mean["dense, half the width"] - 0.003
    assert mean["moving"] >= mean["first quarter"] + 0.01


def test_after_a_change_blocks_must_be_free_to_move(ndcg: dict[str, np.ndarray]) -> None:
    after = {name: values[HALF:].mean() for name, values in ndcg.items()}
    assert after["moving"] >= after["frozen"] + 0.01


def test_the_world_is_hard_enough_to_tell_widths_apart(ndcg: dict[str, np.ndarray]) -> None:
    mean = {name: values[EVENTS // 20 :].mean() for name, values in ndcg.items()}
    assert mean["dense, half the width"] >= mean["first quarter"] + 0.01
    assert ndcg["moving"][:HALF][-5000:].mean() > ndcg["moving"][HALF : HALF + 5000].mean() + 0.03, "the change is felt"
    assert mean["first quarter"] > 0.1, "0.045 by chance"
