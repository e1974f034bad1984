"""The transformer and the map of contexts, against recorded numbers in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from learners.networks.changes import Changes
from learners.networks.sequence.context import Context, ContextShape
from learners.networks.sequence.transformer import Chunk, SequenceShape, Transformer

GOLDEN = Path(__file__).parents[3] / "golden"
CLOSE = {"atol": 1e-10, "rtol": 0}

IN_LAYER = {
    "query.weight": "Wq",
    "key.weight": "Wk",
    "value.weight": "Wv",
    "output.weight": "Wo",
    "up.weight": "W1",
    "down.weight": "W2",
    "attention_norm.weight": "g1",
    "attention_norm.bias": "b1",
    "inner_norm.weight": "g2",
    "inner_norm.bias": "b2",
    "bias": "rel",
}
TARGETS = {"query": (8, 8, "q"), "value": (8, 8, "v"), "output": (8, 8, "o"), "up": (16, 8, "1"), "down": (8, 16, "2")}
C, D, ITEMS, RANK = 5, 8, 17, 3


def recorded(name):
    return {key: torch.from_numpy(array) for key, array in np.load(GOLDEN / f"{name}.npz").items() if array.dtype.kind != "U"}


def ranker(golden):
    """The recorded transformer, and its map of contexts."""
    network = Transformer(SequenceShape(D, 2, 2, 16, C, ITEMS)).double()
    state = {"norm.weight": golden["p/gf"], "norm.bias": golden["p/bf"]}
    state["items.weight"] = torch.cat([golden["p/E"], torch.zeros(ITEMS, 1)], 1)
    for layer in range(2):
        state |= {f"blocks.{layer}.{name}": golden[f"p/{layer}.{short}"] for name, short in IN_LAYER.items()}
    network.load_state_dict(state)
    return network


def context(golden, *, outputs):
    targets = [(name, of, to) for name, (of, to, _) in TARGETS.items()]
    made = Context(ContextShape(D, 2, 2, RANK, 2.0, 1.0, False, targets, outputs)).double()
    state = {}
    for layer in range(2):
        own = {"queries": "Q", "gate.weight": "Wg", "gate.bias": "bg", "value.weight": "Wv"}
        state |= {f"layers.{layer}.{name}": golden[f"p/{layer}.{short}"] for name, short in own.items()}
        for name, (_, _, short) in TARGETS.items():
            state[f"layers.{layer}.absorptions.{name}.shared"] = golden[f"p/{layer}.U{short}"]
            state[f"layers.{layer}.absorptions.{name}.projection"] = golden[f"p/{layer}.P{short}"]
    made.load_state_dict(state)
    return made


def windows(items, starts, length):
    """Vectors of windows of items; those before the first item are missing."""
    at = np.array(starts)[:, None] + np.arange(length)
    return items[np.maximum(at, 0)], torch.from_numpy(at >= 0)


def logits(network, mapped, items, *, adapted, start=None):
    """Logits after each item, chunk by chunk, and the states after each chunk."""
    table = network.items.weight[:, :-1]
    state = mapped.initial(1) if start is None else start
    found, states = [], [state]
    for t in range(items.numel()):
        chunk = t // C
        while len(states) - 1 < chunk - 1:
            ids, known = windows(items, [(len(states) - 2) * C], 2 * C)
            chunks = network.chunks(table[ids], known)
            states.append(mapped.absorb(states[-1], *mapped.gated(mapped.summaries(chunks))))
        ids = items[max(0, (chunk - 1) * C) : t + 1]
        changes = mapped.changes(states[-1]) if adapted else Changes()
        found.append(network(table[ids][None], torch.ones(1, ids.numel(), dtype=torch.bool), changes)[0, -1] @ table.T)
    return torch.stack(found), states


@pytest.mark.parametrize("side", ["in", "out"])
def test_a_ranker_from_end_to_end(side):
    golden = recorded(f"sa_e2e_{side}")
    network, mapped = ranker(golden), context(golden, outputs=side == "out")
    with torch.no_grad():
        base, _ = logits(network, mapped, golden["items"], adapted=False)
        adapted, states = logits(network, mapped, golden["items"], adapted=True)
    assert torch.allclose(base, golden["logits_base"], **CLOSE)
    assert torch.allclose(adapted, golden["logits_sa"], **CLOSE)
    for layer in range(2):
        ours = torch.stack([state.vectors[0, layer] for state in states])
        assert torch.allclose(ours, golden[f"state_l{layer}"][: len(states)], **CLOSE)


@pytest.mark.parametrize("outputs", [True, False])
def test_the_map_of_contexts(outputs):
    golden = recorded("sa_mapper")
    mapped = Context(ContextShape(8, 2, 1, 3, 4.0, 2.0, False, [("down", 10, 7)], outputs)).double()
    suffix = "_out" if outputs else ""
    mapped.load_state_dict(
        {
            "layers.0.queries": golden["Q"],
            "layers.0.gate.weight": golden["Wg"],
            "layers.0.gate.bias": golden["bg"],
            "layers.0.value.weight": golden["Wv"],
            "layers.0.absorptions.down.shared": golden[f"U{suffix}"],
            "layers.0.absorptions.down.projection": golden[f"P{suffix}"],
        }
    )
    keys, values = (golden[name].reshape(2, 4, 6, 4).transpose(0, 1) for name in "KV")
    with torch.no_grad():
        read = mapped.summaries([Chunk(keys, values)])
        assert torch.allclose(read[:, 0], golden["O"], **CLOSE)
        shuffled = torch.randperm(6)
        assert torch.allclose(mapped.summaries([Chunk(keys[:, :, shuffled], values[:, :, shuffled])]), read, **CLOSE)
        gate, value = mapped.gated(read)
        assert torch.allclose(gate[:, 0], golden["gate"], **CLOSE)
        state = mapped.initial(1)
        for n in range(4):
            state = mapped.absorb(state, gate[n : n + 1], value[n : n + 1])
            assert torch.allclose(state.vectors[0, 0], golden["S"][n], **CLOSE)
        u, v = mapped.changes(state).low_rank["blocks.0.down.weight"]
        change = (u @ v.transpose(1, 2))[0]
        assert torch.allclose(change, golden[f"dW{suffix}"], **CLOSE)
        assert torch.linalg.matrix_rank(change) <= 3
        merged = golden["x"] @ (golden["W"] + change).T
        apart = golden["x"] @ golden["W"].T + (golden["x"] @ v[0]) @ u[0].T
        assert torch.allclose(merged, apart, atol=1e-12)
        assert torch.allclose(apart, golden[f"y{suffix}"], **CLOSE)


def test_a_change_begins_as_none():
    golden = recorded("sa_e2e_out")
    network = ranker(golden)
    mapped = Context(ContextShape(D, 2, 2, RANK, 2.0, 1.0, False, [("down", 8, 16)])).double()
    with torch.no_grad():
        base, _ = logits(network, mapped, golden["items"], adapted=False)
        adapted, _ = logits(network, mapped, golden["items"], adapted=True)
    assert torch.equal(base, adapted)


def test_an_item_changes_nothing_before_it_and_old_ones_only_the_state():
    golden = recorded("sa_e2e_out")
    network, mapped = ranker(golden), context(golden, outputs=True)
    items = golden["items"]
    with torch.no_grad():
        before, _ = logits(network, mapped, items, adapted=True)
        base, _ = logits(network, mapped, items, adapted=False)
        for at in (2, 13):
            other = items.clone()
            other[at] = (items[at] + 1) % ITEMS
            adapted, _ = logits(network, mapped, other, adapted=True)
            assert torch.equal(adapted[:at], before[:at])
            assert not torch.allclose(adapted[at], before[at])
        other = items.clone()
        other[2] = (items[2] + 1) % ITEMS
        assert torch.equal(logits(network, mapped, other, adapted=False)[0][3 * C :], base[3 * C :])
        assert not torch.allclose(logits(network, mapped, other, adapted=True)[0][3 * C :], before[3 * C :])
    assert torch.equal(before[: 2 * C], base[: 2 * C])


def test_a_state_is_bounded_by_what_was_written():
    mapped = Context(ContextShape(D, 2, 1, RANK, 1.0, 1.0, True, [("down", 8, 16)])).double()
    gate = torch.rand(200, 1, 1, RANK, D, dtype=torch.float64)
    written = torch.randn(200, 1, 1, RANK, D, dtype=torch.float64)
    state = mapped.initial(1)
    for n in range(200):
        state = mapped.absorb(state, gate[n], (1 - gate[n]) * written[n])
        assert state.vectors.abs().max() <= written[: n + 1].abs().max()
    assert 0 <= state.fresh.item() < 1e-9
