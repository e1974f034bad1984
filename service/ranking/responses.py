"""Turns scored rows into the response for the client and the impression for the log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from learners.base import Neighbours, Policy, Ranker, Reranker
from learners.features import hash_id
from memory.keyed.catalog import Catalog
from service.ranking.candidates import RequestContext
from service.ranking.feature_rows import FeatureRows
from service.ranking.requests import Neighbour, RankedItem, RankingResponse, Reasons
from streams.batch import Batch, Floats, Ids, pack_history
from streams.events import Impression

__all__ = ["ResponseBuilder"]

NEIGHBOURS = 5
"""Neighbours in the reasons of an item: those with the greatest weight."""


class ResponseBuilder:
    """Lets the policy select items, and builds the response with scores, propensities and reasons.

    Parameters
    ----------
    rows : FeatureRows
    items : Catalog
    retrievers : sequence of str
        Their names, in the order of the columns of ``retrieval``.
    ranker : (str, Ranker)
    rerankers : mapping of name to Reranker
    policy : (str, Policy)
    """

    def __init__(
        self,
        rows: FeatureRows,
        items: Catalog,
        retrievers: Sequence[str],
        ranker: tuple[str, Ranker],
        rerankers: Mapping[str, Reranker],
        policy: tuple[str, Policy],
    ) -> None:
        self._rows, self._items, self._retrievers, self._rerankers = rows, items, list(retrievers), rerankers
        self._ranker_name, self._ranker = ranker
        self._policy_name, self._policy = policy

    def build(
        self, n: int, context: RequestContext, batch: Batch, version: int, lag: float | None, skipped: list[str]
    ) -> tuple[RankingResponse, Impression | None]:
        """Build the response to request `n` of a scored batch; the impression is None when there is nothing to log."""
        request = context.request
        part = _rows_of(batch, n)
        if request.by is not None:
            part.score = self._retrieved(part, request.by)
        rng = np.random.default_rng(hash_id(context.request_id) & (2**63 - 1) if request.seed is None else request.seed)
        ranking = self._policy.select(part.score, part.uncertainty, part.rows if request.n is None else request.n, rng)
        shown = self._names(context, part.item[ranking.rows])
        # All columns of the rows, of which the answer alone needs few.
        chosen = part.take(ranking.rows) if request.explain or request.log else None
        nothing = [None] * len(shown)
        items = [
            RankedItem(item=item, score=score, propensity=propensity, uncertainty=uncertainty, reasons=reasons)
            for item, score, propensity, uncertainty, reasons in zip(
                shown,
                part.score[ranking.rows].tolist(),
                ranking.propensities.tolist(),
                nothing if part.uncertainty is None else _or_none(part.uncertainty[ranking.rows]),
                self._reasons(chosen) if chosen is not None and request.explain else nothing,
                strict=True,
            )
        ]
        response = RankingResponse(
            request_id=context.request_id,
            version=version,
            lag=lag,
            source=request.by or self._ranker_name,
            policy=self._policy_name,
            items=items,
            skipped=skipped + context.deleted,
            short=context.short,
        )
        if chosen is None or not (request.log and shown):
            return response, None
        return response, self._impression(context, chosen, np.delete(part.item, ranking.rows), response)

    def _retrieved(self, part: Batch, name: str) -> Floats:
        """Scores of one retriever, (N,) float32; raises FloatingPointError when it failed."""
        score = _retrieval(part)[:, self._retrievers.index(name)].copy()
        if np.isnan(score).any():
            raise FloatingPointError(f"{name}: no score for the candidates; see the metric of skipped stages")
        return score

    def _impression(self, context: RequestContext, chosen: Batch, unshown: Ids, response: RankingResponse) -> Impression:
        return Impression(
            request_id=response.request_id,
            user=context.request.user,
            items=tuple([ranked.item for ranked in response.items]),
            features=self._rows.pack(chosen),
            scores=tuple([ranked.score for ranked in response.items]),
            propensities=tuple([ranked.propensity for ranked in response.items]),
            unshown=unshown.astype("<i8").tobytes(),
            source=response.source,
            version=response.version,
            context=context.request.context,
            history=pack_history(chosen.history[0], chosen.history_time[0], chosen.history_kind[0]),
            carried={name: carried[0] for name, carried in chosen.carried.items()},
            base=b"" if context.request.by or not self._rerankers else _base(chosen).astype("<f4").tobytes(),
            timestamp=float(chosen.timestamp[0]),
        )

    def _reasons(self, chosen: Batch) -> list[Reasons]:
        parts = self._ranker.explain(chosen)
        retrieved = _retrieval(chosen)
        found = [reranker.explain(chosen) for reranker in self._rerankers.values()]
        values = {
            f"{name}.{value}": column.tolist()
            for name, reranker in self._rerankers.items()
            for value, column in reranker.values(chosen).items()
        }
        base = _base(chosen)
        reasons = []
        for row in range(chosen.rows):
            contributions: dict[str, float] = {}
            if parts is not None:
                for column, name in enumerate(self._rows.names):
                    if chosen.values[row, column]:
                        contributions[name] = contributions.get(name, 0.0) + float(parts[row, column])
            scores = zip(self._retrievers, retrieved[row].tolist(), strict=True)
            reasons.append(
                Reasons(
                    retrievers={name: score for name, score in scores if not math.isnan(score)},
                    base=float(base[row]),
                    contributions=contributions,
                    neighbours=[neighbour for some in found if some is not None for neighbour in self._neighbours(some, row)],
                    values={name: column[row] for name, column in values.items() if not math.isnan(column[row])},
                )
            )
        return reasons

    def _neighbours(self, found: Neighbours, row: int) -> list[Neighbour]:
        columns = np.argsort(-found.weight[row], kind="stable")[:NEIGHBOURS]
        return [
            Neighbour(
                item=self._items.name(int(found.item[row, column])),
                label=float(found.label[row, column]),
                age=float(found.age[row, column]),
                similarity=float(found.similarity[row, column]),
                weight=float(found.weight[row, column]),
            )
            for column in columns[found.weight[row, columns] > 0].tolist()
        ]

    def _names(self, context: RequestContext, items: Ids) -> list[str]:
        names = []
        for key, in_catalogue in zip(items.tolist(), self._items.names(items), strict=True):
            name = context.names.get(key) or in_catalogue
            assert name is not None, "a candidate is given by name or is in the catalogue"
            names.append(name)
        return names


def _base(chosen: Batch) -> Floats:
    assert chosen.base is not None, "rows are scored before the policy selects"
    return chosen.base


def _retrieval(part: Batch) -> Floats:
    assert part.retrieval is not None, "retrieval scores are filled in for requests with `by` or `explain`"
    return part.retrieval


def _or_none(uncertainty: Floats) -> list[float | None]:
    """Uncertainties for a response; None where they are not known."""
    return [None if math.isnan(value) else value for value in uncertainty.tolist()]


def _rows_of(batch: Batch, n: int) -> Batch:
    """The rows of request `n` as a separate batch; the batch itself where it has no other request."""
    if batch.user.size == 1:
        return batch
    start, stop = batch.request.searchsorted((n, n + 1)).tolist()
    rows = slice(start, stop)
    return Batch(
        **batch.columns(slice(n, n + 1)),
        item=batch.item[rows],
        request=np.zeros(stop - start, np.int64),
        features=batch.features[rows],
        values=batch.values[rows],
        score=batch.score[rows].copy(),
        base=None if batch.base is None else batch.base[rows],
        hidden=None if batch.hidden is None else batch.hidden[rows],
        uncertainty=None if batch.uncertainty is None else batch.uncertainty[rows],
        retrieval=None if batch.retrieval is None else batch.retrieval[rows],
        dense=None if batch.dense is None else batch.dense[rows],
        evidence=None if batch.evidence is None else batch.evidence[rows],
    )
