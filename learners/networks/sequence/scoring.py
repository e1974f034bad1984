"""Logits of rows with changes of the model's parameters, for the ranker and its adapters."""

from __future__ import annotations

import numpy as np
import torch

from learners.delta import LowRank, Shapes, WeightDelta
from learners.networks.changes import Changes
from learners.networks.sequence.model import SequenceModel
from streams.batch import Batch, Floats

__all__ = ["adaptable", "changes_of", "logits_from", "norms", "scored", "targets"]


def norms(model: SequenceModel) -> list[str]:
    """Scales and shifts of the layer normalisations, without the last one."""
    return [f"{name}.{part}" for name in model.network.module.norm_names() for part in ("weight", "bias")]


def targets(model: SequenceModel) -> list[str]:
    """Matrices on the output side of the feed-forward layers, which a `LowRank` may change."""
    return list(model.network.module.target_names())


def adaptable(model: SequenceModel) -> Shapes:
    """Shapes of `norms` and `targets`."""
    parameters = dict(model.network.module.named_parameters())
    return {name: tuple(parameters[name].shape) for name in (*norms(model), *targets(model))}


def changes_of(delta: WeightDelta | None) -> Changes:
    """Return changes for the states of requests; one low-rank change for each request."""
    dense, low_rank = {}, {}
    for name, change in (delta or {}).items():
        if isinstance(change, LowRank):
            low_rank[name] = torch.from_numpy(change.u), torch.from_numpy(change.v)
        else:
            dense[name] = torch.from_numpy(change)
    return Changes(dense, low_rank)


def scored(model: SequenceModel, batch: Batch, delta: WeightDelta | None) -> tuple[Floats, Floats]:
    """Return logits (N,), and the user's state beside the item's vector (N, 2 D)."""
    with torch.no_grad():
        logits, states, rows = model.logits(batch, changes_of(delta))
        hidden: Floats = torch.cat([states, rows[:, :-1]], 1).numpy()
    return logits.numpy(), hidden


def logits_from(hidden: Floats, model: SequenceModel, batch: Batch) -> Floats:
    """Return the logits (N,) of rows that were scored before, from their ``hidden`` of then."""
    width = hidden.shape[1] // 2
    bias = model.rows(model.items.find(batch.item))[:, -1].detach().numpy()
    logits: Floats = np.einsum("nd,nd->n", hidden[:, :width], hidden[:, width:]) + bias
    return logits
