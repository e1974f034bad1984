"""ReLoop2: where the ranker was wrong on similar rows lately, move its score by as much.

References
----------
J. Zhu et al., "ReLoop2: Building Self-Adaptive Recommendation Models via Responsive Error Compensation Loop", KDD 2023,
arXiv 2306.08808.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Neighbours, Reranker
from learners.bounds import bounded
from learners.registry import register
from learners.rerankers.reloop2.compensation import attention, estimate_error
from learners.rerankers.reloop2.learned_weight import LearnedWeight
from memory.arrays import Arrays
from memory.error_memory import ErrorMemory, ErrorSketch, Evidence
from streams.batch import Batch, Bools, Feedback, Floats, Ids

__all__ = ["ReLoop2"]

Count = Annotated[int, Field(gt=0)]
Values = npt.NDArray[Any]


LONGEST = 1e6
"""Size of a number in a hidden vector past which a row is not remembered, and is looked up as if it were just that."""


@register("reloop2")
class ReLoop2(Reranker):
    """Error compensation from a memory of what the ranker said of rows, how it saw them, and what came of them.

    A row's key is the ranker's ``hidden``. Of the rows with the most similar keys, the memory knows labels y_i and base scores
    p_i. With attention a_i over them, the score p becomes p + weight * error, held within [0, 1], where
    error = gamma * (sum a_i y_i - p) + (1 - gamma) * sum a_i (y_i - p_i). A row without similar ones keeps its score.

    All rows of a batch are read before any is written, with key and base score as they were before any learner had learned
    from the batch: no row sees its own label, or a later one.

    Parameters
    ----------
    width : int
        Numbers in a key: the ranker's ``hidden_width``, filled in by the service.
    memory : {"neighbours", "sketch"}
        ``neighbours``: the last `capacity` rows, the most similar found by an index. ``sketch``: sums in hashed buckets.
    weight : float or "learned"
        lambda: 0 leaves every score as it was, 1 takes the whole error; the paper fixes it (0.4 or 0.9, by data set).
        ``learned``, which is not in the paper: the mean of 17 values from 0 to 1, each weighted by the likelihood of the
        labels under it, lately; see `learners.rerankers.reloop2.learned_weight.LearnedWeight`. A fixed one costs where nothing
        changes, or is too small where something does.
    half_life : int
        Of a learned weight: rows after which an outcome counts half.
    ages : int
        Of a learned weight over ``neighbours``: one is learned for all that were found, one for those among the last half of
        `capacity` rows, one for the last quarter, and so on, so many in number; together they are 1 at most. 1: all ages
        alike, as in the paper. While nothing changes old rows are worth as much as new ones; after a change they mislead.
    sample : float
        Of a learned weight: share of the rows that it is learned from, for each of them costs a read; 1: all. The more a row
        surprised the ranker the likelier it is taken, and the less it counts then. Fewer are taken where scores are near 0
        or 1, more while the ranker is wrong.
    gamma : float
        1: errors against what came of similar rows; 0: the errors that the ranker made on them.
    neighbours : int
        k, of ``neighbours``.
    temperature : float
        tau of the attention, a_i = softmax(s_i / tau). For similarities of another scale than the cosine's choose another.
    similarity : {"cosine", "inner_product", "l2"}
        s_i, of ``neighbours``; ``l2``: minus the squared distance.
    capacity : int
        Rows remembered, of ``neighbours``; the next takes the place of the oldest.
    index : {"ivf", "flat"}
        How neighbours are found: in the nearest of many lists, or among all.
    lists, probes : int
        Lists of ``ivf`` (default: twice the square root of `capacity`), and how many of them are looked at.
    device : {"cpu", "cuda"}
        Where ``flat`` compares.
    least_error : float
        sigma: rows with |label - base score| of at most this are not remembered. With gamma = 1, above 0, it ruins
        calibration: mostly the surprising labels are left to vote.
    clear_every : int
        Forget everything after so many rows, as the paper resets its memory; 0: never.
    arrays, bits : int
        Of ``sketch``: independent hashes, and bits of each; 24 bytes in each of their arrays * 2**bits buckets.
    centred : bool
        Subtract the running mean of the keys before hashing; see `memory.error_memory.ErrorSketch`.
    decay : float
        Of ``sketch``: weight that is left to what is remembered after each batch; 1: nothing fades.
    reading : {"count", "softmax"}
        Attention over the arrays of ``sketch``: in proportion to the rows in the bucket, or the softmax of their share.
    seed : int
        Of the sketch's hashes.

    References
    ----------
    See the module: equations 9 (compensation), 11 (means), 12 (attention) and 13 (error), 17 and 18 (sketch).
    """

    needs_hidden: ClassVar[bool] = True
    checks_parameters: ClassVar[dict[str, object]] = {"width": 8, "capacity": 100, "lists": 4, "neighbours": 10}
    # A memory that outgrows the processor's cache holds vectors of another type, which is compiled for anew.
    rehearsals: ClassVar[tuple[dict[str, object], ...]] = (checks_parameters, {"lists": 4})

    def __init__(
        self,
        width: Count,
        memory: Literal["neighbours", "sketch"] = "neighbours",
        weight: Annotated[float, Field(ge=0, le=1)] | Literal["learned"] = "learned",
        half_life: Count = 3000,
        ages: Annotated[int, Field(gt=0, le=16)] = 4,
        sample: Annotated[float, Field(gt=0, le=1)] = 0.3,
        gamma: Annotated[float, Field(ge=0, le=1)] = 1.0,
        neighbours: Annotated[int, Field(gt=0, le=1000)] = 70,
        temperature: Annotated[float, Field(gt=0)] = 0.1,
        similarity: Literal["cosine", "inner_product", "l2"] = "cosine",
        capacity: Count = 30_000,
        index: Literal["ivf", "flat"] = "ivf",
        lists: Count | None = None,
        probes: Count = 12,
        device: Literal["cpu", "cuda"] = "cpu",
        least_error: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        clear_every: Annotated[int, Field(ge=0)] = 0,
        arrays: Count = 20,
        bits: Annotated[int, Field(gt=0, le=20)] = 8,
        centred: bool = True,
        decay: Annotated[float, Field(gt=0, le=1)] = 1.0,
        reading: Literal["count", "softmax"] = "count",
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.memory: ErrorMemory | ErrorSketch
        if memory == "sketch":
            self.memory = ErrorSketch(width, arrays=arrays, bits=bits, centred=centred, decay=decay, seed=seed)
        else:
            self.memory = ErrorMemory(
                capacity, width, similarity=similarity, kind=index, device=device, lists=lists, probes=probes
            )
        self.clock = Arrays(learned=np.zeros(1, np.int64), private=["learned"])
        self._horizons = [capacity >> age for age in range(1 if memory == "sketch" or weight != "learned" else ages)]
        self.learned = LearnedWeight(len(self._horizons), half_life, sample) if weight == "learned" else None
        self._fixed = np.array([0.0 if weight == "learned" else weight])
        self._gamma, self._neighbours = gamma, neighbours
        self._temperature = None if memory == "sketch" and reading == "count" else temperature
        self._least_error, self._clear_every = least_error, clear_every
        self._reads = self._hits = self._left_out = 0
        self._moved = 0.0
        self._last: tuple[weakref.ref[Floats], Evidence] | None = None

    @property
    def weight(self) -> float:
        """Lambda as of now."""
        return float(self._weights.sum())

    @property
    def _weights(self) -> Values:
        """Lambda of each age, (ages,) float64."""
        return self._fixed if self.learned is None else self.learned.values

    def rerank(self, batch: Batch) -> Floats:
        """Scores moved by the errors on similar rows, (N,) float32 in [0, 1]; without any, the batch's own."""
        score, weights = batch.score.copy(), self._weights
        self._reads += batch.rows
        if not weights.any() or not len(self.memory) or not batch.rows:
            return score
        hidden = bounded(_finite(_hidden(batch)), LONGEST)
        evidence = self._read(hidden)
        self._last = weakref.ref(hidden), evidence
        errors, hit = self._estimate(score, evidence)
        score[hit] = np.clip(score + (weights[:, None] * errors).sum(axis=0), 0.0, 1.0)[hit]
        self._hits += int(np.count_nonzero(hit))
        self._moved += float(np.abs(score - batch.score).sum())
        return score

    def learn(self, feedback: Feedback) -> None:
        """Remember rows whose outcome is known: keys and base scores as the pipeline left them before anyone learned."""
        hidden = _hidden(feedback)
        base = np.clip(feedback.score if feedback.base is None else feedback.base, 0.0, 1.0)
        label = np.clip(feedback.reward, 0.0, 1.0)
        finite = (np.abs(hidden) <= LONGEST).all(axis=1)
        self._left_out += int(np.count_nonzero(~finite))
        rows = np.flatnonzero(finite & (np.abs(label - base) > self._least_error if self._least_error else True))
        if self.learned is not None and finite.any() and len(self.memory):
            self._weigh(self.learned, hidden if finite.all() else hidden[finite], base[finite], label[finite])
        self._last = None
        if self._clear_every and self.clock["learned"][0] + feedback.rows > self._clear_every:
            self.memory.clear()
            self.clock["learned"][0] = 0
        if feedback.rows:
            self.clock["learned"][0] += feedback.rows
            self.clock.mark()
        if isinstance(self.memory, ErrorSketch):
            self.memory.write(hidden[rows], label[rows], base[rows])
        else:
            self.memory.write(
                hidden[rows],
                label[rows],
                base[rows],
                timestamp=feedback.timestamp[feedback.request[rows]],
                user=feedback.user[feedback.request[rows]],
                item=feedback.item[rows],
                k=self._neighbours,
            )

    def explain(self, batch: Batch) -> Neighbours | None:
        """The rows whose outcomes moved each score; None from a sketch, which has sums only."""
        if isinstance(self.memory, ErrorSketch):
            return None
        evidence = self._read(bounded(_finite(_hidden(batch)), LONGEST))
        rows, none = self.memory.rows, evidence.slots < 0
        age = batch.timestamp[batch.request][:, None] - rows["timestamp"][evidence.slots]
        return Neighbours(
            item=np.where(none, 0, rows["item"][evidence.slots]),
            label=evidence.label.astype(np.float32),
            age=np.where(none, 0.0, age),
            similarity=np.where(none, 0, evidence.similarity).astype(np.float32),
            weight=self._attention(evidence),
        )

    def forget(self, users: Ids) -> None:
        """Erase the rows of these users; the sums of a sketch are nobody's."""
        self._last = None
        if isinstance(self.memory, ErrorMemory):
            self.memory.forget(users)

    def remove(self, items: Ids) -> None:
        """Erase the rows of these items; the sums of a sketch are nobody's."""
        self._last = None
        if isinstance(self.memory, ErrorMemory):
            self.memory.remove(items)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace the whole state by a copy of `state`."""
        self._last = None
        super().load_state_dict(state)

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Follow the changes that another copy of this state has taken."""
        self._last = None
        super().apply_changes(changes)

    def metrics(self) -> Mapping[str, float]:
        """Weight, reads, share that found something, mean absolute change of a score; horizon, fill and recall of the memory.

        The horizon is the age, in rows, up to which neighbours count, as a mean over the ages in proportion to their weights.
        """
        metrics = {
            "weight": self.weight,
            "reads": float(self._reads),
            "hit_share": self._hits / max(self._reads, 1),
            "compensation": self._moved / max(self._reads, 1),
            "left_out": float(self._left_out),
        }
        if isinstance(self.memory, ErrorMemory):
            metrics |= {
                "horizon": float(self._weights @ self._horizons / self.weight) if self.weight else 0.0,
                "fill": len(self.memory) / self.memory.capacity,
                "recall": self.memory.index.last_recall,
            }
        return metrics

    def _weigh(self, learned: LearnedWeight, hidden: Floats, base: Floats, label: Floats) -> None:
        """Learn lambda from what these rows' neighbours say of them, before they are remembered themselves."""
        rows, times = learned.sample(base, label)
        errors = np.zeros((len(self._horizons), rows.size))
        if rows.size:
            known = self._last[1] if self._last is not None and self._last[0]() is hidden else None
            evidence = self._read(hidden[rows]) if known is None else known.of(rows)
            errors, _ = self._estimate(base[rows], evidence)
        learned.charge(base[rows], errors, label[rows], times, label.size)

    def _read(self, hidden: Floats) -> Evidence:
        return self.memory.read(hidden) if isinstance(self.memory, ErrorSketch) else self.memory.read(hidden, self._neighbours)

    def _estimate(self, score: Floats, evidence: Evidence) -> tuple[Values, Bools]:
        return estimate_error(score, evidence, self._gamma, self._temperature, self._horizons[1:])

    def _attention(self, evidence: Evidence) -> Floats:
        """Attention over neighbours of all ages together, (q, K)."""
        found = attention(evidence, self._temperature, self._horizons[1:])
        return np.average(found, axis=1, weights=self._weights if self.weight else None).astype(np.float32)


def _hidden(batch: Batch) -> Floats:
    if batch.hidden is None:
        raise ValueError("hidden: the ranker did not fill it; reloop2 needs a ranker with a hidden vector, such as fm")
    return batch.hidden


def _finite(hidden: Floats) -> Floats:
    if not np.isfinite(hidden).all():
        raise FloatingPointError("hidden: not finite")
    return hidden
