"""Read cells that hold several keys: columns of lists, or text with a separator; and ids that are no numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.features.batch import Int64Array
from crossmedia.keys import Column, full_keys, is_text, keys, texts
from crossmedia.list_cells import Entries, entries_of, is_list

BETWEEN, ESCAPE = "\x1f", "\x1e"  # ASCII's separators: what stands between entries here, and what hides it in one


_NO_ID = (
    "an id names something, and a fraction does not. A quantity belongs into numbers, as in numbers = {{ {name} = "
    '"standard" }}; a name is written as text'
)


def id_keys(column: Column) -> pa.Array:
    """A column of ids as keys; null where the cell is empty.

    Raises:
        BadInput: it holds fractions, which are no ids, or what ``keys`` raises.
    """
    return keys(_whole(column))


def full_id_keys(column: Column) -> pa.Array:
    """The same, every cell filled.

    Raises:
        BadInput: a cell is empty, or what ``id_keys`` raises.
    """
    return full_keys(_whole(column))


def _whole(column: Column) -> Column:
    column = column.plain()
    kind, values = column.values.type, column.values
    broken = np.zeros(0, dtype=np.bool_)
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            broken = ~np.isnan(numbers) & (numbers != np.floor(numbers))
    elif pa.types.is_decimal(kind) and kind.scale > 0:
        broken = np.asarray(pc.fill_null(pc.not_equal(values, pc.floor(values)), False))
    if broken.any():
        raise column.wrong(broken, _NO_ID.format(name=column.name))
    return column


def entries(column: Column, separator: str = "", read: Callable[[Column], pa.Array] = id_keys) -> pa.ListArray:
    """The keys in each cell, in order; a null or an empty cell has none, and nulls among several are left out.

    Args:
        column: of lists, or of text.
        separator: of text; a key alone has none.
        read: makes keys of all entries, null where one is none.

    Raises:
        BadInput: an entry is no key, or text has no separator.
    """
    column = column.plain()
    values = column.values
    if is_list(values.type):
        one_by_one = entries_of(column)
        parents, found = one_by_one.parents, read(one_by_one)
    elif is_text(values.type) and separator:
        cells = texts(column)
        there = np.flatnonzero(np.asarray(pc.is_valid(cells)))
        parted = pc.split_pattern(cells.drop_null(), separator)
        parents = there[np.asarray(pc.list_parent_indices(parted))]
        trimmed = pc.utf8_trim_whitespace(pc.list_flatten(parted))
        found = read(Entries(trimmed, column.name, column.where, column.first_row, parents))
    elif pa.types.is_null(values.type):
        return pa.array([[]] * len(values), pa.list_(pa.string()))
    else:
        raise column.of_type(
            f"it is read as a column of lists. Give the text between its entries, as in lists = {{ {column.name} = "
            f'"|" }}, or put a column of one key a cell into ids'
        )
    return lists_of(len(values), parents, found)


def lists_of(n: int, parents: Int64Array, found: pa.Array) -> pa.ListArray:
    """Lists of entries, nulls left out.

    Args:
        n: how many lists there are.
        parents: the list that each entry is in, ascending, shape (e,).
        found: the entries, shape (e,).
    """
    real = pc.is_valid(found)
    offsets = np.searchsorted(parents[np.asarray(real)], np.arange(n + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), found.filter(real))


def alone(found: pa.Array) -> pa.ListArray:
    """A column of one key or none a cell, as lists."""
    return lists_of(len(found), np.arange(len(found)), found)


def joined(lists: pa.ListArray) -> pa.Array:
    """Lists as texts that ``parted`` makes lists of again: rows can be grouped by texts, and not by lists."""
    words = pc.replace_substring(pc.list_flatten(lists).cast(pa.string()), ESCAPE, f"{ESCAPE}0")
    ends = np.append(0, np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(lists), 0)))).astype(np.int32)
    return pc.binary_join(
        pa.ListArray.from_arrays(pa.array(ends), pc.replace_substring(words, BETWEEN, f"{ESCAPE}1")), BETWEEN
    )


def parted(text: pa.Array) -> pa.ListArray:
    """The lists that were ``joined``, of texts."""
    lists = pc.split_pattern(text, BETWEEN)
    found, parents = pc.list_flatten(lists), np.asarray(pc.list_parent_indices(lists)).astype(np.int64)
    found = pc.replace_substring(pc.replace_substring(found, f"{ESCAPE}1", BETWEEN), f"{ESCAPE}0", ESCAPE)
    return lists_of(len(text), parents, pc.if_else(pc.equal(found, ""), None, found))


def fractions_in(words: pa.Array) -> int:
    """How many keys of a column are fractions, where all of them are numbers: a price in a CSV file, most likely."""
    words = words.drop_null()
    numbers = pc.match_substring_regex(words, r"^[+-]?[0-9]+(\.[0-9]+)?$")
    if not len(words) or not pc.all(numbers).as_py():
        return 0
    return int(pc.sum(pc.match_substring_regex(words, r"\.")).as_py())
