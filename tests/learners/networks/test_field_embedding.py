"""The machine below the networks, against plain formulas and against torch's gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.kernels.factorization import PRIOR
from learners.networks.field_embedding import FieldEmbedding, Fields
from learners.schema import FeatureColumn, Schema
from tests.learners.networks.clicks import COLUMNS, FIELDS, random_rows

FACTORS, BITS = 3, 6
WEIGHT_RATE, VECTOR_RATE = 0.3, 0.2


def embedding() -> FieldEmbedding:
    return FieldEmbedding(FACTORS, BITS, WEIGHT_RATE, VECTOR_RATE, 0.5, 3)


def fields_of(*columns: FeatureColumn) -> Fields:
    return Fields.of(Schema(columns, (), (), (), 0))


def test_columns_of_one_name_are_one_field_and_numbers_are_none() -> None:
    fields = fields_of(*COLUMNS)
    assert fields.field.tolist() == [0, 1, 2, 2, -1] and fields.total == FIELDS
    assert fields.numbers.tolist() == [4] and fields.users.tolist() == [0] and fields.items.tolist() == [1, 2]


def test_numbers_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="features: 1 numbers and nothing else; a network needs an id or a category"):
        fields_of(COLUMNS[-1])


def test_it_reads_as_the_formulas_say() -> None:
    model, batch, fields = embedding(), random_rows(0), fields_of(*COLUMNS)
    model.rows["scales"][:] = 2.0
    read = model.read(batch, fields)
    for n in range(batch.rows):
        x = np.clip(batch.values[n] / 2, -1, 1)
        x /= np.sqrt((x**2).sum())
        weights = model.rows["weights"][batch.features[n] % 2**BITS].astype(np.float64)
        parts = weights[:, 1:] * x[:, None]
        pairs = sum(parts[i] @ parts[j] for i in range(5) for j in range(i + 1, 5))
        np.testing.assert_allclose(read.odds[n], weights[:, 0] @ x + pairs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(read.fields[n], [parts[0], parts[1], parts[2] + parts[3]], rtol=1e-4, atol=1e-6)


def test_it_learns_the_gradient_of_machine_and_network() -> None:
    """One row, whose log-odds are the machine's plus <a, fields>. The steps are AdaGrad's, times one common damping."""
    model, batch, fields = embedding(), random_rows(2, 1), fields_of(*COLUMNS)
    model.rows["scales"][:] = 2.0
    at = batch.features[0] % 2**BITS
    before = torch.tensor(model.rows["weights"][at], dtype=torch.float64, requires_grad=True)
    x = torch.from_numpy(np.clip(batch.values[0].astype(np.float64) / 2, -1, 1))
    x = x / x.norm()
    parts = before[:, 1:] * x[:, None]
    vectors = torch.stack([parts[0], parts[1], parts[2] + parts[3]])
    a = torch.from_numpy(np.random.default_rng(2).normal(size=(FIELDS, FACTORS)))
    network = (a * vectors).sum()
    odds = before[:, 0] @ x + (parts.sum(0) ** 2 - (parts**2).sum(0)).sum() / 2 + network
    loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, torch.tensor(float(batch.reward[0])).double())
    loss.backward()
    assert before.grad is not None
    gradient = before.grad.numpy()
    through_network = ((odds.sigmoid() - float(batch.reward[0])) * a).detach().numpy().astype(np.float32)

    others = np.array([network.item()], np.float32)
    model.learn(batch, fields, slice(0, 1), batch.reward, batch.weight, others, through_network[None])

    rates = np.array([WEIGHT_RATE, *[VECTOR_RATE] * FACTORS])
    # Rows of equal keys would be learned in turn; these five differ.
    assert np.unique(at).size == 5
    damped = (before.detach().numpy() - model.rows["weights"][at]) / (rates * gradient / np.sqrt(PRIOR + gradient**2))
    assert 0.5 < damped[0, 0] < 1.0
    np.testing.assert_allclose(damped, damped[0, 0], rtol=2e-2)


def test_the_machine_does_not_depend_on_the_pieces() -> None:
    whole, cut, batch, fields = embedding(), embedding(), random_rows(4), fields_of(*COLUMNS)
    others, gradient = np.zeros(100, np.float32), np.zeros((100, FIELDS, FACTORS), np.float32)
    whole.learn(batch, fields, slice(None), batch.reward, batch.weight, others, gradient)
    for start in range(0, 100, 7):
        rows = slice(start, start + 7)
        cut.learn(batch, fields, rows, batch.reward[rows], batch.weight[rows], others[rows], gradient[rows])
    np.testing.assert_array_equal(whole.rows["weights"], cut.rows["weights"])
