"""Any Python object as data: what it consists of is written down, and building it again runs nothing that its writer chose.

It takes objects apart as `pickle` does (``__reduce_ex__``). But a name in the data has to be in one of a few packages or on a
short list, and only classes are called. Pickle looks up any name in any module and calls it: so it runs its writer's code.

References
----------
Python documentation, "pickle: Pickling Class Instances" and "Restricting Globals".
"""

from __future__ import annotations

import copyreg
import importlib
import types
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
import numpy as np

__all__ = ["decoded", "encoded"]

_PLAIN: Final = frozenset({type(None), bool, float, str, bytes})
_SMALLEST: Final = -(1 << 63)
_LARGEST: Final = (1 << 63) - 1
_CALLED: Final = frozenset(
    {
        "builtins.iter",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "functools.partial",
        "numpy.random._pickle.__bit_generator_ctor",
        "numpy.random._pickle.__generator_ctor",
        "numpy.random._pickle.__randomstate_ctor",
        "random.Random",
        "statistics.NormalDist",
    }
)
"""Names outside of the packages that may be called with what the data say."""
_NAMED: Final = _CALLED | {
    *(
        f"builtins.{name}"
        for name in ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
    ),
    *(f"numpy.{name}" for name in ("float32", "float64", "int64", "ndarray")),
    *(f"numpy.random.{name}" for name in ("_mt19937.MT19937", "_pcg64.PCG64")),
    "copy.deepcopy",
}
"""Names outside of the packages that may occur as values."""

# Kinds of nodes. A node is a value of `_PLAIN`, an integer, or a list that begins with one of these.
_SAME, _LIST, _TUPLE, _SET, _FROZEN, _DICT, _NUMBERS, _NAME, _ARRAY, _OBJECTS, _SCALAR, _METHOD, _NEW, _CALL, _LONG = range(15)


def encoded(value: Any, packages: Sequence[str]) -> bytes:
    """Write down an object. What occurs in several places is written once, so it is one object again afterwards.

    Parameters
    ----------
    value : object
    packages : sequence of str
        Packages whose classes may occur.

    Raises
    ------
    ValueError
        Names what cannot be written down.
    """
    try:
        return msgspec.msgpack.encode(_Encoder(packages).node(value))
    except RecursionError as error:
        raise ValueError(f"{type(value).__name__} cannot be saved; its objects are nested too deeply") from error
    except TypeError as error:  # of an object that knows that it cannot be copied
        raise ValueError(f"{type(value).__name__} cannot be saved; {error}") from error


def decoded(data: bytes, packages: Sequence[str]) -> Any:
    """Build the object that `encoded` has written down.

    Raises
    ------
    ValueError
        For anything else: damaged data, or a name that is not allowed.
    """
    try:
        return _Decoder(packages).value(msgspec.msgpack.decode(data))
    except Exception as error:  # the data may be anything
        raise ValueError(f"does not load here ({type(error).__name__}: {error})") from error


class _Encoder:
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = tuple(packages)
        self._names: dict[tuple[Any, bool], str] = {}
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # an object that is freed could give its id to another one

    def node(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int:
            return value if _SMALLEST <= value <= _LARGEST else [_LONG, hex(value)]
        if kind is tuple:
            return [_TUPLE, *map(self.node, value)]
        if (place := self._places.get(id(value))) is not None:
            return [_SAME, place]
        if kind is list:
            self._remember(value)
            return [_LIST, *map(self.node, value)]
        if kind is dict:
            self._remember(value)
            return self._dict(value)
        if kind is set:
            self._remember(value)
            return [_SET, *self._sorted(value)]
        if kind is frozenset:
            return [_FROZEN, *self._sorted(value)]
        if isinstance(value, np.generic):
            return [_SCALAR, value.dtype.str, value.tobytes()]
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            return [_NAME, self._name(value)]
        if kind is np.ndarray:
            self._remember(value)
            if value.dtype.hasobject:
                return [_OBJECTS, list(value.shape), *map(self.node, value.ravel())]
            order = "C" if value.flags.c_contiguous or not value.flags.f_contiguous else "F"
            return [_ARRAY, value.dtype.str, list(value.shape), order, value.tobytes(order)]
        if kind is types.MethodType:
            return [_METHOD, self.node(value.__self__), value.__name__]
        return self._object(value)

    def _object(self, value: Any) -> Any:
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str) or (len(reduced) > 5 and reduced[5] is not None):
            raise ValueError(f"{type(value).__name__} cannot be saved; it has a way of its own to be copied")
        function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            function, *arguments = arguments
            head = [_NEW, self._name(function)]
        else:
            head = [_CALL, self._name(function, called=True)]
        head.append([self.node(argument) for argument in arguments])
        self._remember(value)
        flat = [self.node(part) for pair in pairs or () for part in pair]
        return [*head, self.node(state), [self.node(item) for item in items or ()], flat]

    def _dict(self, value: dict[Any, Any]) -> Any:
        if value and {*map(type, value)} == {int} and {*map(type, value.values())} == {float}:
            try:  # weights by hashed feature are by far the largest part of most models
                keys = np.fromiter(value, np.int64, len(value))
            except OverflowError:
                pass
            else:
                return [_NUMBERS, keys.tobytes(), np.fromiter(value.values(), np.float64, len(value)).tobytes()]
        return [_DICT, *(self.node(part) for pair in value.items() for part in pair)]

    def _sorted(self, value: Iterable[Any]) -> list[Any]:
        nodes = [self.node(member) for member in value]
        return sorted(nodes, key=lambda node: (str(type(node)), str(node)))

    def _name(self, value: Any, *, called: bool = False) -> str:
        if (known := self._names.get((value, called))) is not None:
            return known
        name = f"{value.__module__}.{value.__qualname__}"
        try:
            same = _found(name, self._packages, called=called) is value
        except (ValueError, AttributeError):
            same = False
        if not same:
            of = " and ".join(["Python", *self._packages])
            raise ValueError(f"{name} cannot be saved; keep to classes of {of} that hold data")
        self._names[value, called] = name
        return name

    def _remember(self, value: Any) -> None:
        self._places[id(value)] = len(self._kept)
        self._kept.append(value)


class _Decoder:
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = tuple(packages)
        self._made: list[Any] = []

    def value(self, node: Any) -> Any:
        if type(node) is not list:
            return node
        return self._BUILDERS[node[0]](self, *node[1:])

    def _remembered(self, value: Any) -> Any:
        self._made.append(value)
        return value

    def _same(self, place: int) -> Any:
        return self._made[place]

    def _list(self, *nodes: Any) -> Any:
        made = self._remembered([])
        made.extend(map(self.value, nodes))
        return made

    def _tuple(self, *nodes: Any) -> Any:
        return tuple(map(self.value, nodes))

    def _set(self, *nodes: Any) -> Any:
        made = self._remembered(set())
        made.update(map(self.value, nodes))
        return made

    def _frozen(self, *nodes: Any) -> Any:
        return frozenset(map(self.value, nodes))

    def _dict(self, *nodes: Any) -> Any:
        made = self._remembered({})
        for at in range(0, len(nodes), 2):
            key = self.value(nodes[at])
            made[key] = self.value(nodes[at + 1])
        return made

    def _numbers(self, keys: bytes, values: bytes) -> Any:
        pairs = zip(np.frombuffer(keys, np.int64).tolist(), np.frombuffer(values, np.float64).tolist(), strict=True)
        return self._remembered(dict(pairs))

    def _name(self, name: str) -> Any:
        return _found(name, self._packages)

    def _array(self, dtype: str, shape: list[int], order: Literal["C", "F"], data: bytes) -> Any:
        return self._remembered(np.frombuffer(data, _numeric(dtype)).reshape(shape, order=order).copy(order))

    def _objects(self, shape: list[int], *nodes: Any) -> Any:
        made = self._remembered(np.empty(len(nodes), object))
        for at, node in enumerate(nodes):
            made[at] = self.value(node)
        made.shape = tuple(shape)
        return made

    def _scalar(self, dtype: str, data: bytes) -> Any:
        return np.frombuffer(data, _numeric(dtype))[0]

    def _method(self, owner: Any, name: str) -> Any:
        made = getattr(self.value(owner), name)
        if type(made) is not types.MethodType:
            raise ValueError(f"{name} is no method")
        return made

    def _new(self, name: str, arguments: list[Any], *rest: Any) -> Any:
        cls = _found(name, self._packages)
        made = cls.__new__(cls, *map(self.value, arguments))
        return self._filled(made, *rest)

    def _call(self, name: str, arguments: list[Any], *rest: Any) -> Any:
        made = _found(name, self._packages, called=True)(*map(self.value, arguments))
        return self._filled(made, *rest)

    def _filled(self, made: Any, state: Any, items: list[Any], pairs: list[Any]) -> Any:
        self._remembered(made)
        # The order in which an encoder meets them, because places are counted in it: pairs, state, items.
        entries = list(map(self.value, pairs))
        held = self.value(state)
        for item in items:
            made.append(self.value(item))
        for at in range(0, len(entries), 2):
            made[entries[at]] = entries[at + 1]
        if held is None:
            return made
        if (setter := getattr(made, "__setstate__", None)) is not None:
            setter(held)
            return made
        attributes, slots = held if type(held) is tuple else (held, None)
        if attributes:
            made.__dict__.update(attributes)
        for name, value in (slots or {}).items():
            setattr(made, name, value)
        return made

    def _long(self, text: str) -> Any:
        return int(text, 16)

    _BUILDERS: Final[dict[int, Callable[..., Any]]] = {
        _SAME: _same,
        _LIST: _list,
        _TUPLE: _tuple,
        _SET: _set,
        _FROZEN: _frozen,
        _DICT: _dict,
        _NUMBERS: _numbers,
        _NAME: _name,
        _ARRAY: _array,
        _OBJECTS: _objects,
        _SCALAR: _scalar,
        _METHOD: _method,
        _NEW: _new,
        _CALL: _call,
        _LONG: _long,
    }


def _numeric(dtype: str) -> np.dtype[Any]:
    found = np.dtype(dtype)
    if found.hasobject:
        raise ValueError(f"arrays of {dtype} hold objects")
    return found


@lru_cache(10_000)
def _found(name: str, packages: tuple[str, ...], *, called: bool = False) -> Any:
    """Look up a class or a function; `called`: to call it with what the data say, which is for classes only.

    Raises
    ------
    ValueError
        For every name that is not allowed.
    """
    if name in (_CALLED if called else _NAMED):
        return _attribute(name)
    allowed = name.startswith(tuple(f"{package}." for package in packages))
    found = _attribute(name) if allowed else None
    kinds = (type,) if called else (type, types.FunctionType, types.BuiltinFunctionType)
    # Modules also hold what they import from elsewhere.
    if not isinstance(found, kinds) or str(found.__module__).partition(".")[0] not in packages:
        raise ValueError(f"{name} is not allowed")
    return found


def _attribute(name: str) -> Any:
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise ValueError(f"{name} is not there")
