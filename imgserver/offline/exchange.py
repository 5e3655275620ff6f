"""Vectors of others, from files into the store; ``offline.export`` is the way out."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.records import SOURCE, Ids, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import leave_snapshot
from crossmedia.imgserver.storage.versions import VECTOR_DTYPE, vector_space
from crossmedia.keys import NULL_IMAGE, Column
from crossmedia.looks import file_in_words
from crossmedia.names import ImageNames, ids_or_keys, texts_of
from crossmedia.status import Status
from crossmedia.version import IMPORTED, Version, hashed

BLOCK = 65_536
Vectors = npt.NDArray[np.float16]


@dataclass(frozen=True)
class ImportReport:
    """What ``import_vectors`` did; ``added`` were not there before, ``mean_square`` is of all numbers of the file."""

    version: str
    images: int
    added: int
    dim: int
    mean_square: float
    seconds: float


@dataclass(frozen=True)
class KnownImages:
    """What images are called, when vectors come in.

    Attributes:
        given: by a manifest that somebody names; a column ``key`` is read by it, and ``image_id`` beside it is not.
        known: names by the manifest and by the store; None: images are called by their ids.
    """

    given: ImageNames | None = None
    known: ImageNames | None = None


@dataclass(frozen=True)
class NewVectors:
    """Vectors of a file that were read and found right; ``check_vectors`` makes them.

    Attributes:
        version: that they become.
        images: how many there are.
        mean_square: of their numbers.
        blocks: reads them as often as it is called: ids and vectors as they are stored, a block at a time.
        passed_over: whether an ``image_id`` was not read, for keys of a manifest count.
    """

    version: Version
    images: int
    mean_square: float
    blocks: Callable[[], Iterator[tuple[Ids, Vectors]]]
    passed_over: bool


def check_vectors(path: Path, name: str, images: KnownImages | None = None) -> NewVectors:
    """Look at vectors that another net made, before a store is touched.

    The version's hash covers ids and vectors, so another file is another version.

    Args:
        path: a Parquet file, or a folder of them: ``image_id`` (or ``id``, ``key``), whole numbers or names, and
            ``vector`` (or ``embedding``), lists of floats of one length.
        name: of the net.
        images: what images are called; None: by their ids.

    Raises:
        BadInput: the name or the file is wrong; the message says which row.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise BadInput(f"The name {name!r} may hold letters, digits, '.', '_' and '-' only.")
    source, passed_over = _open_vectors(path, images or KnownImages())
    sha, seen, dim, squares = hashlib.sha256(), [np.zeros(0, dtype=np.int64)], 0, 0.0
    for ids, values in source():
        if dim and values.shape[1] != dim:
            raise BadInput(f"{path} holds vectors of {dim} and of {values.shape[1]} numbers; all need one length.")
        dim = values.shape[1]
        sha.update(ids.tobytes() + values.tobytes())
        seen.append(ids)
        squares += float(np.square(values, dtype=np.float32).sum(dtype=np.float64))
    every = np.sort(np.concatenate(seen))
    if not len(every):
        raise BadInput(f"{path} holds no vectors.")
    if len(twice := np.flatnonzero(every[1:] == every[:-1])):
        raise BadInput(f"Image id {every[twice[0]]} is in {path} twice; which vector should count?")
    version = Version(hashed(name, sha.hexdigest()), IMPORTED, dim=dim)
    return NewVectors(version, len(every), squares / (len(every) * dim), source, passed_over)


def import_vectors(store: Store, vectors: NewVectors, *, activate: bool = True) -> ImportReport:
    """Store vectors as a version of their own; those that are there already add nothing.

    Args:
        store: where they go.
        vectors: of ``check_vectors``.
        activate: serve them to who names no version.
    """
    started = time.monotonic()
    space = vector_space(store, vectors.version)
    added = 0
    for ids, values in vectors.blocks():
        new = ~store.index.get(space.name, ids)[1]  # the hash vouches for rows of an import that was killed
        if new.any():
            ok, nowhere = np.full(len(ids), Status.OK, dtype=np.uint8), np.zeros(len(ids), dtype=SOURCE)
            store.put(Rows(space, ids, ok, nowhere, values)[new])
            added += int(new.sum())
    leave_snapshot(store, space)
    if activate:
        store.index.activate(space.name)
    seconds = time.monotonic() - started
    return ImportReport(space.name, vectors.images, added, space.dim, vectors.mean_square, seconds)


def _open_vectors(path: Path, images: KnownImages) -> tuple[Callable[[], Iterator[tuple[Ids, Vectors]]], bool]:
    """What reads the file, and whether its ``image_id`` is passed over."""
    try:
        data = ds.dataset(path, format="parquet")
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"The vectors {path} cannot be read{_reason(path, error)}.") from error
    names = data.schema.names
    order = ("key", "image_id", "id") if images.given is not None else ("image_id", "id", "key")
    key = next((n for n in order if n in names), None)
    column = next((n for n in ("vector", "embedding") if n in names), None)
    if key is None or column is None:
        raise BadInput(f"{path} needs the columns image_id and vector; its columns are: {', '.join(names)}.")
    beside = ["key"] if key != "key" and "key" in names and images.known is not None else []

    def blocks() -> Iterator[tuple[Ids, Vectors]]:
        first = 0
        try:
            for batch in data.to_batches(columns=[key, column, *beside], batch_size=BLOCK):
                if len(batch):
                    yield _block(batch, Column(batch.column(0), key, str(path), first), images)
                first += len(batch)
        except pa.ArrowException as error:
            raise BadInput(f"The vectors {path} cannot be read: {error}.") from error

    return blocks, key == "key" and not {"image_id", "id"}.isdisjoint(names)


def _reason(path: Path, error: Exception) -> str:
    """Why a file, or the first of a folder that is no Parquet file, cannot be read."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.name.startswith((".", "_")) and file.is_file() and (what := file_in_words(file)):
            return f"{f': {file} is no Parquet file' if file != path else ''}{what}; vectors come as Parquet files"
    return f": {error}"


def _ids(batch: pa.RecordBatch, keys: Column, images: KnownImages) -> Ids:
    """Image ids of a block."""
    if keys.name == "key" and images.given is not None:
        ids = images.given.find(texts_of(keys))
        if (none := ids == NULL_IMAGE).any():
            raise keys.wrong(none, "which is no key of the manifest")
        return ids
    ids = ids_or_keys(keys, images.known, "; 'imgserver manifest' gives numbers to names: import with --manifest FILE")
    if (none := ids == NULL_IMAGE).any():
        raise BadInput(
            f"The column {keys.name!r} of {keys.where} is empty in row {keys.row(none)}, or holds NaN or -1; every row "
            f"needs an image id."
        )
    if images.known is not None and batch.num_columns > 2:
        beside = replace(keys, values=batch.column(2), name="key")
        found = images.known.find(batch.column(2))
        if (other := (found != NULL_IMAGE) & (found != ids)).any():
            row = int(np.argmax(other))
            raise beside.wrong(
                other,
                f"that is image {found[row]} of this store, and {keys.name} says {ids[row]}. Leave out one of the "
                f"columns, or say with --manifest FILE what keys mean",
            )
    return ids


def _block(batch: pa.RecordBatch, keys: Column, images: KnownImages) -> tuple[Ids, Vectors]:
    lists, first, path = batch.column(1), keys.first_row, keys.where
    if not (
        pa.types.is_fixed_size_list(lists.type) or pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)
    ) or not pa.types.is_floating(lists.type.value_type):
        raise BadInput(f"The vectors of {path} are of type {lists.type}; they must be lists of floats.")
    ids = _ids(batch, keys, images)
    if lists.null_count:
        raise BadInput(f"Row {keys.row(lists.is_null())} of {path} has an empty cell; every row needs a vector.")
    lengths = np.asarray(lists.value_lengths())
    if not lengths[0]:
        raise BadInput(f"The vector in row {first + 1} of {path} is empty.")
    if (lengths != lengths[0]).any():
        row = first + int(np.argmax(lengths != lengths[0])) + 1
        raise BadInput(f"The vector in row {row} of {path} has {lengths[row - first - 1]} numbers, not {lengths[0]}.")
    values = np.asarray(lists.flatten()).reshape(len(ids), int(lengths[0]))
    with np.errstate(over="ignore"):
        stored: Vectors = values.astype(VECTOR_DTYPE)
    bad = np.asarray(~np.isfinite(stored).all(axis=1))
    gone = np.asarray(np.any(values != 0, axis=1) & np.all(stored == 0, axis=1))
    if bad.any() or gone.any():
        row = int(np.argmax(bad | gone))
        if bad[row]:
            what = f"holds a number that float16 cannot: {values[row][~np.isfinite(stored[row])][0]}"
        else:
            what = (
                f"has numbers too small for float16, such as {values[row][values[row] != 0][0]}, and would be all zeros"
            )
        raise BadInput(
            f"The vector in row {first + row + 1} of {path} (image {ids[row]}) {what}. Scale the vectors, best to a "
            f"mean square of 1."
        )
    return ids, stored
