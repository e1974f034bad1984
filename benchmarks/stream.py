"""The stream of clicks for benchmarks: made with a seed or read from a file, and written in the formats that contenders read.

Users have a taste vector (mostly that of their segment), items a quality vector (mostly that of their category). The better
they match, the likelier is a click. Learners have to follow two changes: all tastes change at once after 40 % of the rows,
and drift from 70 % on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

__all__ = ["CONTEXT", "Clicks", "head", "make", "read", "take", "write_table", "write_vw"]

Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

CONTEXT, SEGMENTS, CATEGORIES = 8, 32, 64
DIMENSIONS = 16
CLICK_RATE = 0.10
START = 1_700_000_000.0


@dataclass(slots=True, kw_only=True)
class Clicks:
    """N rows in time order; all arrays are (N,).

    Attributes
    ----------
    user, item : int64
    ctx : int64
        Request context, 8 values.
    useg, icat : int64
        Segment of the user and category of the item: attributes.
    label : float32
        1 for a click.
    timestamp : float64
        Unix seconds.
    """

    user: Codes
    item: Codes
    ctx: Codes
    useg: Codes
    icat: Codes
    label: npt.NDArray[np.float32]
    timestamp: Doubles

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return self.user.size


def make(rows: int, users: int = 2_000, items: int = 1_000, seed: int = 20262) -> Clicks:
    """Make a stream. The default is dense: a million rows have 500 rows per user and 1,000 per item."""
    rng = np.random.default_rng(seed)
    segment, category = rng.integers(0, SEGMENTS, users), rng.integers(0, CATEGORIES, items)
    segment_taste, category_quality = rng.normal(size=(SEGMENTS, DIMENSIONS)), rng.normal(size=(CATEGORIES, DIMENSIONS))
    taste = 0.8 * segment_taste[segment] + 0.6 * rng.normal(size=(users, DIMENSIONS))
    quality = 0.8 * category_quality[category] + 0.6 * rng.normal(size=(items, DIMENSIONS))
    user_bias, item_bias = rng.normal(0.0, 0.5, users), rng.normal(0.0, 0.6, items)
    turn, _ = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))
    item_bias_after = np.where(rng.random(items) < 0.5, rng.normal(0.0, 0.6, items), item_bias)
    user_share, item_share = _power_law(rng, users, 0.7), _power_law(rng, items, 0.9)
    user, item = rng.choice(users, rows, p=user_share), rng.choice(items, rows, p=item_share)
    ctx = rng.integers(0, CONTEXT, rows)
    swing, _ = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))
    odds = np.empty(rows)
    for start in range(0, rows, 50_000):
        part = slice(start, start + 50_000)
        share = np.arange(start, min(start + 50_000, rows)) / rows
        now = _tastes(taste[user[part]], share, turn, swing)
        agree = (now * quality[item[part]]).sum(1) * 1.6 / np.sqrt(DIMENSIONS)
        odds[part] = agree + np.where(share >= 0.4, item_bias_after[item[part]], item_bias[item[part]])
    odds += user_bias[user] + np.linspace(0.4, -0.8, CONTEXT)[ctx]
    return Clicks(
        user=user,
        item=item,
        ctx=ctx,
        useg=segment[user],
        icat=category[item],
        label=(rng.random(rows) < _sigmoid(odds + _shift(odds))).astype(np.float32),
        timestamp=START + np.cumsum(rng.exponential(0.02, rows)),
    )


def read(path: Path, rows: int | None = None) -> Clicks:
    """Read a stream from an ``.npz`` with the columns user, item, ctx, useg, icat, label and ts."""
    with np.load(path) as file:
        columns = {name: file[name][:rows].astype(np.int64) for name in ("user", "item", "ctx", "useg", "icat")}
        return Clicks(**columns, label=file["label"][:rows].astype(np.float32), timestamp=START + file["ts"][:rows])


def take(npz: Path | None, rows: int, seed: int = 20262) -> Clicks:
    """Return the first `rows` of a file, or make a stream if there is no file."""
    return make(rows, seed=seed) if npz is None else read(npz, rows)


def head(clicks: Clicks, rows: int) -> Clicks:
    """Return the first `rows` of a stream."""
    return Clicks(**{field.name: getattr(clicks, field.name)[:rows] for field in fields(Clicks)})


def write_table(clicks: Clicks, path: Path) -> None:
    """Write ``.parquet`` or ``.csv`` with the columns user, item, ctx, useg, icat, label and timestamp; ids are text."""
    table = pa.table(
        {
            "user": _names("u", clicks.user),
            "item": _names("i", clicks.item),
            "ctx": _names("c", clicks.ctx),
            "useg": _names("s", clicks.useg),
            "icat": _names("k", clicks.icat),
            "label": clicks.label.astype(np.int8),
            "timestamp": clicks.timestamp,
        }
    )
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        text = {field.name: table[field.name].cast(pa.string()) for field in table.schema if pa.types.is_dictionary(field.type)}
        pa.csv.write_csv(pa.table({name: text.get(name, table[name]) for name in table.column_names}), path)


def write_vw(clicks: Clicks, path: Path) -> None:
    """Write VW's text: namespaces u(ser), i(tem), s(egment), c(ategory) and x (context)."""
    labels = np.where(clicks.label > 0, "1", "-1").tolist()
    columns = (clicks.user, clicks.item, clicks.useg, clicks.icat, clicks.ctx)
    with path.open("w") as file:
        for label, u, i, s, c, x in zip(labels, *(column.tolist() for column in columns), strict=True):
            file.write(f"{label} |u u{u} |i i{i} |s s{s} |c k{c} |x c{x}\n")


def _power_law(rng: np.random.Generator, count: int, exponent: float) -> Doubles:
    """Share of the rows for each user or item: a power law in random order."""
    weight = (np.arange(1.0, count + 1.0) ** -exponent)[rng.permutation(count)]
    share: Doubles = weight / weight.sum()
    return share


def _tastes(before: Doubles, share: Doubles, turn: Doubles, swing: Doubles) -> Doubles:
    """Tastes of rows, given their relative position (0 to 1) in the stream."""
    turned = before @ turn.T
    angle = np.clip((share - 0.7) / 0.3, 0.0, 1.0)[:, None] * (np.pi / 2)
    swung = np.cos(angle) * turned + np.sin(angle) * (turned @ swing.T)
    return np.where(share[:, None] >= 0.4, swung, before)


def _shift(odds: Doubles) -> float:
    """Find the shift of the log-odds that gives a mean click rate of `CLICK_RATE`."""
    low, high = -8.0, 2.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _sigmoid(odds + middle).mean() > CLICK_RATE else (middle, high)
    return middle


def _sigmoid(odds: Doubles) -> Doubles:
    return 1.0 / (1.0 + np.exp(-odds))


def _names(prefix: str, codes: Codes) -> pa.Array[Any]:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), [f"{prefix}{n}" for n in range(int(codes.max()) + 1)])
