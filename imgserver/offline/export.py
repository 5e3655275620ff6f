"""Vectors as files, for others: all of a version, or what changed since an export.

An export names the point of the store's log of changes that it is of. What changed since is asked for by that name.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, StoreError
from crossmedia.imgserver.storage.changes import KEEP_CHANGES
from crossmedia.imgserver.storage.checksums import Mask
from crossmedia.imgserver.storage.records import Entries, Ids, Space, places_in
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import held
from crossmedia.names import ImageNames
from crossmedia.status import is_ok

log = logging.getLogger(__name__)

BLOCK = 65_536
VERSION_KEY, GENERATION_KEY = b"crossmedia.version", b"crossmedia.generation"
POINT_KEY, SINCE_KEY = b"crossmedia.point", b"crossmedia.since"


@dataclass(frozen=True)
class ExportReport:
    """What ``export_vectors`` wrote.

    Attributes:
        version: of the vectors.
        images: how many have a vector in the file.
        dim: numbers of a vector.
        generation: of the store.
        point: what ``since`` of the next export takes; empty where the store could not keep one.
        since: the point that this export begins at; empty: it has everything.
        removed: images in the file that have no vector any more; 0 where it has everything.
        files: that were written.
        seconds: that it took.
    """

    version: str
    images: int
    dim: int
    generation: int
    point: str
    since: str
    removed: int
    files: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Contents:
    """What a file will hold: images, ascending, shape (n,), and the entries of those that have a vector.

    Attributes:
        space: of the version.
        ids: shape (n,).
        there: which of them have a vector, shape (n,).
        entries: of these alone.
        generation: of the store.
        point: what the file is of.
        since: where it begins; empty: it has everything.
    """

    space: Space
    ids: Ids
    there: Mask
    entries: Entries
    generation: int
    point: str = ""
    since: str = ""


def export_vectors(store: Store, out: Path, version: str = "", since: str = "") -> ExportReport:
    """Write the vectors of a version, sorted by image id: all of them, or those that changed.

    Args:
        store: where they are.
        out: ``.parquet``: image_id int64, vector fixed_size_list<float16>, and key where the store knows what images
            are called; version, generation, point and since in the metadata;
            or ``.npy``: a matrix, shape (n, dim), the ids in ``<name>.ids.npy``, the rest in ``<name>.json``,
            which is not there while the others are replaced.
        version: the active one when it is empty.
        since: the point of an earlier export of this version. Images that were added or replaced after it are written,
            and those that have no vector any more with a null in its place. An image may be among them that is what it
            was; none that changed is left out. Empty: all images that have a vector.

    Raises:
        NotReady: no version is named, and none is active.
        BadInput: the store has no such version, or ``out`` is of another kind, or the store does not know what changed
            since that point.
        StoreError: a row is damaged.
    """
    started = time.monotonic()
    space = held(store, version, "vector")
    write = {".parquet": _write_parquet, ".npy": _write_npy}.get(out.suffix)
    if write is None:
        raise BadInput(f"The file {out} must end in .parquet or .npy.")
    if since and write is _write_npy:
        raise BadInput(f"A matrix cannot say which images were removed: with --since, {out} must end in .parquet.")
    generation = store.index.generation  # before the entries: a later one would hide what is replaced meanwhile
    ids, entries, sequence = store.index.load(space.name)
    ok = is_ok(entries["status"])
    ids, entries = ids[ok], entries[ok]
    contents = _Contents(space, ids, np.ones(len(ids), dtype=np.bool_), entries, generation)
    if since:
        changed = _changed(store, space, since)
        place, there = places_in(ids, changed)
        contents = replace(contents, ids=changed, there=there, entries=entries[place[there]], since=since)
    contents = replace(contents, point=_point(store, space, sequence))
    files = write(store, contents, out)
    images = len(contents.entries)
    removed = len(contents.ids) - images
    told = (space.name, images, space.dim, generation, contents.point, since, removed)
    return ExportReport(*told, tuple(map(str, files)), time.monotonic() - started)


def _point(store: Store, space: Space, sequence: int) -> str:
    """The name of what was read; empty where the store cannot keep it, for vectors matter more."""
    try:
        return store.index.name_point(space, sequence)
    except StoreError as error:
        log.warning("nobody can export what changes from now on, for this export has no point: %s", error)
        return ""


def _changed(store: Store, space: Space, since: str) -> Ids:
    """Images that changed after a point, ascending.

    Raises:
        BadInput: the store does not know the point, or not any more what came after it.
    """
    sequence = store.index.point_sequence(space, since)
    if sequence is None:
        raise BadInput(
            f"The store {store} does not know the point {since!r} of {space.name}: it is of another store or version, "
            f"or of before the store was compacted, mended or restored. Export everything once, without --since."
        )
    found = store.index.changes_since(sequence, space.name)
    if found is None:
        raise BadInput(
            f"The store {store} does not know any more what changed since {since}: it keeps the latest "
            f"{KEEP_CHANGES:,} changes, and none from before it was mended. Export everything once, without --since."
        )
    return found[0]


def _write_parquet(store: Store, contents: _Contents, out: Path) -> list[Path]:
    space, names = contents.space, ImageNames.of_store(store.folder)
    key = [("key", pa.string())] if names is not None else []
    about = {VERSION_KEY: space.name, GENERATION_KEY: str(contents.generation)}
    about |= {name: value for name, value in ((POINT_KEY, contents.point), (SINCE_KEY, contents.since)) if value}
    schema = pa.schema([("image_id", pa.int64()), ("vector", pa.list_(pa.float16(), space.dim)), *key], metadata=about)
    first = 0  # of the entries that are written next
    with replacing(out) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for start in range(0, len(contents.ids), BLOCK):
            here, there = contents.ids[start : start + BLOCK], contents.there[start : start + BLOCK]
            rows = int(there.sum())
            values = np.zeros((len(here), space.dim), dtype=space.value_dtype)
            values[there] = store.read(space, contents.entries[first : first + rows])
            first += rows
            none = None if there.all() else pa.array(~there)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), space.dim, mask=none)
            keys = [pa.array(names.keys(here))] if names is not None else []
            writer.write_table(pa.table([pa.array(here), lists, *keys], schema=schema))
    return [out]


def _write_npy(store: Store, contents: _Contents, out: Path) -> list[Path]:
    ids_file, about, space = out.with_suffix(".ids.npy"), out.with_suffix(".json"), contents.space
    dtype = np.lib.format.dtype_to_descr(np.dtype(space.value_dtype))
    header = {"descr": dtype, "fortran_order": False, "shape": (len(contents.ids), space.dim)}
    with replacing(about) as told, replacing(ids_file) as order, replacing(out) as part:
        with open(part, "wb") as file:  # not mapped: a full disk would end the process
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(contents.ids), BLOCK):
                file.write(store.read(space, contents.entries[start : start + BLOCK]).tobytes())
        with open(order, "wb") as file:
            np.save(file, contents.ids)
        facts = {"version": space.name, "generation": contents.generation, "point": contents.point}
        told.write_text(json.dumps(facts) + "\n")
        about.unlink(missing_ok=True)  # it comes back last: without it, matrix and ids may be of two exports
    return [out, ids_file, about]
