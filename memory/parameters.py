"""A torch module and its optimizers as a store. Checkpoints include the optimizers; changes for followers do not.

A table, such as the weight of an embedding, is handled by row. A step costs nothing for rows that its batch does not use. Only
rows changed since the last shipment are shipped, and only rows that ever changed are saved. Other tensors are saved and shipped
whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, SparseAdam

from memory.arrays import check_fit
from memory.stateful import CHUNK_BYTES, State, StateCopy, Stateful

__all__ = ["Parameters"]

# A batch is too little work for several threads, and the other cores are busy.
torch.set_num_threads(1)
# Without a choice torch warns. The checks are not needed: torch itself makes the sparse gradients.
torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]

OPTIMIZERS = (SGD, Adagrad, Adam, AdamW, RMSprop, SparseAdam)
"""Supported optimizers. Their initial state is constant, and a step with zero gradient changes only the step count."""

BY_ROW = (SGD, Adagrad, SparseAdam)
"""Optimizers that update only the rows of a sparse gradient. For SGD this holds without momentum."""

Array = npt.NDArray[Any]
_Module = TypeVar("_Module", bound=Module)


class Parameters(Stateful, Generic[_Module]):
    """A torch module on a device, and its optimizers.

    Parameters
    ----------
    make : callable returning a torch.nn.Module
        It creates the module on the CPU. It may use torch's random numbers: they come from `seed`, and the global generator is
        not changed. Loading a state calls it again, for the initial values of rows that never changed.
    optimize : callable from the module to a torch.optim.Optimizer, or to several; or None
        The optimizers must be of `OPTIMIZERS`, those of tables of `BY_ROW`. Their learning rates are configuration and are not
        saved. None means that the values are only copied, see `assign`.
    device : str
        A torch device.
    tables : collection of str
        Parameters handled by row, named as in ``module.named_parameters()``. Their gradients must be sparse:
        ``torch.nn.Embedding(..., sparse=True)``.
    seed : int
        Seed of `make` and of `seeded`.

    Attributes
    ----------
    module : torch.nn.Module
        Its parameters are the same objects for the lifetime of the store. Whoever writes to them calls `mark`.
    device : str

    Raises
    ------
    ValueError
        If the device or a table does not exist, if a number type cannot be saved, or if an optimizer is not supported.

    Examples
    --------
    >>> class Scorer(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embedding = torch.nn.Embedding(1000, 8, sparse=True)
    ...         self.head = torch.nn.Linear(8, 1)
    ...
    ...     def forward(self, ids):
    ...         return self.head(self.embedding(ids))[:, 0]
    >>> network = Parameters(
    ...     Scorer, lambda module: torch.optim.Adagrad(module.parameters(), lr=0.1), tables=["embedding.weight"], seed=7
    ... )
    >>> clicks = torch.nn.functional.binary_cross_entropy_with_logits
    >>> network.step(clicks(network.module(torch.tensor([3, 5, 3])), torch.tensor([1.0, 0.0, 1.0])))
    >>> sorted(network.take_changes())
    ['embedding.weight.rows', 'embedding.weight.value', 'head.bias.value', 'head.weight.value']
    """

    state_version: ClassVar[int | str] = f"1, torch {torch.__version__.partition('+')[0]}"

    def __init__(
        self,
        make: Callable[[], _Module],
        optimize: Callable[[_Module], Optimizer | Sequence[Optimizer]] | None = None,
        *,
        device: str = "cpu",
        tables: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f'device: "{device}", and torch sees no GPU here; give "cpu", or install torch with CUDA')
        self.device, self._make, self._seed, self._steps = device, make, seed, 0
        self.module = self._make_module().to(device)
        saved = self.module.state_dict()
        self._buffers = {name: tensor for name, tensor in self.module.named_buffers() if name in saved}
        self._parameters = dict(self.module.named_parameters())
        self._tensors = {name: tensor.detach() for name, tensor in (self._parameters | self._buffers).items()}
        if unknown := set(tables) - self._parameters.keys():
            raise ValueError(f"tables: {sorted(unknown)} where the module has {sorted(self._parameters)}; name some of these")
        for name, tensor in self._tensors.items():
            _dtype(name, tensor)
        self._dirty = {name: torch.zeros(len(self._tensors[name]), dtype=torch.bool, device=device) for name in tables}
        self._shipped = {name: torch.zeros_like(dirty) for name, dirty in self._dirty.items()}
        self._changed: set[str] = set()
        made = [] if optimize is None else optimize(self.module)
        self.optimizers: Sequence[Optimizer] = [made] if isinstance(made, Optimizer) else made
        self._optimizer_state = self._init_optimizers()

    def step(self, loss: Tensor) -> None:
        """Do one optimizer step on a loss.

        Raises
        ------
        ValueError
            If the gradient of a table is not sparse, or that of another parameter is. Nothing is changed.
        """
        self._drop_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {name: parameter.grad for name, parameter in self._parameters.items() if parameter.grad is not None}
        for name, gradient in gradients.items():
            if gradient.is_sparse and name not in self._dirty:
                raise ValueError(f"{name}: its gradient is sparse; name it in tables")
            if name in self._dirty and not gradient.is_sparse:
                raise ValueError(f"{name}: its gradient is dense; look it up with sparse=True, or leave it out of tables")
        for name, gradient in gradients.items():
            if name in self._dirty:
                self._parameters[name].grad = coalesced = gradient.coalesce()
                self._dirty[name][coalesced.indices()[0]] = True
        self._step(gradients)

    def apply(self, gradients: Mapping[str, Tensor]) -> None:
        """Do one optimizer step with these gradients, by name of parameter. None is of a table."""
        for name, gradient in gradients.items():
            self._parameters[name].grad = gradient
        self._step(gradients)

    def _step(self, names: Collection[str]) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        self._drop_gradients()
        self._changed |= ({*names} | self._buffers.keys()) - self._dirty.keys()
        self._steps += 1

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Seed torch's random numbers (for example of dropout) from the store's seed and number of steps within this block."""
        # Adjacent seeds give unrelated numbers; those of another store's steps begin far away.
        with _seeded(self.device, (self._seed * 0x9E3779B97F4A7C15 + self._steps + 1) % (1 << 63)):
            yield

    def mark(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Mark a tensor as changed, or rows (n,) of a table. Changes by `step` are marked already."""
        if name in self._dirty:
            self._dirty[name][... if rows is None else self._at(rows)] = True
        else:
            self._changed.add(name)

    def reset(self, table: str, rows: npt.NDArray[np.int64]) -> None:
        """Set rows (n,) of a table to 0, and reset their optimizer state."""
        at = self._at(rows)
        self._tensors[table][at] = 0
        for name, key, owner, initial in self._optimizer_state:
            if name == table and self._has_rows(name, key, owner):
                owner[key][at] = initial
        self.mark(table, rows)

    def assign(self, other: Parameters[Any]) -> None:
        """Copy the values of a store with an equal module. Of tables, only rows that differ are marked as changed."""
        for name, tensor in self._tensors.items():
            if name in self._dirty:
                differs = (tensor != other._tensors[name]).reshape(len(tensor), -1).any(1)
                tensor[differs] = other._tensors[name][differs]
                self._dirty[name] |= differs
            else:
                tensor.copy_(other._tensors[name])
                self._changed.add(name)

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copy_in_steps(self) -> StateCopy:
        """Copy values, optimizer state and the number of steps. Of tables, copy the rows that ever changed."""
        state: State = {"steps": np.array([self._steps])}
        rows = {name: (dirty | self._shipped[name]).nonzero()[:, 0] for name, dirty in self._dirty.items()}
        for name, tensor in self._tensors.items():
            if name in rows:
                state[f"{name}.rows"] = rows[name].cpu().numpy()
            state[f"{name}.value"] = yield from _copied(tensor, rows.get(name))
        for name, key, owner, _ in self._optimizer_state:
            by_row = rows.get(name) if self._has_rows(name, key, owner) else None
            state[f"{name}.optimizer.{key}"] = yield from _copied(torch.as_tensor(owner[key]), by_row)
        return state

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless names, shapes and types match the module and its optimizers."""
        like: dict[str, Array] = {"steps": np.zeros(1, np.int64)}
        sizes = {name: self._rows(name, state).size for name in self._dirty}
        for name, tensor in self._tensors.items():
            if name in sizes:
                like[f"{name}.rows"] = np.zeros(sizes[name], np.int64)
            like[f"{name}.value"] = _like(tensor, sizes.get(name))
        for name, key, owner, _ in self._optimizer_state:
            size = sizes.get(name) if self._has_rows(name, key, owner) else None
            like[f"{name}.optimizer.{key}"] = _like(torch.as_tensor(owner[key]), size)
        check_fit(type(self).__name__, state, like)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into the tensors. Later changes are relative to it, so a follower must load the same state."""
        self.check_state_dict(state)
        initial = dict(self._make_module().named_parameters()) if self._dirty else {}
        rows = {name: self._at(self._rows(name, state)) for name in self._dirty}
        for name, tensor in self._tensors.items():
            if name in rows:
                tensor.copy_(initial[name].detach())
                self._shipped[name][:] = self._dirty[name][:] = False
                self._shipped[name][rows[name]] = True
            self._write(tensor, state[f"{name}.value"], rows.get(name))
        for name, key, owner, initial_value in self._optimizer_state:
            value = state[f"{name}.optimizer.{key}"]
            if self._has_rows(name, key, owner):
                owner[key].fill_(initial_value)
                self._write(owner[key], value, rows[name])
            elif isinstance(owner[key], Tensor):
                self._write(owner[key], value)
            else:
                owner[key] = value.item()
        self._steps = int(state["steps"][0].item())
        self._changed.clear()

    def take_changes(self) -> State:
        """Return changed tensors, and changed rows of tables with their numbers. Optimizer state is left out."""
        changes: State = {}
        for name, tensor in self._tensors.items():
            if name in self._changed:
                changes[f"{name}.value"] = np.array(tensor.cpu().numpy())
            elif name in self._dirty:
                rows = self._dirty[name].nonzero()[:, 0]
                if rows.numel():
                    changes[f"{name}.rows"] = rows.cpu().numpy()
                    changes[f"{name}.value"] = tensor[rows].cpu().numpy()
                    self._shipped[name][rows], self._dirty[name][rows] = True, False
        self._changed.clear()
        return changes

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Write the changes of a leader. They are marked here too, so that a follower can have followers."""
        names = [name for name in self._tensors if f"{name}.value" in changes]
        like: dict[str, Array] = {}
        for name in names:
            size = None
            if name in self._dirty:
                size = self._rows(name, changes).size
                like[f"{name}.rows"] = np.zeros(size, np.int64)
            like[f"{name}.value"] = _like(self._tensors[name], size)
        check_fit(type(self).__name__, changes, like)
        for name in names:
            rows = self._rows(name, changes) if name in self._dirty else None
            self._write(self._tensors[name], changes[f"{name}.value"], None if rows is None else self._at(rows))
            self.mark(name, rows)

    def is_private(self, name: str) -> bool:
        """Whether this is optimizer state or the number of steps. Followers do not get these."""
        return name == "steps" or any(name == f"{owner}.optimizer.{key}" for owner, key, _, _ in self._optimizer_state)

    @property
    def nbytes(self) -> int:
        """Memory of the module, the optimizers and the change marks, in bytes."""
        optimizer_state = [torch.as_tensor(owner[key]) for _, key, owner, _ in self._optimizer_state]
        tensors = (*self._tensors.values(), *optimizer_state, *self._dirty.values(), *self._shipped.values())
        return sum(tensor.nbytes for tensor in tensors)

    def _make_module(self) -> _Module:
        with _seeded("cpu", self._seed):
            return self._make()

    def _init_optimizers(self) -> list[tuple[str, str, dict[str, Any], float]]:
        """List the optimizer state: parameter name, key, dict that holds it, and initial value.

        Most optimizers create their state in the first step. So a step with zero gradient and learning rate is done here.
        """
        names = {parameter: name for name, parameter in self._parameters.items()}
        entries = []
        for optimizer in self.optimizers:
            self._check(optimizer, [names[parameter] for group in optimizer.param_groups for parameter in group["params"]])
            owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            if any(parameter not in optimizer.state for parameter in owned):
                rates = [group["lr"] for group in optimizer.param_groups]
                for parameter in owned:
                    sparse = names[parameter] in self._dirty
                    parameter.grad = _no_rows(parameter) if sparse else torch.zeros_like(parameter)
                for group in optimizer.param_groups:
                    group["lr"] = 0.0
                optimizer.step()
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
            for parameter in owned:
                owner = optimizer.state.get(parameter, {})
                if "step" in owner:
                    owner["step"] = owner["step"] * 0
                kept = (key for key in sorted(owner) if owner[key] is not None)
                entries += [(names[parameter], key, owner, float(torch.as_tensor(owner[key]).flatten()[0])) for key in kept]
        self._drop_gradients()
        return entries

    def _check(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        """Raise ValueError for an unsupported optimizer, and for one whose steps update all rows of a table."""
        kind, known = type(optimizer), [cls.__name__ for cls in OPTIMIZERS]
        if kind not in OPTIMIZERS:
            raise ValueError(f"optimize: {kind.__name__}, which is not supported; give one of {known}")
        touches_all = kind not in BY_ROW or any(group.get("momentum") for group in optimizer.param_groups)
        if touches_all and (tables := self._dirty.keys() & set(names)):
            remedy = "give these to an Adagrad or SparseAdam of their own, and return both optimizers"
            raise ValueError(f"optimize: {kind.__name__} touches every row of {sorted(tables)} at every step; {remedy}")

    def _drop_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def _has_rows(self, name: str, key: str, owner: Mapping[str, Any]) -> bool:
        """Whether this optimizer state has one row for each row of a table."""
        return name in self._dirty and isinstance(owner[key], Tensor) and owner[key].shape == self._tensors[name].shape

    def _rows(self, table: str, part: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
        """Row numbers of a table in a state or in changes. Raises ValueError if they are invalid."""
        rows, size = part.get(f"{table}.rows"), len(self._dirty[table])
        fits = rows is not None and rows.dtype == np.int64 and rows.ndim == 1
        if rows is None or not fits or (rows.size and not 0 <= rows.min() <= rows.max() < size):
            raise ValueError(f"{table}.rows: not row numbers below {size}; they were written under another configuration")
        return rows.astype(np.int64)

    def _at(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(rows).to(self.device)

    def _write(self, tensor: Tensor, value: npt.NDArray[np.generic], rows: Tensor | None = None) -> None:
        given = torch.from_numpy(np.array(value)).to(self.device)
        if rows is None:
            tensor.copy_(given)
        else:
            tensor[rows] = given


@contextmanager
def _seeded(device: str, seed: int) -> Iterator[None]:
    """Seed torch's generators for this block, and restore their states afterwards."""
    gpu = [] if torch.device(device).type == "cpu" else [torch.cuda.default_generators[torch.device(device).index or 0]]
    generators: list[torch.Generator] = [torch.default_generator, *gpu]
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _copied(tensor: Tensor, rows: Tensor | None) -> Generator[None, None, Array]:
    """Copy a tensor, or some of its rows, into an array in short steps."""
    if tensor.ndim == 0:
        return np.array(tensor.cpu().numpy())
    size = len(tensor) if rows is None else rows.numel()
    copy = np.empty((size, *tensor.shape[1:]), _dtype("", tensor))
    step = max(CHUNK_BYTES // max(tensor[:1].nbytes, 1), 1)
    for start in range(0, size, step):
        part = slice(start, start + step)
        copy[part] = (tensor[part] if rows is None else tensor[rows[part]]).cpu().numpy()
        yield
    return copy


def _dtype(name: str, tensor: Tensor) -> np.dtype[Any]:
    """Numpy type of a tensor."""
    try:
        return torch.empty(0, dtype=tensor.dtype).numpy().dtype
    except TypeError as error:
        raise ValueError(f"{name}: {tensor.dtype} cannot be saved; keep it as torch.float32") from error


def _like(tensor: Tensor, rows: int | None) -> Array:
    """An array with a tensor's shape and type, and with `rows` rows if given. It uses no memory."""
    shape = tuple(tensor.shape) if rows is None else (rows, *tensor.shape[1:])
    return np.broadcast_to(np.zeros((), _dtype("", tensor)), shape)


def _no_rows(table: Tensor) -> Tensor:
    """A sparse gradient of a table without any rows."""
    none = torch.zeros((0, *table.shape[1:]), dtype=table.dtype, device=table.device)
    return torch.sparse_coo_tensor(torch.zeros((1, 0), dtype=torch.int64, device=table.device), none, table.shape)
