"""The models that `benchmarks.context_world` compares: sequence models with and without a memory of what left the window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from learners.networks.changes import Changes
from learners.networks.sequence.absorbing import ContextMap, context_shape, states_before
from learners.networks.sequence.candidates import SoftmaxItems
from learners.networks.sequence.context import Context
from learners.networks.sequence.model import BETAS, Companion, Lesson, SequenceModel, SequenceSettings, cross_entropy
from learners.networks.sequence.transformer import SequenceShape, Transformer

__all__ = ["MODELS", "Model", "Size"]

Events = npt.NDArray[np.int64]

RATE, MEMORY_RATE = 2e-3, 3e-3
"""Learning rates of transformers, and of memories."""


class Size(NamedTuple):
    """Size of the models.

    Attributes
    ----------
    items, length : int
        Of the world.
    chunk, judged : int
        Events C of a chunk, and last chunks of a sequence whose next events are learned and judged.
    width, heads, layers, inner : int
        See `SequenceShape`.
    rank : int
        Vectors of a state in each layer.
    """

    items: int = 120
    length: int = 128
    chunk: int = 8
    judged: int = 4
    width: int = 32
    heads: int = 2
    layers: int = 2
    inner: int = 64
    rank: int = 8


class Model(Protocol):
    """A model of the next event."""

    def step(self, events: Events, share: float) -> None:
        """Make one step on sequences (n, length + 1), with a share of the learning rate."""

    def logits(self, events: Events) -> tuple[Tensor, Tensor]:
        """Return the logits (m, items) of the judged events of sequences, and their items (m,)."""


class _Window:
    """A transformer that sees the last one to two chunks.

    Parameters
    ----------
    size : Size
    seed : int
    chunk : int, optional
        Events of a chunk of the transformer, where it is not that of the size.
    """

    def __init__(self, size: Size, seed: int, chunk: int = 0) -> None:
        self.size = size
        shape = SequenceShape(size.width, size.heads, size.layers, size.inner, chunk or size.chunk, size.items)
        self.model = SequenceModel(SequenceSettings(shape, 1, 1, 1, 1, 1, RATE, 1, size.items, 1, seed))
        self.rng = np.random.default_rng([seed, 2])
        self.all = SoftmaxItems(np.arange(size.items), np.zeros(size.items, np.float32))

    @property
    def transformer(self) -> Transformer:
        return self.model.network.module

    def lesson(self, events: Events) -> Lesson:
        """Return a lesson with all chunks of the sequences; the chunk before the first one is empty."""
        size = self.size
        slots = np.pad(events[:, :-1], ((0, 0), (size.chunk, 0)), constant_values=-1)
        following = np.full((len(events), size.length // size.chunk, size.chunk), -1)
        following[:, -size.judged :] = events[:, 1:].reshape(following.shape)[:, -size.judged :]
        return self.model.read(slots, np.zeros((slots.shape[0], slots.shape[1] + 1)), following, self.all)

    def judged(self, lesson: Lesson) -> Lesson:
        """Return the judged chunks of a lesson."""
        chunk, judged = self.size.chunk, self.size.judged
        first = -(judged + 1) * chunk
        return lesson._replace(
            events=lesson.events[:, first:], known=lesson.known[:, first:], target=lesson.target[:, -judged:]
        )

    def windows(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """Return the windows of the judged chunks, and whether their events are known."""
        judged = self.judged(lesson)
        return self.model.windows_of(judged.events, judged.known)

    def states(self, lesson: Lesson) -> Tensor:
        """Return the states (n, judged, C, D) after the events of the judged chunks."""
        return self.model.states_of(self.judged(lesson), Changes())

    def step(self, events: Events, share: float) -> None:
        self.model.step(self.judged(self.lesson(events)), self.rng, RATE * share)

    def logits(self, events: Events) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            lesson = self.lesson(events)
            states = self.states(lesson).flatten(0, 2)
            target = self.judged(lesson).target.flatten()
            return states @ lesson.items[:, :-1].T + lesson.items[:, -1], target


class _Adapted(_Window):
    """The product's StreamAdapter: the transformer learns with its changes, and it learns with the transformer, in turns."""

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__(size, seed)
        shape = context_shape(self.model, size.rank, float(size.rank), 1.0, confidence=True)
        self.context = ContextMap(self.model, shape, MEMORY_RATE, seed)
        self.model.companion = Companion(0, self.context.changes_for, self.context.learned)

    def step(self, events: Events, share: float) -> None:
        self.model.step(self.lesson(events), self.rng, RATE * share)
        (optimizer,) = self.context.network.optimizers
        optimizer.param_groups[0]["lr"] = MEMORY_RATE * share
        self.context.learn(self.lesson(events))

    def states(self, lesson: Lesson) -> Tensor:
        module = self.context.network.module
        changes = module.changes(states_before(self.model, module, lesson.events, lesson.known, lesson.target.shape[1]))
        return self.model.states_of(lesson, changes)[:, -self.size.judged :]


class _Joint(_Window):
    """A transformer that learns together with a memory."""

    memory: torch.nn.Module

    def step(self, events: Events, share: float) -> None:
        if not hasattr(self, "optimizers"):
            memory = list(self.memory.parameters())
            self.optimizers = [*self.model.network.optimizers, *([Adam(memory, lr=MEMORY_RATE, betas=BETAS)] if memory else [])]
            self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        lesson = self.lesson(events)
        loss = cross_entropy(self.judged(lesson), self.states(lesson))
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = rate * share
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()


class _Whole(_Joint):
    """A transformer that sees all events."""

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__(size, seed, size.length)
        self.memory = torch.nn.Module()

    def states(self, lesson: Lesson) -> Tensor:
        size = self.size
        states: Tensor = self.transformer(lesson.events[:, size.chunk :], lesson.known[:, size.chunk :], Changes())
        return states.reshape(*lesson.target.shape, -1)[:, -size.judged :]


class _Mean(_Joint):
    """A transformer with the mean of the events before its window, projected and added to the events and to the states."""

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__(size, seed)
        self.memory = torch.nn.Linear(size.width, 2 * size.width, bias=False)
        torch.nn.init.zeros_(self.memory.weight)

    def states(self, lesson: Lesson) -> Tensor:
        size = self.size
        # An empty chunk is first, and two chunks of the window are last.
        chunks = lesson.events.reshape(len(lesson.events), -1, size.chunk, size.width)[:, 1:-2].sum(2).cumsum(1)
        means = chunks / (size.chunk * torch.arange(1, chunks.shape[1] + 1)[:, None])
        added, after = self.memory(means[:, -size.judged :]).flatten(0, 1)[:, None].chunk(2, -1)
        events, known = self.windows(lesson)
        states: Tensor = self.transformer(events + added, known, Changes()) + after
        return states[:, size.chunk :].reshape(-1, size.judged, size.chunk, size.width)


class _Prefix(_Joint):
    """A transformer that reads StreamAdapter's state as keys and values before the window."""

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__(size, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            shape = context_shape(self.model, size.rank, 1.0, 1.0, confidence=False)._replace(targets=[])
            self.context = Context(shape)
            self.reads = torch.nn.ModuleList(
                torch.nn.Linear(size.width, 2 * size.width, bias=False) for _ in range(size.layers)
            )
        self.memory = torch.nn.ModuleList([self.context, self.reads])

    def states(self, lesson: Lesson) -> Tensor:
        size = self.size
        vectors = states_before(self.model, self.context, lesson.events, lesson.known, size.judged).vectors
        vectors = functional.rms_norm(vectors, (size.width,), eps=1e-6)
        events, known = self.windows(lesson)
        states = self._forward(events, known, vectors)
        return states[:, size.chunk :].reshape(-1, size.judged, size.chunk, size.width)

    def _forward(self, x: Tensor, known: Tensor, vectors: Tensor) -> Tensor:
        """Do what the transformer does, with the keys and values of states (n, layers, r, D) before those of the events."""
        module: Any = self.transformer
        unseen = module.hidden + torch.where(known, 0.0, -1e9)[:, None, None]
        for n, block in enumerate(module.blocks):
            read = block.attention_norm(x)
            query, key, value = (block._split(layer(read)) for layer in (block.query, block.key, block.value))
            first = [block._split(part) for part in self.reads[n](vectors[:, n]).chunk(2, -1)]
            bias = functional.pad(block.bias[:, module.distance] + unseen, (self.size.rank, 0))
            key, value = torch.cat([first[0], key], 2), torch.cat([first[1], value], 2)
            attended = functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)
            x = x + block.output(attended)
            x = x + block.down(functional.gelu(block.up(block.inner_norm(x))))
        states: Tensor = module.norm(x)
        return states


class _AdaptedAtOnce(_Joint):
    """StreamAdapter and the transformer with one loss, and no sequences without changes."""

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__(size, seed)
        shape = context_shape(self.model, size.rank, float(size.rank), 1.0, confidence=True)
        self.memory = self.context = ContextMap(self.model, shape, MEMORY_RATE, seed).network.module

    def states(self, lesson: Lesson) -> Tensor:
        judged = self.size.judged
        state = states_before(self.model, self.context, lesson.events, lesson.known, judged)
        return self.model.states_of(self.judged(lesson), self.context.changes(state))


MODELS: Mapping[str, Callable[[Size, int], Model]] = {
    "window": _Window,
    "stream_adapter": _Adapted,
    "stream_adapter, one loss": _AdaptedAtOnce,
    "whole history": _Whole,
    "mean of events": _Mean,
    "keys and values": _Prefix,
}
