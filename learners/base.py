"""Interfaces of the five roles: retriever, ranker, adapter, reranker and policy.

A learner implements one role and has no subclasses. It keeps its state only in stores of `memory`, so it inherits saving,
restoring and replication. Serving never changes state: `retrieve`, `score`, `adapt`, `rerank` and `select` only read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from learners.delta import LowRank, Shapes, WeightDelta
from learners.lookups import Catalogues, UserHistory
from learners.schema import EvidenceColumn, Schema
from memory.stateful import Stateful
from streams.batch import Batch, Feedback, Floats, Ids, Requests, Times

__all__ = [
    "Adapter",
    "Candidates",
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
        """Return an exclusion of nothing, for `requests` requests."""
        return cls(np.empty(0, np.int64), np.zeros(requests + 1, np.int64))


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
        Hashed item ids, best first within each request.
    request : (N,) int64
        Index of each item's request, non-decreasing.
    score : (N,) float32
        The retriever's own score.
    uncertainty : (N,) float32 or None
        Standard error of the score, if the retriever estimates it.
    """

    item: Ids
    request: Ids
    score: Floats
    uncertainty: Floats | None = None


@dataclass(slots=True)
class Neighbours:
    """Earlier rows whose outcomes changed a score: up to K for each of N rows.

    Attributes
    ----------
    item : (N, K) int64
        Hashed item ids; 0 for no neighbour.
    label : (N, K) float32
        Label of the earlier row.
    age : (N, K) float64
        Seconds from the earlier row to the request.
    similarity : (N, K) float32
        Similarity of the earlier row to the scored row.
    weight : (N, K) float32
        Share of the earlier row in the change of the score; 0 for no neighbour.
    """

    item: Ids
    label: Floats
    age: Times
    similarity: Floats
    weight: Floats


@dataclass(slots=True)
class Ranking:
    """The order of items chosen for one request.

    Attributes
    ----------
    rows : (k,) int64
        Rows of the batch at positions 0 to k - 1.
    propensities : (k,) float32
        Probability of choosing the row for its position, given the rows at earlier positions.
    """

    rows: Ids
    propensities: Floats


class Learner(Stateful, ABC):
    """Base class of everything that learns from feedback."""

    digest_stable: ClassVar[bool] = True
    """Whether equal learners have equal state bytes. If False, as for River models, tests compare outputs instead."""

    tolerance: ClassVar[float] = 0.0
    """How far states and answers of two learners that were taught the same may differ where a store is on a GPU, which adds up
    in no fixed order: absolutely, and relative to the number. On the CPU they are equal to the bit."""

    name: str = ""
    """Name of this learner in the config, set before any method is called. It is the learner's key in ``Requests.carried``."""

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows with known outcomes, in row order."""

    def observe(self, batch: Batch) -> None:
        """Learn from rows that were shown, before their outcomes are known."""

    def forget(self, users: Ids) -> None:
        """Delete the state that belongs to these users only (hashed ids)."""

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Receive the column schema, the catalogues and the user history. Called once, before any other method.

        Parameters
        ----------
        schema : Schema
            Names, sides, types and counts of the columns in all later batches.
        catalogues : Catalogues
            Attributes of users and items.
        history : UserHistory
            Recent interactions of each user, kept up to date.

        Raises
        ------
        ValueError
            When this learner cannot work with these columns; the message names the remedy.
        """

    def carry(self, requests: Requests) -> list[bytes] | None:
        """Return one bytes object for each of the B requests, to be handed back at learning time; None for nothing.

        The bytes are logged with the impression. They come back in ``carried`` under this learner's name when the outcome is
        learned, and also when the same requests are served.
        """
        return None

    def add(self, items: Ids) -> None:
        """Handle items (hashed ids) that were added to the catalogue or whose attributes changed."""

    def remove(self, items: Ids) -> None:
        """Delete the state of these items (hashed ids). They were deleted from the catalogue."""

    def metrics(self) -> Mapping[str, float]:
        """Return metrics for operators, by name. Any thread may call this, so it must not compute much."""
        return {}


class Retriever(Learner):
    """Candidate generator: finds items for a request.

    Attributes
    ----------
    knows_uncertainty : bool
        Whether it implements `uncertainty` and returns it with its candidates.
    optimism : float
        Candidates are ordered by ``score + optimism * uncertainty``.
    """

    knows_uncertainty: ClassVar[bool] = False
    optimism: float = 0.0

    @abstractmethod
    def retrieve(self, requests: Requests, k: int, exclude: Exclusion) -> Candidates:
        """Return at most `k` candidates per request, best first, without the excluded items."""

    @abstractmethod
    def score(self, batch: Batch) -> Floats:
        """Return this retriever's scores of the rows, (N,) float32, all finite. ``batch`` must not be changed."""

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
        """Return the standard errors of the scores, (N,) float32. Called only if ``knows_uncertainty`` is True.

        0 means that the retriever has no estimate, inf that the item was never shown. ``batch`` must not be changed.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.uncertainty is missing; implement it, or set knows_uncertainty = False"
        )


class Ranker(Learner):
    """Scores rows.

    Attributes
    ----------
    hidden_width : int
        Width H of the ``hidden`` vectors that it fills; 0 if it has none.
    fixed_columns : bool
        Whether a column must have the same feature in all rows, as `bind` was told.
    learns_hidden : bool
        Whether `learn` reads them. If not, rows may come without: they need not be sent from one process to another.
    needs_retriever : str
        Name of the retriever that has its model and learns first, or empty. The constructor gets it, bound, as ``retriever``.
    """

    hidden_width: int = 0
    fixed_columns: bool = True
    learns_hidden: ClassVar[bool] = True
    needs_retriever: ClassVar[str] = ""

    @abstractmethod
    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``batch.score`` with the probability of a positive reward, or with the expected reward.

        With rewards above 1 or below 0, the odds of a probability are multiplied by them; see `learners.bounds.graded`.
        A ranker with a `hidden_width` fills ``batch.hidden``, too. `delta` is added to the parameters for these requests only.
        It contains only parameters in `adaptable`, with fitting shapes. None adds nothing.
        """

    def adaptable(self) -> Shapes:
        """Return the shapes of the parameters that an adapter may change, by name. Valid after `bind`; empty by default.

        An adapter is refused if its ranker returns nothing here.
        """
        return {}

    def explain(self, batch: Batch) -> Floats | None:
        """Return the contribution of each feature column to the log-odds, (N, F); None if the ranker cannot compute it."""
        return None


class Adapter(Learner):
    """Computes changes of the ranker's parameters for one batch of requests. The ranker itself stays as it is.

    Parameters
    ----------
    ranker : Ranker
        The bound ranker to adapt. The pipeline passes it; it is not a config key.

    Raises
    ------
    ValueError
        When the ranker has no adaptable parameters.
    """

    checks_ranker: ClassVar[str] = ""
    """Config name of the ranker that the contract suite uses to check this adapter."""

    def __init__(self, ranker: Ranker) -> None:
        if not ranker.adaptable():
            name = ranker.name or type(ranker).__name__
            raise ValueError(f"ranker: {name} has no parameters to adapt; choose another ranker, or remove the adapter")
        self.ranker = ranker

    def children(self) -> Iterator[tuple[str, Stateful]]:
        """Yield the attributes that hold state, except the ranker, which saves its own state."""
        return ((name, child) for name, child in super().children() if child is not self.ranker)

    @property
    @abstractmethod
    def changes(self) -> Collection[str]:
        """Names of the parameters that `adapt` may change, from ``ranker.adaptable()``. Two adapters may not share a name."""

    @abstractmethod
    def adapt(self, batch: Batch) -> WeightDelta:
        """Return the changes for this batch; see `learners.delta.WeightDelta`. Parameters that are left out do not change."""


class Reranker(Learner):
    """Corrects the ranker's scores.

    Attributes
    ----------
    needs_hidden : bool
        Whether it reads the ranker's ``hidden``. If so, its constructor receives the keyword ``width`` with the value H.
    needs_evidence : bool
        Whether it reads ``batch.evidence``, which is filled where a request has several rows, and learns in `choose`.
    """

    needs_hidden: ClassVar[bool] = False
    needs_evidence: ClassVar[bool] = False

    def choose(self, choices: Choices) -> None:
        """Learn from what users chose among all candidates. Called before `learn`, where ``needs_evidence``."""

    @abstractmethod
    def rerank(self, batch: Batch) -> Floats:
        """Return new scores, (N,) float32. ``batch`` must not be changed."""

    def explain(self, batch: Batch) -> Neighbours | None:
        """Return the earlier rows that changed each score; None if the reranker keeps no rows."""
        return None

    def values(self, batch: Batch) -> Mapping[str, Floats]:
        """Return numbers that changed each score, by name, (N,) float32 each; NaN where a row has none. Empty by default."""
        return {}


class Policy(ABC):
    """Chooses and orders items by their scores, and returns the propensity of each choice.

    Attributes
    ----------
    needs_uncertainty : bool
        Whether it needs the standard errors of the scores.
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
            Positions to fill.
        rng : numpy.random.Generator
            The only source of randomness.
        """

    @abstractmethod
    def distribution(self, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """Return the probability of each row to be chosen for the next position.

        Parameters
        ----------
        score, uncertainty
            As for `select`.
        above : (j,) int64
            Rows already chosen for positions 0 to j - 1, all different, and fewer than n.

        Returns
        -------
        (n,) float64
            Probabilities, which sum to 1; 0 for the rows in `above`. ``select`` uses the same probabilities for position j.
        """
