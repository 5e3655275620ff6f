"""Names of images: from the keys of a manifest to image ids, and back. It imports nothing heavy."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, StoreError
from crossmedia.forms import Near, bare, meant, near_in_words, nearly
from crossmedia.keys import NULL_IMAGE, Column, as_image_id, column_of, full_image_ids, image_ids, is_text
from crossmedia.keys import keys as keys_of
from crossmedia.looks import file_in_words
from crossmedia.spelling import as_numbers, may_spell

NAMES_FILE = "names.parquet"  # of a store: what the photos of its catalogue are called
ID, KEY = "image_id", "key"
MOST_DIGESTED = 1 << 16
log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]


class ImageNames:
    """Which image id belongs to which key.

    Args:
        ids: shape (n,), each once.
        keys: strings, shape (n,).
    """

    def __init__(self, ids: Ids, keys: pa.Array):
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._keys = pc.cast(keys, pa.large_string()).take(pa.array(order))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def first(self) -> str:
        """The key of the lowest id, as an example; empty where there is none."""
        return str(self._keys[0]) if len(self) else ""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ImageNames:
        """Read the names of a manifest.

        Raises:
            BadInput: the file cannot be read, has no columns ``image_id`` and ``key``, a cell of them is empty or none,
                or an id or a key is there twice.
        """
        ids, keys = _columns(path)
        refuse_twice(Column(pa.array(ids), ID, str(path)), Column(keys, KEY, str(path)))
        return cls(ids, keys)

    @classmethod
    def of_store(cls, folder: Path) -> ImageNames | None:
        """Names of the catalogue that a store was filled from; None if its photos are named after their ids.

        Raises:
            StoreError: the store's file is damaged.
        """
        path = folder / NAMES_FILE
        try:
            return cls(*_columns(path)) if path.exists() else None
        except BadInput as error:
            raise StoreError(
                f"The names of photos are damaged in {path}. Remove that file; 'imgserver precompute' over the "
                f"manifest writes it again."
            ) from error

    def digests(self) -> tuple[str, ...]:
        """Digests of the names of the first 1, 2, 4, … images by id, up to 65,536: see ``same_names``."""
        sha, found, size = hashlib.sha256(), [], 1
        first = min(len(self), MOST_DIGESTED)
        pairs = zip(self._ids[:first].tolist(), self._keys[:first].to_pylist(), strict=True)
        for number, (image_id, key) in enumerate(pairs, 1):
            sha.update(f"{image_id}\0{key}\0".encode())
            if number == size:
                found.append(sha.hexdigest()[:16])
                size *= 2
        return tuple(found)

    def over(self, before: ImageNames | None) -> ImageNames:
        """These names and those of other catalogues; for a key or an id that is in both, these count."""
        if before is None:
            return self
        old = ~(np.isin(before._ids, self._ids) | np.asarray(pc.is_in(before._keys, value_set=self._keys)))
        return ImageNames(
            np.concatenate([self._ids, before._ids[old]]),
            pa.concat_arrays([self._keys, before._keys.filter(pa.array(old))]),
        )

    def keep(self, folder: Path) -> None:
        """Write them into a store, beside its names of other catalogues; a changed key replaces the old one.

        Raises:
            StoreError: the file cannot be written.
        """
        before = ImageNames.of_store(folder)
        every = self.over(before)
        if before is None or not (np.array_equal(before._ids, every._ids) and before._keys.equals(every._keys)):
            _write(folder, every._ids, every._keys)

    @staticmethod
    def forget(folder: Path, ids: Ids) -> None:
        """Take images out of a store's names, because they now go by their ids.

        Raises:
            StoreError: the file cannot be written.
        """
        before = ImageNames.of_store(folder)
        if before is not None and (gone := np.isin(before._ids, ids)).any():
            _write(folder, before._ids[~gone], before._keys.filter(pa.array(~gone)))

    def named(self, names: Sequence[str] | pa.Array) -> Ids:
        """The id of each name, shape (n,); -1 where there is none.

        A name is a key as it is spelled, or a file name whose folder and suffix the manifest did not take, or such an
        address, whose query it did not take either: ``new/cat.jpg`` and ``https://cdn/cat.jpg?w=9`` are ``cat``, and
        ``3.0.jpg`` is ``3.0`` and never ``3``.
        """
        return self._ids_at(self._places(_texts(names)))

    def find(self, names: Sequence[str] | pa.Array) -> Ids:
        """The id of each name, shape (n,); -1 where there is none.

        As ``named``; and a word that is no name but spells a number is the key of that number, as tables and logs are
        read: ``3`` is ``3.0`` and the other way round, unless several keys are that number.
        """
        asked = _texts(names)
        place = self._places(asked)
        if place.null_count:
            numbers = as_numbers(asked)
            forms, rows = self._spelled
            place = pc.coalesce(place, pc.index_in(numbers, value_set=self._keys))
            place = pc.coalesce(place, rows.take(pc.index_in(numbers, value_set=forms)))
        return self._ids_at(place)

    def with_text(self, text: str) -> Ids:
        """The ids, shape (n,), whose key has a text in it, in whatever letter case."""
        return np.asarray(self._ids[np.asarray(pc.match_substring(self._keys, text, ignore_case=True))])

    def near(self, absent: pa.Array) -> list[Near]:
        """Which names that ``find`` has no id of are keys in another form."""
        return nearly(_texts(absent), self._keys, bare)

    def _places(self, asked: pa.Array) -> pa.Array:
        place = pc.index_in(asked, value_set=self._keys)
        if place.null_count:
            place = pc.coalesce(place, pc.index_in(bare(asked), value_set=self._keys))
        return place

    def _ids_at(self, place: pa.Array) -> Ids:
        found: Ids = np.append(self._ids, NULL_IMAGE)[np.asarray(pc.fill_null(place, -1))]
        return found

    @cached_property
    def _spelled(self) -> tuple[pa.Array, pa.Array]:
        """Numbers that exactly one key spells in another way, and where that key stands."""
        rows = pc.cast(pc.indices_nonzero(may_spell(self._keys)), pa.int32())
        words = self._keys.take(rows)
        numbers = as_numbers(words)
        counts = pc.value_counts(numbers)
        once = counts.field("values").filter(pc.equal(counts.field("counts"), 1))
        other = pc.and_(pc.is_in(numbers, value_set=once), pc.not_equal(numbers, words))
        return numbers.filter(other), rows.filter(other)

    def ids(self, names: Sequence[str] | pa.Array) -> Ids:
        """The id of each name, shape (n,), as ``find``.

        Raises:
            BadInput: one of them is no name of an image.
        """
        asked = _texts(names)
        found = self.find(asked)
        if len(absent := np.flatnonzero(found < 0)):
            first = asked[int(absent[0])].as_py()
            near = near_in_words(self.near(asked.take(pa.array(absent))), len(absent)) or self.meant(first)
            new = " If its photo is new, run 'imgserver manifest' and 'imgserver precompute' again."
            raise BadInput(
                f"{len(absent)} of {len(found)} names belong to no image; the first is {first!r}.{near}{new}"
            )
        return found

    def meant(self, name: str) -> str:
        """`` Did you mean 'cat'?`` behind a name that is no image's; empty where no key is near it."""
        return meant(bare(pa.array([name], pa.large_string()))[0].as_py(), self._keys)

    def keys(self, ids: Sequence[int] | Ids) -> list[str]:
        """The key of each id; if an id has no key, the id as text."""
        asked = np.asarray(ids, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._ids, asked), max(len(self._ids) - 1, 0))
        there = self._ids[place] == asked if len(self._ids) else np.zeros(len(asked), dtype=np.bool_)
        known = iter(self._keys.take(pa.array(place[there])).to_pylist())
        return [next(known) if found else str(i) for i, found in zip(asked.tolist(), there.tolist(), strict=True)]


def changed_at(folder: Path) -> int:
    """When the names in a store were written, in nanoseconds; 0 if it has none."""
    try:
        return (folder / NAMES_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def digests_of_store(folder: Path) -> tuple[str, ...]:
    """``ImageNames.digests`` of the names in a store, reading no more than needed; empty if they are damaged.

    Vectors are served without names: whoever needs names says that they are damaged.
    """
    try:
        with pq.ParquetFile(folder / NAMES_FILE) as file:
            for batch in file.iter_batches(MOST_DIGESTED, columns=[ID, KEY]):
                return ImageNames(np.asarray(batch[ID]), batch[KEY]).digests()
    except (pa.ArrowException, UnicodeDecodeError, ValueError, OSError, KeyError, NotImplementedError) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("the names of photos cannot be read in %s: %s", folder / NAMES_FILE, error)
    return ()


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two manifests with these digests may be the same, or one grown from the other; no digests match any."""
    common = min(len(one), len(other))
    return not common or one[common - 1] == other[common - 1]


def texts_of(column: Column) -> pa.Array:
    """A column of keys as ``large_string``, spelled as given: ``3.0`` and ``nan`` are names of photos too.

    Raises:
        BadInput: a cell is empty, it is of a type that names nothing, or holds bytes that are no text.
    """
    values = column.values.combine_chunks() if isinstance(column.values, pa.ChunkedArray) else column.values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        text = pc.cast(values if is_text(values.type) else keys_of(column), pa.large_string())
        text.validate(full=True)  # a damaged file may hold bytes that are no text
    except pa.ArrowException as error:
        raise BadInput(f"The column {column.name!r} of {column.where} cannot be read: {error}.") from error
    if text.null_count:
        raise BadInput(
            f"The column {column.name!r} of {column.where} is empty in row {column.row(pc.is_null(text))}; every image "
            f"needs a key."
        )
    return text


def refuse_twice(ids: Column, beside: Column) -> None:
    """Check that each row of a manifest stands for an image of its own.

    Args:
        ids: image ids.
        beside: what the images are called, or where they are; keys are each there once, too.

    Raises:
        BadInput: an id or a key is there twice; the message names the rows.
    """
    _once(ids, beside)
    if beside.name == KEY:
        _once(beside, ids)


def _once(column: Column, other: Column) -> None:
    if pc.count_distinct(column.values).as_py() == len(column.values):
        return
    counts = pc.value_counts(column.values)
    value = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0]
    first, second = np.flatnonzero(np.asarray(pc.equal(column.values, value)))[:2].tolist()
    raise BadInput(
        f"The {column.name} {value.as_py()!r} of {column.where} is there twice, in row {first + 1} ({other.name} "
        f"{other.values[first].as_py()!r}) and in row {second + 1} ({other.name} {other.values[second].as_py()!r}). "
        f"Remove one of them, or write a new manifest with 'imgserver manifest'."
    )


def _columns(path: str | os.PathLike[str]) -> tuple[Ids, pa.Array]:
    """The ids and the keys of a file, shape (n,) each."""
    where = os.fspath(path)
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in (ID, KEY) if name not in file.schema_arrow.names]:
                raise BadInput(
                    f"The names of images in {where} cannot be read: it has no column {' and no column '.join(missing)}"
                    f"; its columns are: {', '.join(file.schema_arrow.names)}. 'imgserver manifest' writes them."
                )
            table = file.read(columns=[ID, KEY])
    except (pa.ArrowException, UnicodeDecodeError, OSError, KeyError) as error:
        what = file_in_words(where) or f": {error}"
        raise BadInput(
            f"The names of images in {where} cannot be read{what}. 'imgserver manifest' writes them, a Parquet "
            f"file with the columns {ID} and {KEY}."
        ) from error
    return full_image_ids(Column(table[ID], ID, where)), texts_of(Column(table[KEY], KEY, where))


def _texts(names: Any) -> pa.Array:
    """The names that are asked for, one or several, as ``large_string``.

    Raises:
        BadInput: they are no text and no numbers.
    """
    column = column_of([names] if isinstance(names, str) else names, "names", "the call")
    values = column.values.combine_chunks() if isinstance(column.values, pa.ChunkedArray) else column.values
    return pc.cast(values if is_text(values.type) else keys_of(column), pa.large_string())


def _write(folder: Path, ids: Ids, keys: pa.Array) -> None:
    if not len(ids):
        (folder / NAMES_FILE).unlink(missing_ok=True)
        return
    order = np.argsort(ids, kind="stable")
    with replacing(folder / NAMES_FILE) as part:
        pq.write_table(pa.table({ID: ids[order], KEY: keys.take(pa.array(order))}), part, compression="zstd")


def ids_or_keys(column: Column, names: ImageNames | None, hint: str = "") -> Ids:
    """A column as image ids, shape (n,); -1 where a cell is empty.

    Args:
        column: ids, or keys. A cell that is a key is that image, though it is a number as well.
        names: what images are called; None: by their ids.
        hint: as of ``image_ids``.

    Raises:
        BadInput: a cell is no image id and no key; the message names it.
    """
    column = column.plain()
    if names is None or not is_text(column.values.type):
        return image_ids(column, hint)
    found = names.find(column.values)
    others = pc.if_else(pa.array(found < 0), column.values, pa.scalar(None, column.values.type))
    try:
        return np.where(found < 0, image_ids(replace(column, values=others), hint), found)
    except BadInput as error:
        first = next(word for word in others.drop_null().to_pylist() if as_image_id(word) is None)
        raise BadInput(f"{error}{names.meant(first)}") from None
