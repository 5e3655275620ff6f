"""The manifest: a Parquet file that gives every image an id that lasts and says where its bytes are.

    image_id  int64    the id; in samples, in the store, on the wire
    key       string   what the image is called in the catalogue and in the logs
    uri       string   file or URL, relative to the manifest's folder, so that both travel together
    offset    int64    -1: the whole file; else the first byte in a tar, or the row in a table, from 0
    size      int64    bytes, -1: unknown
    stamp     uint64   changes when the image is replaced; 0: unknown

Only ``image_id`` and ``uri`` are needed in a manifest that somebody else wrote. Ids are never given twice: an image
that has gone keeps its row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia.arguments import check_places
from crossmedia.disk import replacing
from crossmedia.errors import BadInput
from crossmedia.forms import alike
from crossmedia.imgserver.storage.catalogue.files import PARQUET_SUFFIXES, has_suffix, is_url, join, root_of
from crossmedia.imgserver.storage.catalogue.listing import (
    UNKNOWN,
    WHOLE_FILE,
    FoundImages,
    Listing,
    concat,
    numeric_keys,
)
from crossmedia.imgserver.storage.catalogue.local import LocalFiles, check_where, local_files
from crossmedia.imgserver.storage.catalogue.passed_over import PassedOver
from crossmedia.imgserver.storage.catalogue.remote import READ_TIMEOUT_S, files_for
from crossmedia.imgserver.storage.catalogue.scan import URI_COLUMN, id_column, scan
from crossmedia.imgserver.storage.catalogue.uris import check_uris
from crossmedia.imgserver.storage.records import Ids
from crossmedia.keys import Column, full_image_ids
from crossmedia.looks import file_in_words
from crossmedia.names import ImageNames, refuse_twice, texts_of

COLUMNS = ("image_id", "key", "uri", "offset", "size", "stamp")
NUMBERS, GIVEN = "keys are the ids", "ids were given to the keys"
RULE = b"crossmedia.ids"
_TYPES = {"uri": pa.large_string(), "offset": pa.int64(), "size": pa.int64(), "stamp": pa.uint64()}


@dataclass(frozen=True)
class ManifestReport:
    """What ``write_manifest`` did.

    Attributes:
        images: in the manifest.
        added: that are new.
        gone: whose photos are not there any more.
        out: the manifest.
        photo_root: the folder that ``--photo-root`` must name where the manifest is used, for the photos lie out of
            its own; empty where they do not.
        passed_over: sentences about files that are no photos.
        alike: sentences about keys that differ in their form alone, such as ``7`` and ``007``, or ``A`` and ``A ``.
    """

    images: int
    added: int
    gone: int
    out: str
    photo_root: str = ""
    passed_over: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()


def is_manifest(names: list[str]) -> bool:
    """Whether a Parquet file with these columns says where images are, and does not hold them."""
    return URI_COLUMN in names


def write_manifest(
    where: str | Path, out: str | Path, timeout_s: float = READ_TIMEOUT_S, rows: FoundImages | None = None
) -> ManifestReport:
    """List the catalogue ``where`` and write ``out``; ids that ``out`` gave before are kept.

    Keys that are whole numbers are their own ids when all of them are; else ids are given in the order of the keys.

    Args:
        where: folder or URL of photos, or of tars or Parquet files that hold them.
        out: the Parquet file.
        timeout_s: seconds that listing a URL may stand still.
        rows: what stands there, where it is known already, as of a table of texts.

    Raises:
        BadInput: nothing was found, it cannot be listed, a key or an id is there twice, or ``out`` is no manifest, has
            a cell that cannot be kept, or gave its ids by the other rule.

    Example:
        >>> from crossmedia import write_manifest
        >>> report = write_manifest("photos", "manifest.parquet")
        >>> report.images, report.added
        (243, 243)
    """
    check_places(where=where, out=out)
    where, out = str(where), Path(out)
    found, passed = _found_in(where, timeout_s) if rows is None else (rows, PassedOver())
    keys = pc.cast(found.keys, pa.large_string())
    _refuse_twice(found, keys)
    before = _read_former(out) if out.exists() else None
    rule = NUMBERS if numeric_keys(found).all() else GIVEN
    if before is not None:
        rule = _rule_of(before, out, rule)
    ids = _ids_of(keys, before, rule)
    Listing(found, ids)  # refuses an id that is there twice, such as that of 7.jpg and 007.jpg
    table = pa.table(
        {
            "image_id": ids,
            "key": keys,
            "uri": _uris(found, where, out).take(pa.array(found.file)),
            "offset": found.offset,
            "size": found.size,
            "stamp": found.stamp,
        }
    )
    former = 0 if before is None else len(before)
    if before is not None:  # what has gone keeps its id
        gone = before.filter(pc.invert(pc.is_in(before["image_id"], value_set=pa.array(ids))))
        table = pa.concat_tables([table, gone.select(COLUMNS).cast(table.schema)])
    table = table.sort_by("image_id").replace_schema_metadata({RULE: rule.encode()})
    with replacing(out) as part:
        pq.write_table(table, part, compression="zstd")
    root = root_of(where) or "."
    leads_out = not is_url(where) and not local_files(str(out)).allows(root)
    return ManifestReport(
        *(len(table), len(table) - former, len(table) - len(found), str(out)),
        photo_root=os.path.realpath(root) if leads_out else "",
        passed_over=passed.said(),
        alike=tuple(alike(keys)),
    )


def _ids_of(keys: pa.Array, before: pa.Table | None, rule: str) -> Ids:
    """The id of each key: the one that a former manifest gave it, else a new one by the rule."""
    ids = np.full(len(keys), -1, dtype=np.int64)
    if before is not None:
        place = pc.index_in(keys, value_set=before["key"].combine_chunks())
        known = np.asarray(pc.is_valid(place))
        ids[known] = np.asarray(before["image_id"])[np.asarray(pc.fill_null(place, 0))[known]]
    new = np.flatnonzero(ids < 0)
    if rule == NUMBERS:
        ids[new] = np.asarray(pc.cast(keys.take(pa.array(new)), pa.int64()))
    else:
        first = int(pc.max(before["image_id"]).as_py()) + 1 if before is not None and len(before) else 0
        order = np.asarray(pc.sort_indices(keys.take(pa.array(new))))
        ids[new[order]] = first + np.arange(len(new))
    return ids


def _found_in(where: str, timeout_s: float) -> tuple[FoundImages, PassedOver]:
    check_where(where)
    passed = PassedOver()
    try:
        found = concat(scan(files_for(where, timeout_s, local_files(where)), where, passed))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise BadInput(f"The catalogue {where} cannot be listed: {error}.") from error
    if not len(found):
        raise BadInput(
            f"No image was found in {where}: no photo, no tar and no Parquet file with photos. "
            f"{'; '.join(passed.said())}".rstrip()
        )
    return found, passed


def _refuse_twice(found: FoundImages, keys: pa.Array) -> None:
    counts = pc.value_counts(keys)
    if len(twice := counts.filter(pc.greater(counts.field("counts"), 1))):
        key = pc.min(twice.field("values")).as_py()
        rows = np.flatnonzero(np.asarray(pc.equal(keys, key))).tolist()
        raise BadInput(
            f"The key {key!r} is there {len(rows)} times, in {' and '.join(sorted(map(found.where, rows))[:2])}"
            f"{f'; {len(twice) - 1} other keys, too' if len(twice) > 1 else ''}. Keys are names without folder and "
            f"suffix; rename one of them."
        )


def _read_former(out: Path) -> pa.Table:
    """The manifest that is there, with the columns of ours."""
    try:
        before = pq.read_table(out)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        what = file_in_words(out) or f": {error}"
        raise BadInput(f"{out} is there, and cannot be read{what}. Choose another --out, or remove it.") from error
    if missing := [name for name in COLUMNS if name not in before.column_names]:
        raise BadInput(f"{out} has no column {missing[0]!r}: no manifest of ours. Choose another --out.")
    given = {name: Column(before[name].combine_chunks(), name, str(out)) for name in COLUMNS}
    ids, keys = pa.array(full_image_ids(given["image_id"])), texts_of(given["key"])
    refuse_twice(Column(ids, "image_id", str(out)), Column(keys, "key", str(out)))
    uris = given[URI_COLUMN]
    if uris.values.null_count:
        raise BadInput(f"The column 'uri' of {out} is empty in row {uris.row(uris.values.is_null())}.")
    rest = [_cast(given[name], kind) for name, kind in _TYPES.items()]
    return pa.table([ids, keys, *rest], list(COLUMNS)).replace_schema_metadata(before.schema.metadata)


def _cast(column: Column, kind: pa.DataType) -> pa.Array:
    try:
        return pc.cast(column.values, kind)
    except pa.ArrowException as error:
        raise column.of_type(
            f"a manifest has {kind} there ({error}). Write it anew with 'imgserver manifest'"
        ) from error


def _rule_of(before: pa.Table, out: Path, rule: str) -> str:
    old = (before.schema.metadata or {}).get(RULE, b"").decode()
    if old == NUMBERS and rule == GIVEN:
        raise BadInput(
            f"In {out} the keys are the ids, and now there are keys that are no whole numbers. "
            f"Rename those images, or write a new manifest."
        )
    return old or rule


def _uris(found: FoundImages, where: str, out: Path) -> pa.Array:
    """Where each of the files is, seen from the manifest's folder; URLs as they are."""
    root = root_of(where)
    base = root.rstrip("/") if is_url(root) else os.path.relpath(root or ".", out.parent)
    names = found.files.to_pylist()
    return pa.array(names if base == "." else [join(base, name) for name in names], pa.large_string())


def read_manifest(path: str, timeout_s: float, local: LocalFiles) -> Listing:
    """The listing that a manifest describes.

    Raises:
        BadInput: it cannot be read, a column is wrong, or it leads to files that ``local`` does not read.
    """
    with _opened(path, timeout_s, local) as parquet:
        names = parquet.schema_arrow.names
        key = id_column(names, path)
        table = parquet.read(columns=[key, *(name for name in COLUMNS[2:] if name in names)])
    n, where = len(table), f"the manifest {path}"
    numbers: Ids = full_image_ids(Column(table[key], key, where))
    uris = table[URI_COLUMN].combine_chunks().dictionary_encode()
    if uris.null_count:
        raise BadInput(f"The column 'uri' of the manifest {path} is empty in {uris.null_count} rows.")
    refuse_twice(Column(pa.array(numbers), key, where), Column(table[URI_COLUMN].combine_chunks(), URI_COLUMN, where))
    try:
        files = uris.dictionary.cast(pa.large_string())
        files.validate(full=True)  # a damaged file may hold bytes that are no text
    except pa.ArrowException as error:
        raise BadInput(f"The column 'uri' of the manifest {path} cannot be read: {error}.") from error
    check_uris(files, path, local)
    entries = FoundImages(
        pa.array(numbers),
        files,
        np.asarray(uris.indices).astype(np.int32),
        _column(table, "offset", np.full(n, WHOLE_FILE, dtype=np.int64), where),
        _column(table, "size", np.full(n, UNKNOWN, dtype=np.int64), where),
        _column(table, "stamp", np.zeros(n, dtype=np.uint64), where),
    )
    if n and entries.offset.min() < WHOLE_FILE:
        raise BadInput(f"The manifest {path} holds the offset {entries.offset.min()}; offsets count from 0 on.")
    listing = Listing(entries, numbers)
    del table, uris, files, entries, numbers
    pa.default_memory_pool().release_unused()  # reading takes several times what the listing holds
    return listing


def read_names(path: str, timeout_s: float, local: LocalFiles) -> ImageNames | None:
    """The keys of a manifest; None where they are the ids, or it has none, or holds photos, or is no Parquet file.

    Raises:
        BadInput: it cannot be read, a key is empty, or a key or an id is there twice.
    """
    if not has_suffix(path, PARQUET_SUFFIXES):
        return None
    with _opened(path, timeout_s, local) as parquet:
        schema = parquet.schema_arrow
        numbers = (schema.metadata or {}).get(RULE, b"").decode() == NUMBERS
        if numbers or not {"key", URI_COLUMN} <= set(schema.names) or id_column(schema.names, path) == "key":
            return None
        key = id_column(schema.names, path)
        table = parquet.read(columns=[key, "key"])
    where = f"the manifest {path}"
    ids, keys = full_image_ids(Column(table[key], key, where)), texts_of(Column(table["key"], "key", where))
    refuse_twice(Column(pa.array(ids), key, where), Column(keys, "key", where))
    return ImageNames(ids, keys)


@contextmanager
def _opened(path: str, timeout_s: float, local: LocalFiles) -> Iterator[pq.ParquetFile]:
    """A manifest, to be read in a block.

    Raises:
        BadInput: it cannot be.
    """
    try:
        with files_for(path, timeout_s, local).open(path) as source, pq.ParquetFile(source) as parquet:
            yield parquet
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"The manifest {path} cannot be read: {error}.") from error


def _column(table: pa.Table, name: str, default: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if name not in table.column_names or not len(default):
        return default
    values = _cast(Column(table[name].combine_chunks(), name, where), _TYPES[name])
    return np.asarray(pc.fill_null(values, default[0].item()))
