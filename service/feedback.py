"""From what was joined, or read from a recorded file, to the rows that learners learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from learners.features import hash_ids
from service.config import RewardRule
from service.pipeline import Pipeline
from streams.batch import Batch, Clusters, Feedback, Floats, Ids, unpack_rows
from streams.block import Block, Column
from streams.events import Impression
from streams.join import Joined, Row

__all__ = ["Outcomes"]

_Names = Sequence[str] | npt.NDArray[np.object_]

_KEPT = 64
"""Dictionaries of columns whose hashes are kept: more than one recorded file has, few enough to bound memory."""


class Outcomes:
    """Makes `Feedback` for a pipeline: hashes ids, prices outcomes, finds or computes feature rows.

    Parameters
    ----------
    pipeline : Pipeline
        Whose catalogues and featurizer to use. Ids not seen before enter its catalogues.
    rewards : mapping of kind to float or RewardRule
        What an interaction is worth: a number times its value, or a rule on its value.

    Attributes
    ----------
    recomputed : int
        Rows whose logged features were of another config, so that features as of now took their place.
    """

    def __init__(self, pipeline: Pipeline, rewards: Mapping[str, float | RewardRule]) -> None:
        self._pipeline = pipeline
        self._rewards = dict(rewards)
        self._hashes: dict[int, tuple[list[str], Ids, npt.NDArray[np.object_]]] = {}
        self._context: dict[tuple[str, int], tuple[list[str], Any]] = {}
        self.recomputed = 0

    def take(self, joined: Joined) -> Feedback | None:
        """Let the pipeline observe what was shown; return the rows whose outcome is known, if there are any."""
        if joined.shown:
            self._pipeline.observe(self.from_shown(joined.shown))
        return self.from_rows(joined.rows) if joined.rows else None

    def from_rows(self, rows: Sequence[Row]) -> Feedback:
        """Rows of a joiner, in their order; each is a request of its own."""
        users, items = [row.user for row in rows], [row.item for row in rows]
        context = self._pipeline.featurizer.encode_context([row.context for row in rows])
        feedback = self._feedback(
            hash_ids(users),
            hash_ids(items),
            (users, items),
            np.array([row.timestamp for row in rows], np.float64),
            context,
            np.array([self._reward(row.kind, row.value) for row in rows], np.float32),
        )
        feedback.touched = np.array([row.kind != "" for row in rows], np.bool_)
        feedback.correction = np.array([row.correction for row in rows], np.bool_)
        self._take_logged(rows, feedback)
        feedback.clusters = _clusters([row.impression for row in rows])
        return feedback

    def from_block(self, block: Block) -> Feedback:
        """Rows of a recorded file, as `from_rows` would make them of the same interactions one by one."""
        user_keys, user_names = self._hashed(block.user)
        item_keys, item_names = self._hashed(block.item)
        context = self._block_context(block)
        self._pipeline.contexts.add(*context)
        return self._feedback(
            user_keys[block.user.codes],
            item_keys[block.item.codes],
            (user_names[block.user.codes], item_names[block.item.codes]),
            block.timestamp,
            context,
            self._block_reward(block),
        )

    def from_shown(self, shown: Sequence[Impression]) -> Batch:
        """Rows of impressions before their outcome is known, one request an impression."""
        pipeline = self._pipeline
        names = [item for impression in shown for item in impression.items]
        user, item = hash_ids([impression.user for impression in shown]), hash_ids(names)
        timestamp = np.array([impression.timestamp for impression in shown], np.float64)
        context = pipeline.featurizer.encode_context([impression.context for impression in shown])
        request = np.repeat(np.arange(len(shown)), [len(impression.items) for impression in shown])
        pipeline.items.ensure(item, names)
        requests = pipeline.requests(user, timestamp, context)
        batch = pipeline.featurizer.batch(requests, request, item, pipeline.users, pipeline.items)
        at = 0
        for impression in shown:
            places = slice(at, at + len(impression.items))
            at = places.stop
            logged = self._logged(impression)
            if logged is not None:
                batch.features[places], batch.values[places] = logged
        return batch

    def _feedback(
        self,
        user: Ids,
        item: Ids,
        names: tuple[_Names, _Names],
        timestamp: npt.NDArray[np.float64],
        context: tuple[Ids, Floats],
        reward: Floats,
    ) -> Feedback:
        pipeline, rows = self._pipeline, item.size
        pipeline.users.ensure(user, names[0])
        pipeline.items.ensure(item, names[1])
        requests = pipeline.requests(user, timestamp, context)
        request = np.arange(rows)
        features, values = pipeline.featurizer.rows(requests, request, item, pipeline.users, pipeline.items)
        return Feedback(
            **requests.columns(),
            item=item,
            request=request,
            features=features,
            values=values,
            reward=reward,
            propensity=np.full(rows, np.nan, np.float32),
            weight=np.ones(rows, np.float32),
            touched=np.ones(rows, np.bool_),
            correction=np.zeros(rows, np.bool_),
        )

    def _reward(self, kind: str, value: float) -> float:
        if not kind:
            return 0.0
        rule = self._rewards[kind]
        if isinstance(rule, RewardRule):
            return rule.then if value >= rule.at_least else rule.otherwise
        return rule * value

    def _block_reward(self, block: Block) -> Floats:
        if isinstance(block.kind, str):
            return self._rewards_of(block.kind, block.value)
        reward = np.zeros(block.rows, np.float32)
        for code, kind in enumerate(block.kind.names):
            rows = block.kind.codes == code
            if rows.any():
                reward[rows] = self._rewards_of(kind, block.value[rows])
        return reward

    def _rewards_of(self, kind: str, value: npt.NDArray[np.float64]) -> Floats:
        rule = self._rewards[kind]
        if isinstance(rule, RewardRule):
            return np.where(value >= rule.at_least, np.float32(rule.then), np.float32(rule.otherwise))
        return (rule * value).astype(np.float32)

    def _block_context(self, block: Block) -> tuple[Ids, Floats]:
        columns = self._pipeline.featurizer.context_columns
        keys, values = np.zeros((block.rows, columns), np.int64), np.zeros((block.rows, columns), np.float32)
        for name, column in block.context.items():
            if isinstance(column, Column):
                encoded, codes = self._encoded(name, column.names), column.codes
            else:
                distinct, inverse = np.unique(column, return_inverse=True)
                encoded = self._pipeline.featurizer.encode_context_column(name, distinct.tolist())
                codes = np.where(np.isnan(column), -1, inverse)
            if encoded is not None:
                where, few_keys, few_values = encoded
                keys[:, where], values[:, where] = few_keys[codes], few_values[codes]
        return keys, values

    def _encoded(self, name: str, names: list[str]) -> Any:
        known = self._context.get((name, id(names)))
        if known is None:
            known = names, self._pipeline.featurizer.encode_context_column(name, names)
            _keep(self._context, (name, id(names)), known)
        return known[1]

    def _hashed(self, column: Column) -> tuple[Ids, npt.NDArray[np.object_]]:
        known = self._hashes.get(id(column.names))
        if known is None:
            # Holding the list keeps its id from being given to another one.
            known = column.names, hash_ids(column.names), np.array(column.names, object)
            _keep(self._hashes, id(column.names), known)
        return known[1], known[2]

    def _logged(self, impression: Impression) -> tuple[Ids, Floats] | None:
        """Feature rows as of serving time; None when they were not logged, or under another config (counted)."""
        featurizer = self._pipeline.featurizer
        rows = unpack_rows(impression.features, featurizer.schema, len(impression.items), featurizer.columns)
        if rows is None and impression.features:
            self.recomputed += len(impression.items)
        return rows

    def _take_logged(self, rows: Sequence[Row], feedback: Feedback) -> None:
        """Put features and propensities as of serving time into the rows that have an impression."""
        unpacked: dict[str, tuple[Ids, Floats] | None] = {}
        for n, row in enumerate(rows):
            impression = row.impression
            if impression is None:
                continue
            if impression.request_id not in unpacked:
                unpacked[impression.request_id] = self._logged(impression)
            logged = unpacked[impression.request_id]
            if logged is not None:
                feedback.features[n], feedback.values[n] = logged[0][row.place], logged[1][row.place]
            if impression.propensities:
                feedback.propensity[n] = impression.propensities[row.place]


def _clusters(impressions: Sequence[Impression | None]) -> Clusters | None:
    """Clusters that were logged with the impression of each request, in epoch 0 where there are none."""
    logged = [None if impression is None else impression.clusters for impression in impressions]
    most = max((min(len(one.index), len(one.weight)) for one in logged if one is not None), default=0)
    if not most:
        return None
    size = len(logged)
    found = Clusters(
        index=np.full((size, most), -1),
        weight=np.zeros((size, most)),
        **{name: np.zeros(size, np.int64) for name in ("epoch", "schema", "graph")},
    )
    for n, one in enumerate(logged):
        if one is not None and len(one.index) == len(one.weight):
            found.index[n, : len(one.index)], found.weight[n, : len(one.weight)] = one.index, one.weight
            found.epoch[n], found.schema[n], found.graph[n] = one.epoch, one.schema, one.graph
    return found


def _keep(known: dict[Any, Any], key: Any, value: Any) -> None:
    if len(known) >= _KEPT:
        del known[next(iter(known))]
    known[key] = value
