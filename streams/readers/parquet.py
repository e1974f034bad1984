"""Reader of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from streams.readers.files import source
from streams.readers.mapping import BadRecording, BadRows
from streams.readers.rows import RowNumbers, drop_undecodable

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
        The file does not exist or is not a Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with source(path) as found, pa.parquet.ParquetFile(found) as file:
                schema = file.schema_arrow
                self.rows: int | None = file.metadata.num_rows
        except FileNotFoundError as error:
            raise BadRecording(path, "no such file", "give the path of a recorded file") from error
        except PermissionError as error:
            raise BadRecording(path, "no permission to read it", "allow this user to read it") from error
        except (OSError, pa.ArrowException) as error:
            raise BadRecording(path, f"not a Parquet file ({error})", "set its format, or check that it is complete") from error
        self.names = list(schema.names)
        self._numbers = RowNumbers(0)
        self._text = [field.name for field in schema if pa.types.is_string(field.type)]

    def row_number(self, index: int) -> int:
        """See `Reader.row_number`."""
        return self._numbers.row_number(index)

    def tables(self, columns: Sequence[str], bad: BadRows, *, whole: bool) -> Iterator[pa.Table]:
        """See `Reader.tables`. Text is read dictionary encoded, as it usually is in the file."""
        text = [name for name in self._text if name in columns]
        self._numbers = RowNumbers(0)
        try:
            with source(self.path) as found, pa.parquet.ParquetFile(found, read_dictionary=text, memory_map=True) as file:
                if whole:
                    yield drop_undecodable(file.read(columns=list(columns), use_threads=False), self.path, self._numbers, bad)
                    return
                for batch in file.iter_batches(_CHUNK, columns=list(columns), use_threads=False):
                    yield drop_undecodable(pa.Table.from_batches([batch]), self.path, self._numbers, bad)
        except (OSError, pa.ArrowException) as error:
            raise BadRecording(self.path, f"damaged Parquet ({error})", "create or download it again") from error
