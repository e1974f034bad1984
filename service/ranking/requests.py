"""Ranking requests and responses as msgspec structs. Validation and the OpenAPI page are derived from them."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

from streams.events import Id, Kind, Scalar

__all__ = ["CANDIDATES", "Neighbour", "RankRequest", "RankedItem", "RankingResponse", "Reasons", "RecommendRequest"]

CANDIDATES = 100
"""Items that each retriever finds for a request, unless the request says otherwise."""

Count = Annotated[int, Meta(ge=1, le=1000)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields of every ranking request.

    Attributes
    ----------
    user : str
        User id.
    context : dict
        Request context: device, page, ...
    request_id : str or None
        Id of the impression, which interactions refer to. The service makes one when it is absent. An id that was used for
        another impression is refused with 409, also in a retry: omit it there.
    by : str or None
        Name of a retriever whose order is used instead of the ranker's (a baseline).
    seed : int or None
        Makes a randomised policy repeatable.
    explain : bool
        Add the reasons for each score.
    log : bool
        Append the impression to the log. Set it to false if no user will see this ranking.
    """

    user: Id
    context: dict[str, Scalar] = field(default_factory=dict)
    request_id: Id | None = None
    by: Kind | None = None
    seed: Seed | None = None
    explain: bool = False
    log: bool = True


class RankRequest(_Request):
    """Put these items in order for a user.

    Attributes
    ----------
    items : list of str
        Candidates.
    n : int or None
        Number of positions; None: one for each candidate. There are fewer if there are fewer candidates; then `short` says why.
    """

    items: Annotated[list[Id], Meta(min_length=1, max_length=1000)]
    n: Count | None = None


class RecommendRequest(_Request):
    """Find and order items for a user.

    Attributes
    ----------
    n : int
        Number of items to return. There are fewer only if the catalogue has no more that may be recommended to the user; then
        `short` says why.
    candidates : int
        Number of items that each retriever finds for the ranker; `n` if that is larger.
    exclude : list of str
        Items that must not be recommended.
    repeat : bool
        Whether items that the user has already interacted with may be recommended again.
    """

    n: Count = 10
    candidates: Count = CANDIDATES
    exclude: Annotated[list[Id], Meta(max_length=10_000)] = field(default_factory=list)
    repeat: bool = False

    @property
    def found(self) -> int:
        """Number of items that each retriever is asked for."""
        return max(self.candidates, self.n)


class Neighbour(Struct, kw_only=True):
    """A similar earlier row whose outcome changed the score.

    Attributes
    ----------
    item : str or None
        Its item; None when the catalogue no longer knows it.
    label : float
        Its outcome, 0 to 1.
    age : float
        Seconds since it was shown.
    similarity : float
        Similarity to this row, in the ranker's hidden vectors.
    weight : float
        Its share in the correction, among all neighbours.
    """

    item: str | None
    label: float
    age: float
    similarity: float
    weight: float


class Reasons(Struct, kw_only=True, omit_defaults=True):
    """Why an item has its score.

    Attributes
    ----------
    retrievers : dict
        Score that each retriever gave it, by name.
    base : float
        The ranker's score, before rerankers.
    contributions : dict
        Contribution of each field to the base score's log-odds, without the constant part.
    neighbours : list of Neighbour
        The earlier rows that changed the score from `base` most.
    values : dict
        Numbers of rerankers that changed the score from `base`, by the reranker's name and theirs, as ``losse_ftl.q_2``.
    """

    retrievers: dict[str, float] = field(default_factory=dict)
    base: float | None = None
    contributions: dict[str, float] = field(default_factory=dict)
    neighbours: list[Neighbour] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)


class RankedItem(Struct, kw_only=True, omit_defaults=True):
    """One position of a ranking: item, score, and the probability of this item here given the positions above."""

    item: str
    score: float
    propensity: float
    uncertainty: float | None = None
    reasons: Reasons | None = None


class RankingResponse(Struct, kw_only=True):
    """A ranking.

    Attributes
    ----------
    request_id : str
        Send it with every interaction with this ranking.
    version : int
        Number of micro-batches that the scoring state has learned.
    lag : float or None
        Seconds that the scoring state may be behind the event log: all older events are in it. None while that is not known.
    source : str
        Name of the learner whose scores made the order.
    policy : str
        Name of the policy that selected the items.
    items : list of RankedItem
        In order of position.
    skipped : list of str
        Stages that failed and were skipped for this response, and ids among the given items that are deleted.
    short : str or UnsetType
        Why there are fewer than `n` items; absent when there are not.
    """

    request_id: str
    version: int
    lag: float | None
    source: str
    policy: str
    items: list[RankedItem]
    skipped: list[str] = field(default_factory=list)
    short: str | UnsetType = UNSET
