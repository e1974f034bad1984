"""From what was joined, or read from a recorded file, to the rows that learners learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from learners.base import Learner
from learners.features import hash_ids, hash_kind
from service.learning.recorded_columns import BlockReader
from service.learning.rewards import Rewards
from service.ranking.pipeline import Pipeline
from service.ranking.signing import Believes, nobody
from service.sections import RewardRule
from streams.batch import (
    Batch,
    Feedback,
    Floats,
    Ids,
    Kinds,
    Requests,
    Times,
    pack_history,
    pack_rows,
    unpack_history,
    unpack_rows,
)
from streams.block import Block
from streams.joined import Row, Shown, Snapshot

__all__ = ["FeedbackBuilder"]


class FeedbackBuilder:
    """Makes `Feedback` for a pipeline: hashes ids, prices outcomes, finds or computes feature rows.

    Rows of an impression are given with all that their ranking was scored on: features, history, time, and what learners put
    aside. Where the log does not say it in a way that can be believed, it is noted when the impression is first seen, before
    anything is learned from it.

    Parameters
    ----------
    pipeline : Pipeline
        Whose catalogues and featurizer to use. Users, and items that somebody acted on, enter its catalogues.
    rewards : mapping of kind to float or RewardRule
        What an interaction is worth: a number times its value, or a rule on its value.
    believes : callable
        Whether the service made an impression; see `service.ranking.signing`.
    config : str
        Fingerprint of the pipeline's configuration: impressions of this one say how it scored them.

    Attributes
    ----------
    recomputed : int
        Rows whose logged features were of another config, or of another service, so that those of when the impression was
        first seen took their place.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        rewards: Mapping[str, float | RewardRule],
        believes: Believes = nobody,
        config: str = "",
    ) -> None:
        self._pipeline, self._believes, self.config = pipeline, believes, config
        self._rewards = Rewards(rewards)
        self._blocks = BlockReader(pipeline.featurizer, self._rewards)
        self.recomputed = 0

    def note(self, shown: Iterable[Shown]) -> None:
        """See to it that each impression has its `Snapshot`."""
        missing = [one for one in shown if one.snapshot is None]
        incomplete = []
        for one in missing:
            impression = one.impression
            believed = self._believes(impression)
            whole = believed and self._unpacked(impression.features, len(impression.items)) is not None
            one.snapshot = Snapshot(
                features=impression.features if whole else b"",
                history=impression.history if believed else b"",
                carried=impression.carried if believed else {},
                believed=believed,
                logged=whole,
            )
            if not whole:
                incomplete.append(one)
                self.recomputed += len(impression.items) if impression.features else 0
        if incomplete:
            self._complete(incomplete)

    def from_shown(self, shown: Sequence[Shown]) -> Batch:
        """Rows of impressions before their outcome is known, one request an impression; each must have been noted."""
        request, item, position = _rows_of(shown)
        requests = self._requests_of(shown)
        # Copies: what is read from bytes cannot be written to, and would be compiled for apart.
        features, values = map(np.array, self._features_of(shown))
        return Batch(**requests.columns(), item=item, request=request, position=position, features=features, values=values)

    def from_rows(self, rows: Sequence[Row]) -> Feedback:
        """Rows of a joiner, in their order. Those of one impression are one request, others are requests of their own."""
        self.note(row.shown for row in rows if row.shown is not None)
        begins = [n for n, row in enumerate(rows) if n == 0 or row.shown is None or row.shown is not rows[n - 1].shown]
        heads = [rows[n] for n in begins]
        request = np.repeat(np.arange(len(heads)), np.diff([*begins, len(rows)]))
        user_names, item_names = [row.user for row in heads], [row.item for row in rows]
        user, item = hash_ids(user_names), hash_ids(item_names)
        kind = np.array([hash_kind(row.kind) for row in rows], np.int32)
        self._enter(user, user_names, item, item_names, kind)
        requests = self._requests(heads, user)
        features, values = self._rows_features(rows, heads, begins, requests, request, item)
        propensity = [
            row.shown.impression.propensities[row.position] if row.shown and row.shown.impression.propensities else np.nan
            for row in rows
        ]
        return Feedback(
            **requests.columns(),
            item=item,
            request=request,
            position=np.array([row.position for row in rows], np.int64),
            features=features,
            values=values,
            reward=np.array([self._rewards.of(row.kind, row.value) for row in rows], np.float32),
            propensity=np.array(propensity, np.float32),
            weight=np.ones(len(rows), np.float32),
            kind=kind,
            outcome_time=np.array([row.timestamp for row in rows], np.float64),
            correction=np.array([row.correction for row in rows], np.bool_),
        )

    def from_block(self, block: Block) -> Feedback:
        """Rows of a recorded file, as `from_rows` would make them of the same interactions one by one."""
        pipeline, read = self._pipeline, self._blocks.read(block)
        rows = block.rows
        pipeline.contexts.add(*read.context)
        pipeline.users.ensure(read.user, read.user_names)
        pipeline.items.ensure(read.item, read.item_names)
        requests = pipeline.requests(read.user, block.timestamp, read.context)
        request = np.arange(rows)
        features, values = pipeline.featurizer.rows(requests, request, read.item, pipeline.users, pipeline.items)
        return Feedback(
            **requests.columns(),
            item=read.item,
            request=request,
            features=features,
            values=values,
            reward=read.reward,
            propensity=np.full(rows, np.nan, np.float32),
            weight=np.ones(rows, np.float32),
            kind=read.kind,
            outcome_time=block.timestamp,
            correction=np.zeros(rows, np.bool_),
        )

    def _enter(self, user: Ids, users: Sequence[str], item: Ids, items: Sequence[str], kind: Kinds) -> None:
        """Let users into the catalogue, and items that somebody acted on: what was only ranked may be a typing mistake."""
        self._pipeline.users.ensure(user, users)
        acted = np.flatnonzero(kind)
        if acted.size:
            self._pipeline.items.ensure(item[acted], [items[n] for n in acted.tolist()])

    def _complete(self, shown: Sequence[Shown]) -> None:
        """Note as of now what the log does not say of these impressions in a way that can be believed."""
        pipeline = self._pipeline
        request, item, _ = _rows_of(shown)
        context = pipeline.featurizer.encode_context([one.impression.context for one in shown])
        requests = pipeline.requests(*_who(shown), context)
        for n, one in enumerate(shown):
            assert one.snapshot is not None, "made by `note`"
            if one.snapshot.believed:
                self._put_history(requests, slice(n, n + 1), [one.snapshot.history])
        features, values = pipeline.featurizer.rows(requests, request, item, pipeline.users, pipeline.items)
        carried: dict[str, list[bytes]] = {}
        for name, learner in pipeline.learners():
            pipeline.isolation.run(name, "put aside what it needs of", _carry, carried, learner, requests)
        at = 0
        for n, one in enumerate(shown):
            assert one.snapshot is not None, "made by `note`"
            rows, known = slice(at, at + len(one.impression.items)), one.snapshot
            at = rows.stop
            history = pack_history(requests.history[n], requests.history_time[n], requests.history_kind[n])
            one.snapshot = Snapshot(
                features=pack_rows(pipeline.featurizer.schema, features[rows], values[rows]),
                history=known.history if known.believed else history,
                carried=known.carried if known.believed else {name: told[n] for name, told in carried.items()},
                believed=known.believed,
            )

    def _requests_of(self, shown: Sequence[Shown]) -> Requests:
        """Requests of noted impressions, as they were ranked."""
        made = self._empty_requests(*_who(shown))
        self._put_snapshots(made, np.arange(len(shown)), shown)
        return made

    def _requests(self, heads: Sequence[Row], user: Ids) -> Requests:
        """Requests of rows: of an impression as it was ranked, of others as of now."""
        timestamp = np.array([row.timestamp if row.shown is None else row.shown.timestamp for row in heads], np.float64)
        pipeline, ranked = self._pipeline, np.array([row.shown is not None for row in heads], np.bool_)
        free = np.flatnonzero(~ranked)
        context = pipeline.featurizer.encode_context([row.context for row in heads if row.shown is None])
        now = pipeline.requests(user[free], timestamp[free], context)
        if free.size == len(heads):
            return now
        made = self._empty_requests(user, timestamp)
        made.history[free], made.history_time[free], made.history_kind[free] = now.history, now.history_time, now.history_kind
        made.context[free], made.context_values[free] = now.context, now.context_values
        self._put_snapshots(made, np.flatnonzero(ranked), [row.shown for row in heads if row.shown is not None])
        return made

    def _empty_requests(self, user: Ids, timestamp: Times) -> Requests:
        rows, columns = user.size, self._pipeline.featurizer.context_columns
        return Requests(
            user=user,
            timestamp=timestamp,
            history=np.zeros((rows, self._pipeline.recent), np.int64),
            context=np.zeros((rows, columns), np.int64),
            context_values=np.zeros((rows, columns), np.float32),
        )

    def _put_snapshots(self, requests: Requests, where: Ids, shown: Sequence[Shown]) -> None:
        """Put context, history and what learners put aside into the requests at `where`."""
        part = self._pipeline.featurizer.context_part
        for n, ranked in zip(where.tolist(), shown, strict=True):
            keys, values = self._features_of([ranked])
            requests.context[n], requests.context_values[n] = keys[0, part], values[0, part]
        snapshots = [one.snapshot for one in shown if one.snapshot is not None]
        assert len(snapshots) == len(shown), "impressions are noted before their rows are made"
        self._put_history(requests, where, [one.history for one in snapshots])
        for name in dict.fromkeys(name for one in snapshots for name in one.carried):
            told = requests.carried.setdefault(name, [b""] * requests.user.size)
            for n, one in zip(where.tolist(), snapshots, strict=True):
                told[n] = one.carried.get(name, b"")

    def _put_history(self, requests: Requests, where: Ids | slice, packed: Sequence[bytes]) -> None:
        item, time, kind = unpack_history(packed, self._pipeline.recent)
        requests.history[where], requests.history_time[where], requests.history_kind[where] = item, time, kind

    def _rows_features(
        self,
        rows: Sequence[Row],
        heads: Sequence[Row],
        begins: Sequence[int],
        requests: Requests,
        request: Ids,
        item: Ids,
    ) -> tuple[Ids, Floats]:
        """Feature rows: of an impression as it was ranked, of others as of now."""
        pipeline = self._pipeline
        columns = pipeline.featurizer.columns
        features, values = np.empty((len(rows), columns), np.int64), np.empty((len(rows), columns), np.float32)
        free = np.array([n for n, row in enumerate(rows) if row.shown is None], np.int64)
        if free.size:
            few = Requests(**requests.columns(request[free]))
            told = pipeline.featurizer.rows(few, np.arange(free.size), item[free], pipeline.users, pipeline.items)
            features[free], values[free] = told
        for head, begin, end in zip(heads, begins, [*begins[1:], len(rows)], strict=True):
            if head.shown is not None:
                keys, numbers = self._features_of([head.shown])
                positions = [row.position for row in rows[begin:end]]
                features[begin:end], values[begin:end] = keys[positions], numbers[positions]
        return features, values

    def _features_of(self, shown: Sequence[Shown]) -> tuple[Ids, Floats]:
        """Feature rows of noted impressions, one after the other."""
        parts = []
        for one in shown:
            part = None if one.snapshot is None else self._unpacked(one.snapshot.features, len(one.impression.items))
            assert part is not None, "a snapshot is of this pipeline's columns"
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([keys for keys, _ in parts]), np.concatenate([numbers for _, numbers in parts])

    def _unpacked(self, packed: bytes, rows: int) -> tuple[Ids, Floats] | None:
        featurizer = self._pipeline.featurizer
        return unpack_rows(packed, featurizer.schema, rows, featurizer.columns)


def _who(shown: Sequence[Shown]) -> tuple[Ids, Times]:
    """User and time of impressions."""
    user = hash_ids([one.impression.user for one in shown])
    return user, np.array([one.timestamp for one in shown], np.float64)


def _carry(carried: dict[str, list[bytes]], learner: Learner, requests: Requests) -> None:
    told = learner.carry(requests)
    if told is not None:
        carried[learner.name] = told


def _rows_of(shown: Sequence[Shown]) -> tuple[Ids, Ids, Ids]:
    """Request, item and position of the rows of impressions, each (N,) int64."""
    sizes = [len(one.impression.items) for one in shown]
    request = np.repeat(np.arange(len(shown)), sizes)
    item = hash_ids([item for one in shown for item in one.impression.items])
    return request, item, np.concatenate([np.arange(size) for size in sizes]) if sizes else request
