"""Samples on disk to jagged batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.batch import NULL_IMAGE, Batch, BatchImages, Int64Array, Jagged
from features.build import META_FILE, SCHEMA_VERSION
from features.splits import SPLITS
from features.vocabulary import Vocabularies
from imgserver.errors import BadInput


class Samples:
    """A folder that ``features build`` made.

    Attributes:
        folder: where it is.
        labels: label names; the first is the one that is trained.
        id_columns: column -> size of its vocabulary, place 0 included.
        history_columns: the same for the history, names without ``hist_``; empty when there are no behaviours.
        text_columns: the same for text.
        image_vocabulary_size: 0 when the samples have no images.
        vocabulary: the vocabularies themselves.
        hash: of the rows: two folders with one hash hold the same samples.
        has_held_out: whether test rows tell if their item was held out entirely (column ``held_out``).

    Raises:
        BadInput: the folder holds no samples, or samples of another format.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            meta = json.loads((self.folder / META_FILE).read_text())
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{folder} is no samples folder ({META_FILE}: {error}). Make it with 'features build'."
            ) from error
        if meta["schema_version"] != SCHEMA_VERSION:
            raise BadInput(
                f"The samples in {folder} have format {meta['schema_version']}; this release reads {SCHEMA_VERSION}. "
                f"Run 'features build' again."
            )
        self.vocabulary = Vocabularies.load(self.folder)
        self.labels: tuple[str, ...] = tuple(meta["labels"])
        size = self.vocabulary.size
        self.id_columns = {name: size(name) for name in meta["id_columns"]}
        self.history_columns = {name: size(name) for name in meta["history_columns"]}
        self.text_columns = {name: size(name) for name in meta["text_columns"]}
        self.image_vocabulary_size = size("image_id") if meta["has_images"] else 0
        self.vocabulary_hash: str = meta["vocabulary_hash"]
        self.hash: str = meta["samples_hash"]
        self.has_held_out: bool = meta["has_held_out"]
        images = self.vocabulary.values["image_id"].cast(pa.int64()) if meta["has_images"] else []
        # Ascending for the binary search; a vocabulary that was extended is not.
        self._image_places = np.argsort(np.array(images, dtype=np.int64), kind="stable") + 1
        self._image_values = np.array(images, dtype=np.int64)[self._image_places - 1]

    def _file(self, split: str) -> pq.ParquetFile:
        if split not in SPLITS:
            raise BadInput(f"There is no split {split!r}; there are: {', '.join(SPLITS)}.")
        try:
            return pq.ParquetFile(self.folder / f"{split}.parquet", memory_map=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise BadInput(f"The samples file {self.folder / split}.parquet cannot be read: {error}.") from error

    def rows(self, split: str) -> int:
        """Rows of a split."""
        with self._file(split) as file:
            return int(file.metadata.num_rows)

    def item_counts(self) -> Int64Array:
        """How often each item is the target of a training row, by its place, shape (items + 1,)."""
        return self.vocabulary.counts["item_id"]

    def frame(self, split: str, columns: list[str] | None = None) -> pa.Table:
        """Some columns of a whole split, or all of them, in file order."""
        with self._file(split) as file:
            return file.read(columns=columns)

    def frames(self, split: str, columns: list[str]) -> Iterator[pa.Table]:
        """The same a row group at a time, for what does not fit into memory."""
        with self._file(split) as file:
            for group in range(file.metadata.num_row_groups):
                yield file.read_row_group(group, columns=columns)

    def head(self, split: str, rows: int) -> list[dict[str, Any]]:
        """The first rows of a split as dictionaries."""
        with self._file(split) as file:
            found: list[dict[str, Any]] = next(file.iter_batches(max(rows, 1))).to_pylist()
        return found[:rows]

    def batches(
        self, split: str, batch_size: int, *, shuffle_seed: int | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """Every row of a split once, in batches of ``batch_size``; the last may be shorter.

        Args:
            split: ``train``, ``validation`` or ``test``.
            batch_size: rows in a batch.
            shuffle_seed: None keeps the order of the file. Else row groups come in a drawn order, and rows are drawn
                within a row group, so that memory holds one of them, whatever the size of the split.
            epoch: with the seed, draws another order.
        """
        rng = None if shuffle_seed is None else np.random.default_rng([shuffle_seed, epoch])
        with self._file(split) as file:
            groups = np.arange(file.metadata.num_row_groups)
            if rng is not None:
                groups = rng.permutation(groups)
            rest: pa.Table | None = None
            for group in groups.tolist():
                table = file.read_row_group(group)
                if rng is not None:
                    table = table.take(pa.array(rng.permutation(len(table))))
                if rest is not None:
                    table = pa.concat_tables([rest, table])
                table = table.combine_chunks()
                full = len(table) - len(table) % batch_size
                for start in range(0, full, batch_size):
                    yield self._batch(table.slice(start, batch_size))
                rest = table.slice(full) if full < len(table) else None
            if rest is not None:
                yield self._batch(rest.combine_chunks())

    def _batch(self, table: pa.Table) -> Batch:
        def column(name: str) -> npt.NDArray[Any]:
            return np.asarray(table[name].combine_chunks())

        history = {name: _jagged(table[f"hist_{name}"]) for name in self.history_columns}
        offsets = next(iter(history.values())).offsets if history else np.zeros(len(table) + 1, dtype=np.int64)
        timestamp = column("timestamp").astype(np.int64)
        age = np.zeros(0, dtype=np.int64)
        if history:
            age = np.repeat(timestamp, np.diff(offsets)) - _jagged(table["hist_time"]).values
        return Batch(
            labels={
                name: column("label" if number == 0 else f"label_{name}").astype(np.float32)
                for number, name in enumerate(self.labels)
            },
            timestamp=timestamp,
            ids={name: column(name).astype(np.int64) for name in self.id_columns},
            history=history,
            history_age_s=age,
            text={name: _jagged(table[name]) for name in self.text_columns},
            images=self._images(table, offsets) if self.image_vocabulary_size else None,
        )

    def _images(self, table: pa.Table, offsets: Int64Array) -> BatchImages:
        target = np.asarray(table["image_id"].combine_chunks()).astype(np.int64)
        history = _jagged(table["hist_image_id"]).values if self.history_columns else np.zeros(0, dtype=np.int64)
        unique, inverse = np.unique(np.concatenate([target, history]), return_inverse=True)
        null = int(len(unique) > 0 and unique[0] == NULL_IMAGE)
        unique, index = unique[null:], inverse.reshape(-1).astype(np.int64) - null
        values = self._image_values
        place = np.searchsorted(values, unique)
        known = place < len(values)
        known[known] = values[place[known]] == unique[known]
        places = np.zeros(len(unique), dtype=np.int64)
        places[known] = self._image_places[place[known]]
        return BatchImages(
            unique=unique,
            unique_index=places,
            target=index[: len(target)],
            history=Jagged(index[len(target) :], offsets),
        )


def _jagged(column: pa.ChunkedArray) -> Jagged:
    lists = column.combine_chunks()
    offsets = np.asarray(lists.offsets).astype(np.int64)
    values = np.asarray(lists.values)[offsets[0] : offsets[-1]].astype(np.int64)
    return Jagged(values, offsets - offsets[0])
