"""Encodes ids, attributes and context as hashed feature columns.

Every value becomes a 64-bit key and a number. The key hashes the field's name, too, so equal values of two fields get different
keys. Keys are the same in every process and on every machine, so logged feature rows stay valid everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import xxhash

from memory.jit import njit
from memory.keyed.catalog import Catalog
from memory.moments import Values as Moment
from memory.moments import standardized
from streams.batch import Floats, Ids, Requests

__all__ = ["Featurizer", "Field", "Side", "hash_id", "hash_ids", "hash_kind", "mix"]

Side = Literal["user", "item", "context"]
Value = str | int | float | bool | list[str]

LARGEST = 1e6
"""Magnitude to which a number with a configured mean or scale is clipped. Its square still fits float32."""

_FLOAT32 = float(np.finfo(np.float32).max)

MAX_CACHED = 64
"""Most fields, and characters of each, of a context whose encoding is cached: so the cache has a size."""


def hash_id(text: str) -> int:
    """Hash an id to 64 signed bits (xxh3). The hash is never 0, which means "none"."""
    return _signed(xxhash.xxh3_64_intdigest(text.encode()))


def hash_ids(texts: Sequence[str]) -> Ids:
    """Hash n ids as `hash_id` does; returns (n,) int64."""
    hashed = np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, texts)), np.uint64, len(texts)).view(np.int64)
    hashed[hashed == 0] = 1
    return hashed


@lru_cache(1024)
def hash_kind(text: str) -> int:
    """Hash the kind of an interaction to 31 bits. 0 means no kind: the item was shown without an interaction."""
    return (hash_id(text) & 0x7FFFFFFF) or 1 if text else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of users, items or context, and its encoding.

    Attributes
    ----------
    side : {"user", "item", "context"}
        Source of the field.
    name : str
        Name of the attribute. ``id`` of a user or an item is the id itself.
    type : {"category", "number", "bucket", "tags"}
        ``category``: one column with one key per value. ``number``: one column with the standardised number.
        ``bucket``: the category floor(x / width). ``tags``: a list of categories, each with value 1 / sqrt(length of the list).
    width : float
        Width of a bucket.
    max_tags : int
        Maximum number of tags of a ``tags`` field, and its number of columns. Further tags are ignored.
    mean, scale : float or None
        A ``number`` x becomes (x - mean) / scale. If only one of them is given, the other is mean 0 or scale 1. If neither is
        given, the running mean and standard deviation are used; see `memory.moments`.
    """

    side: Side
    name: str
    type: Literal["category", "number", "bucket", "tags"] = "category"
    width: float = 1.0
    max_tags: int = 8
    mean: float | None = None
    scale: float | None = None

    @property
    def online(self) -> bool:
        """Whether this is a number that is standardised by running moments. `encode` leaves it as it is."""
        return self.type == "number" and self.mean is None and self.scale is None

    @property
    def label(self) -> str:
        """``side.name``."""
        return f"{self.side}.{self.name}"

    @property
    def columns(self) -> int:
        """Number of columns that the field takes."""
        return self.max_tags if self.type == "tags" else 1

    @property
    def is_id(self) -> bool:
        """Whether this is the id of the user or item, not an attribute."""
        return self.name == "id" and self.side != "context"

    def encode(self, value: Value | None, keys: Ids, values: Floats) -> None:
        """Write one value into `keys` (columns,) and `values` (columns,), which are zero on entry.

        A value of the wrong type (such as text for a number) leaves them zero, which means absent.
        """
        match self.type, value:
            case "tags", list() as tags:
                kept = tags[: self.max_tags]
                for column, tag in enumerate(kept):
                    keys[column], values[column] = self._key(tag), 1.0 / math.sqrt(len(kept))
            case "tags" | "category", str() | bool() | float() | int() as scalar:
                keys[0], values[0] = self._key(_text(scalar)), 1.0
            case "number" | "bucket", str() | bool() | float() | int() as scalar:
                number = _number(scalar)
                if self.type == "bucket" and math.isfinite(number):
                    keys[0], values[0] = self._key(_text(float(number // self.width))), 1.0
                elif self.type == "number" and abs(number) <= _FLOAT32:
                    # Adding 0.0 turns -0.0 into 0.0: they are equal, but their bits differ.
                    keys[0], values[0] = self._key(""), self._scaled(number) + 0.0

    def _scaled(self, number: float) -> float:
        if self.online:
            return number
        scaled = (number - (self.mean or 0.0)) / (1.0 if self.scale is None else self.scale)
        return min(max(scaled, -LARGEST), LARGEST)

    def _key(self, text: str) -> int:
        return hash_id(f"{self.label}={text}")


class Featurizer:
    """Assembles feature rows from fields and crosses.

    Parameters
    ----------
    fields : sequence of Field
        The order of columns is: user id, item id, user, item, context, crosses.
    crosses : sequence of str
        Pairs of field labels, such as ``"user.id * item.genres"``. Each pair of their columns adds one column.

    Attributes
    ----------
    context_part : slice
        Columns of the context within a feature row.

    Raises
    ------
    ValueError
        When a cross names an unknown field.
    """

    def __init__(self, fields: Sequence[Field], crosses: Sequence[str] = ()) -> None:
        self.fields = tuple(fields)
        sides = {side: [f for f in fields if f.side == side and not f.is_id] for side in ("user", "item", "context")}
        self._users, self._items, self._context = sides["user"], sides["item"], sides["context"]
        ids = [f for f in fields if f.is_id]
        self._has_user_id = any(f.side == "user" for f in ids)
        self._has_item_id = any(f.side == "item" for f in ids)
        self.user_columns, self.item_columns, self.context_columns = (
            sum(f.columns for f in side) for side in (self._users, self._items, self._context)
        )
        self.user_numbers, self.item_numbers, self.context_numbers = (
            _online(side) for side in (self._users, self._items, self._context)
        )
        before = len(ids) + self.user_columns
        numbers = [len(ids) + column for column in self.user_numbers] + [before + column for column in self.item_numbers]
        self._numbers = np.array(numbers, np.int64)
        context = before + self.item_columns
        self.context_part = slice(context, context + self.context_columns)
        names = [f.label for f in sorted(ids, key=lambda f: f.side, reverse=True)]
        names += [f.label for side in (self._users, self._items, self._context) for f in side for _ in range(f.columns)]
        pairs = [pair for cross in crosses for pair in _cross(names, cross)]
        self._pairs = np.array(pairs, np.int64).reshape(-1, 2)
        self.names: tuple[str, ...] = (*names, *(f"{names[a]} * {names[b]}" for a, b in pairs))
        self._salts = np.array([hash_id("user.id="), hash_id("item.id=")], np.int64)
        # Most requests of a stream share few contexts, so their encodings are cached. The types are part of the key, because
        # Python's True, 1 and 1.0 are equal keys and different categories.
        self._encode_context = lru_cache(4096)(lambda items, types: _encode(self._context, dict(items)))
        described = repr((self.fields, tuple(crosses)))
        self.schema = hash_id(described)

    @property
    def columns(self) -> int:
        """Width F of a feature row."""
        return len(self.names)

    def encode_user(self, attributes: Mapping[str, Value]) -> tuple[Ids, Floats]:
        """Encode a user's attributes: keys (user_columns,) and values (user_columns,), for `Catalog.put`."""
        return _encode(self._users, attributes)

    def encode_item(self, attributes: Mapping[str, Value]) -> tuple[Ids, Floats]:
        """Encode an item's attributes: keys (item_columns,) and values (item_columns,), for `Catalog.put`."""
        return _encode(self._items, attributes)

    def encode_context(self, contexts: Sequence[Mapping[str, Value]]) -> tuple[Ids, Floats]:
        """Encode the contexts of B requests: keys (B, C) and values (B, C). Numbers are not standardised."""
        keys = np.zeros((len(contexts), self.context_columns), np.int64)
        values = np.zeros((len(contexts), self.context_columns), np.float32)
        if self._context:
            for row, context in enumerate(contexts):
                if context:
                    if len(context) > MAX_CACHED or any(len(v) > MAX_CACHED for v in context.values() if isinstance(v, str)):
                        keys[row], values[row] = _encode(self._context, context)
                        continue
                    types = tuple(map(type, context.values()))
                    keys[row], values[row] = self._encode_context(tuple(context.items()), types)
        return keys, values

    def encode_context_column(self, name: str, distinct: Sequence[Value]) -> tuple[slice, Ids, Floats] | None:
        """Encode the distinct values of one context field, for dictionary-encoded columns.

        Returns
        -------
        (columns, keys (n + 1, c), values (n + 1, c)), or None if the context has no such field
            The field's slice of the context columns, and the encoding of each value. The last row means "absent", so that
            code -1 selects it.
        """
        at = 0
        for field in self._context:
            if field.name == name:
                keys = np.zeros((len(distinct) + 1, field.columns), np.int64)
                values = np.zeros((len(distinct) + 1, field.columns), np.float32)
                for code, value in enumerate(distinct):
                    field.encode(value, keys[code], values[code])
                return slice(at, at + field.columns), keys, values
            at += field.columns
        return None

    def rows(
        self, requests: Requests, request: Ids, item: Ids, users: Catalog, items: Catalog, *, room: int = 0
    ) -> tuple[Ids, Floats]:
        """Assemble the feature rows of request-item pairs.

        Parameters
        ----------
        requests : Requests
            B requests.
        request, item : (N,) int64
            The pairs: index of the request, hashed id of the item.
        users, items : Catalog
            Encoded attributes, and the moments that standardise their numbers. Unknown users and items have no attributes.
        room : int
            Columns of zeros behind the row's own, for the caller to fill.

        Returns
        -------
        features : (N, F + room) int64
        values : (N, F + room) float32
        """
        features = np.empty((item.size, self.columns + room), np.int64)
        values = np.empty((item.size, self.columns + room), np.float32)
        features[:, self.columns :], values[:, self.columns :] = 0, 0.0
        _assemble(
            requests.user,
            request,
            item,
            users.find(requests.user) if self._users else request,
            items.find(item) if self._items else request,
            *users.encoded,
            *items.encoded,
            requests.context,
            requests.context_values,
            self._has_user_id,
            self._has_item_id,
            self._salts,
            self._pairs,
            self._numbers,
            *self._moments(users, items),
            features,
            values,
        )
        return features, values

    def _moments(self, users: Catalog, items: Catalog) -> tuple[Moment, Moment]:
        """Return the mean and variance of the numbers of users and items, in the order of `_numbers`."""
        if not self._numbers.size:
            return users.moments.known
        mean, variance = (np.concatenate(pair) for pair in zip(users.moments.known, items.moments.known, strict=True))
        return mean, variance


def _signed(number: int) -> int:
    return (number - (1 << 64) if number >> 63 else number) or 1


def _text(value: str | float | bool) -> str:
    """Return canonical text, so that 3, 3.0 and "3" are the same category."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))


def _number(value: str | float | bool) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _encode(fields: Sequence[Field], attributes: Mapping[str, Value]) -> tuple[Ids, Floats]:
    width = sum(f.columns for f in fields)
    keys, values = np.zeros(width, np.int64), np.zeros(width, np.float32)
    at = 0
    for field in fields:
        field.encode(attributes.get(field.name), keys[at : at + field.columns], values[at : at + field.columns])
        at += field.columns
    return keys, values


def _online(fields: Sequence[Field]) -> tuple[int, ...]:
    """Return the columns of numbers that are standardised by running moments, among the columns of these fields."""
    columns = [field for field in fields for _ in range(field.columns)]
    return tuple(column for column, field in enumerate(columns) if field.online)


def _cross(names: Sequence[str], cross: str) -> list[tuple[int, int]]:
    labels = [label.strip() for label in cross.split("*")]
    unknown = [label for label in labels if label not in names]
    if len(labels) != 2 or unknown:
        raise ValueError(f'crosses: {cross!r} is no cross; write "field * field", with two of the fields {sorted(set(names))}')
    left, right = ([column for column, name in enumerate(names) if name == label] for label in labels)
    return [(a, b) for a in left for b in right]


@njit(cache=True, nogil=True)
def mix(key, salt):  # type: ignore[no-untyped-def]
    """Hash key + salt with Murmur3's 64-bit finaliser. The result is never 0."""
    x = np.uint64(key) + np.uint64(salt)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return np.int64(x) if x != np.uint64(0) else np.int64(1)


@njit(cache=True, nogil=True)
def _assemble(  # type: ignore[no-untyped-def]
    user, request, item, user_slot, item_slot, user_keys, user_values, item_keys, item_values, context, context_values,
    has_user_id, has_item_id, salts, pairs, numbers, mean, variance, features, values,
):  # fmt: skip
    users, items, contexts = user_keys.shape[1], item_keys.shape[1], context.shape[1]
    for n in range(item.size):
        b = request[n]
        at = 0
        if has_user_id:
            features[n, at] = mix(user[b], salts[0])
            values[n, at] = 1.0
            at += 1
        if has_item_id:
            features[n, at] = mix(item[n], salts[1])
            values[n, at] = 1.0
            at += 1
        if users:
            slot = user_slot[b]
            for c in range(users):
                features[n, at + c] = user_keys[slot, c] if slot >= 0 else 0
                values[n, at + c] = user_values[slot, c] if slot >= 0 else 0.0
            at += users
        if items:
            slot = item_slot[n]
            for c in range(items):
                features[n, at + c] = item_keys[slot, c] if slot >= 0 else 0
                values[n, at + c] = item_values[slot, c] if slot >= 0 else 0.0
            at += items
        for c in range(contexts):
            features[n, at + c] = context[b, c]
            values[n, at + c] = context_values[b, c]
        at += contexts
        for m in range(numbers.size):
            if features[n, numbers[m]] != 0:
                values[n, numbers[m]] = standardized(np.float64(values[n, numbers[m]]), mean[m], variance[m])
        for p in range(pairs.shape[0]):
            left, right = pairs[p, 0], pairs[p, 1]
            value = values[n, left] * values[n, right]
            features[n, at] = mix(features[n, left], features[n, right] * np.int64(3)) if value != 0.0 else 0
            values[n, at] = value
            at += 1
