"""The Open Bandit Dataset: one row per position on a page, with the propensity of the item shown there.

References
----------
Y. Saito, S. Aihara, M. Matsutani, Y. Narita, "Open Bandit Dataset and Pipeline: Towards Realistic and Reproducible Off-Policy
Evaluation", NeurIPS 2021 Datasets and Benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from streams.batch import Bools
from streams.dead_letters import DeadLetters
from streams.events import Attribute, Impression, ItemUpdate, Scalar
from streams.readers.beside import beside
from streams.readers.cells import numbers, texts
from streams.readers.cleaning import Types
from streams.readers.decision import LARGEST, Decision
from streams.readers.mapping import BadRecording, BadRows
from streams.readers.moments import times
from streams.readers.text import TextReader
from streams.readers.updates import side_updates

__all__ = ["open_bandit"]

PROPENSITY = ("propensity_score", "action_prob")
"""Name of the propensity in the files, and in their documentation."""


def open_bandit(path: Path, bad: BadRows) -> Iterator[ItemUpdate | Decision]:
    """Read a policy's log of one campaign, such as ``random/all/all.csv``.

    The candidates of every row are the items of ``item_context.csv`` in the same folder. Without that file, they are all items
    in the log. The context is ``position`` and the four ``user_feature_*``. Users have no id, so equal features are one user.
    The ``user-item_affinity_*`` are not read.

    Raises
    ------
    BadRecording
        The file lacks columns of this dataset.
    """
    reader = TextReader(path, ",", quote='"')
    propensity = next((name for name in PROPENSITY if name in reader.names), None)
    if propensity is None:
        raise BadRecording.missing_column(path, PROPENSITY[0], reader.names)
    needed = ("timestamp", "item_id", "position", "click", propensity)
    for name in needed:
        if name not in reader.names:
            raise BadRecording.missing_column(path, name, reader.names)
    features = [name for name in reader.names if name.startswith("user_feature_")]
    item_file = beside(path, "item_context.csv")
    updates = list(_items(item_file, bad)) if item_file is not None else []
    yield from updates
    items = [update.item for update in updates] or _items_in_log(path)
    others: dict[str | None, tuple[str, ...]] = {item: tuple(items[:n] + items[n + 1 :]) for n, item in enumerate(items)}
    read = 0
    for table in reader.tables([*needed, *features], bad, whole=False):
        rows = _Rows(reader, table, read, bad)
        yield from rows.decisions(propensity, features, others)
        read += table.num_rows


class _Rows:
    """One table of the file. Bad rows are reported column by column."""

    def __init__(self, reader: TextReader, table: pa.Table, before: int, bad: BadRows) -> None:
        self._reader, self._table, self._before, self._bad = reader, table, before, bad
        self._good = np.ones(table.num_rows, np.bool_)

    def decisions(
        self, propensity: str, features: list[str], others: Mapping[str | None, tuple[str, ...]]
    ) -> Iterator[Decision]:
        table = self._table
        item = texts(table["item_id"]).texts()
        known = np.array([name in others for name in item], np.bool_)
        timestamp, _ = times(table["timestamp"], unit="s")
        position, click, probability = (numbers(table[name])[0] for name in ("position", "click", propensity))
        self._drop("item_id", "unknown_item", ~known, "not an item of item_context.csv")
        self._drop("timestamp", "bad_timestamp", ~((timestamp >= 0) & (timestamp <= 1e11)), "not a time")
        self._drop("position", "bad_position", np.isnan(position), "not a number")
        self._drop("click", "bad_reward", ~(np.abs(click) <= LARGEST), "not a finite number")
        self._drop(propensity, "bad_propensity", ~((probability > 0) & (probability <= 1)), "not a probability above 0")
        users = [texts(table[name]).texts() for name in features]
        for row in np.flatnonzero(self._good).tolist():
            number = self._number(row)
            values = [column[row] or "" for column in users]
            context: dict[str, Scalar] = {"position": float(position[row]), **dict(zip(features, values, strict=True))}
            shown = item[row]
            assert shown is not None
            impression = Impression(
                request_id=str(number),
                user=":".join(value[:16] for value in values) or "-",
                items=(shown,),
                propensities=(float(probability[row]),),
                context=context,
                timestamp=float(timestamp[row]),
            )
            if not self._bad.admits(self._reader.path, impression, number, partial(_text, table, row)):
                continue
            yield Decision(
                impression=impression,
                others=others[shown],
                kind="click",
                rewards=(float(click[row]),),
            )

    def _drop(self, column: str, kind: str, wrong: Bools, reason: str) -> None:
        for row in np.flatnonzero(wrong & self._good).tolist():
            cell = self._table[column][row].as_py()
            line = partial(_text, self._table, row)
            self._bad.put(self._reader.path, self._number(row), kind, f"{column}: {cell!r} is {reason}", line)
        self._good &= ~wrong

    def _number(self, row: int) -> int:
        return self._reader.row_number(self._before + row)


def _items(path: Path, bad: BadRows) -> Iterator[ItemUpdate]:
    reader = TextReader(path, ",", quote='"')
    if "item_id" not in reader.names:
        raise BadRecording.missing_column(path, "item_id", reader.names)
    for update in side_updates("item", reader, "item_id", Types(), bad, 0.0):
        assert isinstance(update, ItemUpdate)
        kept: dict[str, Attribute] = {name: value for name, value in update.attributes.items() if name}
        found = ItemUpdate(item=update.item, attributes=kept)
        if bad.admits(path, found):
            yield found


def _items_in_log(path: Path) -> list[str]:
    found: dict[str, None] = {}
    silent = BadRows(DeadLetters(), strict=False)
    for table in TextReader(path, ",", quote='"').tables(["item_id"], silent, whole=False):
        found |= dict.fromkeys(name for name in texts(table["item_id"]).names if name)
    return list(found)


def _text(table: pa.Table, row: int) -> str:
    return ",".join(str(table[name][row].as_py()) for name in table.column_names)
