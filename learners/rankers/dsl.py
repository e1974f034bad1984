"""DSL, dynamic sparse learning: the deep ranker with embeddings and layers that are sparse from the first row on.

References
----------
S. Wang et al., "Dynamic Sparse Learning: A Novel Paradigm for Efficient Recommendation", WSDM 2024: prune the smallest weights,
grow those with the largest gradients, and keep their number.
FIITED, "Fine-Grained Embedding Dimension Optimization During Training for Recommender Systems", arXiv 2401.04408: rows whose
blocks come and go in a pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from learners.kernels.factorization import PRIOR
from learners.lookups import Catalogues, UserHistory
from learners.networks.click_network import ClickNetwork, NetworkShape
from learners.networks.field_embedding import FieldEmbedding
from learners.networks.ranker import NetworkRanker
from learners.networks.sparse.embedding import PooledEmbedding
from learners.networks.sparse.network import LayerEvidence, SparseClickNetwork
from learners.registry import register
from learners.schema import Schema
from learners.tunable import Options, Scale, Tunable
from memory.arrays import Arrays
from memory.sparse.block_pool import BlockPool
from memory.sparse.prune_and_grow import update_ratio
from streams.batch import Feedback

__all__ = ["DynamicSparse"]

TURN = 4096
"""Rows of a pool that exchange blocks with each other at a time. This takes two milliseconds."""

EVIDENCE_SHARE = 0.2
"""Share of the rows, the last before an exchange, of which layers collect evidence. It takes as long as a dense layer."""


@register("dsl")
class DynamicSparse(NetworkRanker):
    """The deep ranker, where each user has a share of a vector's blocks only. The blocks move to where they are needed.

    Parameters
    ----------
    budget, item_budget : float
        Average share of its blocks that a user or an item has. 1 for all, in the same table as other features: with 1 for both,
        this is the deep ranker.
    factors : int
        Length k of each feature's vector.
    block : int
        Numbers of a block. It divides `factors`.
    first_ratio, ratio : float
        Share of the blocks that is exchanged in a turn: at first, and after `period` rows.
    period : int
        Rows in which the ratio falls.
    exchange_every : int
        Rows in which each user has its turn once.
    user_bits, item_bits : int
        Users and items are hashed to 2**bits rows of their pools.
    user_capacity, item_capacity : int or None
        Users and items for which there are blocks. If there are more, those that occur least give way. None for all rows of the
        pool.
    density : float
        Share of a hidden layer's inputs that a group of units reads. The inputs are exchanged like blocks. 1 for dense layers.
    group : int
        Units of such a group. It divides `hidden`.
    hidden : int
        Units of a hidden layer.
    depth : int
        Hidden layers. 0 for none.
    crosses : int
        Cross layers beside the hidden layers. 0 for none.
    rank : int
        Rank of a cross layer.
    user_item_map : bool
        Whether to learn the map M between the vectors of user and item.
    bits : int
        Other features are hashed to 2**bits rows of weights.
    learning_rate, factor_learning_rate : float
        Learning rates of the machine's weights and vectors (AdaGrad). In a pool, each block has its own sum of squares.
    network_learning_rate : float
        Learning rate of crosses and layers (Adam).
    map_learning_rate : float
        Learning rate of the map (Adam).
    piece : int
        Rows of a step of the network. A larger micro-batch is learned in several steps.
    init : float
        Standard deviation of the initial vectors.
    device : {"cpu", "cuda"}
        Where the network is. Vectors are in main memory.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    ValueError
        For sizes that do not fit each other.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {
        "bits": 12, "user_bits": 12, "factors": 16, "hidden": 16, "exchange_every": 80, "period": 500,
    }  # fmt: skip
    tunable: ClassVar[Tunable] = {
        "factors": Options((16, 32, 64)),
        "budget": Scale(0.1, 1.0, log=True),
        "learning_rate": Scale(0.05, 4.0, log=True),
        "factor_learning_rate": Scale(0.02, 2.0, log=True),
        "network_learning_rate": Scale(3e-5, 0.01, log=True),
        "map_learning_rate": Scale(3e-4, 0.1, log=True),
    }

    shares_gradients: ClassVar[bool] = False
    """What grows is decided by the gradients that a process computes itself."""

    def __init__(
        self,
        budget: Annotated[float, Field(gt=0, le=1)] = 0.25,
        item_budget: Annotated[float, Field(gt=0, le=1)] = 1.0,
        factors: Annotated[int, Field(gt=0, le=1024)] = 32,
        block: Annotated[int, Field(gt=0, le=256)] = 4,
        first_ratio: Annotated[float, Field(gt=0, le=1)] = 0.02,
        ratio: Annotated[float, Field(gt=0, le=1)] = 0.01,
        period: Annotated[int, Field(gt=0)] = 200_000,
        exchange_every: Annotated[int, Field(gt=0)] = 20_000,
        user_bits: Annotated[int, Field(ge=1, le=28)] = 18,
        item_bits: Annotated[int, Field(ge=1, le=28)] = 16,
        user_capacity: Annotated[int, Field(gt=0)] | None = None,
        item_capacity: Annotated[int, Field(gt=0)] | None = None,
        density: Annotated[float, Field(gt=0, le=1)] = 1.0,
        group: Annotated[int, Field(gt=0, le=4096)] = 32,
        hidden: Annotated[int, Field(gt=0, le=4096)] = 32,
        depth: Annotated[int, Field(ge=0, le=8)] = 2,
        crosses: Annotated[int, Field(ge=0, le=8)] = 1,
        rank: Annotated[int, Field(gt=0, le=1024)] = 8,
        user_item_map: bool = True,
        bits: Annotated[int, Field(ge=1, le=28)] = 16,
        learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.4,
        factor_learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.2,
        network_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.0003,
        map_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.003,
        piece: Annotated[int, Field(gt=0, le=4096)] = 64,
        init: Annotated[float, Field(ge=0, le=1)] = 0.02,
        device: Literal["cpu", "cuda"] = "cpu",
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        if density < 1 and hidden % group:
            raise ValueError(f"group: {group} of {hidden} hidden units; give a divisor")
        if density < 1 and device != "cpu":
            raise ValueError(f'density: {density} on "{device}"; give density 1, or device "cpu"')
        self._ratios, self._every = (first_ratio, ratio, period), exchange_every
        self._density, self._group = density, group
        pools = {
            side: BlockPool(
                1 << row_bits,
                factors,
                share,
                block=block,
                capacity=capacity,
                prefix=int(share * (factors // block)),
                learning_rate=factor_learning_rate,
                accumulator=PRIOR,
                init=init,
                shards=max((1 << row_bits) // TURN, 1),
                evidence=max(4096, piece),
                seed=seed + offset,
            )
            for offset, (side, row_bits, share, capacity) in enumerate(
                [("user", user_bits, budget, user_capacity), ("item", item_bits, item_budget, item_capacity)]
            )
            if share < 1
        }
        table = factors, bits, learning_rate, factor_learning_rate, init, seed
        super().__init__(
            PooledEmbedding(*table, pools) if pools else FieldEmbedding(*table),
            NetworkShape(factors, hidden, depth, crosses, rank, user_item_map),
            learning_rate=network_learning_rate,
            map_learning_rate=map_learning_rate,
            piece=piece,
            device=device,
            seed=seed,
        )
        self.clock = Arrays(learned=np.zeros(1, np.int64), private=["learned"])

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Make the network for these columns, and find those of the ids.

        Raises
        ------
        ValueError
            If the ids of a side with a budget below 1 are no feature.
        """
        super().bind(schema, catalogues, history)
        if isinstance(self.embedding, PooledEmbedding):
            self.embedding.bind(schema)
        if self._density < 1:
            self.layers = LayerEvidence(self.network)

    def make_network(self) -> ClickNetwork:
        """Make the network with its initial weights."""
        if self._density < 1:
            return SparseClickNetwork(self.shape, self.fields, self._density, self._group)
        return super().make_network()

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order, as the deep ranker does. Then exchange blocks and inputs, if it is time."""
        before, every = int(self.clock["learned"][0]), self._every
        now = before + feedback.rows
        if self._density < 1:
            self.layers.collecting = every - before % every - feedback.rows < EVIDENCE_SHARE * every
        super().learn(feedback)
        self.clock["learned"][0] = now
        self.clock.mark()
        ratio = update_ratio(now, *self._ratios)
        if isinstance(self.embedding, PooledEmbedding):
            self.embedding.prune_and_grow(ratio, before / every, now / every)
        if self._density < 1:
            self.layers.collecting = False
            if now // every > before // every:
                self.layers.prune_and_grow(self.network, ratio)

    def metrics(self) -> Mapping[str, float]:
        """Return ``capped`` as the deep ranker does, and the pools' numbers; see `PooledEmbedding.metrics`."""
        pools = self.embedding.metrics() if isinstance(self.embedding, PooledEmbedding) else {}
        return {**super().metrics(), **pools}
