"""Several queries are compared with several vectors at a time: the results are right and depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from memory.simd import LANES, QUERIES_AT_ONCE, compress_store, inner_products, mask_at_least, negative_distances, prefetch
from memory.vectors.blocks import MAX_INT16, empty_blocks, write_lane


@njit
def compared(queries, rows, blocks, angular, similarity):  # type: ignore[no-untyped-def]
    for block in range(blocks.shape[0]):
        prefetch(blocks, block)
        if angular:
            inner_products(queries, rows, 0, blocks, block, similarity[block])
        else:
            negative_distances(queries, rows, 0, blocks, block, similarity[block])


@njit
def bits_of(numbers, row, threshold):  # type: ignore[no-untyped-def]
    return mask_at_least(numbers, row, threshold)


@njit
def pack(numbers, row, bits, offset, target, start):  # type: ignore[no-untyped-def]
    return compress_store(numbers, row, bits, offset, target, start)


def aligned(*shape: int) -> np.ndarray:
    raw = np.zeros(4 * int(np.prod(shape)) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * int(np.prod(shape))].view(np.float32).reshape(shape)


@pytest.mark.parametrize("angular", [True, False])
@pytest.mark.parametrize("width", [1, 3, 8, 33])
def test_four_queries_and_sixteen_vectors(width: int, angular: bool) -> None:
    rng = np.random.default_rng(width)
    blocks, similarity = aligned(3, width, LANES), aligned(3, QUERIES_AT_ONCE, LANES)
    blocks[:] = rng.normal(size=blocks.shape)
    queries, rows = rng.normal(size=(9, width)).astype(np.float32), np.array([7, 0, 7, 3])
    compared(queries, rows, blocks, angular, similarity)
    compared_pairs = queries[rows].astype(np.float64)[None, :, :, None], blocks.astype(np.float64)[:, None]
    true = (
        (compared_pairs[0] * compared_pairs[1]).sum(2) if angular else -np.square(compared_pairs[0] - compared_pairs[1]).sum(2)
    )
    assert similarity == pytest.approx(true, rel=1e-5, abs=1e-5)
    assert np.array_equal(similarity[:, 0], similarity[:, 2]), "the same query gives the same result in both rows"


@pytest.mark.parametrize("angular", [True, False])
@pytest.mark.parametrize("width", [1, 6, 33])
def test_quantized_vectors_have_a_scale_each(width: int, angular: bool) -> None:
    rng = np.random.default_rng(width)
    vectors, blocks = rng.normal(size=(3 * LANES, width)).astype(np.float32), empty_blocks(3, width + 2, np.int16)
    vectors[7] = 0
    vectors[20] *= 1e-20
    for n, vector in enumerate(vectors):
        write_lane(vector, blocks, n // LANES, n % LANES, True)
    queries, similarity = rng.normal(size=(QUERIES_AT_ONCE, width)).astype(np.float32), aligned(3, QUERIES_AT_ONCE, LANES)
    compared(queries, np.arange(QUERIES_AT_ONCE), blocks, angular, similarity)
    step = np.abs(vectors).max(axis=1, keepdims=True) / MAX_INT16
    rounded = np.rint(np.divide(vectors, step, out=np.zeros_like(vectors), where=step > 0)) * step
    assert (np.abs(rounded - vectors) <= 0.51 * step).all()
    true = queries @ rounded.T if angular else -np.square(queries[:, None] - rounded).sum(-1)
    assert similarity.swapaxes(0, 1).reshape(QUERIES_AT_ONCE, -1) == pytest.approx(true, rel=1e-5, abs=1e-5)


def test_the_similarity_does_not_depend_on_the_lane() -> None:
    rng = np.random.default_rng(0)
    blocks, similarity = aligned(1, 21, LANES), aligned(1, QUERIES_AT_ONCE, LANES)
    blocks[:] = rng.normal(size=21).astype(np.float32)[None, :, None]
    compared(rng.normal(size=(4, 21)).astype(np.float32), np.arange(4), blocks, True, similarity)
    assert (similarity == similarity[:, :, :1]).all()


def test_the_mask_of_numbers_above_a_threshold() -> None:
    numbers = aligned(2, LANES)
    numbers[1] = np.arange(LANES)
    assert bits_of(numbers, 1, np.float32(13)) == 0b111 << 13
    assert bits_of(numbers, 1, np.float32(-np.inf)) == (1 << LANES) - 1
    assert bits_of(numbers, 1, np.float32(np.inf)) == 0
    numbers[1, 3] = np.nan
    assert bits_of(numbers, 1, np.float32(0)) == ((1 << LANES) - 1) ^ (1 << 3)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_selected_numbers_are_written_side_by_side(kind: type) -> None:
    numbers, target = aligned(2, LANES).view(kind), np.full(40, -1, kind)
    numbers[1] = np.arange(LANES)
    assert pack(numbers, 1, np.uint64(0b1000_0000_0001_0110), kind(100), target, 5) == 4
    assert target[5:9].tolist() == [101, 102, 104, 115]
    assert (target[:5] == -1).all() and (target[5 + LANES :] == -1).all()
    assert pack(numbers, 1, np.uint64(0), kind(0), target, 9) == 0
    assert target[5:9].tolist() == [101, 102, 104, 115]
    assert pack(numbers, 1, np.uint64((1 << LANES) - 1), kind(0), target, 9) == LANES
    assert target[5 : 9 + LANES].tolist() == [101, 102, 104, 115, *range(LANES)]


def test_numbers_may_be_compressed_in_place() -> None:
    numbers = aligned(3, LANES).reshape(-1)
    numbers[:] = np.arange(3 * LANES)
    kept = 0
    for row in range(3):
        kept += pack(numbers, row, np.uint64(0b1010_1010_1010_1010), np.float32(0), numbers, kept)
    assert numbers[:kept].tolist() == list(range(1, 3 * LANES, 2))
