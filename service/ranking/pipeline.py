"""The walk of a request and of a batch of outcomes through the learners. `Pipeline.rank` is the table of contents."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeGuard, TypeVar

import numpy as np

from learners.base import Adapter, Learner, Policy, Ranker, Reranker, Retriever, WeightDelta
from learners.delta import check_delta
from learners.features import Featurizer, hash_id, hash_ids, hash_kind
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.keyed.seen_items import SeenItems
from memory.moments import Moments
from memory.stateful import Stateful
from service.ranking.candidates import CandidateGenerator, RequestContext
from service.ranking.isolation import Isolation
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from service.ranking.responses import ResponseBuilder
from service.ranking.uncertainty import fill_uncertainty
from streams.batch import Batch, Feedback, Floats, Ids, Requests, Times
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, UserUpdate

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
        """The learners; a dot in a name (of a module) would take it for two."""
        for name, stage in self.named.items():
            yield name.replace(".", "/"), stage

    def __iter__(self) -> Iterator[tuple[str, _Stage]]:
        return iter(self.named.items())


class Pipeline(Stateful):
    """Retrievers, featurizer, adapters, one ranker, rerankers and a policy, with the catalogues that they share.

    The learners come named and bound; see `service.process.runtime.build_pipeline`.

    Parameters
    ----------
    featurizer : Featurizer
    users, items : Catalog
        As wide as the featurizer's columns of users and items.
    history : History
    seen : SeenItems
        What is not recommended to a user again.
    seen_kinds : sequence of str or None
        Kinds of interactions that put an item there; None: all.
    retrievers : mapping of name to Retriever
    ranker : (str, Ranker)
    adapters : mapping of name to Adapter
    rerankers : mapping of name to Reranker
    policy : (str, Policy)
    recent : int
        Length of the history that the learners see.

    Attributes
    ----------
    contexts : Moments
        What the numbers of contexts are standardised by.
    version : int
        Micro-batches learned.
    as_of : float
        Unix seconds: what was appended to the log before has been learned, or is no longer to be; 0 when that is not known.
    observes : bool
        Whether a learner learns from rows before their outcome is known; see `observe`.
    isolation : Isolation
        Runs the learners where they follow the log: batches that one of them cannot take do not stop the others.
    skipped : Counter
        Failures of stages that are done without, by name: an adapter or a reranker, or a retriever asked for scores of given
        rows, that raised or returned a number that is not finite.
    """

    def __init__(
        self,
        *,
        featurizer: Featurizer,
        users: Catalog,
        items: Catalog,
        history: History,
        seen: SeenItems,
        seen_kinds: Sequence[str] | None,
        retrievers: Mapping[str, Retriever],
        ranker: tuple[str, Ranker],
        adapters: Mapping[str, Adapter],
        rerankers: Mapping[str, Reranker],
        policy: tuple[str, Policy],
        recent: int,
    ) -> None:
        self.featurizer = featurizer
        self.users, self.items, self.history, self.seen = users, items, history, seen
        self._seen_kinds = None if seen_kinds is None else np.array([hash_kind(kind) for kind in seen_kinds], np.int32)
        self.contexts = Moments(featurizer.context_numbers)
        self.retrievers, self.adapters, self.rerankers = Stages(retrievers), Stages(adapters), Stages(rerankers)
        self.ranker_name, self.ranker = ranker
        self.policy_name, self.policy = policy
        self.recent = recent
        self.observes = any(type(learner).observe is not Learner.observe for _, learner in self.learners())
        self._candidate_generator = CandidateGenerator(retrievers, items, seen)
        self._response_builder = ResponseBuilder(featurizer, items, list(retrievers), ranker, rerankers, policy)
        self.version = 0
        self.as_of = 0.0
        self.isolation = Isolation()
        self.skipped: Counter[str] = Counter()

    @property
    def lag(self) -> float | None:
        """Seconds since `as_of`; None when that is not known."""
        return max(time.time() - self.as_of, 0.0) if self.as_of else None

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
        found = self._candidate_generator.find(who, asked)
        batch = self.featurizer.batch(who, found.request, found.item, self.users, self.items)
        batch.uncertainty = found.uncertainty
        skipped = self.score(batch)
        if any(one.request.by is not None or one.request.explain for one in asked):
            self.retrieval(batch, skipped)
        by = [one.request.by for one in asked]
        fill_uncertainty(batch, by, self.retrievers.named, needed=self.policy.needs_uncertainty)
        return [self._response_builder.answer(n, one, batch, self.version, self.lag, skipped) for n, one in enumerate(asked)]

    def score(self, batch: Batch) -> list[str]:
        """Adapt, rank and rerank: fill ``batch.score``, ``base`` and ``hidden``. Return the names of skipped stages."""
        skipped: list[str] = []
        self._rank(batch, skipped)
        self._rerank(batch, skipped)
        return skipped

    def retrieval(self, batch: Batch, skipped: list[str]) -> Floats:
        """What each retriever says of each row: fill ``batch.retrieval``, (N, R) float32, unless that has been done.

        A retriever that fails has NaN in its column, is counted, and its name is put into `skipped`. Few need these scores, and
        they cost up to as much as the rest of a request, so whoever needs them asks here.
        """
        if batch.retrieval is None:
            batch.retrieval = np.full((batch.rows, len(self.retrievers.named)), np.nan, np.float32)
            for column, (name, retriever) in enumerate(self.retrievers):
                try:
                    score = retriever.score(batch)
                    if not np.isfinite(score).all():
                        raise FloatingPointError(f"{name}: a score is not finite")
                    batch.retrieval[:, column] = score
                except Exception:
                    self._skip(name, skipped)
        return batch.retrieval

    def prepare(self, batch: Batch) -> None:
        """Let the ranker fill ``score``, ``base`` and ``hidden`` of rows that nobody has learned from yet: what learning needs.

        What retrievers and rerankers say of the rows (see `predict`) makes no difference to what is learned from them. Where
        the ranker fails, ``base`` stays None.
        """
        batch.uncertainty = None
        if not self.isolation.run(self.ranker_name, "score", self._rank, batch, []):
            batch.base = batch.hidden = None

    def predict(self, batch: Batch, rows: Ids | None = None) -> dict[str, Floats]:
        """What each retriever, the ranker and each reranker say of rows that nobody has learned from yet, by name.

        Parameters
        ----------
        batch : Batch
            Prepared on the way; see `prepare`. Of rows that the ranker cannot score nobody says anything.
        rows : (n,) int64 or None
            The rows in question; None: all. Of none, nobody is asked. Retrievers that fail are left out, and counted.
        """
        self.prepare(batch)
        if batch.base is None or (rows is not None and not rows.size):
            return {}
        part = batch if rows is None else batch.part(rows)
        columns = zip(self.retrievers.named, self.retrieval(part, []).T.copy(), strict=True)
        said = {name: score for name, score in columns if not np.isnan(score).any()}
        return said | self._rerank(part, [])

    def observe(self, batch: Batch) -> None:
        """Let every learner see rows that were shown, before their outcome is known."""
        for name, learner in self.learners():
            self.isolation.run(name, "observe", learner.observe, batch)

    def learn(self, feedback: Feedback) -> None:
        """Let every learner learn, in config order, from rows that have been prepared; then remember them in the history.

        From rows that the ranker could not score (``base`` is None) only retrievers learn: the others need the score.
        """
        for name, learner in self.learners():
            if feedback.base is not None or isinstance(learner, Retriever):
                self.isolation.run(name, "learn from", learner.learn, feedback)
        acted: Ids | slice = slice(None)
        if feedback.rows > feedback.user.size or not feedback.kind.all():
            # Rows of a ranking stand together; in the history they stand in order of time.
            acted = np.flatnonzero(feedback.touched)
            acted = acted[np.argsort(feedback.outcome_time[acted], kind="stable")]
        self.history.append(
            feedback.user[feedback.request[acted]],
            feedback.item[acted],
            feedback.outcome_time[acted],
            feedback.kind[acted],
            feedback.reward[acted] > 0,
        )
        if self._seen_kinds is not None:
            acted = np.arange(feedback.rows)[acted]
            acted = acted[np.isin(feedback.kind[acted], self._seen_kinds)]
        self.seen.add(feedback.user[feedback.request[acted]], feedback.item[acted])
        self.version += 1

    @property
    def last_name(self) -> str:
        """Name of the learner whose scores reach the policy: the last reranker, or the ranker."""
        return next(reversed(self.rerankers.named), self.ranker_name)

    def learners(self) -> Iterator[tuple[str, Retriever | Ranker | Adapter | Reranker]]:
        """All learners by name, in the order in which they learn."""
        yield from self.retrievers
        yield self.ranker_name, self.ranker
        yield from self.adapters
        yield from self.rerankers

    def apply(self, event: Event) -> None:
        """Take an update of the catalogues, and the numbers of a context, to heart; other events pass without effect."""
        if isinstance(event, ItemUpdate):
            key = hash_id(event.item)
            if event.deleted:
                self.items.ensure(np.array([key]), [event.item])
                self.items.delete(key)
                self._tell("remove", lambda learner: learner.remove(np.array([key])))
            else:
                self.items.put(key, event.item, event.attributes, *self.featurizer.encode_item(event.attributes))
                self._tell("add", lambda learner: learner.add(np.array([key])))
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
            self.seen.forget(np.array([key]))
            self._tell("forget", lambda learner: learner.forget(np.array([key])))
        elif self.contexts.columns.size and _has_context(event):
            self.contexts.add(*self.featurizer.encode_context([event.context]))

    def requests(self, user: Ids, timestamp: Times, context: tuple[Ids, Floats]) -> Requests:
        """Who asks, with the history as of now.

        Parameters
        ----------
        user : (B,) int64
        timestamp : (B,) float64
        context : (keys, values)
            As the featurizer encoded it; the numbers among the values are standardised in place.
        """
        self.contexts.standardize(*context)
        item, time_, kind = self.history.recent(user, self.recent)
        return Requests(
            user=user,
            timestamp=timestamp,
            history=item,
            history_time=time_,
            history_kind=kind,
            context=context[0],
            context_values=context[1],
        )

    def carry(self, requests: Requests) -> dict[str, list[bytes]]:
        """What learners want back when they learn from these requests, by name; see `Learner.carry`."""
        told = ((name, learner.carry(requests)) for name, learner in self.learners())
        return {name: carried for name, carried in told if carried is not None}

    def _tell(self, doing: str, tell: Callable[[Learner], None]) -> None:
        for name, learner in self.learners():
            self.isolation.run(name, doing, tell, learner)

    def _ask(self, request: RankRequest | RecommendRequest) -> RequestContext:
        if request.by is not None and request.by not in self.retrievers.named:
            raise Refused("by", f"{request.by!r} is no retriever here; there are {sorted(self.retrievers.named)}")
        return RequestContext(request, request.request_id or uuid.uuid4().hex)

    def _requests(self, asked: Sequence[RequestContext]) -> Requests:
        user = hash_ids([one.request.user for one in asked])
        context = self.featurizer.encode_context([one.request.context for one in asked])
        requests = self.requests(user, np.full(user.size, time.time()), context)
        requests.carried = self.carry(requests)
        return requests

    def _rank(self, batch: Batch, skipped: list[str]) -> None:
        """Adapt and rank: fill ``score``, ``base`` and ``hidden``."""
        deltas = self._adapt(batch, skipped)
        try:
            self._score(batch, {parameter: change for delta in deltas.values() for parameter, change in delta.items()} or None)
        except Exception:
            if not deltas:
                raise
            # The deltas may be to blame. Where they are not, the ranker fails again.
            self._score(batch, None)
            for name in deltas:
                self._skip(name, skipped)
        batch.base = batch.score.copy()

    def _adapt(self, batch: Batch, skipped: list[str]) -> dict[str, WeightDelta]:
        """Changes of the ranker's parameters by the adapter's name: of those that have any, and that did not fail."""
        deltas: dict[str, WeightDelta] = {}
        for name, adapter in self.adapters:
            try:
                delta = adapter.adapt(batch)
                check_delta(delta, adapter.changes, self.ranker.adaptable(), batch.user.size)
            except Exception:
                self._skip(name, skipped)
                continue
            if delta:
                deltas[name] = delta
        return deltas

    def _score(self, batch: Batch, delta: WeightDelta | None) -> None:
        self.ranker.score(batch, delta)
        if not np.isfinite(batch.score).all():
            raise FloatingPointError(f"{self.ranker_name}: a score is not finite")

    def _rerank(self, batch: Batch, skipped: list[str]) -> dict[str, Floats]:
        """Let rerankers replace the ranker's ``score``; what the ranker and each of them say, by name."""
        said = {self.ranker_name: batch.score.copy()}
        for name, reranker in self.rerankers:
            try:
                score = reranker.rerank(batch)
                if not np.isfinite(score).all():
                    raise FloatingPointError(f"{name}: a score is not finite")
                batch.score = score
            except Exception:
                self._skip(name, skipped)
            said[name] = batch.score.copy()
        return said

    def _skip(self, name: str, skipped: list[str]) -> None:
        self.skipped[name] += 1
        skipped.append(name)


def _has_context(event: Event) -> TypeGuard[Impression | Interaction]:
    """Whether an event has a context of its own; an interaction with a ranking has that of the ranking."""
    return isinstance(event, Impression) or (isinstance(event, Interaction) and event.request_id is None)
