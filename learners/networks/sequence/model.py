"""A model of the next item that a user likes, which learns from the stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam, Optimizer, SparseAdam

from learners.networks.changes import Changes
from learners.networks.sequence.candidates import SoftmaxItems, distinct, softmax_items
from learners.networks.sequence.transformer import SequenceShape, Transformer
from learners.networks.sequence.windows import Windows, before, gap_rows, stretches
from memory.arrays import Arrays, Floats, Ids
from memory.keyed.history import History
from memory.keyed.key_index import KeyIndex
from memory.parameters import Parameters
from memory.stateful import Stateful
from streams.batch import Batch, Feedback, Kinds, Requests, Times

__all__ = ["Companion", "Lesson", "SequenceModel", "SequenceSettings", "cross_entropy"]

BETAS = (0.9, 0.98)


class SequenceSettings(NamedTuple):
    """Settings of a model.

    Attributes
    ----------
    shape : SequenceShape
    users, length : int
        Users whose events are stored, and events stored of each. The one with the oldest last event is evicted.
    every : int
        Likes from one step of learning to the next.
    batch : int
        Sequences of a step. Half of them are of users of the likes since the last step.
    chunks : int
        Chunks of a sequence that are learned in a step.
    learning_rate : float
        Of Adam. It grows from 0 in the first `warm_up` steps.
    warm_up : int
    exact : int
        Largest number of items for which a softmax is over all of them.
    drawn : int
        Items drawn for a softmax that is not.
    seed : int
    """

    shape: SequenceShape
    users: int
    length: int
    every: int
    batch: int
    chunks: int
    learning_rate: float
    warm_up: int
    exact: int
    drawn: int
    seed: int


class Lesson(NamedTuple):
    """What a step learns: n sequences of M chunks of C events, each with the chunk before.

    Attributes
    ----------
    events : (n, (M + 1) C, D)
        Vectors of the events, with gradients by the table of items.
    known : (n, (M + 1) C) bool
        Whether there is an event.
    target : (n, M, C) int64
        Index of the next event's item among the softmax's items; -1: not learned.
    items : (m, D + 1)
        Rows of the softmax's items.
    correction : (m,)
        See `SoftmaxItems`.
    used : (u,) int64
        Rows of the table of items that the step changes, ascending.
    slots : (n, (E + M + 1) C) int64
        Slots of the items of the events, and of E chunks before them; -1: none.
    time : (n, (E + M + 1) C + 1) float64
        Unix seconds of these events and of the next one; 0: unknown.
    """

    events: Tensor
    known: Tensor
    target: Tensor
    items: Tensor
    correction: Tensor
    used: Ids
    slots: Ids
    time: Times


class Companion(NamedTuple):
    """Whoever adapts a model when it serves, and learns in the model's steps.

    Attributes
    ----------
    earlier : int
        Chunks E that it wants to know of each sequence before those that are learned.
    changes_for : callable of a lesson and a generator
        Returns changes for the windows of a lesson. Called before the model learns it.
    learned : callable
        Makes a step by the gradients that the model's step has computed.
    """

    earlier: int
    changes_for: Callable[[Lesson, np.random.Generator], Changes]
    learned: Callable[[], None]


class SequenceModel(Stateful):
    """A transformer, its catalogue of liked items, and the users' last likes, from which it learns.

    A like is a row with a positive reward. After every `every` likes it makes one step: a softmax over items for each event of
    some stored sequences. So results do not depend on the micro-batch, except that the likes of a micro-batch are predicted
    before any of them is stored.

    Parameters
    ----------
    settings : SequenceSettings

    Attributes
    ----------
    companion : Companion or None
        The model learns with its changes.
    changed : callable or None
        Called with slots (n,) whose rows of the table of items have changed, all different.
    """

    def __init__(self, settings: SequenceSettings) -> None:
        self.settings = settings
        shape = settings.shape
        self.items = KeyIndex(shape.items)
        self.counts = Arrays(likes=np.zeros(shape.items, np.float32), private=["likes"])
        self.sequences = History(settings.users, settings.length)
        self.recent = Arrays(user=np.zeros(settings.every, np.int64), private=["user"])
        self.clock = Arrays(likes=np.zeros(1, np.int64), steps=np.zeros(1, np.int64), private=["likes", "steps"])

        def optimize(module: Transformer) -> Sequence[Optimizer]:
            rest = [parameter for name, parameter in module.named_parameters() if name != "items.weight"]
            rate = settings.learning_rate
            return [
                SparseAdam([module.items.weight], lr=rate, betas=BETAS),
                Adam(rest, lr=rate, betas=BETAS, fused=True),
            ]

        self.network = Parameters(lambda: Transformer(shape), optimize, tables=["items.weight"], seed=settings.seed)
        self.network.module.eval()
        self.companion: Companion | None = None
        self.changed: Callable[[Ids], None] | None = None
        self._answered: tuple[object, Tensor] | None = None

    # Serving

    def windows(self, requests: Requests) -> Windows:
        """Return the windows of events before requests."""
        return before(self.sequences, requests, self.settings.shape.chunk)

    def states(self, windows: Windows, changes: Changes | None = None) -> Tensor:
        """Return the users' states after windows, (n, D); zero for a user without events."""
        longest = int(np.minimum(windows.number, windows.item.shape[1]).max(initial=1))
        slots, time = self.slots(windows.item[:, -longest:]), windows.time[:, -longest - 1 :]
        if changes is not None and changes != Changes():
            return self._states(slots, time, changes)
        # Finding items, describing them and scoring them all ask for the same states.
        parameters = sum(parameter._version for parameter in self.network.module.parameters())
        asked = parameters, slots.shape, slots.tobytes(), time.tobytes()
        if self._answered is None or self._answered[0] != asked:
            self._answered = asked, self._states(slots, time, Changes())
        return self._answered[1]

    def _states(self, slots: Ids, time: Times, changes: Changes) -> Tensor:
        events, known = self.events(self.rows(slots), slots, time)
        states: Tensor = self.network.module(events, known, changes, last=1)[:, -1]
        return states * known.any(1)[:, None]

    def served(self, requests: Requests) -> Floats:
        """Return the users' states at requests, (B, D)."""
        with torch.no_grad():
            states: Floats = self.states(self.windows(requests)).numpy()
        return states

    def every_logit(self, requests: Requests) -> tuple[Ids, Floats]:
        """Return the slots (V,) of all items, ascending, and their logits for requests, (B, V)."""
        slots = np.flatnonzero(self.items.keys)
        with torch.no_grad():
            rows = self.rows(slots)
            logits = torch.addmm(rows[:, -1], self.states(self.windows(requests)), rows[:, :-1].T).numpy()
        return slots, logits

    def scores(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return logits of rows, 0 for unknown items, and whether their items are known: 1 or 0; both (N,) float32."""
        with torch.no_grad():
            logits: Floats = self.logits(batch)[0].numpy()
        return logits, (self.items.find(batch.item) >= 0).astype(np.float32)

    def logits(self, batch: Batch, changes: Changes | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (N,) of rows, 0 for unknown items, the states (N, D) of their users, and their items' rows."""
        slots = self.items.find(batch.item)
        states = self.states(self.windows(batch), changes)[torch.from_numpy(batch.request)]
        rows = self.rows(slots) * torch.from_numpy(slots >= 0)[:, None]
        return (states * rows[:, :-1]).sum(1) + rows[:, -1], states, rows

    def slots(self, items: Ids) -> Ids:
        """Return the slots of items of any shape; -1: unknown."""
        return self.items.find(items.reshape(-1)).reshape(items.shape)

    def rows(self, slots: Ids) -> Tensor:
        """Return the rows of the table of items, (..., D + 1); any for slot -1."""
        table: Tensor = self.network.module.items.weight
        return table[torch.from_numpy(np.maximum(slots, 0))]

    def events(self, rows: Tensor, slots: Ids, time: Times) -> tuple[Tensor, Tensor]:
        """Return the vectors (n, T, D) of events and whether they are known (n, T), from the rows of their items."""
        module = self.network.module
        vectors = rows[..., :-1]
        if module.shape.gaps:
            vectors = vectors + module.gaps[torch.from_numpy(gap_rows(time, module.shape.gaps))]
        return vectors, torch.from_numpy(slots >= 0)

    # Learning

    def learn(self, feedback: Feedback) -> None:
        """Store the rows with a positive reward, in order of time, and make the steps that are due."""
        user = feedback.user[feedback.request]
        liked = (feedback.reward > 0) & (feedback.weight > 0) & ~feedback.correction & (user != 0) & (feedback.item != 0)
        rows = np.flatnonzero(liked)
        rows = rows[np.argsort(feedback.outcome_time[rows], kind="stable")]
        every = self.settings.every
        while rows.size:
            room = every - int(self.clock["likes"][0]) % every
            part, rows = rows[:room], rows[room:]
            self._store(user[part], feedback.item[part], feedback.outcome_time[part], feedback.kind[part])
            if self.clock["likes"][0] % every == 0:
                self._due_step()

    def remove(self, items: Ids) -> Ids:
        """Delete items, and return the slots (n,) that are free now."""
        slots = self.items.delete(items)
        slots = np.unique(slots[slots >= 0])
        self._clear(slots)
        return slots

    def forget(self, users: Ids) -> None:
        """Delete the events of users."""
        self.sequences.forget(users)
        gone = np.isin(self.recent["user"], users)
        self.recent["user"][gone] = 0
        self.recent.mark(np.flatnonzero(gone))

    def _store(self, user: Ids, item: Ids, time: Times, kind: Kinds) -> None:
        slots, fresh = self.items.insert(item)
        new = np.unique(slots[fresh])
        self._clear(new)
        if self.changed is not None:
            self.changed(new)
        np.add.at(self.counts["likes"], slots, 1)
        self.counts.mark(slots)
        self.sequences.append(user, item, time, kind, np.ones(user.size, np.bool_))
        at = (int(self.clock["likes"][0]) + np.arange(user.size)) % self.settings.every
        self.recent["user"][at] = user
        self.recent.mark(at)
        self.clock["likes"][0] += user.size
        self.clock.mark()

    def _clear(self, slots: Ids) -> None:
        """Let slots be those of new items."""
        used = slots[self.counts["likes"][slots] > 0]
        if used.size:
            self.network.reset("items.weight", used)
            self.counts["likes"][used] = 0
            self.counts.mark(used)

    def _due_step(self) -> None:
        step = int(self.clock["steps"][0])
        rng = np.random.default_rng([self.settings.seed, step])
        self.clock["steps"][0] += 1
        self.clock.mark()
        lesson = self.lesson(rng, self.settings.chunks, 0 if self.companion is None else self.companion.earlier)
        if lesson is not None:
            rate = self.settings.learning_rate * min(1.0, (step + 1) / self.settings.warm_up)
            self.step(lesson, rng, rate)

    def step(self, lesson: Lesson, rng: np.random.Generator, learning_rate: float) -> None:
        """Make one step on a lesson."""
        for optimizer in self.network.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
        module = self.network.module.train()
        with self.network.seeded():
            changes = Changes() if self.companion is None else self.companion.changes_for(lesson, rng)
            loss = cross_entropy(lesson, self.states_of(lesson, changes))
        module.eval()
        self.network.step(loss)
        if self.companion is not None:
            self.companion.learned()
        if self.changed is not None:
            self.changed(lesson.used)

    def lesson(self, rng: np.random.Generator, chunks: int, earlier: int = 0) -> Lesson | None:
        """Draw sequences of `chunks` chunks, and items, to learn from; None if no stored sequence has a next event.

        What is drawn does not depend on `earlier`, the number of chunks to look up before those.
        """
        settings, chunk = self.settings, self.settings.shape.chunk
        slot = self._sequences(rng)
        if not slot.size:
            return None
        count = self.sequences.rings["count"][slot]
        # Half of the time the sequence ends earlier.
        first = np.maximum(count - self.sequences.length, 0) + 2
        sooner = rng.random(slot.size) < 0.5
        end = np.where(sooner, first + (rng.random(slot.size) * (count - first + 1)).astype(np.int64), count)
        taken = stretches(self.sequences, slot, end, earlier + chunks, chunk)
        slots = self.slots(taken.item)
        following = np.where(slots[:, :-1] >= 0, slots[:, 1:], -1)[:, -chunks * chunk :]
        targets = following[following >= 0]
        if not targets.size:
            return None
        softmax = softmax_items(self.counts["likes"], targets, settings.exact, settings.drawn, rng)
        return self.read(slots[:, :-1], taken.time[:, :-1], following.reshape(slot.size, chunks, chunk), softmax)

    def read(self, slots: Ids, time: Times, following: Ids, softmax: SoftmaxItems) -> Lesson:
        """Return a lesson.

        Parameters
        ----------
        slots : (n, (E + M + 1) C) int64
            Slots of the items of the events, the oldest first; -1: none.
        time : (n, (E + M + 1) C + 1) float64
            Unix seconds of the events and of the next one; 0: unknown.
        following : (n, M, C) int64
            Slots of the next items after the events of the last M chunks; -1: not learned.
        softmax : SoftmaxItems
        """
        length = (following.shape[1] + 1) * following.shape[2]
        own = slots[:, -length:]
        used = distinct(self.settings.shape.items, softmax.item, own[own >= 0])
        table = functional.embedding(torch.from_numpy(used), self.network.module.items.weight, sparse=True)
        rows = table[torch.from_numpy(used.searchsorted(np.maximum(own, used[0])))]
        events, known = self.events(rows, own, time[:, -length - 1 :])
        items = table[torch.from_numpy(used.searchsorted(softmax.item))]
        target = np.where(following >= 0, softmax.item.searchsorted(np.maximum(following, softmax.item[0])), -1)
        return Lesson(events, known, torch.from_numpy(target), items, torch.from_numpy(softmax.correction), used, slots, time)

    def windows_of(self, events: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return windows (n * K, 2 C, D), each of a chunk and the one before, and whether their events are known (n * K, 2 C).

        Of n sequences of K + 1 chunks.
        """
        chunk = self.settings.shape.chunk
        events = events.unfold(1, 2 * chunk, chunk).transpose(2, 3).flatten(0, 1)
        return events, known.unfold(1, 2 * chunk, chunk).flatten(0, 1)

    def states_of(self, lesson: Lesson, changes: Changes) -> Tensor:
        """Return the states (n, M, C, D) after the events that have a target; one change for each of n * M windows."""
        shape = self.settings.shape
        states: Tensor = self.network.module(*self.windows_of(lesson.events, lesson.known), changes, last=shape.chunk)
        return states.reshape(*lesson.target.shape, shape.width)

    def _sequences(self, rng: np.random.Generator) -> Ids:
        """Slots of sequences with a next event: of users who just liked something, and of any."""
        batch, count = self.settings.batch, self.sequences.rings["count"]
        recent = np.unique(self.sequences.index.find(self.recent["user"]))
        drawn = [slots[slots >= 0] for slots in (recent, np.flatnonzero(count > 1))]
        drawn[0] = drawn[0][count[drawn[0]] > 1]
        sizes = batch // 2, batch - batch // 2
        return np.concatenate(
            [rng.choice(slots, min(size, slots.size), replace=False) for slots, size in zip(drawn, sizes, strict=True)]
        )


def cross_entropy(lesson: Lesson, states: Tensor) -> Tensor:
    """Return the mean cross-entropy of the targets."""
    at = lesson.target >= 0
    state, target = states[at], lesson.target[at]
    logits = torch.addmm(lesson.items[:, -1], state, lesson.items[:, :-1].T)
    if lesson.correction.any():
        own = logits.gather(1, target[:, None])
        logits = (logits + lesson.correction).scatter(1, target[:, None], own)
    return functional.cross_entropy(logits, target)
