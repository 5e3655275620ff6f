"""Finds the images in a folder or below a URL: photos, members of tars, rows of Parquet files."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia.errors import BadInput
from crossmedia.forms import PHOTO_SUFFIXES
from crossmedia.imgserver.storage.catalogue.files import (
    SHARD_SUFFIXES,
    Files,
    FoundFile,
    below,
    has_suffix,
    is_web,
    root_of,
)
from crossmedia.imgserver.storage.catalogue.listing import UNKNOWN, WHOLE_FILE, FoundImages
from crossmedia.imgserver.storage.catalogue.passed_over import NO_TEXT, TABLE, PassedOver, is_text
from crossmedia.imgserver.storage.catalogue.tars import photos_in
from crossmedia.keys import Column, catalogue_keys
from crossmedia.looks import HEAD, PARQUET, TAR, looks_like

ID_COLUMNS = ("image_id", "id", "key")
BYTES_COLUMNS = ("bytes", "jpg", "png", "webp")  # the last three are img2dataset's
# Columns of bytes that are not read, and beside one that is leave open which of them holds the photo.
ALSO_PHOTOS = ("image", "img", "jpeg", "photo")
URI_COLUMN = "uri"
MAX_GROUP_BYTES = 512 << 20


def scan(files: Files, where: str, passed: PassedOver) -> Iterator[FoundImages]:
    """All images in ``where``, some at a time; other files are passed over, and ``passed`` is told.

    Raises:
        BadInput: a tar or Parquet file cannot be read as images.
    """
    root = root_of(where)
    for found in files.walk(where, passed):
        photos = []
        for file in found:
            path = below(file.path, root)
            if not has_suffix(file.path, (*PHOTO_SUFFIXES, *SHARD_SUFFIXES)):
                passed.add_file(path)
            elif not is_text(path):
                passed.add(NO_TEXT, path)
            elif has_suffix(file.path, PHOTO_SUFFIXES):
                photos.append(file)
            elif has_suffix(file.path, ".tar"):
                yield _tar_members(files, file, root, passed)
            elif rows := _parquet_rows(files, file, root, None if file.path == where else passed):
                yield rows
        if photos:
            yield _photos(photos, root)


def _photos(photos: list[FoundFile], root: str) -> FoundImages:
    return FoundImages(
        pa.array([_key(photo.path) for photo in photos], pa.large_string()),
        pa.array([below(photo.path, root) for photo in photos], pa.large_string()),
        np.arange(len(photos), dtype=np.int32),
        np.full(len(photos), WHOLE_FILE, dtype=np.int64),
        np.array([photo.size for photo in photos], dtype=np.int64),
        np.array([photo.stamp for photo in photos], dtype=np.uint64),
    )


def _key(path: str) -> str:
    """What a photo is called: its name without folder and suffix."""
    return os.path.splitext(os.path.basename(path.partition("?")[0] if is_web(path) else path))[0]


def _tar_members(files: Files, file: FoundFile, root: str, passed: PassedOver) -> FoundImages:
    file = (files.stat(file.path) if file.size < 0 else file) or file
    name = below(file.path, root)
    try:
        with files.open(file.path) as source:
            members = photos_in(source, name, passed)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(f"The tar {file.path} cannot be listed: {error}.{_instead(files, file.path)}") from error
    return FoundImages(
        pa.array([_key(member) for member in members.names], pa.large_string()),
        pa.array([name], pa.large_string()),
        np.zeros(len(members.names), dtype=np.int32),
        np.array(members.offsets, dtype=np.int64),
        np.array(members.sizes, dtype=np.int64),
        np.full(len(members.names), file.stamp, dtype=np.uint64),
    )


def _parquet_rows(files: Files, file: FoundFile, root: str, passed: PassedOver | None) -> FoundImages | None:
    """Rows of a Parquet file with an id column and photos.

    Args:
        files: read it.
        file: which one.
        root: of the catalogue.
        passed: told of a table without photos, which lies beside them; None where the file is all that there is.

    Returns:
        None for such a table, or a manifest that lies beside its photos.
    """
    file = (files.stat(file.path) if file.size < 0 else file) or file
    try:
        with files.open(file.path) as source, pq.ParquetFile(source) as parquet:
            names = parquet.schema_arrow.names
            if URI_COLUMN in names:
                return None
            photos = bytes_column(parquet.schema_arrow, file.path)
            if photos is None and passed is not None:
                passed.add(TABLE, below(file.path, root))
                return None
            key = id_column(names, file.path)
            if photos is None:
                raise BadInput(
                    f"The Parquet file {file.path} has no column 'bytes' with the photos; its columns are: "
                    f"{', '.join(names)}."
                )
            _check_groups(parquet, file.path, file.size)
            keys = parquet.read(columns=[key])[key].combine_chunks()
            keys.validate(full=True)  # a damaged file may hold bytes that are no text
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        said = f"The Parquet file {file.path} cannot be read: {error}.{_instead(files, file.path)}"
        raise BadInput(said) from error
    keys = key_array(keys, file.path, key)
    return FoundImages(
        keys,
        pa.array([below(file.path, root)], pa.large_string()),
        np.zeros(len(keys), dtype=np.int32),
        np.arange(len(keys), dtype=np.int64),
        np.full(len(keys), UNKNOWN, dtype=np.int64),
        np.full(len(keys), file.stamp, dtype=np.uint64),
    )


def _instead(files: Files, path: str) -> str:
    """A sentence that says what a file is that is neither tar nor Parquet; empty where its first bytes do not tell."""
    try:
        with files.open(path) as source:
            what = looks_like(source.read(HEAD))
    except OSError:
        return ""
    return "" if what.startswith(("none of", TAR, PARQUET)) else f" It is {what}."


def bytes_column(schema: pa.Schema, path: str) -> str | None:
    """The column of a Parquet file that holds photos; None where there is none.

    Raises:
        BadInput: several may.
    """
    found = [name for name in (*BYTES_COLUMNS, *ALSO_PHOTOS) if name in schema.names and _holds_bytes(schema, name)]
    if not set(found) & set(BYTES_COLUMNS):
        return None
    if len(found) > 1:
        raise BadInput(
            f"The Parquet file {path} has {len(found)} columns that may hold the photos, {' and '.join(found)}: an "
            f"image has one. Leave one of them in it, such as {found[0]}, with Python: import pyarrow.parquet as pq; "
            f"pq.write_table(pq.read_table({path!r}).drop_columns({found[1:]}), 'photos.parquet', row_group_size=1000)."
        )
    return found[0]


def _holds_bytes(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view()) or pa.types.is_fixed_size_binary(kind)


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
    """Refuse a file that claims more rows than fit into it: memory for them is taken before they are read.

    Raises:
        BadInput: there are more than 8 rows a byte.
    """
    rows = max(metadata.num_rows, sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
    if size >= 0 and rows > 8 * size:
        raise BadInput(f"{path} says that it holds {rows} rows, in {size} bytes: it is damaged.")


def _check_groups(parquet: pq.ParquetFile, path: str, file_size: int) -> None:
    """Refuse row groups that do not fit into memory beside others, because a group is read at once.

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
