"""Read CSV and Parquet files, or folders of them, as Arrow columns, with errors that name file, column and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from crossmedia.errors import BadInput
from crossmedia.features.writing.csv_files import CsvFile, check_columns
from crossmedia.features.writing.notes import Notes
from crossmedia.keys import Column

PARQUET_SUFFIXES = (".parquet", ".pq")
CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".csv.zst")
BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class TableRows:
    """Some rows of a table: their columns, the file that they are in, and how many of its rows stand before them."""

    batch: pa.RecordBatch
    file: Path
    first_row: int

    def __len__(self) -> int:
        return len(self.batch)

    def column(self, name: str) -> Column:
        """One of the columns."""
        return Column(self.batch.column(name), name, str(self.file), self.first_row)


class TableSource:
    """A table on disk, of which some columns and some rows are read at a time.

    Each file has types of its own: a column may be empty in one and hold text in the next.

    Args:
        path: CSV, also gzipped, or Parquet, or a folder of files of one of these kinds; what is hidden in it (a name
            that begins with . or _) is none of them, nor is what has no byte.
        texts: columns that are read as text from CSV, so that 007 stays 007.
        times: columns of whole seconds or timestamps.
        numbers: columns of numbers.

    Raises:
        BadInput: no such file, not of that format, or a column is missing.
    """

    def __init__(self, path: str, texts: Sequence[str], times: Sequence[str] = (), numbers: Sequence[str] = ()) -> None:
        self.path = path
        self._columns = (texts, times, numbers)
        self._files, self._others = _files(Path(path))
        self._is_csv = not _ends(self._files[0], PARQUET_SUFFIXES)
        self._files = [file for file in self._files if file.stat().st_size]
        if not self._files or (self._is_csv and CsvFile(self._files[0], *self._columns).empty and Path(path).is_file()):
            raise BadInput(f"The file {path} is empty." if Path(path).is_file() else f"All files of {path} are empty.")
        if not self._is_csv:
            self._parquet(self._files[0])

    def note_others(self, notes: Notes) -> None:
        """Note the folder's files that are not part of the table, because their names do not say what they hold."""
        first = str(self._others[0]) if self._others else None
        notes.add("files_passed_over_that_are_neither_csv_nor_parquet_by_name", len(self._others), first)

    def _parquet(self, file: Path) -> ds.Dataset:
        try:
            data = ds.dataset([str(file)], format="parquet")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The file {file} cannot be read: {error}.") from error
        check_columns(file, [name for names in self._columns for name in names], data.schema.names)
        return data

    def rows_guess(self) -> int:
        """About how many rows there are, without reading them; the same for the same files."""
        if not self._is_csv:
            return sum(int(self._parquet(file).count_rows()) for file in self._files)
        size = sum(file.stat().st_size for file in self._files)
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

    def _of_csv(self, file: Path) -> Iterator[pa.RecordBatch]:
        found = CsvFile(file, *self._columns)
        return iter(()) if found.empty else found.batches()

    def _of_parquet(self, file: Path) -> Iterator[pa.RecordBatch]:
        columns = list(dict.fromkeys(name for names in self._columns for name in names))
        try:
            yield from self._parquet(file).to_batches(columns=columns, batch_size=BATCH_ROWS)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The file {file} cannot be read: {error}.") from error


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    """The files of a table, and the other files of its folder, without hidden ones."""
    if not path.exists():
        raise BadInput(f"The file {path} does not exist.")
    if path.is_file():
        return [path], []
    found: list[Path] = []
    others: list[Path] = []
    for file in sorted(path.rglob("*")):
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts):
            (found if _ends(file, (*PARQUET_SUFFIXES, *CSV_SUFFIXES)) else others).append(file)
    if not found:
        there = f"; what is there begins with {others[0].name}" if others else ""
        raise BadInput(
            f"The folder {path} holds no .parquet, .csv or .csv.gz file (names that begin with . or _ are passed "
            f"over){there}."
        )
    if len({_ends(file, PARQUET_SUFFIXES) for file in found}) > 1:
        raise BadInput(f"The folder {path} holds both Parquet and CSV files; a table is of one kind.")
    return found, others


def _ends(file: Path, suffixes: tuple[str, ...]) -> bool:
    return file.name.lower().endswith(suffixes)
