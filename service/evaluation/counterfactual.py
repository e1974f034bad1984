"""What a policy would have done with each impression of a log, noted before anybody learns from it."""

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
from streams.joined import Row
from streams.readers.decisions import Decision

__all__ = ["Chooser", "Counterfactual", "OfPolicy", "Shares", "Unknown"]


class Unknown(ValueError):
    """An impression for which the evaluated policy does not say what it would do."""


class Chooser(Protocol):
    """The policy that is evaluated."""

    def distribution(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """Probability of each candidate at the next place.

        Parameters
        ----------
        impression : Impression
            What was shown instead.
        item : (n,) int64
            Hashed ids of the candidates.
        score, uncertainty : (n,) float32
            Of the candidates, by the pipeline; None where the uncertainty is not known.
        above : (j,) int64
            Candidates at the places above.

        Raises
        ------
        Unknown
            When it has no answer.
        """


class OfPolicy:
    """The policy of a pipeline, on the scores of that pipeline."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def distribution(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Chooser.distribution`."""
        return self._policy.distribution(score, uncertainty, above)


class Shares:
    """Shows each item at a position as often as another log of one-place decisions did, whoever asks.

    Parameters
    ----------
    decisions : iterable of Decision
        With a ``position`` in their context.
    """

    def __init__(self, decisions: Iterable[Decision]) -> None:
        counts: dict[object, Counter[int]] = {}
        for decision in decisions:
            shown = decision.impression
            counts.setdefault(shown.context.get("position"), Counter())[hash_id(shown.items[0])] += 1
        self._shares = {
            position: {item: count / counted.total() for item, count in counted.items()} for position, counted in counts.items()
        }

    def distribution(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, above: Ids) -> Values:
        """See `Chooser.distribution`; scores do not matter."""
        position = impression.context.get("position")
        shares = self._shares.get(position, {})
        chances = np.array([shares.get(key, 0.0) for key in item.tolist()])
        if above.size or not abs(chances.sum() - 1) < 1e-9:
            raise Unknown(
                f"position: at {position!r} the log that is the policy shows items that are no candidates here, or nothing; "
                "give logs of one campaign"
            )
        return chances


@dataclass(slots=True)
class _Noted:
    """An impression's places: what both policies would do, and the model's predictions; reward NaN until something happens."""

    request_id: str
    timestamp: float
    importance: float
    propensity: Sequence[float]
    told: Values  # (4, places): target, predicted, expected, own
    reward: Values


class Counterfactual:
    """Collects decisions.

    Parameters
    ----------
    pipeline : Pipeline
        Scores the candidates; predicts rewards, by its ranker alone, on whatever scale that has.
    chooser : Chooser
        The policy that is evaluated.
    places : int or None
        Places of an impression that count, from the first; None: all.
    chain : bool
        Whether the policy fills the places above, too; see `service.evaluation.estimators.Decisions`.
    window : float
        Seconds until what was left alone is known to have been; 0 where outcomes come with the decisions.
    seed : int
        Of the lists that the policy is imagined to show.

    Attributes
    ----------
    left_out : Counter
        Impressions without usable propensities (``no_propensities``), repeated ones (``duplicates``), and those of the last
        `window` seconds (``young``).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        chooser: Chooser,
        *,
        places: int | None = None,
        chain: bool = True,
        window: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._pipeline, self._chooser, self._places, self._chain, self._window = pipeline, chooser, places, chain, window
        self._rng = np.random.default_rng(seed)
        self._noted: dict[str, _Noted] = {}
        self._reached = 0.0
        self.left_out: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._noted)

    def shown(self, impressions: Sequence[Impression], importance: Mapping[str, float] | None = None) -> None:
        """Take impressions that nobody has learned from; `importance` by request id, 1 where it does not say.

        Raises
        ------
        Unknown
            When the policy does not say what it would do.
        """
        usable: dict[str, Impression] = {}
        for impression in impressions:
            self._reached = max(self._reached, impression.timestamp)
            logged = impression.propensities
            if len(logged) != len(impression.items) or not all(0 < one <= 1 for one in logged):
                self.left_out["no_propensities"] += 1
            elif impression.request_id in self._noted or impression.request_id in usable:
                self.left_out["duplicates"] += 1
            else:
                usable[impression.request_id] = impression
        if usable:
            self._note(list(usable.values()), importance or {})

    def happened(self, rows: Sequence[Row], reward: Floats) -> None:
        """Take outcomes: of several at one place, the one that is worth most counts."""
        for row, worth in zip(rows, reward.tolist(), strict=True):
            if not row.kind:  # left alone: dated at the end of its window, whether or not the log goes that far
                continue
            self._reached = max(self._reached, row.timestamp)
            noted = None if row.shown is None else self._noted.get(row.shown.impression.request_id)
            if noted is not None and row.position < noted.reward.size:
                noted.reward[row.position] = np.fmax(noted.reward[row.position], worth)

    def decisions(self) -> tuple[list[str], Decisions] | None:
        """Everything noted whose outcome is known: request ids, and the decisions; None when there are not any.

        Predictions are the ranker's, on its own scale; see `service.evaluation.calibration`.
        """
        old = [noted for noted in self._noted.values() if self._is_old(noted)]
        self.left_out["young"] = len(self._noted) - len(old)
        if not old:
            return None
        places = np.array([noted.reward.size for noted in old])
        told = np.concatenate([noted.told for noted in old], axis=1)
        return [noted.request_id for noted in old], Decisions(
            start=np.cumsum(places) - places,
            reward=np.nan_to_num(np.concatenate([noted.reward for noted in old])),
            propensity=np.concatenate([np.array(noted.propensity, np.float64) for noted in old]),
            target=told[0],
            importance=np.repeat([noted.importance for noted in old], places),
            predicted=told[1],
            expected=told[2],
            own=told[3],
            chain=self._chain,
        )

    def _note(self, usable: Sequence[Impression], importance: Mapping[str, float]) -> None:
        items = [np.concatenate((hash_ids(one.items), np.frombuffer(one.unshown, "<i8"))) for one in usable]
        ends = np.cumsum([0, *(candidates.size for candidates in items)])
        score, predicted, uncertainty = self._score(usable, np.concatenate(items), np.diff(ends))
        for n, impression in enumerate(usable):
            rows = slice(ends[n], ends[n + 1])
            errors = None if uncertainty is None else uncertainty[rows]
            told = self._tell(impression, items[n], score[rows], errors, predicted[rows])
            self._noted[impression.request_id] = _Noted(
                impression.request_id,
                impression.timestamp,
                importance.get(impression.request_id, 1.0),
                impression.propensities[: told.shape[1]],
                told,
                np.full(told.shape[1], np.nan),
            )

    def _is_old(self, noted: _Noted) -> bool:
        return noted.timestamp <= self._reached - self._window

    def _score(self, impressions: Sequence[Impression], item: Ids, sizes: Ids) -> tuple[Floats, Floats, Floats | None]:
        """Scores of all candidates with what the policy needs, and the ranker's predictions."""
        pipeline = self._pipeline
        requests = pipeline.requests(
            hash_ids([one.user for one in impressions]),
            np.array([one.timestamp for one in impressions], np.float64),
            pipeline.featurizer.encode_context([one.context for one in impressions]),
        )
        request = np.repeat(np.arange(len(impressions)), sizes)
        batch = pipeline.featurizer.batch(requests, request, item, pipeline.users, pipeline.items)
        retrievers = pipeline.retrievers.named.values()
        if any(retriever.knows_uncertainty for retriever in retrievers):
            batch.uncertainty = largest_uncertainty(retrievers, batch)
        pipeline.score(batch)
        assert batch.base is not None, "filled in by the pipeline"
        return batch.score, batch.base, batch.uncertainty

    def _tell(self, impression: Impression, item: Ids, score: Floats, uncertainty: Floats | None, predicted: Floats) -> Values:
        """Target, predicted, expected and own of each place, (4, places)."""
        places = len(impression.items) if self._places is None else min(self._places, len(impression.items))
        told = np.empty((4, places))
        own: list[int] = []
        for place in range(places):
            as_logged = self._chooser.distribution(impression, item, score, uncertainty, np.arange(place))
            by_itself = as_logged
            if self._chain and own != list(range(place)):
                by_itself = self._chooser.distribution(impression, item, score, uncertainty, np.array(own, np.int64))
            told[:, place] = as_logged[place], predicted[place], as_logged @ predicted, by_itself @ predicted
            if self._chain and place + 1 < places:
                own.append(int(self._rng.choice(item.size, p=by_itself / by_itself.sum())))
        return told
