"""Take what a request gives apart into columns of one length, whatever it comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from crossmedia.errors import BadInput
from crossmedia.features.columns import HISTORY, IMAGE
from crossmedia.keys import Column, column_of


def columns_by_name(what: str, given: Any) -> dict[str, Any]:
    """What a request gives, by the names of columns."""
    if what != "user" and isinstance(given, pa.Table | pa.RecordBatch):
        return dict(zip(given.column_names, given.columns, strict=True))
    frame = hasattr(given, "columns")  # of pandas, which is like a mapping
    if isinstance(given, Mapping) or (hasattr(given, "keys") and not (what == "user" and frame)):
        return {name: given[name] for name in given.keys()}  # noqa: SIM118  # a frame iterates over rows otherwise
    taken = "a dict of values and lists" if what == "user" else "a dict of lists, a pandas DataFrame or an Arrow table"
    raise BadInput(f"The {_is(what)} {_kind(given)}; give columns by name: {taken}.")


def columns_of_one_length(what: str, given: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Column], int]:
    """Columns of one length, nulls where one is not given, and that length."""
    found = {name: _list(what, name, given[name]) for name in names if name in given}
    lengths = {name: len(column.values) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise BadInput(f"The {has(what)} lists of several lengths: {lengths}; all must have one.")
    length = next(iter(lengths.values()), 0)
    return {name: found.get(name) or Column(pa.nulls(length), name, f"the {what}") for name in names}, length


def _list(what: str, name: str, values: Any) -> Column:
    """A column of several values; text would be taken for a list of letters."""
    several = isinstance(values, Sequence | pa.Array | pa.ChunkedArray) or getattr(values, "ndim", 0) == 1
    if not several or isinstance(values, str | bytes):
        each = "behaviour" if what == "user" else "candidate"
        raise BadInput(f"The column {name!r} of the {what} is {_kind(values)}; give a list, a value for each {each}.")
    if name in (IMAGE, HISTORY + IMAGE) and not isinstance(values, pa.Array | pa.ChunkedArray):
        values = _all_lists(values)
    return column_of(values, name, f"the {what}")


def _all_lists(values: Any) -> Any:
    """Images of items of which some have one and others a list of them, as lists."""
    if not any(map(_is_list, values)):
        return values
    return [one if _is_list(one) else column_of([one], IMAGE, "the request").values.to_pylist() for one in values]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1


def latest(column: Column, most: int) -> Column:
    """The last values of a column, ``most`` of them."""
    first = max(0, len(column.values) - most)
    return replace(column, values=column.values[first:], first_row=first)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _is(what: str) -> str:
    return "user is" if what == "user" else f"{what} are"


def has(what: str) -> str:
    """``user has`` or ``candidates have``."""
    return "user has" if what == "user" else f"{what} have"
