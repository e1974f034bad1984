"""A module and its optimizers are one store. A restored copy continues bit for bit, and a follower scores the same."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop, SparseAdam

from memory import checkpoint as checkpoints
from memory import parameters as module_under_test
from memory.checkpoint import Checkpoint
from memory.parameters import Parameters
from memory.stateful import State, Stateful, digest, versions, without_private

ROWS = 500
TABLE = "embedding.weight"


class Scorer(torch.nn.Module):
    """An embedding, a layer with running statistics, and dropout."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(ROWS, 4, sparse=sparse)
        self.norm = torch.nn.BatchNorm1d(4)
        self.drop = torch.nn.Dropout(0.3)
        self.head = torch.nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.embedding(ids))))[:, 0]


def one_for_all(module: Scorer) -> Optimizer:
    return Adagrad(module.parameters(), lr=0.1, initial_accumulator_value=0.1)


def one_each(make: Callable[..., Optimizer]) -> Callable[[Scorer], list[Optimizer]]:
    def both(module: Scorer) -> list[Optimizer]:
        return [
            SparseAdam([module.embedding.weight], lr=0.01),
            make([*module.norm.parameters(), *module.head.parameters()], lr=0.01),
        ]

    return both


OPTIMIZE: dict[str, Callable[[Scorer], Optimizer | list[Optimizer]]] = {
    "Adagrad": one_for_all,
    "SGD": lambda module: SGD(module.parameters(), lr=0.1),
    "SparseAdam and Adam": one_each(Adam),
    "SparseAdam and AdamW": one_each(lambda given, lr: AdamW(given, lr=lr, weight_decay=0.1, amsgrad=True)),
    "SparseAdam and SGD with momentum": one_each(lambda given, lr: SGD(given, lr=lr, momentum=0.9)),
    "SparseAdam and RMSprop": one_each(lambda given, lr: RMSprop(given, lr=lr, momentum=0.9, centered=True)),
}


def network(optimize: Callable[[Scorer], Optimizer | list[Optimizer]] = one_for_all, seed: int = 0) -> Parameters[Scorer]:
    return Parameters(Scorer, optimize, tables=[TABLE], seed=seed)


def loss_of(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(module(ids), (ids % 2).float())


def learn(store: Parameters[Scorer], steps: range) -> None:
    for step in steps:
        ids = torch.from_numpy(np.random.default_rng(step).integers(0, 40, 6))
        with store.seeded():
            store.step(loss_of(store.module, ids))


def scores(store: Parameters[Scorer]) -> np.ndarray:
    store.module.eval()
    with torch.no_grad():
        found: np.ndarray = store.module(torch.arange(ROWS)).numpy()
    store.module.train()
    return found


def test_the_documented_example_runs() -> None:
    done = doctest.testmod(module_under_test)
    assert done.attempted >= 5 and done.failed == 0


@pytest.mark.parametrize("optimize", OPTIMIZE.values(), ids=OPTIMIZE)
def test_steps_equal_those_of_plain_torch(optimize: Callable[[Scorer], Optimizer | list[Optimizer]]) -> None:
    store, plain = network(optimize), Scorer()
    plain.load_state_dict(store.module.state_dict())
    made = optimize(plain)
    optimizers = made if isinstance(made, list) else [made]
    store.module.drop.p = plain.drop.p = 0.0
    for step in range(8):
        learn(store, range(step, step + 1))
        ids = torch.from_numpy(np.random.default_rng(step).integers(0, 40, 6))
        plain.zero_grad()
        loss_of(plain, ids).backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
    for name, expected in plain.state_dict().items():
        np.testing.assert_allclose(store.module.state_dict()[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("optimize", OPTIMIZE.values(), ids=OPTIMIZE)
@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_restored_copy_continues_as_if_uninterrupted(
    optimize: Callable[[Scorer], Optimizer | list[Optimizer]], before: int
) -> None:
    uninterrupted, saved, other = network(optimize), network(optimize), network(optimize)
    learn(uninterrupted, range(12))
    learn(saved, range(before))
    learn(other, range(20, 25))  # loading must undo all of this
    other.load_state_dict(saved.state_dict())
    assert digest(other.state_dict()) == digest(saved.state_dict())
    learn(other, range(before, 12))
    assert digest(other.state_dict()) == digest(uninterrupted.state_dict())
    assert digest(uninterrupted.state_dict()) != digest(saved.state_dict())


@pytest.mark.parametrize("optimize", OPTIMIZE.values(), ids=OPTIMIZE)
def test_a_replica_scores_like_the_trainer_without_optimizer_state(
    optimize: Callable[[Scorer], Optimizer | list[Optimizer]],
) -> None:
    trainer, replica = network(optimize), network(optimize)
    learn(trainer, range(5))
    replica.load_state_dict(trainer.state_dict())
    for step in range(5, 25):
        learn(trainer, range(step, step + 1))
        changes = trainer.take_changes()
        assert not [name for name in changes if "optimizer" in name or trainer.is_private(name)]
        replica.apply_changes(changes)
        assert np.array_equal(scores(replica), scores(trainer))
    state, followed = trainer.state_dict(), replica.state_dict()
    assert digest(without_private(replica, followed)) == digest(without_private(trainer, state))
    private = state.keys() - without_private(trainer, state).keys()
    assert "steps" in private
    assert (len(private) > 1) == (optimize is not OPTIMIZE["SGD"]), "plain SGD has no state"
    assert digest(followed) != digest(state), "private state is that of the checkpoint"


def test_a_step_ships_and_saves_the_rows_it_used_and_dense_tensors_whole() -> None:
    store = network()
    before = store.module.embedding.weight.detach().clone()
    ids = torch.tensor([7, 3, 7, 499])
    store.step(loss_of(store.module, ids))
    changes = store.take_changes()
    assert changes[f"{TABLE}.rows"].tolist() == [3, 7, 499]
    assert changes[f"{TABLE}.value"].shape == (3, 4)
    dense = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    dense |= {"head.weight", "head.bias"}
    assert changes.keys() == {f"{TABLE}.rows", f"{TABLE}.value"} | {f"{name}.value" for name in dense}
    moved = (store.module.embedding.weight.detach() != before).any(1).nonzero()[:, 0]
    assert set(moved.tolist()) == {3, 7, 499}
    assert store.take_changes() == {}
    state = store.state_dict()
    assert state[f"{TABLE}.rows"].tolist() == [3, 7, 499], "rows that ever changed are saved, shipped or not"
    assert state[f"{TABLE}.optimizer.sum"].shape == (3, 4)


def test_memory_and_names_are_the_same_before_and_after_the_first_step() -> None:
    for optimize in OPTIMIZE.values():
        store = network(optimize)
        nbytes, names = store.nbytes, store.state_dict().keys()
        assert nbytes > 4 * ROWS * 4
        learn(store, range(5))
        assert (store.nbytes, store.state_dict().keys()) == (nbytes, names)


def test_the_seed_sets_the_initial_values_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, same, other = network(seed=1), network(seed=1), network(seed=2)
    learn(one, range(2))
    learn(same, range(2))
    one.load_state_dict(same.state_dict())
    assert torch.equal(torch.rand(4), expected)
    assert digest(one.state_dict()) == digest(same.state_dict())
    assert not np.array_equal(scores(same), scores(other))
    with one.seeded():
        first = torch.rand(4)
    with same.seeded():
        assert torch.equal(torch.rand(4), first)
    learn(one, range(1))
    with one.seeded():
        assert not torch.equal(torch.rand(4), first), "each step has its own random numbers"


def test_reset_zeroes_a_row_and_its_optimizer_state() -> None:
    store = network()
    learn(store, range(10))
    rows = store.state_dict()[f"{TABLE}.rows"][:2].astype(np.int64)
    assert (store.state_dict()[f"{TABLE}.optimizer.sum"][:2] > 0.1).any()
    store.take_changes()
    store.reset(TABLE, rows)
    state = store.state_dict()
    assert (state[f"{TABLE}.value"][:2] == 0).all()
    assert (state[f"{TABLE}.optimizer.sum"][:2] == np.float32(0.1)).all()
    assert store.take_changes()[f"{TABLE}.rows"].tolist() == rows.tolist()


def test_assign_copies_values_and_ships_the_rows_that_differ() -> None:
    store, copy = network(), Parameters(Scorer, tables=[TABLE])
    ids = torch.tensor([1, 2])
    store.step(loss_of(store.module, ids))
    copy.assign(store)
    assert np.array_equal(scores(copy), scores(store))
    assert copy.take_changes()[f"{TABLE}.rows"].tolist() == [1, 2]
    copy.assign(store)
    assert f"{TABLE}.rows" not in copy.take_changes()


def test_a_checkpoint_keeps_the_whole_state(tmp_path: Path) -> None:
    class Model(Stateful):
        def __init__(self) -> None:
            self.network = network(OPTIMIZE["SparseAdam and Adam"])

    model, again = Model(), Model()
    learn(model.network, range(5))
    path = checkpoints.save(tmp_path, Checkpoint(1, model.state_dict(), {}), keep=1)
    again.load_state_dict(checkpoints.load(path).state)
    assert digest(again.state_dict()) == digest(model.state_dict())
    assert torch.__version__.partition("+")[0] in str(versions(model)["network"]), (
        "another version of torch may have another optimizer state"
    )


def damaged(**changes: np.ndarray) -> State:
    store = network()
    learn(store, range(3))
    return store.state_dict() | changes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([0, ROWS]), "not row numbers below 500"),
        (np.array([-1]), "not row numbers below 500"),
        (np.array([0.5]), "not row numbers below 500"),
        (np.array([1, 2, 3]), "of shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: np.ndarray, message: str) -> None:
    store = network()
    before = digest(store.state_dict())
    with pytest.raises(ValueError, match=message):
        store.load_state_dict(damaged(**{f"{TABLE}.rows": rows}))
    with pytest.raises(ValueError, match=message):
        store.apply_changes({f"{TABLE}.rows": rows, f"{TABLE}.value": np.zeros((2, 4), np.float32)})
    assert digest(store.state_dict()) == before


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tables": ["embedding"]}, "tables: .'embedding'. where the module has"),
        ({"optimize": lambda module: Adam(module.head.parameters()), "device": "cuda"}, "torch sees no GPU"),
        ({"optimize": lambda module: NAdam(module.parameters())}, "NAdam, which is not supported"),
        ({"optimize": lambda module: AdamW(module.parameters())}, "AdamW touches every row of .'embedding.weight'."),
        ({"optimize": lambda module: SGD(module.parameters(), momentum=0.9)}, "SGD touches every row"),
        ({"make": lambda: Scorer().to(torch.bfloat16)}, "bfloat16 cannot be saved"),
    ],
    ids=["table", "device", "optimizer", "adam", "momentum", "numbers"],
)
def test_unsupported_arguments_are_refused_with_the_remedy(keywords: dict[str, object], message: str) -> None:
    if "device" in keywords and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    given: dict[str, object] = {"make": Scorer, "optimize": one_for_all, "tables": [TABLE], **keywords}
    with pytest.raises(ValueError, match=message):
        Parameters(**given)  # type: ignore[arg-type]


def test_a_gradient_of_the_wrong_kind_is_refused_and_changes_nothing() -> None:
    for store, message in (
        (Parameters(lambda: Scorer(sparse=False), one_for_all, tables=[TABLE]), "look it up with sparse=True"),
        (Parameters(Scorer, one_for_all), "name it in tables"),
    ):
        store.module.norm.eval()
        before = digest(store.state_dict())
        with pytest.raises(ValueError, match=f"{TABLE}: .*{message}"):
            store.step(loss_of(store.module, torch.tensor([1, 2])))
        assert (digest(store.state_dict()), store.take_changes()) == (before, {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_the_same_as_the_cpu() -> None:
    cpu, gpu = network(), Parameters(Scorer, one_for_all, tables=[TABLE], device="cuda")
    for store in (cpu, gpu):
        store.module.drop.p = 0.0
        for step in range(10):
            ids = torch.from_numpy(np.random.default_rng(step).integers(0, 40, 6)).to(store.device)
            store.step(loss_of(store.module, ids))
    state, other = cpu.state_dict(), gpu.state_dict()
    assert state.keys() == other.keys()
    for name, array in state.items():
        np.testing.assert_allclose(other[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
    twin = Parameters(Scorer, one_for_all, tables=[TABLE], device="cuda")
    twin.load_state_dict(other)
    assert digest(twin.state_dict()) == digest(other)
