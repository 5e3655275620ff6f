"""Rows outside a store: Parquet by virtual shard, written by any number of processes, then merged into stores.

    embedded/features/<backbone>/shard=0017/<time>-<writer>.parquet
    embedded/vectors/<version>/shard=0017/<the same name>.parquet

A file is whole or not there. Of an image that stands in several the latest file counts, so a photo that was replaced is
simply embedded again. A file is later than all that its writer saw in the folder, whatever the clock says.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from crossmedia.imgserver.storage.records import SOURCE, Ids

FEATURES, VECTORS = "features", "vectors"
RECIPE_KEY = b"crossmedia.recipe"
SOURCE_COLUMNS = list(SOURCE.names or ())
COLUMNS = ["image_id", "status", *SOURCE_COLUMNS, "values"]


@dataclass(frozen=True)
class Block:
    """Rows that stand in one file.

    Attributes:
        ids: shape (n,).
        status: shape (n,), a ``VectorStatus`` each.
        sources: shape (n,), ``SOURCE``.
        values: shape (n, D); zeros where the status is not OK.
        recipe: of features, what makes their backbone again.
    """

    ids: Ids
    status: npt.NDArray[np.uint8]
    sources: npt.NDArray[Any]
    values: npt.NDArray[np.float16]
    recipe: str = ""

    def rows(self, chosen: npt.NDArray[Any]) -> Block:
        """Some of the rows."""
        return Block(
            self.ids[chosen], self.status[chosen], self.sources[chosen], self.values[chosen], recipe=self.recipe
        )

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> Block:
        """Several in a row."""
        return cls(
            np.concatenate([block.ids for block in blocks]),
            np.concatenate([block.status for block in blocks]),
            np.concatenate([block.sources for block in blocks]),
            np.concatenate([block.values for block in blocks]),
            blocks[0].recipe,
        )


class ShardFiles:
    """Rows of one version.

    Args:
        folder: of everything that is embedded.
        kind: ``FEATURES`` or ``VECTORS``.
        name: the backbone's version, or the vectors'.
    """

    def __init__(self, folder: Path, kind: str, name: str):
        self._folder = folder / kind / quote(name, safe="@+#")

    def write(self, place: str, block: Block) -> None:
        """Write rows of one virtual shard at a ``place`` of ``new_place`` or ``places``.

        Raises:
            StoreError: it cannot be written.
        """
        with replacing(self._folder / place) as part:
            pq.write_table(to_table(block), part, compression="zstd", write_page_checksum=True)

    def new_place(self, shard: int) -> str:
        """Of a file that is to be written now, behind all that were written earlier, by a clock that was ahead too."""
        stamps = (Path(place).name.partition("-")[0] for place in self.places([shard]))
        last = max((int(stamp) for stamp in stamps if stamp.isdecimal()), default=0)
        return f"{_folder_name(shard)}/{max(time.time_ns(), last + 1):020d}-{uuid.uuid4().hex[:8]}.parquet"

    def places(self, shards: Iterable[int] = range(SHARDS)) -> list[str]:
        """Where files of these virtual shards are, below the folder, in the order in which they were written."""
        found = [path for shard in shards for path in (self._folder / _folder_name(shard)).glob("[!.]*.parquet")]
        return [str(path.relative_to(self._folder)) for path in sorted(found, key=lambda path: path.name)]

    def read(self, place: str) -> Block:
        """One file.

        Raises:
            BadInput: it is damaged or of another kind.
        """
        return from_table(self._table(place, COLUMNS))

    def known(self, shards: Iterable[int]) -> tuple[Ids, npt.NDArray[np.uint8], npt.NDArray[Any]]:
        """Ids that these virtual shards hold, ascending, with status and source of the latest row of each.

        Raises:
            BadInput: a file is damaged or of another kind.
        """
        ids, status, sources = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)], [np.zeros(0, SOURCE)]
        for place in self.places(shards):
            table = self._table(place, [name for name in COLUMNS if name != "values"])
            ids.append(table["image_id"].to_numpy())
            status.append(table["status"].to_numpy())
            sources.append(_sources(table))
        every = np.concatenate(ids)
        order = np.argsort(every, kind="stable")
        every = every[order]
        latest = order[np.append(every[1:] != every[:-1], True)[: len(every)]]
        return np.concatenate(ids)[latest], np.concatenate(status)[latest], np.concatenate(sources)[latest]

    def _table(self, place: str, columns: list[str]) -> pa.Table:
        path = self._folder / place
        try:
            table = pq.read_table(path, columns=columns, partitioning=None, page_checksum_verification=True)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise BadInput(f"{path} cannot be read: {error}. Remove it, and run its shard again.") from error
        if missing := [name for name in columns if name not in table.column_names]:
            raise BadInput(f"{path} has no column {missing[0]!r}; 'precompute --shard' did not write it. Remove it.")
        return table


def _folder_name(shard: int) -> str:
    return f"shard={shard:04d}"


def names_below(folder: Path, kind: str) -> list[str]:
    """The versions that a folder has rows of."""
    return sorted(unquote(path.name) for path in (folder / kind).glob("*") if path.is_dir())


def to_table(block: Block) -> pa.Table:
    """Arrow columns ``COLUMNS``, the values as a list of fixed size, for readers without this project too."""
    values = np.ascontiguousarray(block.values, dtype=np.float16)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    columns = [pa.array(block.ids), pa.array(block.status)]
    columns += [pa.array(np.ascontiguousarray(block.sources[name])) for name in SOURCE_COLUMNS]
    table = pa.table([*columns, lists], names=COLUMNS)
    return table.replace_schema_metadata({RECIPE_KEY: block.recipe.encode()})


def from_table(table: pa.Table) -> Block:
    """The other way round."""
    lists = table["values"].combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(table), lists.type.list_size)
    recipe = (table.schema.metadata or {}).get(RECIPE_KEY, b"").decode()
    status = table["status"].to_numpy().astype(np.uint8)
    return Block(table["image_id"].to_numpy().astype(np.int64), status, _sources(table), values, recipe)


def _sources(table: pa.Table) -> npt.NDArray[Any]:
    found = np.zeros(len(table), dtype=SOURCE)
    for name in SOURCE_COLUMNS:
        found[name] = table[name].to_numpy()
    return found
