"""Diag-LinUCB: a linear bandit on a sparse graph from clusters of users to items.

References
----------
X. Yi et al., "Online Matching: A Real-time Bandit System for Large-scale Recommendations", RecSys 2023 (arXiv 2307.15893): the
score (equation 7), the updates (equations 8 and 9), the context (equation 10), and the graph (algorithm 2).
L. Li, W. Chu, J. Langford, R. Schapire, "A Contextual-Bandit Approach to Personalized News Article Recommendation", WWW 2010:
LinUCB, here with a diagonal matrix.
G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009:
`half_life`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field

from learners.base import Candidates, Exclusion, Retriever
from learners.bounds import bounded, finite
from learners.lookups import Catalogues, UserHistory
from learners.networks.columns import TowerColumns
from learners.networks.towers import FrozenTowers, Towers, TowerShape
from learners.registry import register
from learners.retrievers.diag_linucb.contexts import Contexts, contexts, pack_contexts, unpack_contexts
from learners.schema import Schema
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from memory.graph.cluster_graph import ClusterGraph
from memory.vectors.centroids import Centroids
from streams.batch import Batch, Feedback, Floats, Ids, Requests

__all__ = ["DiagLinUcb"]

_Values = npt.NDArray[np.float64]

_EPOCHS = 16  # recent ones whose contexts are valid; feedback on older impressions counts for the user's current clusters
_SIMILARITIES_PER_CALL = 1 << 20  # of `learn`, while the graph is rebuilt; they take about 10 ms
_MAX_HALF_LIVES = 512.0  # after the reference time; then sums are rescaled, because float64 overflows at 1024
_OUTLIERS_TO_FOLLOW = 20  # successive rows more than _MAX_HALF_LIVES from the latest time until the clock follows them
_REFERENCE, _LATEST, _OUTLIERS = 0, 1, 2
_SAMPLED, _EPOCH_ROWS, _LINK_ROWS, _VISITED = 0, 1, 2, 3


@register("diag_linucb")
class DiagLinUcb(Retriever):
    """Retrieves items by upper confidence bounds, with two sums on each edge between a cluster of users and an item.

    Two towers (see `learners.networks.towers`) learn vectors of users and items online. Once per epoch, a copy of them is
    frozen, the users' vectors are clustered, and each cluster is linked to the items nearest to its centroid. A user's context
    w is the softmax of the similarities to the nearest centroids. An edge has ``d``, the sum of w^2 over all impressions of the
    item, and ``b``, the sum of w * reward. Over the edges to the user's clusters, an item's score is the sum of ``w b / d``,
    and its uncertainty is the root of the sum of ``w^2 / d``. Scores are no probabilities: they are about 1 / sum(w^2) times
    too high. The sums are updated with the context of serving time, which the impression carries.

    Parameters
    ----------
    clusters : int
        Clusters of users: C.
    width : int
        Items per cluster: W. Memory is 24 bytes * C * W. With infinite bounds, every one of them is tried.
    nearest : int
        Clusters per user: K.
    temperature : float
        Temperature of the context's softmax. 1 / sum(w^2) should be 1.1 to 1.5 for your users: softer contexts cost regret.
    w_min : float
        Clusters with a smaller weight are dropped from the context. 0.05 helps with infinite bounds. The paper uses 0.
    alpha : float
        Number of standard errors added to the score when candidates are chosen. The policy has its own.
    init : {"prior", "infinite"}
        Start of a new edge: mass `prior`, or an infinite bound until the first impression. Infinite bounds discover every item,
        at a cost that grows with `width`.
    prior : float
        Mass of a new edge. A larger mass means less exploration.
    unbiased : bool
        Add w to d instead of w^2. This is right if rewards do not differ between clusters. Not in the paper.
    half_life : float
        Seconds of event time after which the sums count half; 0 means no decay. Not in the paper.
    items : int
        Maximum number of items that the graph is built from. The least recently updated one is evicted.
    refresh : int
        Rows between two rebuilds of the graph. Edges that stay keep their sums. New and changed items are linked at once. A
        large graph is rebuilt over several calls of `learn`.
    epoch : int
        Rows per epoch. The first epochs are shorter: they double from `first`.
    first : int
        Rows before the first clustering. Nothing is retrieved before it.
    match_threshold : float
        Minimum cosine similarity of two centroids for a new cluster to be matched to an old one and keep its sums.
    sample : int
        Number of most recent user vectors that are clustered.
    dim : int
        Length of the vectors of users and items.
    hidden : int
        Units of each tower's hidden layer.
    bits : int
        Columns of users and items are hashed to 2**bits embeddings. Memory is 16 * dim * 2**bits bytes.
    learning_rate : float
        Learning rate of the towers.
    tower_temperature : float
        Temperature of the towers' softmax.
    seed : int
        Seed of the towers' initial weights.

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
        "clusters": 4, "width": 12, "items": 24, "first": 60, "epoch": 150, "refresh": 50, "sample": 64, "dim": 8, "hidden": 4,
        "bits": 8, "w_min": 0.05,
    }  # fmt: skip
    tunable: ClassVar[Tunable] = {
        "nearest": Scale(1, 16, log=True),
        "temperature": Scale(0.005, 0.5, log=True),
        "alpha": Scale(0.05, 4.0, log=True),
        "prior": Scale(0.1, 10.0, log=True),
        "learning_rate": Scale(0.01, 1.0, log=True),
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
            raise ValueError(f"w_min: {w_min} could drop all {nearest} clusters of a user; give at most {1 / nearest:.2g}")
        if sample < clusters:
            raise ValueError(f"sample: {sample} users are too few for {clusters} clusters; give {clusters} or more")
        self.refresh, self.first, self.epoch, self.match_threshold = refresh, first, epoch, match_threshold
        self.nearest, self.temperature, self.w_min, self.optimism = nearest, temperature, w_min, alpha
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
        """Receive the catalogues; see `Learner.bind`."""
        self._columns.catalogues = catalogues

    def carry(self, requests: Requests) -> list[bytes] | None:
        """Return the current contexts, for which the outcomes will be counted; None before the first epoch."""
        found = self.contexts(requests)
        return None if found is None else pack_contexts(found)

    def contexts(self, requests: Requests) -> Contexts | None:
        """Return the current contexts of requests; None before the first epoch."""
        epoch = self.centroids.epoch
        if not epoch:
            return None
        vectors = self.frozen.users(self._columns.users(requests)).astype(np.float64)
        index, weight = contexts(vectors @ self.centroids.vectors.T, self.nearest, self.temperature, self.w_min)
        known = {"epoch": epoch, "schema": self.schemas["schema"][epoch % _EPOCHS], "graph": self.graph.version}
        return Contexts(index=index, weight=weight, **{name: np.full(index.shape[0], value) for name, value in known.items()})

    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """Return at most `k` items per request, by score + alpha * uncertainty. A hash of the request breaks ties."""
        found = self._contexts(requests)
        if found is None:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))
        tie_breaker = requests.user ^ requests.timestamp.view(np.int64)
        excluded = self.graph.items.find(exclude.item)
        slots, request, mean, bonus = self.graph.retrieve(
            found.index, found.weight, k, self.optimism * self._bonus_scale(), excluded, exclude.start, tie_breaker
        )
        return Candidates(self.graph.items.keys[slots], request, finite(mean), self._standard_errors(bonus))

    def score(self, batch: Batch) -> Floats:
        """Return scores, (N,) float32; 0 for items that are not linked to the user's clusters."""
        return finite(np.nan_to_num(self._bounds(batch)[0]))

    def uncertainty(self, batch: Batch) -> Floats:
        """Return standard errors, (N,) float32; 0 for items that are not linked to the user's clusters."""
        return np.nan_to_num(self._standard_errors(self._bounds(batch)[1]), nan=0.0, posinf=np.inf)

    def learn(self, feedback: Feedback) -> None:
        """Update the sums of each row's edges and train the towers. Then start an epoch or a refresh, if one is due.

        A correction adds only its reward, because its impression was counted before.
        """
        if not feedback.rows:
            return
        found = self._contexts(feedback)
        if found is not None:
            self._update_graph(feedback, found)
        self._train(feedback)
        self._admit(feedback.item[feedback.item != 0], relink=False)
        counts = self.counts["count"]
        counts[[_EPOCH_ROWS, _LINK_ROWS]] += feedback.rows
        self.counts.mark()
        epoch = self.centroids.epoch
        due = self.first if epoch == 0 else min(self.first << min(epoch - 1, 40), self.epoch)
        if counts[_EPOCH_ROWS] >= due and counts[_SAMPLED] >= len(self.centroids):
            self._begin_epoch()
        elif epoch and counts[_LINK_ROWS] >= self.refresh:
            counts[[_LINK_ROWS, _VISITED]] = 0
        self._link_next()

    def add(self, items: Ids) -> None:
        """Add items to the corpus and link them to the clusters that they are near to."""
        self._admit(items, relink=True)

    def remove(self, items: Ids) -> None:
        """Delete these items with their edges."""
        self.graph.remove(items)

    def forget(self, users: Ids) -> None:
        """Delete the embeddings that belong to these users only. The sums are anonymous and stay."""
        if users.size:
            self.towers.forget(self._columns.own(users))

    def _bounds(self, batch: Batch) -> tuple[_Values, _Values]:
        """Return the means and bonuses of rows, (N,) each; NaN for items that are not linked to the user's clusters."""
        found = self._contexts(batch)
        if found is None:
            return np.full(batch.rows, np.nan), np.full(batch.rows, np.nan)
        return self.graph.bounds(found.index, found.weight, self.graph.items.find(batch.item), batch.request)

    def _admit(self, items: Ids, *, relink: bool) -> None:
        """Do what `add` does. `relink`: also link items that are in the corpus already."""
        items = self._columns.alive(items)
        slots, fresh = self.graph.insert(items)
        # If there are more items than the corpus holds, later ones have evicted earlier ones.
        chosen = (fresh | relink) & (self.graph.items.find(items) == slots)
        if self.centroids.epoch and chosen.any():
            self._link(slots[chosen])

    def _link(self, slots: Ids) -> None:
        """Link the items at these slots to the clusters that they are near to."""
        similarity = (self._vectors(slots) @ self.centroids.vectors.T).astype(np.float32)
        self.graph.admit(slots, similarity, self._new_mass())

    def _vectors(self, slots: Ids) -> _Values:
        """Return the vectors (n, dim) of the items at these slots, from the frozen towers."""
        return self.frozen.items(self._columns.items(self.graph.items.keys[slots])).astype(np.float64)

    def _new_mass(self) -> float:
        """Return the mass of a new edge, in the scale of the decayed sums."""
        return self._prior * self._bonus_scale() ** 2

    def _contexts(self, requests: Requests) -> Contexts | None:
        """Return the contexts that the requests carry if they are still valid, else their current contexts."""
        carried = requests.carried.get(self.name)
        if carried is None or not self.centroids.epoch:
            return self.contexts(requests)
        given = unpack_contexts(carried)
        valid = (given.epoch > max(self.centroids.epoch - _EPOCHS, 0)) & (given.epoch <= self.centroids.epoch)
        valid &= given.schema == self.schemas["schema"][given.epoch % _EPOCHS]
        valid &= ((given.index >= -1) & (given.index < len(self.centroids))).all(axis=1)
        # Drop clusters whose number has been given to another cluster since then.
        gone = (given.index >= 0) & (self.centroids.born[given.index * valid[:, None]] > given.epoch[:, None])
        found = Contexts(
            index=np.where(gone, -1, given.index),
            weight=given.weight.copy(),
            epoch=given.epoch,
            schema=given.schema,
            graph=given.graph,
        )
        if valid.all():
            return found
        invalid = np.flatnonzero(~valid)
        computed = self.contexts(Requests(**requests.columns(invalid)))
        assert computed is not None, "there are clusters"
        width = max(found.index.shape[1], computed.index.shape[1])
        found.index, found.weight = _padded(found.index, width, -1), _padded(found.weight, width, 0)
        found.index[invalid], found.weight[invalid] = _padded(computed.index, width, -1), _padded(computed.weight, width, 0)
        return found

    def _update_graph(self, feedback: Feedback, found: Contexts) -> None:
        request, weight = feedback.request, self._decayed_weights(feedback)
        self.graph.update(
            found.index[request],
            found.weight[request],
            self.graph.items.find(feedback.item),
            weight * ~feedback.correction,
            weight * feedback.reward,
            squared=not self.unbiased,
        )

    def _decayed_weights(self, feedback: Feedback) -> _Values:
        """Return the weight of each row, (N,), which grows with its time (forward decay). Moves the clock."""
        weight = bounded(feedback.weight).astype(np.float64)
        if self.half_life == np.inf:
            return weight
        time, clock = feedback.timestamp[feedback.request], self.clock["time"][0]
        if clock[_REFERENCE] == -np.inf:
            clock[_REFERENCE] = clock[_LATEST] = time[0]
        outlier = np.abs(time - clock[_LATEST]) > _MAX_HALF_LIVES * self.half_life
        clock[_OUTLIERS] = clock[_OUTLIERS] + time.size if outlier.all() else 0.0
        if clock[_OUTLIERS] < _OUTLIERS_TO_FOLLOW:
            time = np.where(outlier, np.minimum(time, clock[_LATEST]), time)
        else:
            clock[_OUTLIERS] = 0.0
            if time.max() < clock[_LATEST]:
                # The clock was ahead: treat all sums so far as counted just now.
                self.graph.scale(float(np.exp2((clock[_REFERENCE] - clock[_LATEST]) / self.half_life)))
                clock[_REFERENCE] = clock[_LATEST] = time.max()
        clock[_LATEST] = max(clock[_LATEST], time.max())
        self.clock.mark()
        if (clock[_LATEST] - clock[_REFERENCE]) / self.half_life > _MAX_HALF_LIVES:
            self.graph.scale(float(np.exp2((clock[_REFERENCE] - clock[_LATEST]) / self.half_life)))
            clock[_REFERENCE] = clock[_LATEST]
        decayed: _Values = weight * np.exp2((time - clock[_REFERENCE]) / self.half_life)
        return decayed

    def _bonus_scale(self) -> float:
        """Return the factor by which the decay of the sums has increased the bonuses."""
        reference, latest, _ = self.clock["time"][0]
        return 1.0 if reference == -np.inf else float(np.exp2((latest - reference) / self.half_life / 2))

    def _standard_errors(self, bonus: _Values) -> Floats:
        """Return bonuses at the latest time, as float32. Beyond its range, after hundreds of half-lives, they are infinite."""
        errors = bonus * self._bonus_scale()
        return np.where(errors > np.finfo(np.float32).max, np.inf, errors).astype(np.float32)

    def _train(self, feedback: Feedback) -> None:
        users = self.towers.learn(feedback, self._columns)
        vectors = self.towers.users(users)[-len(self.sample) :]
        counts = self.counts["count"]
        slots = (counts[_SAMPLED] + np.arange(len(vectors))) % len(self.sample)
        self.sample["vector"][slots] = vectors
        self.sample.mark(slots)
        counts[_SAMPLED] += len(vectors)

    def _begin_epoch(self) -> None:
        """Freeze the towers, cluster the users, keep the sums of matched clusters, and start to rebuild the graph."""
        counts = self.counts["count"]
        counts[_EPOCH_ROWS] = 0
        self.frozen.freeze(self.towers)
        vectors = self.sample["vector"][: min(counts[_SAMPLED], len(self.sample))]
        self.graph.reset(self.centroids.fit(vectors, self.match_threshold), self._new_mass())
        # 53 bits, which every JSON parser reads exactly.
        schema = xxhash.xxh3_64_intdigest(self.centroids.vectors.tobytes()) >> 11
        self.schemas["schema"][self.centroids.epoch % _EPOCHS] = schema
        self.schemas.mark()
        edges = np.flatnonzero(self.graph.slot >= 0)
        slots, item = np.unique(self.graph.slot[edges].astype(np.int64), return_inverse=True)
        centroids = self.centroids.vectors[edges // self.graph.width]
        self.graph.measure(edges, (self._vectors(slots)[item] * centroids).sum(axis=1).astype(np.float32))
        counts[[_LINK_ROWS, _VISITED]] = 0

    def _link_next(self) -> None:
        """If the graph is being rebuilt, link the next items of the corpus to the clusters that they are near to.

        Requests wait for each call of `learn`, so a call links only some items. The similarities of existing edges were updated
        when the epoch began. So after the last item, each cluster has its nearest items, as if all were compared at once.
        """
        counts = self.counts["count"]
        start, stop = counts[_VISITED], counts[_VISITED] + max(_SIMILARITIES_PER_CALL // len(self.centroids), 1)
        if start >= self.graph.items.capacity:
            return
        counts[_VISITED] = stop
        slots = start + np.flatnonzero(self.graph.items.keys[start:stop])
        if slots.size:
            self._link(slots)


_Number = TypeVar("_Number", np.int64, np.float64)


def _padded(array: npt.NDArray[_Number], width: int, fill: int) -> npt.NDArray[_Number]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
