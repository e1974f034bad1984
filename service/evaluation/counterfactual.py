"""Records what another policy would have shown in each impression of a log, before any learner learns from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from learners.base import Policy, Values
from learners.features import hash_id, hash_ids
from service.evaluation.estimators import Decisions
from service.ranking.pipeline import Pipeline
from service.ranking.uncertainty import largest_uncertainty
from streams.batch import Floats, Ids
from streams.events import Impression
from streams.joined import Outcome
from streams.readers.decisions import Decision

__all__ = ["Counterfactual", "EmpiricalPolicy", "PipelinePolicy", "TargetPolicy", "UndefinedDistribution"]


class UndefinedDistribution(ValueError):
    """The evaluated policy has no distribution for an impression."""


class TargetPolicy(Protocol):
    """The policy that is evaluated."""

    def distribution(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """Return the probability of each candidate at the next position.

        Parameters
        ----------
        impression : Impression
            The logged impression.
        item : (n,) int64
            Hashed ids of the candidates.
        score, uncertainty : (n,) float32
            Of the candidates, by the pipeline. The uncertainty is None if unknown.
        above : (j,) int64
            Indices of the candidates at the positions above.

        Raises
        ------
        Unknown
            If it has no distribution.
        """


class PipelinePolicy:
    """The policy of a pipeline, applied to the scores of the pipeline."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def distribution(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `TargetPolicy.distribution`."""
        return self._policy.distribution(score, uncertainty, above)


class EmpiricalPolicy:
    """Shows each item at a position as often as another log with one item per decision did, for every user.

    Parameters
    ----------
    decisions : iterable of Decision
        With a ``position`` in their context.
    """

    def __init__(self, decisions: Iterable[Decision]) -> None:
        counts: dict[object, Counter[int]] = {}
        for decision in decisions:
            impression = decision.impression
            counts.setdefault(impression.context.get("position"), Counter())[hash_id(impression.items[0])] += 1
        self._shares = {
            position: {item: count / counted.total() for item, count in counted.items()} for position, counted in counts.items()
        }

    def distribution(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `TargetPolicy.distribution`; scores are not used."""
        position = impression.context.get("position")
        shares = self._shares.get(position, {})
        probabilities = np.array([shares.get(key, 0.0) for key in item.tolist()])
        if above.size or not abs(probabilities.sum() - 1) < 1e-9:
            raise UndefinedDistribution(
                f"position: at {position!r}, the log given as the policy shows nothing, or items that are no candidates here; "
                "give two logs of one campaign"
            )
        return probabilities


@dataclass(slots=True)
class _Record:
    """An impression: probabilities under both policies, the model's predictions, and rewards, NaN until an outcome arrives."""

    request_id: str
    timestamp: float
    importance: float
    propensity: Sequence[float]
    values: Values  # (4, positions): target, predicted, expected, on_policy
    reward: Values


class Counterfactual:
    """Collects the decisions of a log with their probabilities under the evaluated policy.

    Parameters
    ----------
    pipeline : Pipeline
        Scores the candidates. Its ranker alone predicts rewards, on any scale.
    target : TargetPolicy
        The policy that is evaluated.
    positions : int or None
        Number of positions per impression that count, from the first; None: all.
    chain : bool
        Whether the policy also fills the positions above; see `service.evaluation.estimators.Decisions`.
    window : float
        Seconds until an item without an interaction counts as not clicked; 0 if outcomes come with the decisions.
    seed : int
        Seed of the lists that are sampled from the policy.

    Attributes
    ----------
    left_out : Counter
        Excluded impressions: without usable propensities (``no_propensities``), repeated (``duplicates``), or from the last
        `window` seconds (``young``).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        target: TargetPolicy,
        *,
        positions: int | None = None,
        chain: bool = True,
        window: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._pipeline, self._target, self._positions, self._chain, self._window = pipeline, target, positions, chain, window
        self._rng = np.random.default_rng(seed)
        self._records: dict[str, _Record] = {}
        self._latest = 0.0
        self.left_out: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def add_impressions(self, impressions: Sequence[Impression], importance: Mapping[str, float] | None = None) -> None:
        """Add impressions before any learner learns from them. `importance` is by request id, 1 by default.

        Raises
        ------
        Unknown
            If the policy has no distribution for an impression.
        """
        usable: dict[str, Impression] = {}
        for impression in impressions:
            self._latest = max(self._latest, impression.timestamp)
            logged = impression.propensities
            if len(logged) != len(impression.items) or not all(0 < probability <= 1 for probability in logged):
                self.left_out["no_propensities"] += 1
            elif impression.request_id in self._records or impression.request_id in usable:
                self.left_out["duplicates"] += 1
            else:
                usable[impression.request_id] = impression
        if usable:
            self._add(list(usable.values()), importance or {})

    def add_outcomes(self, rows: Sequence[Outcome], reward: Floats) -> None:
        """Add outcomes. If a position has several, the one with the highest reward counts."""
        for row, value in zip(rows, reward.tolist(), strict=True):
            if not row.kind:  # no interaction: dated at the closing of the impression, even if the log ends earlier
                continue
            self._latest = max(self._latest, row.timestamp)
            record = None if row.shown is None else self._records.get(row.shown.impression.request_id)
            if record is not None and row.position < record.reward.size:
                record.reward[row.position] = np.fmax(record.reward[row.position], value)

    def decisions(self) -> tuple[list[str], Decisions] | None:
        """Return request ids and decisions of all impressions whose outcome is known; None if there are none.

        Predictions are on the ranker's own scale; see `service.evaluation.calibration`.
        """
        complete = [record for record in self._records.values() if self._window_has_ended(record)]
        self.left_out["young"] = len(self._records) - len(complete)
        if not complete:
            return None
        positions = np.array([record.reward.size for record in complete])
        values = np.concatenate([record.values for record in complete], axis=1)
        return [record.request_id for record in complete], Decisions(
            start=np.cumsum(positions) - positions,
            reward=np.nan_to_num(np.concatenate([record.reward for record in complete])),
            propensity=np.concatenate([np.array(record.propensity, np.float64) for record in complete]),
            target=values[0],
            importance=np.repeat([record.importance for record in complete], positions),
            predicted=values[1],
            expected=values[2],
            on_policy=values[3],
            chain=self._chain,
        )

    def _add(self, usable: Sequence[Impression], importance: Mapping[str, float]) -> None:
        items = [np.concatenate((hash_ids(one.items), np.frombuffer(one.unshown, "<i8"))) for one in usable]
        ends = np.cumsum([0, *(candidates.size for candidates in items)])
        score, predicted, uncertainty = self._score(usable, np.concatenate(items), np.diff(ends))
        for n, impression in enumerate(usable):
            rows = slice(ends[n], ends[n + 1])
            errors = None if uncertainty is None else uncertainty[rows]
            values = self._values(impression, items[n], score[rows], errors, predicted[rows])
            self._records[impression.request_id] = _Record(
                impression.request_id,
                impression.timestamp,
                importance.get(impression.request_id, 1.0),
                impression.propensities[: values.shape[1]],
                values,
                np.full(values.shape[1], np.nan),
            )

    def _window_has_ended(self, record: _Record) -> bool:
        return record.timestamp <= self._latest - self._window

    def _score(self, impressions: Sequence[Impression], item: Ids, sizes: Ids) -> tuple[Floats, Floats, Floats | None]:
        """Scores of all candidates, predictions of the ranker, and uncertainties."""
        pipeline = self._pipeline
        requests = pipeline.requests(
            hash_ids([one.user for one in impressions]),
            np.array([one.timestamp for one in impressions], np.float64),
            pipeline.featurizer.encode_context([one.context for one in impressions]),
        )
        request = np.repeat(np.arange(len(impressions)), sizes)
        batch = pipeline.rows.batch(requests, request, item)
        retrievers = pipeline.retrievers.named.values()
        if any(retriever.knows_uncertainty for retriever in retrievers):
            batch.uncertainty = largest_uncertainty(retrievers, batch)
        # What the log calls candidates is taken as retrieved: the evaluated policy orders them as it would order its own.
        pipeline.score(batch, np.ones(batch.user.size, np.bool_))
        assert batch.base is not None, "filled in by the pipeline"
        return batch.score, batch.base, batch.uncertainty

    def _values(
        self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, predicted: Floats
    ) -> Values:
        """Target, predicted, expected and on_policy of each position, (4, positions)."""
        positions = len(impression.items) if self._positions is None else min(self._positions, len(impression.items))
        values = np.empty((4, positions))
        own_list: list[int] = []
        for position in range(positions):
            given_logged = self._target.distribution(impression, item, score, uncertainty, np.arange(position))
            given_own = given_logged
            if self._chain and own_list != list(range(position)):
                given_own = self._target.distribution(impression, item, score, uncertainty, np.array(own_list, np.int64))
            values[:, position] = given_logged[position], predicted[position], given_logged @ predicted, given_own @ predicted
            if self._chain and position + 1 < positions:
                own_list.append(int(self._rng.choice(item.size, p=given_own / given_own.sum())))
        return values
