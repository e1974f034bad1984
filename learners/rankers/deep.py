"""Deep ranker: a factorization machine, a map between user and item, crosses and hidden layers, learned together online.

References
----------
H. Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017: a factorization machine
and hidden layers that share their vectors.
R. Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems", WWW 2021:
crosses of low rank beside the hidden layers.
D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015: the network's steps.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from learners.networks.click_network import NetworkShape
from learners.networks.field_embedding import FieldEmbedding
from learners.networks.ranker import NetworkRanker
from learners.registry import register
from learners.tunable import Scale, Tunable

__all__ = ["Deep"]


@register("deep")
class Deep(NetworkRanker):
    """Computes log-odds = factorization machine + u'Mv + w . [crosses, hidden layers].

    All parts share the features' vectors. u is the sum of the vectors of the user's columns, v of the item's. M and w start at
    zero, so it begins as the factorization machine. The machine learns rows one after the other, everything else in pieces of a
    micro-batch. In rows of impressions, the user's vectors learn from the machine only.

    Parameters
    ----------
    factors : int
        Length k of each feature's vector.
    hidden : int
        Units of a hidden layer.
    depth : int
        Hidden layers. 0 for none.
    crosses : int
        Cross layers beside the hidden layers. 0 for none.
    rank : int
        Rank of a cross layer.
    user_item_map : bool
        Whether to learn the map M. It follows changes that all tastes have in common.
    bits : int
        Features are hashed to 2**bits rows of weights.
    learning_rate, factor_learning_rate : float
        Learning rates of the machine's weights and vectors (AdaGrad).
    network_learning_rate : float
        Learning rate of crosses and layers (Adam).
    map_learning_rate : float
        Learning rate of the map (Adam). Larger follows a common change faster.
    piece : int
        Rows of a step of the network. A larger micro-batch is learned in several steps.
    init : float
        Standard deviation of the initial vectors.
    device : {"cpu", "cuda"}
        Where the network is. Vectors are in main memory.
    seed : int
        Seed of the initial weights.
    publish_every : int
        Rows learned between two versions that answer, for few and large changes in the weights log. Answers are up to so many
        rows old, and memory doubles. 0: every answer has all that was learned.

    References
    ----------
    See the module.
    """

    checks_parameters: ClassVar[dict[str, object]] = {"bits": 12, "factors": 8, "hidden": 16}
    tunable: ClassVar[Tunable] = {
        "factors": Scale(8, 64, log=True),
        "hidden": Scale(8, 128, log=True),
        "depth": Scale(0, 3),
        "crosses": Scale(0, 3),
        "learning_rate": Scale(0.05, 4.0, log=True),
        "factor_learning_rate": Scale(0.02, 2.0, log=True),
        "network_learning_rate": Scale(3e-5, 0.01, log=True),
        "map_learning_rate": Scale(3e-4, 0.1, log=True),
    }

    def __init__(
        self,
        factors: Annotated[int, Field(gt=0, le=1024)] = 32,
        hidden: Annotated[int, Field(gt=0, le=4096)] = 32,
        depth: Annotated[int, Field(ge=0, le=8)] = 2,
        crosses: Annotated[int, Field(ge=0, le=8)] = 1,
        rank: Annotated[int, Field(gt=0, le=1024)] = 8,
        user_item_map: bool = True,
        bits: Annotated[int, Field(ge=1, le=28)] = 18,
        learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.4,
        factor_learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.2,
        network_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.0003,
        map_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.003,
        piece: Annotated[int, Field(gt=0, le=4096)] = 64,
        init: Annotated[float, Field(ge=0, le=1)] = 0.02,
        device: Literal["cpu", "cuda"] = "cpu",
        seed: Annotated[int, Field(ge=0)] = 0,
        publish_every: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            FieldEmbedding(factors, bits, learning_rate, factor_learning_rate, init, seed),
            NetworkShape(factors, hidden, depth, crosses, rank, user_item_map),
            learning_rate=network_learning_rate,
            map_learning_rate=map_learning_rate,
            piece=piece,
            device=device,
            seed=seed,
            publish_every=publish_every,
        )
