"""A torch module and its optimizers as a store: saved and restored with the optimizers, shipped without them.

A table, such as the weight of an embedding, is kept by row: a step costs nothing for the rows that its batch does not name,
only rows that changed are shipped, and only rows that ever changed are saved. All other tensors are saved and shipped whole.
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
from memory.stateful import PIECE, Copying, State, Stateful

__all__ = ["Parameters"]

# One request at a time is too little work to share out, and the other cores have work of their own.
torch.set_num_threads(1)
# Torch wants to be told whether to check what it makes itself; the gradients of tables are its own.
torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]

OPTIMIZERS = (SGD, Adagrad, Adam, AdamW, RMSprop, SparseAdam)
"""Their state begins with the same number everywhere, and a step without a gradient leaves all of it but the count of steps."""

BY_ROW = (SGD, Adagrad, SparseAdam)
"""Those that touch only the rows of a table that a gradient names; SGD without momentum."""

Array = npt.NDArray[Any]
_Module = TypeVar("_Module", bound=Module)


class Parameters(Stateful, Generic[_Module]):
    """A torch module on a device, and what optimizes it.

    Parameters
    ----------
    make : callable returning a torch.nn.Module
        Makes the module, on the CPU. It may draw from torch's random numbers: they are those of `seed`, and nobody else's
        change. It is called again when a state is loaded, for the first values of rows that were never changed.
    optimize : callable from the module to a torch.optim.Optimizer, or to several; or None
        Of the classes in `OPTIMIZERS`; for tables of those in `BY_ROW`. Their learning rates are configuration: a change of
        them is not saved. None: the values are only ever written, see `assign`.
    device : str
        As torch names it.
    tables : collection of str
        Parameters that are kept by row, named as in ``module.named_parameters()``. Their gradients have to be sparse:
        ``torch.nn.Embedding(..., sparse=True)``.
    seed : int
        Of `make`, and of `seeded`.

    Attributes
    ----------
    module : torch.nn.Module
        Its parameters are the same objects for the store's whole life. Whoever writes to them calls `mark`.
    device : str

    Raises
    ------
    ValueError
        For a device that there is not, a table that there is not, a type of numbers that cannot be saved, or optimizers that
        cannot be kept.

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
        self.module = self._made().to(device)
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
        self._sums = self._begin()

    def step(self, loss: Tensor) -> None:
        """Let the optimizers take one step down the gradient of a loss.

        Raises
        ------
        ValueError
            When the gradient of a table is not sparse, or that of another parameter is. Nothing has changed then.
        """
        self._drop_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        moved = {name: one.grad for name, one in self._parameters.items() if one.grad is not None}
        for name, gradient in moved.items():
            if gradient.is_sparse and name not in self._dirty:
                raise ValueError(f"{name}: its gradient is sparse; name it in tables")
            if name in self._dirty and not gradient.is_sparse:
                raise ValueError(f"{name}: its gradient has all rows; look it up with sparse=True, or leave it out of tables")
        for name, gradient in moved.items():
            if name in self._dirty:
                self._parameters[name].grad = one = gradient.coalesce()
                self._dirty[name][one.indices()[0]] = True
        for optimizer in self.optimizers:
            optimizer.step()
        self._drop_gradients()
        self._changed |= (moved.keys() | self._buffers.keys()) - self._dirty.keys()
        self._steps += 1

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Let torch's random numbers, such as those of dropout, depend on the seed and the number of steps alone."""
        # Seeds next to each other have unrelated numbers; those of another store's steps begin far away.
        with _drawing(self.device, (self._seed * 0x9E3779B97F4A7C15 + self._steps + 1) % (1 << 63)):
            yield

    def mark(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Note that a tensor, or of a table these rows (n,), have changed by somebody else than `learning_rate`."""
        if name in self._dirty:
            self._dirty[name][... if rows is None else self._at(rows)] = True
        else:
            self._changed.add(name)

    def reset(self, table: str, rows: npt.NDArray[np.int64]) -> None:
        """Let rows (n,) of a table be 0, and the optimizers know nothing of them."""
        at = self._at(rows)
        self._tensors[table][at] = 0
        for name, key, owner, first in self._sums:
            if name == table and self._has_rows(name, key, owner):
                owner[key][at] = first
        self.mark(table, rows)

    def assign(self, other: Parameters[Any]) -> None:
        """Take over the values of a store of an equal module; of tables only rows that differ count as changed."""
        for name, tensor in self._tensors.items():
            if name in self._dirty:
                moved = (tensor != other._tensors[name]).reshape(len(tensor), -1).any(1)
                tensor[moved] = other._tensors[name][moved]
                self._dirty[name] |= moved
            else:
                tensor.copy_(other._tensors[name])
                self._changed.add(name)

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def copying(self) -> Copying:
        """Copy values, optimizers and the number of steps; of tables, rows that ever changed, ascending, and their numbers."""
        state: State = {"steps": np.array([self._steps])}
        rows = {name: (dirty | self._shipped[name]).nonzero()[:, 0] for name, dirty in self._dirty.items()}
        for name, tensor in self._tensors.items():
            if name in rows:
                state[f"{name}.rows"] = rows[name].cpu().numpy()
            state[f"{name}.value"] = yield from _copied(tensor, rows.get(name))
        for name, key, owner, _ in self._sums:
            by_row = rows.get(name) if self._has_rows(name, key, owner) else None
            state[f"{name}.optimizer.{key}"] = yield from _copied(torch.as_tensor(owner[key]), by_row)
        return state

    def check_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Raise ValueError unless names, shapes and types are those of this module and its optimizers."""
        like: dict[str, Array] = {"steps": np.zeros(1, np.int64)}
        sizes = {name: self._rows(name, state).size for name in self._dirty}
        for name, tensor in self._tensors.items():
            if name in sizes:
                like[f"{name}.rows"] = np.zeros(sizes[name], np.int64)
            like[f"{name}.value"] = _like(tensor, sizes.get(name))
        for name, key, owner, _ in self._sums:
            size = sizes.get(name) if self._has_rows(name, key, owner) else None
            like[f"{name}.optimizer.{key}"] = _like(torch.as_tensor(owner[key]), size)
        check_fit(type(self).__name__, state, like)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Copy `state` into the tensors; a follower must load the same state, for changes count from here."""
        self.check_state_dict(state)
        first = dict(self._made().named_parameters()) if self._dirty else {}
        rows = {name: self._at(self._rows(name, state)) for name in self._dirty}
        for name, tensor in self._tensors.items():
            if name in rows:
                tensor.copy_(first[name].detach())
                self._shipped[name][:] = self._dirty[name][:] = False
                self._shipped[name][rows[name]] = True
            self._write(tensor, state[f"{name}.value"], rows.get(name))
        for name, key, owner, begin in self._sums:
            value = state[f"{name}.optimizer.{key}"]
            if self._has_rows(name, key, owner):
                owner[key].fill_(begin)
                self._write(owner[key], value, rows[name])
            elif isinstance(owner[key], Tensor):
                self._write(owner[key], value)
            else:
                owner[key] = value.item()
        self._steps = int(state["steps"][0].item())
        self._changed.clear()

    def take_changes(self) -> State:
        """Tensors that changed, whole; of tables, rows that changed, ascending, and their numbers. Nothing of optimizers."""
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
        """Write what a leader has taken; it counts as changed here too, so that a follower can be followed."""
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
        """Whether it is of the optimizers, or the number of steps: a follower takes none."""
        return name == "steps" or any(name == f"{owner}.optimizer.{key}" for owner, key, _, _ in self._sums)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, those of the optimizers included, and of the marks."""
        sums = [torch.as_tensor(owner[key]) for _, key, owner, _ in self._sums]
        held = (*self._tensors.values(), *sums, *self._dirty.values(), *self._shipped.values())
        return sum(tensor.nbytes for tensor in held)

    def _made(self) -> _Module:
        with _drawing("cpu", self._seed):
            return self._make()

    def _begin(self) -> list[tuple[str, str, dict[str, Any], float]]:
        """Name of the parameter, key, holder and first value of everything that the optimizers keep.

        Most of them make it at their first step. That is taken here, without a gradient and without a rate.
        """
        names = {parameter: name for name, parameter in self._parameters.items()}
        sums = []
        for optimizer in self.optimizers:
            self._check(optimizer, [names[one] for group in optimizer.param_groups for one in group["params"]])
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
                sums += [(names[parameter], key, owner, float(torch.as_tensor(owner[key]).flatten()[0])) for key in kept]
        self._drop_gradients()
        return sums

    def _check(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        """Raise ValueError for an optimizer that cannot be kept, or whose steps would cost all rows of a table."""
        kind, known = type(optimizer), [cls.__name__ for cls in OPTIMIZERS]
        if kind not in OPTIMIZERS:
            raise ValueError(f"optimize: {kind.__name__}, whose state cannot be kept; give one of {known}")
        touches_all = kind not in BY_ROW or any(group.get("momentum") for group in optimizer.param_groups)
        if touches_all and (tables := self._dirty.keys() & set(names)):
            remedy = "give these to an Adagrad or SparseAdam of their own, and return both optimizers"
            raise ValueError(f"optimize: {kind.__name__} touches every row of {sorted(tables)} at every step; {remedy}")

    def _drop_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def _has_rows(self, name: str, key: str, owner: Mapping[str, Any]) -> bool:
        """Whether what an optimizer keeps of a table has a row for each of the table's."""
        return name in self._dirty and isinstance(owner[key], Tensor) and owner[key].shape == self._tensors[name].shape

    def _rows(self, table: str, part: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
        """Row numbers of a table in a state or in changes; ValueError unless they are some."""
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
def _drawing(device: str, seed: int) -> Iterator[None]:
    """Let torch draw the numbers of a seed, on this device, and go on with its own ones afterwards."""
    of_device = [] if torch.device(device).type == "cpu" else [torch.cuda.default_generators[torch.device(device).index or 0]]
    generators: list[torch.Generator] = [torch.default_generator, *of_device]
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _copied(tensor: Tensor, rows: Tensor | None) -> Generator[None, None, Array]:
    """Copy a tensor, or these rows of it, into an array, in short steps."""
    if tensor.ndim == 0:
        return np.array(tensor.cpu().numpy())
    size = len(tensor) if rows is None else rows.numel()
    copy = np.empty((size, *tensor.shape[1:]), _dtype("", tensor))
    step = max(PIECE // max(tensor[:1].nbytes, 1), 1)
    for start in range(0, size, step):
        part = slice(start, start + step)
        copy[part] = (tensor[part] if rows is None else tensor[rows[part]]).cpu().numpy()
        yield
    return copy


def _dtype(name: str, tensor: Tensor) -> np.dtype[Any]:
    """Numpy's type of a tensor's numbers."""
    try:
        return torch.empty(0, dtype=tensor.dtype).numpy().dtype
    except TypeError as error:
        raise ValueError(f"{name}: {tensor.dtype} cannot be saved; keep it as torch.float32") from error


def _like(tensor: Tensor, rows: int | None) -> Array:
    """An array of a tensor's shape and type, with `rows` rows where given; it takes no memory."""
    shape = tuple(tensor.shape) if rows is None else (rows, *tensor.shape[1:])
    return np.broadcast_to(np.zeros((), _dtype("", tensor)), shape)


def _no_rows(table: Tensor) -> Tensor:
    """A gradient of a table that names none of its rows."""
    none = torch.zeros((0, *table.shape[1:]), dtype=table.dtype, device=table.device)
    return torch.sparse_coo_tensor(torch.zeros((1, 0), dtype=torch.int64, device=table.device), none, table.shape)
