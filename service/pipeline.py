"""The walk of a request and of a batch of outcomes through the learners. `Pipeline.rank` is the table of contents."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from learners.base import Adapter, Candidates, Exclusion, Policy, Ranker, Reranker, Retriever, WeightDelta
from learners.features import Featurizer, hash_id, hash_ids
from memory.catalog import Catalog
from memory.history import History
from memory.stateful import Stateful
from service.schemas import RankedItem, RankingResponse, RankRequest, Reasons, RecommendRequest
from streams.batch import Batch, Feedback, Floats, Ids, Requests, Times, pack_rows
from streams.events import Event, Forget, Impression, ItemUpdate, UserUpdate

__all__ = ["Pipeline", "Refused", "Stages"]


_Stage = TypeVar("_Stage", bound=Stateful)


class Refused(ValueError):
    """A request that makes no sense to this pipeline: names the field, the value and the remedy."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Stages(Stateful, Generic[_Stage]):
    """Learners of one role by name, in config order."""

    def __init__(self, named: Mapping[str, _Stage]) -> None:
        self.named = dict(named)

    def children(self) -> Iterator[tuple[str, Stateful]]:
        """The learners."""
        yield from self.named.items()

    def __iter__(self) -> Iterator[tuple[str, _Stage]]:
        return iter(self.named.items())


@dataclass(slots=True)
class _Asked:
    """What one request needs on its way, whichever route it came by."""

    request: RankRequest | RecommendRequest
    request_id: str
    names: dict[int, str] = field(default_factory=dict)


class Pipeline(Stateful):
    """Retrievers, featurizer, adapters, one ranker, rerankers and a policy, with the catalogues that they share.

    Parameters
    ----------
    featurizer : Featurizer
    users, items : Catalog
        As wide as the featurizer's columns of users and items.
    history : History
    retrievers : mapping of name to Retriever
    ranker : (str, Ranker)
    adapters : mapping of name to Adapter
    rerankers : mapping of name to Reranker
    policy : (str, Policy)
    recent : int
        Length of the history that the learners see.

    Attributes
    ----------
    version : int
        Micro-batches learned.
    skipped : Counter
        Failures of optional stages, by name: an adapter or a reranker that raised or returned a number that is not finite.
    """

    def __init__(
        self,
        *,
        featurizer: Featurizer,
        users: Catalog,
        items: Catalog,
        history: History,
        retrievers: Mapping[str, Retriever],
        ranker: tuple[str, Ranker],
        adapters: Mapping[str, Adapter],
        rerankers: Mapping[str, Reranker],
        policy: tuple[str, Policy],
        recent: int,
    ) -> None:
        self.featurizer = featurizer
        self.users, self.items, self.history = users, items, history
        self.retrievers, self.adapters, self.rerankers = Stages(retrievers), Stages(adapters), Stages(rerankers)
        self.ranker_name, self.ranker = ranker
        self.policy_name, self.policy = policy
        self.recent = recent
        self.version = 0
        self.skipped: Counter[str] = Counter()

    def rank(self, requests: Sequence[RankRequest | RecommendRequest]) -> list[tuple[RankingResponse, Impression | None]]:
        """Answer requests, all as one batch. Nothing here learns.

        Returns
        -------
        list of (RankingResponse, Impression or None)
            In the order of the requests; the impression is what to append to the log, None when there is nothing to log.

        Raises
        ------
        Refused
            For a request that this pipeline cannot serve; call again without it.
        """
        asked = [self._ask(request) for request in requests]
        who = self._requests(asked)
        found = self._find(who, asked)
        batch = self.featurizer.batch(who, found.request, found.item, self.users, self.items)
        batch.uncertainty = found.uncertainty
        skipped = self.score(batch)
        return [self._order(n, one, batch, found, skipped) for n, one in enumerate(asked)]

    def score(self, batch: Batch) -> list[str]:
        """Adapt, rank and rerank: fill ``batch.score`` and ``batch.hidden``; return the names of stages that were skipped."""
        skipped: list[str] = []
        delta: dict[str, Floats] = {}
        for name, adapter in self.adapters:
            try:
                change = adapter.adapt(batch)
                _check_finite(change)
                delta |= change
            except Exception:
                self._skip(name, skipped)
        self.ranker.score(batch, delta or None)
        if not np.isfinite(batch.score).all():
            raise FloatingPointError(f"{self.ranker_name}: a score is not finite")
        for name, reranker in self.rerankers:
            try:
                score = reranker.rerank(batch)
                _check_finite({name: score})
                batch.score = score
            except Exception:
                self._skip(name, skipped)
        return skipped

    def predict(self, feedback: Feedback) -> dict[str, Floats]:
        """What each retriever and the ranker say of rows that nobody has learned from yet, by name; fills ``score``."""
        said = {}
        for name, retriever in self.retrievers:
            retriever.score(feedback)
            said[name] = feedback.score.copy()
        feedback.uncertainty = None
        self.score(feedback)
        said[self.ranker_name] = feedback.score.copy()
        return said

    def observe(self, batch: Batch) -> None:
        """Let every learner see rows that were shown, before their outcome is known."""
        for _, learner in self.learners():
            learner.observe(batch)

    def learn(self, feedback: Feedback) -> None:
        """Let every learner learn, in config order, from rows that have been scored; then remember them in the history."""
        for _, learner in self.learners():
            learner.learn(feedback)
        acted = feedback.touched
        self.history.append(
            feedback.user[feedback.request[acted]],
            feedback.item[acted],
            feedback.timestamp[feedback.request[acted]],
            feedback.reward[acted] > 0,
        )
        self.version += 1

    def learners(self) -> Iterator[tuple[str, Retriever | Ranker | Adapter | Reranker]]:
        """All learners by name, in the order in which they learn."""
        yield from self.retrievers
        yield self.ranker_name, self.ranker
        yield from self.adapters
        yield from self.rerankers

    def apply(self, event: Event) -> None:
        """Take an update of the catalogues to heart; other events pass without effect."""
        if isinstance(event, ItemUpdate):
            key = hash_id(event.item)
            if event.deleted:
                self.items.ensure(np.array([key]), [event.item])
                self.items.delete(key)
                for _, learner in self.learners():
                    learner.remove(np.array([key]))
            else:
                self.items.put(key, event.item, event.attributes, *self.featurizer.encode_item(event.attributes))
        elif isinstance(event, UserUpdate):
            key = hash_id(event.user)
            if event.deleted:
                self.users.forget(key)
            else:
                self.users.put(key, event.user, event.attributes, *self.featurizer.encode_user(event.attributes))
        elif isinstance(event, Forget):
            key = hash_id(event.user)
            self.users.forget(key)
            self.history.forget(np.array([key]))
            for _, learner in self.learners():
                learner.forget(np.array([key]))

    def requests(self, user: Ids, timestamp: Times, context: tuple[Ids, Floats]) -> Requests:
        """Who asks, with the history as of now; `context` as the featurizer encoded it."""
        return Requests(
            user=user,
            timestamp=timestamp,
            history=self.history.recent(user, self.recent),
            context=context[0],
            context_values=context[1],
        )

    def _ask(self, request: RankRequest | RecommendRequest) -> _Asked:
        if request.by is not None and request.by not in self.retrievers.named:
            raise Refused("by", f"{request.by!r} is no retriever here; there are {sorted(self.retrievers.named)}")
        return _Asked(request, request.request_id or uuid.uuid4().hex)

    def _requests(self, asked: Sequence[_Asked]) -> Requests:
        user = hash_ids([one.request.user for one in asked])
        context = self.featurizer.encode_context([one.request.context for one in asked])
        return self.requests(user, np.full(user.size, time.time()), context)

    def _find(self, who: Requests, asked: Sequence[_Asked]) -> Candidates:
        """Candidates of each request: the given ones, or what the retrievers find minus excluded and seen ones; all alive."""
        retrieved = self._retrieve(who, asked)
        item, request, uncertainty = [], [], []
        for n, one in enumerate(asked):
            if isinstance(one.request, RankRequest):
                keys = hash_ids(one.request.items)
                one.names = dict(zip(keys.tolist(), one.request.items, strict=True))
                keys, errors = np.fromiter(one.names, np.int64, len(one.names)), None
            else:
                keys, errors = retrieved[n]
            alive = self.items.alive(keys)
            if isinstance(one.request, RecommendRequest):
                alive &= self.items.find(keys) >= 0  # what the catalogue has let go has no name any more
            item.append(keys[alive])
            request.append(np.full(item[-1].size, n))
            uncertainty.append(np.full(keys.size, np.nan, np.float32)[alive] if errors is None else errors[alive])
        bounds = np.concatenate(uncertainty)
        known = bounds.size > 0 and not np.isnan(bounds).any()
        return Candidates(
            np.concatenate(item), np.concatenate(request), np.zeros(bounds.size, np.float32), bounds if known else None
        )

    def _retrieve(self, who: Requests, asked: Sequence[_Asked]) -> dict[int, tuple[Ids, Floats | None]]:
        """Distinct items found for each recommend request, by the retrievers in turn."""
        wanted = [n for n, one in enumerate(asked) if isinstance(one.request, RecommendRequest)]
        if not wanted:
            return {}
        seen, start = self.history.seen(who.user)
        parts = []
        for n in wanted:
            request = asked[n].request
            assert isinstance(request, RecommendRequest)
            parts.append(
                hash_ids(request.exclude)
                if request.repeat
                else np.append(hash_ids(request.exclude), seen[start[n] : start[n + 1]])
            )
        exclude = Exclusion(np.concatenate(parts), np.cumsum([0, *(part.size for part in parts)]))
        some = _select(who, np.array(wanted))
        most = max(request.candidates for one in asked if isinstance(request := one.request, RecommendRequest))
        found: dict[int, list[tuple[Ids, Floats | None]]] = {n: [] for n in wanted}
        for name, retriever in self.retrievers:
            candidates = retriever.retrieve(some, most, exclude)
            ends = np.searchsorted(candidates.request, np.arange(len(wanted) + 1))
            for at, n in enumerate(wanted):
                request = asked[n].request
                assert isinstance(request, RecommendRequest)
                if request.by in (None, name):
                    rows = slice(ends[at], min(ends[at] + request.candidates, ends[at + 1]))
                    errors = candidates.uncertainty
                    found[n].append((candidates.item[rows], None if errors is None else errors[rows]))
        return {
            n: self._fill_up(asked[n].request, *_distinct(parts), exclude.item[exclude.start[at] : exclude.start[at + 1]])
            for at, (n, parts) in enumerate(found.items())
        }

    def _fill_up(
        self, request: RankRequest | RecommendRequest, found: Ids, errors: Floats | None, exclude: Ids
    ) -> tuple[Ids, Floats | None]:
        """Where the retrievers know too little, give items of the catalogue that were touched last a chance: the new ones."""
        assert isinstance(request, RecommendRequest)
        missing = request.candidates - found.size
        if missing <= 0:
            return found, errors
        newest = self.items.newest(request.candidates + exclude.size)
        added = newest[~np.isin(newest, np.concatenate((found, exclude)))][:missing]
        return np.append(found, added), None if added.size else errors

    def _order(
        self, n: int, one: _Asked, batch: Batch, found: Candidates, skipped: list[str]
    ) -> tuple[RankingResponse, Impression | None]:
        """Select the places of request `n`, and say what was shown and why."""
        request = one.request
        rows = slice(*np.searchsorted(batch.request, [n, n + 1]).tolist())
        part = _rows(batch, rows, n)
        base = part.score.copy()
        if request.by is not None:
            self.retrievers.named[request.by].score(part)
        rng = np.random.default_rng(hash_id(one.request_id) & (2**63 - 1) if request.seed is None else request.seed)
        k = part.rows if request.n is None else request.n
        ranking = self.policy.select(part.score, part.uncertainty, k, rng)
        source = request.by or self.ranker_name
        reasons = self._reasons(part, base, ranking.rows) if request.explain else [None] * ranking.rows.size
        shown = [self._name(one, key) for key in part.item[ranking.rows].tolist()]
        score, propensity = part.score[ranking.rows].tolist(), ranking.propensities.tolist()
        bound = [None] * len(shown) if part.uncertainty is None else part.uncertainty[ranking.rows].tolist()
        items = [
            RankedItem(item=i, score=s, propensity=p, uncertainty=u, reasons=r)
            for i, s, p, u, r in zip(shown, score, propensity, bound, reasons, strict=True)
        ]
        response = RankingResponse(
            request_id=one.request_id,
            version=self.version,
            source=source,
            policy=self.policy_name,
            items=items,
            skipped=skipped,
        )
        if not request.log or not shown:
            return response, None
        packed = pack_rows(self.featurizer.schema, part.features[ranking.rows], part.values[ranking.rows])
        return response, Impression(
            request_id=one.request_id,
            user=request.user,
            items=tuple(shown),
            features=packed,
            scores=tuple(score),
            propensities=tuple(propensity),
            source=source,
            version=self.version,
            context=request.context,
            timestamp=float(batch.timestamp[n]),
        )

    def _reasons(self, part: Batch, base: Floats, rows: Ids) -> list[Reasons | None]:
        chosen = Batch(
            **{name: getattr(part, name) for name in ("user", "timestamp", "history", "context", "context_values")},
            item=part.item[rows],
            request=part.request[rows],
            features=part.features[rows],
            values=part.values[rows],
        )
        by_retriever = {}
        for name, retriever in self.retrievers:
            retriever.score(chosen)
            by_retriever[name] = chosen.score.copy()
        told = self.ranker.explain(chosen)
        reasons: list[Reasons | None] = []
        for row in range(rows.size):
            contributions: dict[str, float] = {}
            if told is not None:
                for column, name in enumerate(self.featurizer.names):
                    if chosen.values[row, column]:
                        contributions[name] = contributions.get(name, 0.0) + float(told[row, column])
            scores = {name: float(score[row]) for name, score in by_retriever.items()}
            reasons.append(Reasons(retrievers=scores, base=float(base[rows[row]]), contributions=contributions))
        return reasons

    def _name(self, one: _Asked, key: int) -> str:
        name = one.names.get(key) or self.items.name(key)
        assert name is not None, "a retriever returned an item that no event ever named"
        return name

    def _skip(self, name: str, skipped: list[str]) -> None:
        self.skipped[name] += 1
        skipped.append(name)


def _check_finite(arrays: WeightDelta) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(f"{name}: not finite")


def _distinct(parts: Sequence[tuple[Ids, Floats | None]]) -> tuple[Ids, Floats | None]:
    """Items of several retrievers without repetition, first come first; uncertainty only where one retriever knows it."""
    if len(parts) == 1:
        return parts[0]
    items = np.concatenate([item for item, _ in parts])
    _, first = np.unique(items, return_index=True)
    first.sort()
    return items[first], None


def _select(requests: Requests, chosen: Ids) -> Requests:
    return Requests(
        user=requests.user[chosen],
        timestamp=requests.timestamp[chosen],
        history=requests.history[chosen],
        context=requests.context[chosen],
        context_values=requests.context_values[chosen],
    )


def _rows(batch: Batch, rows: slice, request: int) -> Batch:
    """The rows of one request, as a batch of its own."""
    one = slice(request, request + 1)
    return Batch(
        user=batch.user[one],
        timestamp=batch.timestamp[one],
        history=batch.history[one],
        context=batch.context[one],
        context_values=batch.context_values[one],
        item=batch.item[rows],
        request=np.zeros(rows.stop - rows.start, np.int64),
        features=batch.features[rows],
        values=batch.values[rows],
        score=batch.score[rows].copy(),
        uncertainty=None if batch.uncertainty is None else batch.uncertainty[rows],
        hidden=None if batch.hidden is None else batch.hidden[rows],
    )
