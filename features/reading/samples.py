"""Read samples on disk as jagged batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crossmedia.arguments import check_places
from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch, Int64Array, concatenate
from crossmedia.features.columns import ACTION, IMAGE, ITEM
from crossmedia.features.distinct import KeyVocabulary
from crossmedia.features.layout import META_FILE, SplitFiles, StoredRows, sample_files
from crossmedia.features.meta import Meta
from crossmedia.features.reading.frames import Frames
from crossmedia.features.reading.item_table import ItemTable
from crossmedia.features.reading.occurrences import count_occurrences
from crossmedia.features.reading.row_groups import RowColumns, RowGroup
from crossmedia.features.vocabulary import Vocabularies

SHUFFLE_BYTES = 512 << 20


class Samples:
    """A folder that ``features build`` made.

    Attributes:
        folder: where it is.
        labels: label names; the first is the one that is trained.
        row_ids: id column of users and impressions, ``user_id`` first -> size of its vocabulary, place 0 included.
        row_numbers: number columns of these.
        row_lists: list column of these -> size of its vocabulary.
        of_log: which of these are the impression's, and not the user's.
        item_ids, item_numbers, item_lists: the same of items, ``item_id`` first.
        text_columns: text column of items -> size of its vocabulary.
        actions: size of the vocabulary of actions; 0 without histories.
        max_history: behaviours that a history holds at most.
        spaces: name -> which vectors items have.
        image_vocabulary_size: 0 when the samples have no images.
        has_images: whether a training row, or a behaviour of one, has an image.
        vocabulary: the vocabularies themselves.
        vocabulary_hash: of the vocabularies.
        extends: hash of the vocabularies that these continue; empty when they began anew.
        hash: of the rows: two folders with one hash hold the same samples.
        unseen: column -> places that training is kept from, ascending; empty but of ``SamplesWithUnseenItems``.
        has_held_out: whether rows tell if their item was held out entirely (column ``held_out``).
        hold_out_seed: of the draw of these.

    Raises:
        BadInput: the folder holds no samples, or samples of another format.

    Example:
        >>> from crossmedia import Samples
        >>> samples = Samples("samples")
        >>> batch = next(iter(samples.batches("train", 64, shuffle_seed=0)))
        >>> len(batch) <= 64, list(batch.ids)[0], list(batch.items.ids)[0]
        (True, 'user_id', 'item_id')
    """

    def __init__(self, folder: str | Path):
        check_places(folder=folder)
        self.folder = Path(folder)
        self._meta = meta = Meta.read(self.folder)
        self.vocabulary = Vocabularies.load(self.folder)
        self.vocabulary_hash = meta.vocabulary_hash
        if self.vocabulary.hash != self.vocabulary_hash:
            raise self._damaged("The vocabulary is not the one that it tells of")
        self.labels = meta.labels
        self.row_ids, self.row_numbers, self.row_lists = self._sizes(meta.ids), meta.numbers, self._sizes(meta.lists)
        self.item_ids, self.item_numbers = self._sizes(meta.item_ids), meta.item_numbers
        self.item_lists, self.text_columns = self._sizes(meta.item_lists), self._sizes(meta.item_text)
        self.of_log, self.spaces = meta.of_log, meta.space_of
        self.actions = self._sizes((ACTION,))[ACTION] if meta.has_histories else 0
        self.max_history = meta.max_history
        self.image_vocabulary_size = self._sizes((IMAGE,))[IMAGE] if meta.has_images else 0
        self.has_images = self.image_vocabulary_size > 1
        self.hash, self.extends, self.has_held_out = meta.samples_hash, meta.extends, meta.has_held_out
        self.hold_out_seed = meta.hold_out_seed
        self.unseen: dict[str, Int64Array] = {}
        self._columns = RowColumns(self.labels, meta.ids, meta.numbers, meta.lists, meta.has_histories)

    @property
    def id_columns(self) -> dict[str, int]:
        """Every id column, of users, impressions and items -> size of its vocabulary, place 0 included."""
        return self.row_ids | self.item_ids

    @cached_property
    def items(self) -> ItemTable:
        """What the items have; read at the first use."""
        images = self.vocabulary.values[IMAGE].cast(pa.int64()) if self._meta.has_images else []
        return ItemTable(self.folder, self._meta, KeyVocabulary(np.array(images, dtype=np.int64)))

    @cached_property
    def _frames(self) -> Frames:
        return Frames(self._meta, self._columns, self.items)

    def _sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        if absent := [name for name in names if name not in self.vocabulary.values]:
            raise self._damaged(f"The vocabulary has no column {absent[0]!r}, which it names")
        return {name: self.vocabulary.size(name) for name in names}

    def _damaged(self, what: str) -> BadInput:
        return BadInput(
            f"{self.folder / META_FILE} and the files beside it do not belong together: a file is damaged. {what}. "
            f"Copy the folder again, or run 'features build' again."
        )

    def _files(self, split: str) -> SplitFiles:
        return SplitFiles(self.folder, split, self._meta.build, histories=self._columns.histories)

    def rows(self, split: str) -> int:
        """Number of rows of a split."""
        with self._files(split) as files:
            return files.rows

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that hold the samples of all splits, histories and items included."""
        return sum((self.folder / name).stat().st_size for name in self._file_names)

    @property
    def _file_names(self) -> list[str]:
        return sample_files(histories=self._columns.histories)

    def item_counts(self) -> Int64Array:
        """How often each item is the target of a training row, by the item's place, shape (items + 1,)."""
        return self.vocabulary.counts[ITEM]

    def occurrences(self) -> dict[str, Int64Array]:
        """How often each place occurs in the training rows, as target, in histories, or as a token of the target.

        Reads the training part once. An image that is null or not in its vocabulary counts for place 0.

        Returns:
            vocabulary name (id and list columns, ``action``, text columns, ``image_id``) -> shape (size,).
        """
        sizes = self.id_columns | self.row_lists | self.item_lists | self.text_columns
        sizes |= {ACTION: self.actions} if self.actions else {}
        sizes |= {IMAGE: self.image_vocabulary_size} if self.image_vocabulary_size else {}
        with self._files("train") as files:
            return count_occurrences(files, self._columns, sizes, self.items)

    def stored(self, split: str) -> Iterator[StoredRows]:
        """The row groups of a split as the files hold them: all rows, and each behaviour once, not once a history."""
        with self._files(split) as files:
            for group in range(files.row_groups):
                yield files.read(group, self._columns.of_rows, self._columns.of_behaviours)

    def frame(self, split: str, columns: list[str] | None = None) -> pa.Table:
        """Some columns of a whole split, or all of them, in file order.

        What an item has stands in each of its rows, ``image_id`` being its first image; histories are list columns.
        """
        return pa.concat_tables(self.frames(split, columns))

    def frames(self, split: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The same, one row group at a time, for splits that do not fit into memory."""
        with self._files(split) as files:
            for group in range(files.row_groups):
                yield self._frames.table(files, group, columns)

    def head(self, split: str, rows: int) -> list[dict[str, Any]]:
        """The first rows of a split as dictionaries."""
        found: list[dict[str, Any]] = []
        with self._files(split) as files:
            for group in range(files.row_groups):
                if len(found) < rows:
                    found += self._frames.table(files, group, None, rows - len(found)).to_pylist()
        return found

    def batches(
        self, split: str, batch_size: int, *, shuffle_seed: int | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """Every row of a split once, in batches of ``batch_size``; the last may be shorter.

        Args:
            split: ``train``, ``validation`` or ``test``.
            batch_size: rows in a batch.
            shuffle_seed: None keeps the order of the file. Else row groups come in a drawn order, some at a time, and
                rows are drawn from all of those: a row group holds few users, with all that they did, and batches from
                it alone would be alike. Memory holds ``SHUFFLE_BYTES`` of them, or one, whatever the size of the split.
            epoch: with the seed, draws another order.

        Raises:
            BadInput: ``batch_size`` is below 1, or there is no such split.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; a batch has 1 row or more.")
        columns = self._columns
        rng = None if shuffle_seed is None else np.random.default_rng([shuffle_seed, epoch])
        with self._files(split) as files:
            numbers = np.arange(files.row_groups)
            together = [[number] for number in numbers.tolist()]
            if rng is not None:
                windows = -(-files.row_groups // self._shuffled_together(files))
                together = [window.tolist() for window in np.array_split(rng.permutation(numbers), windows)]
            waiting: list[Batch] = []  # parts of the next batch
            for window in together:
                parts = [files.read(number, columns.of_rows, columns.of_behaviours) for number in window]
                group = RowGroup(columns, StoredRows.joined(parts), self.items)
                order = None if rng is None else rng.permutation(len(group))
                start = 0
                while start < len(group):
                    end = min(len(group), start + batch_size - sum(map(len, waiting)))
                    waiting.append(group.batch(slice(start, end) if order is None else order[start:end]))
                    start = end
                    if sum(map(len, waiting)) == batch_size:
                        yield concatenate(waiting)
                        waiting = []
            if waiting:
                yield concatenate(waiting)

    def _shuffled_together(self, files: SplitFiles) -> int:
        """How many row groups rows are drawn from at once: as many as fit into ``SHUFFLE_BYTES``.

        They are counted with full histories, and with what the items of both have.
        """
        image = bool(self.image_vocabulary_size)
        of_item = len(self.item_ids) + image
        of_row = len(self._columns.of_rows) - 1 + of_item + len(self.text_columns)
        of_behaviour = of_item + 2 if self._columns.histories else 0
        rows_per_group = -(-files.rows // max(1, files.row_groups))
        return max(1, SHUFFLE_BYTES // max(1, 8 * (of_row + self.max_history * of_behaviour) * rows_per_group))
