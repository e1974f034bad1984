"""Finds the candidate items of each request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET, UnsetType

from learners.base import Candidates, Exclusion, Retriever
from learners.features import hash_ids
from memory.jit import njit
from memory.keyed.catalog import Catalog
from service.ranking.pending import PendingTouches
from service.ranking.requests import RankRequest, RecommendRequest
from streams.batch import Floats, Ids, Requests

__all__ = ["CandidateGenerator", "RequestContext"]

Touched = Callable[[Ids], tuple[Ids, Ids]]

_Found = tuple[Ids, Floats | None]
"""Items of one request, best first, and their uncertainty: NaN for an item without one, None if no item has one."""


@dataclass(slots=True)
class RequestContext:
    """One request, of either route.

    Attributes
    ----------
    request : RankRequest or RecommendRequest
    request_id : str
    names : dict of int to str
        The item ids that it gave, by hash.
    deleted : list of str
        The deleted ones of them.
    short : str or UnsetType
        Why there are fewer candidates than items asked for.
    """

    request: RankRequest | RecommendRequest
    request_id: str
    names: dict[int, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    short: str | UnsetType = UNSET


class CandidateGenerator:
    """Finds candidates: the items that a request gives, or those that the retrievers and the catalogue find.

    Parameters
    ----------
    retrievers : mapping of name to Retriever
    items : Catalog
    pending : PendingTouches
        What users have touched in this moment.
    touched : callable
        Items that users (B,) have touched: items (M,) and start (B + 1,), as `memory.keyed.seen_items.SeenItems.of`.
    recommend : {"auto", "listed", "all"}
        Items that may be recommended; see `service.sections.Items`.
    """

    def __init__(
        self,
        retrievers: Mapping[str, Retriever],
        items: Catalog,
        pending: PendingTouches,
        touched: Touched,
        recommend: str = "auto",
    ) -> None:
        self._retrievers, self._items, self._pending, self._touched = retrievers, items, pending, touched
        self._recommend = recommend

    def generate(self, requests: Requests, contexts: Sequence[RequestContext]) -> Candidates:
        """Return the candidates of each request, without deleted items.

        Uncertainty is NaN where no retriever that found the item knows it.
        """
        retrieved = self._retrieve(requests, contexts)
        found: list[_Found] = []
        for n, context in enumerate(contexts):
            if isinstance(context.request, RankRequest):
                keys = hash_ids(context.request.items)
                context.names = dict(zip(keys.tolist(), context.request.items, strict=True))
                keys, errors = np.fromiter(context.names, np.int64, len(context.names)), None
                alive = self._items.alive(keys)
                context.deleted = [context.names[key] for key in keys[~alive].tolist()]
                found.append((keys[alive], errors))
                context.short = _short_of_given(context, context.request)
            else:
                found.append(retrieved[n])
        sizes = [keys.size for keys, _ in found]
        return Candidates(
            np.concatenate([keys for keys, _ in found]),
            np.repeat(np.arange(len(contexts)), sizes),
            np.zeros(sum(sizes), np.float32),
            _concatenate(found),
        )

    def _retrieve(self, requests: Requests, contexts: Sequence[RequestContext]) -> dict[int, _Found]:
        """Distinct items for each recommend request: from the retrievers in turn, then the catalogue's newest."""
        wanted = [(n, context.request) for n, context in enumerate(contexts) if isinstance(context.request, RecommendRequest)]
        if not wanted:
            return {}
        exclude = self._exclusion(requests, wanted)
        part = requests
        if len(wanted) < len(contexts):
            part = Requests(**requests.columns(np.array([n for n, _ in wanted])))
        k = max(request.found for _, request in wanted)
        found: list[list[_Found]] = [[] for _ in wanted]
        bounds = np.arange(len(wanted) + 1)
        for name, retriever in self._retrievers.items():
            candidates = retriever.retrieve(part, k, exclude)
            ends = candidates.request.searchsorted(bounds).tolist()
            for at, (_, request) in enumerate(wanted):
                if request.by in (None, name):
                    rows = slice(ends[at], min(ends[at] + request.found, ends[at + 1]))
                    errors = candidates.uncertainty
                    found[at].append((candidates.item[rows], None if errors is None else errors[rows]))
        listed = self._recommend == "listed" or (self._recommend == "auto" and self._items.lists)
        filled = {}
        for at, (n, request) in enumerate(wanted):
            excluded = exclude.item[exclude.start[at] : exclude.start[at + 1]]
            filled[n] = self._fill_up(request, self._recommendable(_distinct(found[at]), listed), listed, excluded)
            if filled[n][0].size < request.n:
                contexts[n].short = self._short_of_catalogue(request, filled[n][0].size, listed, excluded)
        return filled

    def _exclusion(self, requests: Requests, wanted: Sequence[tuple[int, RecommendRequest]]) -> Exclusion:
        """Items that each request excludes, and those that its user has seen unless `repeat` is set."""
        seen, start = self._touched(requests.user)
        parts, ends = [], [0]
        for n, request in wanted:
            own = [hash_ids(request.exclude)] if request.exclude else []
            if not request.repeat:
                own += [seen[start[n] : start[n + 1]], self._pending.of(int(requests.user[n]))]
            parts += own
            ends.append(ends[-1] + sum(part.size for part in own))
        return Exclusion(np.concatenate(parts) if parts else np.empty(0, np.int64), np.array(ends))

    def _recommendable(self, found: _Found, listed: bool) -> _Found:
        """Drop the items that may not be recommended. One that the catalogue has evicted has no name any more."""
        keys, errors = found
        usable = self._items.listed(keys) if listed else self._items.known(keys)
        return keys[usable], None if errors is None else errors[usable]

    def _fill_up(self, request: RecommendRequest, found: _Found, listed: bool, exclude: Ids) -> _Found:
        """Add the catalogue's most recently updated items where the retrievers found too few: new items get a chance."""
        keys, errors = found
        missing = request.found - keys.size
        if missing <= 0:
            return found
        newest = self._items.newest(request.found + exclude.size, listed=listed)
        added = newest[~np.isin(newest, np.concatenate((keys, exclude)))][:missing]
        if errors is not None:
            errors = np.append(errors, _unknown(added))
        return np.append(keys, added), errors

    def _short_of_catalogue(self, request: RecommendRequest, found: int, listed: bool, excluded: Ids) -> str:
        """Why fewer items were found than a recommend request asks for."""
        excluded = np.unique(excluded)
        excluded = excluded[self._items.listed(excluded) if listed else self._items.known(excluded)]
        by_request = int(np.isin(excluded, hash_ids(request.exclude)).sum()) if request.exclude else 0
        text = f"n = {request.n}, and {found} items are left: {found + excluded.size} in the catalogue may be recommended"
        if by_request:
            text += f", {by_request} of them are in exclude"
        if touched := excluded.size - by_request:
            text += f", {touched} the user has interacted with (repeat = true returns them, too)"
        return text


def _short_of_given(context: RequestContext, request: RankRequest) -> str | UnsetType:
    """Why fewer items are ranked than a rank request asks for; UNSET if there are enough."""
    given, ranked = len(request.items), len(context.names) - len(context.deleted)
    if ranked >= (given if request.n is None else request.n):
        return UNSET
    text = "" if request.n is None else f"n = {request.n}, and "
    text += f"{ranked} items are ranked of {given} given"
    if context.deleted:
        text += f", {len(context.deleted)} are deleted (see skipped)"
    if repeated := given - len(context.names):
        text += f", {repeated} are repetitions"
    return text


def _distinct(parts: Sequence[_Found]) -> _Found:
    """Items of several retrievers without duplicates, in order of first occurrence, each with its largest known uncertainty."""
    if not parts:
        return np.empty(0, np.int64), None
    if len(parts) == 1:
        return parts[0]
    items, errors = np.concatenate([item for item, _ in parts]), _concatenate(parts)
    first, number = _occurrences(items)
    if errors is None:
        return items[first], None
    largest = _unknown(first)
    np.fmax.at(largest, number, errors)
    return items[first], largest


@njit(cache=True, nogil=True)
def _occurrences(items: Ids) -> tuple[Ids, Ids]:
    """Rows in which an item occurs for the first time, and for each row the number of its item among those."""
    first, number = np.empty(items.size, np.int64), np.empty(items.size, np.int64)
    room = 1
    while room < 2 * items.size:
        room *= 2
    # Ids are hashes already: their low bits are the bucket, and the next free one is taken on a collision.
    buckets = np.full(room, -1, np.int32)
    found = 0
    for row in range(items.size):
        bucket = items[row] & (room - 1)
        while buckets[bucket] >= 0 and items[first[buckets[bucket]]] != items[row]:
            bucket = (bucket + 1) & (room - 1)
        if buckets[bucket] < 0:
            buckets[bucket], first[found] = found, row
            found += 1
        number[row] = buckets[bucket]
    return first[:found], number


def _concatenate(parts: Sequence[_Found]) -> Floats | None:
    """Concatenated uncertainties; None if none is known."""
    if all(errors is None for _, errors in parts):
        return None
    return np.concatenate([_unknown(items) if errors is None else errors for items, errors in parts])


def _unknown(items: Ids) -> Floats:
    return np.full(items.size, np.nan, np.float32)
