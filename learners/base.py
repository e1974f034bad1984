"""The five roles: what every learner can be asked to do.

A role is an interface; a learner is final. A learner keeps its state only in stores of `memory`, so saving, restoring and
shipping it are inherited. Nothing here is asked to learn while it serves: `retrieve`, `score`, `adapt`, `rerank` and
`select` never change state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from learners.delta import LowRank, Shapes, WeightDelta
from learners.schema import EvidenceColumn, Schema
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.stateful import Stateful
from streams.batch import Batch, Feedback, Floats, Ids, Kinds, Requests, Times

__all__ = [
    "Adapter",
    "Candidates",
    "Catalogues",
    "Choices",
    "Exclusion",
    "Learner",
    "LowRank",
    "Neighbours",
    "Policy",
    "Ranker",
    "Ranking",
    "Reranker",
    "Retriever",
    "UserHistory",
    "Values",
    "WeightDelta",
]

Values = npt.NDArray[np.float64]


@dataclass(slots=True)
class Exclusion:
    """Items that must not be retrieved, per request (jagged).

    Attributes
    ----------
    item : (M,) int64
        Hashed item ids, those of request 0 first.
    start : (B + 1,) int64
        Request b excludes ``item[start[b]:start[b + 1]]``.
    """

    item: Ids
    start: Ids

    @classmethod
    def none(cls, requests: int) -> Exclusion:
        """Exclude nothing for `requests` requests."""
        return cls(np.empty(0, np.int64), np.zeros(requests + 1, np.int64))


@dataclass(frozen=True, slots=True)
class Catalogues:
    """What is known of users and items, for learners to look things up in: never to be written to."""

    users: Catalog
    items: Catalog


@dataclass(frozen=True, slots=True)
class UserHistory:
    """What each user did last, for learners to look up in. A learner that keeps it does not save it as its own state."""

    store: History

    def recent(self, user: Ids, length: int) -> tuple[Ids, Times, Kinds]:
        """Last interactions with a positive reward of users (B,); see `memory.keyed.history.History.recent`."""
        return self.store.recent(user, length)

    def seen(self, user: Ids) -> tuple[Ids, Ids]:
        """Different items that users (B,) acted on; see `memory.keyed.history.History.seen`."""
        return self.store.seen(user)

    def activity(self, user: Ids) -> Ids:
        """How many interactions users (B,) have had so far, (B,) int64; 0 for a user who is not known."""
        return self.store.activity(user)


@dataclass(slots=True)
class Choices:
    """What users chose, each among the candidates that the retrievers had for them just before.

    Attributes
    ----------
    batch : Batch
        N candidates of B requests, one request a choice, with ``evidence``; without features and scores. Items that the user
        had touched before are not among them.
    chosen : (B,) int64
        Row of the chosen item in the batch; -1 where no retriever had it.
    reward : (B,) float32
        What the choice was worth, above 0.
    """

    batch: Batch
    chosen: Ids
    reward: Floats


@dataclass(slots=True)
class Candidates:
    """Items retrieved, per request (jagged).

    Attributes
    ----------
    item : (N,) int64
        Hashed item ids; within a request best first.
    request : (N,) int64
        Index of each item's request, non-decreasing.
    score : (N,) float32
        The retriever's own score.
    uncertainty : (N,) float32 or None
        Its standard error, if the retriever knows it.
    """

    item: Ids
    request: Ids
    score: Floats
    uncertainty: Floats | None = None


@dataclass(slots=True)
class Neighbours:
    """Earlier rows whose outcomes moved a score: up to K for each of N rows.

    Attributes
    ----------
    item : (N, K) int64
        Hashed ids; 0 where there is none.
    label : (N, K) float32
        What came of it.
    age : (N, K) float64
        Seconds before the request.
    similarity, weight : (N, K) float32
        To the row, and its share in what moved the score; weight 0 where there is none.
    """

    item: Ids
    label: Floats
    age: Times
    similarity: Floats
    weight: Floats


@dataclass(slots=True)
class Ranking:
    """An order of items for one request.

    Attributes
    ----------
    rows : (k,) int64
        Rows of the batch that were put at places 0 to k - 1.
    propensities : (k,) float32
        Probability that the row was put at its place, given the rows put at the places before it.
    """

    rows: Ids
    propensities: Floats


class Learner(Stateful, ABC):
    """Anything that learns from feedback."""

    digest_stable: ClassVar[bool] = True
    """Whether equal learners have equal bytes; False where another library keeps the state (then compare what they return)."""

    tolerance: ClassVar[float] = 0.0
    """How far states and answers of two learners that were taught the same may differ where a store is on a GPU, which adds up
    in no fixed order: absolutely, and relative to the number. On the CPU they are equal to the bit."""

    name: str = ""
    """What the config calls it; set before anything else is called. ``Requests.carried`` has its bytes under this name."""

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows whose outcome is known, in row order."""

    def observe(self, batch: Batch) -> None:
        """Learn from rows that were shown, before any outcome is known."""

    def forget(self, users: Ids) -> None:
        """Remove what is kept for these users alone (hashed ids)."""

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Take note of the columns, and of where to look things up. Called once, before any other method.

        Parameters
        ----------
        schema : Schema
            Names, sides, types and counts of the columns that this learner will be given.
        catalogues : Catalogues
            Attributes of users and items.
        history : UserHistory
            What each user did last, as of now.

        Raises
        ------
        ValueError
            When this learner cannot work with such columns; the message names the remedy.
        """

    def carry(self, requests: Requests) -> list[bytes] | None:
        """Bytes that this learner wants back when it learns from these requests, one each of B; None: nothing.

        They are logged with what is shown, and come back in ``carried`` under this learner's name when its outcome is learned.
        What serves the same requests gets them, too.
        """
        return None

    def add(self, items: Ids) -> None:
        """Take note that these items (hashed ids) have come into the catalogue, or that their attributes have changed."""

    def remove(self, items: Ids) -> None:
        """Remove what is kept for these items alone (hashed ids): they were deleted from the catalogue."""

    def metrics(self) -> Mapping[str, float]:
        """Figures for whoever operates it, by name; read on any thread, so they must be at hand."""
        return {}


class Retriever(Learner):
    """Finds candidates for a request.

    Attributes
    ----------
    knows_uncertainty : bool
        Whether it has `uncertainty`, and gives it with its candidates.
    optimism : float
        Best is what has the highest ``score + optimism * uncertainty``.
    """

    knows_uncertainty: ClassVar[bool] = False
    optimism: float = 0.0

    @abstractmethod
    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """At most `k` candidates per request, best first, none of them excluded."""

    @abstractmethod
    def score(self, batch: Batch) -> Floats:
        """Return this retriever's own scores of given rows, (N,) float32, all finite; ``batch`` itself is left as it is."""

    @property
    def evidence_columns(self) -> tuple[EvidenceColumn, ...]:
        """Columns of `evidence`; known once `bind` was called. By default its score."""
        return (EvidenceColumn("score"),)

    def evidence(self, batch: Batch) -> Floats:
        """Return what this retriever knows of each row, (N, its columns) float32, all finite; ``batch`` is left as it is.

        On scales that a linear model can use: logarithms of counts and of scores, flags of 0 and 1.
        """
        return self.score(batch)[:, None]

    def uncertainty(self, batch: Batch) -> Floats:
        """Return the standard errors of what `score` returns, (N,) float32; asked for only where ``knows_uncertainty``.

        0: it knows nothing of the row; inf: the item was never tried. ``batch`` itself is left as it is.
        """
        raise NotImplementedError(f"{type(self).__name__}.uncertainty: it has knows_uncertainty, so it needs this method")


class Ranker(Learner):
    """Scores rows.

    Attributes
    ----------
    hidden_width : int
        Width H of the ``hidden`` that it fills; 0: it has none.
    """

    hidden_width: int = 0

    @abstractmethod
    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``batch.score`` (probability of a positive reward, or expected reward) and, if it has one, ``batch.hidden``.

        `delta` is added to the parameters for these requests only. It names none but those in `adaptable`, and fits their
        shapes; None: nothing is added.
        """

    def adaptable(self) -> Shapes:
        """Shapes of the parameters that may be changed for a request, by name; known once `bind` was called. By default none.

        Adapters are built with the ranker, and refused where this is empty.
        """
        return {}

    def explain(self, batch: Batch) -> Floats | None:
        """Contribution of each feature column to the score's log-odds, (N, F); None when the ranker cannot tell."""
        return None


class Adapter(Learner):
    """Changes the ranker's parameters for the requests at hand, never the ranker itself.

    Parameters
    ----------
    ranker : Ranker
        What it adapts, bound. The pipeline gives it; it is no key of the config.

    Raises
    ------
    ValueError
        When the ranker has nothing to adapt.
    """

    checks_ranker: ClassVar[str] = ""
    """Ranker that the contract suite builds it with, as a config names it."""

    def __init__(self, ranker: Ranker) -> None:
        if not ranker.adaptable():
            name = ranker.name or type(ranker).__name__
            raise ValueError(
                f"ranker: {name} has no parameters that can be changed for a request; choose another, or leave the adapter out"
            )
        self.ranker = ranker

    def children(self) -> Iterator[tuple[str, Stateful]]:
        """Attributes that hold state; the ranker saves its own."""
        return ((name, child) for name, child in super().children() if child is not self.ranker)

    @property
    @abstractmethod
    def changes(self) -> Collection[str]:
        """Parameters that `adapt` may change: names among ``ranker.adaptable()``. No two adapters may name the same one."""

    @abstractmethod
    def adapt(self, batch: Batch) -> WeightDelta:
        """Changes for the requests of this batch; see `learners.delta.WeightDelta`. A parameter left out stays as it is."""


class Reranker(Learner):
    """Makes new scores from scores.

    Attributes
    ----------
    needs_hidden : bool
        Whether it works on the ranker's ``hidden``. Its constructor is then given the keyword ``width``, H.
    needs_evidence : bool
        Whether it works on ``batch.evidence``, which then is there where a request has more than one row, and on `choose`.
    """

    needs_hidden: ClassVar[bool] = False
    needs_evidence: ClassVar[bool] = False

    def choose(self, choices: Choices) -> None:
        """Learn from what users chose among all candidates. Called before `learn`, where ``needs_evidence``."""

    @abstractmethod
    def rerank(self, batch: Batch) -> Floats:
        """Return new scores, (N,) float32, from the batch's; ``batch`` itself is left as it is."""

    def explain(self, batch: Batch) -> Neighbours | None:
        """Earlier rows that moved each score; None when there are no such rows."""
        return None


class Policy(ABC):
    """Turns scores into an order, and says how probable that order was.

    Attributes
    ----------
    needs_uncertainty : bool
        Whether it cannot choose by scores alone.
    """

    needs_uncertainty: ClassVar[bool] = False

    @abstractmethod
    def select(self, score: Floats, uncertainty: Floats | None, k: int, rng: np.random.Generator) -> Ranking:
        """Choose at most `k` of one request's rows.

        Parameters
        ----------
        score : (n,) float32
            Scores of the request's rows.
        uncertainty : (n,) float32 or None
            Their standard errors, if known.
        k : int
            Places to fill.
        rng : numpy.random.Generator
            The only source of randomness.
        """

    @abstractmethod
    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """Probability with which each row would be put at the next place.

        Parameters
        ----------
        score, uncertainty
            As for `select`.
        above : (j,) int64
            Rows at the places 0 to j - 1, all different; fewer than there are rows.

        Returns
        -------
        (n,) float64
            0 for the rows above; sums to 1. ``select`` puts a row at place j with the j-th of these probabilities.
        """
