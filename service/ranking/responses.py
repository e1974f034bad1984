"""From scored rows to what a client gets, and to the impression that the log keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from learners.base import Neighbours, Policy, Ranker, Reranker
from learners.features import Featurizer, hash_id
from memory.keyed.catalog import Catalog
from service.ranking.candidates import RequestContext
from service.ranking.requests import Neighbour, RankedItem, RankingResponse, Reasons
from streams.batch import Batch, Floats, Ids, pack_history, pack_rows
from streams.events import Impression

__all__ = ["ResponseBuilder"]

NEIGHBOURS = 5
"""Neighbours told of each item: those with the greatest weight."""


class ResponseBuilder:
    """Lets the policy choose, and says what was chosen and why.

    Parameters
    ----------
    featurizer : Featurizer
    items : Catalog
    retrievers : sequence of str
        Their names, in the order of the columns of ``retrieval``.
    ranker : (str, Ranker)
    rerankers : mapping of name to Reranker
    policy : (str, Policy)
    """

    def __init__(
        self,
        featurizer: Featurizer,
        items: Catalog,
        retrievers: Sequence[str],
        ranker: tuple[str, Ranker],
        rerankers: Mapping[str, Reranker],
        policy: tuple[str, Policy],
    ) -> None:
        self._featurizer, self._items, self._retrievers, self._rerankers = featurizer, items, list(retrievers), rerankers
        self._ranker_name, self._ranker = ranker
        self._policy_name, self._policy = policy

    def answer(
        self, n: int, one: RequestContext, batch: Batch, version: int, lag: float | None, skipped: list[str]
    ) -> tuple[RankingResponse, Impression | None]:
        """Fill the places of request `n` of a scored batch; the impression is None when there is nothing to log."""
        request = one.request
        part = _rows_of(batch, n)
        if request.by is not None:
            part.score = self._retrieved(part, request.by)
        rng = np.random.default_rng(hash_id(one.request_id) & (2**63 - 1) if request.seed is None else request.seed)
        ranking = self._policy.select(part.score, part.uncertainty, part.rows if request.n is None else request.n, rng)
        chosen = part.part(ranking.rows)
        shown = [self._name(one, key) for key in chosen.item.tolist()]
        nothing = [None] * len(shown)
        items = [
            RankedItem(item=item, score=score, propensity=propensity, uncertainty=uncertainty, reasons=reasons)
            for item, score, propensity, uncertainty, reasons in zip(
                shown,
                chosen.score.tolist(),
                ranking.propensities.tolist(),
                nothing if chosen.uncertainty is None else _or_none(chosen.uncertainty),
                self._reasons(chosen) if request.explain else nothing,
                strict=True,
            )
        ]
        response = RankingResponse(
            request_id=one.request_id,
            version=version,
            lag=lag,
            source=request.by or self._ranker_name,
            policy=self._policy_name,
            items=items,
            skipped=skipped,
        )
        if not (request.log and shown):
            return response, None
        return response, self._impression(one, chosen, np.delete(part.item, ranking.rows), response)

    def _retrieved(self, part: Batch, name: str) -> Floats:
        """Scores of one retriever, (N,) float32; raises FloatingPointError where it failed."""
        score = _retrieval(part)[:, self._retrievers.index(name)].copy()
        if np.isnan(score).any():
            raise FloatingPointError(f"{name}: it has no score for the candidates; see the metric of skipped stages")
        return score

    def _impression(self, one: RequestContext, chosen: Batch, unshown: Ids, response: RankingResponse) -> Impression:
        return Impression(
            request_id=response.request_id,
            user=one.request.user,
            items=tuple([ranked.item for ranked in response.items]),
            features=pack_rows(self._featurizer.schema, chosen.features, chosen.values),
            scores=tuple([ranked.score for ranked in response.items]),
            propensities=tuple([ranked.propensity for ranked in response.items]),
            unshown=unshown.astype("<i8").tobytes(),
            source=response.source,
            version=response.version,
            context=one.request.context,
            history=pack_history(chosen.history[0], chosen.history_time[0], chosen.history_kind[0]),
            carried={name: told[0] for name, told in chosen.carried.items()},
            base=b"" if one.request.by or not self._rerankers else _base(chosen).astype("<f4").tobytes(),
            timestamp=float(chosen.timestamp[0]),
        )

    def _reasons(self, chosen: Batch) -> list[Reasons]:
        told = self._ranker.explain(chosen)
        retrieved = _retrieval(chosen)
        found = [reranker.explain(chosen) for reranker in self._rerankers.values()]
        base = _base(chosen)
        reasons = []
        for row in range(chosen.rows):
            contributions: dict[str, float] = {}
            if told is not None:
                for column, name in enumerate(self._featurizer.names):
                    if chosen.values[row, column]:
                        contributions[name] = contributions.get(name, 0.0) + float(told[row, column])
            scores = zip(self._retrievers, retrieved[row].tolist(), strict=True)
            reasons.append(
                Reasons(
                    retrievers={name: score for name, score in scores if not math.isnan(score)},
                    base=float(base[row]),
                    contributions=contributions,
                    neighbours=[one for of_all in found if of_all is not None for one in self._neighbours(of_all, row)],
                )
            )
        return reasons

    def _neighbours(self, found: Neighbours, row: int) -> list[Neighbour]:
        places = np.argsort(-found.weight[row], kind="stable")[:NEIGHBOURS]
        return [
            Neighbour(
                item=self._items.name(int(found.item[row, place])),
                label=float(found.label[row, place]),
                age=float(found.age[row, place]),
                similarity=float(found.similarity[row, place]),
                weight=float(found.weight[row, place]),
            )
            for place in places[found.weight[row, places] > 0].tolist()
        ]

    def _name(self, one: RequestContext, key: int) -> str:
        name = one.names.get(key) or self._items.name(key)
        assert name is not None, "candidates are given by name, or found in the catalogue"
        return name


def _base(chosen: Batch) -> Floats:
    assert chosen.base is not None, "rows that a policy chose from have been scored"
    return chosen.base


def _retrieval(part: Batch) -> Floats:
    assert part.retrieval is not None, "retrievers have been asked if a request wants their order, or its reasons"
    return part.retrieval


def _or_none(uncertainty: Floats) -> list[float | None]:
    """Uncertainties for a response; None where they are not known."""
    return [None if math.isnan(one) else one for one in uncertainty.tolist()]


def _rows_of(batch: Batch, n: int) -> Batch:
    """The rows of request `n`, as a batch of its own."""
    start, stop = np.searchsorted(batch.request, [n, n + 1])
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
        evidence=None if batch.evidence is None else batch.evidence[rows],
    )
