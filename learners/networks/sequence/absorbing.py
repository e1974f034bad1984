"""StreamAdapter's map from absorbed chunks to changes of a sequence model: serving, absorbing, and learning of the map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
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

__all__ = ["ContextMap", "ContextStates", "context_shape", "states_before"]

_WITH_CHANGES = 0.75
"""Share of the sequences that a model learns with changes. With all of them it would be poor without: for new users."""


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
    """A `Context` that learns beside a model or, as its companion, in the model's steps.

    The chunks are always read by the model as it is: no gradient of its parameters goes through a state.

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
            whole = used.size, -1, -1
            return {
                name: LowRank((u * on).numpy(), v.expand(whole).contiguous().numpy())
                for name, (u, v) in changes.low_rank.items()
            }

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
            changes = self.network.module.changes(self._tensors(states))
            # In one pass, the first half without.
            twice = Windows(*(np.concatenate([part, part]) for part in windows))
            low_rank = {name: (torch.cat([torch.zeros_like(u), u]), v) for name, (u, v) in changes.low_rank.items()}
            state = model.states(twice, Changes(low_rank=low_rank))
            same = torch.from_numpy(items == target[:, None]).repeat(2, 1)
            logits = torch.addmm(rows[:, -1], state, rows[:, :-1].T).masked_fill(same, -torch.inf)
            logit = (state * own[:, :-1].repeat(2, 1)).sum(1) + own[:, -1].repeat(2)
            without, with_changes = (torch.logaddexp(logits.logsumexp(1), logit) - logit).numpy().reshape(2, -1)
        return without, with_changes

    def learn(self, lesson: Lesson) -> None:
        """Make one step on a lesson, with the model as it is."""
        with _fixed(self._model.network.module):
            changes = self._changes(lesson)
            self.network.step(cross_entropy(lesson, self._model.states_of(lesson, changes)))

    def changes_for(self, lesson: Lesson, rng: np.random.Generator) -> Changes:
        """Return changes for a lesson of the model, with gradients by the map. A quarter of the sequences get none."""
        sequences, chunks = lesson.target.shape[:2]
        on = np.flatnonzero(rng.random(sequences) < _WITH_CHANGES)
        if not on.size:
            return Changes()
        part = lesson._replace(slots=lesson.slots[on], time=lesson.time[on], target=lesson.target[torch.from_numpy(on)])
        windows = torch.from_numpy((on[:, None] * chunks + np.arange(chunks)).flatten())
        low_rank = {}
        for name, (u, v) in self._changes(part).low_rank.items():
            low_rank[name] = u.new_zeros(sequences * chunks, *u.shape[1:]).index_copy(0, windows, u), v
        return Changes(low_rank=low_rank)

    def learned(self) -> None:
        """Make a step by the gradients of the model's step."""
        parameters = self.network.module.named_parameters()
        self.network.apply({name: value.grad for name, value in parameters if value.grad is not None})

    def _changes(self, lesson: Lesson) -> Changes:
        model, module = self._model, self.network.module
        with torch.no_grad():
            events, known = model.events(model.rows(lesson.slots), lesson.slots, lesson.time)
        return module.changes(states_before(model, module, events, known, lesson.target.shape[1]))

    def _tensors(self, states: ContextStates) -> State:
        shape = self.shape
        vectors = torch.from_numpy(states.vectors).reshape(-1, shape.layers, shape.rank, shape.width)
        return State(vectors, torch.from_numpy(states.fresh))


def states_before(model: SequenceModel, context: Context, events: Tensor, known: Tensor, windows: int) -> State:
    """Return the state before each of the last windows of n sequences, of n * windows: of the chunks before each.

    The first chunk is not in a state: the one before it, which it would have seen, is missing.

    Parameters
    ----------
    model : SequenceModel
        It reads the chunks without dropout. Gradients go through what it reads only if the events have gradients.
    context : Context
    events : (n, K C, D)
        Vectors of the events of K chunks.
    known : (n, K C) bool
        Whether there is an event.
    windows : int
        At most K - 1.
    """
    chunk, sequences = model.settings.shape.chunk, len(events)
    events, known = model.windows_of(events[:, : -2 * chunk], known[:, : -2 * chunk])
    network, training = model.network.module, model.network.module.training
    with torch.set_grad_enabled(events.requires_grad):
        read = network.eval().chunks(events, known)
    network.train(training)
    gate, value = context.gated(context.summaries(read))
    whole = known[:, chunk:].all(1)[:, None, None, None]
    gate, value = torch.where(whole, gate, 1.0), torch.where(whole, value, 0.0)
    gates, values = (part.reshape(sequences, -1, *part.shape[1:]).unbind(1) for part in (gate, value))
    state = context.initial(sequences)
    states = [state, state]
    for written in zip(gates, values, strict=True):
        state = context.absorb(state, *written)
        states.append(state)
    stacked = [torch.stack(part, 1).flatten(0, 1) for part in zip(*states[-windows:], strict=True)]
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
