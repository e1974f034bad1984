"""Embeddings of many rows in a constant number of blocks: each row has the blocks that it needs, and no others exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from memory.arrays import Floats, Ids, check_fit
from memory.keyed.table import Column, Table
from memory.sparse import chains
from memory.sparse.prune_and_grow import Exchange, prune_and_grow, strongest
from memory.stateful import State, StateCopy, Stateful, copied

__all__ = ["BlockPool"]

CLOCK = [chains.LEARNED, chains.TICKS, chains.HAND]
"""Counts that are part of the state. The others follow from it, or are metrics."""

STEP = 1 << 16
"""Rows read in one step of a copy: a few milliseconds."""

DAMAGED = "it was written under another configuration, or is damaged; use the checkpoint before it"


class BlockPool(Stateful):
    """Vectors of `dim` numbers for many rows. Each vector consists of blocks; blocks that a row does not have are zero.

    A new row begins with the blocks 0, 1, ..., `prefix` - 1, so that all rows have dimensions in common. `prune_and_grow` moves
    blocks from where they are small to where the gradients of missing blocks are large, within the rows of one shard at a time.
    On average a row has at most `share` of its blocks. The pool has room for that in `capacity` rows; when it is full, the
    rows that occurred least give way.

    Parameters
    ----------
    rows : int
        Number of rows, which are numbered from 0. They may be hashes of ids.
    dim, block : int
        Length of a vector and of a block, with at most 255 blocks in a vector.
    share : float
        Average share of a row's blocks, above 0 and up to 1.
    capacity : int or None
        Rows for which the pool has room. None: all.
    prefix : int or None
        Blocks of a new row. None: half of the average, at least 1.
    keep : int
        Blocks that pruning leaves to a row, at least 1.
    learning_rate, accumulator, l2 : float
        AdaGrad with one sum of squares per block, its initial value, and weight decay.
    init, grown : float
        Standard deviation of a new row's values, and of blocks that grow.
    grace : int
        Events that a new block is spared.
    shards : int
        `prune_and_grow` treats the rows n with ``n % shards == events % shards``.
    evidence : int
        Rows whose gradients are remembered until the next event. The row without one for the longest time is forgotten.
    admission : float
        Occurrences after which a row gets blocks.
    half_life : float
        Occurrences of any rows after which an occurrence counts half.
    least : float
        A row that counts less than this gives way at the next event.
    seed : int
        Seed of the initial values.

    Raises
    ------
    ValueError
        For sizes that do not fit each other.

    Examples
    --------
    >>> pool = BlockPool(rows=1000, dim=16, share=0.25, block=4, prefix=1)
    >>> pool.gather(np.array([7])).nonzero()[1].tolist()
    [0, 1, 2, 3]
    >>> pool.learn(np.array([7]), np.ones((1, 16), np.float32))
    >>> pool.used
    1
    """

    state_version: ClassVar[int | str] = 1

    def __init__(
        self,
        rows: int,
        dim: int,
        share: float,
        *,
        block: int = 4,
        capacity: int | None = None,
        prefix: int | None = None,
        keep: int = 1,
        learning_rate: float = 0.1,
        accumulator: float = 0.3,
        l2: float = 0.0,
        init: float = 0.05,
        grown: float = 0.0,
        grace: int = 1,
        shards: int = 1,
        evidence: int = 4096,
        admission: float = 1.0,
        half_life: float = 1e7,
        least: float = 0.01,
        seed: int = 0,
    ) -> None:
        blocks = dim // block
        if dim % block or not 1 <= blocks <= 255:
            raise ValueError(f"dim: {dim} with blocks of {block}; give 1 to 255 whole blocks")
        if not (0 < share <= 1 and share * blocks >= 1):
            raise ValueError(
                f"share: {share} of {blocks} blocks; give at most 1, and at least one block, or use smaller blocks"
            )
        self._average = share * blocks
        prefix = max(int(self._average) // 2, 1) if prefix is None and share < 1 else prefix or blocks
        if not 1 <= keep <= prefix <= self._average:
            problem = f"prefix: {prefix} blocks where a row keeps {keep} and has {self._average} on average"
            raise ValueError(f"{problem}; give a number in between")
        capacity = rows if capacity is None else min(capacity, rows)
        if not 1 <= rows < 2**31 // blocks or capacity < 1:
            raise ValueError(f"rows: {rows}, capacity: {capacity}; give 1 to {2**31 // blocks - 1}")
        size = int(np.ceil(self._average * capacity))
        # A pool without room for all rows keeps 2 % free for new ones.
        self._limit = size if capacity == rows else size - size // 50
        self.rows, self.dim, self.share, self.blocks, self.shards, self.prefix = rows, dim, share, blocks, shards, prefix
        self._grace, self._least = grace, least
        self.settings = chains.Settings(
            blocks, prefix, keep, seed, init, grown, learning_rate, accumulator, l2, float(half_life), float(admission)
        )
        self.pool = chains.Pool(
            values=np.zeros((size, block), np.float32),
            number=np.zeros(size, np.uint8),
            following=np.zeros(size, np.int32),
            squares=np.zeros(size, np.float32),
            age=np.zeros(size, np.uint8),
            first=np.zeros(rows, np.int32),
            heat=np.zeros(rows, np.float32),
            dirty=np.zeros(rows, np.bool_),
            counts=np.zeros(7, np.int64),
        )
        self.evidence = Table(evidence, sums=Column(blocks))
        self._clear()

    def __len__(self) -> int:
        """Rows that have blocks."""
        return int(self.pool.counts[chains.KNOWN])

    @property
    def capacity(self) -> int:
        """Blocks of the pool."""
        return int(self.pool.number.size)

    @property
    def used(self) -> int:
        """Blocks that rows have."""
        return int(self.pool.counts[chains.USED])

    @property
    def events(self) -> int:
        """Calls of `prune_and_grow`."""
        return int(self.pool.counts[chains.TICKS])

    @property
    def evictions(self) -> int:
        """Rows that lost all their blocks to others."""
        return int(self.pool.counts[chains.RELEASED])

    def gather(self, rows: Ids) -> Floats:
        """Vectors of rows (n,), with 0 where a block is missing: (n, dim) float32. Row -1 is zero.

        A row that has no blocks yet has the values with which it will begin.
        """
        wide = np.empty((rows.size, self.dim), np.float32)
        chains.gather(self.pool, self.settings, rows, wide)
        return wide

    def learn(self, rows: Ids, gradient: Floats) -> None:
        """Learn from the gradients of a loss for the vectors of `gather`, in order.

        Parameters
        ----------
        rows : (n,) int64
            Repeats are allowed. Row -1 is skipped.
        gradient : (n, dim) float32
            For all dimensions, also of missing blocks.
        """
        sums, gradient = self.evidence["sums"], np.ascontiguousarray(gradient, np.float32)
        for start in range(0, rows.size, len(sums)):
            part = slice(start, start + len(sums))
            chains.learn(self.pool, self.settings, rows[part], gradient[part], self.evidence.insert(rows[part] + 1), sums)

    def prune_and_grow(self, ratio: float) -> Exchange:
        """Exchange blocks within the next shard, see `memory.sparse.prune_and_grow`. Evidence of its rows starts again.

        Growth also takes what `share` leaves unused in the rows of the shard, but nothing that rows to come will need.

        Parameters
        ----------
        ratio : float
            Share of the shard's blocks to exchange.

        Returns
        -------
        Exchange
            Removed and added units: row * (dim / block) + number of the block.
        """
        shard, blocks, evidence = self.events % self.shards, self.blocks, self.evidence
        chains.release_cold(self.pool, self.settings, shard, self.shards, self._least)
        active, magnitude, old, known = chains.collect(self.pool, self.settings, shard, self.shards, self._grace)
        prunable = old & ~strongest(active // blocks, magnitude, self.settings.keep)
        slots = evidence.find(active // blocks + 1)
        regret = np.where(slots >= 0, evidence["sums"][slots, active % blocks], np.float32(0.0))
        keys = evidence.keys[evidence.keys % self.shards == (shard + 1) % self.shards]
        keys = np.sort(keys[keys > 0])
        missing = chains.missing_blocks(self.pool, self.settings, keys - 1)
        inactive = ((keys - 1)[:, None] * blocks + np.arange(blocks))[missing]
        sums = evidence["sums"][evidence.find(keys)][missing]
        room = min(int(self._average * known + 1e-6) - active.size, self._limit - self.used)
        found = prune_and_grow(active, magnitude, prunable, regret, inactive, sums, ratio, room)
        exchanged = Exchange(active[found.pruned], inactive[found.grown])
        chains.exchange(self.pool, self.settings, *exchanged)
        evidence.delete(keys)
        self.pool.counts[chains.TICKS] += 1
        return exchanged

    def forget(self, rows: Ids) -> None:
        """Free all blocks of rows (n,), and what was collected for them."""
        chains.clear(self.pool, rows)
        self.pool.heat[rows] = -np.inf
        self.evidence.delete(rows + 1)

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        """Copy the rows, each with its blocks in ascending order: equal contents are equal, wherever in the pool they are."""
        state: State = {"rows": np.flatnonzero(self.pool.first >= 0), "heat_rows": np.flatnonzero(self.pool.heat > -np.inf)}
        sizes, places = [], []
        for start in range(0, state["rows"].size, STEP):
            size, place = chains.read(self.pool, state["rows"][start : start + STEP])
            sizes.append(size)
            places.append(place)
            yield
        at = np.concatenate([*places, np.zeros(0, np.int64)])
        state["size"] = np.concatenate([*sizes, np.zeros(0, np.uint8)])
        for name, array in self._columns.items():
            state[name] = yield from copied(array, at)
        state["heat"] = yield from copied(self.pool.heat, np.flatnonzero(self.pool.heat > -np.inf))
        state["clock"] = self.pool.counts[CLOCK].copy()
        evidence = yield from self.evidence.copy_in_steps()
        return state | {f"evidence.{name}": array for name, array in evidence.items()}

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless names, shapes and types match this store, and the blocks fit into the pool."""
        evidence, own = _split(state)
        like = self._like(own, self._columns) | {"clock": self.pool.counts[CLOCK]}
        hot = own.get("heat_rows", np.zeros(0))
        check_fit(
            type(self).__name__, own, like | {"heat_rows": np.zeros(hot.size, np.int64), "heat": self.pool.heat[: hot.size]}
        )
        self._check_rows(own, used=0)
        if hot.size and not (hot[0] >= 0 and hot[-1] < self.pool.first.size and np.all(np.diff(hot) > 0)):
            raise ValueError(f"heat_rows: not ascending row numbers below {self.pool.first.size}; {DAMAGED}")
        self.evidence.check_state_dict(evidence)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into the pool. Later changes are relative to it, so a follower must load the same state."""
        self.check_state_dict(state)
        evidence, own = _split(state)
        self._clear()
        places = chains.write(self.pool, own["rows"], own["size"], own["number"])
        for name, array in self._columns.items():
            array[places] = own[name]
        self.pool.heat[own["heat_rows"]] = own["heat"]
        self.pool.counts[CLOCK] = own["clock"]
        self.pool.dirty[:] = False
        self.evidence.load_state_dict(evidence)

    def take_changes(self) -> State:
        """Return the changed ``rows`` (n,) int64 and all their blocks.

        These are ``size`` (n,) uint8, the blocks of each row, and, row by row, ``number`` (m,) uint8 and ``values`` (m, b).
        """
        rows = np.flatnonzero(self.pool.dirty)
        if not rows.size:
            return {}
        self.pool.dirty[rows] = False
        size, places = chains.read(self.pool, rows)
        return {"rows": rows, "size": size, "number": self.pool.number[places], "values": self.pool.values[places]}

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Give rows the blocks of a leader. They are marked here too, so that a follower can have followers."""
        if not changes:
            return
        shared = {name: self._columns[name] for name in ("number", "values")}
        check_fit(type(self).__name__, changes, self._like(changes, shared))
        rows = changes["rows"].astype(np.int64)
        self._check_rows(changes, used=self.used - (int(chains.read(self.pool, rows)[0].sum()) if self._are_rows(rows) else 0))
        chains.clear(self.pool, rows)
        places = chains.write(self.pool, rows, changes["size"], changes["number"])
        self.pool.values[places], self.pool.squares[places] = changes["values"], self.settings.start
        self.pool.dirty[rows] = True

    def is_private(self, name: str) -> bool:
        """Whether only learning reads this array: sums of squares, ages, frequencies, evidence and the clock."""
        return name not in ("rows", "size", "number", "values")

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return sum(array.nbytes for array in self.pool) + self.evidence.nbytes

    @property
    def serving_nbytes(self) -> int:
        """Memory of the arrays that serving needs, in bytes: without AdaGrad's sums, ages, frequencies and evidence."""
        return self.nbytes - self.pool.squares.nbytes - self.pool.age.nbytes - self.pool.heat.nbytes - self.evidence.nbytes

    @property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays with an entry for each block."""
        return {"number": self.pool.number, "values": self.pool.values, "squares": self.pool.squares, "age": self.pool.age}

    def _clear(self) -> None:
        """Free all blocks."""
        self.pool.following[:] = np.arange(1, self.capacity + 1)
        self.pool.following[-1:] = -1
        self.pool.first[:], self.pool.heat[:], self.pool.counts[:] = -1, -np.inf, 0

    def _like(self, state: Mapping[str, npt.NDArray[Any]], columns: Mapping[str, npt.NDArray[Any]]) -> State:
        """Arrays of the shapes and types that rows and blocks must have in `state`."""
        rows, used = (state.get(name, np.zeros(0)).size for name in ("rows", "number"))
        blocks = {name: np.broadcast_to(array[:1], (used, *array.shape[1:])) for name, array in columns.items()}
        return {"rows": np.zeros(rows, np.int64), "size": np.zeros(rows, np.uint8), **blocks}

    def _are_rows(self, rows: Ids) -> bool:
        return bool(not rows.size or (rows[0] >= 0 and rows[-1] < self.pool.first.size and np.all(np.diff(rows) > 0)))

    def _check_rows(self, state: Mapping[str, npt.NDArray[Any]], used: int) -> None:
        """Raise ValueError unless rows and the numbers of their blocks ascend, and fit beside `used` blocks."""
        if not self._are_rows(state["rows"]):
            raise ValueError(f"rows: not ascending row numbers below {self.pool.first.size}; {DAMAGED}")
        size, number = state["size"].astype(np.int64), state["number"].astype(np.int64)
        if size.sum() != number.size or used + number.size > self.capacity:
            raise ValueError(f"size: {size.sum()} blocks, number: {number.size}, of at most {self.capacity - used}; {DAMAGED}")
        if np.any(np.diff(np.repeat(np.arange(size.size), size) * 256 + number) <= 0) or number.max(initial=0) >= self.blocks:
            raise ValueError(f"number: blocks of a row do not ascend below {self.blocks}; {DAMAGED}")


def _split(state: Mapping[str, npt.NDArray[Any]]) -> tuple[State, State]:
    """Arrays of the evidence, and all others."""
    evidence = {name.removeprefix("evidence."): array for name, array in state.items() if name.startswith("evidence.")}
    return evidence, {name: array for name, array in state.items() if not name.startswith("evidence.")}
