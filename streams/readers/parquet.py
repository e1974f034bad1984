"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from streams.readers.mapping import BadRecording, BadRows

__all__ = ["ParquetReader"]

_CHUNK = 65_536


class ParquetReader:
    """Rows of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    BadRecording
        For a file that is not there or is no Parquet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pa.parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                self.rows: int | None = file.metadata.num_rows
        except FileNotFoundError as error:
            raise BadRecording(path, "no such file", "give the path of a recorded file") from error
        except (OSError, pa.ArrowInvalid) as error:
            raise BadRecording(path, f"no Parquet file ({error})", "name its format, or see whether it is whole") from error
        self.names = list(schema.names)
        self._text = [field.name for field in schema if pa.types.is_string(field.type)]

    def row_number(self, index: int) -> int:
        """See `Reader.row_number`."""
        return index + 1

    def tables(self, columns: Sequence[str], bad: BadRows, *, whole: bool) -> Iterator[pa.Table]:
        """See `Reader.tables`. Text comes dictionary encoded, as it mostly lies in the file."""
        text = [name for name in self._text if name in columns]
        try:
            with pa.parquet.ParquetFile(self.path, read_dictionary=text, memory_map=True) as file:
                if whole:
                    yield file.read(columns=list(columns), use_threads=False)
                    return
                for batch in file.iter_batches(_CHUNK, columns=list(columns), use_threads=False):
                    yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowInvalid) as error:
            raise BadRecording(self.path, f"damaged Parquet ({error})", "make or fetch it anew") from error
