"""Columns of recorded files: hashed, with rewards, and encoded, without one object per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learners.features import Featurizer, hash_ids, hash_kind
from service.learning.rewards import Rewards
from streams.batch import Floats, Ids, Kinds
from streams.block import Block, Column

__all__ = ["BlockReader", "ReadBlock"]

_Objects = npt.NDArray[np.object_]

_CACHED = 64
"""Cached column dictionaries: more than one recorded file has, and few enough to bound memory."""


@dataclass(slots=True, kw_only=True)
class ReadBlock:
    """Columns of N rows.

    Attributes
    ----------
    user, item : (N,) int64
        Hashed ids.
    user_names, item_names : (N,) object
        Ids.
    context : ((N, C) int64, (N, C) float32)
        As the featurizer encodes it.
    kind : (N,) int32
        Hashed kinds.
    reward : (N,) float32
    """

    user: Ids
    item: Ids
    user_names: _Objects
    item_names: _Objects
    context: tuple[Ids, Floats]
    kind: Kinds
    reward: Floats


class BlockReader:
    """Reads blocks, and caches what it computes from a column's dictionary, since blocks share it.

    Parameters
    ----------
    featurizer : Featurizer
    rewards : Rewards
    """

    def __init__(self, featurizer: Featurizer, rewards: Rewards) -> None:
        self._featurizer, self._rewards = featurizer, rewards
        self._hashes: dict[int, tuple[list[str], Ids, _Objects]] = {}
        self._context: dict[tuple[str, int], tuple[list[str], Any]] = {}

    def read(self, block: Block) -> ReadBlock:
        """Return the columns of a block's rows."""
        user_keys, user_names = self._hashed_dictionary(block.user)
        item_keys, item_names = self._hashed_dictionary(block.item)
        kind, reward = self._outcome(block)
        return ReadBlock(
            user=user_keys[block.user.codes],
            item=item_keys[block.item.codes],
            user_names=user_names[block.user.codes],
            item_names=item_names[block.item.codes],
            context=self._encode_context(block),
            kind=kind,
            reward=reward,
        )

    def _outcome(self, block: Block) -> tuple[Kinds, Floats]:
        if isinstance(block.kind, str):
            kind = np.full(block.rows, hash_kind(block.kind), np.int32)
            return kind, self._rewards.of_many(block.kind, block.value)
        kind, reward = np.zeros(block.rows, np.int32), np.zeros(block.rows, np.float32)
        for code, name in enumerate(block.kind.names):
            rows = block.kind.codes == code
            if rows.any():
                kind[rows], reward[rows] = hash_kind(name), self._rewards.of_many(name, block.value[rows])
        return kind, reward

    def _encode_context(self, block: Block) -> tuple[Ids, Floats]:
        columns = self._featurizer.context_columns
        keys, values = np.zeros((block.rows, columns), np.int64), np.zeros((block.rows, columns), np.float32)
        for name, column in block.context.items():
            if isinstance(column, Column):
                encoded, codes = self._encoded_dictionary(name, column.names), column.codes
            else:
                distinct, inverse = np.unique(column, return_inverse=True)
                encoded = self._featurizer.encode_context_column(name, distinct.tolist())
                codes = np.where(np.isnan(column), -1, inverse)
            if encoded is not None:
                where, distinct_keys, distinct_values = encoded
                keys[:, where], values[:, where] = distinct_keys[codes], distinct_values[codes]
        return keys, values

    def _encoded_dictionary(self, name: str, names: list[str]) -> Any:
        cached = self._context.get((name, id(names)))
        if cached is None:
            cached = names, self._featurizer.encode_context_column(name, names)
            _cache(self._context, (name, id(names)), cached)
        return cached[1]

    def _hashed_dictionary(self, column: Column) -> tuple[Ids, _Objects]:
        cached = self._hashes.get(id(column.names))
        if cached is None:
            # The cache holds the list, so that Python cannot give its id to another object.
            cached = column.names, hash_ids(column.names), np.array(column.names, object)
            _cache(self._hashes, id(column.names), cached)
        return cached[1], cached[2]


def _cache(cached: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cached) >= _CACHED:
        del cached[next(iter(cached))]
    cached[key] = value
