"""StreamAdapter's map from absorbed chunks to changes of a sequence model: serving, absorbing, and learning of the map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import Module
from torch.optim import Adam

from learners.base import LowRank, WeightDelta
from learners.networks.changes import Changes
from learners.networks.sequence.context import Context, ContextShape, State
from learners.networks.sequence.model import BETAS, Lesson, SequenceModel, cross_entropy
from learners.networks.sequence.windows import Windows
from memory.arrays import Bools, Floats, Ids
from memory.parameters import Parameters
from memory.stateful import Stateful

__all__ = ["ContextMap", "ContextStates", "context_shape", "states_of_lesson"]

_WITH_CHANGES = 0.75
"""Share of the sequences that a model learns with changes. With all of them it would be poor without: for new users."""

_LONGEST_GRADIENT = 16
"""Chunks through which the gradient of a state goes back."""


class ContextStates(NamedTuple):
    """States of n users as arrays; see `learners.networks.sequence.context.State`.

    Attributes
    ----------
    vectors : (n, layers * r * D) float32
    fresh : (n,) float32
    """

    vectors: Floats
    fresh: Floats


def context_shape(model: SequenceModel, rank: int, alpha: float, tau: float, *, confidence: bool) -> ContextShape:
    """Return the shape of a map that changes the output side of a model's feed-forward layers."""
    shape = model.settings.shape
    targets = [("down", shape.width, shape.inner)]
    return ContextShape(shape.width, shape.heads, shape.layers, rank, alpha, tau, confidence, targets)


class ContextMap(Stateful):
    """A `Context` that learns beside a model, whose parameters it leaves as they are.

    Parameters
    ----------
    model : SequenceModel
    shape : ContextShape
    learning_rate : float
        Of Adam.
    seed : int
        Seed of the initial weights.
    """

    def __init__(self, model: SequenceModel, shape: ContextShape, learning_rate: float, seed: int) -> None:
        self._of, self.shape = [model], shape  # in a list: the model is not part of this state
        self.network = Parameters(
            lambda: Context(shape),
            lambda module: Adam(module.parameters(), lr=learning_rate, betas=BETAS, fused=True),
            seed=seed,
        )

    @property
    def _model(self) -> SequenceModel:
        return self._of[0]

    def delta(self, states: ContextStates, used: Bools) -> WeightDelta:
        """Return the changes of n requests, (n,) `used` of which have a state to use; those of the others are 0."""
        with torch.no_grad():
            changes = self.network.module.changes(self._tensors(states))
            on = torch.from_numpy(used)[:, None, None]
            return {name: LowRank((u * on).numpy(), v.contiguous().numpy()) for name, (u, v) in changes.low_rank.items()}

    def absorb(self, chunks: Windows, states: ContextStates) -> ContextStates:
        """Return the states of n users after one more whole chunk each: the second half of (n, 2 C) events."""
        model = self._model
        with torch.no_grad():
            slots = model.slots(chunks.item)
            read = model.network.module.chunks(*model.events(model.rows(slots), slots, chunks.time))
            module = self.network.module
            vectors, fresh = module.absorb(self._tensors(states), *module.gated(module.summaries(read)))
        return ContextStates(vectors.flatten(1).numpy(), fresh.numpy())

    def losses(self, windows: Windows, states: ContextStates, target: Ids, items: Ids) -> tuple[Floats, Floats]:
        """Return the cross-entropy of the next items (n,), without and with the states' changes.

        Parameters
        ----------
        windows : Windows
        states : ContextStates
        target : (n,) int64
            Slots of the next items.
        items : (m,) int64
            Slots of the items that they are compared with, ascending.
        """
        model = self._model
        with torch.no_grad():
            rows, own = model.rows(items), model.rows(target)
            same = torch.from_numpy(items == target[:, None])
            both = []
            for changes in (Changes(), self.network.module.changes(self._tensors(states))):
                state = model.states(windows, changes)
                logits = torch.addmm(rows[:, -1], state, rows[:, :-1].T).masked_fill(same, -torch.inf)
                logit = (state * own[:, :-1]).sum(1) + own[:, -1]
                both.append((torch.logaddexp(logits.logsumexp(1), logit) - logit).numpy())
        return both[0], both[1]

    def learn(self, lesson: Lesson) -> None:
        """Make one step on a lesson, with the model as it is."""
        with _fixed(self._model.network.module):
            states = states_of_lesson(self._model, self.network.module, lesson)
            changes = self.network.module.changes(states)
            self.network.step(cross_entropy(lesson, self._model.states_of(lesson, changes)))

    def changes_for(self, lesson: Lesson, rng: np.random.Generator) -> Changes:
        """Return changes for a lesson of the model, with gradients by the model. A quarter of the sequences get none."""
        with _fixed(self.network.module):
            states = states_of_lesson(self._model, self.network.module, lesson)
            changes = self.network.module.changes(states)
        sequences, chunks = lesson.target.shape[:2]
        on = torch.from_numpy(rng.random(sequences) < _WITH_CHANGES).repeat_interleave(chunks)[:, None, None]
        return Changes(low_rank={name: (u * on, v) for name, (u, v) in changes.low_rank.items()})

    def _tensors(self, states: ContextStates) -> State:
        shape = self.shape
        vectors = torch.from_numpy(states.vectors).reshape(-1, shape.layers, shape.rank, shape.width)
        return State(vectors, torch.from_numpy(states.fresh))


def states_of_lesson(model: SequenceModel, context: Context, lesson: Lesson) -> State:
    """Return the state for each of n * M windows: of the chunks before the window's, from the first chunk of the lesson on."""
    sequences, chunks = lesson.target.shape[:2]
    events, known = model.windows_of(lesson)
    gate, value = context.gated(context.summaries(model.network.module.chunks(events, known)))
    whole = known[:, model.settings.shape.chunk :].all(1)[:, None, None, None]
    gate, value = torch.where(whole, gate, 1.0), torch.where(whole, value, 0.0)
    gate, value = (part.reshape(sequences, chunks, *part.shape[1:]) for part in (gate, value))
    state = context.initial(sequences)
    states = [state, state]
    for n in range(chunks - 2):
        if n and n % _LONGEST_GRADIENT == 0:
            state = State(state.vectors.detach(), state.fresh.detach())
        state = context.absorb(state, gate[:, n], value[:, n])
        states.append(state)
    stacked = [torch.stack(part, 1).flatten(0, 1) for part in zip(*states[:chunks], strict=True)]
    return State(*stacked)


@contextmanager
def _fixed(module: Module) -> Iterator[None]:
    """Compute no gradients by a module's parameters within this block."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
