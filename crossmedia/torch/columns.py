"""Columns of image ids in a batch: where they are, and which vectors they need, each once.

Legend: n ids of a batch together, K ids of a space, each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from crossmedia.arguments import must
from crossmedia.errors import BadInput, InvalidRequest, did_you_mean
from crossmedia.features.batch import Int64Array
from crossmedia.keys import MAX_IMAGE_ID, NULL_IMAGE
from crossmedia.trainer.images.id_arrays import IdArray, id_array

VECTORS, OK = ".vectors", ".ok"  # behind the name of a column, what the batch is given for it


@dataclass(frozen=True)
class Ids:
    """How a column holds ids.

    Attributes:
        column: its name in the batch; empty: it is called as in ``columns``.
        space: whose vectors are meant, of several.
        null: the id that stands for no image, such as that of padding. -1, None and NaN always do.
        within: the entry of the batch that holds the column: a dict, or a KeyedJaggedTensor; empty: the batch itself.
        offsets: the column that says where each list begins among ids of one dimension; empty: there is none.

    Example:
        >>> from crossmedia.torch import Ids
        >>> columns = {"image_id": Ids(), "hist_image_id": Ids(null=0), "shown": Ids(within="sparse")}
    """

    column: str = ""
    space: str = ""
    null: int = NULL_IMAGE
    within: str = ""
    offsets: str = ""

    def __post_init__(self) -> None:
        for name in ("column", "space", "within", "offsets"):
            must(isinstance(value := getattr(self, name), str), name, value, "a str")
        whole = isinstance(self.null, int) and not isinstance(self.null, bool)
        must(whole and abs(self.null) <= MAX_IMAGE_ID, "null", self.null, "a whole number")


@dataclass(frozen=True)
class Found:
    """The ids of a batch.

    Attributes:
        keys: shape (K,), ascending, by space.
        places: of each column, its ids' places among the keys of its space, in the shape of the ids; -1: no image.
    """

    keys: dict[str, Int64Array]
    places: dict[str, Int64Array]


def columns_of(given: Any, spaces: Sequence[str]) -> dict[str, Ids]:
    """What ``columns`` says, by what each is called.

    Raises:
        BadInput: it is of another type, names nothing, or a space that there is not.
    """
    if isinstance(given, str):
        given = [given]
    what = "a column's name, a list of them, or a dict: name -> Ids(...) or the name of a space"
    must(isinstance(given, Iterable) and not isinstance(given, bytes), "columns", given, what)
    named = dict(given) if isinstance(given, Mapping) else {name: Ids() for name in given}
    must(bool(named) and all(isinstance(name, str) and name for name in named), "columns", given, what)
    found = {}
    for name, how in named.items():
        must(isinstance(how, str | Ids), f"columns[{name!r}]", how, what)
        found[name] = _complete(name, Ids(space=how) if isinstance(how, str) else how, spaces)
    return found


def _complete(name: str, how: Ids, spaces: Sequence[str]) -> Ids:
    if how.space not in spaces and (how.space or len(spaces) > 1):
        known = ", ".join(map(repr, spaces))
        raise BadInput(
            f"The column {name!r} takes vectors of the space {how.space!r}; there are: {known}. Say which: "
            f"columns={{{name!r}: {spaces[0]!r}}}.{did_you_mean(how.space, spaces)}"
        )
    return replace(how, column=how.column or name, space=how.space or spaces[0])


def find(batch: Any, columns: Mapping[str, Ids], where: str) -> Found:
    """Read the ids of a batch, and take those of a space together, each once.

    Args:
        batch: a dict.
        columns: of ``columns_of``.
        where: which batch it is, for errors.

    Raises:
        InvalidRequest: it is no dict, lacks a column, has one called as what it is to be given, or there are no ids.
    """
    if not isinstance(batch, Mapping):
        raise InvalidRequest(
            f"{where} is of type {type(batch).__name__}; it must be a dict, column -> values. Have the loader make "
            f'dicts: DataLoader(..., collate_fn=...), or [{{"image_id": ids, "label": y}} for ids, y in loader].'
        )
    of_space: dict[str, dict[str, IdArray]] = {}
    for name, how in columns.items():
        for added in (name + VECTORS, name + OK):
            if added in batch:
                raise InvalidRequest(f"{where} has a column {added!r} already, which is what with_vectors would add.")
        offsets = _column(batch, how, how.offsets, where) if how.offsets else None
        ids = id_array(_column(batch, how, how.column, where), how.column, where, how.null, offsets)
        of_space.setdefault(how.space, {})[name] = ids
    keys: dict[str, Int64Array] = {}
    places: dict[str, Int64Array] = {}
    for space, arrays in of_space.items():
        keys[space], place = each_once(np.concatenate([ids.flat for ids in arrays.values()]))
        parts = np.split(place, np.cumsum([len(ids.flat) for ids in arrays.values()])[:-1])
        places |= {name: part.reshape(ids.shape) for part, (name, ids) in zip(parts, arrays.items(), strict=True)}
    return Found(keys, {name: places[name] for name in columns})


def _column(batch: Mapping[str, Any], how: Ids, name: str, where: str) -> Any:
    holder: Any = batch
    if how.within:
        holder, where = _entry(batch, how.within, where), f"{where}, in {how.within!r},"
    return _entry(holder, name, where)


def _entry(holder: Any, name: str, where: str) -> Any:
    """What a dict, or a KeyedJaggedTensor, holds under a name."""
    if not callable(getattr(holder, "keys", None)):
        raise InvalidRequest(f"{where} is of type {type(holder).__name__}, which holds no columns by name.")
    names = [str(key) for key in holder.keys()]  # noqa: SIM118  # a KeyedJaggedTensor is not iterable
    if name not in names:
        there = ", ".join(map(repr, names))
        raise InvalidRequest(f"{where} has no column {name!r}; there are: {there}.{did_you_mean(name, names)}")
    return holder[name]


def each_once(ids: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Ids, ascending, without -1, shape (K,); and the place of each given one among them, shape (n,), -1 for -1."""
    encoded = pa.array(ids).dictionary_encode()  # takes a tenth of the time of NumPy's sort
    unique, place = encoded.dictionary.to_numpy(), encoded.indices.to_numpy()
    order = np.argsort(unique)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    unique = unique[order]
    nulls = int(len(unique) > 0 and unique[0] == NULL_IMAGE)  # the least of all
    return unique[nulls:], rank[place] - nulls
