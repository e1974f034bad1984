"""A ranker of Freshet on plain features: rows of named numbers and texts, without users, items or a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from learners.base import Learner, Ranker
from learners.features import hash_id
from learners.lookups import Catalogues, UserHistory
from learners.registry import ConfigError, build
from learners.schema import FeatureColumn, Schema
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Batch, Feedback, Floats, Ids

__all__ = ["RANKERS", "FeatureRanker"]

RANKERS = ("deep", "dsl", "fm", "fm_mixture", "river_model")
"""Rankers that work on plain features. The others know their users and items by their ids."""

SPARE = 16
"""Columns of a network for features that its first row does not have."""

_LARGEST = 1e6
"""Magnitude to which a standardised number is clipped."""

_ALWAYS = hash_id("always")

Row = Mapping[Any, Any]
Table = Mapping[Any, npt.NDArray[Any]]


class FeatureRanker:
    """Encodes rows as the featurizer of a config does, and lets a ranker learn and score them.

    A number is standardised by the mean and the standard deviation of all rows learned so far. Any other value is a category.
    None and NaN are absent. A feature may be missing, and new ones may come at any time. A network has fixed columns: those of
    the first row that it sees, and 16 more for features that come later, at once.

    Parameters
    ----------
    ranker : str
        One of `RANKERS`, or the path of a module with a ranker.
    keywords : mapping or None
        Keys of its config section.

    Raises
    ------
    ConfigError
        For a ranker that needs users and items, or a wrong keyword.
    """

    def __init__(self, ranker: str, keywords: Mapping[str, Any] | None) -> None:
        if ranker not in RANKERS and "." not in ranker:
            raise ConfigError("ranker", f"{ranker!r} is no ranker for plain features; choose one of {', '.join(RANKERS)}")
        self._name, self._keywords = ranker, dict(keywords or {})
        self._ranker: Ranker = build(Ranker, ranker, self._keywords)
        # Only a ranker that computes with certain columns is told of them.
        self._fixed = type(self._ranker).bind is not Learner.bind and self._ranker.fixed_columns
        self._columns: dict[Any, int] = {}
        self._numeric: list[bool] = []
        self._bound: tuple[Any, ...] | None = None
        self._count = self._mean = self._spread = np.zeros(0)

    def learn(self, rows: Sequence[Row], label: npt.ArrayLike, weight: npt.ArrayLike = 1.0) -> None:
        """Learn from rows in order.

        Parameters
        ----------
        rows : sequence of mappings, length N
        label : (N,) array
            From 0 to 1.
        weight : (N,) array or float
            A weight multiplies the loss of its row.

        Raises
        ------
        ValueError
            For more new features at once than a network has columns for.
        """
        weights = _weights(weight, len(rows))
        self._note(rows)
        self._note_cells(*_numbers(rows, self._columns, weights))
        self._learn(*self._encoded(rows), label, weights)

    def score(self, rows: Sequence[Row]) -> Floats:
        """Return the probability of a positive label, (N,) float32. Nothing is learned."""
        if self._fixed and self._bound is None:
            return np.full(len(rows), 0.5, np.float32)
        return self._score(*self._encoded(rows))

    def learn_table(self, table: Table, label: npt.ArrayLike, weight: npt.ArrayLike = 1.0) -> None:
        """Learn from rows in order, as `learn`, with the same features in each call.

        Parameters
        ----------
        table : mapping of name to (N,) array
            Numbers as floats, NaN where there is none; categories as objects, None where there is none.
        label, weight
            As for `learn`.
        """
        if not self._columns:
            self._note([{name: 0.0 if column.dtype.kind == "f" else "" for name, column in table.items()}])
        weights = _weights(weight, len(next(iter(table.values()))))
        for name, column in table.items():
            if column.dtype.kind == "f":
                self._note_cells(np.full(column.size, self._columns[name]), column, weights)
        self._learn(*self._encoded_table(table), label, weights)

    def score_table(self, table: Table) -> Floats:
        """Return the probability of a positive label, (N,) float32; see `learn_table`."""
        return self._score(*self._encoded_table(table))

    def _learn(self, keys: Ids, values: Floats, label: npt.ArrayLike, weight: Floats) -> None:
        batch, none = _batch(keys, values), np.zeros(len(keys))
        reward = np.asarray(label, np.float32)
        feedback = Feedback(
            **batch.columns(),
            item=batch.item,
            request=batch.request,
            features=keys,
            values=values,
            reward=reward,
            propensity=np.full(reward.size, np.nan, np.float32),
            weight=weight,
            kind=np.ones(reward.size, np.int32),
            outcome_time=none,
            correction=none.astype(np.bool_),
        )
        # As in a pipeline: rows are scored before they are learned.
        self._ranker.score(feedback)
        self._ranker.learn(feedback)

    def _score(self, keys: Ids, values: Floats) -> Floats:
        batch = _batch(keys, values)
        self._ranker.score(batch)
        return np.clip(batch.score, 0.0, 1.0)

    def _note(self, rows: Sequence[Row]) -> None:
        """Give new features their numbers; those of one row in order of their names."""
        for row in rows:
            if row.keys() <= self._columns.keys():
                continue
            for name in sorted((name for name in row if name not in self._columns), key=str):
                self._columns[name] = len(self._columns)
                self._numeric.append(_is_number(row[name]))
            if self._fixed and self._bound is None:
                self._bind()
        missing = len(self._columns) - self._count.size
        if missing:
            self._count, self._mean, self._spread = (
                np.append(old, np.zeros(missing)) for old in (self._count, self._mean, self._spread)
            )

    def _note_cells(self, column: Ids, value: npt.NDArray[np.float64], weight: Floats) -> None:
        """Add weighted numbers of these columns to the moments (Chan, Golub, LeVeque 1979: updating by a batch)."""
        present = ~np.isnan(value) & (weight > 0)
        column, value, weight = column[present], np.clip(value[present], -1e30, 1e30), weight[present]
        if not value.size:
            return
        width = self._count.size
        count = np.bincount(column, weight, width)
        seen = np.where(count > 0, count, 1.0)
        mean = np.bincount(column, weight * value, width) / seen
        spread = np.bincount(column, weight * (value - mean[column]) ** 2, width)
        total, apart = self._count + count, mean - self._mean
        seen = np.where(total > 0, total, 1.0)
        self._spread = self._spread + spread + apart**2 * self._count * count / seen
        self._mean = self._mean + apart * count / seen
        self._count = total

    def _encoded(self, rows: Sequence[Row]) -> tuple[Ids, Floats]:
        """Encode rows; unknown features are left out. A ranker without fixed columns gets the present ones side by side."""
        parts = [self._encoded_row(row) for row in rows]
        if self._fixed:
            return self._fitted(parts)
        width = max((len(part) for part in parts), default=0)
        keys, values = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.float32)
        for n, part in enumerate(parts):
            for column, (_, key, number) in enumerate(part):
                keys[n, column], values[n, column] = key, number
        return keys, values

    def _encoded_row(self, row: Row) -> list[tuple[int, int, float]]:
        """Number, key and value of each present feature, in the order of the numbers."""
        found: list[tuple[int, int, float]] = []
        for name, value in row.items():
            at = self._columns.get(name, -1)
            if at < 0 or value is None or value != value:
                continue
            if _is_number(value):
                number = np.array([float(value)])
                found.append((at, hash_id(str(name)), float(self._scaled(at, number)[0])))
            else:
                found.append((at, hash_id(f"{name}={value}"), 1.0))
        found.sort()
        return found

    def _encoded_table(self, table: Table) -> tuple[Ids, Floats]:
        rows, width = len(next(iter(table.values()))), len(self._columns)
        wide = width + (1 + SPARE if self._fixed else 0)
        keys, values = np.zeros((rows, wide), np.int64), np.zeros((rows, wide), np.float32)
        for name, column in table.items():
            at = self._columns[name]
            if column.dtype.kind == "f":
                present = ~np.isnan(column)
                keys[present, at] = hash_id(str(name))
                values[present, at] = self._scaled(at, column[present])
            else:
                codes = {value: hash_id(f"{name}={value}") if value is not None else 0 for value in set(column.tolist())}
                keys[:, at] = np.array([codes[value] for value in column.tolist()], np.int64)
                values[:, at] = keys[:, at] != 0
        if self._fixed:
            keys[:, width], values[:, width] = _ALWAYS, 1.0
        return keys, values

    def _scaled(self, at: int, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if not self._spread[at] > 0.0:
            return np.zeros(numbers.size)
        deviation = (self._spread[at] / self._count[at]) ** 0.5
        scaled: npt.NDArray[np.float64] = np.clip((numbers - self._mean[at]) / deviation, -_LARGEST, _LARGEST)
        return scaled

    def _bind(self) -> None:
        """Tell a network its columns: the features so far, a constant one, and spare ones."""
        names = tuple(self._columns)
        own = [
            FeatureColumn(f"context.{name}", "context", "number" if number else "category")
            for name, number in zip(names, self._numeric, strict=True)
        ]
        # A network needs a category.
        always = FeatureColumn("context.", "context", "category")
        spare = [FeatureColumn("context.later", "context", "tags")] * SPARE
        schema = Schema((*own, always, *spare), (), (), (), 0)
        nobody = Catalogues(Catalog(1, 0), Catalog(1, 0))
        try:
            self._ranker.bind(schema, nobody, UserHistory(History(1, 1)))
        except ValueError as error:
            raise ConfigError(f"ranker.{self._name}", str(error)) from error
        self._bound = names

    def _fitted(self, parts: Sequence[list[tuple[int, int, float]]]) -> tuple[Ids, Floats]:
        """Put the features into the columns of a network."""
        assert self._bound is not None
        first = len(self._bound)
        keys, values = (
            np.zeros((len(parts), first + 1 + SPARE), np.int64),
            np.zeros((len(parts), first + 1 + SPARE), np.float32),
        )
        keys[:, first], values[:, first] = _ALWAYS, 1.0
        for n, part in enumerate(parts):
            later = first + 1
            for at, key, number in part:
                column = at if at < first else later
                later += at >= first
                if column == keys.shape[1]:
                    raise ValueError(
                        f"x: more than {SPARE} features that the first row did not have; give the first row all features (None "
                        "for a missing one), or choose a ranker without a network"
                    )
                keys[n, column], values[n, column] = key, number
        return keys, values

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_ranker"}
        learned = {} if self._fixed and self._bound is None else self._ranker.state_dict()
        return state | {"state": learned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        learned = state.pop("state")
        self.__init__(state["_name"], state["_keywords"])  # type: ignore[misc]
        bound = state["_bound"]
        if bound is not None:
            self._columns, self._numeric = {name: n for n, name in enumerate(bound)}, state["_numeric"][: len(bound)]
            self._bind()
        vars(self).update(state)
        if learned:
            self._ranker.load_state_dict(learned)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool | np.bool_)


def _weights(weight: npt.ArrayLike, rows: int) -> Floats:
    return np.broadcast_to(np.asarray(weight, np.float32), (rows,)).copy()


def _numbers(rows: Sequence[Row], columns: Mapping[Any, int], weights: Floats) -> tuple[Ids, npt.NDArray[np.float64], Floats]:
    """Column, value and weight of each number in the rows."""
    cells = [
        (columns[name], float(value), weight)
        for row, weight in zip(rows, weights.tolist(), strict=True)
        for name, value in row.items()
        if _is_number(value)
    ]
    column = np.array([at for at, _, _ in cells], np.int64)
    value = np.array([number for _, number, _ in cells], np.float64)
    return column, value, np.array([weight for _, _, weight in cells], np.float32)


def _batch(keys: Ids, values: Floats) -> Batch:
    rows = len(keys)
    return Batch(
        user=np.zeros(rows, np.int64),
        timestamp=np.zeros(rows),
        history=np.zeros((rows, 0), np.int64),
        context=np.zeros((rows, 0), np.int64),
        context_values=np.zeros((rows, 0), np.float32),
        item=np.zeros(rows, np.int64),
        request=np.arange(rows),
        features=keys,
        values=values,
    )
