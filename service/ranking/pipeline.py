"""Takes requests and batches of outcomes through the learners. Start reading at `Pipeline.rank`."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from learners.base import Adapter, Choices, Learner, Policy, Ranker, Reranker, Retriever, WeightDelta
from learners.delta import check_delta
from learners.features import Featurizer, hash_id, hash_ids, hash_kind
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.keyed.recent_likes import RecentLikes
from memory.keyed.seen_items import SeenItems
from memory.moments import Moments
from memory.stateful import Stateful
from service.ranking.candidates import CandidateGenerator, RequestContext
from service.ranking.evidence import EvidenceCollector
from service.ranking.feature_rows import DenseColumns, FeatureRows
from service.ranking.isolation import Isolation
from service.ranking.pending import PendingTouches
from service.ranking.requests import RankingResponse, RankRequest, RecommendRequest
from service.ranking.responses import ResponseBuilder
from service.ranking.stages import Stages
from service.ranking.uncertainty import fill_uncertainty
from service.ranking.updates import Updates
from service.tables.rows import Negatives
from streams.batch import Batch, Bools, Feedback, Floats, Ids, Requests, Times
from streams.events import Event, Impression

__all__ = ["Pipeline", "Refused"]

_RECENT_LIKES = 4096
"""Likes of which popular negatives are drawn."""


class Refused(ValueError):
    """A request that this pipeline cannot serve. The message names the field, the value and the remedy."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Pipeline(Stateful):
    """Retrievers, featurizer, adapters, one ranker, rerankers and a policy, with their shared catalogues.

    The learners have names and are bound already; see `service.process.runtime.build_pipeline`.

    Parameters
    ----------
    featurizer : Featurizer
    users, items : Catalog
        Their widths are the featurizer's numbers of user and item columns.
    history : History
    seen : SeenItems
    seen_kinds : sequence of str or None
        Kinds of interactions that put an item among those seen; None: all.
    dense : DenseColumns
    retrievers : mapping of name to Retriever
    negatives : Negatives
        The section of the config.
    ranker : (str, Ranker)
    adapters : mapping of name to Adapter
    rerankers : mapping of name to Reranker
    policy : (str, Policy)
    recent : int
        Maximum length of the history that the learners see.
    recommend : {"auto", "listed", "all"}
        Items that may be recommended; see `service.sections.Items`.

    Attributes
    ----------
    rows : FeatureRows
        Makes the feature rows.
    pending : PendingTouches
        Interactions that this process accepted in the last seconds; not part of the state.
    contexts : Moments
        Mean and variance that standardise the numbers of request contexts.
    version : int
        Number of micro-batches learned.
    as_of : float
        Unix seconds. All events that were appended to the log before this time have been processed; 0 when it is not known.
    observes : bool
        Whether any learner uses rows before their outcome is known; see `observe`.
    chooses : bool
        Whether any reranker learns from what users choose.
    isolation : Isolation
        Calls the learners with data from the log: a batch on which one of them fails does not stop the others.
    skipped : Counter
        Failures of optional stages by name: an adapter, a reranker, or a retriever that scores given rows raised or returned a
        number that is not finite. The stage is skipped.
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
        dense: DenseColumns,
        negatives: Negatives,
        retrievers: Mapping[str, Retriever],
        ranker: tuple[str, Ranker],
        adapters: Mapping[str, Adapter],
        rerankers: Mapping[str, Reranker],
        policy: tuple[str, Policy],
        recent: int,
        recommend: str = "auto",
    ) -> None:
        self.featurizer = featurizer
        self.users, self.items, self.history, self.seen = users, items, history, seen
        self._seen_kinds = None if seen_kinds is None else np.array([hash_kind(kind) for kind in seen_kinds], np.int32)
        self.contexts = Moments(featurizer.context_numbers)
        self.dense = dense
        self.negatives = negatives
        self.likes = RecentLikes(_RECENT_LIKES) if negatives.n and negatives.source == "popular" else None
        self.rows = FeatureRows(featurizer, users, items, dense, retrievers, self._skip)
        self.retrievers, self.adapters, self.rerankers = Stages(retrievers), Stages(adapters), Stages(rerankers)
        self.ranker_name, self.ranker = ranker
        self.policy_name, self.policy = policy
        self.recent = recent
        self.observes = any(type(learner).observe is not Learner.observe for _, learner in self.learners())
        self.pending = PendingTouches(seen_kinds)
        self.evidence = EvidenceCollector(retrievers, seen, self.rows, self.prepare, lambda name: self._skip(name, []))
        self._choosers = [(name, reranker) for name, reranker in rerankers.items() if reranker.needs_evidence]
        self.chooses = bool(self._choosers)
        self._touched = seen.of if retrievers else history.seen
        self._candidate_generator = CandidateGenerator(retrievers, items, self.pending, self._touched, recommend)
        self._response_builder = ResponseBuilder(self.rows, items, list(retrievers), ranker, rerankers, policy)
        stores = (history, seen, dense)
        self._updates = Updates(featurizer, users, items, self.contexts, stores, dense.remove, self._notify)
        self.version = 0
        self.as_of = 0.0
        self.isolation = Isolation()
        self.skipped: Counter[str] = Counter()

    @property
    def lag(self) -> float | None:
        """Seconds since `as_of`; None when `as_of` is not known."""
        return max(time.time() - self.as_of, 0.0) if self.as_of else None

    def rank(self, requests: Sequence[RankRequest | RecommendRequest]) -> list[tuple[RankingResponse, Impression | None]]:
        """Rank the items of all requests as one batch. Nothing here learns.

        Returns
        -------
        list of (RankingResponse, Impression or None)
            In the order of the requests. The impression is to be appended to the log; None when there is nothing to log.

        Raises
        ------
        Refused
            When this pipeline cannot serve one of the requests. Call again without that request.
        """
        contexts = [self._context(request) for request in requests]
        columns = self._columns(contexts)
        candidates = self._candidate_generator.generate(columns, contexts)
        batch = self.rows.batch(columns, candidates.request, candidates.item)
        batch.uncertainty = candidates.uncertainty
        retrieved = np.array([isinstance(one.request, RecommendRequest) for one in contexts], np.bool_)
        skipped = self.score(batch, retrieved)
        if any(request.by is not None or request.explain for request in requests):
            self.rows.retrieval(batch, skipped)
        by = [request.by for request in requests]
        fill_uncertainty(batch, by, self.retrievers.named, needed=self.policy.needs_uncertainty)
        return [
            self._response_builder.build(n, context, batch, self.version, self.lag, skipped)
            for n, context in enumerate(contexts)
        ]

    def score(self, batch: Batch, retrieved: Bools) -> list[str]:
        """Adapt, rank and rerank: fill ``batch.score``, ``base`` and ``hidden``. Return the names of skipped stages.

        Parameters
        ----------
        batch : Batch
        retrieved : (B,) bool
            Requests whose rows the retrievers found. Only these get ``evidence``: given items are the ranker's to order.
        """
        skipped: list[str] = []
        self._rank(batch, skipped)
        if self._choosers:
            self.evidence.fill(batch, retrieved)
        self._rerank(batch, skipped)
        return skipped

    def prepare(self, batch: Batch) -> None:
        """Let the ranker fill ``score``, ``base`` and ``hidden`` of rows that are not learned yet, as `learn` needs them.

        Learning does not depend on the scores of retrievers and rerankers (see `predict`). When the ranker fails, ``base``
        stays None.
        """
        batch.uncertainty = None
        if not self.isolation.run(self.ranker_name, "score", self._rank, batch, []):
            batch.base = batch.hidden = None

    def predict(self, batch: Batch, rows: Ids | None = None) -> dict[str, Floats]:
        """Return the predictions of each retriever, the ranker and each reranker, by name, for rows that are not learned yet.

        Parameters
        ----------
        batch : Batch
            Is prepared here; see `prepare`. There are no predictions for a batch that the ranker cannot score.
        rows : (n,) int64 or None
            Rows to predict; None: all. Without rows no learner is called. Retrievers that fail are left out and counted.
        """
        self.prepare(batch)
        if batch.base is None or (rows is not None and not rows.size):
            return {}
        part = batch if rows is None else batch.take(rows)
        predictions: dict[str, Floats] = {}
        if self.retrievers.named:
            columns = zip(self.retrievers.named, self.rows.retrieval(part, []).T.copy(), strict=True)
            predictions = {name: score for name, score in columns if not np.isnan(score).any()}
        return predictions | self._rerank(part, [])

    def observe(self, batch: Batch) -> None:
        """Show every learner the rows of impressions before their outcome is known."""
        for name, learner in self.learners():
            self.isolation.run(name, "observe", learner.observe, batch)

    def learn(self, feedback: Feedback, extended: Feedback | None = None, listed: Choices | None = None) -> None:
        """Let every learner learn from prepared rows, in config order; then add the rows to the user history.

        When the ranker could not score the rows (``base`` is None), only retrievers learn: the others need the score.

        Parameters
        ----------
        feedback : Feedback
        extended : Feedback or None
            The rows with negatives, prepared. All but retrievers learn these instead.
        listed : Choices or None
            Choices from lists that were shown; see `EvidenceCollector.listed`.
        """
        if listed is not None:
            self.prepare(listed.batch)
            self.evidence.fill(listed.batch, np.ones(listed.chosen.size, np.bool_))
        found = self.evidence.choices(feedback) if self._choosers else None
        for choices in (one for one in (found, listed) if one is not None):
            for name, reranker in self._choosers:
                self.isolation.run(name, "learn from the choices of", reranker.choose, choices)
        for name, learner in self.learners():
            rows = feedback if extended is None or isinstance(learner, Retriever) else extended
            if rows.base is not None or isinstance(learner, Retriever):
                self.isolation.run(name, "learn from", learner.learn, rows)
        self.dense.add(feedback)
        if self.likes is not None:
            self.likes.add(feedback.item[(feedback.reward > 0) & ~feedback.correction])
        acted: Ids | slice = slice(None)
        if feedback.rows > feedback.user.size or not feedback.kind.all():
            # Feedback keeps the rows of a ranking together; the history is in order of time.
            acted = np.flatnonzero(feedback.touched)
            acted = acted[np.argsort(feedback.outcome_time[acted], kind="stable")]
        self.history.append(
            feedback.user[feedback.request[acted]],
            feedback.item[acted],
            feedback.outcome_time[acted],
            feedback.kind[acted],
            feedback.reward[acted] > 0,
        )
        if self.retrievers.named:
            self._note_seen(feedback, acted)
        self.version += 1

    def _note_seen(self, feedback: Feedback, acted: Ids | slice) -> None:
        """Add the items of these rows to what is not recommended again. Without retrievers, the history has to do."""
        if self._seen_kinds is not None:
            acted = np.arange(feedback.rows)[acted]
            acted = acted[np.isin(feedback.kind[acted], self._seen_kinds)]
        self.seen.add(feedback.user[feedback.request[acted]], feedback.item[acted])

    @property
    def last_name(self) -> str:
        """Name of the learner whose scores reach the policy: the last reranker, or the ranker."""
        return next(reversed(self.rerankers.named), self.ranker_name)

    def learners(self) -> Iterator[tuple[str, Retriever | Ranker | Adapter | Reranker]]:
        """Yield all learners with their names, in the order in which they learn."""
        yield from self.retrievers
        yield self.ranker_name, self.ranker
        yield from self.adapters
        yield from self.rerankers

    def apply(self, event: Event) -> None:
        """Update the catalogues and the moments of context numbers; see `service.ranking.updates`."""
        self._updates.apply(event)

    def _notify(self, doing: str, call: Callable[[Learner], None]) -> None:
        for name, learner in self.learners():
            self.isolation.run(name, doing, call, learner)

    def is_behind(self, user: str) -> bool:
        """Whether the last interaction of a user that this process has accepted is not learned yet."""
        key = hash_id(user)
        # The last one alone: a history is short, so earlier ones may have left it. They are learned in order.
        last = self.pending.of(key)[-1:]
        return bool(last.size) and not np.isin(last, self._touched(np.array([key]))[0]).all()

    def requests(self, user: Ids, timestamp: Times, context: tuple[Ids, Floats]) -> Requests:
        """Return the request columns of these users, with their current history.

        Parameters
        ----------
        user : (B,) int64
        timestamp : (B,) float64
        context : (keys, values)
            From `Featurizer.encode_context`; the numbers among the values are standardised in place.
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
        """Return what each learner wants back when it learns from these requests, by name; see `Learner.carry`."""
        by_name = ((name, learner.carry(requests)) for name, learner in self.learners())
        return {name: carried for name, carried in by_name if carried is not None}

    def _context(self, request: RankRequest | RecommendRequest) -> RequestContext:
        if request.by is not None and request.by not in self.retrievers.named:
            raise Refused("by", f"{request.by!r} is not a configured retriever; use one of {sorted(self.retrievers.named)}")
        return RequestContext(request, request.request_id or uuid.uuid4().hex)

    def _columns(self, contexts: Sequence[RequestContext]) -> Requests:
        user = hash_ids([each.request.user for each in contexts])
        context = self.featurizer.encode_context([each.request.context for each in contexts])
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
            # The deltas may be the cause. If they are not, the ranker fails again.
            self._score(batch, None)
            for name in deltas:
                self._skip(name, skipped)
        batch.base = batch.score.copy()

    def _adapt(self, batch: Batch, skipped: list[str]) -> dict[str, WeightDelta]:
        """Parameter changes by adapter name, without adapters that fail or change nothing."""
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
        """Let rerankers replace the ranker's ``score``; return the scores of the ranker and of each reranker by name."""
        predictions = {self.ranker_name: batch.score.copy()}
        for name, reranker in self.rerankers:
            try:
                score = reranker.rerank(batch)
                if not np.isfinite(score).all():
                    raise FloatingPointError(f"{name}: a score is not finite")
                batch.score = score
            except Exception:
                self._skip(name, skipped)
            predictions[name] = batch.score.copy()
        return predictions

    def _skip(self, name: str, skipped: list[str]) -> None:
        self.skipped[name] += 1
        skipped.append(name)
