"""CSV and Parquet files into Arrow columns, with errors that name the file, the column and the row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from features.schema import Rule
from imgserver.errors import BadInput

_COMPARE = {
    ">=": pc.greater_equal,
    ">": pc.greater,
    "<=": pc.less_equal,
    "<": pc.less,
    "==": pc.equal,
}


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """The named columns of a CSV (also .csv.gz) or Parquet file.

    Raises:
        BadInput: no such file, not of that format, a column is missing, or there is no row.
    """
    wanted = list(dict.fromkeys(columns))
    try:
        if path.name.endswith((".parquet", ".pq")):
            names = pq.read_schema(path).names
            _check_columns(path, wanted, names)
            table = pq.read_table(path, columns=wanted)
        else:
            with pyarrow.csv.open_csv(path) as reader:
                names = reader.schema.names
            _check_columns(path, wanted, names)
            table = pyarrow.csv.read_csv(
                path, convert_options=pyarrow.csv.ConvertOptions(include_columns=wanted, strings_can_be_null=True)
            )
    except FileNotFoundError as error:
        raise BadInput(f"The file {path} does not exist.") from error
    except (pa.ArrowInvalid, OSError) as error:
        if "Empty CSV" in str(error):
            raise BadInput(f"The file {path} is empty.") from error
        raise BadInput(f"The file {path} cannot be read: {error}.") from error
    if not table.num_rows:
        raise BadInput(f"The file {path} has no rows.")
    return table


def _check_columns(path: Path, wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise BadInput(f"The file {path} has no column {name!r}; its columns are: {', '.join(names)}.")


def keys(table: pa.Table, name: str) -> pa.Array:
    """A column as strings: ids of any type become keys; null stays null."""
    column = table[name].combine_chunks()
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def seconds(path: Path, table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """A time column as whole seconds, shape (rows,).

    Raises:
        BadInput: it is neither whole numbers nor timestamps, or has an empty cell.
    """
    column = table[name].combine_chunks()
    if column.null_count:
        raise BadInput(f"The column {name!r} of {path} has {column.null_count} empty cells; every row needs a time.")
    if pa.types.is_timestamp(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("s"), safe=False), pa.int64())
    elif not pa.types.is_integer(column.type):
        raise BadInput(
            f"The column {name!r} of {path} is of type {column.type}; times are whole seconds or timestamps."
        )
    return np.asarray(pc.cast(column, pa.int64()))


def flags(path: Path, table: pa.Table, rule: Rule) -> npt.NDArray[np.bool_]:
    """Which rows a rule calls positive, shape (rows,).

    Raises:
        BadInput: a plain label column holds something else than 0 and 1, or a rule's column is not numeric.
    """
    column = table[rule.column].combine_chunks()
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise BadInput(f"The label column {rule.column!r} of {path} is of type {column.type}; labels are numbers.")
    if column.null_count:
        raise BadInput(f"The label column {rule.column!r} of {path} has {column.null_count} empty cells.")
    if rule.operator:
        positive: Any = _COMPARE[rule.operator](pc.cast(column, pa.float64()), rule.number)
        return np.asarray(positive, dtype=np.bool_)
    values = np.asarray(pc.cast(column, pa.float64()))
    bad = (values != 0) & (values != 1)
    if bad.any():
        raise BadInput(
            f"The label column {rule.column!r} of {path} holds {values[bad][0]:g} in row "
            f"{int(np.argmax(bad)) + 1}; labels are 0 or 1. "
            f'For a rating write a rule, such as like = "{rule.column} >= 4".'
        )
    positives: npt.NDArray[np.bool_] = values == 1
    return positives
