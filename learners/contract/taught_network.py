"""A small network that has learned the world already: adapters of normalisations have nothing to do with a new one."""

from __future__ import annotations

from learners.contract.worlds import world
from learners.lookups import Catalogues, UserHistory
from learners.networks.click_network import NetworkShape
from learners.networks.field_embedding import FieldEmbedding
from learners.networks.ranker import NetworkRanker
from learners.registry import register
from learners.schema import Schema

__all__ = ["TaughtNetwork"]


@register("taught_network")
class TaughtNetwork(NetworkRanker):
    """Two hidden layers on vectors of four numbers, after 960 rows of the world.

    References
    ----------
    None needed.
    """

    def __init__(self) -> None:
        super().__init__(
            FieldEmbedding(4, 10, 0.4, 0.2, 0.1, 0),
            NetworkShape(factors=4, hidden=8, depth=2, crosses=0, rank=1, user_item_map=False),
            learning_rate=0.01, map_learning_rate=0.01, piece=64, device="cpu", seed=0,
        )  # fmt: skip

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Make the network, and teach it."""
        super().bind(schema, catalogues, history)
        for seed in range(40, 44):
            feedback = world(seed)
            feedback.position[:] = -1  # In rows of impressions, the network would not teach the users' vectors.
            self.learn(feedback)
        self.take_changes()
