"""CSV and Parquet files, or folders of them, into Arrow columns, with errors that name file, column and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds

from features.schema import ALL, Rule
from imgserver.errors import BadInput

_COMPARE = {
    ">=": pc.greater_equal,
    ">": pc.greater,
    "<=": pc.less_equal,
    "<": pc.less,
    "==": pc.equal,
}
PARQUET_SUFFIXES = (".parquet", ".pq")
CSV_SUFFIXES = (".csv", ".csv.gz")
BATCH_ROWS = 1 << 18


class Source:
    """A table on disk, read some columns and some rows at a time.

    Args:
        path: CSV, also gzipped, or Parquet, or a folder of files of one of these kinds.
        keys: columns that are read as strings, so that 007 stays 007.
        others: columns that are read as what they look like; whole numbers as float64 if they are ``numbers``.
        numbers: columns of ``others`` in which a fraction may come late in the file.

    Raises:
        BadInput: no such file, not of that format, or a column is missing.
    """

    def __init__(self, path: Path, keys: Sequence[str], others: Sequence[str] = (), numbers: Sequence[str] = ()):
        self.path = path
        self.columns = list(dict.fromkeys([*keys, *others]))
        files = _files(path)
        self._is_csv = files[0].name.endswith(CSV_SUFFIXES) or not files[0].name.endswith(PARQUET_SUFFIXES)
        try:
            if self._is_csv:
                with pyarrow.csv.open_csv(files[0], convert_options=_convert()) as reader:
                    schema = reader.schema
                _check_columns(path, self.columns, schema.names)
                types = {name: pa.string() for name in keys}
                types |= {n: pa.float64() for n in numbers if pa.types.is_integer(schema.field(n).type)}
                options = _convert(column_types=types)
                self._data = ds.dataset(files, format=ds.CsvFileFormat(convert_options=options))
            else:
                self._data = ds.dataset(files, format="parquet")
                _check_columns(path, self.columns, self._data.schema.names)
        except (pa.ArrowException, OSError) as error:
            if "Empty CSV" in str(error):
                raise BadInput(f"The file {path} is empty.") from error
            raise BadInput(f"The file {path} cannot be read: {error}.") from error
        self._bytes = sum(file.stat().st_size for file in files)
        self._gzipped = files[0].name.endswith(".gz")

    def rows_guess(self) -> int:
        """About how many rows there are, without reading them; the same for the same files."""
        if not self._is_csv:
            return int(self._data.count_rows())
        return self._bytes // (6 if self._gzipped else 20)

    def batches(self) -> Iterator[pa.Table]:
        """All rows in the order of the files.

        Raises:
            BadInput: a cell is not of the column's type, or there is no row.
        """
        total = 0
        try:
            for batch in self._data.to_batches(columns=self.columns, batch_size=BATCH_ROWS):
                total += len(batch)
                if len(batch):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"The file {self.path} cannot be read: {error}.") from error
        if not total:
            raise BadInput(f"The file {self.path} has no rows.")

    def read(self) -> pa.Table:
        """All rows at once."""
        return pa.concat_tables(self.batches())


def _convert(**options: Any) -> pyarrow.csv.ConvertOptions:
    # Only an empty cell is null: NA is a country, and null may be a name.
    return pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""], **options)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise BadInput(f"The file {path} does not exist.")
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.name.endswith((*PARQUET_SUFFIXES, *CSV_SUFFIXES)))
    if not found:
        raise BadInput(f"The folder {path} holds no .parquet, .csv or .csv.gz file.")
    if len({p.name.endswith(PARQUET_SUFFIXES) for p in found}) > 1:
        raise BadInput(f"The folder {path} holds both Parquet and CSV files; a table is of one kind.")
    return found


def _check_columns(path: Path, wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise BadInput(f"The file {path} has no column {name!r}; its columns are: {', '.join(names)}.")


def keys(table: pa.Table, name: str) -> pa.Array:
    """A column as strings: ids of any type become keys; null stays null."""
    column = table[name].combine_chunks()
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def full_keys(path: Path, table: pa.Table, name: str, first_row: int) -> pa.Array:
    """A column as strings, every cell filled.

    Raises:
        BadInput: a cell is empty.
    """
    column = keys(table, name)
    if column.null_count:
        raise BadInput(f"The column {name!r} of {path} is empty in row {_row(pc.is_null(column), first_row)}.")
    return column


def _row(bad: Any, first_row: int) -> int:
    """The number of the first bad row, as people count, without the header."""
    return first_row + int(np.argmax(np.asarray(bad))) + 1


def seconds(path: Path, table: pa.Table, name: str, first_row: int) -> npt.NDArray[np.int64]:
    """A time column as whole seconds, shape (rows,).

    Raises:
        BadInput: it is neither whole numbers nor timestamps, or has an empty cell.
    """
    column = table[name].combine_chunks()
    if column.null_count:
        row = _row(pc.is_null(column), first_row)
        raise BadInput(f"The column {name!r} of {path} is empty in row {row}; every row needs a time.")
    if pa.types.is_timestamp(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("s"), safe=False), pa.int64())
    elif not pa.types.is_integer(column.type):
        raise BadInput(
            f"The column {name!r} of {path} is of type {column.type}; times are whole seconds or timestamps."
        )
    return np.asarray(pc.cast(column, pa.int64()))


def flags(path: Path, table: pa.Table, rule: Rule, first_row: int) -> npt.NDArray[np.bool_]:
    """Which rows a rule calls positive, shape (rows,).

    Raises:
        BadInput: a plain label column holds something else than 0 and 1, or a rule's column is not numeric.
    """
    if rule.operator == ALL:
        return np.ones(len(table), dtype=np.bool_)
    column = table[rule.column].combine_chunks()
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise BadInput(f"The label column {rule.column!r} of {path} is of type {column.type}; labels are numbers.")
    if column.null_count:
        row = _row(pc.is_null(column), first_row)
        raise BadInput(f"The label column {rule.column!r} of {path} is empty in row {row}.")
    if rule.operator:
        positive: Any = _COMPARE[rule.operator](pc.cast(column, pa.float64()), rule.number)
        return np.asarray(positive, dtype=np.bool_)
    values = np.asarray(pc.cast(column, pa.float64()))
    bad = (values != 0) & (values != 1)
    if bad.any():
        raise BadInput(
            f"The label column {rule.column!r} of {path} holds {values[bad][0]:g} in row {_row(bad, first_row)}; "
            f'labels are 0 or 1. For a rating write a rule, such as like = "{rule.column} >= 4".'
        )
    positives: npt.NDArray[np.bool_] = values == 1
    return positives
