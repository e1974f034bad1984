"""Requests for a ranking, and rankings, as msgspec structs: one source for validation, code and the OpenAPI page."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from streams.events import Id, Kind, Scalar

__all__ = ["Neighbour", "RankRequest", "RankedItem", "RankingResponse", "Reasons", "RecommendRequest"]

Count = Annotated[int, Meta(ge=1, le=1000)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """What every request for a ranking says.

    Attributes
    ----------
    user : str
        User id.
    context : dict
        Request context: device, page, ...
    request_id : str or None
        Id of the impression, for interactions to join on; made by the service when absent.
    by : str or None
        Name of a retriever whose own order is wanted (a baseline), instead of the ranker's.
    seed : int or None
        Makes a randomised policy repeatable.
    explain : bool
        Add the reasons of each score.
    log : bool
        Append the impression to the log. False: nobody will see this ranking.
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
        Places to fill; None: one for every candidate.
    """

    items: Annotated[list[Id], Meta(min_length=1, max_length=1000)]
    n: Count | None = None


class RecommendRequest(_Request):
    """Find and order items for a user.

    Attributes
    ----------
    n : int
        Items wanted.
    candidates : int
        Items retrieved, by each retriever, for the ranker to choose from.
    exclude : list of str
        Items not to recommend.
    repeat : bool
        Whether items that the user has already interacted with may come again.
    """

    n: Count = 10
    candidates: Count = 100
    exclude: Annotated[list[Id], Meta(max_length=10_000)] = field(default_factory=list)
    repeat: bool = False


class Neighbour(Struct, kw_only=True):
    """An earlier row like this one, whose outcome moved the score.

    Attributes
    ----------
    item : str or None
        Its item; None when the catalogue no longer knows it.
    label : float
        What came of it, 0 to 1.
    age : float
        Seconds since it was shown.
    similarity : float
        To this row, as the ranker saw both.
    weight : float
        Its share among all rows that moved the score.
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
        Part of each feature in the base score's log-odds, by field; the constant part is left out.
    neighbours : list of Neighbour
        Earlier rows whose outcomes moved the score from `base`, the weightiest few.
    """

    retrievers: dict[str, float] = field(default_factory=dict)
    base: float | None = None
    contributions: dict[str, float] = field(default_factory=dict)
    neighbours: list[Neighbour] = field(default_factory=list)


class RankedItem(Struct, kw_only=True, omit_defaults=True):
    """One place of a ranking: the item, its score, and the probability that it was put here given the places above."""

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
        Send it with every interaction that follows from this ranking.
    version : int
        Micro-batches that the scoring state had learned from.
    lag : float or None
        Seconds: what was appended to the log of events longer ago is in the scoring state. None while that is not known.
    source : str
        Learner that made the order.
    policy : str
        Policy that chose among the scores.
    items : list of RankedItem
        Best place first.
    skipped : list of str
        Stages that failed and were left out of this answer.
    """

    request_id: str
    version: int
    lag: float | None
    source: str
    policy: str
    items: list[RankedItem]
    skipped: list[str] = field(default_factory=list)
