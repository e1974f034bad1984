"""A group-sparse layer equals a dense one with zeros, never makes a tensor of its shape, and finds the inputs that matter."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from learners.networks.sparse.group_linear import GroupSparseLinear

INPUTS, OUTPUTS, GROUP = 24, 16, 4


def make(density: float = 0.25, inputs: int = INPUTS, outputs: int = OUTPUTS, group: int = GROUP) -> GroupSparseLinear:
    torch.manual_seed(7)
    return GroupSparseLinear(inputs, outputs, density, group)


def dense_of(layer: GroupSparseLinear) -> torch.Tensor:
    """Weights (outputs, inputs) with zeros where the layer has none."""
    dense = torch.zeros(layer.bias.numel(), layer.inputs)
    for g, (inputs, weight) in enumerate(zip(layer.inputs_of, layer.weight, strict=True)):
        dense[g * layer.group : (g + 1) * layer.group, inputs.long()] = weight.detach().T
    return dense


def test_outputs_and_gradients_equal_those_of_a_dense_layer_with_zeros() -> None:
    layer = make()
    torch.nn.init.normal_(layer.bias)
    dense = dense_of(layer).requires_grad_()
    x, twin = (torch.randn(5, INPUTS, generator=torch.manual_seed(1)).requires_grad_() for _ in range(2))
    y, other = layer(x), torch.nn.functional.linear(twin, dense, layer.bias)
    torch.testing.assert_close(y, other)
    slope = torch.randn(5, OUTPUTS)
    y.backward(slope)
    other.backward(slope)
    torch.testing.assert_close(x.grad, twin.grad)
    assert dense.grad is not None and layer.weight.grad is not None
    for g, inputs in enumerate(layer.inputs_of):
        torch.testing.assert_close(layer.weight.grad[g], dense.grad[g * GROUP : (g + 1) * GROUP, inputs.long()].T)
    norms = dense.grad.view(-1, GROUP, INPUTS).norm(dim=1)
    torch.testing.assert_close(layer.evidence(x, slope), norms)


def test_an_exchange_keeps_shapes_and_values_and_each_group_s_budget() -> None:
    layer = make()
    before, weight = layer.inputs_of.clone(), layer.weight.detach().clone()
    evidence = np.random.default_rng(0).random((4, INPUTS)).astype(np.float32)
    for g, inputs in enumerate(before):
        evidence[g, inputs.long()] = 0.0
    fresh = layer.prune_and_grow(evidence, 0.5)
    assert fresh.sum(1).tolist() == [3, 3, 3, 3]
    for g in range(4):
        assert layer.inputs_of[g].unique().numel() == 6
        left = before[g][torch.from_numpy(fresh[g])].tolist()
        norms = weight[g].norm(dim=1)
        assert set(left) == set(before[g][norms.argsort()[:3]].tolist()), "the weakest leave"
        best = np.argsort(-evidence[g])[:3]
        assert set(layer.inputs_of[g][torch.from_numpy(fresh[g])].tolist()) == set(best.tolist())
    assert not layer.weight[torch.from_numpy(fresh)].any(), "new weights begin at zero"
    kept = torch.from_numpy(~fresh)
    assert torch.equal(layer.weight[kept], weight[kept]) and torch.equal(layer.inputs_of[kept], before[kept])


def test_without_evidence_nothing_is_exchanged() -> None:
    layer = make()
    before = layer.inputs_of.clone()
    assert not layer.prune_and_grow(np.zeros((4, INPUTS), np.float32), 1.0).any()
    assert torch.equal(before, layer.inputs_of)


def test_all_inputs_are_a_dense_layer() -> None:
    layer = make(density=1.0)
    assert not layer.prune_and_grow(np.ones((4, INPUTS), np.float32), 0.5).any()
    assert layer.weight.numel() == INPUTS * OUTPUTS


def test_the_inputs_that_matter_are_found() -> None:
    """The target depends on 4 of 64 inputs, and each group may read 6."""
    layer, generator = make(6 / 64, 64, 8), torch.manual_seed(3)
    matter = torch.tensor([3, 20, 41, 63])
    head = torch.randn(4, 8, generator=generator)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    evidence = np.zeros((2, 64), np.float32)
    for step in range(400):
        x = torch.randn(32, 64, generator=generator)
        y = layer(x)
        y.retain_grad()
        loss = ((y - x[:, matter] @ head) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        assert y.grad is not None
        evidence += layer.evidence(x, y.grad).numpy()
        optimizer.step()
        if step % 20 == 19:
            layer.prune_and_grow(evidence, 0.3)
            evidence[:] = 0.0
    assert all(set(matter.tolist()) <= set(inputs.tolist()) for inputs in layer.inputs_of)
    assert loss.item() < 0.05


def test_no_tensor_of_the_dense_shape_is_made() -> None:
    layer = make(0.1, 320, 256, 64)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):  # sees every operation, also those of the backward pass
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = operation(*args, **kwargs or {})
            made = result if isinstance(result, tuple | list) else [result]
            sizes.extend(one.numel() for one in made if isinstance(one, torch.Tensor))
            return result

    x = torch.randn(8, 320, requires_grad=True)
    with Watch():
        y = layer(x)
        y.square().sum().backward()
        evidence = layer.evidence(x, y)
        layer.prune_and_grow(evidence.numpy(), 0.3)
    assert sizes and max(sizes) < 320 * 256 / 4
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    assert not [tuple(one.shape) for one in tensors if one.numel() >= 320 * 256 and set(one.shape) >= {320, 256}]


@pytest.mark.parametrize(("options", "problem"), [({"group": 5}, "group: 5"), ({"density": 0.0}, "density: 0")])
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make(**options)
