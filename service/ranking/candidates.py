"""From requests to the items that may answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from learners.base import Candidates, Exclusion, Retriever
from learners.features import hash_ids
from memory.keyed.catalog import Catalog
from memory.keyed.seen_items import SeenItems
from service.ranking.requests import RankRequest, RecommendRequest
from streams.batch import Floats, Ids, Requests

__all__ = ["CandidateGenerator", "RequestContext"]

_Found = tuple[Ids, Floats | None]
"""Items of one request, best first, and their uncertainty: NaN where it is not known, None where it is known of none."""


@dataclass(slots=True)
class RequestContext:
    """One request on its way, whichever route it came by; `names` are the ids that it brought along."""

    request: RankRequest | RecommendRequest
    request_id: str
    names: dict[int, str] = field(default_factory=dict)


class CandidateGenerator:
    """Finds candidates: the given ones, or what retrievers and the catalogue have to offer.

    Parameters
    ----------
    retrievers : mapping of name to Retriever
    items : Catalog
    seen : SeenItems
    """

    def __init__(self, retrievers: Mapping[str, Retriever], items: Catalog, seen: SeenItems) -> None:
        self._retrievers, self._items, self._seen = retrievers, items, seen

    def find(self, who: Requests, asked: Sequence[RequestContext]) -> Candidates:
        """Candidates of each request, all alive; uncertainty is NaN where no retriever that found the item knows it."""
        retrieved = self._retrieve(who, asked)
        found: list[_Found] = []
        for n, one in enumerate(asked):
            if isinstance(one.request, RankRequest):
                keys = hash_ids(one.request.items)
                one.names = dict(zip(keys.tolist(), one.request.items, strict=True))
                keys, errors = np.fromiter(one.names, np.int64, len(one.names)), None
                alive = self._items.alive(keys)
            else:
                keys, errors = retrieved[n]
                # What the catalogue has let go has no name any more.
                alive = self._items.alive(keys) & (self._items.find(keys) >= 0)
            found.append((keys[alive], None if errors is None else errors[alive]))
        sizes = [keys.size for keys, _ in found]
        return Candidates(
            np.concatenate([keys for keys, _ in found]),
            np.repeat(np.arange(len(asked)), sizes),
            np.zeros(sum(sizes), np.float32),
            _joined(found),
        )

    def _retrieve(self, who: Requests, asked: Sequence[RequestContext]) -> dict[int, _Found]:
        """What each recommend request gets: distinct items of the retrievers in turn, then the catalogue's newest."""
        wanted = [(n, one.request) for n, one in enumerate(asked) if isinstance(one.request, RecommendRequest)]
        if not wanted:
            return {}
        exclude = self._exclusion(who, wanted)
        some = Requests(**who.columns(np.array([n for n, _ in wanted])))
        most = max(request.candidates for _, request in wanted)
        found: list[list[_Found]] = [[] for _ in wanted]
        for name, retriever in self._retrievers.items():
            candidates = retriever.retrieve(some, most, exclude)
            ends = np.searchsorted(candidates.request, np.arange(len(wanted) + 1))
            for at, (_, request) in enumerate(wanted):
                if request.by in (None, name):
                    rows = slice(ends[at], min(ends[at] + request.candidates, ends[at + 1]))
                    errors = candidates.uncertainty
                    found[at].append((candidates.item[rows], None if errors is None else errors[rows]))
        return {
            n: self._fill_up(request, _distinct(found[at]), exclude.item[exclude.start[at] : exclude.start[at + 1]])
            for at, (n, request) in enumerate(wanted)
        }

    def _exclusion(self, who: Requests, wanted: Sequence[tuple[int, RecommendRequest]]) -> Exclusion:
        """Items that a request excludes, and those that its user has seen unless it wants them again."""
        seen, start = self._seen.of(who.user)
        parts = []
        for n, request in wanted:
            parts.append(hash_ids(request.exclude))
            if not request.repeat:
                parts[-1] = np.append(parts[-1], seen[start[n] : start[n + 1]])
        return Exclusion(np.concatenate(parts), np.cumsum([0, *(part.size for part in parts)]))

    def _fill_up(self, request: RecommendRequest, found: _Found, exclude: Ids) -> _Found:
        """Where the retrievers know too little, give items of the catalogue that were touched last a chance: the new ones."""
        keys, errors = found
        missing = request.candidates - keys.size
        if missing <= 0:
            return found
        newest = self._items.newest(request.candidates + exclude.size)
        added = newest[~np.isin(newest, np.concatenate((keys, exclude)))][:missing]
        if errors is not None:
            errors = np.append(errors, _unknown(added))
        return np.append(keys, added), errors


def _distinct(parts: Sequence[_Found]) -> _Found:
    """Items of several retrievers without repetition, first come first; the largest uncertainty of those that know it."""
    if not parts:
        return np.empty(0, np.int64), None
    if len(parts) == 1:
        return parts[0]
    items, errors = np.concatenate([item for item, _ in parts]), _joined(parts)
    if errors is None:
        _, first = np.unique(items, return_index=True)
        first.sort()
        return items[first], None
    _, first, number = np.unique(items, return_index=True, return_inverse=True)
    order, largest = np.argsort(first), _unknown(first)
    np.fmax.at(largest, number, errors)
    return items[first[order]], largest[order]


def _joined(parts: Sequence[_Found]) -> Floats | None:
    """Uncertainties one after the other; None if none is known."""
    if all(errors is None for _, errors in parts):
        return None
    return np.concatenate([_unknown(items) if errors is None else errors for items, errors in parts])


def _unknown(items: Ids) -> Floats:
    return np.full(items.size, np.nan, np.float32)
