"""Base class of rankers that are networks: scoring, learning in pieces, and changes of their parameters by adapters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from learners.base import LowRank, Ranker, WeightDelta
from learners.bounds import graded
from learners.delta import Shapes
from learners.lookups import Catalogues, UserHistory
from learners.networks.changes import Changes
from learners.networks.click_network import ClickNetwork, NetworkShape
from learners.networks.field_embedding import LARGEST_NUMBER, Embedded, FieldEmbedding, Fields
from learners.networks.gradients import SharesGradients
from learners.networks.graphs import Function, Padded
from learners.schema import Schema
from memory.arrays import Arrays
from memory.parameters import Parameters
from memory.stateful import State, Stateful
from streams.batch import Batch, Feedback, Floats

__all__ = ["NetworkRanker"]

BETAS = (0.9, 0.99)


ODDS, FIELDS = "log-odds", "gradients of fields"
"""Names in `NetworkRanker.gradients_of`, beside those of the parameters."""

_Gradients = tuple[Floats, Floats, list[Tensor]]
"""Of the n rows of a piece: the network's log-odds (n,), gradients by the fields (n, fields, k), and by each parameter."""


class NetworkRanker(Ranker, SharesGradients):
    """A ranker whose log-odds are those of a factorization machine plus those of a network on the machine's vectors.

    The network's gradients change the vectors, too, except those of the user in rows of impressions.

    Parameters
    ----------
    embedding : FieldEmbedding
    shape : NetworkShape
    learning_rate, map_learning_rate : float
        Learning rates of the network's parameters, and of its map between user and item (Adam).
    piece : int
        Rows of a step of the network. A larger micro-batch is learned in several steps.
    device : str
        Device of the network.
    seed : int
        Seed of the network's initial weights.
    publish_every : int
        Rows learned between two versions that answer. 0: every answer has all that was learned, and there is no second copy.
    """

    tolerance: ClassVar[float] = 1e-3
    learns_hidden: ClassVar[bool] = False
    private: ClassVar[frozenset[str]] = frozenset({"ahead"})

    def __init__(
        self,
        embedding: FieldEmbedding,
        shape: NetworkShape,
        *,
        learning_rate: float,
        map_learning_rate: float,
        piece: int,
        device: str,
        seed: int,
        publish_every: int = 0,
    ) -> None:
        self._publish_every = publish_every
        self.embedding, self.shape, self.piece = embedding, shape, piece
        self._rate, self._map_rate = learning_rate, map_learning_rate
        self._device, self._seed = device, seed
        self.hidden_width = shape.hidden if shape.depth else 0
        self._capped = 0

    def bind(self, schema: Schema, catalogues: Catalogues, history: UserHistory) -> None:
        """Make the network for these columns."""
        self.fields = Fields.of(schema)

        def optimize(module: ClickNetwork) -> Adam:
            maps = [parameter for name, parameter in module.named_parameters() if name == "map"]
            rest = [parameter for name, parameter in module.named_parameters() if name != "map"]
            groups: list[dict[str, Any]] = [{"params": rest}, {"params": maps, "lr": self._map_rate}]
            return Adam([group for group in groups if group["params"]], lr=self._rate, betas=BETAS, fused=True)

        self.network = Parameters(self.make_network, optimize, device=self._device, seed=self._seed)
        if self._publish_every:
            learned = Parameters(self.make_network, optimize, device=self._device, seed=self._seed)
            self.ahead = _Ahead(copy.deepcopy(self.embedding), learned)
            self.published = Arrays(version=np.zeros(1, np.int64), waiting=np.zeros(1, np.int64), private=["waiting"])
        self.predict: Function = self._predict
        self.gradients: Function = self._gradients
        if self._device != "cpu":
            self.predict, self.gradients = Padded(self._predict), Padded(self._gradients)

    def make_network(self) -> ClickNetwork:
        """Make the network with its initial weights."""
        return ClickNetwork(self.shape, self.fields)

    @property
    def device(self) -> str:
        """Device of the network."""
        return self._device

    @property
    def version(self) -> int:
        """Number of versions published; 0 without `publish_every`."""
        return int(self.published["version"][0]) if self._publish_every else 0

    def adaptable(self) -> Shapes:
        """Shapes of `norms` and `targets`."""
        parameters = dict(self.network.module.named_parameters())
        return {name: tuple(parameters[name].shape) for name in (*self.norms(), *self.targets())}

    def norms(self) -> list[str]:
        """Scales and shifts of the layer normalisations, without the last one."""
        return [f"{name}.{part}" for name in self.network.module.norm_names() for part in ("weight", "bias")]

    def targets(self) -> list[str]:
        """Matrices that a `LowRank` may change."""
        return list(self.network.module.target_names())

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``score``, the probability of a positive reward (see `learners.bounds.graded`), and ``hidden``."""
        with torch.no_grad():
            embedded = self.embedding.read(batch, self.fields)
            inputs = self._inputs(batch, embedded)
            odds, hidden = self.network.module(*inputs, self._changes(batch, delta)) if delta else self.predict(*inputs)
            batch.score[:] = (odds[: batch.rows] + self._tensor(embedded.odds)).sigmoid_().cpu().numpy()
            batch.hidden = hidden[: batch.rows].cpu().numpy() if self.hidden_width else None

    def forward(self, batch: Batch, delta: Mapping[str, Tensor]) -> Tensor:
        """Return log-odds (N,) with gradients by `delta`, changes of `norms` or `targets` for all rows."""
        embedded = self.embedding.read(batch, self.fields)
        odds: Tensor = self.network.module(*self._inputs(batch, embedded), Changes(delta))[0]
        return odds + self._tensor(embedded.odds)

    def learn(self, feedback: Feedback) -> None:
        """Learn from rows in order, with the labels and weights of `learners.bounds.graded`. A weight multiplies the loss."""
        label, weight, capped = graded(feedback.reward, feedback.weight)
        self._capped += capped
        given, names = feedback.gradients.get(self.name), self._names()
        for n, start in enumerate(range(0, feedback.rows, self.piece)):
            rows = slice(start, start + self.piece)
            if given is None:
                gradients = self._gradients_of_piece(feedback, rows, label[rows], weight[rows])
            else:
                by_parameter = (given[name][n] for name in names)
                gradients = given[ODDS][rows], given[FIELDS][rows], [self._tensor(array) for array in by_parameter]
            self._learn_piece(feedback, rows, label[rows], weight[rows], gradients, names)
        if self._publish_every:
            self._publish_if_due(feedback.rows)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Load a state; see `Stateful.load_state_dict`."""
        super().load_state_dict(state)
        if self._publish_every:
            self.ahead.mark_differences(self.embedding)

    def metrics(self) -> Mapping[str, float]:
        """Return ``capped``, the rows whose weight was limited; see `learners.bounds.graded`."""
        return {"capped": float(self._capped)}

    def _publish_if_due(self, rows: int) -> None:
        self.published["waiting"][0] += rows
        if self.published["waiting"][0] >= self._publish_every:
            changes = self.ahead.take_changes()
            self.embedding.apply_changes(_of("embedding.", changes))
            self.network.apply_changes(_of("network.", changes))
            self.published["version"][0] += 1
            self.published["waiting"][0] = 0
        self.published.mark()

    @property
    def _learning(self) -> tuple[FieldEmbedding, Parameters[ClickNetwork]]:
        """What learns: what answers, or the copy that is ahead of it."""
        return (self.ahead.embedding, self.ahead.network) if self._publish_every else (self.embedding, self.network)

    def gradients_of(self, feedback: Feedback) -> State:
        """Return the network's log-odds, and its gradients by the fields of each row and by the parameters in each piece."""
        label, weight, _ = graded(feedback.reward, feedback.weight)
        pieces = [slice(start, start + self.piece) for start in range(0, feedback.rows, self.piece)]
        if not pieces:
            return {}
        parts = [self._gradients_of_piece(feedback, rows, label[rows], weight[rows]) for rows in pieces]
        odds, fields, by_parameter = zip(*parts, strict=True)
        stacked = {
            name: torch.stack(of_pieces).cpu().numpy() for name, *of_pieces in zip(self._names(), *by_parameter, strict=True)
        }
        return {ODDS: np.concatenate(odds), FIELDS: np.concatenate(fields), **stacked}

    def _names(self) -> list[str]:
        return [name for name, _ in self._learning[1].module.named_parameters()]

    def _gradients_of_piece(self, feedback: Feedback, rows: slice, label: Floats, weight: Floats) -> _Gradients:
        embedded = self._learning[0].read(feedback, self.fields, rows)
        known = (self._tensor(array) for array in (embedded.odds, label, weight))
        odds, of_fields, *of_parameters = self.gradients(*self._inputs(feedback, embedded, rows), *known)
        others, gradient = (tensor[: label.size].cpu().numpy() for tensor in (odds, of_fields))
        # Outcomes of one impression come one after the other: clicks, then the rest when its window ends. A network that wrote
        # into the user's vectors at a click would find its mark when it learns the rest, but never in a new impression.
        shown = np.flatnonzero(feedback.position[rows] >= 0)
        gradient[shown[:, None], self.fields.users] = 0.0
        return others, gradient, of_parameters

    def _learn_piece(
        self, feedback: Feedback, rows: slice, label: Floats, weight: Floats, gradients: _Gradients, names: list[str]
    ) -> None:
        others, gradient, of_parameters = gradients
        embedding, network = self._learning
        network.apply(dict(zip(names, of_parameters, strict=True)))
        embedding.learn(feedback, self.fields, rows, label, weight, others, gradient)

    def _predict(self, fields: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
        odds, hidden = self.network.module(fields, numbers, Changes())
        return odds, hidden

    def _gradients(self, fields: Tensor, numbers: Tensor, machine: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the network's log-odds, and the gradients of the summed loss by the fields and by each parameter."""
        fields = fields.detach().requires_grad_()
        module = self._learning[1].module
        odds, _ = module(fields, numbers, Changes())
        loss = functional.binary_cross_entropy_with_logits(odds + machine, label, weight, reduction="sum")
        return odds.detach(), *torch.autograd.grad(loss, [fields, *module.parameters()])

    def _inputs(self, batch: Batch, embedded: Embedded, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        numbers = batch.values[rows, self.fields.numbers]
        if numbers.size:
            numbers = np.nan_to_num(np.clip(numbers, -LARGEST_NUMBER, LARGEST_NUMBER))
        return self._tensor(embedded.fields), self._tensor(numbers)

    def _changes(self, batch: Batch, delta: WeightDelta | None) -> Changes:
        dense, low_rank = {}, {}
        for name, change in (delta or {}).items():
            if isinstance(change, LowRank):
                low_rank[name] = self._tensor(change.u[batch.request]), self._tensor(change.v[batch.request])
            else:
                dense[name] = self._tensor(change)
        return Changes(dense, low_rank)

    def _tensor(self, array: Floats) -> Tensor:
        return torch.from_numpy(array).to(self._device)


class _Ahead(Stateful):
    """A copy of the weights that learns, while another version answers. It is saved but not shipped.

    Parameters
    ----------
    embedding : FieldEmbedding
    network : Parameters
    """

    def __init__(self, embedding: FieldEmbedding, network: Parameters[ClickNetwork]) -> None:
        self.embedding, self.network = embedding, network

    def mark_differences(self, answering: FieldEmbedding) -> None:
        """Mark what differs from the version that answers, after both were loaded: the next publication has to have it."""
        mine, others = self.embedding.rows, answering.rows
        differ = (mine["weights"] != others["weights"]).any(1) | (mine["scales"] != others["scales"])
        mine.mark(np.flatnonzero(differ))
        self.embedding.intercept.mark()
        for name, _ in self.network.module.named_parameters():
            self.network.mark(name)


def _of(prefix: str, changes: State) -> State:
    return {name.removeprefix(prefix): array for name, array in changes.items() if name.startswith(prefix)}
