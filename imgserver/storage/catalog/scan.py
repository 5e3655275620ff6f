"""Finds the images in a folder or below a URL: photos, members of tars, rows of Parquet files."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgserver.errors import BadInput
from imgserver.keys import Column, catalogue_keys
from imgserver.storage.catalog.files import PARQUET_SUFFIXES, Files, FoundFile, root_of
from imgserver.storage.catalog.listing import UNKNOWN, WHOLE_FILE, FoundImages

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif", ".tif", ".tiff")
ID_COLUMNS = ("image_id", "id", "key")
BYTES_COLUMN = "bytes"
URI_COLUMN = "uri"
MAX_GROUP_BYTES = 512 << 20


def scan(files: Files, where: str) -> Iterator[FoundImages]:
    """All images in ``where``, some at a time; other files are passed over.

    Raises:
        BadInput: a tar or Parquet file cannot be read as images.
    """
    root = root_of(where)
    for found in files.walk(where):
        photos = [file for file in found if file.path.lower().endswith(PHOTO_SUFFIXES)]
        if photos:
            yield _photos(photos, root)
        for file in found:
            if file.path.lower().endswith(".tar"):
                yield _tar_members(files, file, root)
            elif file.path.lower().endswith(PARQUET_SUFFIXES) and (rows := _parquet_rows(files, file, root)):
                yield rows


def _photos(photos: list[FoundFile], root: str) -> FoundImages:
    names = [os.path.splitext(os.path.basename(photo.path))[0] for photo in photos]
    return FoundImages(
        pa.array(names, pa.large_string()),
        pa.array([_below(photo.path, root) for photo in photos], pa.large_string()),
        np.arange(len(photos), dtype=np.int32),
        np.full(len(photos), WHOLE_FILE, dtype=np.int64),
        np.array([photo.size for photo in photos], dtype=np.int64),
        np.array([photo.stamp for photo in photos], dtype=np.uint64),
    )


def _below(path: str, root: str) -> str:
    """``path`` without the root, which a million photos would repeat."""
    return path.removeprefix(root.rstrip("/") + "/")


def _tar_members(files: Files, file: FoundFile, root: str) -> FoundImages:
    """Photos in a tar, as WebDataset writes them: ``<key>.jpg`` beside other members, which are passed over."""
    file = (files.stat(file.path) if file.size < 0 else file) or file
    keys, offsets, sizes = [], [], []
    try:
        with files.open(file.path) as source, tarfile.open(fileobj=source, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.isreg() and member.name.lower().endswith(PHOTO_SUFFIXES):
                    keys.append(os.path.splitext(os.path.basename(member.name))[0])
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep an object a member
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(f"The tar {file.path} cannot be listed: {error}.") from error
    return FoundImages(
        pa.array(keys, pa.large_string()),
        pa.array([_below(file.path, root)], pa.large_string()),
        np.zeros(len(keys), dtype=np.int32),
        np.array(offsets, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        np.full(len(keys), file.stamp, dtype=np.uint64),
    )


def _parquet_rows(files: Files, file: FoundFile, root: str) -> FoundImages | None:
    """Rows of a Parquet file with an id column and ``bytes``; None for a manifest that lies beside its photos."""
    file = (files.stat(file.path) if file.size < 0 else file) or file
    try:
        with files.open(file.path) as source, pq.ParquetFile(source) as parquet:
            names = parquet.schema_arrow.names
            if URI_COLUMN in names:
                return None
            key = id_column(names, file.path)
            if BYTES_COLUMN not in names:
                raise BadInput(
                    f"The Parquet file {file.path} has no column 'bytes' with the photos; its columns are: "
                    f"{', '.join(names)}."
                )
            _check_groups(parquet, file.path, file.size)
            keys = parquet.read(columns=[key])[key].combine_chunks()
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"The Parquet file {file.path} cannot be read: {error}.") from error
    keys = key_array(keys, file.path, key)
    return FoundImages(
        keys,
        pa.array([_below(file.path, root)], pa.large_string()),
        np.zeros(len(keys), dtype=np.int32),
        np.arange(len(keys), dtype=np.int64),
        np.full(len(keys), UNKNOWN, dtype=np.int64),
        np.full(len(keys), file.stamp, dtype=np.uint64),
    )


def id_column(names: list[str], path: str) -> str:
    """The column of a Parquet file that names the images.

    Raises:
        BadInput: there is none.
    """
    for name in ID_COLUMNS:
        if name in names:
            return name
    raise BadInput(
        f"The Parquet file {path} has no column {' or '.join(map(repr, ID_COLUMNS))}; its columns are: "
        f"{', '.join(names)}."
    )


def key_array(column: pa.Array, path: str, name: str) -> pa.Array:
    """Keys as int64, or as large_string when the column is one of text.

    Raises:
        BadInput: the column holds no keys, or has empty cells.
    """
    given = Column(column, name, path)
    found = catalogue_keys(given)
    if found.null_count:
        row = given.row(pc.is_null(found))
        raise BadInput(f"The column {name!r} of {path} is empty in row {row}; every image needs an id.")
    return found


def check_rows(metadata: pq.FileMetaData, path: str, size: int) -> None:
    """Room for as many rows as a file says is taken before they are read; more than it can hold is a lie.

    Raises:
        BadInput: there are more than 8 rows a byte.
    """
    rows = max(metadata.num_rows, sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
    if size >= 0 and rows > 8 * size:
        raise BadInput(f"{path} says that it holds {rows} rows, in {size} bytes: it is damaged.")


def _check_groups(parquet: pq.ParquetFile, path: str, file_size: int) -> None:
    """A row group is what is read at once; one that does not fit into memory beside others is refused now.

    Its columns are not looked at one by one: a damaged file may make pyarrow end the process there (release 26).
    """
    metadata = parquet.metadata
    check_rows(metadata, path, file_size)
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise BadInput(
                f"Row group {group} of {path} holds {size >> 20} MiB; at most {MAX_GROUP_BYTES >> 20} MiB are read at "
                f"once. Write the file with smaller row groups."
            )
