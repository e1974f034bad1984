"""Turns joined rows, or rows of a recorded file, into the feedback that learners learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from learners.base import Learner
from learners.features import hash_ids, hash_kind
from memory.keyed.history import add_earlier_rows
from service.learning.recorded_columns import BlockReader
from service.learning.rewards import Rewards
from service.ranking.pipeline import Pipeline
from service.ranking.signing import Verifier, trust_none
from service.tables.rows import RewardRule
from streams.batch import (
    Batch,
    Feedback,
    Floats,
    Ids,
    Kinds,
    Requests,
    Times,
    pack_history,
    unpack_history,
)
from streams.block import Block
from streams.joined import Outcome, Snapshot, TrackedImpression

__all__ = ["Effects", "FeedbackBuilder"]


class Effects(Protocol):
    """What building rows changes in the state: the catalogues, and the means of dense numbers."""

    def meet(self, user: Ids, users: Sequence[str], item: Ids, items: Sequence[str]) -> None:
        """Add users and items with an interaction to the catalogues: their keys, and their ids."""

    def follow(self, features: Ids, dense: Floats | None) -> None:
        """Let the means of dense numbers follow rows; see `FeatureRows.learn`."""


class _AtOnce:
    """Changes the state of a pipeline at once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def meet(self, user: Ids, users: Sequence[str], item: Ids, items: Sequence[str]) -> None:
        """See `Effects`."""
        self._pipeline.users.ensure(user, users)
        if item.size:
            self._pipeline.items.ensure(item, items)

    def follow(self, features: Ids, dense: Floats | None) -> None:
        """See `Effects`."""
        self._pipeline.rows.learn(features, dense)


class FeedbackBuilder:
    """Builds `Feedback` for a pipeline: hashes ids, computes rewards, finds or computes feature rows.

    Rows of an impression come with everything that their ranking was scored on: features, history, time, and the bytes that
    learners carry. If the log does not hold trustworthy values, they are computed when the impression is first seen, before
    anything is learned from it.

    Parameters
    ----------
    pipeline : Pipeline
        Provides catalogues and featurizer. Users, and items with an interaction, are added to its catalogues.
    rewards : mapping of kind to float or RewardRule
        Reward of an interaction: a number times its value, or a rule on its value.
    verify : callable
        Tells whether the service made an impression; see `service.ranking.signing`.
    config : str
        Fingerprint of the pipeline's configuration. Impressions with this fingerprint hold scores of this configuration.
    effects : Effects or None
        Receives what building changes in the state. None: the pipeline is changed at once.

    Attributes
    ----------
    recomputed : int
        Rows whose logged features came from another config or service. Their features were computed when the impression
        was first seen.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        rewards: Mapping[str, float | RewardRule],
        verify: Verifier = trust_none,
        config: str = "",
        effects: Effects | None = None,
    ) -> None:
        self._pipeline, self._verify, self.config = pipeline, verify, config
        self._effects = _AtOnce(pipeline) if effects is None else effects
        self._rewards = Rewards(rewards)
        self._blocks = BlockReader(pipeline.featurizer, self._rewards)
        self.recomputed = 0

    def add_snapshots(self, shown: Iterable[TrackedImpression]) -> None:
        """Give each impression its `Snapshot`, if it has none."""
        missing = [one for one in shown if one.snapshot is None]
        incomplete = []
        for one in missing:
            impression = one.impression
            trusted = self._verify(impression)
            complete = trusted and self._unpacked(impression.features, len(impression.items)) is not None
            one.snapshot = Snapshot(
                features=impression.features if complete else b"",
                history=impression.history if trusted else b"",
                carried=impression.carried if trusted else {},
                trusted=trusted,
                logged=complete,
            )
            if not complete:
                incomplete.append(one)
                self.recomputed += len(impression.items) if impression.features else 0
        if incomplete:
            self._complete_snapshots(incomplete)

    def note_shown(self, shown: Sequence[TrackedImpression]) -> None:
        """Let the means of dense numbers follow the rows of impressions with a snapshot. Give each impression once."""
        if self._pipeline.dense.columns:
            for one in shown:
                features, _, dense = self._rows_of_snapshot(one)
                self._effects.follow(features, np.array(dense))

    def from_shown(self, shown: Sequence[TrackedImpression]) -> Batch:
        """Return the rows of impressions whose outcome is not known yet, one request per impression.

        Every impression must have its snapshot; see `add_snapshots`.
        """
        request, item, position = _rows_of(shown)
        requests = self._requests_of(shown)
        # Copies: arrays read from bytes are read-only, and numba would compile for them separately.
        features, values = map(np.array, self._features_of(shown))
        return Batch(**requests.columns(), item=item, request=request, position=position, features=features, values=values)

    def from_rows(self, rows: Sequence[Outcome]) -> Feedback:
        """Build feedback from a joiner's rows, in order. Rows of one impression share a request; others have their own."""
        self.add_snapshots(row.shown for row in rows if row.shown is not None)
        starts = [n for n, row in enumerate(rows) if n == 0 or row.shown is None or row.shown is not rows[n - 1].shown]
        firsts = [rows[n] for n in starts]
        request = np.repeat(np.arange(len(firsts)), np.diff([*starts, len(rows)]))
        user_names, item_names = [row.user for row in firsts], [row.item for row in rows]
        user, item = hash_ids(user_names), hash_ids(item_names)
        kind = np.array([hash_kind(row.kind) for row in rows], np.int32)
        self._add_to_catalogues(user, user_names, item, item_names, kind)
        reward = np.array([self._rewards.of(row.kind, row.value) for row in rows], np.float32)
        requests = self._requests(firsts, user, item[starts], kind[starts], reward[starts])
        features, values = self._features_of_rows(rows, firsts, starts, requests, request, item, reward)
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
            reward=reward,
            propensity=np.array(propensity, np.float32),
            weight=np.ones(len(rows), np.float32),
            kind=kind,
            outcome_time=np.array([row.timestamp for row in rows], np.float64),
            correction=np.array([row.correction for row in rows], np.bool_),
        )

    def from_block(self, block: Block) -> Feedback:
        """Build feedback from rows of a recorded file: the same as `from_rows` builds from the single interactions."""
        pipeline, read = self._pipeline, self._blocks.read(block)
        rows = block.rows
        pipeline.contexts.add(*read.context)
        pipeline.users.ensure(read.user, read.user_names)
        pipeline.items.ensure(read.item, read.item_names)
        requests = pipeline.requests(read.user, block.timestamp, read.context)
        _add_earlier_rows(requests, read.item, read.kind, read.reward)
        request = np.arange(rows)
        features, values = self._learned_rows(requests, request, read.item, read.reward)
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

    def _add_to_catalogues(self, user: Ids, users: Sequence[str], item: Ids, items: Sequence[str], kind: Kinds) -> None:
        """Add users and items with an interaction to the catalogues. An id that was only ranked may be a typing mistake."""
        with_interaction = np.flatnonzero(kind)
        self._effects.meet(user, users, item[with_interaction], [items[n] for n in with_interaction.tolist()])

    def _complete_snapshots(self, shown: Sequence[TrackedImpression]) -> None:
        """Fill in, from the current state, what the log lacks or cannot be trusted for."""
        pipeline = self._pipeline
        request, item, _ = _rows_of(shown)
        context = pipeline.featurizer.encode_context([one.impression.context for one in shown])
        requests = pipeline.requests(*_users_and_times(shown), context)
        for n, one in enumerate(shown):
            assert one.snapshot is not None, "made by `add_snapshots`"
            if one.snapshot.trusted:
                self._put_history(requests, slice(n, n + 1), [one.snapshot.history])
        batch = pipeline.rows.batch(requests, request, item)
        carried: dict[str, list[bytes]] = {}
        for name, learner in pipeline.learners():
            pipeline.isolation.run(name, "prepare its carried data for", _carry, carried, learner, requests)
        at = 0
        for n, one in enumerate(shown):
            assert one.snapshot is not None, "made by `add_snapshots`"
            rows, known = slice(at, at + len(one.impression.items)), one.snapshot
            at = rows.stop
            history = pack_history(requests.history[n], requests.history_time[n], requests.history_kind[n])
            one.snapshot = Snapshot(
                features=pipeline.rows.pack(batch.take(np.arange(rows.start, rows.stop))),
                history=known.history if known.trusted else history,
                carried=known.carried if known.trusted else {name: packed[n] for name, packed in carried.items()},
                trusted=known.trusted,
            )

    def _requests_of(self, shown: Sequence[TrackedImpression]) -> Requests:
        """Requests of impressions with a snapshot, as they were ranked."""
        requests = self._empty_requests(*_users_and_times(shown))
        self._put_snapshots(requests, np.arange(len(shown)), shown)
        return requests

    def _requests(self, firsts: Sequence[Outcome], user: Ids, item: Ids, kind: Kinds, reward: Floats) -> Requests:
        """Requests of rows: as ranked for rows of an impression, from the current state for others."""
        timestamp = np.array([row.timestamp if row.shown is None else row.shown.timestamp for row in firsts], np.float64)
        pipeline, ranked = self._pipeline, np.array([row.shown is not None for row in firsts], np.bool_)
        unjoined = np.flatnonzero(~ranked)
        context = pipeline.featurizer.encode_context([row.context for row in firsts if row.shown is None])
        now = pipeline.requests(user[unjoined], timestamp[unjoined], context)
        _add_earlier_rows(now, item[unjoined], kind[unjoined], reward[unjoined])
        if unjoined.size == len(firsts):
            return now
        requests = self._empty_requests(user, timestamp)
        requests.history[unjoined] = now.history
        requests.history_time[unjoined], requests.history_kind[unjoined] = now.history_time, now.history_kind
        requests.context[unjoined], requests.context_values[unjoined] = now.context, now.context_values
        self._put_snapshots(requests, np.flatnonzero(ranked), [row.shown for row in firsts if row.shown is not None])
        return requests

    def _empty_requests(self, user: Ids, timestamp: Times) -> Requests:
        rows, columns = user.size, self._pipeline.featurizer.context_columns
        return Requests(
            user=user,
            timestamp=timestamp,
            history=np.zeros((rows, self._pipeline.recent), np.int64),
            context=np.zeros((rows, columns), np.int64),
            context_values=np.zeros((rows, columns), np.float32),
        )

    def _put_snapshots(self, requests: Requests, where: Ids, shown: Sequence[TrackedImpression]) -> None:
        """Copy context, history and carried bytes of snapshots into the requests at indices `where`."""
        part = self._pipeline.featurizer.context_part
        for n, ranked in zip(where.tolist(), shown, strict=True):
            keys, values = self._features_of([ranked])
            requests.context[n], requests.context_values[n] = keys[0, part], values[0, part]
        snapshots = [one.snapshot for one in shown if one.snapshot is not None]
        assert len(snapshots) == len(shown), "impressions get their snapshots before their rows are built"
        self._put_history(requests, where, [one.history for one in snapshots])
        for name in dict.fromkeys(name for one in snapshots for name in one.carried):
            carried = requests.carried.setdefault(name, [b""] * requests.user.size)
            for n, one in zip(where.tolist(), snapshots, strict=True):
                carried[n] = one.carried.get(name, b"")

    def _put_history(self, requests: Requests, where: Ids | slice, packed: Sequence[bytes]) -> None:
        item, time, kind = unpack_history(packed, self._pipeline.recent)
        requests.history[where], requests.history_time[where], requests.history_kind[where] = item, time, kind

    def _features_of_rows(
        self,
        rows: Sequence[Outcome],
        firsts: Sequence[Outcome],
        starts: Sequence[int],
        requests: Requests,
        request: Ids,
        item: Ids,
        reward: Floats,
    ) -> tuple[Ids, Floats]:
        """Feature rows: as ranked for rows of an impression, from the current state for others."""
        columns = self._pipeline.rows.columns
        features, values = np.empty((len(rows), columns), np.int64), np.empty((len(rows), columns), np.float32)
        unjoined = np.array([n for n, row in enumerate(rows) if row.shown is None], np.int64)
        if unjoined.size:
            own = Requests(**requests.columns(request[unjoined]))
            computed = self._learned_rows(own, np.arange(unjoined.size), item[unjoined], reward[unjoined])
            features[unjoined], values[unjoined] = computed
        for first, start, end in zip(firsts, starts, [*starts[1:], len(rows)], strict=True):
            if first.shown is not None:
                keys, numbers = self._features_of([first.shown])
                positions = [row.position for row in rows[start:end]]
                features[start:end], values[start:end] = keys[positions], numbers[positions]
        return features, values

    def _learned_rows(self, requests: Requests, request: Ids, item: Ids, reward: Floats) -> tuple[Ids, Floats]:
        """Feature rows of interactions without an impression, which are learned together."""
        features, values, dense = self._pipeline.rows.learned(requests, request, item, reward > 0)
        self._effects.follow(features, dense)
        return features, values

    def _features_of(self, shown: Sequence[TrackedImpression]) -> tuple[Ids, Floats]:
        """Concatenated feature rows of impressions with a snapshot."""
        parts = [self._rows_of_snapshot(one) for one in shown]
        if len(parts) == 1:
            return parts[0][:2]
        return np.concatenate([keys for keys, _, _ in parts]), np.concatenate([numbers for _, numbers, _ in parts])

    def _rows_of_snapshot(self, shown: TrackedImpression) -> tuple[Ids, Floats, Floats | None]:
        rows = None if shown.snapshot is None else self._unpacked(shown.snapshot.features, len(shown.impression.items))
        assert rows is not None, "a snapshot has this pipeline's columns"
        return rows

    def _unpacked(self, packed: bytes, rows: int) -> tuple[Ids, Floats, Floats | None] | None:
        return self._pipeline.rows.unpack(packed, rows)


def _users_and_times(shown: Sequence[TrackedImpression]) -> tuple[Ids, Times]:
    """User and time of each impression."""
    user = hash_ids([one.impression.user for one in shown])
    return user, np.array([one.timestamp for one in shown], np.float64)


def _add_earlier_rows(requests: Requests, item: Ids, kind: Kinds, reward: Floats) -> None:
    """Let interactions without an impression, one a request, follow each other in the histories."""
    recent = requests.history, requests.history_time, requests.history_kind
    add_earlier_rows(requests.user, item, requests.timestamp, kind, reward > 0, recent)


def _carry(carried: dict[str, list[bytes]], learner: Learner, requests: Requests) -> None:
    values = learner.carry(requests)
    if values is not None:
        carried[learner.name] = values


def _rows_of(shown: Sequence[TrackedImpression]) -> tuple[Ids, Ids, Ids]:
    """Request, item and position of each row of the impressions, each (N,) int64."""
    sizes = [len(one.impression.items) for one in shown]
    request = np.repeat(np.arange(len(shown)), sizes)
    item = hash_ids([item for one in shown for item in one.impression.items])
    return request, item, np.concatenate([np.arange(size) for size in sizes]) if sizes else request
