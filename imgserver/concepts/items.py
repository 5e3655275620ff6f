"""What a catalogue says of its photos: values of columns, words of texts, selling points, and groups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.catalogue.texts import TextTable, ids_of_keys
from crossmedia.imgserver.storage.records import Ids
from crossmedia.keys import NULL_IMAGE, Column, keys, texts
from crossmedia.list_cells import entries_of
from crossmedia.names import ImageNames

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

POINT = "point"  # the column of a file of selling points, beside that of the key
WORD = re.compile(r"[^\W\d_]{3,}")  # letters, three at least
MOST_SHARE = 0.5  # of the photos: what more of them have tells them apart by what they lack


@dataclass(frozen=True)
class Trait:
    """What some photos of a catalogue have.

    Attributes:
        kind: ``point`` or ``probe``, as of ``Concept``.
        source: its column; empty for a point.
        value: of the column, a word of it, or the name of a point.
        word: whether it is a word of a text.
    """

    kind: str
    source: str
    value: str
    word: bool = False

    @property
    def name(self) -> str:
        """What people call it, until somebody finds a better name."""
        if self.kind == "point":
            return self.value
        return f"{self.source}: {self.value}" if self.word else f"{self.source}={self.value}"


@dataclass(frozen=True)
class ItemTable(TextTable):
    """A table of items, and which of its columns say something of their photos.

    Attributes:
        text: the column of words; empty: none.
        columns: of values, one a cell.
        group: the column whose value photos of one product share; empty: each photo is its own.
    """

    called: ClassVar[str] = "items"

    text: str = ""
    columns_of_values: tuple[str, ...] = ()
    group: str = ""

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """The columns that are read, and the option that names each."""
        found = [("--key", self.key), *(("--columns", name) for name in self.columns_of_values)]
        found += [(option, name) for option, name in (("--text", self.text), ("--group", self.group)) if name]
        return tuple(found)


@dataclass(frozen=True)
class PointTable(TextTable):
    """A table of selling points by examples: photos, and what each is an example of."""

    called: ClassVar[str] = "selling points"

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """The columns that are read, and the option that names each."""
        return ("--key", self.key), ("--points", self.text)


@dataclass(frozen=True)
class Items:
    """What is known of n photos, in their order.

    Attributes:
        ids: of the photos, ascending, shape (n,).
        groups: a number of the group of each, shape (n,).
        traits: what they have, each once.
        rows: of each trait the places of the photos that have it, ascending.
    """

    ids: Ids
    groups: Places
    traits: tuple[Trait, ...]
    rows: tuple[Places, ...]
    passed_over: tuple[str, ...] = field(default=())

    def flags(self, chosen: Sequence[int]) -> Flags:
        """Which photos have each of some traits, shape (n, V)."""
        found = np.zeros((len(self.ids), len(chosen)), dtype=np.bool_)
        for column, place in enumerate(chosen):
            found[self.rows[place], column] = True
        return found

    def only(self, kept: Flags) -> Items:
        """The same of some photos; ``kept`` has the shape (n,)."""
        place = np.cumsum(kept) - 1
        rows = tuple(place[rows[kept[rows]]] for rows in self.rows)
        groups = np.unique(self.groups[kept], return_inverse=True)[1]
        return Items(self.ids[kept], groups, self.traits, rows, self.passed_over)


def read_items(table: ItemTable, names: ImageNames | None, photos: Ids, points: Path | None = None) -> Items:
    """What a table and a file of selling points say of photos; rows of one photo add up.

    Args:
        table: of the items.
        names: what photos are called; None: by their ids.
        photos: that there are, ascending.
        points: CSV or Parquet with the key's column and one called ``point``: a photo a row that is an example of it.

    Raises:
        BadInput: a file cannot be read, lacks a column, or says nothing of any photo; or nothing was asked for.
    """
    if not table.columns_of_values and not table.text and points is None:
        raise BadInput("Name what photos may have: --columns, --text or --points.")
    content = table.columns()
    row, place, passed = _rows_of_photos(Column(content[table.key], table.key, table.path), names, photos)
    if not len(row):
        raise BadInput(
            f"None of the {len(photos)} photos of the store is in the column {table.key!r} of {table.path}; --key "
            f"names the column with their ids or keys."
        )
    said: dict[Trait, set[int]] = {}
    for name in table.columns_of_values:
        cells = keys(Column(content[name], name, table.path)).take(pa.array(row)).to_pylist()
        _note(said, ((Trait("probe", name, cell), at) for at, cell in zip(place.tolist(), cells, strict=True) if cell))
    if table.text:
        found = texts(Column(content[table.text], table.text, table.path)).take(pa.array(row)).to_pylist()
        for at, text in zip(place.tolist(), found, strict=True):
            _note(said, ((Trait("probe", table.text, word, True), at) for word in words_of(text or "")))
    known = np.zeros(len(photos), dtype=np.bool_)
    known[place] = True
    if points is not None:
        examples, lost = _points(points, table, names, photos, known)
        _note(said, examples)
        passed += lost
    empty = [name for name in (*table.columns_of_values, table.text) if name and name not in {t.source for t in said}]
    passed += tuple(f"the column {name!r} of {table.path} says nothing of the photos that there are" for name in empty)
    groups = _groups(content, table, row, place, len(photos))
    ordered = sorted(said, key=lambda trait: (trait.kind, trait.word, trait.source, -len(said[trait]), trait.value))
    rows = tuple(np.array(sorted(said[trait]), dtype=np.int64) for trait in ordered)
    return Items(photos, groups, tuple(ordered), rows, passed).only(known)


def words_of(text: str) -> set[str]:
    """The words of a text, in lower case, each once."""
    return set(WORD.findall(text.lower()))


def common_enough(items: Items, least: int, least_points: int) -> list[int]:
    """Traits that at least so many photos have, and at least as many have not; words not of most photos.

    Args:
        items: what there is.
        least: photos of a value or a word.
        least_points: photos of a selling point.
    """
    found = []
    for place, (trait, rows) in enumerate(zip(items.traits, items.rows, strict=True)):
        floor = least_points if trait.kind == "point" else least
        most = MOST_SHARE * len(items.ids) if trait.word else len(items.ids) - floor
        if floor <= len(rows) <= most and len(np.unique(items.groups[rows])) > 1:
            found.append(place)
    return found


def _rows_of_photos(column: Column, names: ImageNames | None, photos: Ids) -> tuple[Places, Places, tuple[str, ...]]:
    """Rows of a table that name photos that there are, the places of these, and sentences on rows that name none.

    A cell may be a list of photos. An empty one, and -1, is an item without a photo.
    """
    cells = entries_of(column)
    named = keys(cells)
    if names is None:
        named = pc.if_else(pc.equal(named, str(NULL_IMAGE)), None, named)
    filled = np.asarray(pc.is_valid(named))
    none = len(column.values) - len(np.unique(cells.parents[filled]))
    passed = (f"passed over {none} of {len(column.values)} rows of {column.where} without a photo",) if none else ()
    if not filled.any():
        raise BadInput(f"The column {column.name!r} of {column.where} names no photo in any of its rows.")
    cells = cells.only(filled)
    ids, unknown = ids_of_keys(cells, names)
    place = np.searchsorted(photos, ids)
    place[place == len(photos)] = 0
    there = np.flatnonzero((photos[place] == ids) & (ids != NULL_IMAGE)) if len(photos) else np.zeros(0, np.int64)
    known, stored = (len(np.unique(cells.parents[of])) for of in (ids != NULL_IMAGE, there))
    if stored < known:
        count = f"{known - stored} of {len(column.values)} rows of {column.where}"
        unknown = (*unknown, f"passed over {count} with photos that the store does not hold")
    return cells.parents[there], place[there], (*passed, *unknown)


def _note(said: dict[Trait, set[int]], found: Iterable[tuple[Trait, int]]) -> None:
    for trait, place in found:
        said.setdefault(trait, set()).add(place)


def _points(
    file: Path, table: ItemTable, names: ImageNames | None, photos: Ids, known: Flags
) -> tuple[list[tuple[Trait, int]], tuple[str, ...]]:
    """Examples of selling points, and sentences on those that nothing can be learnt from.

    Args:
        file: that names them.
        table: of the items, whose key it shares.
        names: what photos are called; None: by their ids.
        photos: that there are, ascending, shape (n,).
        known: which of them the table of the items has, shape (n,).

    Raises:
        BadInput: the file cannot be read, names no point, or a point has no example among the photos.
    """
    content = PointTable(str(file), POINT, table.key).columns()
    row, place, passed = _rows_of_photos(Column(content[table.key], table.key, str(file)), names, photos)
    called = [name.strip() if name else "" for name in texts(Column(content[POINT], POINT, str(file))).to_pylist()]
    if not any(called):
        raise BadInput(f"The column {POINT!r} of {file} names no selling point in any of its rows.")
    found = [(Trait("point", "", called[at]), spot) for at, spot in zip(row.tolist(), place.tolist(), strict=True)]
    lost = Counter(filter(None, called)).keys() - {trait.value for trait, _ in found}
    if lost:
        raise BadInput(f"The selling point {min(lost)!r} of {file} has no example that is a photo of the store.")
    strange = len({at for at, spot in zip(row.tolist(), place.tolist(), strict=True) if called[at] and not known[spot]})
    if strange:
        passed += (
            f"passed over {strange} of {len(called)} rows of {file} with photos that {table.path} has no row of",
        )
    return [(trait, spot) for trait, spot in found if trait.value], passed


def _groups(content: pa.Table, table: ItemTable, row: Places, place: Places, n: int) -> Places:
    """A number of the group of each photo, shape (n,): photos of one row, or of one value of the column of groups."""
    joined = row
    if table.group:
        cells = keys(Column(content[table.group], table.group, table.path))
        number = np.asarray(pc.fill_null(cells.dictionary_encode().indices, -1)).astype(np.int64)[row]
        joined = np.where(number < 0, row, len(content) + number)
    nodes = n + int(joined.max(initial=0)) + 1
    links = coo_array((np.ones(len(row), dtype=np.int8), (place, n + joined)), shape=(nodes, nodes))
    found: Places = connected_components(links, directed=False)[1][:n].astype(np.int64)
    return found
