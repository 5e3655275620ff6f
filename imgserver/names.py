"""Names of images: the keys that a manifest gave ids to, and back. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgserver.disk import replacing
from imgserver.errors import BadInput, StoreError
from imgserver.keys import NULL_IMAGE, Column, full_keys, image_ids, is_text

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".avif"),
    *(".tif", ".tiff"),  # refused when they are opened: a shop's own pictures, which get an id and a reason
)
NAMES_FILE = "names.parquet"  # of a store: what the photos of its catalogue are called
ID, KEY = "image_id", "key"
MOST_DIGESTED = 1 << 16

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
        """Of a manifest, or of what a store keeps of one.

        Raises:
            BadInput: the file cannot be read, has no columns ``image_id`` and ``key``, or what is in them is none.
        """
        try:
            table = pq.read_table(path, columns=[ID, KEY])
            table[KEY].validate(full=True)
            where = str(path)
            return cls(image_ids(Column(table[ID], ID, where)), full_keys(Column(table[KEY], KEY, where)))
        except (pa.ArrowException, UnicodeDecodeError, OSError, KeyError) as error:
            raise BadInput(
                f"The names of images in {path} cannot be read: {error}. 'imgserver manifest' writes them, as columns "
                f"{ID} and {KEY}."
            ) from error

    @classmethod
    def of_store(cls, folder: Path) -> ImageNames | None:
        """Of the catalogue that a store was filled from; None where its photos are named after their ids.

        Raises:
            StoreError: the store's file is damaged.
        """
        path = folder / NAMES_FILE
        try:
            return cls.read(path) if path.exists() else None
        except BadInput as error:
            raise StoreError(
                f"What photos are called is damaged in {path}. Remove that file; 'imgserver precompute' over the "
                f"manifest writes it again."
            ) from error

    def digests(self) -> tuple[str, ...]:
        """Of the names of the first 1, 2, 4, … images by id, up to 65,536: see ``same_names``."""
        sha, found, size = hashlib.sha256(), [], 1
        first = min(len(self), MOST_DIGESTED)
        pairs = zip(self._ids[:first].tolist(), self._keys[:first].to_pylist(), strict=True)
        for number, (image_id, key) in enumerate(pairs, 1):
            sha.update(f"{image_id}\0{key}\0".encode())
            if number == size:
                found.append(sha.hexdigest()[:16])
                size *= 2
        return tuple(found)

    def keep(self, folder: Path) -> None:
        """Write them into a store, beside what it has of other catalogues; a key that changed counts.

        Raises:
            StoreError: the file cannot be written.
        """
        ids, keys = self._ids, self._keys
        if (before := ImageNames.of_store(folder)) is not None:
            if before._ids.shape == ids.shape and (before._ids == ids).all() and before._keys.equals(keys):
                return
            old = ~np.isin(before._ids, ids)
            ids = np.concatenate([ids, before._ids[old]])
            keys = pa.concat_arrays([keys, before._keys.filter(pa.array(old))])
        _write(folder, ids, keys)

    @staticmethod
    def forget(folder: Path, ids: Ids) -> None:
        """Take images out of a store's names, for they are called by their ids now.

        Raises:
            StoreError: the file cannot be written.
        """
        before = ImageNames.of_store(folder)
        if before is not None and (gone := np.isin(before._ids, ids)).any():
            _write(folder, before._ids[~gone], before._keys.filter(pa.array(~gone)))

    def find(self, names: Sequence[str] | pa.Array) -> Ids:
        """The id of each name, shape (n,); -1 where there is none.

        A name is a key, or a file name whose folder and suffix the manifest did not take: ``new/cat.jpg`` is ``cat``.
        """
        asked = pc.cast(names if isinstance(names, pa.Array) else pa.array(names, pa.large_string()), pa.large_string())
        place = pc.index_in(asked, value_set=self._keys)
        if place.null_count:
            suffixes = "|".join(suffix[1:] for suffix in PHOTO_SUFFIXES)
            short = pc.replace_substring_regex(asked, r"^.*/", "")
            short = pc.replace_substring_regex(short, rf"(?i)\.({suffixes})$", "")
            place = pc.coalesce(place, pc.index_in(short, value_set=self._keys))
        found: Ids = np.append(self._ids, NULL_IMAGE)[np.asarray(pc.fill_null(place, -1))]
        return found

    def ids(self, names: Sequence[str] | pa.Array) -> Ids:
        """The id of each name, shape (n,), as ``find``.

        Raises:
            BadInput: one of them is no name of an image.
        """
        found = self.find(names)
        if len(absent := np.flatnonzero(found < 0)):
            first = names[int(absent[0])]
            raise BadInput(
                f"{len(absent)} of {len(found)} names are no image's; the first is {str(first)!r}. If its photo is "
                f"new, run 'imgserver manifest' and 'imgserver precompute' again."
            )
        return found

    def keys(self, ids: Sequence[int] | Ids) -> list[str]:
        """The key of each id; an id that has none as text."""
        asked = np.asarray(ids, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._ids, asked), max(len(self._ids) - 1, 0))
        there = self._ids[place] == asked if len(self._ids) else np.zeros(len(asked), dtype=np.bool_)
        known = iter(self._keys.take(pa.array(place[there])).to_pylist())
        return [next(known) if found else str(i) for i, found in zip(asked.tolist(), there.tolist(), strict=True)]


def changed_at(folder: Path) -> int:
    """When what a store keeps of names was written, in nanoseconds; 0 where it keeps none."""
    try:
        return (folder / NAMES_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def same_names(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether digests are those of manifests of which one may have grown out of the other; nothing agrees with all."""
    common = min(len(one), len(other))
    return not common or one[common - 1] == other[common - 1]


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
    return np.where(found < 0, image_ids(replace(column, values=others), hint), found)
