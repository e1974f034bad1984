"""Diag-LinUCB: a linear bandit over clusters of users, on a sparse graph from clusters to items.

References
----------
X. Yi et al., "Online Matching: A Real-time Bandit System for Large-scale Recommendations", RecSys 2023 (arXiv 2307.15893): the
score (equation 7), the updates (equations 8 and 9), the context (equation 10), and the graph (algorithm 2).
L. Li, W. Chu, J. Langford, R. Schapire, "A Contextual-Bandit Approach to Personalized News Article Recommendation", WWW 2010:
LinUCB, whose matrix is here taken to be diagonal.
G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009:
`half_life`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field

from learners.base import Candidates, Catalogues, Exclusion, Retriever, UserHistory
from learners.bounds import bounded, finite
from learners.networks.columns import TowerColumns
from learners.networks.towers import FrozenTowers, Towers, TowerShape
from learners.registry import register
from learners.retrievers.diag_linucb.contexts import Contexts, contexts, pack_contexts, unpack_contexts
from learners.schema import Schema
from memory.arrays import Arrays
from memory.graph.cluster_graph import ClusterGraph
from memory.vectors.centroids import Centroids
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["DiagLinUcb"]

_Values = npt.NDArray[np.float64]

_EPOCHS = 16
"""Epochs that are recognised: feedback on what was shown longer ago is counted for the clusters of now."""

_CELLS = 1 << 20
"""Clusters times items that are compared in one turn of learning while the graph is made anew: about 10 ms."""

_HIGHEST = 512.0  # half-lives past the reference after which sums are rescaled; float64 overflows at 1024
_STRAYS = 20  # rows in succession that must be so far from the latest before the clock follows them, ahead or back
_REFERENCE, _LATEST, _ASTRAY = 0, 1, 2
_SAMPLED, _EPOCH_ROWS, _LINK_ROWS, _VISITED = 0, 1, 2, 3


@register("diag_linucb")
class DiagLinUcb(Retriever):
    """Upper confidence bounds from two sums on each edge between a cluster of users and an item.

    Two towers (see `learners.networks.towers`) learn vectors of users and items from the stream. Once an epoch a copy of them
    is frozen, users' vectors are clustered, and each cluster is linked to the items closest to its centroid. A user's context
    w is the softmax of the vector's similarity to the closest centroids. On an edge lie ``d`` (the sum of w^2 over the times
    that the item was shown) and ``b`` (the sum of w * reward); an item's score is the sum of ``w b / d`` over its edges to the
    user's clusters, its uncertainty the root of the sum of ``w^2 / d``. Scores are an order, not probabilities: they are about
    1 / sum(w^2) times too high. The sums are added to with the context as of serving time, which the impression carries.

    Parameters
    ----------
    clusters : int
        Clusters of users: C.
    width : int
        Items of each cluster: W. Memory is 24 bytes * C * W; where bounds are infinite, all of them are tried.
    nearest : int
        Clusters of a user: K.
    temperature : float
        Of the context. Small enough for 1 / sum(w^2) between 1.1 and 1.5 on your users: softer contexts cost regret.
    w_min : float
        Smallest weight in a context; clusters with less are left out. 0.05 gains where bounds are infinite; 0 is the paper's.
    alpha : float
        Standard errors that candidates are chosen by; the policy that orders them has its own.
    init : {"prior", "infinite"}
        What a new edge has: mass `prior`; or an infinite bound until it has been shown once, which discovers every item at a
        cost that grows with `width`.
    prior : float
        Mass of a new edge. Larger: less optimism about it.
    unbiased : bool
        Add w to d instead of w^2: right for rewards that do not differ between clusters. Not the paper's.
    half_life : float
        Seconds of event time in which the sums count half as much; 0: for ever. Not the paper's.
    items : int
        Items that the graph is chosen from; the one longest untouched gives way.
    refresh : int
        Rows learned between two times that the graph is made anew; what is known of edges that stay is kept. Items that are
        new, or have changed, do not wait for it. A large graph is made over several calls of `learn`.
    epoch : int
        Rows learned in an epoch. The first ones are shorter: they double from `first`.
    first : int
        Rows learned before there are clusters; nothing is retrieved until then.
    match_threshold : float
        Cosine of two centroids above which a cluster of the new epoch is taken for one of the old, and keeps its sums.
    sample : int
        Users that clusters are made of: the last ones.
    dim : int
        Numbers in a vector of a user or an item.
    hidden : int
        Units of each tower's hidden layer.
    bits : int
        Columns of users and items share 2**bits vectors by their hash; memory is 16 * dim * 2**bits bytes.
    learning_rate : float
        Step size of the towers.
    tower_temperature : float
        Temperature of the towers' softmax.
    seed : int
        Of the towers' first weights.

    References
    ----------
    See the module.
    """

    knows_uncertainty: ClassVar[bool] = True
    state_version: ClassVar[int | str] = 2
    """1 had towers with an optimizer of their own."""
    # Requests are answered from the frozen towers, the centroids and the graph.
    private: ClassVar[frozenset[str]] = frozenset({"towers", "sample", "counts"})
    checks_parameters: ClassVar[dict[str, object]] = {
        "clusters": 4,
        "width": 12,
        "items": 24,
        "first": 60,
        "epoch": 150,
        "refresh": 50,
        "sample": 64,
        "dim": 8,
        "hidden": 4,
        "bits": 8,
        "w_min": 0.05,
    }

    def __init__(
        self,
        clusters: Annotated[int, Field(gt=0)] = 32,
        width: Annotated[int, Field(gt=0)] = 100,
        nearest: Annotated[int, Field(gt=0, le=64)] = 5,
        temperature: Annotated[float, Field(gt=0)] = 0.03,
        w_min: Annotated[float, Field(ge=0, le=1)] = 0.0,
        alpha: Annotated[float, Field(ge=0)] = 0.4,
        init: Literal["prior", "infinite"] = "prior",
        prior: Annotated[float, Field(gt=0)] = 1.0,
        unbiased: bool = False,
        half_life: Annotated[float, Field(ge=0)] = 0.0,
        items: Annotated[int, Field(gt=0)] = 20_000,
        refresh: Annotated[int, Field(gt=0)] = 50_000,
        epoch: Annotated[int, Field(gt=0)] = 100_000,
        first: Annotated[int, Field(gt=0)] = 1_000,
        match_threshold: Annotated[float, Field(ge=0, le=1)] = 0.95,
        sample: Annotated[int, Field(gt=0)] = 4_096,
        dim: Annotated[int, Field(gt=0)] = 32,
        hidden: Annotated[int, Field(gt=0)] = 32,
        bits: Annotated[int, Field(ge=1, le=26)] = 15,
        learning_rate: Annotated[float, Field(gt=0)] = 0.1,
        tower_temperature: Annotated[float, Field(gt=0)] = 0.2,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        if w_min * nearest > 1:
            raise ValueError(
                f"w_min: {w_min} with {nearest} clusters would leave some users none; give at most {1 / nearest:.2g}"
            )
        if sample < clusters:
            raise ValueError(f"sample: {sample} users cannot make {clusters} clusters; give {clusters} or more")
        self.optimism, self.refresh, self.first, self.epoch, self.match_threshold = (
            alpha,
            refresh,
            first,
            epoch,
            match_threshold,
        )
        self.nearest, self.temperature, self.w_min = nearest, temperature, w_min
        self.unbiased, self.half_life = unbiased, half_life or np.inf
        shape = TowerShape(dim, hidden, bits, seed)
        self.towers, self.frozen = Towers(shape, learning_rate, tower_temperature), FrozenTowers(shape)
        self.centroids = Centroids(clusters, dim)
        self.graph = ClusterGraph(clusters, width, items)
        self._prior = prior if init == "prior" else 0.0
        self.sample = Arrays(vector=np.zeros((sample, dim), np.float32))
        self.schemas = Arrays(schema=np.zeros(_EPOCHS, np.int64))
        self.counts = Arrays(count=np.array([0, 0, 0, items]))
        self.clock = Arrays(time=np.array([[-np.inf, -np.inf, 0.0]]))
        self._columns = TowerColumns()

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Take note of where attributes are found."""
        self._columns.catalogues = catalogues

    def carry(self, requests: Requests) -> list[bytes] | None:
        """Contexts of requests as of now, which their outcomes are to be counted for; None before the first epoch."""
        found = self.contexts(requests)
        return None if found is None else pack_contexts(found)

    def contexts(self, requests: Requests) -> Contexts | None:
        """Contexts of requests as of now; None before the first epoch."""
        epoch = self.centroids.epoch
        if not epoch:
            return None
        vectors = self.frozen.users(self._columns.users(requests)).astype(np.float64)
        index, weight = contexts(vectors @ self.centroids.vectors.T, self.nearest, self.temperature, self.w_min)
        known = {"epoch": epoch, "schema": self.schemas["schema"][epoch % _EPOCHS], "graph": self.graph.version}
        return Contexts(index=index, weight=weight, **{name: np.full(index.shape[0], one) for name, one in known.items()})

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """At most `k` items of the graph per request by score + alpha * uncertainty; a hash of the request breaks ties."""
        found = self._contexts(requests)
        if found is None:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))
        lot = requests.user ^ requests.timestamp.view(np.int64)
        excluded = self.graph.items.find(exclude.item)
        slots, request, mean, bonus = self.graph.retrieve(
            found.index, found.weight, k, self.optimism * self._widening(), excluded, exclude.start, lot
        )
        uncertainty = (bonus * self._widening()).astype(np.float32)
        return Candidates(self.graph.items.keys[slots], request, finite(mean), uncertainty)

    def score(self, batch: Batch) -> Floats:
        """Return scores, (N,) float32; 0 for items that none of the user's clusters is linked to."""
        mean, _ = self._bounds(batch)
        return finite(np.nan_to_num(mean))

    def uncertainty(self, batch: Batch) -> Floats:
        """Return standard errors, (N,) float32; 0 for items that none of the user's clusters is linked to."""
        _, bonus = self._bounds(batch)
        return np.where(np.isnan(bonus), 0.0, bonus * self._widening()).astype(np.float32)

    def learn(self, feedback: Feedback) -> None:
        """Add to the sums of each row's edges; then let the towers learn; then see whether an epoch or a refresh is due.

        A correction adds its reward alone: the row has been counted when it left first.
        """
        if not feedback.rows:
            return
        found = self._contexts(feedback)
        if found is not None:
            self._count(feedback, found)
        self._train(feedback)
        self._admit(feedback.item[feedback.item != 0], again=False)
        counts = self.counts["count"]
        counts[[_EPOCH_ROWS, _LINK_ROWS]] += feedback.rows
        self.counts.mark()
        epoch = self.centroids.epoch
        due = self.first if epoch == 0 else min(self.first << min(epoch - 1, 40), self.epoch)
        if counts[_EPOCH_ROWS] >= due and counts[_SAMPLED] >= len(self.centroids):
            self._begin_epoch()
        elif epoch and counts[_LINK_ROWS] >= self.refresh:
            counts[[_LINK_ROWS, _VISITED]] = 0
        self._visit()

    def add(self, items: Ids) -> None:
        """Let items into the corpus, and into the clusters that they are close to."""
        self._admit(items, again=True)

    def remove(self, items: Ids) -> None:
        """Drop these items with their edges."""
        self.graph.remove(items)

    def forget(self, users: Ids) -> None:
        """Drop what the towers keep of these users alone; sums are nobody's in particular and stay."""
        if users.size:
            self.towers.forget(self._columns.own(users))

    def _bounds(self, batch: Batch) -> tuple[_Values, _Values]:
        """Means and bonuses of rows, (N,) each; NaN for items that none of the user's clusters is linked to."""
        found = self._contexts(batch)
        if found is None:
            return np.full(batch.rows, np.nan), np.full(batch.rows, np.nan)
        return self.graph.bounds(found.index, found.weight, self.graph.items.find(batch.item), batch.request)

    def _admit(self, items: Ids, *, again: bool) -> None:
        """As `add`; `again`: also those that are in the corpus already."""
        items = self._columns.alive(items)
        slots, fresh = self.graph.insert(items)
        # A batch of more items than the corpus holds has pushed out its own first ones.
        chosen = (fresh | again) & (self.graph.items.find(items) == slots)
        if self.centroids.epoch and chosen.any():
            self._link(slots[chosen])

    def _link(self, slots: Ids) -> None:
        """Let the items at these slots into the clusters that they are close to."""
        similarity = (self._vectors(slots) @ self.centroids.vectors.T).astype(np.float32)
        self.graph.admit(slots, similarity, self._new_mass())

    def _vectors(self, slots: Ids) -> _Values:
        """Vectors (n, dim) of the items at these slots, as of the beginning of the epoch."""
        return self.frozen.items(self._columns.items(self.graph.items.keys[slots])).astype(np.float64)

    def _new_mass(self) -> float:
        """Mass of a new edge, as much as it was worth when nothing had decayed."""
        return self._prior * self._widening() ** 2

    def _contexts(self, requests: Requests) -> Contexts | None:
        """Contexts of requests: as of serving time where they are given and still known, as of now for the others."""
        carried = requests.carried.get(self.name)
        if carried is None or not self.centroids.epoch:
            return self.contexts(requests)
        given = unpack_contexts(carried)
        ours = (given.epoch > max(self.centroids.epoch - _EPOCHS, 0)) & (given.epoch <= self.centroids.epoch)
        ours &= given.schema == self.schemas["schema"][given.epoch % _EPOCHS]
        ours &= ((given.index >= -1) & (given.index < len(self.centroids))).all(axis=1)
        # A number that has passed to another cluster since then is not the one that was meant.
        gone = (given.index >= 0) & (self.centroids.born[given.index * ours[:, None]] > given.epoch[:, None])
        found = Contexts(
            index=np.where(gone, -1, given.index),
            weight=given.weight.copy(),
            epoch=given.epoch,
            schema=given.schema,
            graph=given.graph,
        )
        if ours.all():
            return found
        others = np.flatnonzero(~ours)
        computed = self.contexts(Requests(**requests.columns(others)))
        assert computed is not None, "there are clusters"
        width = max(found.index.shape[1], computed.index.shape[1])
        found.index, found.weight = _widened(found.index, width, -1), _widened(found.weight, width, 0)
        found.index[others], found.weight[others] = _widened(computed.index, width, -1), _widened(computed.weight, width, 0)
        return found

    def _count(self, feedback: Feedback, found: Contexts) -> None:
        request, growth = feedback.request, self._growth(feedback)
        self.graph.update(
            found.index[request],
            found.weight[request],
            self.graph.items.find(feedback.item),
            growth * ~feedback.correction,
            growth * feedback.reward,
            squared=not self.unbiased,
        )

    def _growth(self, feedback: Feedback) -> _Values:
        """What each row counts: more, the later it is."""
        weight = bounded(feedback.weight).astype(np.float64)
        if self.half_life == np.inf:
            return weight
        time, clock = feedback.timestamp[feedback.request], self.clock["time"][0]
        if clock[_REFERENCE] == -np.inf:
            clock[_REFERENCE] = clock[_LATEST] = time[0]
        astray = np.abs(time - clock[_LATEST]) > _HIGHEST * self.half_life
        clock[_ASTRAY] = clock[_ASTRAY] + time.size if astray.all() else 0.0
        if clock[_ASTRAY] < _STRAYS:
            time = np.where(astray, np.minimum(time, clock[_LATEST]), time)
        else:
            clock[_ASTRAY] = 0.0
            if time.max() < clock[_LATEST]:
                # The clock had been ahead: what has been counted was counted just now.
                self.graph.scale(float(np.exp2((clock[_REFERENCE] - clock[_LATEST]) / self.half_life)))
                clock[_REFERENCE] = clock[_LATEST] = time.max()
        clock[_LATEST] = max(clock[_LATEST], time.max())
        self.clock.mark()
        if (clock[_LATEST] - clock[_REFERENCE]) / self.half_life > _HIGHEST:
            self.graph.scale(float(np.exp2((clock[_REFERENCE] - clock[_LATEST]) / self.half_life)))
            clock[_REFERENCE] = clock[_LATEST]
        growth: _Values = weight * np.exp2((time - clock[_REFERENCE]) / self.half_life)
        return growth

    def _widening(self) -> float:
        """What bonuses have grown by while the sums have decayed."""
        reference, latest, _ = self.clock["time"][0]
        return 1.0 if reference == -np.inf else float(np.exp2((latest - reference) / self.half_life / 2))

    def _train(self, feedback: Feedback) -> None:
        users = self.towers.learn(feedback, self._columns)
        vectors = self.towers.users(users)[-len(self.sample) :]
        counts = self.counts["count"]
        places = (counts[_SAMPLED] + np.arange(len(vectors))) % len(self.sample)
        self.sample["vector"][places] = vectors
        self.sample.mark(places)
        counts[_SAMPLED] += len(vectors)

    def _begin_epoch(self) -> None:
        """Freeze the towers, cluster the users, keep the sums of clusters that are still there, and make the graph."""
        counts = self.counts["count"]
        counts[_EPOCH_ROWS] = 0
        self.frozen.freeze(self.towers)
        vectors = self.sample["vector"][: min(counts[_SAMPLED], len(self.sample))]
        self.graph.reset(self.centroids.fit(vectors, self.match_threshold), self._new_mass())
        # Of 53 bits: every reader of JSON takes those for what they are.
        schema = xxhash.xxh3_64_intdigest(self.centroids.vectors.tobytes()) >> 11
        self.schemas["schema"][self.centroids.epoch % _EPOCHS] = schema
        self.schemas.mark()
        places = np.flatnonzero(self.graph.slot >= 0)
        slots, item = np.unique(self.graph.slot[places].astype(np.int64), return_inverse=True)
        centroids = self.centroids.vectors[places // self.graph.width]
        self.graph.measure(places, (self._vectors(slots)[item] * centroids).sum(axis=1).astype(np.float32))
        counts[[_LINK_ROWS, _VISITED]] = 0

    def _visit(self) -> None:
        """Let the next items of the corpus into the clusters that they are close to, if the graph is being made anew.

        What is in the graph has been measured when the epoch began, so that after the last item it is the closest ones of each
        cluster, as if all had been compared at once. Requests wait for a turn of learning: all items would be too long.
        """
        counts = self.counts["count"]
        start, stop = counts[_VISITED], counts[_VISITED] + max(_CELLS // len(self.centroids), 1)
        if start >= self.graph.items.capacity:
            return
        counts[_VISITED] = stop
        slots = start + np.flatnonzero(self.graph.items.keys[start:stop])
        if slots.size:
            self._link(slots)


_Number = TypeVar("_Number", np.int64, np.float64)


def _widened(array: npt.NDArray[_Number], width: int, fill: int) -> npt.NDArray[_Number]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
