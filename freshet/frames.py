"""Tables of other libraries, in and out: pandas, polars, pyarrow and whatever else speaks Arrow."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet

__all__ = ["MissingPackage", "Tabular", "html_table", "is_frame", "table_of", "write_frame"]


class MissingPackage(ImportError):
    """An optional package is not installed. The message says how to install it."""

    def __init__(self, package: str, purpose: str) -> None:
        super().__init__(f"{package} is not installed, and {purpose} needs it; run: pip install 'freshet[frames]'")


def is_frame(source: object) -> bool:
    """Whether this is a table in memory, and not a path."""
    return isinstance(source, pa.Table) or hasattr(source, "__arrow_c_stream__")


def table_of(frame: Any) -> pa.Table:
    """Return a table in memory as an Arrow table. Texts become plain strings, whatever their encoding.

    Parameters
    ----------
    frame : pyarrow.Table, pandas.DataFrame, polars.DataFrame, ...
        Anything with ``__arrow_c_stream__``.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> table_of(pa.table({"user": pa.array(["ann"]).dictionary_encode()})).schema.field("user").type
    DataType(string)
    """
    if not is_frame(frame):
        raise TypeError(
            f"frame: {type(frame).__name__} is not a table; give a pandas, polars or pyarrow table, or the path of a file"
        )
    table = frame if isinstance(frame, pa.Table) else pa.table(frame)
    for at, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            table = table.set_column(at, field.name, table.column(at).cast(pa.string()))
        elif pa.types.is_dictionary(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(kind))
    return table


def write_frame(frame: Any, folder: Path) -> Path:
    """Write a table in memory to a file, so that it is read as any recorded file is; return its path."""
    path = folder / "frame.parquet"
    pa.parquet.write_table(table_of(frame), path, compression="lz4")
    return path


class Tabular(ABC):
    """Results as tables, by name.

    Attributes
    ----------
    tables : tuple of str
        Names of the tables; the first is the default.
    """

    tables: ClassVar[tuple[str, ...]]

    def to_arrow(self, what: str = "") -> pa.Table:
        """Return a table of the results.

        Parameters
        ----------
        what : str
            One of `tables`; by default the first.

        Returns
        -------
        pyarrow.Table

        Raises
        ------
        ValueError
            For another name.
        """
        if what and what not in self.tables:
            raise ValueError(f"what: {what!r} is no table of these results; choose one of {', '.join(self.tables)}")
        return self._table(what or self.tables[0])

    def to_pandas(self, what: str = "") -> Any:
        """Return a table of the results as a data frame; see `to_arrow`.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        MissingPackage
            Without pandas.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise MissingPackage("pandas", "to_pandas") from error
        return self.to_arrow(what).to_pandas()

    @abstractmethod
    def _table(self, what: str) -> pa.Table:
        """Make one of `tables`."""


def html_table(table: pa.Table, title: str, remarks: Sequence[str] = ()) -> str:
    """Write a small table as HTML, for a notebook. Columns without a value are left out.

    Examples
    --------
    >>> html_table(pa.table({"learner": ["fm"], "auc": [0.75]}), "clicks")[:37]
    '<table><caption>clicks</caption><tr><'
    """
    columns = [name for name in table.column_names if table[name].null_count < table.num_rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(_text(row[name]))}</td>" for name in columns) + "</tr>" for row in table.to_pylist()
    ]
    notes = "".join(f"<p>{html.escape(remark)}</p>" for remark in remarks)
    return f"<table><caption>{html.escape(title)}</caption><tr>{head}</tr>{''.join(rows)}</table>{notes}"


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
