"""Read CSV and Parquet files, or folders of them, as Arrow columns, with errors that name file, column and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds

from crossmedia.errors import BadInput
from crossmedia.features.writing.csv_files import CsvFile, check_columns
from crossmedia.features.writing.data_files import DataFile, data_files
from crossmedia.features.writing.notes import Notes
from crossmedia.keys import Column

BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class TableRows:
    """Some rows of a table: their columns, the file that they are in, and how many of its rows stand before them."""

    batch: pa.RecordBatch
    file: DataFile
    first_row: int

    def __len__(self) -> int:
        return len(self.batch)

    def column(self, name: str) -> Column:
        """One of the columns."""
        if name in self.batch.schema.names:
            values = self.batch.column(name)
        else:  # the same in all rows, by the folder of the file
            values = pa.repeat(pa.scalar(self.file.parts[name], pa.string()), len(self.batch))
        return Column(values, name, str(self.file), self.first_row)


class TableSource:
    """A table in files, of which some columns and some rows are read at a time.

    Each file has types of its own: a column may be empty in one and hold text in the next.

    Args:
        path: CSV, also gzipped, or Parquet, or a folder of files of one of these kinds, or the address of either; what
            is hidden in a folder (a name that begins with . or _) is none of them, nor is what has no byte.
        texts: columns that are read as text from CSV, so that 007 stays 007.
        times: columns of whole seconds or timestamps.
        numbers: columns of numbers.

    Raises:
        BadInput: no such file, not of that format, or a column is missing.
    """

    def __init__(self, path: str, texts: Sequence[str], times: Sequence[str] = (), numbers: Sequence[str] = ()) -> None:
        self.path = path
        self._columns = (texts, times, numbers)
        self._files, self._others = data_files(path)
        alone = len(self._files) == 1 and self._files[0].address == path
        self._is_csv = not self._files[0].is_parquet
        self._files = [file for file in self._files if file.size]
        if not self._files or (self._is_csv and alone and self._csv(self._files[0]).empty):
            raise BadInput(f"The file {path} is empty." if alone else f"All files of {path} are empty.")
        if not self._is_csv:
            self._parquet(self._files[0])

    def note_others(self, notes: Notes) -> None:
        """Note the folder's files that are not part of the table, because their names do not say what they hold."""
        first = str(self._others[0]) if self._others else None
        notes.add("files_passed_over_that_are_neither_csv_nor_parquet_by_name", len(self._others), first)

    def _names(self, file: DataFile) -> list[list[str]]:
        """The columns by kind, without those that the folders of the file give."""
        return [[name for name in names if name not in file.parts] for names in self._columns]

    def _csv(self, file: DataFile) -> CsvFile:
        return CsvFile(file, *self._names(file))

    def _parquet(self, file: DataFile) -> ds.Dataset:
        try:
            data = ds.dataset([file.path or file.address], filesystem=file.system, format="parquet")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The file {file} cannot be read: {error}.") from error
        check_columns(file, [name for names in self._names(file) for name in names], data.schema.names)
        return data

    def rows_guess(self) -> int:
        """About how many rows there are, without reading them; the same for the same files."""
        if not self._is_csv:
            return sum(int(self._parquet(file).count_rows()) for file in self._files)
        size = sum(file.size for file in self._files)
        return size // (20 if self._files[0].name.lower().endswith(".csv") else 6)

    def batches(self) -> Iterator[TableRows]:
        """All rows in the order of the files; parts without rows are skipped.

        Raises:
            BadInput: a file is not what its name says, a cell is not of its column's type, or there is no row at all.
        """
        total = 0
        for file in self._files:
            first = 0
            for batch in self._of_csv(file) if self._is_csv else self._of_parquet(file):
                if len(batch):
                    yield TableRows(batch, file, first)
                first += len(batch)
            total += first
        if not total:
            raise BadInput(f"The file {self.path} has no rows.")

    def _of_csv(self, file: DataFile) -> Iterator[pa.RecordBatch]:
        found = self._csv(file)
        return iter(()) if found.empty else found.batches()

    def _of_parquet(self, file: DataFile) -> Iterator[pa.RecordBatch]:
        columns = list(dict.fromkeys(name for names in self._names(file) for name in names))
        try:
            yield from self._parquet(file).to_batches(columns=columns, batch_size=BATCH_ROWS)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The file {file} cannot be read: {error}.") from error
