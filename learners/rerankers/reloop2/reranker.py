"""ReLoop2: corrects a score by the ranker's recent errors on similar rows.

References
----------
J. Zhu et al., "ReLoop2: Building Self-Adaptive Recommendation Models via Responsive Error Compensation Loop", KDD 2023,
arXiv 2306.08808.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from learners.base import Neighbours, Reranker
from learners.bounds import bounded, graded
from learners.kernels.learned_weight import LearnedWeight
from learners.registry import register
from learners.rerankers.reloop2.compensation import attention, estimate_error
from learners.tunable import Options, Scale, Tunable
from memory.arrays import Arrays
from memory.error_memory import ErrorMemory, ErrorSketch, Evidence
from streams.batch import Batch, Bools, Feedback, Floats, Ids

if TYPE_CHECKING:
    from learners.networks.error_attention import GpuEvidence

__all__ = ["ReLoop2"]

Count = Annotated[int, Field(gt=0)]
Values = npt.NDArray[Any]


LONGEST = 1e6
"""Maximum magnitude of the numbers in a hidden vector. Rows beyond it are not stored, and are clipped to it for look-ups."""


@register("reloop2")
class ReLoop2(Reranker):
    """Corrects scores with a memory of recent rows: the ranker's hidden vector and score, and the label.

    The key of a row is the ranker's ``hidden``. For the rows with the most similar keys, the memory has labels y_i and base
    scores p_i. With attention a_i over these rows, the score p becomes p + weight * error, clipped to [0, 1], where
    error = gamma * (sum a_i y_i - p) + (1 - gamma) * sum a_i (y_i - p_i). A row without similar rows keeps its score.

    Labels and weights of rows are those that a logistic ranker learns from; see `learners.bounds.graded`. The attention to a
    row is multiplied by its weight. So where a buy is worth 5, the mean label has five times its odds, like the ranker's score.
    Rows of weight 0 are not stored. The paper has no weights.

    All rows of a batch are read before any is written. Their keys and base scores are from before any learner learned from the
    batch. So no row sees its own label or a later one.

    Parameters
    ----------
    width : int
        Length of a key: the ranker's ``hidden_width``, which the service fills in.
    memory : {"neighbours", "sketch"}
        ``neighbours``: the last `capacity` rows, with an index of similar rows. ``sketch``: sums in hashed buckets.
    weight : float or "learned"
        Share lambda of the error that is added: 0 keeps every score, 1 adds the whole error. The paper uses 0.4 or 0.9,
        depending on the data set. ``learned`` is not in the paper: the mean of 17 values from 0 to 1, weighted by the recent
        likelihood of the labels under them; see `learners.kernels.learned_weight.LearnedWeight`. A fixed weight is
        harmful while nothing changes, or too small after a change.
    half_life : int
        For a learned weight: rows after which an outcome counts half.
    ages : int
        For a learned weight with ``neighbours``: number of age windows. One weight is learned for all neighbours, one for those
        among the last half of `capacity` rows, one for the last quarter, and so on. Their sum is at most 1. With 1, all ages
        count equally, as in the paper. Old rows are as good as new ones while nothing changes, but misleading after a change.
    sample : float
        For a learned weight: share of the rows that it is learned from, because each costs a look-up; 1 means all. Rows with
        large errors are more likely to be selected, and then get a smaller weight. Fewer rows are selected if scores are near 0
        or 1, and more while the ranker is wrong.
    gamma : float
        1: error = mean label of the similar rows - score. 0: error = mean error of the ranker on the similar rows.
    neighbours : int
        For ``neighbours``: number k of similar rows.
    temperature : float
        Temperature tau of the attention, a_i = softmax(s_i / tau). The default is for cosine similarity.
    similarity : {"cosine", "inner_product", "l2"}
        For ``neighbours``: similarity s_i. ``l2`` is the negative squared distance.
    capacity : int
        For ``neighbours``: number of rows stored. A new row replaces the oldest.
    index : {"ivf", "flat"}
        ``ivf`` searches the nearest of many lists, ``flat`` searches all rows.
    lists, probes : int
        For ``ivf``: number of lists (default: twice the square root of `capacity`), and number of lists searched.
    device : {"cpu", "cuda"}
        ``cuda`` needs ``neighbours`` and ``flat``. Keys, labels, base scores and weights are on the GPU then, and the attention
        is computed there: one number per row comes back.
    min_error : float
        Threshold sigma: rows with |label - base score| of at most this are not stored. Values above 0 ruin the calibration if
        gamma = 1, because mostly rows with surprising labels remain.
    clear_every : int
        Clear the memory after this many rows, as in the paper; 0 means never.
    arrays, bits : int
        For ``sketch``: number of independent hashes, and bits per hash. Memory is 24 bytes * arrays * 2**bits.
    centred : bool
        Subtract the running mean of the keys before hashing; see `memory.error_memory.ErrorSketch`.
    decay : float
        For ``sketch``: factor applied to the stored sums after each batch; 1 means no decay.
    reading : {"count", "softmax"}
        For ``sketch``: attention over the arrays, in proportion to the rows in the bucket, or the softmax of their share.
    seed : int
        Seed of the sketch's hashes.

    References
    ----------
    See the module: equations 9 (compensation), 11 (means), 12 (attention) and 13 (error), 17 and 18 (sketch).
    """

    needs_hidden: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5
    state_version: ClassVar[int | str] = 2
    """Version 1 had no weights of rows."""
    checks_parameters: ClassVar[dict[str, object]] = {"width": 8, "capacity": 100, "lists": 4, "neighbours": 10}
    # A memory larger than the processor's cache stores vectors of another type, which needs other compiled functions.
    rehearsals: ClassVar[tuple[dict[str, object], ...]] = (checks_parameters, {"lists": 4})
    tunable: ClassVar[Tunable] = {
        "memory": Options(("neighbours", "sketch")),
        "half_life": Scale(300, 30_000, log=True),
        "neighbours": Scale(10, 300, log=True),
        "temperature": Scale(0.01, 1.0, log=True),
    }

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
        min_error: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        clear_every: Annotated[int, Field(ge=0)] = 0,
        arrays: Count = 20,
        bits: Annotated[int, Field(gt=0, le=20)] = 8,
        centred: bool = True,
        decay: Annotated[float, Field(gt=0, le=1)] = 1.0,
        reading: Literal["count", "softmax"] = "count",
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        if device == "cuda" and (memory, index) != ("neighbours", "flat"):
            raise ValueError(f'device: "cuda" with memory "{memory}", index "{index}"; give "neighbours" and "flat"')
        self.memory: ErrorMemory | ErrorSketch
        if memory == "sketch":
            self.memory = ErrorSketch(width, arrays=arrays, bits=bits, centred=centred, decay=decay, seed=seed)
        else:
            self.memory = ErrorMemory(
                capacity, width, similarity=similarity, kind=index, device=device, lists=lists, probes=probes
            )
        self._on_gpu = memory == "neighbours" and device == "cuda"
        self.clock = Arrays(learned=np.zeros(1, np.int64), private=["learned"])
        self._horizons = [capacity >> age for age in range(1 if memory == "sketch" or weight != "learned" else ages)]
        self.learned = LearnedWeight(len(self._horizons), half_life, sample) if weight == "learned" else None
        self._fixed = np.array([0.0 if weight == "learned" else weight])
        self._gamma, self._neighbours = gamma, neighbours
        self._temperature = None if memory == "sketch" and reading == "count" else temperature
        self._min_error, self._clear_every = min_error, clear_every
        self._reads = self._hits = self._left_out = self._capped = 0
        self._moved = 0.0
        self._last: tuple[weakref.ref[Floats], Evidence | GpuEvidence] | None = None

    @property
    def weight(self) -> float:
        """Current lambda: the sum over all age windows."""
        return float(self._weights.sum())

    @property
    def _weights(self) -> Values:
        """Lambda of each age window, (ages,) float64."""
        return self._fixed if self.learned is None else self.learned.values

    def rerank(self, batch: Batch) -> Floats:
        """Return scores corrected by the errors on similar rows, (N,) float32 in [0, 1]. Other rows keep their scores."""
        score, weights = batch.score.copy(), self._weights
        self._reads += batch.rows
        if not weights.any() or not len(self.memory) or not batch.rows:
            return score
        hidden = bounded(_finite(_hidden(batch)), LONGEST)
        evidence = self._read(hidden)
        self._last = weakref.ref(hidden), evidence
        if isinstance(evidence, Evidence):
            errors, hit = self._estimate(score, evidence)
            correction = (weights[:, None] * errors).sum(axis=0)
        else:
            correction = evidence.correction(score, *self._attention_over, weights)
            hit = ~np.isnan(correction)
        score[hit] = np.clip(score + correction, 0.0, 1.0)[hit]
        self._hits += int(np.count_nonzero(hit))
        self._moved += float(np.abs(score - batch.score).sum())
        return score

    def learn(self, feedback: Feedback) -> None:
        """Store rows with known outcomes. Keys and base scores are from before any learner learned from them."""
        hidden = _hidden(feedback)
        base = np.clip(feedback.score if feedback.base is None else feedback.base, 0.0, 1.0)
        label, weight, capped = graded(feedback.reward, feedback.weight)
        self._capped += capped
        finite = (np.abs(hidden) <= LONGEST).all(axis=1)
        self._left_out += int(np.count_nonzero(~finite))
        finite &= weight > 0
        rows = np.flatnonzero(finite & (np.abs(label - base) > self._min_error if self._min_error else True))
        if self.learned is not None and finite.any() and len(self.memory):
            self._weigh(self.learned, hidden if finite.all() else hidden[finite], base[finite], label[finite], weight[finite])
        self._last = None
        if self._clear_every and self.clock["learned"][0] + feedback.rows > self._clear_every:
            self.memory.clear()
            self.clock["learned"][0] = 0
        if feedback.rows:
            self.clock["learned"][0] += feedback.rows
            self.clock.mark()
        if isinstance(self.memory, ErrorSketch):
            self.memory.write(hidden[rows], label[rows], base[rows], weight[rows])
        else:
            self.memory.write(
                hidden[rows],
                label[rows],
                base[rows],
                timestamp=feedback.timestamp[feedback.request[rows]],
                user=feedback.user[feedback.request[rows]],
                item=feedback.item[rows],
                k=self._neighbours,
                weight=weight[rows],
            )

    def explain(self, batch: Batch) -> Neighbours | None:
        """Return the rows whose outcomes changed each score; None for a sketch, which has sums only."""
        if isinstance(self.memory, ErrorSketch):
            return None
        evidence = self._read_here(bounded(_finite(_hidden(batch)), LONGEST))
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
        """Delete the rows of these users. The sums of a sketch are anonymous and stay."""
        self._last = None
        if isinstance(self.memory, ErrorMemory):
            self.memory.forget(users)

    def remove(self, items: Ids) -> None:
        """Delete the rows of these items. The sums of a sketch are anonymous and stay."""
        self._last = None
        if isinstance(self.memory, ErrorMemory):
            self.memory.remove(items)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace the state by a copy of `state`."""
        self._last = None
        super().load_state_dict(state)

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Apply the changes of another copy of this state."""
        self._last = None
        super().apply_changes(changes)

    def metrics(self) -> Mapping[str, float]:
        """Return weight, reads, hit share, mean absolute change of a score, and horizon, fill and recall of the memory.

        ``left_out`` counts rows with an extreme hidden vector, ``capped`` those whose weight was limited.

        The horizon is the maximum age of neighbours in rows, averaged over the age windows by their weights.
        """
        metrics = {
            "weight": self.weight,
            "reads": float(self._reads),
            "hit_rate": self._hits / max(self._reads, 1),
            "compensation": self._moved / max(self._reads, 1),
            "left_out": float(self._left_out),
            "capped": float(self._capped),
        }
        if isinstance(self.memory, ErrorMemory):
            metrics |= {
                "horizon": float(self._weights @ self._horizons / self.weight) if self.weight else 0.0,
                "fill": len(self.memory) / self.memory.capacity,
                "recall": self.memory.index.last_recall,
            }
        return metrics

    def _weigh(self, learned: LearnedWeight, hidden: Floats, base: Floats, label: Floats, weight: Floats) -> None:
        """Learn lambda from the neighbours of these rows, before the rows themselves are stored."""
        rows, times = learned.sample(base, label)
        relative = learned.relative(weight)
        errors = np.zeros((len(self._horizons), rows.size))
        if rows.size:
            known = self._last[1] if self._last is not None and self._last[0]() is hidden else None
            evidence = self._read(hidden[rows]) if known is None else known.of(rows)
            if isinstance(evidence, Evidence):
                errors, _ = self._estimate(base[rows], evidence)
            else:
                errors = np.nan_to_num(evidence.errors(base[rows], *self._attention_over))
        learned.charge(base[rows], errors, label[rows], times * relative[rows], label.size)

    def _read(self, hidden: Floats) -> Evidence | GpuEvidence:
        """Find earlier outcomes. On a GPU they stay there, if it is certain of them."""
        if self._on_gpu and isinstance(self.memory, ErrorMemory) and len(hidden):
            nearest = self.memory.nearest(hidden, self._neighbours)
            if nearest is not None:
                # torch is slow to load, so it is imported only if a GPU is asked for.
                from learners.networks.error_attention import GpuEvidence

                return GpuEvidence.of_rows(nearest, int(self.memory.clock["place"][0]), self.memory.capacity)
        return self._read_here(hidden)

    def _read_here(self, hidden: Floats) -> Evidence:
        return self.memory.read(hidden) if isinstance(self.memory, ErrorSketch) else self.memory.read(hidden, self._neighbours)

    @property
    def _attention_over(self) -> tuple[float, float, list[int]]:
        """Numbers that the attention on a GPU needs, which a sketch never uses."""
        return self._gamma, math.nan if self._temperature is None else self._temperature, self._horizons[1:]

    def _estimate(self, score: Floats, evidence: Evidence) -> tuple[Values, Bools]:
        return estimate_error(score, evidence, self._gamma, self._temperature, self._horizons[1:])

    def _attention(self, evidence: Evidence) -> Floats:
        """Return the attention over neighbours, averaged over the age windows, (q, K)."""
        found = attention(evidence, self._temperature, self._horizons[1:])
        return np.average(found, axis=1, weights=self._weights if self.weight else None).astype(np.float32)


def _hidden(batch: Batch) -> Floats:
    if batch.hidden is None:
        raise ValueError("hidden: None; reloop2 needs a ranker that fills it, such as fm")
    return batch.hidden


def _finite(hidden: Floats) -> Floats:
    if not np.isfinite(hidden).all():
        raise FloatingPointError("hidden: NaN or infinity; the ranker must fill it with finite numbers")
    return hidden
