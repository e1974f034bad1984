"""StreamAdapter: what a user liked before the model's window becomes a change of the model's weights for that user.

References
----------
D. Muhtar et al., "StreamAdapter: Efficient Test Time Adaptation from Contextual Streams", 2024 (arXiv 2411.09289).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from learners.base import Adapter, Ranker, WeightDelta
from learners.lookups import Catalogues, UserHistory
from learners.networks.changes import Changes
from learners.networks.sequence.absorbing import ContextMap, ContextStates, context_shape
from learners.networks.sequence.model import Companion, Lesson, SequenceModel
from learners.networks.sequence.scoring import targets
from learners.networks.sequence.segments import Segments
from learners.networks.sequence.slab import ContextSlab, chunks_before
from learners.networks.sequence.windows import Windows
from learners.registry import register
from learners.schema import Schema
from learners.tunable import Scale, Tunable
from memory.arrays import Arrays
from streams.batch import Batch, Bools, Feedback, Floats, Ids

__all__ = ["StreamAdapter"]

_LENGTHS = np.array([32, 64, 128])
"""The gate's running losses are kept for users with fewer than 32 likes, fewer than 64, fewer than 128, and more."""

_SEGMENT = _LENGTHS.size + 1
"""Number of the gate's running loss for users with the state of their segment."""

_SEGMENTS = 256
"""Segments, at most."""

_COMPARED = 256
"""Items, at most, with which a like is compared for the gate."""

_WAITING = 32
"""Likes, at most, that wait for the gate to look at them, all at once."""


@register("stream_adapter")
class StreamAdapter(Adapter):
    """Keeps a state of fixed size for each user, made of the chunks of likes that have left the model's window.

    When a chunk of likes leaves the window of the ``sequential`` ranker, `rank` learned queries in each layer read its keys and
    values, which know no positions. A gate mixes what they read into the user's state: ``g * state + (1 - g) * W_v o``. For a
    request the state, divided by its root mean square, becomes a change of the matrix on the output side of each feed-forward
    layer, of rank `rank`: ``alpha / rank * (state P)' U'``. U begins at 0, so the ranker begins unchanged. The window and the
    state together are the whole history, and nothing is in both. A request costs the same however long the history is.

    With `joint`, the model learns with these changes, too, for three quarters of the sequences of its own steps, and the map
    makes a step of Adam by the same loss. Before the chunks of such a step, `earlier` chunks of each sequence are absorbed.
    Without, the map makes a step every `every` likes, on sequences of `chunks` chunks, with a model that does not know of it.

    The gate: the cross-entropy of likes is computed with and without the change, before the map learns from them, against
    256 items, for 32 likes at most from one step to the next. A user gets the change only while the running mean with it is
    below the one without, for users with histories of that length: fewer than 32 likes, 64, 128, or more.

    What is published of it is not at hand: the equations, and the choice of what to change, are from the abstract, from a
    review, and from related code; see ``docs/learners/stream_adapter.md``.

    Parameters
    ----------
    ranker : Ranker
        The bound ``sequential`` ranker.
    users : int
        Maximum number of users with a state. The one whose state changed the longest time ago is evicted. A state has
        4 * layers * `rank` * width bytes.
    rank : int
        Queries of each layer, and rank of a change.
    alpha : float
        Strength of the change; 0: the ranker is not changed.
    tau : float
        The gate is raised to 1 / `tau`.
    confidence : bool
        Whether a change is weaker for a young state: multiplied by the share of the state that chunks have written.
    every, chunks : int
        See above.
    learning_rate : float
        Of Adam.
    joint : bool
        See above.
    earlier : int
        Chunks of a sequence that are absorbed before those of a joint step.
    segment : str
        Users without a state of their own, who have fewer than 2 * `chunk` + 1 likes, begin with the mean state of their
        segment: of users with the same value of an attribute (``user.<attribute>``), of all (``all``), or with no change
        (``none``). At most 256 segments.
    age : int
        Steps after which a state is computed anew from the stored likes.
    evidence : int
        Likes of a length of history from which the gate may open.
    keep : float
        Weight of the earlier likes in the gate's running means after each like.
    seed : int
        Seed of the map's initial weights and of all draws.

    References
    ----------
    See the module.
    """

    checks_ranker: ClassVar[str] = "sequential"
    checks_parameters: ClassVar[dict[str, object]] = {
        "users": 32,
        "rank": 2,
        "every": 32,
        "chunks": 4,
        "learning_rate": 0.02,
        "evidence": 0,
        "joint": False,
        "segment": "all",
    }
    tunable: ClassVar[Tunable] = {
        "rank": Scale(2, 32, log=True),
        "alpha": Scale(1.0, 32.0, log=True),
        "tau": Scale(0.1, 10.0, log=True),
        "learning_rate": Scale(3e-4, 0.03, log=True),
    }

    def __init__(
        self,
        ranker: Ranker,
        users: Annotated[int, Field(gt=0)] = 10_000,
        rank: Annotated[int, Field(gt=0)] = 8,
        alpha: Annotated[float, Field(ge=0)] = 8.0,
        tau: Annotated[float, Field(gt=0)] = 1.0,
        confidence: bool = True,
        every: Annotated[int, Field(gt=0)] = 128,
        chunks: Annotated[int, Field(ge=3)] = 16,
        learning_rate: Annotated[float, Field(gt=0)] = 0.003,
        joint: bool = True,
        earlier: Annotated[int, Field(ge=2)] = 8,
        segment: Annotated[str, Field(pattern=r"^(all|none|user\..+)$")] = "none",
        age: Annotated[int, Field(gt=0)] = 800,
        evidence: Annotated[int, Field(ge=0)] = 200,
        keep: Annotated[float, Field(gt=0, lt=1)] = 0.999,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(ranker)
        model = getattr(ranker, "model", None)
        if not isinstance(model, SequenceModel):
            raise ValueError(f"ranker: {ranker.name or type(ranker).__name__} has no window of likes; choose sequential")
        self._chunks, self._every, self._alpha = chunks, every, alpha
        self._evidence, self._keep, self._seed = evidence, keep, seed
        shape = context_shape(model, rank, alpha, tau, confidence=confidence)
        self.context = ContextMap(model, shape, learning_rate, seed)
        self.slab = ContextSlab(model, self.context, users, age)
        lengths = _SEGMENT + 1
        self.gate = Arrays(gain=np.zeros(lengths), weight=np.zeros(lengths))
        self.clock = Arrays(likes=np.zeros(1, np.int64), steps=np.zeros(1, np.int64), private=["likes", "steps"])
        self._anew = 0
        size, window = shape.layers * shape.rank * shape.width, 2 * model.settings.shape.chunk
        self.segments = Segments(segment, _SEGMENTS, size)
        self.waiting = Arrays(
            user=np.zeros(_WAITING, np.int64),
            target=np.zeros(_WAITING, np.int64),
            item=np.zeros((_WAITING, window), np.int64),
            time=np.zeros((_WAITING, window + 1)),
            number=np.zeros(_WAITING, np.int64),
            vectors=np.zeros((_WAITING, size), np.float32),
            fresh=np.zeros(_WAITING, np.float32),
            private=["user", "target", "item", "time", "number", "vectors", "fresh"],
        )
        self._joint = joint
        if joint and alpha:
            model.companion = Companion(earlier, self._changes_for, self.context.learned)

    @property
    def _model(self) -> SequenceModel:
        model = getattr(self.ranker, "model", None)
        assert isinstance(model, SequenceModel)
        return model

    @property
    def changes(self) -> Collection[str]:
        """The matrices on the output side of the feed-forward layers."""
        return targets(self._model)

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Find the attribute that tells the segments apart; raises ValueError if there is none of that name."""
        self.segments.bind(schema, catalogues)

    def adapt(self, batch: Batch) -> WeightDelta:
        """Return the users' changes; none if no user of the batch has a state for which the gate is open."""
        if not self._alpha or not batch.user.size:
            return {}
        states, used, length = self._of(batch.user, self._model.windows(batch).number)
        used &= self._open()[length]
        return self.context.delta(states, used) if used.any() else {}

    def learn(self, feedback: Feedback) -> None:
        """Judge the changes by the likes, let the map make the steps that are due, and absorb chunks."""
        user = feedback.user[feedback.request]
        liked = (feedback.reward > 0) & (feedback.weight > 0) & ~feedback.correction & (user != 0) & (feedback.item != 0)
        rows = np.flatnonzero(liked)
        if not rows.size:
            return
        self._await(feedback, rows)
        before = int(self.clock["likes"][0])
        self.clock["likes"][0] += rows.size
        for _ in range(0 if self._joint else (before + rows.size) // self._every - before // self._every):
            self._judge()
            lesson = self._model.lesson(self._draws(int(self.clock["steps"][0])), self._chunks)
            self.clock["steps"][0] += 1
            if lesson is not None:
                self.context.learn(lesson)
        self.clock.mark()
        changed, anew = self.slab.absorb(np.unique(user[rows]), int(self.clock["steps"][0]))
        self.segments.learn(changed, self.slab.now(changed))
        self._anew += anew

    def forget(self, users: Ids) -> None:
        """Delete the states of these users. What the map learned from them is in the weights of all, and stays."""
        self.slab.forget(users)
        self.waiting["user"][np.isin(self.waiting["user"], users)] = 0
        self.waiting.mark()

    def metrics(self) -> Mapping[str, float]:
        """Return the nats that a like gains by the change, by length of history, whether the gate is open, and ``anew``."""
        names = [f"below_{length}" for length in _LENGTHS] + [f"from_{_LENGTHS[-1]}", "segment"]
        gain = self.gate["gain"] / np.maximum(self.gate["weight"], 1e-9)
        opened = self._open()
        found = {f"gain_{name}": float(value) for name, value in zip(names, gain, strict=True)}
        found |= {f"open_{name}": float(value) for name, value in zip(names, opened, strict=True)}
        return found | {"anew": float(self._anew)}

    def _changes_for(self, lesson: Lesson, rng: np.random.Generator) -> Changes:
        """Return the changes of a lesson of the model, after a look at the likes before it."""
        self._judge()
        self.clock["steps"][0] += 1
        self.clock.mark()
        return self.context.changes_for(lesson, rng)

    def _await(self, feedback: Feedback, rows: Ids) -> None:
        """Keep the windows and states of likes, for the gate to judge."""
        free = np.flatnonzero(self.waiting["user"] == 0)
        if not free.size:
            return
        windows, at = self._model.windows(feedback), feedback.request[rows]
        states, fits, _ = self._of(feedback.user[at], windows.number[at])
        kept = np.flatnonzero(fits)[: free.size]
        free, at = free[: kept.size], at[kept]
        into = self.waiting
        into["user"][free], into["target"][free] = feedback.user[at], feedback.item[rows[kept]]
        into["item"][free], into["time"][free], into["number"][free] = windows.item[at], windows.time[at], windows.number[at]
        into["vectors"][free], into["fresh"][free] = states.vectors[kept], states.fresh[kept]
        self.waiting.mark(free)

    def _judge(self) -> None:
        """Compare the change with none, by the likes that wait."""
        model, kept = self._model, self.waiting
        slots = model.items.find(kept["target"])
        rows = np.flatnonzero((kept["user"] != 0) & (slots >= 0))
        items = np.flatnonzero(model.counts["likes"])
        if rows.size and items.size:
            if items.size > _COMPARED:
                items = np.sort(self._draws(int(self.clock["likes"][0]), 1).choice(items, _COMPARED, replace=False))
            windows = Windows(kept["item"][rows], kept["time"][rows], kept["number"][rows])
            states = ContextStates(kept["vectors"][rows], kept["fresh"][rows])
            without, with_changes = self.context.losses(windows, states, slots[rows], items)
            self._count(self._length(windows.number), (without - with_changes).astype(np.float64))
        kept["user"][:] = 0
        kept.mark()

    def _count(self, length: Ids, gain: Floats) -> None:
        for n in np.unique(length):
            mine = gain[length == n]
            fading = self._keep ** np.arange(mine.size - 1, -1, -1)
            kept = self._keep**mine.size
            self.gate["gain"][n] = kept * self.gate["gain"][n] + fading @ mine
            self.gate["weight"][n] = kept * self.gate["weight"][n] + fading.sum()
        self.gate.mark()

    def _open(self) -> Bools:
        """Whether the gate is open, for each length of history."""
        opened: Bools = (self.gate["weight"] >= self._evidence) & (self.gate["gain"] > 0)
        return opened if self._evidence else np.ones(self.gate["gain"].size, np.bool_)

    def _draws(self, number: int, purpose: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._seed, purpose, number])

    def _of(self, user: Ids, number: Ids) -> tuple[ContextStates, Bools, Ids]:
        """Return the states of users (n,) with so many likes, or of their segments, which there are, and the gate's numbers."""
        states, found = self.slab.of(user, number)
        length = self._length(number)
        young = length == _SEGMENT
        if not young.any():
            return states, found, length
        shared, known = self.segments.of(user)
        vectors = np.where(young[:, None], shared.vectors, states.vectors)
        return ContextStates(vectors, np.where(young, shared.fresh, states.fresh)), np.where(young, known, found), length

    def _length(self, number: Ids) -> Ids:
        """Number of the gate's running loss for users with so many likes, (n,)."""
        young = chunks_before(number, self._model.settings.shape.chunk) == 0
        return np.where(young, _SEGMENT, np.searchsorted(_LENGTHS, number, side="right"))
