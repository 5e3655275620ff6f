"""Rows outside a store: Parquet by virtual shard, written by any number of processes, then merged into stores.

    embedded/features/<backbone>/shard=0017/<time>-<writer>.parquet
    embedded/vectors/<version>/shard=0017/<the same name>.parquet

A file is whole or not there. Of an image that stands in several the latest file counts, so a photo that was replaced is
simply embedded again. A file is later than all that its writer saw in the folder, whatever the clock says.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.disk import replacing
from crossmedia.errors import BadInput
from crossmedia.imgserver.shards import SHARDS
from crossmedia.imgserver.storage.records import SOURCE, SOURCE_FIELDS, VALUE_DTYPE, Rows, Space, sources_in

FEATURES, VECTORS = "features", "vectors"
RECIPE_KEY = b"crossmedia.recipe"
COLUMNS = ["image_id", "status", *SOURCE_FIELDS, "values"]
KNOWN = np.dtype([("image_id", "<i8"), ("status", "u1"), *SOURCE.descr])  # all but the values


class ShardFiles:
    """Rows of one version.

    Args:
        folder: of everything that is embedded.
        kind: ``FEATURES`` or ``VECTORS``.
        name: the backbone's version, or the vectors'.
    """

    def __init__(self, folder: Path, kind: str, name: str):
        self.name, self._kind = name, kind
        self._folder = folder / kind / quote(name, safe="@+#")

    def write(self, place: str, rows: Rows) -> None:
        """Write rows of one virtual shard at a ``place`` of ``new_place`` or ``places``.

        Raises:
            StoreError: it cannot be written.
        """
        with replacing(self._folder / place) as part:
            pq.write_table(_to_table(rows), part, compression="zstd", write_page_checksum=True)

    def new_place(self, shard: int) -> str:
        """The place of a file that is written now: behind all earlier ones, even those of a clock that was ahead."""
        stamps = (Path(place).name.partition("-")[0] for place in self.places([shard]))
        last = max((int(stamp) for stamp in stamps if stamp.isdecimal()), default=0)
        return f"{_folder_name(shard)}/{max(time.time_ns(), last + 1):020d}-{uuid.uuid4().hex[:8]}.parquet"

    def places(self, shards: Iterable[int] = range(SHARDS)) -> list[str]:
        """Where files of these virtual shards are, below the folder, in the order in which they were written."""
        found = [path for shard in shards for path in (self._folder / _folder_name(shard)).glob("[!.]*.parquet")]
        return [str(path.relative_to(self._folder)) for path in sorted(found, key=lambda path: path.name)]

    def read(self, place: str) -> Rows:
        """One file, its rows in a space that no store has.

        Raises:
            BadInput: it is damaged or of another kind.
        """
        table = self._table(place, COLUMNS)
        lists, known = table["values"].combine_chunks(), _known(table)
        values = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(table), lists.type.list_size)
        recipe = (table.schema.metadata or {}).get(RECIPE_KEY, b"").decode()
        space = Space(0, self.name, self._kind.removesuffix("s"), values.shape[1], VALUE_DTYPE, recipe=recipe)
        return Rows(space, known["image_id"], known["status"], sources_in(known), values)

    def known(self, shards: Iterable[int]) -> npt.NDArray[Any]:
        """Images that these virtual shards hold, each by its latest row, ids ascending, shape (n,): ``KNOWN``.

        Raises:
            BadInput: a file is damaged or of another kind.
        """
        tables = (self._table(place, COLUMNS[:-1]) for place in self.places(shards))
        every: npt.NDArray[Any] = np.concatenate([np.zeros(0, KNOWN), *map(_known, tables)])
        order = np.argsort(every["image_id"], kind="stable")
        ids = every["image_id"][order]
        latest: npt.NDArray[Any] = every[order[np.append(ids[1:] != ids[:-1], True)[: len(ids)]]]
        return latest

    def _table(self, place: str, columns: list[str]) -> pa.Table:
        path = self._folder / place
        try:
            table = pq.read_table(path, columns=columns, partitioning=None, page_checksum_verification=True)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise BadInput(f"{path} cannot be read: {error}. Remove it, and run its shard again.") from error
        if missing := [name for name in columns if name not in table.column_names]:
            raise BadInput(f"{path} has no column {missing[0]!r}; 'precompute --part' did not write it. Remove it.")
        return table


def _folder_name(shard: int) -> str:
    return f"shard={shard:04d}"


def names_below(folder: Path, kind: str) -> list[str]:
    """The versions that a folder has rows of."""
    return sorted(unquote(path.name) for path in (folder / kind).glob("*") if path.is_dir())


def _to_table(rows: Rows) -> pa.Table:
    """Arrow columns ``COLUMNS``, the values as a list of fixed size, for readers without this project too."""
    values = np.ascontiguousarray(rows.values, dtype=VALUE_DTYPE)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    columns = [pa.array(rows.ids), pa.array(rows.status)]
    columns += [pa.array(np.ascontiguousarray(rows.sources[name])) for name in SOURCE_FIELDS]
    table = pa.table([*columns, lists], names=COLUMNS)
    return table.replace_schema_metadata({RECIPE_KEY: rows.space.recipe.encode()})


def _known(table: pa.Table) -> npt.NDArray[Any]:
    found = np.zeros(len(table), dtype=KNOWN)
    for name in KNOWN.names or ():
        found[name] = table[name].to_numpy()
    return found
